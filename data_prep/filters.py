"""Which papers are wanted: by metadata, by length, by language. Each filter answers None (keep) or a Rejection.

In: metadata records in the form of arXiv's Kaggle snapshot; titles, abstracts and cleaned texts. Out: reasons, and the
funnel of a metadata file:

    python data_prep/filters.py --metadata arxiv-metadata-oai-snapshot.json --samples 3

The thresholds are the paper's: mathematics, computer science and neighbouring physics, after the year 2000, not withdrawn,
a body of at least 2,000 characters, in English.
"""

import argparse
import functools
import gzip
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import Parser, UserError, need_file, run
from data_prep.records import NEW_ID, OLD_ID, Rejection


@dataclass(frozen=True)
class Limits:
    """What is wanted. The defaults are the paper's; None means that the filter is off.

    `categories`: whole names, `cs` stands for `cs` and all of `cs.*`. `primary_only`: the first category must be wanted, else any.
    `first_year`: of the first version; "after the year 2000" is 2001 on. `licences`: keys of LICENCES.
    """

    categories: tuple[str, ...] = ("math", "cs", "hep-th", "hep-ph", "quant-ph", "stat.ML", "stat.TH")
    primary_only: bool = False
    first_year: int | None = 2001
    min_body_chars: int = 2000
    language: str | None = "en"
    licences: tuple[str, ...] | None = None


# Facts about arXiv --------------------------------------------------------------------------------------------------------

# arxiv.org/category_taxonomy, with the archives that were merged into others before 2001 (all still stand in records).
SUBJECTS: dict[str, str] = {
    "astro-ph": "CO EP GA HE IM SR",
    "cond-mat": "dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con",
    "cs": "AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE NI OH OS PF PL RO SC SD SE SI "
    "SY",
    "econ": "EM GN TH",
    "eess": "AS IV SP SY",
    "gr-qc": "",
    "hep-ex": "",
    "hep-lat": "",
    "hep-ph": "",
    "hep-th": "",
    "math": "AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA OC PR QA RA RT SG SP ST",
    "math-ph": "",
    "nlin": "AO CD CG PS SI",
    "nucl-ex": "",
    "nucl-th": "",
    "physics": "acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph comp-ph data-an ed-ph flu-dyn gen-ph geo-ph hist-ph "
    "ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph",
    "q-bio": "BM CB GN MN NC OT PE QM SC TO",
    "q-fin": "CP EC GN MF PM PR RM ST TR",
    "quant-ph": "",
    "stat": "AP CO ME ML OT TH",
}
FORMER_ARCHIVES = (
    "acc-phys adap-org alg-geom ao-sci atom-ph bayes-an chao-dyn chem-ph cmp-lg comp-gas dg-ga funct-an mtrl-th patt-sol "
    "plasm-ph q-alg solv-int supr-con"
)
KNOWN_CATEGORIES = frozenset(
    [*SUBJECTS, *FORMER_ARCHIVES.split()]
    + [f"{archive}.{subject}" for archive, subjects in SUBJECTS.items() for subject in subjects.split()]
)

# What `license` holds, without scheme and version; arXiv has offered no others. Papers without one (before 2007, mostly)
# were given to arXiv under its assumed licence: `none`.
LICENCES: dict[str, str] = {
    "cc0": "creativecommons.org/publicdomain/zero/",
    "public-domain": "creativecommons.org/licenses/publicdomain/",
    "cc-by": "creativecommons.org/licenses/by/",
    "cc-by-sa": "creativecommons.org/licenses/by-sa/",
    "cc-by-nc-sa": "creativecommons.org/licenses/by-nc-sa/",
    "cc-by-nc-nd": "creativecommons.org/licenses/by-nc-nd/",
    "arxiv": "arxiv.org/licenses/nonexclusive-distrib/",
    "assumed": "arxiv.org/licenses/assumed-1991-2003/",
    "none": "",
}


# Metadata -----------------------------------------------------------------------------------------------------------------


