"""The fidelity of cleaned texts by the scorer as it is, and by the scorer with what is provably wrong in it mended.

In: the scorer (../shared/fidelity/fidelity.py, imported, not changed), its set of e-prints, and cleaned texts as JSON lines.
Out: both rows side by side, and the papers that lose most by the mended one.

    python benchmarks/cleaning.py --out /tmp/clean.jsonl
    python benchmarks/fidelity_mended.py --texts /tmp/clean.jsonl
    python benchmarks/fidelity_mended.py --texts /tmp/clean.jsonl --each

With --each, also what the figures are where all is mended but one thing: what that one error costs.
Each entry of MENDED is something that the scorer asks for though TeX prints nothing of the kind at that place, with an e-print that
shows it. Nothing else is changed: the same words, formulas and macros are counted on both sides.
"""

import collections
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import Parser, need_file, run
from data_prep.records import read_jsonl

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"

GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\}"
OPTIONS = r"\*?(?:\s*\[[^\]]*\])*\s*"
# What is not printed where it stands -> an e-print in which the scorer asks for it.
UNPRINTED = {
    rf"\\[A-Za-z]*[Cc]ite[A-Za-z]*{OPTIONS}{GROUP}": "9912.00039: keys of \\textcite are words",
    rf"\\(?:sym)?index\s*{GROUP}": "9912.00148: formulas of \\index count as formulas of the text; 1308.0729: words, where it nests",
    rf"\\(?:text|page)?color{OPTIONS}{GROUP}": "9912.00047: the colour of \\color{{black}} is a word",
    rf"\\href\s*{GROUP}": "1712.06982: the address of \\href is words, that of \\url is none",
    rf"\\hypertarget\s*{GROUP}": "9912.00092: names of anchors are words",
    rf"\\[A-Za-z]*(?:[rR]ef|label)[A-Za-z]*{OPTIONS}{GROUP}": "0903.0180: keys of \\fullref are words",
    r"\\begin\s*\{(?:itemize|enumerate|description)\}\s*\[[^\]]*\]": "2004.14974: [leftmargin=*] of a list is a word",
    r"(?s:\\begin\s*\{(?:ascii|html|web)abstract\}.*?\\end\s*\{(?:ascii|html|web)abstract\})": "0903.0180: abstracts for other media",
    r"(?s:\\(?:mid|top|page)insert(?![A-Za-z]).*?\\endinsert)": "hep-lat/9107002: tables are formulas of the text",
    r"(?s:\\begin\s*\{tikz\}.*?\\end\s*\{tikz\})": "9912.00136: what a drawing is made of is words",
    rf"\\tikzstyle\s*{GROUP}\s*=\s*\[[^\]]*\]": "1009.5025: how drawings look is words",
    rf"\\(?:sub)*(?:section|chapter)mark\s*{GROUP}": "9912.00173: running heads are words a second time",
    rf"\\tikz{OPTIONS}{GROUP}": "1108.5386: what a drawing within a formula is made of is formula",
    rf"\\If(?:Str)?EqCase{OPTIONS}{GROUP}\s*{GROUP}": "9912.00020: branches that are not taken are words",
    r"(?s:\\thebibliography\s*\{.*)": "9912.00127: a bibliography without its environment is words",
    rf"\\(?:setlength|addtolength|definecolor|newcolumntype|lstset|lstinputlisting){OPTIONS}{GROUP}(?:\s*{GROUP}){{0,2}}": "2207.08972: settings of packages are words",
}
# A control word whose first letter is an accent's: `\textit` is read as the accent \t and the word "extit" (9912.00038).
ACCENTED = re.compile(
    r"\\(?!(?:cite|ref|url|bibliography|bibliographystyle|usepackage|documentclass|vspace|begin|cref|citep|citet|citealt|cline"
    r"|thispagestyle|theoremstyle)(?![A-Za-z]))[uvHtcdbkr][A-Za-z]+"
)
HIDDEN = re.compile(r"\\iffalse(?![A-Za-z]).*?\\fi(?![A-Za-z])", re.S)  # 9912.00059: TeX skips it
STRUCTURE = frozenset(("paragraph", "subparagraph", "subsubsection", "chapter", "part"))  # 1712.06982: redefined looks
LOOKS_AHEAD = re.compile(r"\\@(?:ifnextchar|ifstar|startsection)")  # 9912.00173: \prd cannot be replaced by its body
# The mends that are not in UNPRINTED.
OTHERS = {
    "accents": "9912.00038: \\textit is read as the accent \\t and the word extit",
    "iffalse": "9912.00059: what stands in \\iffalse is text",
    "blank line": "9912.00173: the body of a definition is looked for behind a blank line",
    "structure": "1712.06982: \\paragraph, which a class redefines, counts as the author's macro",
    "look ahead": "9912.00173: a macro that looks at what follows is replaced by its body",
    "expanded": "1703.01352, 9912.00054: floats and front matter that a macro begins",
}
MENDED = {**UNPRINTED, **OTHERS}


