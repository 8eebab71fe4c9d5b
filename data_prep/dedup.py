"""Duplicates, the split, leaks and contamination: all that compares one document with others.

In: texts with ids. Out: which document each duplicate repeats, on which side of the train/val split a document falls, how
much of val is found again in train, which documents hold a benchmark's question.

    python data_prep/dedup.py --input clean.jsonl web.jsonl --out kept.jsonl --decontaminate gsm8k/test.jsonl.gz

Two passes, made for 1.5 million documents. `sign` turns a text into 280 bytes, in any number of processes and any order;
`cluster` takes all of these at once and asks a callable for the few texts whose real Jaccard similarity decides.

* Words are runs of letters and digits, case-folded, without LaTeX's layout commands: see words.py.
* Exact duplicates have the same words in the same order. Near duplicates have sets of word 5-grams whose Jaccard similarity
  is at least 0.8. Nothing is dropped on an estimate.
* Of duplicates the best is kept: newest version, then longest, then smallest id (arXiv ids in the order of their dates).
  Documents are visited from best to worst; one that is similar to a document already kept is dropped. So every dropped
  document is similar to a kept one, no two kept ones are similar, and the order of the input has no influence.
* The side of a kept document is decided by a hash of the id of its cluster's first paper: the oldest among itself and all
  that is similar to it. Papers that are added later are younger, so they move nothing.
"""

import functools
import gzip
import hashlib
import itertools
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import numpy as np
from numpy.typing import NDArray

from data_prep.cli import Parser, Progress, UserError, atomic_write, need_file, run
from data_prep.records import NEW_ID, OLD_ID, Rejection, json_line
from data_prep.words import (
    BASE,
    SHIFT,
    Hashes,
    HashTable,
    mixed,
    ngram_hashes,
    normalised_text,
    sorted_set,
    word_hashes,
)

NUM_PERM = 128  # slots of a signature; the standard error of an estimate at J = 0.8 is sqrt(0.8 * 0.2 / 128) = 0.035
SHINGLE_WORDS = 5
THRESHOLD = 0.8
BAND_SLOTS = 4  # 32 bands of 4 slots: a pair with J = 0.8 shares none of them with probability (1 - 0.8**4)**32 = 5e-8
LEAST_THRESHOLD = 0.6  # there it is 1%, and grows fast below
SCREEN_ERRORS = 4.0  # pairs whose estimate is this many standard errors under the threshold are not read again
BUCKET_BEST = 64  # in a bucket of more documents, each is compared with this many best ones: linear, not quadratic
OVERLAP_WORDS = 13  # for leaks and contamination, as GPT-3 (arXiv:2005.14165, appendix C)
SHORT_QUESTION_WORDS = 8  # GPT-3's smallest n; shorter questions say too little to be looked for
TELLING_WORDS, WHOLE_WORDS = 6, 4  # different words, in a 13-gram and in a question that is looked for whole
LEAK_SAMPLE = 64  # one 13-gram in 64 is compared for leaks, chosen by its hash: the same ones in every document

# What two documents are compared by: 280 bytes.
SIGNATURE = np.dtype(
    [
        ("slots", np.uint16, (NUM_PERM,)),  # MinHash of the shingles
        ("digest", np.uint64, (2,)),  # of all words in their order
        ("num_shingles", np.uint32),
        ("num_words", np.uint32),
    ]
)


# Signatures ---------------------------------------------------------------------------------------------------------------


def shingles(words: Hashes) -> Hashes:
    """The word 5-grams, in the order of the text; a text of fewer than five words is one shingle, an empty one has none."""
    return ngram_hashes(words, min(SHINGLE_WORDS, max(len(words), 1)))


def jaccard(left: Hashes, right: Hashes) -> float:
    """Shared / all shingles of two sets, sorted; 1.0 for two empty ones."""
    total = len(left) + len(right)
    if not total:
        return 1.0
    both = np.sort(np.concatenate([left, right]))
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (total - shared)


