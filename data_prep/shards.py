"""One shard of the corpus: a bulk tar, or a bounded group of loose archives, read once and judged paper by paper.

In: a Shard (which files) and a Job (what holds for all shards: thresholds, the metadata's index, the benchmarks' index).
Out: a folder `<shard name>-<key>` with items.jsonl (one line per e-print, in the order of reading: its outcome),
records.jsonl (the papers kept so far), index.npz (where each record lies, and what the search for duplicates needs of it)
and cost.json (CPU seconds by stage, peak memory). The folder appears whole, by a rename; a kill leaves a `.partial`.

What a shard cannot know alone (another version of a paper, a duplicate in another shard) is for merge.py.
"""

import contextlib
import functools
import gc
import hashlib
import json
import os
import resource
import shutil
import sys
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.archives import (
    TAR_BLOCK_BYTES,
    BrokenSource,
    Eprint,
    files_below,
    is_archive_name,
    is_bulk_tar,
    iter_eprints,
)
from data_prep.cli import UserError
from data_prep.dedup import SIGNATURE, BenchmarkIndex, leak_sample, sign
from data_prep.extraction import extract_source
from data_prep.filters import Limits, check_language, check_length
from data_prep.latex_cleaner import clean_latex
from data_prep.metadata import MetadataIndex, Paper
from data_prep.records import Record, Rejection, json_line
from data_prep.words import word_hashes

# A group of loose archives is closed at either bound: small enough that a kill costs seconds, large enough that the
# files of the shards stay few (2.7 million loose archives would make 27,000 shards).
GROUP_ARCHIVES, GROUP_BYTES = 100, 256 * 2**20
STAGES = ("read", "metadata", "extract", "clean", "language", "benchmarks", "sign", "write")
ITEMS, RECORDS, INDEX, COST = "items.jsonl", "records.jsonl", "index.npz", "cost.json"


class Interrupted(Exception):
    """Raised between two papers when the run was asked to stop; the shard's unfinished folder is gone."""


GC_ALLOCATIONS = (
    100_000  # between searches for cycles: cleaning makes none (tests/test_latex_cleaner.py), and each search costs
)


@dataclass(frozen=True)
class Shard:
    """Which archives, in the order in which they are read. `key` stands for all that decides the shard's bytes."""

    name: str
    sources: tuple[Path, ...]
    num_bytes: int
    key: str
    is_bulk: bool
    max_items: int | None  # of a run with --limit; None: all

    @property
    def folder_name(self) -> str:
        """The shard's folder below the run's shards/."""
        return f"{self.name}-{self.key}"


@dataclass(frozen=True)
class Job:
    """What holds for all shards of a run. `benchmarks` is the index of --decontaminate; None: off."""

    shards_folder: Path
    metadata_folder: Path
    limits: Limits
    keep_captions: bool
    benchmarks: Path | None


@dataclass(frozen=True)
class Done:
    """What the driver hears of a finished shard."""

    name: str
    num_items: int
    num_kept: int


# Planning -----------------------------------------------------------------------------------------------------------------


def archive_files(sources: Sequence[Path]) -> list[Path]:
    """All archives named or below the named folders, each once, sorted by name; UserError for a source without any."""
    files: dict[Path, Path] = {}
    for source in sources:
        if not source.exists():
            raise UserError(f"source {source} does not exist; --sources takes archives, folders of them and bulk tars")
        found = files_below(source)
        if not found:
            raise UserError(
                f"source {source} holds no archive; --sources takes archives, folders of them and bulk tars"
            )
        for path in found:
            files.setdefault(path.resolve(), path)
    return sorted(files.values(), key=lambda path: (path.name, path.as_posix()))


def holds_eprints(path: Path) -> bool:
    """Whether a file is a bulk tar, by its first header; a paper may be a plain tar, too. UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return is_bulk_tar(path, file.read(8 * TAR_BLOCK_BYTES))
    except OSError as error:
        raise UserError(f"source {path} cannot be read ({error.strerror}); mend or remove it") from None


def groups(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Loose archives in groups bounded by GROUP_ARCHIVES and GROUP_BYTES."""
    group: list[Path] = []
    num_bytes = 0
    for path in files:
        size_bytes = path.stat().st_size
        if group and (len(group) == GROUP_ARCHIVES or num_bytes + size_bytes > GROUP_BYTES):
            yield tuple(group)
            group, num_bytes = [], 0
        group.append(path)
        num_bytes += size_bytes
    if group:
        yield tuple(group)


def count_items(bulk_tar: Path) -> int:
    """How many e-prints a bulk tar holds, by the standard library's reader, from its headers alone."""
    count = 0
    with contextlib.suppress(tarfile.TarError, OSError, EOFError), tarfile.open(bulk_tar) as tar:
        for member in tar:
            count += member.isfile() and is_archive_name(Path(member.name).name)
    return count


