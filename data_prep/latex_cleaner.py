"""From LaTeX source to text for a language model: prose and mathematics stay, what only serves the printed page goes.

In: one flattened source (extraction.py), or a lone paper.tex. Out: `Cleaned`, or a `Rejection` where nothing is left.

    python data_prep/latex_cleaner.py paper.tex
    python data_prep/latex_cleaner.py paper.tex --explain
    python data_prep/latex_cleaner.py --input flat.jsonl --out clean.jsonl

Comments, definitions, conditionals and authors' macros are carried out first (latex_macros.py). Then one pass over what
is left: it jumps from one character that means something to the next, copies what lies between, and asks the tables of
latex_tables.py what a command is. tests/cases/ shows every rule with an example.
"""

import re
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

from data_prep.cli import Parser, Progress, UserError, atomic_write, need_file, run
from data_prep.latex_macros import Expander
from data_prep.latex_prose import EXCERPT_CHARS, Cleaner, tidy
from data_prep.latex_source import RAW_MARK, strip_comments
from data_prep.records import Rejection, json_line, read_jsonl

MIN_LETTERS = 20  # a text with fewer holds nothing
LETTERS = re.compile(rf"(?:[\W\d_]*[^\W\d_]){{{MIN_LETTERS}}}")
EXCERPT_OF_TEXT_CHARS = 2_000  # are looked at for letters
HEADINGS = ("part", "chapter", "section")
OPENED = re.compile(r"\*?\{")
PART_NAMES = {
    "introduction": re.compile(r"(?i)\bintroduction\b"),
    "conclusion": re.compile(r"(?i)\b(?:conclu|summary|closing remarks)"),
}


@dataclass(frozen=True)
class Cleaned:
    """A cleaned paper.

    `text` is the body as LaTeX, without title and authors. `parts` maps "abstract", "introduction" and "conclusion" to
    [start, end) in characters of `text`, where the body has them. `warnings` name what could not be read as TeX reads it.
    """

    text: str
    title: str
    abstract: str
    parts: dict[str, list[int]]
    warnings: tuple[str, ...]


class Removal(NamedTuple):
    """What --explain tells: the rule that left something out, the line of the source, how the removed text begins."""

    rule: str
    line: int
    excerpt: str


def clean_latex(
    source: str, *, keep_captions: bool = False, explain: list[Removal] | None = None
) -> Cleaned | Rejection:
    """The text of one flattened LaTeX source, or why there is none.

    Pure; raises nothing; time is linear in the length of `source`. Captions of figures and tables become paragraphs with
    `keep_captions`. Every removal is appended to `explain`, in the order of the source.
    """
    if "\r" in source:
        source = source.replace("\r\n", "\n").replace("\r", "\n")
    source = source.replace(RAW_MARK, "")
    uncommented: list[tuple[int, int]] | None = None if explain is None else []
    text = strip_comments(source, uncommented)
    expander = Expander(len(text))
    start = expander.preamble(text)
    if start < 0:
        start, expander = 0, Expander(len(text))
        expander.plain = True
    if explain is not None:
        expander.places = []
    body = expander.expand(text[start:]) + expander.tail
    cleaner = Cleaner(body, keep_captions=keep_captions, explain=None if explain is None else [])
    cleaner.definitions = text
    for key, acronym in list(expander.acronyms.items()):
        short, long = (one_line(expander, form) for form in (acronym.short, acronym.long))
        cleaner.acronyms[key] = acronym._replace(short=short, long=long)
    cleaned = tidy(cleaner.prose(0, len(body)))
    if explain is not None and uncommented is not None:
        explain += removals(source, text, start, uncommented, expander, cleaner)
    if not LETTERS.match(cleaned, 0, EXCERPT_OF_TEXT_CHARS):
        return Rejection("no-text", f"{len(cleaned)} characters are left of {len(source)}")
    title = cleaner.title or front_text(expander, "title") or front_text(expander, "icmltitle")
    parts = find_parts(cleaned, [name for name in HEADINGS if name in cleaner.headings])
    abstract = cleaned[slice(*parts["abstract"])].strip() if "abstract" in parts else front_text(expander, "abstract")
    warnings = (*dict.fromkeys(expander.warnings), *sorted(cleaner.warnings))
    return Cleaned(cleaned, title, abstract, parts, warnings)


def removals(
    source: str, text: str, start: int, uncommented: list[tuple[int, int]], expander: Expander, cleaner: Cleaner
) -> list[Removal]:
    """What the three passes left out, by the line of the source where it began.

    `uncommented` and `expander.places` map offsets: each pair says that what follows the first place in a pass's output
    follows the second place in its input.
    """
    in_source = [(0, 0), *uncommented]
    in_text = [(0, start), *((out, start + place) for out, place in expander.places or [])]
    newlines = [match.start() for match in re.finditer("\n", source)]
    found: list[tuple[int, str, str]] = []
    for (out, place), (next_out, next_place) in pairwise(in_source):
        begin = place + next_out - out
        found.append((begin, "comment", source[begin:next_place]))
    if start:
        found.append((0, "preamble", source[:EXCERPT_CHARS]))
    for rule, begin, end in expander.notes:
        found.append((origin(in_source, start + begin), rule, text[start + begin : start + end]))
    if expander.ended:
        begin = max(text.rfind("\\end{document}"), 0)
        found.append((origin(in_source, begin), "text after the document", text[begin:]))
    for rule, begin, excerpt in cleaner.explain or []:
        found.append((origin(in_source, origin(in_text, begin)), rule, excerpt))
    found.sort(key=lambda entry: entry[0])
    return [
        Removal(rule, bisect_right(newlines, begin - 1) + 1, " ".join(excerpt[:EXCERPT_CHARS].split()))
        for begin, rule, excerpt in found
    ]