def minhash_slots(grams: Hashes) -> NDArray[np.uint16]:
    """The MinHash signature of a set of shingles, uint16 [NUM_PERM]: slots of two sets agree with probability J.

    Fast similarity sketching (Dahlgaard, Knudsen, Thorup, arXiv:1704.04370): each shingle is hashed into one slot, each slot
    keeps its smallest hash, and slots that stay empty are filled by hashing anew, until none is. That costs one hash for
    each shingle of a paper instead of 128, without the bias of copying slots from their neighbours. The low 16 bits of the
    smallest hash are stored: two sets agree by accident in one slot of 65,536.
    """
    empty = np.uint64(0xFFFFFFFFFFFFFFFF)
    best = np.full(NUM_PERM, empty)
    if not len(grams):
        return best.astype(np.uint16)
    slot_shift = np.uint64(64 - (NUM_PERM - 1).bit_length())
    np.minimum.at(best, grams >> slot_shift, grams)
    for round_number in range(1, NUM_PERM + 1):
        missing = np.flatnonzero(best == empty)
        if not len(missing):
            return best.astype(np.uint16)
        again = mixed(grams + np.uint64(round_number * BASE % (1 << 64)))
        fresh = np.full(NUM_PERM, empty)
        np.minimum.at(fresh, again >> slot_shift, again)
        best[missing] = fresh[missing]
    for slot in np.flatnonzero(best == empty):  # a handful of shingles: each takes part in each slot that is left
        best[slot] = mixed(grams + np.uint64((NUM_PERM + 1 + int(slot)) * BASE % (1 << 64))).min()
    return best.astype(np.uint16)


def sign(text: str, words: Hashes | None = None) -> Any:
    """The signature of a text: a scalar of dtype SIGNATURE. Collect them with `np.array(list, dtype=SIGNATURE)`.

    `words`, here and below, is `word_hashes(text)` where the caller has it already.
    """
    words = word_hashes(text) if words is None else words
    grams = shingles(words)
    signature = np.zeros(1, SIGNATURE)
    signature["slots"] = minhash_slots(grams)
    signature["digest"] = np.frombuffer(hashlib.blake2b(words.tobytes(), digest_size=16).digest(), np.uint64)
    signature["num_shingles"], signature["num_words"] = len(grams), len(words)
    return signature[0]


