"""The cleaner against its manual (tests/cases), against a slow reading of the same rules, and against hostile input."""

import gc
import json
import random
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.latex_cleaner import MIN_LETTERS, Cleaned, Removal, clean_latex, find_parts, main
from data_prep.latex_source import Source, brace_pairs, strip_comments
from data_prep.records import REASONS, Rejection
from tests.conftest import run_command
from tests.slow_cleaner import slow_clean

CASES = Path(__file__).parent / "cases"
CASE = re.compile(r"^## ([^\n]+)\n\n```latex\n(.*?)\n```\n\n```text\n(.*?)\n?```$", re.M | re.S)
PADDING = "Enough letters to be a text at all."


def cases() -> list[tuple[str, str, str]]:
    """(heading, LaTeX, text) of every case in tests/cases."""
    found = []
    for path in sorted(CASES.glob("*.md")):
        text = path.read_text("utf-8")
        here = [(f"{path.stem}: {match[1]}", match[2], match[3]) for match in CASE.finditer(text)]
        assert len(here) == text.count("\n## "), f"{path} holds a case that is not heading, latex, text"
        found += here
    assert len(found) >= 70
    return found


def text_of(source: str, **options: bool) -> str:
    """The cleaned text of a source that is not rejected."""
    cleaned = clean_latex(source, **options)
    assert isinstance(cleaned, Cleaned), cleaned
    return cleaned.text


@pytest.mark.parametrize(("heading", "latex", "text"), cases(), ids=[case[0] for case in cases()])
def test_manual(heading: str, latex: str, text: str) -> None:
    if sum(map(str.isalpha, text)) >= MIN_LETTERS:
        assert text_of(latex) == text
    else:  # too short to be a paper: with more prose behind it
        assert text_of(latex + "\n\n" + PADDING).removesuffix(PADDING).strip() == text


def test_document_environment_bounds_the_text() -> None:
    source = "\\documentclass{article}\\begin{document}" + PADDING + "\\end{document} Outside."
    assert text_of(source) == PADDING


def test_bye_ends_plain_tex() -> None:
    assert text_of("\\magnification=1200 \\hsize=5in\n" + PADDING + "\\bye Outside.") == PADDING


def test_captions_are_kept_on_demand() -> None:
    source = PADDING + "\\begin{figure}\\includegraphics{a}\\caption{A \\emph{fine} {plot}.}\\end{figure} End."
    assert "plot" not in text_of(source)
    assert "A fine plot." in text_of(source, keep_captions=True)


def test_title_abstract_and_parts() -> None:
    source = (
        "\\documentclass{a}\\title{On \\emph{sums}\\thanks{x}}\\begin{document}\\maketitle\\begin{abstract}We sum.\\end{abstract}"
        "\\section{Introduction}\nIt begins.\n\\section{Sums}\nThey are.\n\\section{Conclusions}\nIt ends.\\end{document}"
    )
    cleaned = clean_latex(source)
    assert isinstance(cleaned, Cleaned)
    assert (cleaned.title, cleaned.abstract) == ("On sums", "We sum.")
    spans = {name: cleaned.text[start:end].strip() for name, (start, end) in cleaned.parts.items()}
    assert spans == {"abstract": "We sum.", "introduction": "It begins.", "conclusion": "It ends."}


def test_an_abstract_of_the_preamble_is_told_though_the_text_has_none() -> None:
    cleaned = clean_latex("\\documentclass{a}\\abstract{In short.}\\begin{document}" + PADDING + "\\end{document}")
    assert isinstance(cleaned, Cleaned)
    assert (cleaned.abstract, cleaned.text, find_parts(cleaned.text)) == ("In short.", PADDING, {})


@pytest.mark.parametrize(
    "source", ["", "%", "\\", "{", "$", "\\begin{document}\\end{document}", "\\def", "\\newcommand{\\x}"]
)
def test_nothing_left_is_one_reason(source: str) -> None:
    rejected = clean_latex(source)
    assert isinstance(rejected, Rejection)
    assert rejected.reason == "no-text"
    assert rejected.reason in REASONS


def test_explain_names_one_rule_for_a_command_that_nobody_knows() -> None:
    source = f"{PADDING} \\newdimen\\mine See \\Iref{{5a}}, \\mycite{{b}} and \\foo{{c}}. \\mine=3pt Then \\bar."
    told: list[Removal] = []
    clean_latex(source, explain=told)
    rules = {removal.excerpt: removal.rule for removal in told}
    assert "\\Iref" not in rules
    assert rules["\\Iref{5a}"] == "reference \\Iref"
    assert rules["\\mycite{b}"] == "citation \\mycite"
    assert rules["\\foo"] == "unknown command"
    assert rules["\\mine=3pt"] == "assignment"


