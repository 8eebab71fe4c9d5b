"""Archives as arXiv stores them -> one flattened LaTeX source each, or exactly one reason why there is none.

In: .gz, .tar.gz, .tar, .zip, .pdf, folders of them and bulk tars (arXiv_src_YYMM_NNN.tar). Out: JSON lines
{"id", "version", "name", "main", "source", "warnings"}; what has no source goes to <out>.rejects.jsonl as
{"id", "version", "name", "reason", "detail"}, and <out>.funnel.json adds both up.

The source is one self-contained text: the main file, in which every \\input, \\include, \\subfile, \\import and every
author's macro around one is replaced by the file's text, and every package of the author's own by its definitions.
Comments, verbatim and \\iffalse are left to the cleaner; an inclusion inside a comment or verbatim is not followed.

    python data_prep/extraction.py --sources arXiv_src_0303_001.tar loose_eprints/ --out flat.jsonl
"""

import argparse
import functools
import itertools
import json
import posixpath
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.archives import (
    MAX_MEMBER_BYTES,
    Archive,
    BrokenSource,
    Eprint,
    Garbled,
    any_of,
    decode,
    iter_eprints,
    member_name,
    open_nested,
    read_archive,
    stem_of,
    suffix_of,
)
from data_prep.cli import Parser, Progress, UserError, atomic_write, run
from data_prep.flatten import MAX_INCLUSIONS, SUFFIXES, Flattener, TooLarge, find_document
from data_prep.records import REASONS, Rejection, json_line

__all__ = ["BrokenSource", "Eprint", "Extracted", "extract_source", "iter_eprints", "main"]

# Limits
MIN_CUT_CHARS = 2_000  # a main file cut short is used if that much of its body is there: the paper's smallest volume
MAX_NOTICE_CHARS = 2_000  # only a body as short is looked at for a notice of withdrawal
MAX_SHELL_CHARS = 100_000  # only a body as short is looked at for words around PDF pages
MAX_SHELL_WORDS = 100  # a document around PDF pages, or a notice of withdrawal, has fewer words of its own

# Where a document begins and how it names its format. arXiv's own order: LaTeX before plain TeX.
CLASS = re.compile(rb"\\document(?:class|style)(?![A-Za-z])\s*(?:\[[^\]]{0,2000}\])?\s*\{?\s*([\w-]*)")
BEGIN = re.compile(rb"\\begin\s*\{document\}|\\document(?![A-Za-z])|\\enddocument(?![A-Za-z])")
PLAIN = re.compile(
    rb"\\(?:bye|magnification|nopagenumbers|topmatter|centerline|hsize|vsize|beginsection|proclaim|Refs)(?![A-Za-z])"
    rb"|\\input\s*\{?(?:amstex|amsppt|harvmac|lanlmac|phyzzx|tcilatex|eplain|texinfo|jnl|mssymb)|\\end\s*\Z|\\font\\"
)
CONTROL_WORD = re.compile(rb"\\[A-Za-z]{2,}")
MIN_CONTROL_WORDS = 10  # a file without any of the above is TeX if it has as many
INCLUDED = re.compile(  # alternatives that begin with different letters take half the time of a list of the commands
    rb"\\(?:i(?:n(?:put|clude)|(?:mport|n(?:clude|put)from)\*?\s*\{[^{}]{0,500}\})"
    rb"|sub(?:file\w*|(?:import|in(?:clude|put)from)\*?\s*\{[^{}]{0,500}\}))(?![A-Za-z])"
    rb"\s*(?:\{([^{}]{1,500})\}|([^\s{}\\%]{1,500}))"
)
NOT_MAIN = any_of(  # text files that are never the document
    r"""
    sty cls clo def fd cfg ldf rtx bbx cbx lbx ins dtx mf mp ist    # styles and what they read
    bbl toc lo[ft] out ind gls spl                                  # written by TeX and its helpers
    tikz pgf pdf_tex pdf_t pstex_t eps_tex fig                      # drawings
    xml html? css json ya?ml csv tsv dat md rst gitignore           # data
    py c h cpp f f90 m r jl sh pl js java hs lean v agda            # programs
    """,
    r"\.{}$",
)