def plan_shards(sources: Sequence[Path], job_key: str, limit: int | None) -> list[Shard]:
    """The shards of a run in their fixed order: bulk tars by name, then groups of loose archives by name.

    `job_key` stands for the flags, code and metadata that decide a paper's outcome; a shard's key adds its archives'
    names, sizes and times of change, so that a shard is done again exactly when one of these differs.
    """
    files = archive_files(sources)
    bulk = {path for path in files if holds_eprints(path)}
    units: list[tuple[str, tuple[Path, ...]]] = [(path.stem, (path,)) for path in files if path in bulk]
    loose = groups([path for path in files if path not in bulk])
    units += [(f"loose_{number:05d}", group) for number, group in enumerate(loose, 1)]
    shards: list[Shard] = []
    same_name = Counter[str]()
    for name, group in units:
        max_items = None
        if limit is not None:
            if limit <= 0:
                break
            max_items, limit = limit, limit - (count_items(group[0]) if group[0] in bulk else len(group))
        states = [path.stat() for path in group]
        stamps = [(path.name, state.st_size, state.st_mtime_ns) for path, state in zip(group, states, strict=True)]
        same_name[name] += 1  # one tar given from two folders is two shards
        key = hashlib.sha256(json.dumps([job_key, same_name[name], max_items, stamps]).encode()).hexdigest()[:16]
        shards.append(Shard(name, group, sum(state.st_size for state in states), key, group[0] in bulk, max_items))
    return shards


# One paper ----------------------------------------------------------------------------------------------------------------


class StageClock:
    """CPU seconds by stage: `lap(stage)` books the time since the last lap."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.last_s = time.process_time()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap to `stage`."""
        now_s = time.process_time()
        self.seconds[stage] += now_s - self.last_s
        self.last_s = now_s


@dataclass(frozen=True)
class Kept:
    """A paper that all stages kept: its record as a line, the characters of its text, and what is compared with other papers."""

    line: bytes
    num_chars: int
    signature: np.void
    leak_sample: NDArray[np.uint64]


def judge(
    eprint: Eprint, paper: Paper | None, job: Job, benchmarks: BenchmarkIndex | None, clock: StageClock
) -> Kept | Rejection:
    """All stages that look at one paper alone, in the order of the funnel: the paper, or the first reason against it."""
    if paper is None:
        return Rejection("no-metadata", f"{eprint.id} is not in the metadata")
    if paper.rejection is not None:
        return paper.rejection
    extracted = extract_source(eprint.data, eprint.name)
    clock.lap("extract")
    if isinstance(extracted, Rejection):
        return extracted
    cleaned = clean_latex(extracted.source, keep_captions=job.keep_captions)
    clock.lap("clean")
    if isinstance(cleaned, Rejection):
        return cleaned
    rejection = check_length(cleaned.text, job.limits)
    rejection = rejection or check_language(paper.title, paper.abstract, cleaned.text, job.limits)
    clock.lap("language")
    if rejection is not None:
        return rejection
    words = word_hashes(cleaned.text)
    clock.lap("sign")
    if benchmarks is not None:
        rejection = benchmarks.check(cleaned.text, words)
        clock.lap("benchmarks")
    if rejection is not None:
        return rejection
    signature, sample = sign(cleaned.text, words), leak_sample(cleaned.text, words)
    clock.lap("sign")
    record: Record = {
        "id": eprint.id,
        "version": eprint.version,
        "source": "arxiv",
        "title": paper.title or cleaned.title,
        "abstract": paper.abstract or cleaned.abstract,
        "text": cleaned.text,
        "categories": paper.categories,
        "year": paper.year,
        "licence": paper.licence,
        "doi": paper.doi,
        "journal_ref": paper.journal_ref,
        "parts": cleaned.parts,
        "warnings": [*extracted.warnings, *cleaned.warnings],
    }
    return Kept(json_line(record).encode(), len(cleaned.text), signature, sample)


def judge_safely(
    eprint: Eprint, paper: Paper | None, job: Job, benchmarks: BenchmarkIndex | None, clock: StageClock
) -> Kept | Rejection:
    """`judge`, at the boundary that no paper's trouble crosses: a bug of ours costs one paper and is named in its reject."""
    try:
        return judge(eprint, paper, job, benchmarks, clock)
    except Exception as error:  # noqa: BLE001  (the repository's only one)
        return Rejection("internal-error", describe(error))


