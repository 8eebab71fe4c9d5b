"""Make the texts on which a tokenizer is trained and judged: books and e-prints in, train.jsonl and held_out.jsonl out.

In: a folder of .tar.gz books in LaTeX, and cleaned e-prints (`clean.jsonl` of latex_cleaner.py). Each .tex file of a book is cleaned and
trained on. Of the e-prints, one in five (by a hash of the id) is held out, unless it shares more than a tenth of its long lines with
what is trained on: a book that is an e-print, too, or another version of a paper, would make the judgement too kind.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from data_prep.cli import EXIT_DONE, Parser, Progress, need_file, run
from data_prep.latex_cleaner import clean_latex
from data_prep.records import Rejection, read_jsonl, write_jsonl

HELD_OUT_ONE_IN = 5
LONG_LINE_CHARS = 40
MAX_SHARED_FRAC = 0.1

Line = dict[str, Any]


def read_books(folder: Path) -> Iterator[Line]:
    """The cleaned .tex files of the books, in the order of their names."""
    with Progress("books", unit="files") as progress:
        for path in sorted(folder.glob("*.tar.gz")):
            with tarfile.open(path) as archive:
                for member in sorted(archive.getmembers(), key=lambda member: member.name):
                    file = archive.extractfile(member) if member.name.endswith(".tex") else None
                    cleaned = clean_latex(file.read().decode(errors="replace")) if file else None
                    progress.update(bool(file))
                    if cleaned and not isinstance(cleaned, Rejection):
                        yield {"id": member.name, "source": path.name.removesuffix(".tar.gz"), "text": cleaned.text}


def long_lines(text: str) -> list[str]:
    """The lines by which two texts are known to be the same."""
    return [line.strip() for line in text.splitlines() if len(line.strip()) >= LONG_LINE_CHARS]


def held_out(name: str) -> bool:
    """Whether a hash of an id chooses it."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python benchmarks/tokenizer_corpus.py --books ../shared/corpus --eprints ../texts/clean.jsonl --out ../texts",
    )
    parser.add_argument("--books", type=Path, required=True, help="folder of .tar.gz books")
    parser.add_argument("--eprints", type=Path, required=True, help="cleaned e-prints, JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.jsonl and held_out.jsonl")
    options = parser.parse_args(argv)
    trained = list(read_books(need_file(options.books, "folder of books")))
    eprints = [line | {"source": "arxiv"} for line in read_jsonl(options.eprints)]
    trained += [line for line in eprints if not held_out(line["id"])]
    seen = {line for record in trained for line in long_lines(record["text"])}
    judged: list[Line] = []
    for record in (line for line in eprints if held_out(line["id"])):
        lines = long_lines(record["text"])
        known = sum(line in seen for line in lines) > MAX_SHARED_FRAC * len(lines)
        (trained if known else judged).append(record)
    for name, records in (("train.jsonl", trained), ("held_out.jsonl", judged)):
        count = write_jsonl(options.out / name, records)
        size = sum(len(record["text"].encode()) for record in records)
        print(f"{options.out / name}: {count:,} texts, {size / 1e6:.1f} MB")
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
