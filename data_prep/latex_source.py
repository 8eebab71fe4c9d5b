"""A LaTeX source as a place to read in: where groups, options and conditionals end, what is a comment, what an argument.

In: text and a position. Out: positions, arguments, and the text without its comments.

Nothing here raises on any input, and all questions about one text together take time linear in its length: what stays open
is looked up in a table that is made once, and a mark that was not found is not looked for again.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from data_prep.latex_scan import IS_COMPILED, group_end, next_conditional
from data_prep.latex_tables import NOT_CONDITIONALS, RAW_ENVIRONMENTS, SKIPPED_ENVIRONMENTS

NEAR_CHARS: Final = 2_000  # a group this short is matched by one regular expression
# longer ones are counted, up to these and as many as the text has; then a table of all is made
SCAN_CHARS: Final = 20_000
MAX_NESTING: Final = 30  # of footnotes in headings in footnotes …; deeper ones are unwrapped

CONTROL: Final = re.compile(r"\\([A-Za-z@]+|[\s\S])")  # in macros, packages and behind \makeatletter
OPENS_ARGUMENT: Final = frozenset("[{")  # a place where one may begin
GRAPHICS_FILE: Final = re.compile(r"\s*(?:\[[^]\n]*\])?\s*(?:\{[^{}\n]*\}|[^\s{}\\]+)")
BRACE: Final = re.compile(r"[{}]|\\[\s\S]")
ESCAPED: Final = r"\\[\s\S]"
SHALLOW: Final = rf"\{{[^{{}}\\]*(?:{ESCAPED}[^{{}}\\]*)*\}}"
NESTED: Final = rf"\{{[^{{}}\\]*(?:(?:{ESCAPED}|{SHALLOW})[^{{}}\\]*)*\}}"
GROUP: Final = re.compile(NESTED)
OPTION: Final = re.compile(rf"\[[^][{{}}\\]*(?:(?:{ESCAPED}|{NESTED}|\[[^][{{}}\\]*\])[^][{{}}\\]*)*\]")
NAME_IN_BRACES: Final = re.compile(r"\s*\{\s*([^{}\\$%&#~]*?)\s*\}")
BLANKS: Final = re.compile(r"\s*")
CONDITIONAL: Final = re.compile(r"\\(?:(if[A-Za-z@]*)|(else|or)|(fi))(?![A-Za-z@])")
MATH_TOKEN: Final = re.compile(r"\\[\s\S]|[{}$]")
RAW_BEGIN: Final = re.compile(r"\\begin\s*\{(" + "|".join(map(re.escape, sorted(RAW_ENVIRONMENTS))) + r")\}")
BLANK: Final = frozenset(" \t")
BEFORE_COMMENT: Final = frozenset(" \t%")
COMMENT_LINES: Final = re.compile(r"(?:[ \t]*%[^\n]*(?:\n|$))*")
URL_ON_LINE: Final = re.compile(r"\\(?:url|path|href|nolinkurl|burl|doi)\s*(?:\[[^]\n]*\]\s*)?\{([^{}\n]*)$")
VERB_ON_LINE: Final = re.compile(r"\\(?:verb|lstinline)\*?([^A-Za-z\s*])")
BLANK_LINE: Final = re.compile(r"\n[ \t]*\n")
WHITE: Final = frozenset(" \t\n")
LABEL_KEY: Final = re.compile(r"\{(?=[^{}\\$\n]{0,100}[A-Za-z])[^{}\\$\n]{1,100}\}")
RAW_MARK: Final = "\x1a"  # no source has it; NUL would be every second byte of a text with two a character


class Source:
    """One text and where its groups, conditionals and brackets end. Every question costs amortised constant time."""

    __slots__ = ("_conditionals", "_groups", "_missing", "_scan_chars", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._groups: dict[int, int] | None = None
        self._scan_chars = SCAN_CHARS + len(text)  # left for counting braces one group at a time
        self._conditionals: dict[int, tuple[int, int, int]] | None = None
        self._missing: dict[str, int] = {}  # a mark -> from here on the text holds none

    def group_end(self, pos: int) -> int:
        """`text[pos]` is `{`: the place after its `}`, or -1."""
        text = self.text
        if IS_COMPILED:
            if self._groups is None and (near := group_end(text, pos, min(pos + NEAR_CHARS, len(text)))) > 0:
                return near
            return self.far_group_end(pos)
        close = text.find("}", pos, pos + NEAR_CHARS)
        if close > 0 and text[close - 1] != "\\" and text.find("{", pos + 1, close) < 0:  # most groups hold no other
            return close + 1
        if self._groups is None and (match := GROUP.match(text, pos, pos + NEAR_CHARS)):
            return match.end()
        return self.far_group_end(pos)

    def far_group_end(self, pos: int) -> int:
        """`group_end` of a long group, or of any once there is a table of all."""
        text = self.text
        if self._groups is None:
            depth = 0
            for match in BRACE.finditer(text, pos, pos + self._scan_chars):
                char = match[0]
                if char == "{":
                    depth += 1
                elif char == "}":
                    depth -= 1
                    if depth == 0:
                        self._scan_chars -= match.end() - pos
                        return match.end()
            self._groups = brace_pairs(text)
        return self._groups.get(pos, -1)

    def option_end(self, pos: int) -> int:
        """`text[pos]` is `[`: the place after its `]`, or -1; an option is shorter than NEAR_CHARS."""
        match = OPTION.match(self.text, pos, pos + NEAR_CHARS)
        return match.end() if match else -1

    def closing(self, mark: str, pos: int) -> int:
        """The place after the next `mark`, or -1."""
        if pos >= self._missing.get(mark, len(self.text) + 1):
            return -1
        found = self.text.find(mark, pos, pos + NEAR_CHARS)  # a search of a long text has a costlier start
        if found < 0:
            found = self.text.find(mark, pos)
        if found < 0:
            self._missing[mark] = pos
            return -1
        return found + len(mark)

    def environment_end(self, name: str, pos: int) -> int:
        """The place after the next \\end{name}, or -1."""
        return self.closing("\\end{" + name + "}", pos)

    def unescaped(self, mark: str, pos: int) -> int:
        """Where the next `mark` stands that no backslash escapes, or -1."""
        text, start = self.text, pos
        if start >= self._missing.get("\\" + mark, len(text) + 1):
            return -1
        while (end := self.closing(mark, pos)) >= 0:
            found = end - len(mark)
            if text[found - 1] != "\\" or backslashes_before(text, found) % 2 == 0:
                return found
            pos = found + 1
        self._missing["\\" + mark] = start
        return -1

    def conditional_end(self, pos: int) -> tuple[int, int, int]:
        """A conditional's `\\if…` starts at `pos`: (start of its \\else or -1, end of that \\else, end of its \\fi); fi is -1 if open."""
        if self._conditionals is None:
            self._conditionals = conditional_pairs(self.text)
        return self._conditionals.get(pos, (-1, -1, -1))


