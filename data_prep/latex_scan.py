"""Reading LaTeX character by character: the inner loops of the cleaner, for when it is compiled.

In: text and a position. Out: positions, or text.

The pattern of the prose pass takes 37 ns a character with its calls; the loop that does the same takes 180 interpreted, 16 compiled and called from Python, and less
where compiled code calls it (docs/LOG.md, 2026-11-29). So every loop here has a twin that is made of patterns, in the module that uses it, and `IS_COMPILED` says there which of the two
runs. Both give the same results for any text (tests/test_latex_scan.py compares them). `i64` is mypyc's machine integer; a position is in characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from data_prep import cleaner_form

if TYPE_CHECKING:
    from mypy_extensions import i64

IS_COMPILED: Final = cleaner_form == "compiled"

# Inside these a formula needs a look; all others are copied as they are.
LOOK_IN_MATH: Final = (
    r"label|nonumber|notag|ensuremath|xspace|ifmmode|protect|includegraphics|epsfig|psfig|epsfbox|epsffile|epsfxsize|epsfysize"
    r"|input|include|raisebox|tikz|index|IEEEnonumber|IEEEyesnumber"
)
FIRST_LETTERS: Final = "bleinpxrtI"  # of those and of begin
TELLING_WORD: Final = re.compile(f"begin|{LOOK_IN_MATH}")
# Structure that stays as it is written; other names of environments are looked up.
STRUCTURE: Final = frozenset(
    "proof thm theorem lem lemma prop proposition cor corollary def defn definition rem remark ex example".split()
)
MATH_DEPTH: Final = (
    2  # groups in groups of a formula that is copied as it is: as deep as MATH_GROUP of latex_formulas.py reads
)
OPTION_CHARS: Final = 100  # of a theorem, looked at for settings
NAME_SLOTS: Final = 4096  # of a table of names, see `name_slot`; with 140 names of ours and 250 of an author one in ten of the others shares a slot


# --- characters ---------------------------------------------------------------------------------------------------------


def is_letter(char: i64) -> bool:
    """Whether TeX reads the character as a letter of a control word."""
    return ord("a") <= char <= ord("z") or ord("A") <= char <= ord("Z")


def is_blank(char: i64) -> bool:
    """Whether a character is white space (str.isspace)."""
    if char < 0x1680:
        return char == 32 or 9 <= char <= 13 or 28 <= char <= 31 or char == 0x85 or char == 0xA0
    return 0x2000 <= char <= 0x200A or char in (0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


# --- names of commands --------------------------------------------------------------------------------------------------


def name_slot(name: str) -> i64:
    """The place of a control word's name in a table of NAME_SLOTS, which `next_name` works out while it reads."""
    slot: i64 = 0
    end: i64 = len(name)
    pos: i64 = 0
    while pos < end:
        slot = (slot * 31 + ord(name[pos])) & (NAME_SLOTS - 1)
        pos += 1
    return slot


def known_names(names: Iterable[str]) -> list[bool]:
    """The table that `next_name` asks: whether any of the names has the slot."""
    known = [False] * NAME_SLOTS
    for name in names:
        known[name_slot(name)] = True
    return known


def next_name(text: str, pos: i64, at_letter: bool, known: list[bool]) -> tuple[i64, i64]:
    """Start and end of the first control word or symbol from `pos` on whose `name_slot` is set in `known`; (-1, -1) without one.

    A few names share a slot, so the caller asks its own table whether it is one of them; all others have not cost a string.
    """
    end: i64 = len(text)
    while True:
        start: i64 = text.find("\\", pos)
        pos = start + 1
        if start < 0 or pos == end:
            return -1, -1
        char: i64 = ord(text[pos])
        slot: i64 = char & (NAME_SLOTS - 1)
        pos += 1
        if is_letter(char) or (char == ord("@") and at_letter):
            while pos < end:
                char = ord(text[pos])
                if not (is_letter(char) or (char == ord("@") and at_letter)):
                    break
                slot = (slot * 31 + char) & (NAME_SLOTS - 1)
                pos += 1
        if known[slot]:
            return start, pos


def next_conditional(text: str, pos: i64) -> i64:
    """Where from `pos` on the next command stands that may be an \\if…, \\else, \\or or \\fi; -1 where none does."""
    end: i64 = len(text) - 2
    while True:
        pos = text.find("\\", pos)
        if pos < 0 or pos >= end:
            return -1
        first: i64 = ord(text[pos + 1])
        second: i64 = ord(text[pos + 2])
        if (
            (first == ord("i") and second == ord("f"))
            or (first == ord("e") and second == ord("l"))
            or (first == ord("o") and second == ord("r"))
            or (first == ord("f") and second == ord("i"))
        ):
            return pos
        pos += 1


# --- what is copied -----------------------------------------------------------------------------------------------------