def estimated_jaccard(left: NDArray[np.uint16], right: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Share of equal slots of two arrays of signatures, [n, NUM_PERM] each -> float64 [n]."""
    return np.asarray((left == right).mean(axis=-1))


def to_datasketch(signature: Any) -> Any:
    """The signature as a `datasketch.LeanMinHash`, for its indexes (MinHashLSH, with or without Redis).

    Its `jaccard` counts equal slots, so it compares signatures of this file with one another, not with datasketch's own.
    """
    from datasketch import LeanMinHash

    return LeanMinHash(seed=1, hashvalues=signature["slots"].astype(np.uint64), scheme="legacy")


# Clusters -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clusters:
    """What `cluster` found out about n documents, all arrays [n], indices into the input.

    `duplicate_of`: int64, the kept document that this one repeats, itself if kept. `jaccard`: float32, their real similarity
    (1 for the kept). `exact`: bool, dropped with the very words of a kept one. `first`: int64, the first paper of
    the cluster, whose id decides the split.
    """

    duplicate_of: NDArray[np.int64]
    jaccard: NDArray[np.float32]
    exact: NDArray[np.bool_]
    first: NDArray[np.int64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """bool [n]: the documents that stay."""
        return np.asarray(self.duplicate_of == np.arange(len(self.duplicate_of)))

    def rejection(self, index: int, ids: Sequence[str]) -> Rejection | None:
        """None for a kept document, else why it goes, with the id of the one that stays."""
        other = int(self.duplicate_of[index])
        if other == index:
            return None
        if self.exact[index]:
            return Rejection("exact-duplicate", f"the words of {ids[other]}")
        return Rejection("near-duplicate", f"Jaccard {self.jaccard[index]:.3f} with {ids[other]}")


def id_order(paper_id: str) -> str:
    """A string that sorts ids by date: arXiv's by year and month, then number; others after them.

    'math/0303002' -> '200303 0303002 math/0303002', '1403.0037' -> '201403 1403.0037', 'thesis' -> '9999 thesis'.
    """
    if match := NEW_ID.fullmatch(paper_id):
        return f"20{paper_id[:4]} {match[1]}"
    if match := OLD_ID.fullmatch(paper_id):
        century = "19" if match[2][0] == "9" else "20"
        return f"{century}{match[2][:4]} {match[2]} {paper_id}"
    return f"9999 {paper_id}"


def ages(ids: Sequence[str]) -> NDArray[np.int64]:
    """0 for the oldest id, 1 for the next, as `id_order` has them; equal ids are of the same age. int64 [len(ids)]."""
    keys = [id_order(paper_id) for paper_id in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    age = np.empty(len(ids), np.int64)
    if order:
        age[order] = np.cumsum([0] + [keys[left] != keys[right] for left, right in itertools.pairwise(order)])
    return age


def cluster(
    signatures: NDArray[Any],
    ids: Sequence[str],
    versions: Sequence[int | None],
    text_of: Callable[[int], str],
    *,
    threshold: float = THRESHOLD,
) -> Clusters:
    """Find the exact and near duplicates among n documents.

    `signatures`: SIGNATURE [n], of the same texts that `text_of(index)` returns; it is asked only for candidates, grouped by
    the document that would be kept. The result does not depend on the order of the input, only on ids, versions and texts;
    of documents with equal ids and versions, the words decide.
    """
    everyone = np.arange(len(signatures))
    age = ages(ids)
    by_rank = best_first(signatures, age, versions)
    same = exact_groups(signatures["digest"], by_rank)
    oldest = everyone.copy()  # for the best of those with the same words, the oldest of them
    for index in np.flatnonzero(same != everyone):
        if age[index] < age[oldest[same[index]]]:
            oldest[same[index]] = index

    duplicate_of, similarity, first = same.copy(), np.ones(len(everyone), np.float32), oldest.copy()
    active = by_rank[(same[by_rank] == by_rank) & (signatures["num_shingles"][by_rank] > 0)]
    set_of = functools.lru_cache(maxsize=4)(
        lambda index: sorted_set(shingles(word_hashes(text_of(index))))
    )  # a book's: 8 MB

    def real(left: int, right: int) -> float:
        return jaccard(set_of(left), set_of(right))

    passed_over: list[
        tuple[int, int]
    ] = []  # dropped, so it drops nothing; but it may be the first of a kept one's cluster
    for left, right in candidates(signatures["slots"], active, threshold):
        if duplicate_of[left] != left:
            if age[oldest[left]] < age[oldest[right]]:
                passed_over.append((left, right))
        elif duplicate_of[right] == right or age[oldest[right]] < age[first[left]]:
            value = real(left, right)
            if value >= threshold and duplicate_of[right] == right:
                duplicate_of[right], similarity[right] = left, value
            if value >= threshold and age[oldest[right]] < age[first[left]]:
                first[left] = oldest[right]
    for left, right in passed_over:
        if duplicate_of[right] == right and age[oldest[left]] < age[first[right]] and real(left, right) >= threshold:
            first[right] = oldest[left]
    exact = (same != everyone) & (duplicate_of[same] == same)
    similarity[~exact] = similarity[same[~exact]]
    duplicate_of = duplicate_of[same]
    return Clusters(duplicate_of, similarity, exact, first[duplicate_of])


def best_first(signatures: NDArray[Any], age: NDArray[np.int64], versions: Sequence[int | None]) -> NDArray[np.int64]:
    """The documents in the order in which they are to be kept: newest version, most words, oldest id; then by their words."""
    newest = np.array([version or 0 for version in versions], dtype=np.int64)
    digests = signatures["digest"]
    return np.lexsort((digests[:, 1], digests[:, 0], age, -signatures["num_words"].astype(np.int64), -newest))


def exact_groups(digests: Hashes, by_rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each document the best one with the same digest (uint64 [n, 2]), int64 [n]; itself where it is the best."""
    ranked = digests[by_rank]
    order = by_rank[np.lexsort((ranked[:, 1], ranked[:, 0]))]  # stable: within a digest, best first
    ordered = digests[order]
    starts = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(order)]
    same = np.empty(len(order), np.int64)
    same[order] = order[starts][np.cumsum(starts) - 1]
    return same


