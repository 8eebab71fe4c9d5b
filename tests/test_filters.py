"""Which papers are wanted: categories, years, licences, withdrawals, lengths, languages, and metadata files with faults."""

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.language import SENTENCES, compose, forms
from data_prep import filters
from data_prep.cli import UserError
from data_prep.filters import Census, Limits, check_language, check_length, check_metadata
from tests.conftest import need_shared, run_command

PAPER: dict[str, Any] = {
    "id": "1403.0037",
    "title": "On sums",
    "abstract": "We sum.",
    "categories": "math.NT cs.DM",
    "comments": "7 pages",
    "license": "http://creativecommons.org/licenses/by/4.0/",
    "versions": [{"version": "v1", "created": "Mon, 3 Mar 2014 10:00:00 GMT"}],
}


def reason(limits: Limits | None = None, **changes: Any) -> str | None:
    """The reason for which PAPER, so changed, is rejected; None if it is kept. A change to ... removes the key."""
    record = {key: value for key, value in (PAPER | changes).items() if value is not ...}
    rejection = check_metadata(record, limits or Limits())
    return rejection.reason if rejection else None


# Categories


@pytest.mark.parametrize(
    ("categories", "wanted", "kept"),
    [
        ("math.NT", ("math",), True),
        ("math", ("math",), True),
        ("cs.LG stat.ML", ("cs",), True),
        ("physics.optics", ("cs",), False),
        ("physics.hist-ph nucl-ex", ("cs", "math", "stat.TH"), False),
        ("math-ph", ("math",), False),
        ("math-ph math.MP", ("math",), True),
        ("stat.ME", ("stat.ML", "stat.TH"), False),
        ("hep-th gr-qc", ("hep-th",), True),
        ("hep-lat", ("hep-th", "hep-ph"), False),
        ("cs.LG", ("cs.L",), False),
        ("gr-qc math.DG", ("math",), True),
        (["math.NT cs.DM"], ("cs",), True),
    ],
)
def test_categories_are_whole_names(categories: object, wanted: tuple[str, ...], kept: bool) -> None:
    assert (reason(Limits(categories=wanted), categories=categories) is None) == kept


def test_primary_category_only() -> None:
    assert reason(Limits(primary_only=True), categories="gr-qc math.DG") == "category"
    assert reason(Limits(primary_only=True), categories="math.DG gr-qc") is None


def test_the_papers_own_limits() -> None:
    assert Limits() == Limits(
        categories=("math", "cs", "hep-th", "hep-ph", "quant-ph", "stat.ML", "stat.TH"),
        primary_only=False,
        first_year=2001,
        min_body_chars=2000,
        language="en",
        licences=None,
    )


# Years


def versions(*dates: str) -> list[dict[str, str]]:
    return [{"version": f"v{number}", "created": date} for number, date in enumerate(dates, 1)]


@pytest.mark.parametrize(
    ("record", "year"),
    [
        ({"id": "1403.0037", "versions": versions("Mon, 3 Mar 2014 10:00:00 GMT")}, 2014),
        (
            {
                "id": "math/0101001",
                "versions": versions("Sun, 31 Dec 2000 23:50:00 GMT", "Tue, 2 Jan 2001 08:00:00 GMT"),
            },
            2000,
        ),
        (
            {
                "id": "math/0012001",
                "versions": versions("Mon, 5 Mar 2001 08:00:00 GMT", "Sun, 31 Dec 2000 23:50:00 GMT"),
            },
            2000,
        ),
        ({"id": "0704.0001"}, 2007),
        ({"id": "0704.0001", "versions": []}, 2007),
        ({"id": "0704.0001", "versions": [{"version": "v1"}, None, 3]}, 2007),
        ({"id": "0704.0001", "versions": versions("long ago")}, 2007),
        ({"id": "hep-th/9901001"}, 1999),
        ({"id": "math/0303002"}, 2003),
        ({"id": "math.GT/0303002", "versions": None}, 2003),
        ({"id": "thesis"}, None),
    ],
)
def test_year_of_the_first_version(record: dict[str, Any], year: int | None) -> None:
    assert filters.first_year(record) == year


def test_years() -> None:
    old = versions("Sun, 31 Dec 2000 23:50:00 GMT")
    assert reason(versions=old) == "year"
    assert reason(Limits(first_year=2000), versions=old) is None
    assert reason(Limits(first_year=None), versions=versions("1 Jan 1992")) is None


@pytest.mark.parametrize(
    "changes",
    [{"categories": ...}, {"categories": ""}, {"categories": 7}, {"id": "thesis", "versions": ...}, {"id": ...}],
)
def test_records_without_the_needed_keys(changes: dict[str, Any]) -> None:
    assert reason(**changes) == "bad-metadata"


