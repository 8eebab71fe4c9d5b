"""Near-duplicate detection on one core: this repository against datasketch's loop and rensa, in one run.

    python benchmarks/dedup_throughput.py                  # the table, about 2 minutes
    python benchmarks/dedup_throughput.py --scale 1500000  # clustering so many signatures: time and memory

In: synthetic documents with words as frequent as in a language (Zipf), 5% of them exact copies and 15% edited ones of others,
edited so that true similarities spread over 0.6 to 1. Out, for each method: documents per CPU second from text to verdict,
memory over that of the texts, and the share of pairs dropped by bins of their true Jaccard similarity (word 5-grams, Python
sets). rensa is measured if it is installed (`pip install rensa`); nothing else here needs it.
"""

import gc
import itertools
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import numpy as np
from numpy.typing import NDArray

from data_prep.cli import Parser, run
from data_prep.dedup import NUM_PERM, SIGNATURE, cluster, sign

BINS = (0.0, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)
VOCABULARY_SIZE = 50_000
THRESHOLD = 0.8
Found = set[tuple[int, int]]  # (original, copy) pairs of which the copy was dropped


# Documents ----------------------------------------------------------------------------------------------------------------


def vocabulary(rng: np.random.Generator) -> NDArray[np.str_]:
    """Distinct made-up words of 2 to 11 letters."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return np.array(
        [f"{''.join(rng.choice(letters, rng.integers(1, 8)))}{number:x}" for number in range(VOCABULARY_SIZE)]
    )


def documents(num: int, num_words: int, seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Texts, and the pairs (original, copy) planted among them: each copy follows its original."""
    rng = np.random.default_rng(seed)
    words = vocabulary(rng)
    weights = 1 / np.arange(1, VOCABULARY_SIZE + 1)
    cumulated = np.cumsum(weights / weights.sum())
    texts: list[str] = []
    pairs: list[tuple[int, int]] = []
    drawn = np.zeros(0, np.int64)
    for number in range(num):
        kind = rng.random()
        if kind < 0.2 and number % 2:
            copy = drawn.copy()
            if kind < 0.15:
                edits = rng.integers(0, len(copy), max(round(rng.uniform(0.002, 0.055) * len(copy)), 1))
                copy[edits] = rng.integers(0, VOCABULARY_SIZE, len(edits))
            pairs.append((number - 1, number))
            texts.append(" ".join(words[copy]))
        else:
            drawn = np.searchsorted(cumulated, rng.random(num_words))
            texts.append(" ".join(words[drawn]))
    return texts, pairs


def true_jaccard(left: str, right: str) -> float:
    """Similarity of the sets of word 5-grams."""
    first, second = set(grams(left)), set(grams(right))
    return len(first & second) / len(first | second)


def grams(text: str) -> list[str]:
    """The word 5-grams as strings, which is how MinHash libraries take them."""
    words = text.split()
    return [" ".join(words[start : start + 5]) for start in range(len(words) - 4)]


# Methods ------------------------------------------------------------------------------------------------------------------


def ours(texts: Sequence[str]) -> Found:
    """`sign` and `cluster`."""
    signatures = np.empty(len(texts), SIGNATURE)
    for number, text in enumerate(texts):
        signatures[number] = sign(text)
    ids = [f"{number:09d}" for number in range(len(texts))]
    found = cluster(signatures, ids, [None] * len(texts), texts.__getitem__)
    dropped = np.flatnonzero(~found.kept)
    return {(min(a, b), max(a, b)) for a, b in zip(found.duplicate_of[dropped].tolist(), dropped.tolist(), strict=True)}


def datasketch_loop(texts: Sequence[str]) -> Found:
    """datasketch as its documentation has it: query the index, insert if nothing came back; signatures by update_batch."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM)
    found: Found = set()
    for number, text in enumerate(texts):
        signature = MinHash(num_perm=NUM_PERM)
        signature.update_batch([gram.encode() for gram in grams(text)])
        hits = index.query(signature)
        found |= {(int(hit), number) for hit in hits}
        if not hits:
            index.insert(number, signature)
    return found


def rensa_loop(texts: Sequence[str]) -> Found:
    """The same loop with rensa, whose index gives candidates; they count if the signatures' estimate is 0.8 or more."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(THRESHOLD, NUM_PERM, 16)
    signatures: dict[int, Any] = {}
    found: Found = set()
    for number, text in enumerate(texts):
        signature = RMinHash(NUM_PERM, 1)
        signature.update(grams(text))
        hits = [hit for hit in index.query(signature) if signatures[hit].jaccard(signature) >= THRESHOLD]
        found |= {(int(hit), number) for hit in hits}
        if not hits:
            index.insert(number, signature)
            signatures[number] = signature
    return found


def methods() -> Iterator[tuple[str, Callable[[Sequence[str]], Found]]]:
    """Those that are installed."""
    yield "this repository", ours
    yield "datasketch 2.0, its loop", datasketch_loop
    try:
        import rensa  # noqa: F401
    except ImportError:
        print("rensa is not installed: left out (pip install rensa)", file=sys.stderr)
    else:
        yield "rensa 0.5, 16 bands", rensa_loop


# Measuring ----------------------------------------------------------------------------------------------------------------


def memory_kib(key: str) -> int:
    """A figure of /proc/self/status: VmRSS now, VmHWM the most since the last `reset_peak`."""
    match = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) if match else 0


