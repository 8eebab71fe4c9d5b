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
import hashlib
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
ONE = r"(?:e-?print|preprint|paper|article|manuscript|submission|report|note|work|document)"
WORK = rf"(?:\b{ONE}|\b(?:the|this|these|our|both)(?: \w+)? {ONE}s)"  # several only if they are named: `which papers are retracted`
OWN_WORK = r"(?:e-?prints?|preprints?|papers?|articles?|manuscripts?|versions?|notes?|ve)"  # a submission may be one to a journal
WITHDRAWN = r"(?:withdrawn|withdrawed|withdrwan|withrawn|witdrawn|retracted)"
GONE = rf"(?:{WITHDRAWN}|taken (?:out|down|off)|(?:removed|deleted) by (?:the )?(?:arxiv|authors?|administrators?|moderators?))"
BE = r"(?:(?:have|has|had)(?: \w+)?(?: bee| been)|is|was|are|were|being|will be|should be|must be|be)(?: \w+ly| now)?"
# Between a subject and its verb: `this paper (math.CA) has been`, `the preprints X and Y are`, never `paper that has been`.
FILLER = r"(?: (?!(?:that|which|who|to|of|in|by|we|on|for|from)\b)[^\s;]*[^\s.;]){0,3}?"
WITHDRAWALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{WORK}(?: ?\([^)]*\))?{FILLER} {BE} {GONE}\b",  # this paper has been temporarily withdrawn
        rf"^(?:so )?(?:this|it|they) {BE} {WITHDRAWN}\b",  # it is withdrawn
        rf"^(?:(?:this|the|our|my) )?(?:{ONE} )?(?:\w+ly )?{WITHDRAWN}\b(?! prior| after)",  # withdrawn due to an error
        rf"\b{ONE} (?:\w+ly )?{WITHDRAWN}\b",  # 5 pages, paper withdrawn
        r"^removed by (?:the )?arxiv\b",
        rf"\bthis version (?:has been |was )?{GONE}\b",
        rf"\bthis (?:version|{ONE}) (?:has been|was) (?:removed|deleted|cancell?ed|revoked)\b(?! the)",
        rf"\bplease (?:disregard|ignore) this {ONE}\b",
        rf"\b(?:withdr[ae]w(?:s|n|ing|al)?|retract(?:s|ed|ing)?) (?:of )?(?:this|the|my|our|these)(?: \S+)? {OWN_WORK}\b",  # the author withdraws the paper
        r"\b(?:authors?|article|agree|wish|asked|requested \w+) to withdraw it\b",
        r"^(?:withdrawal notice|reason for withdrawal)\b",
    )
)
# What else is withdrawn: other versions, parts, earlier papers, submissions to a journal. Looked for up to the statement's end.
OTHERS = re.compile(
    r"\b(?:previous|earlier|older|old|first|second|original|other|another|initial|preceding|prior|companion|1st|v\d+)"
    rf" (?:\S+ )?(?:{ONE}s?|versions?)\b"
    r"|\bversions? (?:\d|one\b|v\d)|\bv\d+ (?:is|was|has)\b|\breplac(?:es|ing)\b|\b(?:replacement|revision) (?:of|for)\b"
    r"|\b(?:claims?|sections?|theorem|lemma|appendix|remark)\b|\bnot (?:been )?withdrawn",
    re.IGNORECASE,
)
# What may follow: it was withdrawn from a journal, or before this version.
NO_LONGER = re.compile(
    r" (?:from (?!.{0,16}\barxiv)|earlier|previously|before|but now|and (?:(?:is|was|has|been|now) ?)*(?:re-?submitted|replaced|restored))",
    re.IGNORECASE,
)
MAYBE_WITHDRAWN = re.compile(
    r"with?d?r[aw]|retract|taken|removed|deleted|cancel|revoked|disregard|ignore", re.IGNORECASE
)
ANY_ID = re.compile(r"\b(?:\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})")


def withdrawal(record: Mapping[str, Any]) -> str | None:
    """The sentence of the comments, or else of the abstract, that says that this paper is withdrawn; None if none does."""
    for key in ("comments", "abstract"):
        value = record.get(key)
        if not isinstance(value, str) or not MAYBE_WITHDRAWN.search(value):
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
        about_others = OTHERS.search(sentence, 0, match.end()) or NO_LONGER.match(sentence, match.end())
        if not about_others and (not ids or paper_id in ids):
            return True
    return False


