"""Environments in expanded LaTeX: which are copied, which go with all they hold, which lose their tags.

In: the place of a \\begin or \\end, in latex_prose.py. Out: the place behind the tag, or behind the environment. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_formulas import math_environment
from data_prep.latex_source import (
    LABEL_KEY,
    MAX_NESTING,
    NAME_IN_BRACES,
    RAW_MARK,
    read_argument,
    skip_blanks,
    skip_spaces,
)
from data_prep.latex_tables import (
    ALGORITHMS,
    LISTS,
    MATH_ENVIRONMENTS,
    QUIET_WRAPPERS,
    RAW_ENVIRONMENTS,
    REFERENCES,
    REMOVED_ENVIRONMENTS,
    RESTATED,
    WITHOUT_ARGUMENTS,
    WRAPPERS,
)

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

ARGUMENT_CHARS: Final = 200  # of an environment that nobody knows
REFERENCES_HEADING: Final = re.compile(
    r"\\(?:sub)?(?:section|chapter)\*?\{(?:References?|REFERENCES|Bibliography|Literature|Literature [Cc]ited)\}"
)
ENVIRONMENT: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*\*?")
OPTION_OF_SETTINGS: Final = re.compile(  # [label=x], [Name, label=x], [htbp]
    r"\[(?:(?:[^][{}$\\=]{0,100},)?\s*[A-Za-z-]{2,}(?:\s[a-z]+)?\s*=|(?:[htbp]{2,4}!?|![htbpH]{1,4}|H)\])"
)
NAME_BEFORE_SETTINGS: Final = re.compile(r"\[\s*([A-Z][^][,={}]*),")
NAME_IN_OPTION: Final = re.compile(r"[\[,]\s*(?:name|title)\s*=\s*(\{[^{}]*\}|[^][{},]+)")
STYLED: Final = re.compile(
    r"\{\s*\\(?:bf|it|em|rm|sl|sc|tt|small|large|footnotesize|noindent|color|bfseries|itshape|label)(?![A-Za-z])"
)
LENGTH_IN_BRACES: Final = re.compile(
    r"\{\s*[-\d.]*\s*(?:\\[a-z]*(?:width|height|size|skip|sep|indent)|pt|cm|mm|in|em|ex)\s*\}"
)
CAN_END_BLANK: Final = frozenset((" ", "\t", "\n", "", "}"))


def begin(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\begin {…} that STEP does not read as one token: blanks in it, or digits."""
    found = NAME_IN_BRACES.match(cleaner.text, pos)
    return opened(cleaner, found[1], start, found.end()) if found else pos


