"""Definitions within definitions, of every kind that the cleaner carries out, put together at random: nothing raises, nothing hangs."""

import random
import time

import pytest

from data_prep.latex_cleaner import Cleaned, Removal, clean_latex
from data_prep.latex_macros import TEX_COMMANDS
from data_prep.records import Rejection

NUM_SOURCES = 150  # of each seed
MAX_S = 2.0  # for one source: issue 3
MAX_DEPTH = 4  # of groups within groups
MACROS = ("\\a", "\\b", "\\c", "\\foo")
ENVIRONMENTS = ("ea", "eb", "equation", "lemma", "restatable")
XPARSE = ("m", "o", "O{x}", "s", "g", "d()", "t+", "e{_^}", "v", "b", "+m", "G{a}")
BODIES = ("{\\begin{equation}}{\\end{equation}}", "{\\begin{lemma}}{\\end{lemma}}", "{\\align}{\\endalign}")
PIECES = (
    "#1", "#2", "##1", " ", "\n\n", "$", "word ", "\\else", "\\fi", "\\ifx\\a\\b", "\\iftrue", "\\makeatletter ", "\\ifmmode a\\else $b$\\fi",
    "\\let\\a\\b ", "\\expandafter", "\\csname a\\endcsname", "\\input harvmac ", "\\eqn\\a{x}", "\\lref\\b{c}", "\\refs{\\b}", "\\twocolumn[",
    "\\tikz \\draw;", "\\SI{1}{\\m}", "\\eIf{a}{b}{c}", "\\ac{a}", "\\acro{a}{b}", "\\excludecomment{ea}", "\\newtcolorbox{eb}[2][]{title=#2}",
)  # fmt: skip


def group(rng: random.Random, depth: int) -> str:
    return "{" + latex(rng, depth + 1) + "}"


def definition(rng: random.Random, depth: int) -> str:
    """One macro or environment, with a body that may hold others."""
    macro, environment, kind = rng.choice(MACROS), rng.choice(ENVIRONMENTS), rng.randrange(6)
    spec = "{" + " ".join(rng.choices(XPARSE, k=rng.randrange(4))) + "}"
    if kind == 0:
        head = f"\\newcommand{{{macro}}}{rng.choice(('', '[1]', '[2]', '[2][d]'))}"
    elif kind == 1:
        head = f"\\def{macro}{rng.choice(('', '#1', '#1#2', '#1.', '[#1]', '(#1,#2)'))}"
    elif kind == 2:
        head = f"\\NewDocumentCommand{macro}{spec}"
    elif kind == 3:
        head = f"\\NewDocumentEnvironment{{{environment}}}{spec}" + group(rng, depth)
    elif kind == 4:
        head = f"\\newenvironment{{{environment}}}{rng.choice(('', '[1]', '[2]'))}" + group(rng, depth)
    else:
        return f"\\newenvironment{{{environment}}}{rng.choice(('', '[1]', '[1][d]'))}{rng.choice(BODIES)}"
    return head + group(rng, depth)


def latex(rng: random.Random, depth: int = 0) -> str:
    """A few pieces: definitions, uses, TeX's own commands, and what breaks them."""
    if depth > MAX_DEPTH:
        return rng.choice(("", "a", "#1", "$x$", *MACROS))
    out = ""
    for _ in range(rng.randrange(1, 5)):
        environment, kind = rng.choice(ENVIRONMENTS), rng.randrange(6)
        option = rng.choice(("", "", "[1]", "[a=b]", "*"))
        if kind < 2:
            out += definition(rng, depth)
        elif kind == 2:
            out += f"\\begin{{{environment}}}{option}{latex(rng, depth + 1)}\\end{{{environment}}}"
        elif kind == 3:
            out += "\\" + rng.choice(sorted(TEX_COMMANDS)) + rng.choice((" ", *MACROS)) + group(rng, depth)
        elif kind == 4:
            out += rng.choice(MACROS) + option + (group(rng, depth) if rng.random() < 0.5 else " ")
        else:
            out += rng.choice(PIECES)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_definitions_within_definitions_end(seed: int) -> None:
    rng, num_texts = random.Random(seed), 0
    for _ in range(NUM_SOURCES):
        source = "Enough letters to be a text at all. " + "".join(latex(rng) for _ in range(rng.randrange(1, 5)))
        if rng.random() < 0.4:
            source = f"\\documentclass{{a}}{latex(rng)}\\begin{{document}}{source}\\end{{document}}"
        removals: list[Removal] = []
        started = time.process_time()
        cleaned = clean_latex(source, explain=removals)
        assert time.process_time() - started < MAX_S, source
        assert isinstance(cleaned, (Cleaned, Rejection))
        assert cleaned == clean_latex(source), source
        num_texts += isinstance(cleaned, Cleaned)
    assert num_texts > NUM_SOURCES // 2
