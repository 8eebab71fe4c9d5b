"""All shards together: versions, duplicates, the split, the files of the corpus, and the account of every paper.

In: the folders of finished shards, in the order of the plan. Out: train.jsonl, val.jsonl, rejects.jsonl, and the figures of
manifest.json. Three passes over the shards' items.jsonl, none over their texts but the one that copies them.

Papers are written in the order in which they were read, so nothing depends on who did which shard when.
"""

import contextlib
import functools
import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.cli import atomic_write
from data_prep.corpus_folder import REJECTS, TRAIN, VAL
from data_prep.dedup import SIGNATURE, Clusters, Leak, cluster, leak, split_of
from data_prep.metadata import MetadataIndex
from data_prep.records import CHARS_PER_TOKEN, REASONS, Rejection, json_line
from data_prep.shards import INDEX, ITEMS, RECORDS

# The funnel: stages in the paper's order, with the reasons that each can give. Every reason stands in one stage.
FUNNEL: dict[str, tuple[str, ...]] = {
    "metadata": ("no-source", "no-metadata", "bad-metadata", "category", "year", "licence", "withdrawn"),
    "version": ("older-version", "duplicate-id"),
    "archive": (
        *("corrupt-archive", "empty-archive", "too-large", "unknown-format", "encrypted", "withdrawn-source"),
        *("pdf-only", "postscript-only", "dvi-only", "html-only", "docx-only"),
    ),
    "extraction": ("no-tex", "includes-pdf"),
    "cleaning": ("no-text",),
    "length": ("too-short",),
    "language": ("language",),
    "benchmarks": ("contaminated",),
    "duplicates": ("exact-duplicate", "near-duplicate"),
    "our bugs": ("internal-error",),
}
STAGE_OF = {reason: stage for stage, reasons in FUNNEL.items() for reason in reasons}
NUM_SAMPLES = 3  # rejected papers named for each reason, chosen by a hash of their ids
LENGTH_BINS_CHARS = tuple(1_000 * edge for edge in (2, 5, 10, 20, 40, 60, 80, 100, 150, 200, 400, 1_000))


@dataclass(frozen=True)
class Options:
    """What decides the merge and nothing before it."""

    val_frac: float
    jaccard: float
    list_missing: bool


@dataclass(frozen=True)
class Decision:
    """What becomes of an e-print: written as `line` to train or val (`side`), or rejected (`rejection` is not None)."""

    item: dict[str, Any]
    rejection: Rejection | None
    side: str = ""
    line: bytes = b""


@dataclass
class Papers:
    """The kept documents of all shards, before duplicates go: where each lies, and what `cluster` wants to know."""

    ids: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    shard_numbers: "array[int]" = field(default_factory=lambda: array("l"))
    rows: "array[int]" = field(default_factory=lambda: array("l"))  # of the shard's records.jsonl and index.npz


def read_items(folder: Path) -> Iterator[dict[str, Any]]:
    """The e-prints of a shard in the order of reading."""
    with (folder / ITEMS).open("rb") as file:
        for line in file:
            yield json.loads(line)


def found_in_metadata(item: dict[str, Any]) -> bool:
    """Whether the metadata holds the e-print's id."""
    return item["num_versions"] is not None


def passes_metadata(item: dict[str, Any]) -> bool:
    """Whether the e-print got beyond the metadata filter."""
    return found_in_metadata(item) and STAGE_OF.get(item.get("reason", "")) != "metadata"


def given_version(item: dict[str, Any]) -> int:
    """The version in the file's name; without one the newest that the metadata knows, since arXiv's bulk tars hold that."""
    return int(item["version"] or item["num_versions"])


