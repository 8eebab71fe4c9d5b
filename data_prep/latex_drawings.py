"""Drawings, boxes and plain TeX's floats: what goes, and the little text in them that stays.

In: the place of a command, in latex_prose.py. Out: the place behind it. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_source import GRAPHICS_FILE, Source, skip_blanks
from data_prep.latex_tables import DRAWN_UNTIL

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

DRAWING_CHARS: Final = 2_000  # of \\tikz without braces
BOX_SIZE: Final = re.compile(r"\s*(?:to|spread)\s*(?:[-\d.,]*\s*(?:true\s*)?(?:pt|cm|mm|in|em|ex|pc)|[\d.]*\\[a-z]+)")
FONT: Final = re.compile(
    r"\s*\\[A-Za-z]+\s*=?\s*[\w-]+(?:\s*(?:scaled\s*(?:\\magstep\s*\w+|\\magstephalf|\d+)|at\s*[\d.]+\s*(?:true\s*)?pt))?"
)
XY_SETTINGS: Final = re.compile(r"(?:\s*@(?:\{[^{}]{0,40}\}|[^\s{}\\]{0,40}))*")
NODE: Final = re.compile(  # all that stands before the text of a drawing's only node
    r"\s*\{?\s*\\node\s*(?:(?:\[[^][]*(?:\[[^][]*\][^][]*)*\]|\([^()]*\)|at\s*\([^()]*\))\s*){0,4}(?=\{)"
)
NODE_ENDS: Final = re.compile(r"\s*;?\s*\}?")
DRAWING_TOKEN: Final = re.compile(r"\\[\s\S]|[{};]")
BOX: Final = re.compile(r"\s*\\(?:hbox|vbox|vtop|vcenter)(?![A-Za-z])")


def graphics(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """A picture from a file."""
    pos = cleaner.skip("*", pos)
    found = GRAPHICS_FILE.match(cleaner.text, pos)
    pos = cleaner.skip("oom", pos) if cleaner.next_char(pos) == "[" else found.end() if found else pos
    cleaner.note("graphics", start, pos, name)
    return pos


def insert(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\midinsert … \\endinsert, \\xy … \\endxy: a float or drawing of plain TeX goes."""
    end = cleaner.source.closing(DRAWN_UNTIL.get(name, "\\endinsert"), pos)
    cleaner.note("float of plain TeX", start, max(end, pos), name)
    return max(end, pos)


def drawn(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\xymatrix@C=1em{…} goes."""
    found = XY_SETTINGS.match(cleaner.text, pos)
    end = cleaner.braced(cleaner.skip("o", found.end() if found else pos))
    cleaner.note("drawing", start, end, name)
    return end


def tikz(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\tikz{…} and \\tikz \\draw …; go; of one that is only a node its text stays, such as a number in a circle."""
    pos = cleaner.skip("o", pos)
    end = drawing_end(cleaner.source, pos)
    if end < 0:
        return pos
    cleaner.note("drawing", start, end, name)
    found = NODE.match(cleaner.text, pos, end)
    if found and NODE_ENDS.fullmatch(cleaner.text, after := cleaner.braced(found.end()), end) and after > found.end():
        text = cleaner.group(found.end())
        cleaner.out.append(text[0].strip() if text else "")
    return end


def setbox(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\setbox0=\\hbox{…}: a box is kept for later."""
    pos = cleaner.skip("n=", pos)
    found = BOX.match(cleaner.text, pos)
    end = cleaner.braced(box(cleaner, name, start, found.end())) if found else pos
    cleaner.note("box", start, end, name)
    return end


def box(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\hbox to 3cm{text} -> text."""
    found = BOX_SIZE.match(cleaner.text, pos)
    return found.end() if found else pos


def font(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\font\\titlefont=cmbx12 scaled\\magstep1 of plain TeX."""
    found = FONT.match(cleaner.text, pos)
    end = found.end() if found else pos
    cleaner.note("font of plain TeX", start, end)
    return end


def line(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\line(1,0){250} of a picture goes; \\line{…} of plain TeX is a line of text."""
    if cleaner.next_char(pos) != "(":
        return pos
    end = cleaner.skip("pm", pos)
    cleaner.note("drawing", start, end, name)
    return end


def drawing_end(source: Source, pos: int) -> int:
    """The place behind what \\tikz draws: a group, or all as far as its `;`; -1 where neither is near."""
    start = skip_blanks(source.text, pos)
    if source.text[start : start + 1] == "{":
        return source.group_end(start)
    if source.text.find(";", pos, start + DRAWING_CHARS) < 0:
        return -1
    while match := DRAWING_TOKEN.search(source.text, pos, start + DRAWING_CHARS):
        pos = match.end()
        if match[0] == ";":
            return pos
        if match[0] == "}" or (match[0] == "{" and (pos := source.group_end(match.start())) < 0):
            return -1
    return -1
