r"""Where the mathematics stands in cleaned LaTeX text.

In: text as latex_cleaner.py writes it. Out: spans of formulas, and their share of a text. Authors' macros are expanded by then, so the
delimiters that TeX itself knows are enough.
"""

import re

MATH_ENVIRONMENTS = ("math", "displaymath", "equation", "eqnarray", "align", "alignat", "flalign", "gather", "multline")
MATH_START = re.compile(
    r"\\\\|\\\$|(?P<dollars>\$\$?)|\\(?P<bracket>[(\[])|\\begin\{(?P<name>(?:"
    + "|".join(MATH_ENVIRONMENTS)
    + r")\*?)\}"
)
MATH_ENDS = {  # of what began with the key; an escaped character is passed over, a blank line ends every formula
    start: re.compile(rf"(?P<end>{end}|\n\n)|\\.", re.DOTALL)
    for start, end in {"$": r"\$", "$$": r"\$\$", "(": r"\\\)", "[": r"\\\]"}.items()
}


def math_spans(text: str) -> list[tuple[int, int]]:
    r"""The [start, end) of mathematics in LaTeX text, delimiters included, left to right.

    'so $x$ is \(y\)' -> [(3, 6), (10, 15)]. An escaped dollar is none; a formula that never closes ends at the next blank line.
    """
    spans, pos = [], 0
    while match := MATH_START.search(text, pos):
        pos = match.end()
        if name := match["name"]:
            end = text.find(f"\\end{{{name}}}", pos)
            pos = len(text) if end < 0 else end + len(f"\\end{{{name}}}")
        elif start := match["dollars"] or match["bracket"]:
            pos = find_end(text, pos, MATH_ENDS[start])
        else:
            continue  # an escaped backslash or dollar
        spans.append((match.start(), pos))
    return spans


def find_end(text: str, pos: int, ends: "re.Pattern[str]") -> int:
    """The position after the end of a formula that began before `pos`; before the blank line where it never closes."""
    while match := ends.search(text, pos):
        if match["end"]:
            return match.start() if match["end"] == "\n\n" else match.end()
        pos = match.end()
    return len(text)


def formula_share(text: str) -> float:
    """Characters inside formulas, delimiters included, over all characters of `text`; 0.0 for an empty text."""
    return sum(end - start for start, end in math_spans(text)) / max(1, len(text))
