"""The files between the stages, in one place: record forms, reasons for rejection, arXiv ids, JSON lines.

In: nothing. Out: the names that all stages agree on. `dataset_train_val/README.md` describes the same for a reader.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from data_prep.cli import UserError, atomic_write, need_file

# Every paper that is not kept has exactly one of these. The key is what `rejects.jsonl` and `manifest.json` say.
REASONS: dict[str, str] = {
    # metadata
    "no-metadata": "an e-print whose id the metadata does not hold",
    "no-source": "a metadata record, of a paper that passes the metadata filter, for which no e-print was given",
    "bad-metadata": "a metadata line that is not JSON or lacks id, categories or date",
    "category": "none of the wanted categories (whole names: cs.LG is in cs, physics.optics is not)",
    "year": "first version before the first wanted year",
    "licence": "a licence that is not among the wanted ones",
    "withdrawn": "withdrawn, as its comments or abstract say",
    "older-version": "another version of the same paper, newer, was given",
    "duplicate-id": "the same version of the same paper was given twice",
    # archive
    "corrupt-archive": "gzip, tar or zip data that cannot be read, or is cut short before any source",
    "empty-archive": "no bytes, no members, or NUL bytes only",
    "too-large": "unpacked size, number of members or expansion beyond the limits (bombs)",
    "unknown-format": "none of the formats that arXiv stores",
    "pdf-only": "PDF without source",
    "postscript-only": "PostScript without source",
    "dvi-only": "DVI without source",
    "html-only": "HTML without TeX source",
    "docx-only": "Office document without source",
    "encrypted": "source encrypted by the author (x.tex.cry)",
    "withdrawn-source": "source that says %auto-ignore or is empty: withdrawn",
    "includes-pdf": "a TeX shell around included PDF pages",
    "no-tex": "an archive that holds no TeX source",
    # cleaning and after
    "no-text": "nothing but markup is left after cleaning",
    "too-short": "body shorter than the wanted number of characters",
    "language": "not in the wanted language",
    "exact-duplicate": "the same normalised text as a kept paper",
    "near-duplicate": "nearly the same text (Jaccard) as a kept paper",
    "contaminated": "contains a benchmark's question",
    "internal-error": "our bug: the exception is in the detail",
}


@dataclass(frozen=True)
class Rejection:
    """Why a paper is not kept. `reason` is a key of REASONS, `detail` one sentence for a person."""

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason} is not a documented reason")


class Record(TypedDict):
    """One line of train.jsonl and val.jsonl: a kept document.

    `text` is the cleaned body as LaTeX, without title; `parts` maps "abstract", "introduction", "conclusion" to [start, end)
    in characters of `text`, where the body has them. All strings are valid Unicode (no lone surrogates).
    """

    id: str
    version: int | None
    source: str
    title: str
    abstract: str
    text: str
    categories: list[str]
    year: int | None
    licence: str | None
    doi: str | None
    journal_ref: str | None
    parts: dict[str, list[int]]
    warnings: list[str]


# Of cleaned LaTeX, with our 102,400 pieces on papers that they were not trained on (docs/LOG.md: 4.65 bytes, nearly all of them ASCII).
# For estimates alone: packing counts the real tokens.
CHARS_PER_TOKEN = 4.64


def training_text(record: Mapping[str, Any]) -> str:
    """What a model reads of a record: title, abstract, body, with a blank line between.

    The abstract of the metadata is left out where the body has its own, so that no abstract is read twice.
    """
    body = str(record["text"])
    own_abstract = "abstract" in record.get("parts", {}) or "\\begin{abstract}" in body
    head = [record.get("title"), None if own_abstract else record.get("abstract")]
    return "\n\n".join([str(part).strip() for part in head if part] + [body])


# arXiv identifiers: info.arxiv.org/help/arxiv_identifier.html. Old ones lose their slash in file names: math0303002.gz.
NEW_ID = re.compile(r"(\d{4}\.\d{4,5})(?:v(\d+))?")
OLD_ID = re.compile(r"([a-z-]+(?:\.[A-Z]{2})?)[/_]?(\d{7})(?:v(\d+))?")
ARCHIVE_SUFFIX = re.compile(r"(?i)(\.(?:tar|tgz|gz|zip|pdf|ps|tex|txt|html?|dvi|docx|cry))+$")


def parse_name(name: str) -> tuple[str, int | None]:
    """The arXiv id and version in a file name as arXiv gives it.

    'math0303002.gz' -> ('math/0303002', None); '1512.08928v2.tar.gz' -> ('1512.08928', 2); a name that is no arXiv id is its
    own id: 'thesis.tar.gz' -> ('thesis', None).
    """
    stem = ARCHIVE_SUFFIX.sub("", name.rsplit("/", 1)[-1])
    if match := NEW_ID.fullmatch(stem):
        return match[1], int(match[2]) if match[2] else None
    if match := OLD_ID.fullmatch(stem):
        return f"{match[1]}/{match[2]}", int(match[3]) if match[3] else None
    return stem, None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, streaming; a line that is none is a UserError with its number."""
    with need_file(path, "input").open(encoding="utf-8", errors="surrogatepass") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: a JSON object is needed, this is {type(record).__name__}")
            yield record


def json_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON with its newline; keys keep their order, letters stay letters."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records to `path` (whole or not at all) and return their number."""
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(json_line(record))
            count += 1
    return count