@pytest.mark.parametrize("missing", ["title", "abstract", "comments", "license", "versions"])
@pytest.mark.parametrize("value", [..., None])
def test_other_keys_may_be_missing_or_null(missing: str, value: object) -> None:
    assert reason(**{missing: value}) is None


# Licences


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("http://creativecommons.org/licenses/by/4.0/", "cc-by"),
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/", "cc-by-nc-sa"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "cc0"),
        ("http://arxiv.org/licenses/nonexclusive-distrib/1.0/", "arxiv"),
        (None, "none"),
        ("", "none"),
        ("http://example.org/mine", "http://example.org/mine"),
    ],
)
def test_licence_names(value: str | None, name: str) -> None:
    assert filters.licence_name(value) == name


def test_licences() -> None:
    assert reason(Limits(licences=("cc-by", "cc0"))) is None
    assert reason(Limits(licences=("cc-by-sa",))) == "licence"
    assert reason(Limits(licences=("cc-by",)), license=None) == "licence"
    assert reason(Limits(licences=("none",)), license=None) is None


# Withdrawals: what authors write, each in words of our own

WITHDRAWN = """
This paper has been withdrawn
This paper has been withdrawn by the authors due to a sign error in equation 5.
The paper is withdrawn: the main lemma is false
This article was withdrawn by the author, who found a gap in Section 2
withdrawn
Withdrawn.
WITHDRAWN BY THE AUTHOR
Withdrawn due to an error in the proof of Theorem 3
withdrawn by arXiv administrators because of disputed authorship
12 pages, 3 figures. Withdrawn because the result was known
9 pages, LaTeX, paper withdrawn
14 pages, two figures This paper has been withdrawn, since a stronger result is now available
3 pages; manuscript withdrawn by author
This submission has been withdrawn by arXiv administrators because it copies other papers
arXiv admin note: This submission has been removed by arXiv administrators due to false authorship
Removed by arXiv administration for breach of the licence
This preprint is temporarily withdrawn while we check a computation
The authors have withdrawn this manuscript, for the numerics were unstable
The author withdraws this paper as its proof is incomplete
I am withdrawing my paper from arXiv since others were first
I withdraw this article, to be rewritten
We found a mistake and have decided to withdraw the manuscript.
All authors agree to withdraw it, as it was not ready
This paper (math.AG) has been withdrawn, see our later work
This papers has been withdrawn
paper has bee withdrawn by the author
Withdrwan by the authors
The paper has therefore been withdrawn
It has been withdrawn. A new version may follow.
The article is taken out for revision
This paper was removed by arXiv admin as it plagiarizes an earlier one
This article has been retracted by the authors
Withdrawn - uploaded by mistake
Reason for withdrawal: the second lemma fails
WITHDRAWAL NOTICE The authors withdraw this.
The preprints arXiv:1403.0036 and arXiv:1403.0037 are withdrawn because of an error in the first.
This note has been withdrawn from arXiv
arXiv admin note: This version has been removed, as it breaks the copyright policy
This version withdrawn by arXiv administrators as the submitter had no right to agree to the licence
The author retracts this paper
This article has been deleted at the wish of all authors
Please disregard this submission, it is a test
This paper replaces nothing and has been long. This paper has been withdrawn.
""".strip().split("\n")

NOT_WITHDRAWN = """
7 pages, 2 figures
Replaces withdrawn math/0101001
This paper replaces an earlier one that was withdrawn (arXiv:1002.0001)
Previous version withdrawn
The first version of this paper was withdrawn; this is a corrected one
An earlier version of this article has been withdrawn because of a mistake in Lemma 2, now repaired
v2 is withdrawn, please read v3
Version 2 was withdrawn
Submitted to a journal in May, withdrawn from that journal in July, now sent to another
Was accepted at a conference but later withdrawn for lack of funds
Accepted by a journal; then withdrawn; now 20 pages
This paper was withdrawn from publication in the proceedings
Withdrawn from publication? No: to appear next year.
Section 4 of the first version has been withdrawn. Typos corrected.
We withdraw that claim; all other results stand
The submission to the Journal of Examples had been withdrawn
Natural successor of preprint math.QA/0101001, which has been withdrawn
This improves arXiv:1402.0001 by the same authors, which will be withdrawn
The companion paper has been withdrawn
The paper arXiv:1401.0001 has been withdrawn and its results are included here
A cash withdrawal model. 12 pages
Retractions of flag varieties, 20 pages
One figure removed by the authors to save space
We retract our earlier statement on running times
This paper was withdrawn earlier and is now complete
The paper was withdrawn and has now been resubmitted after corrections
It is often taken out of context
Please ignore the previous version
In this note has been removed the condition of compactness
In this paper deleted joins of graphs are counted
This version has been accepted; one figure was removed
""".strip().split("\n")


