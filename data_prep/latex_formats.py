"""The commands of harvmac and phyzzx, formats of plain TeX in which physicists wrote, as LaTeX.

In: the place of a command, in latex_macros.py, once the source has said \\input harvmac or \\input phyzzx. Out: LaTeX.

A reference list has no place of its own there: \\lref\\Wit{E. Witten, ...} names an entry, \\eqn\\action{S = ...} a formula. The names
become macros, for \\cite and (*), and what they name is a formula, or goes. Source: harvmac.tex of P. Ginsparg, phyzzx.tex of V. Kaplunovsky.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_definitions import Macro
from data_prep.latex_source import Source, read_argument

if TYPE_CHECKING:
    from data_prep.latex_macros import Expander

NAMES_FORMAT: Final = re.compile(r"\s*(?:\{\s*)?[\w./-]{0,40}(?:harvmac|lanlmac|phyzzx)[\w.]{0,20}")
FIRST_NAME: Final = re.compile(r"\\([A-Za-z@]+)")


def name_at(source: Source, pos: int) -> tuple[str, int]:
    """The control word at `pos`, without its backslash, and the place after it; '' where none is."""
    given, end = read_argument(source, pos)
    found = FIRST_NAME.match((given or "").strip())
    return (found[1], end) if found else ("", pos)


def equation(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\eqn\\action{S = 0} -> $$S = 0$$; \\eqnn\\action and \\eqna\\action only name; the name prints (*)."""
    named, end = name_at(source, pos)
    if not named:
        return pos
    expander.define(named, Macro("", (), "(*)"))
    if name != "eqn" or source.text[end : end + 1] != "{":  # phyzzx: $$ S = 0 \eqn\action $$
        return end
    formula, after = read_argument(source, end)
    if formula is None:
        return end
    out.append(f"$${expander.expand_quietly(formula, depth)}$$")
    return after


def reference(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\lref\\Wit{E. Witten, ...} names an entry and prints nothing, \\ref\\Wit{...} prints its number too."""
    named, end = name_at(source, pos)
    if not named:
        out.append(source.text[start:pos])
        return pos
    expander.define(named, Macro("", (), f"\\cite{{{named}}}"))
    _, after = read_argument(source, end)
    if name in ("ref", "Ref"):
        out.append(f"\\cite{{{named}}}")
    return after


def references(
    expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int
) -> int:
    """\\refs{\\Wit,\\Sei} and \\xref\\Wit -> one \\cite."""
    given, end = read_argument(source, pos)
    if given is not None:
        out.append("\\cite{" + ",".join(FIRST_NAME.findall(given)) + "}")
    return end


def figure(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\fig\\first{caption} and \\ifig\\first{caption}{picture} name a figure; \\fig prints its number."""
    named, end = name_at(source, pos)
    if not named:
        return pos
    expander.define(named, Macro("", (), "*"))
    for _ in range(2 if name == "ifig" else 1):
        _, end = read_argument(source, end)
    if name == "fig":
        out.append("*")
    return end


def footnote(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\foot{text} -> \\footnote{text}; its macros are still to be carried out."""
    given, end = read_argument(source, pos)
    if given is not None:
        out.append("\\footnote{" + expander.expand_quietly(given, depth) + "}")
    return end


def front(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\Title{number}{title} -> \\title{title}; \\Date{9/93} goes; \\appendix{A}{Name} -> \\section{Name}."""
    _, end = read_argument(source, pos)
    if name == "Date":
        return end
    second, after = read_argument(source, end) if source.text[end : end + 1] == "{" else (None, end)
    if second is not None:
        command = "section" if name == "appendix" else "title"
        out.append(f"\\{command}{{{expander.expand_quietly(second, depth)}}}")
        return after
    out.append(source.text[start:pos])
    return pos


FORMATS: Final = {
    **dict.fromkeys("eqn eqnn eqna".split(), equation),
    **dict.fromkeys("lref nref ref REF Ref".split(), reference),
    **dict.fromkeys("refs xref".split(), references),
    **dict.fromkeys("fig ifig nfig".split(), figure),
    **dict.fromkeys("Title Date appendix".split(), front),
    "foot": footnote,
}
