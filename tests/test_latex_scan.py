"""The loops of latex_scan.py against the patterns that do the same where the cleaner is not compiled."""

import random
import sys
from collections.abc import Iterator

from data_prep.latex_formulas import IN_MATH
from data_prep.latex_macros import CONTROL, CONTROL_IN_TEXT
from data_prep.latex_prose import STEP, fold_by_pattern
from data_prep.latex_scan import (
    NAME_SLOTS,
    first_look,
    fold,
    group_end,
    is_blank,
    name_slot,
    next_conditional,
    next_name,
    next_token,
)
from data_prep.latex_source import CONDITIONAL, brace_pairs

PIECES = (
    *"\\\\\\{}{}$$$~&`'-[]*^= \n\tax@(", "\\[", "\\]", "\\begin{", "\\end{", "\\item ", "\\item", "\\begin{proof}", "\\end{lemma*}", "\\begin{thm}[a=b]", "\\begin{thm}[a",
    "\\label", "\\alpha", "\\left", "\\epsfig", "\\in", "\\protect", "\\nu", "$x$", "${\\it a}$", "\\cite", "--", "---", "''", "\n\n", "\n \n", "\u2003", "é", "\\\\", "\\$", "\\{", "\x1c",
    "${{a}}$", "${{{a}}}$", "\\[{{{a}}}\\]", "$^\\cite{a}$", "$^{[\\cite{a}]}$", f"\\begin{{thm}}[{'a' * 100}=]", f"\\begin{{thm}}[{'a' * 101}=]",
)  # fmt: skip


def random_texts(pieces: tuple[str, ...], count: int) -> Iterator[tuple[str, random.Random]]:
    chance = random.Random(3)
    for _ in range(count):
        yield "".join(chance.choices(pieces, k=chance.randrange(1, 24))), chance


def test_next_token_finds_what_the_pattern_finds() -> None:
    num_tokens = 0
    for text, chance in random_texts(PIECES, 40_000):
        pos = chance.randrange(min(3, len(text)))
        end = chance.randrange(max(pos, len(text) - 2), len(text)) + 1
        while pos >= 0:
            match = STEP.match(text, pos, end)
            assert match is not None
            start, stop = next_token(text, pos, end)
            assert (start, stop) == match.span(1), (text, pos, end)
            num_tokens += start >= 0
            pos = stop
    assert num_tokens > 40_000


def test_first_look_is_where_the_pattern_finds_something_or_before_it() -> None:
    num_found = 0
    for text, _ in random_texts(PIECES, 20_000):
        match, look = IN_MATH.search(text), first_look(text)
        if match is None:
            assert look < 0 or IN_MATH.search(text, look) is None, text
        else:
            num_found += 1
            found = IN_MATH.search(text, look)
            assert 0 <= look <= match.start(), text
            assert found is not None
            assert found.span() == match.span(), text
    assert num_found > 500


def test_next_conditional_misses_none() -> None:
    pieces = (*PIECES, "\\if", "\\iffoo", "\\else", "\\fi", "\\or", "\\fi@", "\\orb", "\\elsewhere")
    for text, _ in random_texts(pieces, 20_000):
        found, pos = [], next_conditional(text, 0)
        while pos >= 0:
            found += [pos] if CONDITIONAL.match(text, pos) else []
            pos = next_conditional(text, pos + 1)
        assert found == [match.start() for match in CONDITIONAL.finditer(text)], text


def test_is_blank_is_isspace() -> None:
    assert [code for code in range(sys.maxunicode + 1) if is_blank(code) != chr(code).isspace()] == []


def test_group_end_finds_the_partner() -> None:
    for text, _ in random_texts(("{", "}", "\\{", "\\}", "\\\\", "\\", "a"), 10_000):
        pairs = brace_pairs("{" + text)
        assert group_end("{" + text, 0, len(text) + 1) == pairs.get(0, -1), text


def test_next_name_finds_the_names_of_a_table() -> None:
    names = ("alpha", "in", "left", "$", "\\", "b@c", "@", "item")
    known = [False] * NAME_SLOTS
    for name in names:
        known[name_slot(name)] = True
    for text, chance in random_texts((*PIECES, "\\b@c", "\\@", "\\@x", "\\in"), 20_000):
        at_letter = chance.random() < 0.5
        expected = [m.span() for m in (CONTROL if at_letter else CONTROL_IN_TEXT).finditer(text) if m[1] in names]
        found, pos = [], 0
        while True:
            start, pos = next_name(text, pos, at_letter, known)
            if start < 0:
                break
            if text[start + 1 : pos] in names:
                found.append((start, pos))
        assert found == expected, text


def test_fold_writes_what_the_patterns_write() -> None:
    blanks = (" ", "  ", "\t", "\n", "\n\n", "\xa0", "\u2003", "\x0b", "\x1f", "\x85", "a", "b c", "é", "\u200b")
    for text, _ in random_texts(blanks, 60_000):
        assert fold(text) == fold_by_pattern(text), repr(text)