# What arXiv's own processing reads (info.arxiv.org/help/00README.html, help/faq/mistakes.html#auto_ignore).
AUTO_IGNORE = (b"%auto-ignore", b"paper deliberately replaced by what little")  # the second: put there by arXiv itself
AUTO_INCLUDE = (b"%auto-include",)
NUM_MARK_LINES = 10  # arXiv looks for these marks in as many
MAX_MARK_BYTES = 5_000  # what ten lines have
README = re.compile(r"(?i)^00readme(?:\.\w+)?$")
README_USAGE = re.compile(
    r'(?i)"?filename"?\s{0,9}:\s{0,9}"?([^",\n}]{1,200})"?,?\s{0,99}"?usage"?\s{0,9}:\s{0,9}"?(\w+)'
)
README_LINE = re.compile(r"(?im)^[ \t]*(\S+)[ \t]+(toplevelfile|ignore|include)\b")
MAX_README_BYTES = 20_000
MAX_LINE_BYTES = 1_000  # how far before a command a comment sign is looked for

# Several documents in one archive: the longest wins, its length (with all it includes) weighed by what speaks for or against it.
STEM_WEIGHTS = (
    (re.compile(r"supp|^si$|^sm$|_si$|_sm$|appendi|ancillary"), 0.2),  # a supplement beside the paper
    (re.compile(r"respon[sd]|reply|rebuttal|referee|cover_?-?letter|highlights|errat|poster|slides|talk"), 0.05),
    (re.compile(r"(?:^|[-_. ])(?:old|backup|bak|copy|orig(?:inal)?|diff|changes|unused|trash)(?:$|[-_. \d])"), 0.2),
    (re.compile(r"(?:~|\.bak|\.old|\.orig|\.sav|\.save|\.swp)$|^#"), 0.2),  # what editors leave
    (re.compile(r"template|sample|example|instructions|guidelines|bare_|^test"), 0.3),
    (re.compile(r"^(?:main|ms|paper|article|manuscript|arxiv)"), 1.5),
)
CLASS_WEIGHTS = {
    b"standalone": 0.02,
    b"subfiles": 0.02,
    b"letter": 0.05,
    b"beamer": 0.1,
    b"a0poster": 0.05,
    b"slides": 0.1,
}
PART_CLASSES = (b"standalone", b"subfiles")  # parts of a document rather than others beside it
BBL_WEIGHT = 2.0  # its own .bbl: authors upload the one of the paper
INCOMPLETE_WEIGHT = 0.1  # a class without a beginning or the other way round
FOLDER_WEIGHT = 0.7  # for each folder below the top
MAX_CANDIDATES = 200  # looked at with what they include
MAX_REACHED = 2_000  # files counted of what one includes
ANCILLARY = re.compile(r"(?:^|/)(?:anc|__MACOSX|old|backup)/")  # arXiv's folder of ancillary files, and similar
ANCILLARY_WEIGHT = 0.01

# What a submission without TeX consists of, the first that fits; a picture in PostScript or PDF does not make an HTML page a paper.
ONLY_REASONS = (
    ("office", "docx-only"),
    ("html", "html-only"),
    ("pdf", "pdf-only"),
    ("postscript", "postscript-only"),
    ("dvi", "dvi-only"),
)

PDF_PAGES = re.compile(r"\\includepdf(?:merge)?(?![A-Za-z])")
WITHDRAWN = re.compile(r"(?i)\b(?:paper|article|manuscript|submission|preprint|work)\b[^.]{0,80}\bwithdrawn\b")
TEX_MARKUP = re.compile(r"(?<!\\)%.*|\\[A-Za-z@]+\*?(?:\[[^\]]{0,200}\])?(?:\{[^{}]{0,200}\})?")


@dataclass(frozen=True)
class Extracted:
    """One self-contained LaTeX text. `main` is the main file's name in the archive, `num_source_bytes` the bytes of all files used."""

    source: str
    main: str
    warnings: tuple[str, ...]
    num_source_bytes: int


def extract_source(data: bytes, name: str) -> Extracted | Rejection:
    """The flattened source of one archive, or why there is none; `name` is its file name. Raises nothing on bad data.

    An archive cut short (or beyond a limit) is used up to there, with a warning, if its main file is whole, or cut after at
    least MIN_CUT_CHARS of its body: what stands before a cut is what the author wrote. Data that fails its own checks is not
    used: nobody knows where in it the damage begins.
    """
    if not data:
        return Rejection("empty-archive", "no bytes")
    try:
        archive = read_archive(data, name)
    except Garbled as error:
        return Rejection("corrupt-archive", str(error))
    documents = rank_documents(archive)
    if not documents and open_nested(archive):
        documents = rank_documents(archive)
    if not documents:
        return why_none(archive)
    main_name = documents[0].name
    flattener = Flattener(archive, main_name)
    beside = [document.name for document in documents[1:] if document.document_class not in PART_CLASSES]
    if beside:
        more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
        flattener.warn(f"documents beside the main one are left out: {', '.join(beside[:3])}{more}")
    try:
        source = flattener.run()
    except TooLarge as error:
        return Rejection("too-large", str(error))
    rejection = check_source(source, main_name, archive)
    if rejection is not None:
        return rejection
    used = sum(len(archive.files[used]) for used in flattener.used)
    return Extracted(source, main_name, tuple(flattener.warnings), used)


