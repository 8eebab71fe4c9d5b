"""Formulas in expanded LaTeX: where they begin and end, and what goes from within them.

In: the place of a $, \\[, \\( or environment of mathematics, in latex_prose.py. Out: the formula as it is written, without labels, pictures and blank lines, and the place
behind it. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_drawings import drawing_end
from data_prep.latex_scan import FIRST_LETTERS, IS_COMPILED, LOOK_IN_MATH, first_look
from data_prep.latex_source import (
    BLANK_LINE,
    GRAPHICS_FILE,
    MATH_TOKEN,
    MAX_NESTING,
    WHITE,
    Source,
    backslashes_before,
    balanced,
    ends_in_blank_line,
    glue,
    has_even_braces,
    paired_dollars,
    skip_blanks,
    skip_group,
    skip_option,
    skip_spaces,
)
from data_prep.latex_tables import REMOVED_IN_MATH

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

MATH_CHARS: Final = r"[^$\\{}\n]*"
MATH_COMMAND: Final = rf"\\(?:[^{FIRST_LETTERS}\n]|(?!{LOOK_IN_MATH}|begin)[{FIRST_LETTERS}])"
INNER_GROUP: Final = rf"\{{{MATH_CHARS}(?:{MATH_COMMAND}{MATH_CHARS})*\}}"
MATH_GROUP: Final = rf"\{{{MATH_CHARS}(?:(?:{MATH_COMMAND}|{INNER_GROUP}){MATH_CHARS})*\}}"
FORMULA: Final = rf"\$(?=[^$])(?!\^\{{?\[?\\cite){MATH_CHARS}(?:(?:{MATH_COMMAND}|{MATH_GROUP}){MATH_CHARS})*\$"
DISPLAY_CHARS: Final = r"[^$\\{}\n]*(?:\n(?!\s*\n)[^$\\{}\n]*)*"
DISPLAY_COMMAND: Final = rf"\\(?:[^][{FIRST_LETTERS}\n]|(?!{LOOK_IN_MATH}|begin)[{FIRST_LETTERS}])"  # at another \[ the first is known not to end
DISPLAY: Final = rf"\\\[(?!\s*\\\]){DISPLAY_CHARS}(?:(?:{DISPLAY_COMMAND}|{MATH_GROUP}){DISPLAY_CHARS}){{0,100}}\\\]"
IN_MATH: Final = re.compile(
    rf"\\(?=[{FIRST_LETTERS}])(?:({LOOK_IN_MATH})(?![A-Za-z@])|begin\s*\{{({'|'.join(sorted(REMOVED_IN_MATH))})\}})"
    r"|\n[ \t]*\n\s*"
)
RAISED_CITATION: Final = re.compile(
    r"\^\{?[\[(]?\s*(?:\\(?:cite|citep|onlinecite|citenum)\s*(?:\[[^][]{0,80}\]\s*)?\{[^{}]{0,300}\}[-,;\s]*){1,9}[\])]?\s*\}?"
)
CONTROL_WORD: Final = re.compile(r"\\[A-Za-z]+")


def dollar(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """`text[start]` is a $ that opens mathematics, or a stray one that goes."""
    text, limit = cleaner.text, cleaner.limit
    if text.startswith("$$", start):
        end = cleaner.source.unescaped("$$", start + 2)
        if end < 0 or end > limit:
            return start + 2
        if "\\halign" in text[start:end] and ("\\vrule" in text[start:end] or "\\hrule" in text[start:end]):
            cleaner.note("table", start, end)
            return end + 2
        emit(cleaner, "$$", text[start + 2 : end], "$$", start + 2)
        return end + 2
    end = cleaner.source.unescaped("$", start + 1)
    if end < 0 or end >= limit:
        cleaner.warnings.add("a $ has no partner")
        return start + 1
    inner = text[start + 1 : end]
    if inner[:1] == "^" and RAISED_CITATION.fullmatch(inner):
        cleaner.note("citation", start, end + 1)
        cleaner.trim()
        return end + 1
    if inner.count("{") != inner.count("}"):
        end = balanced_dollar(cleaner, start + 1, min(limit, start + 4000), end)
        inner = text[start + 1 : end]
    if "\n\n" in inner or ("\n" in inner and BLANK_LINE.search(inner)):
        cleaner.warnings.add("a $ has no partner")
        return start + 1
    emit(cleaner, "$", inner, "$", start + 1)
    return end + 1


def balanced_dollar(cleaner: "Cleaner", pos: int, limit: int, fallback: int) -> int:
    """The first $ outside braces from `pos` on, so that `$a \\mbox{if $b$}$` is one formula; else `fallback`."""
    while match := MATH_TOKEN.search(cleaner.text, pos, limit):
        pos = match.end()
        if match[0] == "$":
            return match.start()
        if match[0] == "}" or (match[0] == "{" and (pos := cleaner.source.group_end(match.start())) < 0):
            return fallback
    return fallback


def bracket_math(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\[ … \\] and \\( … \\)."""
    close = "\\]" if name == "[" else "\\)"
    end = cleaner.source.unescaped(close, pos)
    if end < 0:
        return pos
    emit(cleaner, "\\" + name, cleaner.text[pos:end], close, pos)
    return end + 2