@pytest.mark.parametrize("comments", WITHDRAWN)
def test_withdrawn_by_comments_or_abstract(comments: str) -> None:
    assert reason(comments=comments) == "withdrawn"
    assert reason(abstract=f"  {comments}\n") == "withdrawn"


@pytest.mark.parametrize("comments", NOT_WITHDRAWN)
def test_not_withdrawn(comments: str) -> None:
    assert reason(comments=comments) is None


@pytest.mark.parametrize(
    "abstract",
    [
        "We study banks from which deposits are withdrawn at random times, and the withdrawal rate.",
        "A ball is slowly drawn out of the fluid from which it has been withdrawn before.",
        "Every compact space that is retracted onto a circle is considered. We ask when a work is done.",
        "We study which articles are retracted, and why journals withdraw them.",
        "The ether is withdrawn by the smart contract after the timeout.",
    ],
)
def test_abstracts_about_withdrawals(abstract: str) -> None:
    assert reason(abstract=abstract) is None


def test_the_statement_is_the_detail() -> None:
    rejection = check_metadata(PAPER | {"comments": "5 pages. Withdrawn due to\n  a gap. See also [3]"}, Limits())
    assert rejection is not None
    assert rejection.detail == "Withdrawn due to a gap."


# Lengths


def test_length() -> None:
    assert check_length("x" * 2000, Limits()) is None
    rejection = check_length("x" * 1999, Limits())
    assert rejection is not None
    assert (rejection.reason, rejection.detail) == ("too-short", "1999 characters")


# Languages


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_mixed_with_mathematics(language: str) -> None:
    for seed in range(4):
        for title, abstract, text in forms(compose(language, seed, 0.5), seed):
            rejection = check_language(title, abstract, text, Limits())
            assert (rejection is None) == (language == "en"), (title, rejection)


def test_formula_heavy_english_is_kept() -> None:
    for seed in range(8):
        for title, abstract, text in forms(compose("en", seed, 0.85), seed):
            assert check_language(title, abstract, text, Limits()) is None


def test_another_language_can_be_wanted() -> None:
    assert check_language(*compose("fr", 1, 0.5), Limits(language="fr")) is None
    rejection = check_language(*compose("en", 1, 0.5), Limits(language="fr"))
    assert rejection is not None
    assert (rejection.reason, rejection.detail) == ("language", "en")
    assert check_language(*compose("ru", 1, 0.5), Limits(language=None)) is None


@pytest.mark.parametrize("text", ["", "$x$ \\[ y \\]", "12 34 56", "\\begin{equation} a"])
def test_a_body_without_prose_is_no_reason(text: str) -> None:
    assert check_language("", "", text, Limits()) is None
    english = compose("en", 1, 0)
    assert check_language(english[0], english[1], text, Limits()) is None


def test_a_body_without_prose_under_a_french_abstract() -> None:
    title, abstract, _ = compose("fr", 1, 0)
    rejection = check_language(title, abstract, "$x$", Limits())
    assert rejection is not None
    assert rejection.detail == "fr"