# --- which file --------------------------------------------------------------------------------------------------------


@dataclass
class Document:
    """A text file that may be the main one, with what the choice looks at."""

    name: str
    data: bytes  # with ASCII as ASCII
    document_class: bytes | None = None  # '' for a class whose name is a macro
    begins: bool = False

    @property
    def is_latex(self) -> bool:
        return self.begins or self.document_class is not None

    @functools.cached_property
    def stem(self) -> str:
        return stem_of(self.name)

    @functools.cached_property
    def includes(self) -> set[str]:
        """The stems of the files that it includes, in whatever folder."""
        return {
            stem_of((match[1] or match[2]).decode("latin-1"))
            for match in itertools.islice(INCLUDED.finditer(self.data), MAX_INCLUSIONS)
            if not is_commented(self.data, match.start())
        }

    @functools.cached_property
    def num_bytes(self) -> int:
        return len(self.data) - num_comment_bytes(self.data)

    @functools.cached_property
    def own_weight(self) -> float:
        """How much speaks for it as the main one by itself: its length in bytes, whole-line comments apart, times the weights."""
        total = float(self.num_bytes)
        for pattern, factor in STEM_WEIGHTS:
            total *= factor if pattern.search(self.stem) else 1
        total *= CLASS_WEIGHTS.get(self.document_class or b"", 1)
        total *= ANCILLARY_WEIGHT if ANCILLARY.search(self.name) else 1
        return total * FOLDER_WEIGHT ** self.name.count("/")


def rank_documents(archive: Archive) -> list[Document]:
    """The documents of an archive, the one that TeX is to be run on first; none where no file is TeX.

    What the submission's 00README calls top level; else the files that no other file includes, LaTeX before plain TeX before
    mere TeX commands; of several the longest, with all that it includes, weighed by STEM_WEIGHTS and its like. Files that
    say %auto-ignore are out.
    """
    top_level, ignored = read_readme(archive)
    documents = read_documents(archive, ignored)
    found = find_formats(documents, archive)
    found = [document for document in found if document.name in top_level] or found
    if len(found) < 2:
        return found
    included = {stem for document in documents for stem in document.includes - {document.stem}}
    found = [document for document in found if document.stem not in included] or found
    if len(found) < 2:
        return found
    by_stem = {document.stem: document for document in reversed(documents)}
    bbl_stems = {posixpath.splitext(name)[0] for name in archive.names if name.endswith(".bbl")}
    found = sorted(found, key=lambda one: one.own_weight, reverse=True)[:MAX_CANDIDATES]
    return sorted(found, key=lambda one: (-weight(one, by_stem, bbl_stems), one.name.count("/"), one.name))


def read_documents(archive: Archive, ignored: set[str]) -> list[Document]:
    """The files that may be main ones, with their formats."""
    documents = [
        Document(name, ascii_compatible(data))
        for name, data in archive.files.items()
        if name not in ignored and not NOT_MAIN.search(name) and not README.match(posixpath.basename(name))
    ]
    documents = [document for document in documents if not is_marked(document.data, AUTO_IGNORE + AUTO_INCLUDE)]
    for document in documents:
        look_for_latex(document)
    return documents


def find_formats(documents: Sequence[Document], archive: Archive) -> list[Document]:
    """Those of the documents that are LaTeX, or include one with a class; else plain TeX; else what has TeX commands."""
    latex = [document for document in documents if document.is_latex]
    stems = {document.stem for document in latex if document.document_class is not None}
    latex += [document for document in documents if not document.is_latex and document.includes & stems]
    if latex or "encrypted" in archive.kinds.values():
        return latex
    plain = [document for document in documents if live_match(PLAIN, document.data)]
    return plain or [document for document in documents if looks_like_tex(document, len(archive.names) == 1)]


def ascii_compatible(data: bytes) -> bytes:
    r"""The file itself, or UTF-16 as UTF-8, so that patterns of ASCII bytes fit; lines end in "\n"."""
    data = decode(data).encode() if b"\0" in data[:2048] else data
    return data.replace(b"\r", b"\n") if b"\r" in data else data


def is_marked(data: bytes, marks: Sequence[bytes]) -> bool:
    """Whether one of arXiv's marks stands in a file's first lines."""
    for mark in marks:
        if data.find(mark, 0, MAX_MARK_BYTES) >= 0:  # hardly ever
            return any(mark in line for line in data[:MAX_MARK_BYTES].splitlines()[:NUM_MARK_LINES] for mark in marks)
    return False


