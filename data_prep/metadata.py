"""The metadata join: arXiv's snapshot, read once, turned into small sorted files that any worker looks into by id.

In: arXiv's metadata in the form of the Kaggle snapshot (JSON lines, plain or .gz; a 5 GB file of 2.7 million records).
Out: a folder of `<yymm>.tsv` files, sorted by id, one line per paper: id, the reason for which the metadata filter rejects
it (empty: kept), JSON with what a record keeps of it; and `counts.json`, what was read, kept and odd.

Ids carry their year and month, so the records of one bulk tar lie in one or two of these files. A worker maps the file
and searches it by halves: it holds no record beyond the one that it asked for, and all workers share the page cache.
"""

import contextlib
import json
import mmap
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.cli import Progress, atomic_write
from data_prep.corpus_folder import sha256_file
from data_prep.filters import Census, Limits, category_names, check_metadata, first_year, read_metadata
from data_prep.records import Rejection

YYMM_IN_ID = re.compile(r"(?:[a-z.A-Z-]+/)?(\d\d(?:0[1-9]|1[0-2]))\.?\d{3,5}")  # 1403.0037, math/0303002
OTHER_BUCKET = "other"  # ids that are no arXiv ids: made-up ones, one's own papers
BUFFER_BYTES = 64 * 2**20  # lines held before they are appended to their buckets
MAX_MAPS = 8  # a shard's ids lie in one or two months
COUNTS = "counts.json"


@dataclass(frozen=True)
class Paper:
    """What the metadata says of a paper, and whether the metadata filter keeps it (`rejection` is None)."""

    title: str
    abstract: str
    categories: list[str]
    year: int | None
    licence: str | None
    doi: str | None
    journal_ref: str | None
    num_versions: int
    rejection: Rejection | None


def bucket_of(paper_id: str) -> str:
    """The name of the file that holds an id: 'math/0303002' -> '0303', '1403.0037' -> '1403', 'thesis' -> 'other'."""
    match = YYMM_IN_ID.fullmatch(paper_id)
    return match[1] if match else OTHER_BUCKET


def one_line(value: object) -> str:
    """Text of a metadata field on one line: arXiv wraps titles and abstracts; lone surrogates (broken JSON) are dropped."""
    if not isinstance(value, str):
        return ""
    if not value.isascii():
        value = value.encode("utf-8", "ignore").decode()
    return " ".join(value.split())


def entry_line(paper_id: str, record: Mapping[str, Any], rejection: Rejection | None) -> str:
    """One line of a bucket. A rejected paper keeps only what accounting asks for: category, year, detail."""
    entry: dict[str, Any] = {
        "categories": [one_line(name) for name in category_names(record)],
        "year": first_year(record),
    }
    if rejection is not None:
        entry["detail"] = one_line(rejection.detail)
    else:
        versions = record.get("versions")
        entry |= {
            "title": one_line(record.get("title")),
            "abstract": one_line(record.get("abstract")),
            "licence": one_line(record.get("license")) or None,
            "doi": one_line(record.get("doi")) or None,
            "journal_ref": one_line(record.get("journal-ref")) or None,
            "num_versions": max(len(versions), 1) if isinstance(versions, list) else 1,
        }
    return f"{paper_id}\t{rejection.reason if rejection else ''}\t{to_json(entry)}\n"


to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def parse_entry(line: bytes) -> Paper:
    """What stands in a line of a bucket."""
    _, reason, content = line.split(b"\t", 2)
    entry = json.loads(content)
    return Paper(
        title=entry.get("title", ""),
        abstract=entry.get("abstract", ""),
        categories=entry["categories"],
        year=entry["year"],
        licence=entry.get("licence"),
        doi=entry.get("doi"),
        journal_ref=entry.get("journal_ref"),
        num_versions=entry.get("num_versions", 1),
        rejection=Rejection(reason.decode(), entry["detail"]) if reason else None,
    )


class Buckets:
    """Lines on their way into bucket files: held up to BUFFER_BYTES, then appended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, list[str]] = {}
        self.num_held_bytes = 0

    def add(self, paper_id: str, line: str) -> None:
        """Hold a line for its bucket."""
        self.held.setdefault(bucket_of(paper_id), []).append(line)
        self.num_held_bytes += len(line)
        if self.num_held_bytes > BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append the held lines to their files."""
        for bucket, lines in self.held.items():
            with (self.folder / f"{bucket}.unsorted").open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        self.held.clear()
        self.num_held_bytes = 0


