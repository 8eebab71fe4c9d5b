"""Archives as arXiv stores them -> one flattened LaTeX source each, or one reason why not.

In: .gz, .tar.gz, .tar, .zip, .pdf and bulk tars (arXiv_src_YYMM_NNN.tar); nothing is ever unpacked to disk.
Out: `Extracted.source`, decoded text in which every \\input and its kin is replaced by the file's own text.
"""

import gzip
import io
import posixpath
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.records import Rejection, parse_name


@dataclass(frozen=True)
class Eprint:
    """One archive as arXiv stores it. `name` says where it lies: path, or bulk tar and member."""

    id: str
    version: int | None
    name: str
    data: bytes


@dataclass(frozen=True)
class BrokenSource:
    """A notice from `iter_eprints`: a bulk tar that could not be read to its end. Items before it were yielded."""

    path: str
    detail: str


@dataclass(frozen=True)
class Extracted:
    """One self-contained LaTeX text. `main` is the main file's name, `num_source_bytes` the raw bytes of all files used."""

    source: str
    main: str
    warnings: tuple[str, ...]
    num_source_bytes: int


INPUT = re.compile(r"\\(?:input|include|subfile)(?![A-Za-z])\s*(?:\{([^{}]+)\}|([^\s{}\\]+))")


def iter_eprints(sources: Sequence[Path]) -> Iterator[Eprint | BrokenSource]:
    """Every e-print in files, folders (recursive, sorted) and bulk tars, in a fixed order."""
    for source in sources:
        for path in sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]:
            if path.name.startswith("arXiv_src"):
                with tarfile.open(path) as tar:
                    for member in tar:
                        file = tar.extractfile(member) if member.isfile() else None
                        if file is not None:
                            yield Eprint(*parse_name(member.name), f"{path}/{member.name}", file.read())
            elif path.suffix in (".gz", ".tar", ".zip", ".pdf", ".tex"):
                yield Eprint(*parse_name(path.name), str(path), path.read_bytes())


def extract_source(data: bytes, name: str) -> Extracted | Rejection:
    """The flattened source of one archive; never raises on bad data."""
    if data[:4] == b"%PDF":
        return Rejection("pdf-only")
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        return Rejection("corrupt-archive", str(error))
    files: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    raw = file.read()
                    if b"\0" not in raw:
                        files[posixpath.normpath(member.name)] = _decode(raw)
    except tarfile.TarError:
        files["paper.tex"] = _decode(data)
    mains = [n for n, text in files.items() if "\\begin{document}" in text or "\\bye" in text]
    if not mains:
        return Rejection("no-tex")
    main = max(mains, key=lambda n: len(files[n]))

    def flatten(name: str, seen: tuple[str, ...]) -> str:
        def replace(match: re.Match[str]) -> str:
            wanted = (match[1] or match[2]).strip()
            for candidate in (wanted + ".tex", wanted):
                if candidate in files and candidate not in seen:
                    return flatten(candidate, (*seen, candidate))
            return ""

        return INPUT.sub(replace, files[name])

    return Extracted(flatten(main, (main,)), main, (), len(files[main]))


def _decode(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")