@pytest.mark.parametrize("piece", ["$", "\\begin{equation} x ", "\\[ a ", "\\cite[", "{" * 50, "$$ "])
def test_hostile_bodies_take_linear_time(piece: str) -> None:
    started_s = time.process_time()
    check_language("", "", piece * (2_000_000 // len(piece)), Limits())
    assert time.process_time() - started_s < 2


def test_english_papers_are_not_lost_and_the_answer_is_the_same_again() -> None:
    """All of them: a scan of the real e-prints' sources for bodies, without this repository's extraction."""
    folder = need_shared("eprints")
    metadata = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    heads = {record["id"]: (record["title"] or "", record["abstract"] or "") for record in metadata}
    spanish = "2207.08972"
    judged = {
        paper_id: check_language(*head, head[1], Limits()) for paper_id, head in heads.items() if len(head[1]) > 300
    }
    lost = {paper_id for paper_id, rejection in judged.items() if rejection}
    assert len(judged) > 150
    assert spanish in lost
    assert lost <= {spanish, "9912.00128"}, "9912.00128 is filler text in imitation Latin"


# Metadata files


def metadata_file(folder: Path, *lines: str, name: str = "metadata.json") -> Path:
    path = folder / name
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return path


FAULTY = [
    json.dumps(PAPER),
    '{"id": "1403.0038", "categories": "math.NT", "abstract": null}',
    "{broken",
    "",
    '["an", "array"]',
    '{"categories": "math.NT"}',
    '{"id": 1403.0039}',
    json.dumps(PAPER | {"id": "1403.0040", "categories": "math.XX cs.SEC math.NT"}),
    '{"id": "1403.0041", "title": "\\ud800", "categories": "cs.LG", "abstract": "x"}',
    '"\udcff"',
    "[" * 100_000,
]


def test_faulty_lines_are_counted_and_named(tmp_path: Path) -> None:
    census = Census()
    records = list(filters.read_metadata(metadata_file(tmp_path, *FAULTY), census))
    assert [paper_id for paper_id, _ in records] == ["1403.0037", "1403.0038", "1403.0040", "1403.0041"]
    assert (census.num_records, census.num_bad_lines, census.num_null_abstracts) == (4, 6, 1)
    sentences = "\n".join(census.sentences())
    assert "6 lines are no records: line 3: not JSON" in sentences
    assert "line 5: list instead of an object; line 6: no id; line 7: no id" in sentences
    assert "1 records have no abstract" in sentences
    assert "2 categories are unknown: math.XX (1), cs.SEC (1)" in sentences
    assert "comments (2)" in sentences


def test_packed_metadata_and_a_cut_file(tmp_path: Path) -> None:
    lines = [json.dumps(PAPER | {"id": f"1403.{number:04d}", "title": str(number) * 50}) for number in range(2000)]
    packed = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "metadata.json"
    path.write_bytes(packed)
    assert len(list(filters.read_metadata(path, Census()))) == 2000
    path.write_bytes(packed[: len(packed) // 2])
    census = Census()
    assert 500 < len(list(filters.read_metadata(path, census))) < 1500
    assert "cut short" in census.sentences()[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"holds no record \(it is empty\)"),
        (b"not\njson\n", r"holds no record \(line 1: not JSON"),
        (b"PK\x03\x04", r"is a zip archive; unzip it"),
    ],
)
def test_files_that_hold_no_metadata(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(filters.read_metadata(path, Census()))


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list(filters.read_metadata(tmp_path / "absent", Census()))
    with pytest.raises(UserError, match="is a folder"):
        list(filters.read_metadata(tmp_path, Census()))


def test_known_categories() -> None:
    assert {"math.NT", "cs.LG", "hep-th", "alg-geom", "q-bio", "eess.SP", "physics.optics"} <= filters.KNOWN_CATEGORIES
    assert not {"cs.SEC", "math.XX", "optics"} & filters.KNOWN_CATEGORIES


# Command line


def test_funnel_of_a_file(tmp_path: Path) -> None:
    path = metadata_file(tmp_path, *FAULTY, json.dumps(PAPER | {"id": "1403.0050", "comments": "withdrawn"}))
    done = run_command("data_prep/filters.py", "--metadata", path, "--samples", "1", "--categories", "math")
    assert done.returncode == 0
    funnel = dict(re.findall(r"(?m)^(\S+) +(\d+)", done.stdout))
    assert funnel == {
        "lines": "11",
        "bad-metadata": "6",
        "category": "1",
        "year": "0",
        "licence": "0",
        "withdrawn": "1",
        "kept": "3",
    }
    assert "  withdrawn: 1403.0050: withdrawn\n" in done.stdout
    assert "2 categories are unknown" in done.stderr


def test_a_category_that_arxiv_has_not() -> None:
    done = run_command("data_prep/filters.py", "--metadata", "x", "--categories", "cs", "maths")
    assert done.returncode == 2
    assert "maths is none of arXiv's; give archives or whole names" in done.stderr


def test_funnel_of_real_metadata() -> None:
    """The 49,000 records: every one accounted for, few categories unknown, withdrawals as counted by hand."""
    census = Census()
    path = need_shared("metadata", "abs_converted.jsonl.gz")
    verdicts = [check_metadata(record, Limits()) for _, record in filters.read_metadata(path, census)]
    assert len(verdicts) == census.num_records == 1144
    assert sum(verdict is None for verdict in verdicts) == 536
    everything = Limits(categories=tuple(filters.KNOWN_CATEGORIES), first_year=None)
    records = [record for _, record in filters.read_metadata(path, Census())]
    reasons = [verdict.reason for record in records if (verdict := check_metadata(record, everything))]
    assert reasons.count("withdrawn") == 10
    assert census.unknown_categories == {"cs.SEC": 9}