def sort_bucket(unsorted: Path) -> tuple[int, Counter[str]]:
    """Turn a bucket into its final form; returns the number of repeated ids (the later line counts) and the verdicts."""
    with unsorted.open("rb") as file:
        lines = file.readlines()
    entries = {line.split(b"\t", 1)[0]: line for line in lines}
    with unsorted.with_suffix(".tsv").open("wb") as file:
        file.writelines(line for _, line in sorted(entries.items()))
    unsorted.unlink()
    return len(lines) - len(entries), Counter(line.split(b"\t", 2)[1].decode() for line in entries.values())


def index_metadata(path: Path, limits: Limits, folder: Path) -> dict[str, Any]:
    """Build the folder described above from the metadata at `path`, whole or not at all, and return its counts.

    One pass, and one more over each bucket; memory is bounded by BUFFER_BYTES and one bucket (a month: 25,000 records,
    40 MB). Raises UserError where no line is a record.
    """
    partial = folder.with_name(f"{folder.name}.{os.uname().nodename}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        counts = fill_buckets(path, limits, partial)
        with atomic_write(partial / COUNTS) as file:
            json.dump(counts, file, indent=1)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def fill_buckets(path: Path, limits: Limits, folder: Path) -> dict[str, Any]:
    """Spread the records over `folder`, sort each bucket, and count: what came in, what the filter says, what was odd."""
    census, buckets = Census(), Buckets(folder)
    with Progress("metadata", unit="records") as progress:
        for paper_id, record in read_metadata(path, census):
            buckets.add(paper_id, entry_line(paper_id, record, check_metadata(record, limits)))
            progress.update()
    buckets.flush()
    num_repeated, reasons = 0, Counter[str]()
    for unsorted in sorted(folder.glob("*.unsorted")):
        repeated, verdicts = sort_bucket(unsorted)
        num_repeated += repeated
        reasons += verdicts
    odd = census.sentences()
    if num_repeated:
        odd.append(f"{num_repeated:,} ids are repeated; the last line of each counts")
    return {
        "lines": census.num_records + census.num_bad_lines,
        "bad_lines": census.num_bad_lines,
        "repeated_ids": num_repeated,
        "ids": reasons.total(),
        "kept": reasons.pop("", 0),
        "rejected": dict(sorted(reasons.items())),
        "odd": odd,
        "sha256": sha256_file(path),
    }


class MetadataIndex:
    """Look-ups in the folder that `index_metadata` made: `MetadataIndex(folder).find("1403.0037")`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maps: dict[str, mmap.mmap | bytes] = {}

    def bucket(self, name: str) -> "mmap.mmap | bytes":
        """The lines of a bucket, mapped; those of the last MAX_MAPS buckets stay so."""
        if name not in self.maps:
            if len(self.maps) == MAX_MAPS:
                del self.maps[next(iter(self.maps))]
            self.maps[name] = b""
            with contextlib.suppress(FileNotFoundError), (self.folder / f"{name}.tsv").open("rb") as file:
                self.maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self.maps[name]

    def find(self, paper_id: str) -> Paper | None:
        """What the metadata says of a paper; None where it does not hold the id. About 50 microseconds."""
        lines, key = self.bucket(bucket_of(paper_id)), paper_id.encode("utf-8", "replace")
        low, high = 0, len(lines)  # offsets of line starts: the line, if there, starts in [low, high)
        while low < high:
            start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = lines.find(b"\n", start) + 1
            found = lines[start : lines.find(b"\t", start, end)]
            if found == key:
                return parse_entry(lines[start:end])
            low, high = (end, high) if found < key else (low, start)
        return None

    def kept_ids(self) -> Iterator[str]:
        """The ids of all records that the metadata filter keeps, in the order of the files."""
        for path in sorted(self.folder.glob("*.tsv")):
            with path.open("rb") as file:
                for line in file:
                    paper_id, reason, _ = line.split(b"\t", 2)
                    if not reason:
                        yield paper_id.decode()