def is_commented(data: bytes, pos: int) -> bool:
    """Whether a comment sign stands before `pos` in its line."""
    line = data[max(0, pos - MAX_LINE_BYTES) : pos].rpartition(b"\n")[2]
    return b"%" in line and b"%" in line.replace(b"\\%", b"")


def num_comment_bytes(data: bytes) -> int:
    """The bytes of the lines that hold a comment and nothing else, without their line ends."""
    total, pos = 0, data.find(b"%")
    while pos >= 0:
        start = data.rfind(b"\n", 0, pos) + 1
        end = data.find(b"\n", pos)
        end = len(data) if end < 0 else end
        if not data[start:pos].strip(b" \t"):
            total += end - start
        pos = data.find(b"%", end)
    return total


def live_match(pattern: re.Pattern[bytes], data: bytes) -> re.Match[bytes] | None:
    """The first of the first hundred matches that does not stand in a comment."""
    pos = 0
    for _ in range(100):
        match = pattern.search(data, pos)
        if match is None or not is_commented(data, match.start()):
            return match
        pos = match.end()
    return None


def look_for_latex(document: Document) -> None:
    """Note the document's class and whether it begins; most files of a submission have neither, which is soon seen."""
    if b"document" not in document.data:
        return
    match = live_match(CLASS, document.data)
    document.document_class = None if match is None else match[1]
    document.begins = live_match(BEGIN, document.data) is not None


def looks_like_tex(document: Document, alone: bool) -> bool:
    """Whether a file without any sign of a format is TeX: named so, or the only one, with a few control words."""
    if not alone and suffix_of(document.name) not in SUFFIXES:
        return False
    return len(list(itertools.islice(CONTROL_WORD.finditer(document.data), MIN_CONTROL_WORDS))) == MIN_CONTROL_WORDS


def read_readme(archive: Archive) -> tuple[set[str], set[str]]:
    """The names that a submission's 00README calls top level, and those that it wants ignored."""
    usages: list[tuple[str, str]] = []
    for name, data in archive.files.items():
        if README.match(name):
            text = decode(data[:MAX_README_BYTES])
            usages += README_LINE.findall(text) + README_USAGE.findall(text)
    names = {member_name("", name): usage.lower() for name, usage in usages}
    top_level = {name for name, usage in names.items() if usage in ("toplevelfile", "toplevel")}
    return top_level, {name for name, usage in names.items() if usage in ("ignore", "include")}


def weight(document: Document, by_stem: dict[str, Document], bbl_stems: set[str]) -> float:
    """Its own weight with the length of all that the document includes, and whether it is complete and has its bibliography."""
    reached, queue = {document.stem: document}, [document]
    while queue and len(reached) < MAX_REACHED:
        for stem in sorted(queue.pop().includes - reached.keys()):
            if stem in by_stem:
                reached[stem] = by_stem[stem]
                queue.append(by_stem[stem])
    parts = reached.values()
    total = document.own_weight * sum(part.num_bytes for part in parts) / max(1, document.num_bytes)
    total *= BBL_WEIGHT if posixpath.splitext(document.name)[0] in bbl_stems else 1
    is_complete = any(part.begins for part in parts) and any(part.document_class is not None for part in parts)
    return total if is_complete else total * INCOMPLETE_WEIGHT


def why_none(archive: Archive) -> Rejection:
    """The one reason for which an archive has no main file: what it holds instead."""
    kinds, num = Counter(archive.kinds.values()), len(archive.names)
    example = {kind: name for name, kind in reversed(archive.kinds.items())}
    if archive.over_limit:
        return Rejection("too-large", archive.cut or "")
    if "encrypted" in kinds:
        return Rejection("encrypted", example["encrypted"])
    for name, data in archive.files.items():
        if is_marked(data, AUTO_IGNORE):
            return Rejection("withdrawn-source", f"{name} says %auto-ignore")
    if archive.cut is not None:
        return Rejection("corrupt-archive", f"{archive.cut}; no source before that")
    if not num or kinds["nul"] == num:
        return Rejection("empty-archive", "no members" if not num else "NUL bytes only")
    if kinds["empty"] and (num == 1 or suffix_of(example["empty"]) == ".tex"):
        return Rejection("withdrawn-source", f"{example['empty']} is empty")
    holding = "one file," if num == 1 else f"{num} files, such as"
    for kind, reason in ONLY_REASONS:
        if kinds[kind]:
            return Rejection(reason, f"{holding} {example[kind]}")
    if any(suffix_of(name) == ".tex" for name in archive.oversized):
        return Rejection("too-large", f"{archive.oversized[0]} has more than {MAX_MEMBER_BYTES:,} bytes")
    if num == 1 and kinds["binary"]:
        return Rejection("unknown-format", f"{archive.names[0]} is no format that arXiv stores")
    return Rejection("no-tex", f"{holding} {archive.names[0]}")