def next_token(text: str, pos: i64, end: i64) -> tuple[i64, i64]:
    """Start and end of the first thing in `text[pos:end]` that is not copied as it stands; (-1, -1) where all of it is.

    The twin of latex_prose.STEP: formulas that hold nothing to look at, \\item, and theorems and proofs are copied.
    """
    while pos < end:
        char: i64 = ord(text[pos])
        if char > ord("`"):  # a letter, most of all
            if char == ord("{") or char == ord("~"):
                return pos, pos + 1
            if char == ord("}"):
                return pos, pos + 2 if pos + 1 < end and ord(text[pos + 1]) == ord("\n") else pos + 1
            pos += 1
        elif char == ord("\\"):
            behind = pos + 1
            if behind == end:
                return pos, end
            char = ord(text[behind])
            if is_letter(char) or char == ord("@"):
                stop = word_end(text, behind, end)
                if stop < end:
                    char = ord(text[stop])
                    if char == ord("{") and (stop - behind == 5 or stop - behind == 3):
                        close = tag_end(text, behind, stop, end)
                        if close > 0:
                            if text[stop + 1 : close - 1] not in STRUCTURE or has_settings(text, close, end):
                                return pos, close
                            pos = close
                            continue
                    elif char == ord(" ") and stop - behind == 4 and is_item(text, behind, end):
                        pos = stop + 1
                        continue
                return pos, stop
            close = formula_end(text, behind + 1, end, True) if char == ord("[") else -1
            if close < 0:
                return pos, behind + 1
            pos = close
        elif char == ord("$"):
            close = formula_end(text, pos + 1, end, False)
            if close < 0:
                return pos, pos + 1
            pos = close
        elif char == ord("-"):
            stop = pos + 1
            while stop < end and stop < pos + 3 and ord(text[stop]) == ord("-"):
                stop += 1
            if stop > pos + 1:
                return pos, stop
            pos = stop
        elif char == ord("'"):
            if pos + 1 < end and ord(text[pos + 1]) == ord("'"):
                return pos, pos + 2
            pos += 1
        elif char == ord("&"):
            return pos, pos + 1
        elif char == ord("`"):
            return pos, pos + 2 if pos + 1 < end and ord(text[pos + 1]) == ord("`") else pos + 1
        else:
            pos += 1
    return -1, -1


def copy_to_token(text: str, pos: i64, end: i64, out: list[str]) -> tuple[i64, i64]:
    """What `next_token` finds, past lone braces; what stands before it and is no brace goes to `out`, up to `end` where nothing is found."""
    while True:
        start, stop = next_token(text, pos, end)
        if start < 0:
            if pos < end:
                out.append(text[pos:end])
            return -1, -1
        if start > pos:
            out.append(text[pos:start])
        pos = stop
        if stop > start + 1 or (ord(text[start]) != ord("{") and ord(text[start]) != ord("}")):
            return start, stop


def word_end(text: str, pos: i64, end: i64) -> i64:
    """The place behind the letters and @ at `pos`."""
    while pos < end:
        char: i64 = ord(text[pos])
        if not is_letter(char) and char != ord("@"):
            break
        pos += 1
    return pos


def is_item(text: str, pos: i64, end: i64) -> bool:
    """Whether the word of four letters at `pos` is `item`, and its text follows behind one blank."""
    return pos + 5 < end and text.startswith("item", pos) and not text[pos + 5].isspace()


def tag_end(text: str, name: i64, brace: i64, end: i64) -> i64:
    """The place behind \\begin{word}, \\begin{word*} and their \\end; -1 where none is. The command's name stands from `name` to `brace`."""
    if ord(text[name]) != (ord("b") if brace - name == 5 else ord("e")):
        return -1
    if not text.startswith("begin" if brace - name == 5 else "end", name):
        return -1
    pos = brace + 1
    while pos < end and is_letter(ord(text[pos])):
        pos += 1
    if pos == brace + 1 or pos >= end:
        return -1
    if ord(text[pos]) == ord("*"):
        pos += 1
    return pos + 1 if pos < end and ord(text[pos]) == ord("}") else -1


def has_settings(text: str, pos: i64, end: i64) -> bool:
    """Whether an option with a = in it stands at `pos`."""
    if pos >= end or ord(text[pos]) != ord("["):
        return False
    limit = min(end, pos + 2 + OPTION_CHARS)
    pos += 1
    while pos < limit:
        char: i64 = ord(text[pos])
        if char == ord("="):
            return True
        if char == ord("]") or char == ord("\n"):
            return False
        pos += 1
    return False


# --- formulas and groups ------------------------------------------------------------------------------------------------


TELLING: Final = bytes(known_names(word[:3] for word in ("begin", *LOOK_IN_MATH.split("|"))))