def origin(places: list[tuple[int, int]], offset: int) -> int:
    """Where the character at `offset` of a pass's output came from in its input."""
    number = bisect_right(places, (offset, 1 << 60)) - 1
    out, place = places[number]
    limit = places[number + 1][1] if number + 1 < len(places) else place + offset - out
    return min(place + offset - out, max(limit, place))


def front_text(expander: Expander, name: str) -> str:
    """The cleaned argument of a command of the preamble, '' where it is not."""
    return one_line(expander, expander.front.get(name, ""))


def one_line(expander: Expander, raw: str) -> str:
    """An argument of a preamble, cleaned by itself."""
    expander.ended = False
    body = expander.expand(raw)
    return " ".join(tidy(Cleaner(body, keep_captions=False, explain=None).prose(0, len(body))).split())


def find_parts(text: str, headings: Sequence[str] = HEADINGS) -> dict[str, list[int]]:
    """Where abstract, introduction and conclusion lie in a cleaned text, without their headings, which are of the kinds given."""
    parts: dict[str, list[int]] = {}
    start = text.find("\\begin{abstract}")
    end = text.find("\\end{abstract}", start) if start >= 0 else -1
    if 0 <= start < end:
        parts["abstract"] = [start + len("\\begin{abstract}"), end]
    places = sorted((place, match.end()) for name in headings for place, match in opened(text, "\\" + name))
    for number, (_, inside) in enumerate(places):
        stop = places[number + 1][0] if number + 1 < len(places) else len(text)
        line_end = text.find("\n", inside)
        line_end = stop if line_end < 0 else min(line_end, stop)
        for part, pattern in PART_NAMES.items():
            if part not in parts and pattern.search(text, inside, line_end):
                parts[part] = [line_end, stop]
    return parts


def opened(text: str, name: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Where the command `name` stands with an argument, and the match that ends behind its brace."""
    place = text.find(name)
    while place >= 0:
        if match := OPENED.match(text, place + len(name)):
            yield place, match
        place = text.find(name, place + 1)


def read_paper(path: Path) -> str:
    """A LaTeX file as text: UTF-8, or Latin-1 where it is not that."""
    data = need_file(path, "paper").read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("paper", nargs="?", type=Path, help="a LaTeX file; its text goes to stdout")
    parser.add_argument(
        "--explain", action="store_true", help="tell on stderr what was left out, by which rule and where"
    )
    parser.add_argument("--input", type=Path, help="flat.jsonl of extraction.py")
    parser.add_argument("--out", type=Path, help="clean.jsonl; rejected papers go to clean.rejects.jsonl beside it")
    parser.add_argument(
        "--keep-captions", action="store_true", help="keep captions of figures and tables as paragraphs"
    )
    options = parser.parse_args(argv)
    if options.paper and not options.input and not options.out:
        return clean_paper(options.paper, options.keep_captions, options.explain)
    if options.paper or options.explain or not options.input or not options.out:
        raise UserError(
            "give either a paper.tex (with --explain, if you like), or --input flat.jsonl and --out clean.jsonl"
        )
    return clean_file(options.input, options.out, options.keep_captions)


def clean_paper(path: Path, keep_captions: bool, tell: bool) -> int:
    """Print the text of one paper, and on stderr what was left out of it."""
    events: list[Removal] | None = [] if tell else None
    cleaned = clean_latex(read_paper(path), keep_captions=keep_captions, explain=events)
    for event in events or []:
        print(f"line {event.line}: {event.rule}: {event.excerpt}", file=sys.stderr)
    if isinstance(cleaned, Rejection):
        raise UserError(f"{path}: nothing but markup ({cleaned.detail}); is it the main file of the paper?")
    for warning in cleaned.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(cleaned.text)
    return 0


def clean_file(source: Path, out: Path, keep_captions: bool) -> int:
    """Clean every record of a flat.jsonl; print the funnel."""
    started_s = time.monotonic()
    kept = rejected = 0
    with (
        atomic_write(out) as texts,
        atomic_write(out.with_suffix(".rejects.jsonl")) as rejects,
        Progress("clean", unit="papers") as progress,
    ):
        for record in read_jsonl(source):
            if not isinstance(record.get("source"), str) or not isinstance(record.get("id"), str):
                raise UserError(f"{source}: a record has no id or no source; is this the output of extraction.py?")
            cleaned = clean_latex(record["source"], keep_captions=keep_captions)
            if isinstance(cleaned, Rejection):
                rejected += 1
                rejects.write(json_line({"id": record["id"], **asdict(cleaned)}))
            else:
                kept += 1
                texts.write(json_line({"id": record["id"], "version": record.get("version"), **asdict(cleaned)}))
            progress.update()
    elapsed_s = time.monotonic() - started_s
    print(f"clean: {kept + rejected} in = {kept} kept + {rejected} without text; {elapsed_s:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