def category_names(record: Mapping[str, Any]) -> list[str]:
    """The categories of a record, primary first: from 'math.AG cs.LG' or ['math.AG', 'cs.LG']; [] if there are none."""
    value = record.get("categories")
    if isinstance(value, str):
        return value.split()
    if isinstance(value, Sequence):
        return [name for item in value if isinstance(item, str) for name in item.split()]
    return []


def in_category(name: str, wanted: Iterable[str]) -> bool:
    """Whether a category is wanted, by its whole name or its archive's: cs.LG is in cs, physics.optics and cs are not in cs.LG."""
    return any(name == want or name.startswith(f"{want}.") for want in wanted)


def first_year(record: Mapping[str, Any]) -> int | None:
    """The year of the first version: of the earliest `versions[].created`, else the one in the id; None if neither tells.

    Ids say when a paper was submitted (0704.0001: April 2007), so both agree but for papers at the turn of a month.
    """
    versions = record.get("versions")
    created = [
        re.search(r"\b(?:19|20)\d\d\b", version["created"])
        for version in (versions if isinstance(versions, Sequence) else ())
        if isinstance(version, Mapping) and isinstance(version.get("created"), str)
    ]
    years = [int(match[0]) for match in created if match]
    return min(years) if years else year_of_id(str(record.get("id", "")))


def year_of_id(paper_id: str) -> int | None:
    """'0704.0001' -> 2007, 'hep-th/9901001' -> 1999, 'thesis' -> None."""
    if match := NEW_ID.fullmatch(paper_id):
        return 2000 + int(match[1][:2])
    if match := OLD_ID.fullmatch(paper_id):
        return (1900 if match[2][0] == "9" else 2000) + int(match[2][:2])
    return None


def licence_name(value: object) -> str:
    """The key of LICENCES for what a record's `license` holds; the value itself if arXiv offers no such licence."""
    if not isinstance(value, str) or not value.strip():
        return "none"
    address = re.sub(r"^https?://(www\.)?", "", value.strip())
    return next((name for name, start in LICENCES.items() if start and address.startswith(start)), value)


def check_metadata(record: Mapping[str, Any], limits: Limits) -> Rejection | None:
    """Category, year, licence, withdrawal, in this order: the first that fails is the reason."""
    names, year = category_names(record), first_year(record)
    if not record.get("id") or not names or year is None:
        missing = "id" if not record.get("id") else "categories" if not names else "date of the first version"
        return Rejection("bad-metadata", f"no {missing}")
    if not any(in_category(name, limits.categories) for name in (names[:1] if limits.primary_only else names)):
        return Rejection("category", " ".join(names))
    if limits.first_year is not None and year < limits.first_year:
        return Rejection("year", str(year))
    if limits.licences is not None and licence_name(record.get("license")) not in limits.licences:
        return Rejection("licence", licence_name(record.get("license")))
    statement = withdrawal(record)
    return Rejection("withdrawn", statement) if statement else None


# Withdrawals --------------------------------------------------------------------------------------------------------------