# Length and language ------------------------------------------------------------------------------------------------------


def check_length(text: str, limits: Limits) -> Rejection | None:
    """Whether the cleaned body is long enough, in characters."""
    if len(text) < limits.min_body_chars:
        return Rejection("too-short", f"{len(text)} characters")
    return None


# Words that hold English together and are rare in other languages: at least 12.7% of the words of each English e-print,
# formulas included; at most 1.3% of those in other languages (docs/LOG.md, 2026-11-21).
ENGLISH_WORDS = frozenset(("the", "of", "and", "that", "is", "we", "with", "for", "this", "by", "are", "which", "from"))
ENGLISH_SHARE = 0.1
LOWERCASE_WORD = re.compile(r"(?<![\\A-Za-z])[a-z]{2,}(?![A-Za-z])")
# Slices of the body, evenly spread, for the share of English words: 0.2 ms whatever its length.
NUM_SLICES, SLICE_CHARS = 8, 1000
# Of title and abstract: with so many letters langdetect is trusted with them, and so much of them it reads.
HEAD_LETTERS, HEAD_CHARS = 120, 300
# How many windows of prose, how much of the body each is taken from, how much of it langdetect reads.
WINDOWS, WINDOW_REGION_CHARS, WINDOW_CHARS = 3, 8000, 1500
WINDOW_LETTERS = 300  # with fewer it errs among formulas, so a window is joined with the next
LEAST_LETTERS = 60  # of a short body, for it to be judged at all
NUM_TRIALS = 3  # of langdetect's random walks through the n-grams; it takes 7, which decides the same on 600 windows (docs/LOG.md)

# What is no prose, longest constructs first. Bounded repeats keep a lone `$` or \begin from eating the text.
NOT_PROSE = re.compile(
    r"\\begin\{((?:equation|align|gather|multline|eqnarray|array|displaymath|math|tabular|tikzpicture|verbatim|lstlisting)\w*\*?)\}"
    r".{0,5000}?\\end\{\1\}"
    r"|\$\$.{0,3000}?\$\$|\$(?:[^$\n]|\n(?!\s*\n)){0,1500}\$|\\\[.{0,3000}?\\\]|\\\(.{0,1500}?\\\)"
    r"|\\(?:begin|end|label|(?:eq|page|auto|c)?ref|cite\w*|url|includegraphics|bibliography\w*)\*?(?:\[[^\]]{0,300}\])*\{[^}]{0,300}\}"
    r"|\\[A-Za-z]+\*?|\\.|[{}~^_&#<>=+*/|\d]",
    re.DOTALL,
)


def check_language(title: str, abstract: str, text: str, limits: Limits) -> Rejection | None:
    """Whether a paper is in the wanted language, by title, abstract and the prose of its cleaned body.

    langdetect judges title and abstract. Since a French paper may have an English abstract, the body is asked as well: the
    share of English function words in slices of it. Where both say English (nearly always), that is all: 2 ms. Otherwise
    langdetect judges windows of the body's prose, mathematics stripped. A paper is kept if most of them are in the wanted
    language, or where function words speak for English, unless all windows agree on another language.
    """
    if limits.language is None:
        return None
    head = " ".join(prose(f"{title}. {abstract}").split())
    of_head = guess_language(head[:HEAD_CHARS]) if num_letters(head) >= HEAD_LETTERS else None
    english = limits.language == "en" and english_share(text) >= ENGLISH_SHARE
    if english and of_head == "en":
        return None
    votes: list[str] = []
    for window in prose_windows(text):
        votes += filter(None, [guess_language(window)])
        if english and votes == ["en"]:
            return None
    if not votes:  # a body without prose: title and abstract decide; without them nothing speaks against the paper
        votes = [of_head or limits.language]
    num_wanted = votes.count(limits.language)
    one_voice = len(votes) > 1 and len(set(votes)) == 1
    if 2 * num_wanted > len(votes) or (english and (num_wanted or not one_voice)):
        return None
    others = Counter(vote for vote in votes if vote != limits.language)
    return Rejection("language", ", ".join(sorted(others, key=lambda name: (-others[name], name))))