def resolve_versions(folders: Sequence[Path]) -> tuple[dict[int, Rejection], dict[str, int]]:
    """Which e-prints give way to another of the same id, by their place in the order of reading; and all ids with a place.

    The last version decides, even where it turns out to be withdrawn or broken; of one version given twice, a copy that is
    kept goes before one that is not, then the first.
    """
    place_of: dict[str, int] = {}
    versions, ranks = array("l"), array("l")  # a rank is twice the version, plus one if the e-print is kept
    losers: list[tuple[int, str]] = []
    for item in (item for folder in folders for item in read_items(folder)):
        place = len(versions)
        versions.append(given_version(item) if passes_metadata(item) else 0)
        ranks.append(2 * versions[-1] + ("reason" not in item))
        if not found_in_metadata(item):
            continue
        other = place_of.setdefault(item["id"], place)
        if other != place and passes_metadata(item):
            winner, loser = (place, other) if ranks[place] > ranks[other] else (other, place)
            place_of[item["id"]] = winner
            losers.append((loser, item["id"]))
    superseded: dict[int, Rejection] = {}
    for place, paper_id in losers:
        newest = versions[place_of[paper_id]]
        if versions[place] == newest:
            superseded[place] = Rejection("duplicate-id", f"version {newest} was given twice")
        else:
            superseded[place] = Rejection("older-version", f"version {newest} was given")
    return superseded, place_of


def gather(folders: Sequence[Path], superseded: dict[int, Rejection]) -> tuple[Papers, NDArray[Any]]:
    """The papers that all stages so far kept, and their signatures in the same order."""
    papers = Papers()
    place = 0
    for number, folder in enumerate(folders):
        row = 0
        for item in read_items(folder):
            if "reason" not in item:
                if place not in superseded:
                    papers.ids.append(item["id"])
                    papers.versions.append(given_version(item))
                    papers.shard_numbers.append(number)
                    papers.rows.append(row)
                row += 1
            place += 1
    signatures = np.empty(len(papers.ids), SIGNATURE)
    shard_numbers, rows = np.array(papers.shard_numbers), np.array(papers.rows)
    starts = np.searchsorted(shard_numbers, np.arange(len(folders) + 1))
    for folder, (start, end) in zip(folders, itertools.pairwise(starts), strict=True):
        with np.load(folder / INDEX) as index:
            signatures[start:end] = index["signatures"][rows[start:end]]
    return papers, signatures


class Texts:
    """The text of paper i, read from its shard when `cluster` asks for it."""

    def __init__(self, folders: Sequence[Path], papers: Papers) -> None:
        self.folders, self.papers = folders, papers
        self.offsets = functools.lru_cache(maxsize=256)(self._offsets)

    def _offsets(self, shard_number: int) -> NDArray[np.int64]:
        with np.load(self.folders[shard_number] / INDEX) as index:
            return np.asarray(index["offsets"])

    def __call__(self, number: int) -> str:
        shard_number = self.papers.shard_numbers[number]
        with (self.folders[shard_number] / RECORDS).open("rb") as file:
            file.seek(int(self.offsets(shard_number)[self.papers.rows[number]]))
            return str(json.loads(file.readline())["text"])


def check_leaks(folders: Sequence[Path], papers: Papers, sides: Sequence[str]) -> Leak:
    """How much of val stands in train, by the samples of 13-grams that the shards hold."""

    def samples(side: str) -> Iterator[NDArray[np.uint64]]:
        number = 0
        for shard_number, folder in enumerate(folders):
            with np.load(folder / INDEX) as index:
                hashes, offsets = index["leaks"], index["leak_offsets"]
            while number < len(papers.ids) and papers.shard_numbers[number] == shard_number:
                row = papers.rows[number]
                if sides[number] == side:
                    yield hashes[offsets[row] : offsets[row + 1]]
                number += 1

    val = list(samples("val"))
    offsets = np.concatenate([[0], np.cumsum([len(sample) for sample in val], dtype=np.int64)]).astype(np.int64)
    return leak(samples("train"), np.concatenate([np.zeros(0, np.uint64), *val]), offsets)