def formula_end(text: str, pos: i64, end: i64, is_display: bool) -> i64:
    """The place behind the formula whose inside starts at `pos`, if nothing in it needs a look; else -1.

    That ends in $ and has one line, or is a display that ends in \\] and has no blank one.
    """
    if pos >= end:
        return -1
    depth: i64 = 0
    char: i64 = ord(text[pos])
    if is_display:
        if opens_nothing(text, pos, end):
            return -1
    elif char == ord("$") or (char == ord("^") and raises_citation(text, pos + 1, end)):
        return -1
    while pos < end:
        char = ord(text[pos])
        if char == ord("\\"):
            pos += 1
            if pos >= end:
                return -1
            char = ord(text[pos])
            if char == ord("\n"):
                return -1
            if is_display and depth == 0 and (char == ord("[") or char == ord("]")):
                return pos + 1 if char == ord("]") else -1  # at another \[ the first is known not to end
            if needs_look(text, pos, end):
                return -1
        elif char == ord("{"):
            depth += 1
            if depth > MATH_DEPTH:
                return -1
        elif char == ord("}"):
            depth -= 1
            if depth < 0:
                return -1
        elif char == ord("$"):
            return -1 if is_display or depth else pos + 1
        elif char == ord("\n") and (not is_display or depth or is_blank_line(text, pos + 1, end)):
            return -1
        pos += 1
    return -1


def opens_nothing(text: str, pos: i64, end: i64) -> bool:
    """Whether a display closes before anything stands in it."""
    while pos < end and is_blank(ord(text[pos])):
        pos += 1
    return text.startswith("\\]", pos, end)


def raises_citation(text: str, pos: i64, end: i64) -> bool:
    """Whether a citation stands behind the ^ that begins a formula."""
    if text.startswith("{", pos, end):
        pos += 1
    if text.startswith("[", pos, end):
        pos += 1
    return text.startswith("\\cite", pos, end)


def is_blank_line(text: str, pos: i64, end: i64) -> bool:
    """Whether the line that starts at `pos` holds nothing."""
    while pos < end:
        char: i64 = ord(text[pos])
        if char == ord("\n"):
            return True
        if not is_blank(char):
            return False
        pos += 1
    return False


def needs_look(text: str, pos: i64, end: i64) -> bool:
    """Whether the command whose name starts at `pos` is one that does not stay in a formula, or begins like one."""
    if pos + 2 >= end:
        return False
    slot: i64 = ((ord(text[pos]) * 31 + ord(text[pos + 1])) * 31 + ord(text[pos + 2])) & (NAME_SLOTS - 1)
    return TELLING[slot] != 0 and TELLING_WORD.match(text, pos, end) is not None


def first_look(inner: str) -> i64:
    """Where in a formula the first command may stand that does not stay in it, or a blank line; -1 where nothing does.

    What a search for latex_prose.IN_MATH finds stands there or behind it.
    """
    end: i64 = len(inner)
    blank: i64 = inner.find("\n")
    while blank >= 0 and not is_blank_line(inner, blank + 1, end):
        blank = inner.find("\n", blank + 1)
    if blank >= 0:
        end = blank
    pos: i64 = inner.find("\\")
    while 0 <= pos < end - 1:
        if needs_look(inner, pos + 1, end):
            return pos
        pos = inner.find("\\", pos + 1)
    return blank


def group_end(text: str, pos: i64, end: i64) -> i64:
    """`text[pos]` is `{`: the place after its `}` if that comes before `end`, else -1."""
    depth: i64 = 0
    while pos < end:
        char: i64 = ord(text[pos])
        if char == ord("\\"):
            pos += 1
        elif char == ord("{"):
            depth += 1
        elif char == ord("}"):
            depth -= 1
            if depth == 0:
                return pos + 1
        pos += 1
    return -1


# --- lines --------------------------------------------------------------------------------------------------------------


def fold(text: str) -> str:
    """Lines stripped, runs of blanks in them folded, at most one blank line between paragraphs.

    The twin of latex_prose.fold_by_pattern. What needs no change is copied in pieces as long as they come: `text[kept:line]` is still to be copied.
    """
    out: list[str] = []
    end: i64 = len(text)
    kept: i64 = 0
    line: i64 = 0
    num_line_ends: i64 = 0
    tab = found_or_end(text, "\t", 0, end)
    run = found_or_end(text, "  ", 0, end)
    while True:
        stop = found_or_end(text, "\n", line, end)
        first = line
        while first < stop and is_blank(ord(text[first])):
            first += 1
        last = stop
        while last > first and is_blank(ord(text[last - 1])):
            last -= 1
        if first < last:
            num_line_ends = 0
            if line < first:
                out.append(text[kept:line])
                kept = first
            if tab < first:
                tab = found_or_end(text, "\t", first, end)
            if run < first:
                run = found_or_end(text, "  ", first, end)
            if tab < last or run < last:
                out.append(text[kept:first])
                out.append(fold_line(text[first:last]))
                kept = last
            if last < stop:
                out.append(text[kept:last])
                kept = stop
        elif line < stop:
            out.append(text[kept:line])
            kept = stop
        if stop == end:
            out.append(text[kept:end])
            return "".join(out)
        num_line_ends += 1
        if num_line_ends > 2:
            out.append(text[kept:stop])
            kept = stop + 1
        line = stop + 1


def found_or_end(text: str, mark: str, pos: i64, end: i64) -> i64:
    """Where the next `mark` stands, or the end of the text."""
    found: i64 = text.find(mark, pos)
    return end if found < 0 else found


def fold_line(line: str) -> str:
    """One line without the runs of blanks in it."""
    line = line.replace("\t", " ")
    return " ".join([part.strip(" ") for part in line.split("  ") if part]) if "  " in line else line