def english_share(text: str) -> float:
    """The share of ENGLISH_WORDS among the lower-case words of a body, formulas included, from slices spread over it."""
    step = max(len(text) // NUM_SLICES, SLICE_CHARS)
    words = [
        word
        for start in range(0, len(text), step)
        for word in LOWERCASE_WORD.findall(text[start : start + SLICE_CHARS])
    ]
    return sum(word in ENGLISH_WORDS for word in words) / max(len(words), 1)


def prose(text: str) -> str:
    """A text without mathematics, markup and digits; paragraphs stay apart."""
    return NOT_PROSE.sub(" ", text)


def num_letters(text: str) -> int:
    """Letters of any alphabet."""
    return sum(map(str.isalpha, text))


def prose_windows(text: str) -> Iterator[str]:
    """Up to WINDOWS pieces of a body's prose, from its beginning, middle and end: the longest paragraphs of a region, joined."""
    num_regions = min(max(len(text) // (2 * WINDOW_CHARS), 1), WINDOWS)
    carried = ""
    for number in range(num_regions):
        start = number * len(text) // num_regions
        region = text[start : min(start + WINDOW_REGION_CHARS, (number + 1) * len(text) // num_regions)]
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", prose(region))]
        carried = (carried + " " + " ".join(sorted(paragraphs, key=len, reverse=True)))[:WINDOW_CHARS]
        if num_letters(carried) >= WINDOW_LETTERS:
            yield carried
            carried = ""
    if num_regions == 1 and num_letters(carried) >= LEAST_LETTERS:
        yield carried  # a short body has no more to judge by


@functools.cache
def language_profiles() -> Any:
    """langdetect's detector factory with its 55 languages: 0.3 s once a process, against 2 ms for a guess.

    The profiles are read in the order of their names (langdetect takes the folder's, which differs between machines), and
    the seed is fixed: the same text gives the same answer everywhere.
    """
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.set_seed(0)
    factory.load_json_profile(
        [path.read_text("utf-8") for path in sorted(Path(PROFILES_DIRECTORY).iterdir()) if path.is_file()]
    )
    return factory


def guess_language(text: str) -> str | None:
    """langdetect's name of the language ('en', 'fr', 'zh-cn'), None where the text has no letters to go by."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = language_profiles().create()
    detector.n_trial = NUM_TRIALS
    detector.append(text)
    try:
        name = detector.detect()
    except LangDetectException:
        return None
    return None if name == detector.UNKNOWN_LANG else str(name)


# Metadata files -----------------------------------------------------------------------------------------------------------


@dataclass
class Census:
    """What `read_metadata` met on its way: counts, and the first few examples of each trouble."""

    num_records: int = 0
    num_bad_lines: int = 0
    num_null_abstracts: int = 0
    missing_keys: Counter[str] = field(default_factory=Counter)
    unknown_categories: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def bad_line(self, number: int, problem: str) -> None:
        """Count a line that is no record; describe the first NUM_EXAMPLES."""
        self.num_bad_lines += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(f"line {number}: {problem}"[:200])

    def look_at(self, record: Mapping[str, Any]) -> None:
        """Count what is odd about a record."""
        self.num_records += 1
        self.missing_keys.update(key for key in USED_KEYS if key not in record)
        self.num_null_abstracts += not record.get("abstract")
        self.unknown_categories.update(name for name in category_names(record) if name not in KNOWN_CATEGORIES)

    def sentences(self) -> list[str]:
        """What was odd, one line each; empty if nothing was."""
        found = []
        if self.num_bad_lines:
            found.append(f"{self.num_bad_lines:,} lines are no records: {'; '.join(self.examples)}")
        if self.missing_keys:
            found.append(
                "keys missing: " + ", ".join(f"{key} ({num:,})" for key, num in self.missing_keys.most_common())
            )
        if self.num_null_abstracts:
            found.append(f"{self.num_null_abstracts:,} records have no abstract")
        if self.unknown_categories:
            named = ", ".join(f"{name} ({num:,})" for name, num in self.unknown_categories.most_common(NUM_EXAMPLES))
            found.append(f"{len(self.unknown_categories):,} categories are unknown: {named}")
        return found


METADATA_REASONS = ("bad-metadata", "category", "year", "licence", "withdrawn")  # in the order of the checks
USED_KEYS = ("title", "abstract", "categories", "comments", "license", "versions")
NUM_EXAMPLES = 5


def read_metadata(path: Path, census: Census) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, record) of each line of a metadata file that is one; all others are counted in `census`.

    JSON lines, plain or gzipped (told by content, not by name). Raises UserError for a folder, a zip, or a file that holds no
    record at all; a gzip file that is cut short gives what stands before the cut.
    """
    if need_file(path, "metadata").is_dir():
        raise UserError(f"{path} is a folder; name the snapshot's file (arxiv-metadata-oai-snapshot.json)")
    with path.open("rb") as raw:
        magic = raw.read(2)
        raw.seek(0)
        if magic == b"PK":
            raise UserError(f"{path} is a zip archive; unzip it and name the .json file inside")
        lines: IO[bytes] = gzip.open(raw) if magic == b"\x1f\x8b" else raw  # type: ignore[assignment]  # noqa: SIM115
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if not line.isspace():
                    yield from usable_record(line, number, census)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            census.bad_line(number + 1, f"the file is cut short or damaged here ({error})")
    if not census.num_records:
        raise UserError(
            f"{path} holds no record ({'; '.join(census.examples) or 'it is empty'}); JSON lines are needed"
        )


def usable_record(line: bytes, number: int, census: Census) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, record) of a line, or nothing and a count of what is wrong."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        census.bad_line(number, f"not JSON ({error})")
        return
    paper_id = record.get("id") if isinstance(record, dict) else None
    if not isinstance(paper_id, str) or not paper_id.strip() or not paper_id.isprintable():
        census.bad_line(
            number, "no id" if isinstance(record, dict) else f"{type(record).__name__} instead of an object"
        )
        return
    census.look_at(record)
    yield paper_id.strip(), record


# Command line -------------------------------------------------------------------------------------------------------------


def known_category(name: str) -> str:
    """The name, if arXiv has such an archive or category; else a UserError."""
    if name not in KNOWN_CATEGORIES:
        raise UserError(f"--categories {name} is none of arXiv's; give archives or whole names, such as math or cs.LG")
    return name


def limit_flags(parser: argparse._ActionsContainer) -> None:
    """The flags of the metadata filter, with the paper's values as defaults."""
    default = Limits()
    parser.add_argument(
        "--categories",
        nargs="+",
        type=known_category,
        default=list(default.categories),
        help="archives or whole names (default: %(default)s)",
    )
    parser.add_argument(
        "--primary-only", action="store_true", help="the first category must be wanted, not any of them"
    )
    parser.add_argument(
        "--first-year", type=int, default=default.first_year, help="of the first version (default: %(default)s)"
    )
    parser.add_argument(
        "--licences", nargs="+", choices=sorted(LICENCES), help="keep papers under these only (default: all)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the metadata funnel of one or more files."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--metadata", type=Path, nargs="+", required=True, help="JSON lines as in arXiv's Kaggle snapshot, or .gz"
    )
    parser.add_argument("--samples", type=int, default=0, help="show this many papers for each reason")
    limit_flags(parser)
    args = parser.parse_args(argv)
    licences = None if args.licences is None else tuple(args.licences)
    limits = Limits(tuple(args.categories), args.primary_only, args.first_year, licences=licences)
    census, counts = Census(), Counter[str]()
    samples: dict[str, list[tuple[str, str, str]]] = {}  # for each reason, those whose ids have the smallest hashes
    for path in args.metadata:
        for paper_id, record in read_metadata(path, census):
            rejection = check_metadata(record, limits)
            reason, detail = "kept", " ".join(category_names(record))
            if rejection is not None:
                reason, detail = rejection.reason, rejection.detail
            counts[reason] += 1
            chosen = samples.setdefault(reason, [])
            chosen.append((hashlib.sha256(paper_id.encode()).hexdigest(), paper_id, detail))
            chosen.sort()
            del chosen[args.samples :]
    counts["bad-metadata"] += census.num_bad_lines
    print_funnel(counts, samples)
    for sentence in census.sentences():
        print(sentence, file=sys.stderr)
    return 0


def print_funnel(counts: Mapping[str, int], samples: Mapping[str, Sequence[tuple[str, str, str]]]) -> None:
    """Lines in, out by reason, kept; then the samples."""
    num_lines = sum(counts.values())
    print(f"{'lines':14}{num_lines:>10,}")
    for reason in (*METADATA_REASONS, "kept"):
        print(f"{reason:14}{counts.get(reason, 0):>10,}{counts.get(reason, 0) / num_lines:>8.1%}")
    for reason in (*METADATA_REASONS, "kept"):
        for _, paper_id, detail in samples.get(reason, ()):
            print(f"  {reason}: {paper_id}: {detail}")


if __name__ == "__main__":
    run(main)