def math_environment(cleaner: "Cleaner", name: str, pos: int) -> int:
    """\\begin{equation} … \\end{equation}."""
    end = cleaner.source.environment_end(name, pos)
    if end < 0:
        cleaner.warnings.add(f"environment {name} does not end")
        return pos
    close = "\\end{" + name + "}"
    emit(cleaner, "\\begin{" + name + "}", cleaner.text[pos : end - len(close)], close, pos)
    return end


def emit(cleaner: "Cleaner", opening: str, inner: str, closing: str, place: int) -> None:
    """Write a formula, whose inside stands at `place`; an empty one goes."""
    look = first_look(inner) if IS_COMPILED else 0
    if look >= 0 and IN_MATH.search(inner, look):
        inner = math(cleaner, inner, place)
    if not has_even_braces(inner):
        inner = balanced(inner)
    if "$" in inner:
        inner = paired_dollars(inner)
    if inner and not inner.isspace():
        cleaner.out.append(opening + inner + closing)


def math(cleaner: "Cleaner", inner: str, place: int) -> str:
    """The formula at `place` without labels, pictures and blank lines."""
    out: list[str] = []
    source, pos = Source(inner), 0
    while match := IN_MATH.search(inner, pos):
        out.append(inner[pos : match.start()])
        name, pos = match[1], match.end()
        if match[0][0] == "\\" and backslashes_before(inner, match.start()) % 2:
            out.append(match[0])  # \\label is a line break and a word
            continue
        if match[2]:
            end = inner.find("\\end{" + match[2] + "}", pos)
            pos = pos if end < 0 else end + len(match[2]) + 6
        elif name is None:
            out.append("\n")
        elif name == "ifmmode":
            middle, _, end = source.conditional_end(match.start())
            if end >= 0:
                out.append(inner[pos : middle if middle >= 0 else end - 3])
                pos = end
        elif name in ("label", "input", "include", "index"):
            pos = skip_group(source, pos)
        elif name == "tikz":
            pos = max(pos, drawing_end(source, skip_option(source, pos)))
        elif name == "includegraphics":
            pos = skip_group(source, skip_option(source, skip_option(source, pos)))
        elif name.startswith(("eps", "psf")):
            found = GRAPHICS_FILE.match(inner, pos)
            pos = found.end() if found else pos
        elif name == "raisebox":
            out.append("\\raisebox")
        if cleaner.explain is not None and name != "raisebox" and (name or match[2]):
            cleaner.note("in a formula", place + match.start(), place + pos, name or match[2])
        rest = inner[pos : pos + 1]
        if rest in WHITE and inner.startswith("\n", skip_spaces(inner, pos)) and ends_in_blank_line(out):
            pos = skip_blanks(inner, pos)  # what went had its line to itself
        if rest.isalpha() and out and glue(out[-1], rest) != rest:
            out.append(" ")
    out.append(inner[pos:])
    return "".join(out)


def ensuremath(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\ensuremath{x} in prose -> $x$."""
    brace = skip_blanks(cleaner.text, pos)
    end = cleaner.source.group_end(brace) if cleaner.text[brace : brace + 1] == "{" else -1
    if end < 0:
        if not (word := CONTROL_WORD.match(cleaner.text, brace)):
            return pos
        cleaner.out.append(f"${word[0]}$")
        return word.end()
    inner = math(cleaner, cleaner.text[brace + 1 : end - 1], brace + 1).replace("$", "")
    if inner.strip():
        cleaner.out.append(f"${inner}$")
    return end


def ifmmode(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\ifmmode a\\else b\\fi in prose -> b."""
    middle, after, end = cleaner.source.conditional_end(start)
    if end < 0:
        return pos
    if middle >= 0 and cleaner.nesting < MAX_NESTING:
        cleaner.nesting += 1
        cleaner.out.append(cleaner.prose(after, end - len("\\fi")))
        cleaner.nesting -= 1
    return end