def brace_pairs(text: str) -> dict[int, int]:
    """Every `{` that is closed -> the place after its `}`."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for match in BRACE.finditer(text):
        if match[0] == "{":
            stack.append(match.start())
        elif match[0] == "}" and stack:
            pairs[stack.pop()] = match.end()
    return pairs


def conditional_pairs(text: str) -> dict[int, tuple[int, int, int]]:
    """Every `\\if…` that is closed -> (start of its \\else or -1, end of that \\else, end of its \\fi)."""
    pairs: dict[int, tuple[int, int, int]] = {}
    stack: list[tuple[int, int, int]] = []
    for match in conditionals(text):
        if match.start() and text[match.start() - 1] == "\\" and backslashes_before(text, match.start()) % 2:
            continue
        if match[1]:
            if match[1] not in NOT_CONDITIONALS:
                stack.append((match.start(), -1, -1))
        elif not stack:
            continue
        elif match[2]:
            start, found, end = stack[-1]
            if found < 0:
                stack[-1] = (start, match.start(), match.end())
        else:
            start, found, end = stack.pop()
            pairs[start] = (found, end, match.end())
    return pairs


def conditionals(text: str) -> Iterator[re.Match[str]]:
    """What CONDITIONAL finds in the text."""
    if not IS_COMPILED:
        yield from CONDITIONAL.finditer(text)
        return
    pos = next_conditional(text, 0)
    while pos >= 0:
        if match := CONDITIONAL.match(text, pos):
            yield match
        pos = next_conditional(text, pos + 1)


def backslashes_before(text: str, pos: int) -> int:
    """How many backslashes stand directly before `pos`: an odd number escapes what is there."""
    start = pos
    while start and text[start - 1] == "\\":
        start -= 1
    return pos - start


def skip_blanks(text: str, pos: int) -> int:
    """The next place that holds no white space."""
    if not text[pos : pos + 1].isspace():  # most of all
        return pos
    match = BLANKS.match(text, pos)
    return match.end() if match else pos


def skip_spaces(text: str, pos: int) -> int:
    """The next place that holds no blank of the same line."""
    while text[pos : pos + 1] in BLANK:
        pos += 1
    return pos


def read_argument(source: Source, pos: int) -> tuple[str | None, int]:
    """TeX's undelimited argument at `pos`, without its braces, and the place after it; (None, pos) where none is.

    A blank line before it is the token \\par, and that is the argument (TeXbook, chapter 20).
    """
    text = source.text
    start = pos if text[pos : pos + 1] == "{" else skip_blanks(text, pos)
    if start > pos + 1 and start < len(text) and text.count("\n", pos, start) > 1:
        return "\\par", start
    char = text[start : start + 1]
    if char == "{":
        end = source.group_end(start)
        return (text[start + 1 : end - 1], end) if end > 0 else (None, pos)
    if char == "\\":
        match = CONTROL.match(text, start)
        return (match[0], match.end()) if match else (None, pos)
    return (None, pos) if char in ("}", "") else (char, start + 1)


def read_option(source: Source, pos: int) -> tuple[str | None, int]:
    """An optional argument `[…]` at `pos`, without its brackets; (None, pos) where none is."""
    start = skip_blanks(source.text, pos)
    if source.text[start : start + 1] != "[":
        return None, pos
    end = source.option_end(start)
    return (source.text[start + 1 : end - 1], end) if end > 0 else (None, pos)


def glue(left: str, right: str) -> str:
    """`right`, behind a blank where it would lengthen a control word that `left` ends in."""
    if right[:1].isalpha() and right[0].isascii():
        tail = left[left.rfind("\\", max(0, len(left) - 40)) + 1 :] if "\\" in left[-40:] else ""
        if tail and tail.isascii() and tail.replace("@", "a").isalpha():
            return " " + right
    return right


def strip_comments(text: str, places: list[tuple[int, int]] | None = None) -> str:
    """The text as TeX sees it: `%` to the end of its line and the next line's blanks go; verbatim and URLs stay whole.

    A line that is only a comment goes with its newline; a blank line behind a comment still ends the paragraph. The
    comment environment goes. `places` receives (offset in the result, offset in `text`) wherever something was left out.
    """
    raw_begins = RAW_BEGIN.finditer(text)
    raw = next(raw_begins, None)
    out: list[str] = []
    source: Source | None = None
    size = pos = 0
    start = -2  # where the next % stands; -1 where none does
    while True:
        if -1 != start < pos:
            start = text.find("%", pos)
        while raw is not None and raw.start() < pos:
            raw = next(raw_begins, None)
        if raw is not None and (start < 0 or raw.start() < start):
            begin, begun, name = raw.start(), raw.end(), raw[1]
            source = source or Source(text)
            close = source.environment_end(name, begun) - len(name) - 6
            if name in SKIPPED_ENVIRONMENTS:
                out.append(text[pos:begin])
                size += begin - pos
                pos = len(text) if close < 0 else close + len(name) + 6
                if places is not None:
                    places.append((size, pos))
            else:
                close = begun if close < 0 else close
                out.append(text[pos:close])
                size += close - pos
                pos = close
            continue
        if start < 0:
            break
        line = text.rfind("\n", pos, start) + 1 or pos
        end = text.find("\n", start) + 1 or len(text)
        before = text[line:start]
        if (not before or before.isspace()) and (line > pos or pos == 0 or text[pos - 1] == "\n"):
            piece = text[pos:line]
            if text[end : end + 1] in BEFORE_COMMENT:
                end = COMMENT_LINES.match(text, end).end()  # type: ignore[union-attr]
        elif "\\" in before and (backslashes_before(text, start) % 2 or protected_percent(text, line, start)):
            out.append(text[pos : start + 1])
            size += start + 1 - pos
            pos = start + 1
            continue
        else:
            piece = text[pos:start]
            while text[end : end + 1] in BLANK:
                end += 1
            if text[end : end + 1] == "\n":
                piece += "\n"
        out.append(piece)
        size += len(piece)
        pos = end
        if places is not None:
            places.append((size, pos))
    out.append(text[pos:])
    return "".join(out)


def protected_percent(text: str, line: int, pos: int) -> bool:
    """Whether the `%` at `pos` stands within \\url{…} or \\verb|…| of the line that starts at `line`."""
    before = text[max(line, pos - NEAR_CHARS) : pos]
    if "\\" not in before:
        return False
    if URL_ON_LINE.search(before):
        return True
    place = 0
    while match := VERB_ON_LINE.search(before, place):
        close = before.find("}" if match[1] == "{" else match[1], match.end())
        if close < 0:
            line_end = text.find("\n", pos)
            return text.find(match[1], pos, line_end if line_end >= 0 else len(text)) >= 0
        place = close + 1
    return False


def delimited_end(source: Source, pos: int, delimiter: str) -> tuple[int, int]:
    """(end of the argument at `pos` that `delimiter` ends outside braces, place after the delimiter); (-1, pos) without one."""
    text = source.text
    delimiter = delimiter.strip() or " "
    found, limit = pos, pos + NEAR_CHARS
    for _ in range(20):
        found = text.find(delimiter, found, limit)
        if found < 0:
            return -1, pos
        if text.count("{", pos, found) == text.count("}", pos, found):
            return found, found + len(delimiter)
        found += 1
    return -1, pos


def verb_end(text: str, pos: int) -> int:
    """`pos` is behind \\verb or \\lstinline: the place after its text, or `pos` where it does not end on its line."""
    pos += text[pos : pos + 1] == "*"
    if text[pos : pos + 1] == "[":
        pos = text.find("]", pos, pos + NEAR_CHARS) + 1 or pos
    mark = text[pos : pos + 1]
    if not mark or mark.isalpha() or mark.isspace():
        return pos
    close = text.find("}" if mark == "{" else mark, pos + 1, pos + NEAR_CHARS)
    return close + 1 if close >= 0 and "\n" not in text[pos:close] else pos


def skip_group(source: Source, pos: int) -> int:
    """The place after the group at `pos`, if one is there."""
    start = skip_blanks(source.text, pos)
    end = source.group_end(start) if source.text[start : start + 1] == "{" else -1
    return end if end > 0 else pos


def skip_option(source: Source, pos: int) -> int:
    """The place after the option at `pos`, if one is there."""
    start = skip_blanks(source.text, pos)
    end = source.option_end(start) if source.text[start : start + 1] == "[" else -1
    return end if end > 0 else pos


def ends_in_blank_line(pieces: list[str]) -> bool:
    """Whether the line that the pieces end in is blank so far."""
    for piece in pieces[:-5:-1]:
        if bare := piece.rstrip(" \t"):
            return bare[-1] == "\n"
    return False


def has_even_braces(inner: str) -> bool:
    """Whether a formula has as many opening braces as closing ones, escaped ones apart; False where only a reading can tell."""
    opened, closed = inner.count("{"), inner.count("}")
    if "\\" in inner and ("\\{" in inner or "\\}" in inner):
        if "\\\\{" in inner or "\\\\}" in inner:  # a line break before a brace
            return False
        opened, closed = opened - inner.count("\\{"), closed - inner.count("\\}")
    return opened == closed


def balanced(inner: str) -> str:
    """A formula whose braces don't match, without those that lack a partner."""
    out: list[str] = []
    open_places: list[int] = []
    pos = 0
    for match in MATH_TOKEN.finditer(inner):
        char = match[0]
        if char == "{":
            open_places.append(len(out) + 1)
            out += [inner[pos : match.start()], "{"]
        elif char == "}":
            out += [inner[pos : match.start()], "}" if open_places else ""]
            if open_places:
                open_places.pop()
        else:
            continue
        pos = match.end()
    out.append(inner[pos:])
    for place in open_places:
        out[place] = ""
    return "".join(out)


def paired_dollars(inner: str) -> str:
    """What stands in a formula, without its $ where they are odd in number."""
    if "\\$" not in inner and inner.count("$") % 2 == 0:
        return inner
    places = [match.start() for match in MATH_TOKEN.finditer(inner) if match[0] == "$"]
    if len(places) % 2 == 0:
        return inner
    return "".join(inner[left + 1 : right] for left, right in pairwise([-1, *places, len(inner)]))