def candidates(slots: NDArray[np.uint16], active: NDArray[np.int64], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of documents worth reading, (better, worse), ordered by the rank of the better, then of the worse.

    `active`: the documents to compare, best first. A band is four slots read as one uint64; a stable sort brings equal bands
    together, in rank order. A pair that shares a band is screened by its estimated similarity.
    """
    bands = slots.view(np.dtype(f"u{2 * BAND_SLOTS}"))
    least = threshold - SCREEN_ERRORS * (threshold * (1 - threshold) / NUM_PERM) ** 0.5
    found: list[Hashes] = []
    for band in range(bands.shape[1]):
        for left, right in band_pairs(bands[active, band]):
            close = np.concatenate(
                [
                    estimated_jaccard(slots[active[left[part]]], slots[active[right[part]]])
                    for part in (slice(start, start + 65536) for start in range(0, len(left), 65536))
                ]
            )
            keep = close >= least
            found.append(left[keep].astype(np.uint64) << SHIFT | right[keep].astype(np.uint64))
        if sum(map(len, found)) > 1 << 22 or band == bands.shape[1] - 1:
            found = [sorted_set(np.concatenate(found))] if found else []
    for pair in found[0].tolist() if found else ():
        yield int(active[pair >> 32]), int(active[pair & 0xFFFFFFFF])


def band_pairs(keys: Hashes) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Positions (smaller, larger) with equal keys, in pieces; of a key held by many, only pairs with its BUCKET_BEST smallest."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(order)])
    lengths = np.diff(np.append(starts, len(order)))
    for start, length in zip(starts[lengths > BUCKET_BEST], lengths[lengths > BUCKET_BEST], strict=True):
        members = order[start : start + length]
        left, right = np.repeat(members[:BUCKET_BEST], length), np.tile(members, BUCKET_BEST)
        yield left[left < right], right[left < right]
    usual = np.repeat((lengths > 1) & (lengths <= BUCKET_BEST), lengths)
    lefts = np.flatnonzero(usual)
    for distance in range(1, BUCKET_BEST):  # each document of a bucket with the next one, then with the one after that
        lefts = lefts[lefts + distance < len(order)]
        lefts = lefts[ordered[lefts] == ordered[lefts + distance]]
        if not len(lefts):
            break
        yield order[lefts], order[lefts + distance]


def split_of(first_id: str, val_frac: float) -> str:
    """'train' or 'val' for a cluster, from nothing but the id of its first paper: about `val_frac` of all are 'val'."""
    digest = hashlib.blake2b(first_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") < val_frac * (1 << 64) else "train"


# Leaks --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leak:
    """How much of val stands in train too. `overlap`: float64 [num_val], for each document the share of its 13-grams."""

    overlap: NDArray[np.float64]

    def sentence(self) -> str:
        """The check in one line, for people."""
        num = len(self.overlap)
        mean = float(self.overlap.mean()) if num else 0.0
        half = int(np.count_nonzero(self.overlap > 0.5))
        return f"leak check: of {num:,} val documents {half:,} share more than half of their 13-grams with train; mean share {mean:.2%}"


def leak_sample(text: str, words: Hashes | None = None) -> Hashes:
    """One in 64 of the text's 13-grams, sorted uint64 without repeats: what the leak check compares."""
    grams = ngram_hashes(word_hashes(text) if words is None else words, OVERLAP_WORDS)
    return sorted_set(grams[grams % np.uint64(LEAK_SAMPLE) == 0])


def leak(train: Iterable[Hashes], val: Hashes, val_offsets: NDArray[np.int64]) -> Leak:
    """Compare val with train: `train` in pieces of any size, `val` joined, document i at val[val_offsets[i]:val_offsets[i + 1]]."""
    wanted, where = np.unique(val, return_inverse=True)
    table, seen = HashTable(wanted), np.zeros(len(wanted), np.bool_)
    for piece in train:
        seen[table.find(piece)[1]] = True
    sums = np.append(0, np.cumsum(seen[where]))
    counts = np.diff(val_offsets)
    return Leak((sums[val_offsets[1:]] - sums[val_offsets[:-1]]) / np.maximum(counts, 1))


# Contamination ------------------------------------------------------------------------------------------------------------

# Where a benchmark's question stands in its record, by key, in the order in which they are looked for.
QUESTION_KEYS = ("question", "problem", "query", "context", "prompt", "goal", "sentence", "input", "text")
QUESTION_LABEL = re.compile(r"(?m)^\s*(?:Question|Passage|Answer|Q|A):[ \t]*")  # written by test harnesses


def benchmark_questions(path: Path) -> Iterator[tuple[str, str]]:
    """(name, question) of each record of a benchmark file: JSON lines or one JSON array, plain or gzipped.

    The question is the first of QUESTION_KEYS that the record holds; Winogrande's are `context_options`, each joined with its
    `continuation`. Raises UserError for a file that is neither, or a record without any.
    """
    data = need_file(path, "benchmark").read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
        records = (
            json.loads(text)
            if text.lstrip()[:1] == "["
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: a benchmark is JSON lines or a JSON array of objects ({error})") from None
    for number, record in enumerate(records, 1):
        questions = record_questions(record) if isinstance(record, Mapping) else []
        if not questions:
            raise UserError(f"{path}, record {number}: a question is needed under one of {', '.join(QUESTION_KEYS)}")
        for question in questions:
            yield f"{path.name}:{number}", question


def record_questions(record: Mapping[str, Any]) -> list[str]:
    """The question (or the variants of it) in a benchmark's record, without the harness's labels; empty if it has none."""
    if isinstance(record.get("context_options"), list):
        found = [f"{option} {record.get('continuation', '')}" for option in record["context_options"]]
    else:
        found = [record[key] for key in QUESTION_KEYS if isinstance(record.get(key), str)][:1]
    return [QUESTION_LABEL.sub("", text) for text in found]


def num_real_words(words: Sequence[str]) -> int:
    """How many different words of two letters or more there are, digits and symbols aside."""
    return len({word for word in words if len(word) > 1 and word.isalpha()})


class BenchmarkIndex:
    """The 13-grams of benchmark questions; a document that holds one is contaminated.

    Only 13-grams with TELLING_WORDS different words count: rows of a matrix of zeros or `1 2 3 4 5 6 7 8 9 10 11 12 13` stand
    in benchmarks as in papers, and prove nothing. A question without any, as one of 8 to 12 words, is looked for whole, by its
    first 8 words and then all of them, if WHOLE_WORDS of its words differ; all others are not looked for.
    `arrays` holds: `grams` uint64 [n], sorted, `gram_owners` int32 [n], the question of each; `heads`, `wholes` uint64 [m],
    `lengths`, `head_owners` int32 [m], the same for short questions, sorted by head; `names` str [num_questions], each
    `file:record`; `num_skipped` int, questions not looked for.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = dict(arrays)
        self.grams, self.heads = HashTable(self.arrays["grams"]), HashTable(self.arrays["heads"])

    @classmethod
    def build(cls, paths: Sequence[Path]) -> "BenchmarkIndex":
        """Read the files and index their questions: for 30,000 questions some seconds, then 20 MB."""
        names: list[str] = []
        grams: list[Hashes] = [np.zeros(0, np.uint64)]
        owners: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        short: list[tuple[int, int, int, int]] = []
        num_skipped = 0
        for name, question in itertools.chain.from_iterable(map(benchmark_questions, paths)):
            hashes, words = word_hashes(question), normalised_text(question).split(" ")
            runs = range(len(hashes) - OVERLAP_WORDS + 1)
            said = [num_real_words(words[start : start + OVERLAP_WORDS]) >= TELLING_WORDS for start in runs]
            if any(said):
                grams.append(ngram_hashes(hashes, OVERLAP_WORDS)[said])
                owners.append(np.full(len(grams[-1]), len(names), np.int32))
            elif len(hashes) >= SHORT_QUESTION_WORDS and num_real_words(words) >= WHOLE_WORDS:
                head, whole = (
                    int(ngram_hashes(hashes[:length], length)[0]) for length in (SHORT_QUESTION_WORDS, len(hashes))
                )
                short.append((head, whole, len(hashes), len(names)))
            else:
                num_skipped += 1
            names.append(name)
        unique, at = np.unique(np.concatenate(grams), return_index=True)
        heads, wholes, lengths, head_owners = zip(*sorted(short), strict=True) if short else ((), (), (), ())
        arrays: dict[str, NDArray[Any]] = {"grams": unique, "gram_owners": np.concatenate(owners)[at]}
        arrays |= {"heads": np.array(heads, np.uint64), "wholes": np.array(wholes, np.uint64)}
        arrays |= {"lengths": np.array(lengths, np.int32), "head_owners": np.array(head_owners, np.int32)}
        return cls(arrays | {"names": np.array(names, np.str_), "num_skipped": np.array(num_skipped)})

    def save(self, path: Path) -> None:
        """Write the index to an .npz file, for workers to load."""
        with atomic_write(path, "wb") as file:
            np.savez(file, **self.arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "BenchmarkIndex":
        """The index that `save` wrote."""
        with np.load(path) as arrays:
            return cls({name: arrays[name] for name in arrays.files})

    def sentence(self) -> str:
        """What is looked for, in one line for people."""
        num_grams, num_short = len(self.arrays["grams"]), len(self.arrays["heads"])
        return (
            f"{len(self.arrays['names']):,} benchmark questions: {num_grams:,} runs of {OVERLAP_WORDS} words, {num_short:,} short "
            f"questions whole, {int(self.arrays['num_skipped']):,} too short or without words"
        )

    def check(self, text: str, words: Hashes | None = None) -> Rejection | None:
        """None, or the rejection of a document that holds a question; its detail names the question."""
        words = word_hashes(text) if words is None else words
        owner = self.long_match(words)
        owner = self.short_match(words) if owner is None else owner
        if owner is None:
            return None
        return Rejection("contaminated", f"holds a question of {self.arrays['names'][owner]}")

    def long_match(self, words: Hashes) -> int | None:
        """The question of the document's first 13-gram that is in the index."""
        _, at = self.grams.find(ngram_hashes(words, OVERLAP_WORDS))
        return int(self.arrays["gram_owners"][at[0]]) if len(at) else None

    def short_match(self, words: Hashes) -> int | None:
        """The first short question that stands whole in the document."""
        positions, entries = self.heads.find(ngram_hashes(words, SHORT_QUESTION_WORDS))
        heads, wholes, lengths = (self.arrays[name] for name in ("heads", "wholes", "lengths"))
        for position, first in zip(positions.tolist(), entries.tolist(), strict=True):
            for entry in range(first, int(np.searchsorted(heads, heads[first], side="right"))):
                length = int(lengths[entry])
                if wholes[entry] in ngram_hashes(words[position : position + length], length):
                    return int(self.arrays["head_owners"][entry])
        return None


# Command line -------------------------------------------------------------------------------------------------------------


class Lines:
    """The records of JSON-lines files, by number, read again when asked for: memory holds where they lie, not their texts."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.places: list[tuple[int, int]] = []  # file number, byte offset

    def scan(self) -> Iterator[dict[str, Any]]:
        """All records, once, in order; from then on `line` knows them. UserError for a line without `id` and `text`."""
        for file_number, path in enumerate(self.paths):
            with need_file(path, "input").open("rb") as file:
                offset = 0
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        self.places.append((file_number, offset))
                        yield parse_record(line, f"{path}, line {number}")
                    offset += len(line)

    def line(self, index: int) -> bytes:
        """The bytes of a record's line."""
        file_number, offset = self.places[index]
        with self.paths[file_number].open("rb") as file:
            file.seek(offset)
            return file.readline()

    def text(self, index: int) -> str:
        """The text of a record."""
        return str(json.loads(self.line(index))["text"])


def parse_record(line: bytes, place: str) -> dict[str, Any]:
    """The record of a line; UserError where it is none."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("id"), str) or not isinstance(record.get("text"), str):
        raise UserError(f"{place}: an object with strings `id` and `text` is needed")
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """Drop duplicates and contaminated documents from JSON-lines files of records."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--input", type=Path, nargs="+", required=True, help="JSON lines with id, text and, if known, version"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the kept lines, unchanged; beside it <out>.rejects.jsonl"
    )
    parser.add_argument(
        "--jaccard", type=float, default=THRESHOLD, help="similarity of near duplicates (default: %(default)s)"
    )
    parser.add_argument(
        "--decontaminate", type=Path, nargs="+", default=[], help="benchmark files: JSON lines or array, or .gz"
    )
    args = parser.parse_args(argv)
    if not LEAST_THRESHOLD <= args.jaccard <= 1:
        raise UserError(
            f"--jaccard {args.jaccard}: from {LEAST_THRESHOLD} to 1 is needed; less similar pairs are missed"
        )
    index = BenchmarkIndex.build(args.decontaminate) if args.decontaminate else None
    if index:
        print(index.sentence(), file=sys.stderr)
    kept, rejects = drop(Lines(args.input), index, args.jaccard, args.out)
    print(
        f"in {kept + sum(rejects.values()):,}, kept {kept:,}"
        + "".join(f", {name} {num:,}" for name, num in sorted(rejects.items()))
    )
    return 0


def drop(lines: Lines, index: BenchmarkIndex | None, threshold: float, out: Path) -> tuple[int, Counter[str]]:
    """Write the kept records to `out` and the others' reasons beside it; returns the number kept and counts by reason."""
    signatures, ids, versions, found = [], [], [], []
    with Progress("sign", unit="documents") as progress:
        for record in lines.scan():
            ids.append(record["id"])
            versions.append(record.get("version"))
            found.append(index.check(record["text"]) if index else None)
            signatures.append(sign(record["text"]))
            progress.update()
    clean = [
        number for number, rejection in enumerate(found) if rejection is None
    ]  # a contaminated text takes no clean one with it
    clean_ids = [ids[number] for number in clean]
    clusters = cluster(
        np.array([signatures[number] for number in clean], SIGNATURE),
        clean_ids,
        [versions[number] for number in clean],
        lambda number: lines.text(clean[number]),
        threshold=threshold,
    )
    for place, number in enumerate(clean):
        found[number] = clusters.rejection(place, clean_ids)
    rejects_path = out.with_name(f"{out.name.removesuffix('.jsonl')}.rejects.jsonl")
    with atomic_write(out, "wb") as kept_file, atomic_write(rejects_path) as rejects_file:
        for number, rejection in enumerate(found):
            if rejection is None:
                kept_file.write(lines.line(number).rstrip(b"\r\n") + b"\n")
            else:
                rejects_file.write(
                    json_line({"id": ids[number], "reason": rejection.reason, "detail": rejection.detail})
                )
    counts = Counter(rejection.reason for rejection in found if rejection)
    return len(found) - counts.total(), counts


if __name__ == "__main__":
    run(main)