def test_explain_tells_what_went_from_a_formula_and_with_its_environment() -> None:
    source = f"{PADDING}\n\\excludecomment{{draft}}\n\\begin{{draft}}no\\end{{draft}}\n\\begin{{equation}}\na \\label{{x}}\n\\end{{equation}}"
    told: list[Removal] = []
    clean_latex(source, explain=told)
    assert ("in a formula \\label", 5, "\\label{x}") in told
    assert ("excluded environment draft", 3, "\\begin{draft}no\\end{draft}") in told


def test_explain_names_rule_line_and_excerpt() -> None:
    source = f"% first\n{PADDING}\n\\def\\x{{y}}\nA word\\label{{l}}, \\x{{}} % last\nmore~\\cite{{k}}.\n\\end{{document}} gone"
    events: list[Removal] = []
    plain, told = clean_latex(source), clean_latex(source, explain=events)
    assert plain == told
    assert [(event.rule, event.line) for event in events] == [
        ("comment", 1),
        ("definition \\def", 3),
        ("command \\label", 4),
        ("comment", 4),
        ("citation \\cite", 5),
        ("text after the document", 6),
    ]
    assert events[2].excerpt == "\\label{l}"


HOSTILE = {
    "braces": lambda n: "{" * n + "x" + "}" * n,
    "open braces": lambda n: "{ a " * n,
    "dollars": lambda n: "$" * n,
    "dollars and braces": lambda n: "${$ " * n,
    "open footnotes": lambda n: "\\footnote{ a" * n,
    "nested footnotes": lambda n: "\\footnote{ a" * n + "}" * n,
    "open figures": lambda n: "\\begin{figure} a " * n,
    "nested figures": lambda n: "\\begin{figure} a " * n + "\\end{figure}" * n,
    "open iffalse": lambda n: "\\iffalse a " * n,
    "one fi": lambda n: "\\iffalse a " * n + "\\fi",
    "open verb": lambda n: "\\verb|a " * n,
    "open verbatim": lambda n: "\\begin{verbatim} a " * n,
    "open display": lambda n: "\\[ a \\\\] " * n,
    "one line": lambda n: "word $x$ \\alpha {y} " * n,
    "backslashes": lambda n: "\\" * n + "%",
    "calls itself": lambda n: "\\def\\x{\\x\\x}" + "\\x " * n,
    "call each other": lambda n: "\\def\\x#1{\\y{#1#1}}\\def\\y#1{\\x{#1}}" + "\\x{a} " * n,
    "parameter text": lambda n: "\\def\\x" + "#1a" * n + "{b}",
    "open argument": lambda n: "\\newcommand{\\x}[1]{(#1)}" + "\\x{ a " * n,
    "open option": lambda n: "\\newcommand{\\x}[2][d]{#1#2}" + "\\x[ a " * n,
    "tail": lambda n: "\\def\\a{\\b}\\def\\b#1{<#1>\\b}" + "\\a{x" * n,
    "macros hand on": lambda n: "\\def\\a{\\b}\\def\\b{\\a}\\def\\c#1{\\d}\\def\\d#1{\\c}" + "\\a{x}\\c{y}{z} " * n,
    "nested acronyms": lambda n: "\\DeclareAcronym{a}{ " * n + "}" * n,
    "nested xparse environments": lambda n: "\\NewDocumentEnvironment{a}{ " * n + "}" * n,
    "nested xparse commands": lambda n: "\\NewDocumentCommand\\x{ " * n + "}" * n,
    "environment defines itself": lambda n: "\\def\\d{\\newenvironment{x}{\\d\\begin{x}}{\\end{x}}}\\d " + "\\begin{x} a" * n,
    "environment begins itself": lambda n: "\\newenvironment{x}{\\begin{x}$$}{\\end{x}}" + "\\begin{x} a" * n,
    "nested tests": lambda n: "\\newtoggle{x}" + "\\nottoggle{x}{ a " * n + "}{}" * n,
    "negations": lambda n: "\\ifthenelse{" + "\\NOT " * n + "\\boolean{x}}{a}{b}",
    "open units": lambda n: "\\SI{1}{ a " * n,
    "long acronym": lambda n: "\\acrodef{a}[a]{" + "long " * n + "}" + "\\acl{a} " * n,
    "blanks": lambda n: " \n" * n,
    "lines of labels": lambda n: "a\n" + "  \\label{b} \\index{c}\n" * n,
    "open columns": lambda n: "\\twocolumn[ a " * n,
    "open drawings": lambda n: "\\tikz \\draw a " * n,
    "open nodes": lambda n: "\\tikz{\\node[a (b) " * n + "}" * n,
    "arguments of the unknown": lambda n: "\\foo{ a" * n + "}{b}" * n,
    "nested blocks": lambda n: "\\If{a}{ b " * n + "}" * n,
    "nested quotes": lambda n: "\\enquote{ a " * n + "}" * n,
    "numbers without a unit": lambda n: "\\SI{ a " * n + "}" * n,
    "ranges": lambda n: "\\numrange{ a " * n + "}" * n,
    "nested tests of strings": lambda n: "\\IfStrEqCase{a}{{a}{" * n + "}}" * n,
    "nested equalities": lambda n: "\\IfStrEq{a}{" * n + "}{b}{c}" * n,
    "restated": lambda n: "\\begin{restatable}[a]{b}{c} d " * n + "\\end{restatable} " * n,
    "empty environments": lambda n: "\\begin{aug} \n" * n + " \\end{aug} " * n,
    "options of environments": lambda n: "\\begin{foo}[aa=" * n,
    "arguments of environments": lambda n: "\\begin{foo}{a " * n + "}" * n,
    "entries": lambda n: "\\bibitem a " * n,
    "open inserts": lambda n: "\\midinsert \\xy a " * n,
    "settings of xy": lambda n: "\\xymatrix@a" * n,
    "open addresses": lambda n: "\\url{ a " * n + "}" * n,
    "parts of an abstract": lambda n: "\\abstract{ a" * n + "}{b}" * n,
    "fractions": lambda n: "\\nicefrac{" * n + "}{b}" * n,
    "open preamble": lambda n: "\\documentclass{a}" + "\\def\\x{" * n + "\\begin{document}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_length(name: str) -> None:
    """Four times the input takes about four times as long, not sixteen; noise is kept out by the best of three."""
    seconds = []
    for count in (1_500, 6_000):
        source = PADDING + HOSTILE[name](count)
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            clean_latex(source)
            best = min(best, time.process_time() - started)
        seconds.append(best)
    assert seconds[1] < 10 * seconds[0] + 0.02, seconds


def test_billion_laughs_stop_at_the_budget() -> None:
    names = "abcdefghijklmnop"
    bomb = "".join(f"\\def\\{a}x{{\\{b}x\\{b}x\\{b}x\\{b}x}}" for a, b in pairwise(names))
    started = time.process_time()
    cleaned = clean_latex(PADDING + bomb + "\\def\\px{ha}\\ax")
    assert isinstance(cleaned, Cleaned)
    assert "expansion-budget" in cleaned.warnings
    assert len(cleaned.text) < 1_000_000
    assert time.process_time() - started < 2


def test_cleaning_leaves_nothing_for_the_garbage_collector() -> None:
    """So that a worker may call it seldom."""
    source = PADDING + "\\newcommand{\\x}[1]{#1}\\newif\\iff \\x{$y$} \\footnote{a} \\begin{figure}\\end{figure}"
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            clean_latex(source)
        assert gc.collect() == 0
    finally:
        gc.enable()


# ---------------------------------------------------------------- properties

WORDS = st.sampled_from(
    [
        "one",
        "two",
        "Three.",
        "x",
        "y,",
        "1",
        "a b",
        "it's",
        "``q''",
        "--",
        "~",
        "\n",
        "\n\n",
        "\\ ",
        "\\%",
        "\\$",
        "\\&",
        "\\'e",
        '\\"{o}',
    ]
)
OPENERS = st.sampled_from(
    ["\\emph", "\\footnote", "\\section", "\\label", "\\ref", "\\unknown", "\\index", "\\mac", ""]
)
ENVIRONMENTS = st.sampled_from(["theorem", "itemize", "center", "figure", "tabular"])


def pieces(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """LaTeX made of smaller LaTeX."""
    return st.one_of(
        st.builds(lambda name, body: f"{name}{{{body}}}", OPENERS, inner),
        st.builds(lambda name, body: f"\\begin{{{name}}}{body}\\end{{{name}}}", ENVIRONMENTS, inner),
        st.builds(
            lambda body: f"${body.replace('$', '').strip()}$",
            st.sampled_from(["a", "\\alpha_{1}", "\\zero", "x\\label{q}", "\\{"]),
        ),
        st.builds(lambda left, right: left + right, inner, inner),
        st.builds(lambda body: f"\\iffalse {body}\\fi ", inner),
        st.builds(lambda body: f"% {body.splitlines()[0] if body.splitlines() else ''}\n", inner),
    )


LATEX = st.recursive(WORDS, pieces, max_leaves=25)
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(
            [
                "{",
                "}",
                "$",
                "\\",
                "%",
                "\\begin{",
                "\\fi",
                "\\end{figure}",
                "[",
                "",
                "\\[",
                "$$",
                "\\verb|",
                "\\\\",
                "\\begin{align}",
                "\\def\\x",
                "#1",
            ]
        ),
    ),
    max_size=6,
)
BOUNDED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
DEFINITIONS = "\\newcommand{\\mac}[1]{<#1>}\\newcommand{\\zero}{\\alpha}"