def check_source(source: str, main_name: str, archive: Archive) -> Rejection | None:
    """Whether a flattened source is a document at all: not cut off at its start, no shell around a PDF, no withdrawal."""
    begin = find_document("\\begin", source, 0)
    body_start = begin[1] if begin is not None else 0
    if archive.cut_member == main_name and len(source) - body_start < MIN_CUT_CHARS:
        reason = "too-large" if archive.over_limit else "corrupt-archive"
        return Rejection(reason, f"{archive.cut}, {len(source) - body_start} characters into the body of {main_name}")
    if len(source) - body_start > MAX_NOTICE_CHARS and "\\includepdf" not in source:
        return None
    end = find_document("\\end", source, body_start)
    body_end = end[0] if end is not None else len(source)
    if body_end - body_start > MAX_SHELL_CHARS:
        return None
    words = re.findall(r"[^\W\d_]{3,}", TEX_MARKUP.sub(" ", source[body_start:body_end]))
    if len(words) >= MAX_SHELL_WORDS:
        return None
    if PDF_PAGES.search(source, body_start, body_end):
        return Rejection("includes-pdf", f"{main_name} has {len(words)} words of its own around PDF pages")
    if WITHDRAWN.search(source, body_start, body_end):
        return Rejection("withdrawn-source", f"{main_name} says in {len(words)} words that it is withdrawn")
    return None


# --- command -----------------------------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="extraction.py", description=__doc__)
    parser.add_argument("--sources", nargs="+", required=True, type=Path, help="e-prints, folders of them, bulk tars")
    parser.add_argument("--out", required=True, type=Path, help="JSON lines to write; rejects and funnel go beside it")
    return parser.parse_args(argv)


def show_funnel(funnel: dict[str, Any]) -> None:
    """The funnel for a person, on stderr."""
    num_in, num_kept = funnel["in"], funnel["kept"]
    print(f"extract: {num_in:,} e-prints in, {num_kept:,} kept ({100 * num_kept / num_in:.1f}%)", file=sys.stderr)
    for reason, count in funnel["rejected"].items():
        print(f"  {count:>9,}  {reason}: {REASONS[reason]}", file=sys.stderr)
    for broken in funnel["broken_sources"]:
        print(f"  {broken['path']}: {broken['detail']}; what came before was read", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Flatten every e-print of the sources; each ends in one of the two files, or the run fails."""
    options = parse_arguments(argv)
    out, started_s = options.out, time.monotonic()
    rejected: Counter[str] = Counter()
    broken_sources: list[dict[str, str]] = []
    num_kept = 0
    with (
        Progress("extract", unit="e-prints") as progress,
        atomic_write(out) as kept,
        atomic_write(out.with_suffix(".rejects.jsonl")) as rejects,
    ):
        for eprint in iter_eprints(options.sources):
            if isinstance(eprint, BrokenSource):
                broken_sources.append(asdict(eprint))
                continue
            head = {"id": eprint.id, "version": eprint.version, "name": eprint.name}
            result = extract_source(eprint.data, eprint.name)
            if isinstance(result, Rejection):
                rejected[result.reason] += 1
                rejects.write(json_line(head | asdict(result)))
            else:
                num_kept += 1
                kept.write(
                    json_line(head | {"main": result.main, "source": result.source, "warnings": result.warnings})
                )
            progress.update(kept=f"{100 * num_kept / (progress.count + 1):.0f}%")
        if not progress.count:
            raise UserError(
                f"no e-print in {', '.join(map(str, options.sources))}: .gz, .tar, .zip, .pdf or bulk tars are needed"
            )
        if progress.count != num_kept + rejected.total():
            raise AssertionError(f"{progress.count} e-prints in, but {num_kept} kept and {rejected.total()} rejected")
    funnel = {
        "in": progress.count,
        "kept": num_kept,
        "rejected": dict(sorted(rejected.items())),
        "broken_sources": broken_sources,
        "seconds": round(time.monotonic() - started_s, 1),
    }
    with atomic_write(out.with_suffix(".funnel.json")) as file:
        file.write(json.dumps(funnel, indent=1) + "\n")
    show_funnel(funnel)
    return 0


if __name__ == "__main__":
    run(main)
