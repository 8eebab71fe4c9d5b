"""What an author's macro is: its arguments, its body, and what of the body follows from them.

In: the text of a definition. Out: `Macro`. latex_macros.py learns the definitions and carries the macros out.
"""

import re
from dataclasses import dataclass
from typing import Final

from data_prep.latex_source import BLANK_LINE, NEAR_CHARS, Source, glue, read_argument

MAX_SPEC_CHARS: Final = 500  # of xparse's list of arguments; nine with their defaults
MAX_DEPTH: Final = 40  # macros within macros; a chain that is longer calls itself
# What xparse gives for an argument that is not there, and for a star.
NO_VALUE, TRUE, FALSE = "-NoValue-", "\\BooleanTrue", "\\BooleanFalse"
CSNAME: Final = re.compile(r"\s*([^{}]{0,80}?)\\endcsname")
# What no text can stand for: tests of what is known only when TeX runs, looks at what follows, work on registers and boxes.
TESTS: Final = re.compile(
    r"\\(?:futurelet|catcode|loop|advance|global|setbox|un[hv](?:box|copy)|copy|box|wd|ht|dp|hskip|count|dimen|toks|afterassignment|@(?:ifnextchar|ifstar|startsection|dblarg|testopt|tfor|for|ifundefined)"
    r"|if(?!(?:f|mmode|defined|csname|true|false|toggle|bool|def|undef|blank|strempty|strequal)(?![A-Za-z@])"
    r"|thenelse\s*\{\s*(?:\\(?:NOT|not)(?![A-Za-z])\s*)?\\(?:equal|boolean|isundefined)(?![A-Za-z]))[A-Za-z@]+)(?![A-Za-z@])"
)
# What defines, or is LaTeX's own code: carried out only where the body also opens something, which would else be lost with the name.
CODE: Final = re.compile(r"\\(?:def|gdef|edef|xdef|expandafter|csname|newcommand|@[A-Za-z@]+)(?![A-Za-z@])")
OPENS: Final = re.compile(
    r"\\(?:begin\s*\{|(?:(?:sub){0,2}section|(?:sub)?paragraph|chapter|footnote|\[)(?![A-Za-z@]))|\$\$"
)
# What only sets the page goes from a body: a formula may stand around it.
LAYOUT: Final = re.compile(
    r"\\(?:setlength|addtolength)\s*(?:\{\s*\\[A-Za-z@]+\s*\}|\\[A-Za-z@]+)\s*\{[^{}]*\}|\\(?:relax|begingroup|endgroup)(?![A-Za-z@])\s?"
)
IN_BOTH_MODES: Final = re.compile(
    r"\\ifmmode(?![A-Za-z@])\s*((?:(?!\\(?:else|fi|if)).)*)\\else((?:(?!\\(?:else|fi|if)).)*)\\fi(?![A-Za-z@])", re.S
)
DEFINES: Final = re.compile(r"\\(?:[gex]?def|newcommand|let|begin\{document)(?![A-Za-z@])")
PARAMETER: Final = re.compile(r"#(#|\d)")
LENGTHENS: Final = re.compile(r"[A-Za-z@]")
ENDS_IN_WORD: Final = re.compile(r"\\[A-Za-z@]+\Z")
XPARSE_LETTERS: Final = re.compile(r"[+!>]*\s*(?:(m|o|s|v|b|g)|([OD]|t|d|r|R|e|E|G))")
BLANK_LINES: Final = re.compile(r"\n(?:[ \t]*\n)+")
# Environments that authors begin by their commands in definitions of others: {\align}{\endalign}, \csname equation*\endcsname.
BY_COMMAND: Final = re.compile(
    r"\\(?:csname\s+)?(?P<end>end)?(?P<name>(?:equation|eqnarray|align|gather|multline|flalign|displaymath|IEEEeqnarray)\*?)"
    r"(?![A-Za-z@])(?:\\endcsname)?\s?"
)


@dataclass(slots=True)
class Macro:
    """An author's macro.

    `spec` has one letter per argument: m mandatory, o optional with default, g the same in braces, s star, d delimited by the entry of `ends`
    (whose first entry stands before the first argument). What follows from the body is worked out at its first use.
    """

    spec: str
    defaults: tuple[str | None, ...]
    body: str
    ends: tuple[str, ...] = ()
    frozen: bool = False  # a \let to what TeX itself knows: not looked at again
    endless: bool = False  # calls itself
    cut: tuple[str | int, ...] | None = None
    template: str | None = None
    order: tuple[int, ...] = ()
    is_program: bool | None = None
    flags: frozenset[str] = frozenset()  # the tests of a program that only tests: it can be run if these are known
    looked_at: int = -1  # the version of the definitions for which `inert` holds
    inert: bool = False
    quick_at: int = -1  # the version for which it is inert, with undelimited arguments only
    in_order: bool = False  # each argument is used once, in turn

    @property
    def program(self) -> bool:
        """Whether the body tests or assigns, so that no text can replace the macro: then its name stays."""
        if self.is_program is None:
            body = self.body
            others = len(body) > NEAR_CHARS or (bool(CODE.search(body)) and not OPENS.search(body))
            self.is_program = others or bool(TESTS.search(body))
            if self.is_program and not others:
                tests = frozenset(match[0][1:] for match in TESTS.finditer(body))
                self.flags = tests if all(name.startswith("if") for name in tests) else frozenset()
        return self.is_program or self.endless

    @property
    def defines(self) -> bool:
        """Whether the macro is carried out even in a preamble, because it defines others or begins the document."""
        return bool(DEFINES.search(self.body))

    @property
    def pieces(self) -> tuple[str | int, ...]:
        """The body cut at its parameters: text, number, text, ..., text."""
        if self.cut is None:
            body = self.body
            if "group" in body or "length" in body or "relax" in body:  # most have none
                body = LAYOUT.sub("", body)
            self.cut = cut_body(IN_BOTH_MODES.sub(in_both_modes, body) if "\\ifmmode" in body else body)
            self.template, self.order = make_template(self.cut)
            self.in_order = len(self.order) > 1 and self.order == (*range(len(self.spec)), len(self.spec))
        return self.cut

    def filled(self, arguments: list[str]) -> str:
        """The body with its arguments in place."""
        pieces = self.pieces
        if len(pieces) == 1:
            return str(pieces[0])
        if self.template is None or len(arguments) < self.order[-1]:
            return substitute(pieces, arguments)
        if self.in_order:
            return self.template % tuple(arguments)
        return self.template % tuple([arguments[number] for number in self.order[:-1]])