class Tally:
    """Counts of one group of papers (all, a year, a category): in and kept, bytes in, characters out."""

    def __init__(self) -> None:
        self.num_in = self.num_kept = self.bytes_in = self.chars_out = 0

    def add(self, item: dict[str, Any], kept: bool) -> None:
        """Count an e-print."""
        self.num_in += 1
        self.bytes_in += item["bytes"]
        if kept:
            self.num_kept += 1
            self.chars_out += item["chars"]

    def as_dict(self) -> dict[str, int]:
        """For the manifest."""
        return {"in": self.num_in, "kept": self.num_kept, "bytes_in": self.bytes_in, "chars_out": self.chars_out}


class Account:
    """The figures of the manifest while the files are written."""

    def __init__(self) -> None:
        self.total = Tally()
        self.years: dict[str, Tally] = {}
        self.categories: dict[str, Tally] = {}
        self.reasons: Counter[str] = Counter()
        self.reason_bytes: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.samples: dict[str, list[tuple[str, str, str]]] = {}

    def add(self, item: dict[str, Any], rejection: Rejection | None) -> None:
        """Count an e-print and its outcome."""
        for tally in (
            self.total,
            self.years.setdefault(str(item["year"] or "unknown"), Tally()),
            self.categories.setdefault(item["category"] or "unknown", Tally()),
        ):
            tally.add(item, rejection is None)
        if rejection is None:
            self.lengths[int(np.searchsorted(LENGTH_BINS_CHARS, item["chars"], side="right"))] += 1
            return
        self.reasons[rejection.reason] += 1
        self.reason_bytes[rejection.reason] += item["bytes"]
        order = hashlib.sha256(item["id"].encode("utf-8", "replace")).hexdigest()
        samples = self.samples.setdefault(rejection.reason, [])
        samples.append((order, item["id"], rejection.detail))
        samples.sort()
        del samples[NUM_SAMPLES:]

    def funnel(self) -> list[dict[str, Any]]:
        """One row for each stage: how many come in, how many go and why, how many archive bytes are left."""
        rows, num_left, bytes_left = [], self.total.num_in, self.total.bytes_in
        for stage, reasons in FUNNEL.items():
            dropped = {reason: self.reasons[reason] for reason in reasons if self.reasons[reason]}
            num_in, num_left = num_left, num_left - sum(dropped.values())
            bytes_left -= sum(self.reason_bytes[reason] for reason in dropped)
            rows.append({"stage": stage, "in": num_in, "dropped": dropped, "left": num_left, "bytes_left": bytes_left})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        edges = (0, *LENGTH_BINS_CHARS)
        return {
            "funnel": self.funnel(),
            "reasons": {reason: self.reasons[reason] for reason in REASONS if self.reasons[reason]},
            "samples": {
                reason: [{"id": paper_id, "detail": detail} for _, paper_id, detail in self.samples[reason]]
                for reason in REASONS
                if reason in self.samples
            },
            "years": {year: self.years[year].as_dict() for year in sorted(self.years)},
            "categories": {name: self.categories[name].as_dict() for name in sorted(self.categories)},
            "lengths": [{"from_chars": edge, "papers": self.lengths[number]} for number, edge in enumerate(edges)],
        }