def tag(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\begin{…} of an environment in our tables."""
    return opened(cleaner, name[len("begin{") : -1], start, pos)


def opened(cleaner: "Cleaner", inner: str, start: int, pos: int) -> int:
    """Mathematics and raw text are copied, floats and references go, layout is unwrapped, structure stays."""
    if inner.removesuffix("*") in MATH_ENVIRONMENTS:
        return math_environment(cleaner, inner, pos)
    if inner in RAW_ENVIRONMENTS:
        end = cleaner.source.environment_end(inner, pos)
        if end <= pos:
            return pos
        behind = skip_spaces(cleaner.text, end)
        line_ends = cleaner.text[behind : behind + 1] in ("\n", "")
        cleaner.out.append(RAW_MARK + cleaner.text[start:end] + RAW_MARK + ("" if line_ends else "\n"))
        return end
    if inner in REMOVED_ENVIRONMENTS:
        return removed(cleaner, inner, start, pos)
    if inner in WRAPPERS:
        cleaner.note(f"layout {inner}", start, pos)
        pos = cleaner.skip(WRAPPERS[inner], pos)
        return cleaner.past_line_end(pos) if inner in QUIET_WRAPPERS else pos
    if inner in RESTATED:
        return restate(cleaner, inner, pos)
    cleaner.out.append(f"\\begin{{{inner}}}")
    if inner in LISTS:
        return cleaner.skip(LISTS[inner], pos)
    if inner in ALGORITHMS:
        if not cleaner.keywords_learned:
            cleaner.learn_keywords()
        return cleaner.skip(ALGORITHMS[inner], pos)
    return environment_arguments(cleaner, inner, pos)


def restate(cleaner: "Cleaner", name: str, pos: int) -> int:
    """\\begin{restatable}[Main]{theorem}{mainthm} -> \\begin{theorem}[Main]."""
    after = cleaner.skip("o", pos)
    kind, end = read_argument(cleaner.source, after)
    if kind is None or not ENVIRONMENT.fullmatch(kind) or len(cleaner.restated) > MAX_NESTING:
        cleaner.restated.append(name)
        cleaner.out.append(f"\\begin{{{name}}}")
        return pos
    cleaner.restated.append(kind)
    cleaner.out.append(f"\\begin{{{kind}}}")
    if cleaner.next_char(pos) == "[":
        environment_arguments(cleaner, kind, skip_blanks(cleaner.text, pos), end=after)
    return cleaner.skip("m", end)


def end_restated(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\end{restatable} -> \\end{theorem}."""
    close(cleaner, "\\end{" + (cleaner.restated.pop() if cleaner.restated else name[len("end{") : -1]) + "}")
    return pos


def quiet_end(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\end{…} of QUIET_WRAPPERS."""
    return cleaner.past_line_end(pos)


def environment_arguments(cleaner: "Cleaner", name: str, pos: int, end: int = 0) -> int:
    """Behind \\begin{name} of an environment that stays: options of the form word=value don't print, an argument becomes an option."""
    text = cleaner.text
    if text[pos : pos + 1] == "[":
        if OPTION_OF_SETTINGS.match(text, pos, pos + 200) and (close := cleaner.source.option_end(pos)) > 0:
            found = NAME_IN_OPTION.search(text, pos, close) or NAME_BEFORE_SETTINGS.match(text, pos, close)
            if found:
                cleaner.out.append("[" + cleaner.prose(found.start(1), found.end(1)).strip() + "]")
            return close if text[close : close + 1] != "{" else environment_arguments(cleaner, name, close)
        if end:
            cleaner.out.append(cleaner.prose(pos, end))
        return pos
    if text[pos : pos + 1] != "{" or name in WITHOUT_ARGUMENTS or STYLED.match(text, pos):
        return pos
    close = cleaner.short_group_end(pos)
    if not pos < close < pos + ARGUMENT_CHARS or "\n\n" in text[pos:close]:
        return pos
    if LENGTH_IN_BRACES.match(text, pos):
        return close
    if found_group := cleaner.group(pos):
        if inner := found_group[0].strip():
            cleaner.out.append(f"[{inner}]")
        label = LABEL_KEY.match(text, close)  # the name of a box of tcolorbox may be followed by its label
        return label.end() if label and ":" in label[0] else close
    return pos


def close(cleaner: "Cleaner", tag: str) -> None:
    """Write \\end{…} of an environment that stays; one of which nothing is left goes."""
    out = cleaner.out
    if out and out[-1][-1:] not in CAN_END_BLANK:  # most of all
        out.append(tag)
        return
    last = last_printed(out)
    if last >= 0 and out[last] == "\\begin" + tag[len("\\end") :]:
        del out[last:]
    else:
        out.append(tag)


def end(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\end {…} that STEP does not read as one token: of what stayed it stays, of what was unwrapped it goes."""
    found = NAME_IN_BRACES.match(cleaner.text, pos)
    if not found:
        return pos
    inner = found[1]
    if inner not in WRAPPERS and inner not in REMOVED_ENVIRONMENTS and inner.removesuffix("*") not in MATH_ENVIRONMENTS:
        close(cleaner, f"\\end{{{inner}}}")
    return found.end()


def removed(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """A float, drawing or list of references goes as a whole; one that does not end loses only its tag."""
    end = nested_end(cleaner, name, pos)
    if end < 0:
        cleaner.warnings.add(f"environment {name} does not end")
        if name in REFERENCES:
            cleaner.note("references", start, len(cleaner.text))
            return len(cleaner.text)
        return pos
    cleaner.note("references" if name in REFERENCES else f"environment {name}", start, end)
    if name in REFERENCES:
        drop_heading(cleaner)
    if cleaner.keep_captions and name not in REFERENCES:
        place = cleaner.text.find("\\caption", pos, end)
        while place >= 0 and cleaner.nesting < MAX_NESTING:
            cleaner.caption("caption", place, place + len("\\caption"))
            place = cleaner.text.find("\\caption", place + 1, end)
        cleaner.out += [f"\n\n{caption}\n\n" for caption in cleaner.captions]
        cleaner.captions.clear()
    return end


def last_printed(pieces: list[str]) -> int:
    """The number of the last piece that is not blank, or -1."""
    last = len(pieces) - 1
    while last >= 0 and (not pieces[last] or pieces[last].isspace()):
        last -= 1
    return last


def drop_heading(cleaner: "Cleaner") -> None:
    """A heading `References` directly before the list goes with it."""
    out = cleaner.out
    last = last_printed(out)
    if last >= 0 and REFERENCES_HEADING.fullmatch(out[last]):
        del out[last:]


def nested_end(cleaner: "Cleaner", name: str, pos: int) -> int:
    """The place after the \\end{name} that closes; up to a dozen of the same name may lie within."""
    opening = "\\begin{" + name + "}"
    end = cleaner.source.environment_end(name, pos)
    inside = pos
    for _ in range(12):
        if end < 0 or (inside := cleaner.text.find(opening, inside, end)) < 0:
            return end
        inside += len(opening)
        further = cleaner.source.environment_end(name, end)
        if further < 0:
            return end
        end = further
    return end