def describe(error: BaseException) -> str:
    """An exception as one line that is the same on any machine: its type, message, and the place that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, {frame.name})"[:500]


# One shard ----------------------------------------------------------------------------------------------------------------


class ShardWriter:
    """The files of a shard while they grow; one call of `add` per e-print."""

    def __init__(self, items: IO[str], records: IO[bytes]) -> None:
        self.items, self.records = items, records
        self.num_items = 0
        self.offsets = [0]
        self.signatures: list[np.void] = []
        self.leaks: list[NDArray[np.uint64]] = []

    def add(self, item: dict[str, Any], outcome: Kept | Rejection) -> None:
        """Write an e-print's line and, if it is kept, its record."""
        self.num_items += 1
        if isinstance(outcome, Rejection):
            item |= {"reason": outcome.reason, "detail": plain(outcome.detail)}
        else:
            item["chars"] = outcome.num_chars
            self.records.write(outcome.line)
            self.offsets.append(self.offsets[-1] + len(outcome.line))
            self.signatures.append(outcome.signature)
            self.leaks.append(outcome.leak_sample)
        self.items.write(json_line(item))

    def write_index(self, path: Path) -> None:
        """Where records lie (int64 [n + 1] bytes), their signatures [n], and their leak samples, joined, with offsets."""
        lengths = [len(sample) for sample in self.leaks]
        np.savez(
            path,
            offsets=np.array(self.offsets, np.int64),
            signatures=np.array(self.signatures, SIGNATURE),
            leaks=np.concatenate([np.zeros(0, np.uint64), *self.leaks]),
            leak_offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        )


def plain(text: str) -> str:
    """Text that can be written as UTF-8: names of files and members may hold bytes that are none, which become \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def item_line(eprint: Eprint, shard: Shard, paper: Paper | None) -> dict[str, Any]:
    """What is told of every e-print: id, version, where it lies (file, or tar and member), bytes, category and year."""
    place = Path(eprint.name)
    for source in shard.sources:
        if place.is_relative_to(source.parent):
            place = place.relative_to(source.parent)
            break
    return {
        "id": plain(eprint.id),
        "version": eprint.version,
        "name": plain(place.as_posix()),
        "bytes": len(eprint.data),
        "year": paper.year if paper else None,
        "category": paper.categories[0] if paper and paper.categories else None,
        "num_versions": paper.num_versions if paper else None,
    }


@functools.lru_cache(maxsize=1)
def load_benchmarks(path: Path) -> BenchmarkIndex:
    """The index of --decontaminate, which the driver built; read once per process."""
    return BenchmarkIndex.load(path)


def judge_all(job: Job, shard: Shard, writer: ShardWriter, clock: StageClock, should_stop: Callable[[], bool]) -> None:
    """Read the shard's archives one after the other; every one leaves a line in items.jsonl, or a RuntimeError is raised."""
    index = MetadataIndex(job.metadata_folder)
    benchmarks = load_benchmarks(job.benchmarks) if job.benchmarks else None
    is_whole = shard.max_items is None
    for item in iter_eprints(shard.sources):
        clock.lap("read")
        if should_stop():
            raise Interrupted
        if shard.max_items is not None and writer.num_items >= shard.max_items:
            break
        if isinstance(item, BrokenSource):
            is_whole = False
            writer.add(broken_line(item), Rejection("corrupt-archive", item.detail))
            continue
        paper = index.find(item.id)
        clock.lap("metadata")
        outcome = judge_safely(item, paper, job, benchmarks, clock)
        writer.add(item_line(item, shard, paper), outcome)
        clock.lap("write")
    expected = sum(count_items(source) if shard.is_bulk else 1 for source in shard.sources)
    if is_whole and writer.num_items < expected:
        raise RuntimeError(f"{shard.name} holds {expected} archives, {writer.num_items} were read: papers were lost")
    clock.lap("read")


def broken_line(broken: BrokenSource) -> dict[str, Any]:
    """What is told of the rest of a bulk tar that cannot be read to its end."""
    name = plain(Path(broken.path).name)
    return {"id": name, "version": None, "name": name, "bytes": 0, "year": None, "category": None, "num_versions": None}


def process_shard(job: Job, shard: Shard, should_stop: Callable[[], bool] = lambda: False) -> Done:
    """Do one shard, unless its folder is there. Raises Interrupted, and OSError for a disk that is full or fails."""
    gc.set_threshold(GC_ALLOCATIONS)
    final = job.shards_folder / shard.folder_name
    partial = final.with_name(f"{final.name}.{os.uname().nodename}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        clock = StageClock()
        with (
            (partial / ITEMS).open("w", encoding="utf-8", newline="\n") as items,
            (partial / RECORDS).open("wb") as records,
        ):
            writer = ShardWriter(items, records)
            judge_all(job, shard, writer, clock, should_stop)
        writer.write_index(partial / INDEX)
        clock.lap("write")
        (partial / COST).write_text(json.dumps({"cpu_seconds": clock.seconds, "peak_rss_bytes": peak_rss_bytes()}))
        sync_files(partial)
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # else another process did the same shard and was first; the bytes are the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Done(shard.name, writer.num_items, len(writer.signatures))


def peak_rss_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sync_files(folder: Path) -> None:
    """Have the files of a folder on disk before it gets its final name."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def shard_is_done(job: Job, shard: Shard) -> bool:
    """Whether the shard's folder is there; it appears by a rename, so it is whole."""
    return (job.shards_folder / shard.folder_name).is_dir()