class HashedFile:
    """A file being written, with the count and hash of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.num_lines = self.num_bytes = 0

    def write(self, line: bytes) -> None:
        """Append one line."""
        self.file.write(line)
        self.digest.update(line)
        self.num_lines += 1
        self.num_bytes += len(line)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {"lines": self.num_lines, "bytes": self.num_bytes, "sha256": self.digest.hexdigest()}


def decide(
    folders: Sequence[Path], superseded: dict[int, Rejection], papers: Papers, clusters: Clusters, sides: Sequence[str]
) -> Iterator[Decision]:
    """The decision on each e-print, in the order of reading."""
    place = number = 0  # among all e-prints, and among the papers that `cluster` saw
    for folder in folders:
        with (folder / RECORDS).open("rb") as records:
            for item in read_items(folder):
                rejection, line = superseded.get(place), b""
                place += 1
                if "reason" in item:
                    yield Decision(item, rejection or Rejection(item["reason"], item["detail"]))
                    continue
                line = records.readline()
                if not line.endswith(b"\n"):
                    raise RuntimeError(f"{folder} has fewer records than it says; delete that folder, then run again")
                if rejection is not None:
                    yield Decision(item, rejection)
                    continue
                yield Decision(item, clusters.rejection(number, papers.ids), sides[number], line)
                number += 1


def missing(metadata_folder: Path, given: dict[str, int]) -> Iterator[Decision]:
    """A rejection for each record that passes the metadata filter and for which no e-print was given."""
    index = MetadataIndex(metadata_folder)
    for paper_id in index.kept_ids():
        if paper_id not in given and (paper := index.find(paper_id)) is not None:
            item = {
                "id": paper_id,
                "version": None,
                "name": None,
                "bytes": 0,
                "year": paper.year,
                "category": paper.categories[0],
            }
            yield Decision(item, Rejection("no-source", "no e-print of this paper was given"))


def write_corpus(out: Path, decisions: Iterable[Decision]) -> tuple[Account, dict[str, Any]]:
    """Write the three files, whole or not at all; returns the figures, and lines, bytes and hash of each file."""
    account = Account()
    with contextlib.ExitStack() as stack:
        files = {
            name: HashedFile(stack.enter_context(atomic_write(out / name, "wb"))) for name in (TRAIN, VAL, REJECTS)
        }
        for decision in decisions:
            item, rejection = decision.item, decision.rejection
            account.add(item, rejection)
            if rejection is None:
                files[VAL if decision.side == "val" else TRAIN].write(decision.line)
            else:
                reject = {"id": item["id"], "version": item["version"], "name": item["name"]}
                files[REJECTS].write(
                    json_line(reject | {"reason": rejection.reason, "detail": rejection.detail}).encode()
                )
        num_in, num_kept, num_rejected = account.total.num_in, account.total.num_kept, account.reasons.total()
        num_lines = [files[name].num_lines for name in (TRAIN, VAL, REJECTS)]
        if num_in != num_kept + num_rejected or [num_kept, num_rejected] != [num_lines[0] + num_lines[1], num_lines[2]]:
            raise RuntimeError(
                f"{num_in} e-prints, {num_kept} kept, {num_rejected} rejected, but {num_lines} lines written"
            )
    return account, {name: file.as_dict() for name, file in files.items()}


def merge(out: Path, folders: Sequence[Path], metadata_folder: Path, options: Options) -> dict[str, Any]:
    """Write the corpus from finished shards; returns the manifest's figures. Memory: about 1,000 bytes per kept paper."""
    superseded, place_of = resolve_versions(folders)
    papers, signatures = gather(folders, superseded)
    clusters = cluster(signatures, papers.ids, papers.versions, Texts(folders, papers), threshold=options.jaccard)
    del signatures
    sides = [
        split_of(papers.ids[first], options.val_frac) if kept else "dropped"
        for first, kept in zip(clusters.first.tolist(), clusters.kept.tolist(), strict=True)
    ]
    leaks = check_leaks(folders, papers, sides)
    decisions = decide(folders, superseded, papers, clusters, sides)
    unseen = missing(metadata_folder, place_of) if options.list_missing else ()
    account, files = write_corpus(out, itertools.chain(decisions, unseen))
    total = account.total
    return {
        "papers": {
            "in": total.num_in,
            "kept": total.num_kept,
            "train": files[TRAIN]["lines"],
            "val": files[VAL]["lines"],
            "rejected": account.reasons.total(),
        },
        "bytes_in": total.bytes_in,
        "chars_out": total.chars_out,
        "tokens_out_estimated": round(total.chars_out / CHARS_PER_TOKEN),
        **account.as_dict(),
        "leak_check": leaks.sentence(),
        "num_ids_with_eprint": len(place_of),
        "files": files,
    }