@BOUNDED
@given(LATEX)
def test_agrees_with_the_slow_reading(latex: str) -> None:
    source = f"{DEFINITIONS}\n\n{PADDING}\n\n{latex}"
    assert text_of(source) == slow_clean(source)


@BOUNDED
@given(LATEX, DAMAGE)
def test_any_source_becomes_balanced_text_or_one_reason(latex: str, damage: list[tuple[int, str]]) -> None:
    source = f"{DEFINITIONS}\n\n{PADDING}\n\n{latex}"
    for place, what in damage:
        place = len(DEFINITIONS) + place % (len(source) - len(DEFINITIONS))
        source = source[:place] + what + source[place:]
    cleaned = clean_latex(source)
    assert isinstance(cleaned, Cleaned | Rejection)
    if isinstance(cleaned, Cleaned) and "\\verb" not in source:
        bare = re.sub(r"\\[\s\S]", "", cleaned.text)
        assert bare.count("{") == bare.count("}"), cleaned.text
        assert bare.count("$") % 2 == 0, cleaned.text
        assert not re.search(
            r"\\(?:label|footnote|newcommand|iffalse)(?![A-Za-z])", re.sub(r"\$.*?\$", "", bare, flags=re.S)
        )
    assert clean_latex(source) == cleaned


@BOUNDED
@given(st.text(alphabet="{}\\ a%", max_size=80))
def test_group_ends_agree_with_counting(text: str) -> None:
    source, pairs = Source(text), brace_pairs(text)
    for match in re.finditer(r"\\[\s\S]|(\{)", text):
        if match[1]:
            assert source.group_end(match.start()) == pairs.get(match.start(), -1)