def reset_peak() -> None:
    """Let VmHWM start anew from the present size."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def measured(work: Callable[[], Any]) -> tuple[Any, float, int]:
    """(result, CPU seconds, bytes of memory over the present) of some work, in a forked process of its own."""

    def child(sender: Any) -> None:
        reset_peak()
        before_kib, started_s = memory_kib("VmRSS"), time.process_time()
        result = work()
        sender.send((result, time.process_time() - started_s, 1024 * (memory_kib("VmHWM") - before_kib)))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender,))
    process.start()
    sender.close()
    result: tuple[Any, float, int] = receiver.recv()
    process.join()
    return result


def recall_row(found: Found, pairs: Sequence[tuple[int, int]], similarities: NDArray[np.float64]) -> list[str]:
    """The share of planted pairs that were dropped, for each bin and for exact copies."""
    dropped = np.array([pair in found for pair in pairs])
    cells = []
    for low, high in itertools.pairwise(BINS):
        inside = (similarities >= low) & (similarities < high)
        cells.append(f"{dropped[inside].mean():.1%}" if inside.any() else "–")
    return [*cells, f"{dropped[similarities == 1].mean():.1%}"]


def table(num: int, num_words: int) -> None:
    """Print the table for documents of one length."""
    texts, pairs = documents(num, num_words, seed=num_words)
    similarities = np.array([true_jaccard(texts[left], texts[right]) for left, right in pairs])
    planted = set(pairs)
    bins = [f"J {low:.2f}-{high:.2f}" if low else f"J < {high:.2f}" for low, high in itertools.pairwise(BINS)]
    counts = [
        int(np.count_nonzero((similarities >= low) & (similarities < high))) for low, high in itertools.pairwise(BINS)
    ]
    counts.append(int(np.count_nonzero(similarities == 1)))
    print(
        f"\n{num:,} documents of {num_words:,} words, {len(pairs):,} planted pairs; share of pairs dropped, by true Jaccard\n"
    )
    print(
        "| method | documents / CPU s | memory, B / document | "
        + " | ".join([*bins, "exact"])
        + " | unrelated dropped |"
    )
    print("|---|" + "---|" * (len(bins) + 4))
    for name, method in methods():
        found, cpu_s, growth_bytes = measured(lambda method=method: method(texts))  # type: ignore[misc]
        cells = [
            f"{num / cpu_s:,.0f}",
            f"{growth_bytes / num:,.0f}",
            *recall_row(found, pairs, similarities),
            str(len(found - planted)),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("| pairs | | | " + " | ".join(f"{count:,}" for count in counts) + " | |")


# Scale --------------------------------------------------------------------------------------------------------------------


class Families:
    """Texts of 500 words in families of three, the second and third edited, each made again from its number when asked for."""

    def __init__(self) -> None:
        self.words = vocabulary(np.random.default_rng(0))

    def __call__(self, number: int) -> str:
        drawn = np.random.default_rng(number // 3).integers(0, VOCABULARY_SIZE, 500)
        rng = np.random.default_rng((number, 1))
        drawn[rng.integers(0, 500, 5 * (number % 3))] = rng.integers(0, VOCABULARY_SIZE, 5 * (number % 3))
        return " ".join(self.words[drawn])


def scale(num: int) -> None:
    """Cluster `num` signatures: a tenth of them of real texts in families of three, the others random, like unrelated papers'."""
    rng, texts = np.random.default_rng(1), Families()
    num_real = num // 10 // 3 * 3
    signatures = np.empty(num, SIGNATURE)
    signatures["slots"] = rng.integers(0, 1 << 16, (num, NUM_PERM), dtype=np.uint16)
    signatures["digest"] = rng.integers(0, 1 << 63, (num, 2), dtype=np.uint64)
    signatures["num_shingles"] = signatures["num_words"] = 500
    started_s = time.process_time()
    for number in range(num_real):
        signatures[number] = sign(texts(number))
    print(
        f"{num_real:,} texts of 500 words made and signed in {time.process_time() - started_s:.0f} CPU s",
        file=sys.stderr,
    )
    ids = [f"{number // 10000 % 2000:04d}.{number:07d}" for number in range(num)]
    num_reads = 0

    def text_of(number: int) -> str:
        nonlocal num_reads
        num_reads += 1
        return texts(number)

    def work() -> tuple[int, int]:
        kept = cluster(signatures, ids, [1] * num, text_of).kept
        return int(kept.sum()), num_reads

    (num_kept, reads), cpu_s, growth_bytes = measured(work)
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{num:,} signatures clustered in {cpu_s:.0f} CPU s, {reads:,} texts read again for verification included")
    print(f"kept {num_kept:,}, expected {num - num_real // 3 * 2:,}")
    print(
        f"memory: signatures {SIGNATURE.itemsize} + clustering {growth_bytes / num:.0f} B / document; peak of the process "
        f"{peak_bytes / 1e9:.2f} GB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or the figures at scale."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scale", type=int, help="cluster this many signatures instead")
    parser.add_argument("--num-long", type=int, default=1_500, help="documents of 8,000 words (default: %(default)s)")
    parser.add_argument("--num-short", type=int, default=40_000, help="documents of 500 words (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.scale is not None:
        scale(args.scale)
        return 0
    table(args.num_short, 500)
    table(args.num_long, 8_000)
    return 0


if __name__ == "__main__":
    run(main)