# Read off the comments and abstracts of 50,000 records. Case does not matter; white space is one space.
WORK = r"(?:e-?prints?|preprints?|papers?|articles?|manuscripts?|submissions?|reports?|notes?|works?|documents?)"
WITHDRAWN = r"(?:withdrawn|withdrawed|withdrwan|withrawn|witdrawn|retracted)"
GONE = rf"(?:{WITHDRAWN}|taken (?:out|down|off)|(?:removed|deleted) by (?:the )?(?:arxiv|authors?|administrators?|moderators?))"
BE = r"(?:is|was|are|were|be|being|have|has|had|will be|should be|must be)(?: bee)?(?: been)?(?: \w+ly| now)?"
# Between a subject and its verb: `this paper (math.CA) has been`, `the preprints X and Y are`, never `paper that has been`.
FILLER = r"(?: (?!(?:that|which|who|to|of|in|by|we|on|for|from)\b)[^\s.;]+){0,3}?"
WITHDRAWALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{WORK}(?: ?\([^)]*\))?{FILLER} {BE} {GONE}\b",  # this paper has been temporarily withdrawn
        rf"^(?:so )?(?:this|it|they) {BE} {WITHDRAWN}\b",  # it is withdrawn
        rf"^(?:(?:this|the|our|my) )?(?:{WORK} )?(?:\w+ly )?{WITHDRAWN}\b(?! prior| after)",  # withdrawn due to an error
        rf"\b{WORK} (?:\w+ly )?{WITHDRAWN}\b",  # 5 pages, paper withdrawn
        r"^removed by (?:the )?arxiv\b",
        r"\bwithdraw(?:s|n|ing|al)? (?:of )?(?:this|the|my|our|these)(?: \S+)? "  # the author withdraws the paper
        r"(?:e-?prints?|preprints?|papers?|articles?|manuscripts?|versions?|notes?|ve\b)",
        r"\b(?:authors?|article|agree|wish|asked|requested \w+) to withdraw it\b",
        r"^(?:withdrawal notice|reason for withdrawal)\b",
    )
)
# What else is withdrawn: other versions, parts, earlier papers, submissions to a journal. Looked for up to the statement's end.
OTHERS = re.compile(
    r"\b(?:previous|earlier|older|old|first|second|original|other|another|initial|preceding|prior|companion|1st|v\d+)"
    rf" (?:\S+ )?(?:{WORK}|versions?)\b"
    r"|\bversions? (?:\d|one\b|v\d)|\bv\d+ (?:is|was|has)\b|\breplac(?:es|ing)\b|\b(?:replacement|revision) (?:of|for)\b"
    r"|\b(?:claims?|sections?|theorem|lemma|appendix|remark)\b|\bnot (?:been )?withdrawn",
    re.IGNORECASE,
)
FROM_ELSEWHERE = re.compile(r" from (?!.{0,16}\barxiv)", re.IGNORECASE)
ANY_ID = re.compile(r"\b(?:\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})")


def withdrawal(record: Mapping[str, Any]) -> str | None:
    """The sentence of the comments, or else of the abstract, that says that this paper is withdrawn; None if none does."""
    for key in ("comments", "abstract"):
        value = record.get(key)
        if not isinstance(value, str) or not re.search(
            "with?d?r[aw]|retract|taken|removed|deleted", value, re.IGNORECASE
        ):
            continue
        for sentence in re.split(r"(?<=[.;!?:])\s+", " ".join(value.split())):
            if says_withdrawn(sentence, str(record.get("id", ""))):
                return sentence
    return None


def says_withdrawn(sentence: str, paper_id: str) -> bool:
    """Whether one sentence says so of the paper itself, not of another version, part or paper."""
    for pattern in WITHDRAWALS:
        if (match := pattern.search(sentence)) is None:
            continue
        ids = ANY_ID.findall(match[0])
        about_others = OTHERS.search(sentence, 0, match.end()) or FROM_ELSEWHERE.match(sentence, match.end())
        if not about_others and (not ids or paper_id in ids):
            return True
    return False


# Length and language ------------------------------------------------------------------------------------------------------


def check_length(text: str, limits: Limits) -> Rejection | None:
    """Whether the cleaned body is long enough, in characters."""
    if len(text) < limits.min_body_chars:
        return Rejection("too-short", f"{len(text)} characters")
    return None


def check_language(title: str, abstract: str, text: str, limits: Limits) -> Rejection | None:
    return None


@dataclass
class MetadataCensus:
    """What `read_metadata` met on its way: counts, and the first few examples of each trouble."""

    num_lines: int = 0
    num_broken_lines: int = 0
    num_null_abstracts: int = 0
    missing_keys: Counter[str] = field(default_factory=Counter)
    unknown_categories: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)


def read_metadata(path: Path, census: MetadataCensus | None = None) -> Iterator[tuple[str, dict[str, Any] | Rejection]]:
    """(id, record) of each line of a metadata file, or (name of the line, Rejection) where there is no record."""
    census = MetadataCensus() if census is None else census
    opener = gzip.open if need_file(path, "metadata").open("rb").read(2) == b"\x1f\x8b" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            census.num_lines += 1
            try:
                record = json.loads(line)
            except ValueError as error:
                yield f"{path.name}:{number}", Rejection("bad-metadata", f"not JSON: {error}")
                continue
            yield str(record.get("id")), record