@BOUNDED
@given(st.text(alphabet="ab%\\ \n", max_size=60))
def test_comments_are_the_same_with_and_without_places(text: str) -> None:
    places: list[tuple[int, int]] = []
    told = strip_comments(text, places)
    squeeze = lambda given: [" ".join(line.split()) for line in given.split("\n")]  # noqa: E731
    assert squeeze(told) == squeeze(strip_comments(text))
    assert places == sorted(places)


# ---------------------------------------------------------------- command line


def test_a_paper_goes_to_stdout(tmp_path: Path) -> None:
    paper = tmp_path / "paper.tex"
    paper.write_bytes(("% hidden\n" + PADDING + " caf\\'e \xe9").encode("latin-1"))
    done = run_command("data_prep/latex_cleaner.py", paper, "--explain")
    assert done.returncode == 0, done.stderr
    assert done.stdout == PADDING + " café é\n"
    assert done.stderr == "line 1: comment: % hidden\n"


def test_records_become_texts_and_rejects(tmp_path: Path) -> None:
    flat, out = tmp_path / "flat.jsonl", tmp_path / "clean.jsonl"
    rows = [{"id": "1", "version": 2, "source": PADDING}, {"id": "2", "version": None, "source": "\\bye"}]
    flat.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["--input", str(flat), "--out", str(out)]) == 0
    (kept,) = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert kept == {"id": "1", "version": 2, "text": PADDING, "title": "", "abstract": "", "parts": {}, "warnings": []}
    (rejected,) = [json.loads(line) for line in out.with_suffix(".rejects.jsonl").read_text("utf-8").splitlines()]
    assert (rejected["id"], rejected["reason"]) == ("2", "no-text")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a paper.tex (with --explain, if you like), or --input flat.jsonl and --out clean.jsonl"),
        (["nowhere.tex"], "paper nowhere.tex does not exist"),
        (["--input", "nowhere.jsonl", "--out", "x.jsonl"], "input nowhere.jsonl does not exist"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_command("data_prep/latex_cleaner.py", *arguments)
    assert done.returncode == 2
    assert done.stderr == f"latex_cleaner.py: {message}\n"


def test_the_order_of_records_is_kept() -> None:
    """The same source gives the same text however many were cleaned before it."""
    sources = [f"{PADDING} \\def\\x{{{number}}}\\x" for number in range(5)]
    alone = [text_of(source) for source in sources]
    random.Random(1).shuffle(sources)
    assert sorted(text_of(source) for source in sources) == sorted(alone)