def load_scorer(path: Path) -> ModuleType:
    """The scorer as a module of its own, so that one copy can be mended and another left."""
    spec = importlib.util.spec_from_file_location("fidelity", need_file(path, "scorer"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mend(scorer: ModuleType, without: str = "") -> None:
    """Change the scorer in memory as the tables above say, but for one entry of MENDED."""
    words, comments, usable, reference = scorer.wordset, scorer.strip_comments, scorer.usable, scorer.reference
    blanks = scorer.skipws
    unprinted = re.compile("|".join(pattern for pattern in UNPRINTED if pattern != without))

    def mended_words(text: str, spans: Any = None) -> Any:
        text = unprinted.sub(" ", text)
        return words(text if without == "accents" else ACCENTED.sub(" ", text))

    def mended_comments(text: str) -> str:
        return HIDDEN.sub(" ", comments(text))

    def mended_blanks(text: str, pos: int) -> int:
        # a blank line is \\par, and that the body of \\doubleFin; \\htpy follows
        end: int = blanks(text, pos)
        return pos if text.count("\n", pos, end) > 1 else end

    def mended_usable(macros: dict[str, Any]) -> Any:
        return {
            name: macro
            for name, macro in usable(macros).items()
            if (name not in STRUCTURE or without == "structure")
            and (not LOOKS_AHEAD.search(macro[2]) or without == "look ahead")
        }

    def mended_reference(files: dict[str, bytes]) -> Any:
        found = reference(files)
        if found is None:
            return None
        text = found["Rx"] if without == "expanded" else scorer.cut_front(scorer.FLOATS.sub(" ", found["Rx"]))
        text = unprinted.sub(" ", text)
        formulas = (scorer.norm(formula) for formula in scorer.find_math(text)[0])
        found["F"] = collections.Counter(formula for formula in formulas if formula)
        found["words"] = mended_words(text)
        found["pct"] = len(re.findall(r"(?<!\\)(?:\\\\)*\\%", unprinted.sub(" ", found["R"])))
        return found

    changes = {"wordset": mended_words, "usable": mended_usable, "reference": mended_reference}
    if without != "blank line":
        changes["skipws"] = mended_blanks
    if without != "iffalse":
        changes["strip_comments"] = mended_comments
    vars(scorer).update(changes)


def score(scorer: ModuleType, folder: Path, texts: dict[str, str]) -> tuple[dict[str, float], dict[str, Any]]:
    """(totals, scores of each e-print)."""
    references = scorer.references(str(folder))
    scores = {name: scorer.score(ref, texts[name]) if texts.get(name) else None for name, ref in references.items()}
    return scorer.totals(references, scores), scores


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with id and text")
    parser.add_argument("--scorer", type=Path, default=SHARED / "fidelity" / "fidelity.py", help="the scorer")
    parser.add_argument("--set", type=Path, default=SHARED / "eprints", help="folder of the scorer's e-prints")
    parser.add_argument("--worst", type=int, default=10, help="how many e-prints to list")
    parser.add_argument(
        "--each", action="store_true", help="also what each error costs by itself (a minute or less for each)"
    )
    parser.add_argument("--json", type=Path, help="write the mended scores of each e-print here")
    options = parser.parse_args(argv)
    texts = {record["id"]: record["text"] for record in read_jsonl(options.texts)}
    plain, mended = load_scorer(options.scorer), load_scorer(options.scorer)
    mend(mended)
    rows = score(plain, options.set, texts)[0], *score(mended, options.set, texts)
    print(f"{'':34s}{'as it is':>10s}{'mended':>10s}")
    for name, value in rows[0].items():
        print(f"{name:34s}{value:>10.2f}{rows[1][name]:>10.2f}")
    lost = {name: one for name, one in rows[2].items() if one}
    for title, loss in (
        ("formulas lost", {name: one["nF"] - one["hit"] for name, one in lost.items()}),
        ("words lost", {name: round((1 - one["prose"]) * one["nW"]) for name, one in lost.items()}),
        ("macros left", {name: one["left"] for name, one in lost.items()}),
    ):
        worst = sorted(loss, key=lambda name: -loss[name])[: options.worst]
        print(f"{title}: " + ", ".join(f"{name} {loss[name]}" for name in worst if loss[name]))
    under = [name for name, one in lost.items() if min(one["math_exact"], one["prose"]) < 0.95]
    print(
        "under 95%: "
        + ", ".join(f"{name} math {lost[name]['math_exact']:.1%} prose {lost[name]['prose']:.1%}" for name in under)
    )
    if options.each:
        print("all mended but one: math, prose, macros left, \\% kept, papers under 95% in math and prose")
        for name, example in MENDED.items():
            scorer = load_scorer(options.scorer)
            mend(scorer, without=name)
            totals = score(scorer, options.set, texts)[0]
            columns = ("math_pct", "prose_pct", "macros_left_pct", "escaped_percent_kept_pct")
            figures = "".join(f"{totals[column]:>8.2f}" for column in columns)
            papers = "".join(f"{totals[f'papers_below_95_{kind}']:>4.0f}" for kind in ("math", "prose"))
            print(f"{figures}{papers}  {example}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows[2]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