def in_both_modes(found: re.Match[str]) -> str:
    """\\ifmmode a\\else $b$\\fi as \\ensuremath{a}: the $ of its other branch would end a formula around it."""
    return f"\\ensuremath{{{found[1].strip()}}}" if "$" in found[2] else found[0]


def cut_body(body: str) -> tuple[str | int, ...]:
    """'a#1b##2' -> ('a', 1, 'b#2')."""
    if "#" not in body:
        return (body,)
    pieces: list[str | int] = [""]
    pos = 0
    for match in PARAMETER.finditer(body):
        pieces[-1] = str(pieces[-1]) + body[pos : match.start()]
        if match[1] == "#":
            pieces[-1] = str(pieces[-1]) + "#"
        else:
            pieces += [int(match[1]), ""]
        pos = match.end()
    pieces[-1] = str(pieces[-1]) + body[pos:]
    return tuple(pieces)


def make_template(pieces: tuple[str | int, ...]) -> tuple[str | None, tuple[int, ...]]:
    """A format string for the body and the arguments that go into it, by place, then how many there must be.

    None where a control word could run into a letter behind it, so that `substitute` has to look.
    """
    numbers = [piece - 1 for piece in pieces if isinstance(piece, int)]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    if (
        -1 in numbers
        or any(map(LENGTHENS.match, texts[1:]))
        or "" in texts[1:-1]
        or any(map(ENDS_IN_WORD.search, texts[:-1]))
    ):
        return None, ()
    return "%s".join(text.replace("%", "%%") for text in texts), (*numbers, max(numbers, default=-1) + 1)


def substitute(pieces: tuple[str | int, ...], arguments: list[str]) -> str:
    """The body with its arguments in place, control words kept apart from the letters behind them."""
    if len(pieces) == 1:
        return str(pieces[0])
    out = ""
    for piece in pieces:
        part = piece if isinstance(piece, str) else arguments[piece - 1] if 0 < piece <= len(arguments) else ""
        if part:
            out += glue(out, part) if out else part
    return out


def def_macro(parameters: str, body: str) -> Macro:
    """The macro of \\def\\foo PARAMETERS{body}."""
    bare = "".join(parameters.split())
    if PARAMETER.sub("", bare) == "":
        return Macro("m" * bare.count("#"), (), body)
    parts = re.split(r"#\d", parameters)
    ends = (parts[0].strip(), *parts[1:])
    spec = "".join("d" if end else "m" for end in ends[1:])
    return Macro(spec, (), body, ends)


def xparse_spec(given: str) -> tuple[str, tuple[str | None, ...]]:
    """'s O{2} m' -> ('som', (None, '2', None)); a letter that we do not read becomes '?'."""
    if len(given) > MAX_SPEC_CHARS:
        return "?", (None,)
    source, pos = Source(given), 0
    spec, defaults = "", list[str | None]()
    while match := XPARSE_LETTERS.search(given, pos):
        pos = match.end()
        default = None
        if match[2] == "O":
            default, pos = read_argument(source, pos)
            default = default or ""
        spec += {"v": "m", "b": "?"}.get(match[1], match[1]) if match[1] else "o" if match[2] == "O" else "?"
        defaults.append(default)
    return spec, tuple(defaults)


def without_paragraphs(result: str, macro: Macro, arguments: list[str]) -> str:
    """What a macro stands for, its line ends as TeX reads them: spaces. Only a blank line that the author wrote ends a paragraph.

    What is left out of a body, such as a test, may leave a line blank, and a `$` does not look for its partner beyond one.
    """
    edges = result[0].isspace() or result[-1].isspace()
    if not edges and not BLANK_LINE.search(result):
        return result
    if BLANK_LINE.search(macro.body) or any("\n" in argument and BLANK_LINE.search(argument) for argument in arguments):
        return result
    bare = result.strip()
    before, after = result[: len(result) - len(result.lstrip())], result[len(result.rstrip()) :]
    if not bare:
        return " "
    bare = BLANK_LINES.sub("\n", bare)
    return f"{' ' if before else ''}{bare}{' ' if after else ''}"


def by_tags(body: str) -> str:
    """The body of an environment's definition with the environments in it that begin by their commands: \\align -> \\begin{align}."""
    return BY_COMMAND.sub(lambda match: f"\\{'end' if match['end'] else 'begin'}{{{match['name']}}}", body)
