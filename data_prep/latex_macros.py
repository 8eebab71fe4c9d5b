"""What TeX does before it typesets: definitions are learned, conditionals decided, authors' macros expanded.

In: one flattened LaTeX source without comments. Out: LaTeX that uses no macro of its author, for latex_cleaner.py to read.

Nothing here raises on any input, and time is linear in the length of the source: expansion has a budget
(`EXPANSION_FACTOR`, `MAX_DEPTH`). What is not done: a macro that is a program (it looks ahead, works on registers, or tests what only
a run of TeX knows) is not run; its name stays where it is used. Definitions hold from where they stand to the end, whatever group they stand in.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from data_prep.latex_acronyms import DEFINITIONS, Acronym, define_acronym
from data_prep.latex_conditionals import choice, conditional, switch, xparse_test
from data_prep.latex_definitions import (
    CSNAME,
    FALSE,
    MAX_DEPTH,
    NO_VALUE,
    TRUE,
    Macro,
    by_tags,
    def_macro,
    without_paragraphs,
    xparse_spec,
)
from data_prep.latex_formats import FORMATS, NAMES_FORMAT
from data_prep.latex_scan import IS_COMPILED, known_names, name_slot, next_name
from data_prep.latex_source import (
    BLANK,
    CONTROL,
    NAME_IN_BRACES,
    NEAR_CHARS,
    SCAN_CHARS,
    Source,
    delimited_end,
    glue,
    read_argument,
    read_option,
    skip_blanks,
    verb_end,
)
from data_prep.latex_tables import (
    ARGUMENT_TAKERS,
    CONDITIONALS,
    MATH_ENVIRONMENTS,
    PACKAGE_FLAGS,
    PROTECTED,
    RAW_ENVIRONMENTS,
    REMOVED_ENVIRONMENTS,
    SKIPPED_ENVIRONMENTS,
)

EXPANSION_FACTOR: Final = 6  # characters that expansion may write, per character of source: real papers stay under 2
EXPANSION_FLOOR_CHARS: Final = 200_000  # and what a short source may write in any case
EXPANSION_CEILING_CHARS: Final = 30_000_000  # and what no source may pass (arXiv's largest paper has 5 MB of TeX)
MAX_PARAMETER_CHARS: Final = 400  # of the parameter text of a \def

CONTROL_IN_TEXT: Final = re.compile(r"\\([A-Za-z]+|[\s\S])")  # elsewhere @ is no letter
RESTATED: Final = frozenset(("restatable", "restatable*"))
TELLING_ENVIRONMENTS: Final = RAW_ENVIRONMENTS | RESTATED | {"document"}
MAX_NAME_CHARS: Final = 40  # of an environment
TAGS: Final = frozenset(("begin", "end"))
CLOSED: Final = frozenset("{}()[]^_$,.;:=+-*/|<>!&0123456789")  # behind these a macro is no argument of a command
FRONT_MATTER: Final = frozenset(("title", "abstract", "author", "icmltitle"))
DOCUMENT: Final = re.compile(r"\\begin\s*\{\s*document\s*\}")


OPENS_SOMETHING: Final = re.compile(
    r"\\\[|\$\$|\\begin\s*\{(?:"
    + "|".join(
        map(re.escape, sorted(MATH_ENVIRONMENTS | REMOVED_ENVIRONMENTS | RAW_ENVIRONMENTS, key=len, reverse=True))
    )
    + r")\*?\}"
)
# These mean what they say, whatever an author's definition makes them look like.
NAMED_WELL: Final = frozenset(
    """abstract proof theorem lemma proposition corollary definition remark example exercise prooftree itemize enumerate description quote quotation
    acknowledgments acknowledgements""".split()
)
IN_GROUP: Final = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
# \newcommand{\etc}{\@ifnextchar.{etc}{etc.\@\xspace}}: the commonest look at what follows.
PUNCTUATION_AHEAD: Final = re.compile(
    rf"\s*\\@ifnextchar\s*\{{?([.,;:!?'])\}}?\s*{IN_GROUP}\s*{IN_GROUP}\s*(?:\\xspace\s*)?"
)
BOX_TITLE: Final = re.compile(r"title\s*=\s*\{?([^,{}]*#[1-9][^,{}]*)")  # of tcolorbox
SPACES: Final = frozenset(" \t\n")
FONT_SWITCH_LAST: Final = re.compile(
    r"\\(?:it|bf|rm|sl|em|sc|tt|sf|itshape|bfseries|slshape|scshape|upshape|rmfamily|sffamily|ttfamily)\Z"
)
DEFINED_NAME: Final = re.compile(r"\s*\*?\s*(?:\{\s*\\([A-Za-z@]+|[^A-Za-z@\s])\s*\}|\\([A-Za-z@]+|[^A-Za-z@\s]))")
SIMPLE_NEWCOMMAND: Final = re.compile(
    r"\s*\*?\s*(?:\{\s*\\([A-Za-z@]+)\s*\}|\\([A-Za-z@]+))\s*(?:\[\s*([1-9])\s*\]\s*)?(?=\{)"
)
NOEXPAND: Final = re.compile(r"\\(?:noexpand|protect|unexpanded)(?![A-Za-z@])\s*")
DEF_NAME: Final = re.compile(r"\s*\\([A-Za-z@]+|[\s\S])")
LET_TARGET: Final = re.compile(r"\s*=?\s*(?:\\([A-Za-z@]+|[\s\S])|([^\s{}]))")
PREFIXED: Final = re.compile(
    r"\s*\\(?:long|global|outer|protected|def|gdef|edef|xdef|let|newcommand|renewcommand)(?![A-Za-z@])"
)
CSNAME_DEFINITION: Final = re.compile(
    r"\s*\\(def|gdef|edef|xdef|let|newcommand|renewcommand|providecommand)\s*\*?\s*\{?\s*\\csname\s+([^{}]{0,80}?)\\endcsname\s*\}?"
)


class EndlessExpansion(Exception):
    """A macro calls itself. Raised within this file and caught in it: the macro's name then stays as it is."""


Handler = Callable[["Expander", Source, str, int, int, list[str], int], int]


class Expander:
    """Carries out one source. `preamble` learns definitions only; `expand` also writes text.

    `active` holds what does something: authors' macros, and methods of this class for TeX's own commands.
    """

    def __init__(self, num_source_chars: int) -> None:
        self.active: dict[str, Macro | Handler] = dict(TEX_COMMANDS)
        self.known = KNOWN.copy()  # where the names in `active` have their slots
        self.preamble_words = PREAMBLE_COMMANDS
        self.environments: dict[str, tuple[Macro, str]] = {}
        self.excluded: set[str] = set()  # environments whose text is not printed
        self.flags: dict[str, bool] = dict(PACKAGE_FLAGS)
        self.toggles: dict[str, bool] = {}
        self.acronyms: dict[str, Acronym] = {}  # their forms as LaTeX
        self.front: dict[str, str] = {}
        self.left_chars = min(EXPANSION_FACTOR * num_source_chars + EXPANSION_FLOOR_CHARS, EXPANSION_CEILING_CHARS)
        self.tail = ""
        self.ended = False
        self.plain = False  # plain TeX: a bare \\end ends the document
        self.letter_at = False
        self.warnings: list[str] = []
        self.cache: dict[tuple[str, ...], tuple[str, str]] = {}
        self.plain_tags: set[str] = set()  # "{name}" of environments that mean nothing here
        self.version = 0
        self.ready: dict[
            str, tuple[str, bool]
        ] = {}  # macros without arguments: expansion, whether it ends in a control word
        self.places: list[tuple[int, int]] | None = None
        self.notes: list[tuple[str, int, int]] = []  # for --explain: rule, start and end of what it left out
        self.written = self.counted = 0

    # ------------------------------------------------------------ the two passes

    def preamble(self, text: str) -> int:
        """Learn what the preamble of `text` defines; the place after its \\begin{document}, or -1 where there is none."""
        if not DOCUMENT.search(text):
            return -1
        source, pos, active = Source(text), 0, self.active
        scrap: list[str] = []
        while True:
            if IS_COMPILED:
                start, end = self.next_active(text, pos, True, FRONT_MATTER)
            else:
                for match in CONTROL.finditer(text, pos):
                    if match[1] in active or match[1] in FRONT_MATTER:
                        start, end = match.span()
                        break
                else:
                    start = -1
            if start < 0:
                return -1
            name = text[start + 1 : end]
            action, pos = active.get(name), end
            if action is None:
                if text[pos : pos + 1] in ("[", "{", "*"):
                    pos = self.front_matter(source, name, pos)
            elif isinstance(action, Macro):
                if action.defines and (result := self.outer_call(source, name, action, pos)):
                    pos = result[1]
                    if DOCUMENT.search(result[0]):
                        return pos
            elif name == "begin":
                found = NAME_IN_BRACES.match(text, pos)
                if found and found[1] == "document":
                    return found.end()
                if found and found[1] in RAW_ENVIRONMENTS:
                    pos = self.begin(source, name, pos, start, scrap, 0)
            elif name in self.preamble_words or name in self.flags:
                pos = action(self, source, name, pos, start, scrap, 0)
                scrap.clear()

    def front_matter(self, source: Source, name: str, pos: int) -> int:
        """Remember the argument of \\title, \\abstract or \\author of a preamble."""
        pos += source.text[pos] == "*"
        _, after = read_option(source, pos)
        argument, end = read_argument(source, after)
        if argument is None:
            return pos
        self.front[name] = argument
        return end

    def expand(self, text: str, depth: int = 0) -> str:
        """`text` with definitions learned and left out, conditionals decided and macros replaced."""
        if "\\" not in text:
            return text
        if depth > MAX_DEPTH:
            raise EndlessExpansion
        source, active, ready, out = Source(text), self.active, self.ready, list[str]()
        noting = depth == 0 and self.places is not None
        copied = pos = 0
        names: Iterator[re.Match[str]] = iter(())
        names_at, names_hold_at = -1, False
        while True:
            at_letter = bool(depth) or self.letter_at
            if IS_COMPILED:
                start, pos = self.next_active(text, pos, at_letter)
            else:  # as next_active, but a search goes on where the last one ended
                if pos != names_at or at_letter != names_hold_at:
                    names, names_hold_at = (CONTROL if at_letter else CONTROL_IN_TEXT).finditer(text, pos), at_letter
                start = -1
                for match in names:
                    if match[1] in active:
                        start, pos = match.span()
                        break
                names_at = pos
            if start < 0:
                out.append(text[copied:])
                return "".join(out)
            name = text[start + 1 : pos]
            if name in TAGS:  # most environments mean nothing here
                close = text.find("}", pos, pos + MAX_NAME_CHARS)
                if text[pos : close + 1] in self.plain_tags:
                    continue
            if start > copied:
                out.append(text[copied:start])
            if (
                name in ready
                and len(ready[name][0]) <= self.left_chars
                and (not start or text[start - 1] in CLOSED or not behind_taker(text, start))
            ):  # most uses: no arguments, expanded before, nothing near that it could touch
                while text[pos : pos + 1] in BLANK:
                    pos += 1
                result, ends_in_word = ready[name]
                out.append(result + " " if ends_in_word and text[pos : pos + 1].isalpha() else result)
                self.left_chars -= len(result)
            else:
                action = active[name]
                if isinstance(action, Macro):
                    pos = self.macro(source, name, action, pos, start, out, depth)
                else:
                    pos = action(self, source, name, pos, start, out, depth)
                if noting and name in TELLING:
                    self.notes.append((f"{TELLING[name]} \\{name}", start, pos))
            copied = pos
            if noting:
                self.note_place(out, pos)
            if self.ended or (self.tail and depth):
                return "".join(out)

    def next_active(
        self, text: str, pos: int, at_letter: bool, others: frozenset[str] = frozenset()
    ) -> tuple[int, int]:
        """Start and end of the first control word or symbol from `pos` on that means something, or is one of the others.

        (-1, -1) without one. For the compiled form: interpreted, a loop over the matches of CONTROL is quicker where it stands.
        """
        while True:
            start, end = next_name(text, pos, at_letter, self.known)
            if start < 0 or (name := text[start + 1 : end]) in self.active or name in others:
                return start, end
            pos = end

    def note_place(self, out: list[str], pos: int) -> None:
        """Remember, for --explain, that the text from `pos` on comes behind what `out` holds."""
        if self.places is not None:
            self.written += sum(map(len, out[self.counted :]))
            self.counted = len(out)
            self.places.append((self.written, pos))

    def macro(self, source: Source, name: str, macro: Macro, pos: int, start: int, out: list[str], depth: int) -> int:
        """Write what the macro stands for; where it cannot be told, its name."""
        text = source.text
        called = None
        if macro.quick_at == self.version and self.left_chars > 0:
            called = self.quick_call(source, macro, pos)
        if called is None and self.left_chars > 0 and (not macro.program or self.decides(macro)):
            called = self.call(source, name, macro, pos, depth) if depth else self.outer_call(source, name, macro, pos)
            if called is None and self.tail:
                self.tail = text[start:]
                return len(text)
        if called is None and (ahead := PUNCTUATION_AHEAD.fullmatch(macro.body)):
            chosen = ahead[2] if text.startswith(ahead[1], pos) else ahead[3]
            called = self.expand_quietly(chosen, depth), pos
        if called is None:
            out.append(text[start:pos])
            return pos
        result, end = called
        if not macro.spec:
            while text[end : end + 1] in (" ", "\t"):
                end += 1
        if len(result) > 1 and start and text[start - 1] not in CLOSED and behind_taker(text, start):
            result = "{" + result + "}"
        if result:
            out.append(glue(out[-1], result) if out and result[0].isalpha() else result)
        if self.tail:
            end = self.finish_tails(source, end, out, depth)
        rest = text[end : end + 1]
        if rest in SPACES and macro.spec and FONT_SWITCH_LAST.search(result):
            out.append("{}")  # the blank behind the arguments is one
        if result and out and rest.isalpha() and (separated := glue(out[-1], rest)) != rest:
            out.append(separated[:-1])
        return end

    def finish_tails(self, source: Source, pos: int, out: list[str], depth: int) -> int:
        """Carry out what macros left in `self.tail`, with the arguments at `pos`; the place after them.

        Where `source` ends before they do, `self.tail` is still set: the source around it may hold them.
        """
        for _ in range(MAX_DEPTH):
            tail, self.tail = self.tail, ""
            self.left_chars -= len(tail)
            pos = self.finish_tail(source, tail, pos, out, depth)
            if not self.tail or pos >= len(source.text):
                return pos
        out.append(self.tail)
        self.tail = ""
        return pos

    def finish_tail(self, source: Source, tail: str, pos: int, out: list[str], depth: int) -> int:
        """A macro ended in another that takes its arguments from behind it: `\\def\\a{\\b}` with `\\a{x}`."""
        text = source.text
        brace = skip_blanks(text, pos)
        end = source.group_end(brace) if text[brace : brace + 1] == "{" else brace
        match = CONTROL.match(tail)
        action = self.active.get(match[1]) if match else None
        if match is None or end < 0 or not isinstance(action, Macro):
            out.append(tail)
            return pos
        joined = Source(tail + text[pos : end + NEAR_CHARS])
        try:
            called = self.call(joined, match[1], action, match.end(), max(depth, 1))
        except EndlessExpansion:
            if depth:
                raise
            self.active[match[1]] = replace(action, endless=True)
            called = None
        if called is None:
            if self.tail and depth:
                self.tail = joined.text
                return len(text)
            self.tail = ""
            out.append(tail)
            return pos
        out.append(called[0])
        return pos + max(0, called[1] - len(tail))

    def outer_call(self, source: Source, name: str, macro: Macro, pos: int) -> tuple[str, int] | None:
        """`call` from the text itself; a macro that turns out to call itself is a program from now on."""
        try:
            return self.call(source, name, macro, pos, 0)
        except EndlessExpansion:
            self.active[name] = replace(macro, endless=True)
            self.tail = ""
            self.warnings.append(f"macro \\{name} calls itself")
            return None

    def call(self, source: Source, name: str, macro: Macro, pos: int, depth: int) -> tuple[str, int] | None:
        """(what the macro with its arguments at `pos` expands to, the place after them); None where arguments are missing.

        `self.tail` is then set if they may follow behind the end of `source`, and also where the result itself ends in a
        macro whose arguments stand behind `pos`.
        """
        arguments: list[str] = []
        if macro.spec and not self.read_arguments(source, macro, pos, arguments):
            return None
        end = self.arguments_end if macro.spec else pos
        if macro.frozen:
            return macro.body, end
        if arguments and self.is_inert(macro) and self.are_inert(arguments):
            body = macro.filled(arguments)
            self.left_chars -= len(body)
            return (without_paragraphs(body, macro, arguments) if "\n" in body else body), end
        key = (name, *arguments)
        found = self.cache.get(key)
        body = found[0] if found else macro.filled(arguments)
        self.left_chars -= len(body)
        if self.left_chars <= 0:
            self.warnings.append("expansion-budget")
            return None
        if found:
            self.tail = found[1]
            return body, end
        version = self.version
        result = self.expand(body, depth + 1)
        if "\n" in result:
            result = without_paragraphs(result, macro, arguments)
        if version == self.version and len(body) < NEAR_CHARS:
            self.cache[key] = (result, self.tail)
            if not macro.spec and not self.tail and result and not result[0].isalpha():
                self.ready[name] = (result, glue(result, "a") != "a")
        return result, end

    def quick_call(self, source: Source, macro: Macro, pos: int) -> tuple[str, int] | None:
        """What `call` returns, for a macro known to be inert and undelimited whose arguments stand in braces and are inert; else None."""
        text, end, arguments = source.text, pos, list[str]()
        for _ in macro.spec:
            if text[end : end + 1] != "{" or (close := source.group_end(end)) < 0:
                return None
            arguments.append(text[end + 1 : close - 1])
            end = close
        if not self.are_inert(arguments):
            return None
        body = macro.filled(arguments)
        self.left_chars -= len(body)
        return (without_paragraphs(body, macro, arguments) if "\n" in body else body), end

    def decides(self, macro: Macro) -> bool:
        """Whether a macro that tests can be run, because it only asks for conditionals of the author, \\newif\\ifdraft."""
        return bool(macro.flags) and not macro.endless and self.flags.keys() >= macro.flags

    def is_inert(self, macro: Macro) -> bool:
        """Whether nothing in the body itself is a macro, so that it need not be looked through again."""
        if macro.looked_at != self.version:
            macro.looked_at = self.version
            macro.inert = self.are_inert([piece for piece in macro.pieces if isinstance(piece, str)])
            if macro.inert and not macro.ends and not macro.spec.strip("m"):
                macro.quick_at = self.version
        return macro.inert

    def are_inert(self, texts: list[str]) -> bool:
        """Whether no text holds a name that means something here."""
        names = self.active.keys()
        for text in texts:
            if "\\" not in text:
                continue
            if IS_COMPILED:
                if self.next_active(text, 0, True)[0] >= 0:
                    return False
            elif not names.isdisjoint(CONTROL.findall(text)):
                return False
        return True

    def read_arguments(self, source: Source, macro: Macro, pos: int, arguments: list[str]) -> bool:
        """Fill `arguments` from `pos` by the macro's spec; `self.arguments_end` is then the place after them."""
        argument: str | None
        if macro.spec == "m":  # most macros
            text = source.text
            if text[pos : pos + 1] == "{" and (end := source.group_end(pos)) > 0:
                arguments.append(text[pos + 1 : end - 1])
                self.arguments_end = end
                return True
            argument, self.arguments_end = read_argument(source, pos)
            if argument is not None:
                arguments.append(argument)
                return True
        text = source.text
        if macro.ends and macro.ends[0]:
            pos = skip_blanks(text, pos)
            if not text.startswith(macro.ends[0], pos):
                return False
            pos += len(macro.ends[0])
        for number, letter in enumerate(macro.spec):
            if letter == "m":
                argument, pos = read_argument(source, pos)
                if argument is None:
                    if skip_blanks(text, pos) >= len(text):
                        self.tail = text
                    return False
                arguments.append(argument)
            elif letter == "o":
                argument, pos = read_option(source, pos)
                default = macro.defaults[number] if number < len(macro.defaults) else None
                if argument is None or argument == NO_VALUE:  # one macro hands another what it was not given itself
                    argument = NO_VALUE if default is None else default
                arguments.append(argument)
            elif letter == "g":
                start = skip_blanks(text, pos)
                argument, end = read_argument(source, start) if text[start : start + 1] == "{" else (None, pos)
                arguments.append(NO_VALUE if argument is None else argument)
                pos = pos if argument is None else end
            elif letter == "s":
                star = text.startswith("*", skip_blanks(text, pos))
                pos = skip_blanks(text, pos) + 1 if star else pos
                arguments.append(TRUE if star else FALSE)
            else:
                end, after = delimited_end(source, pos, macro.ends[number + 1])
                if end < 0:
                    return False
                argument = text[pos:end]
                stripped = argument.strip()
                if stripped.startswith("{") and Source(stripped).group_end(0) == len(stripped):
                    argument = stripped[1:-1]
                arguments.append(argument)
                pos = after
        self.arguments_end = pos
        return True

    arguments_end = 0

    # ------------------------------------------------------------ definitions

    def define(self, name: str, macro: Macro | Handler | None) -> None:
        """Give `name` a new meaning from here on; structure that the cleaner reads itself keeps its own."""
        if name in PROTECTED:
            return
        if name in self.active:
            self.forget()
            if not isinstance(self.active[name], Macro) and not name.startswith(("if", "define", "redefine", "acro")):
                return
        if macro is None:
            self.active.pop(name, None)
        else:
            self.activate(name, macro)
            if not isinstance(macro, Macro):
                self.preamble_words |= {name}
        self.version += 1

    def activate(self, name: str, action: Macro | Handler) -> None:
        """From here on, \\name is acted on."""
        self.active[name] = action
        if IS_COMPILED:
            self.known[name_slot(name)] = True

    def forget(self) -> None:
        """What was expanded so far may mean something else now."""
        self.cache.clear()
        self.ready.clear()

    def newcommand(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\newcommand\\foo[2][default]{body} and its family, \\newcommandx\\foo[2][1=default]{body}."""
        simple = SIMPLE_NEWCOMMAND.match(source.text, pos)  # most of all
        if simple and (end := source.group_end(simple.end())) > 0:
            new, inner = simple[1] or simple[2], source.text[simple.end() + 1 : end - 1]
            if not (name.startswith("provide") and new in self.active):
                self.define(new, self.alias_of(inner) or Macro("m" * int(simple[3] or 0), (), inner))
            return end
        found = DEFINED_NAME.match(source.text, pos)
        if not found:
            return pos
        new = found[1] or found[2]
        count, end = read_option(source, found.end())
        default, end = read_option(source, end) if count is not None else (None, end)
        body, end = read_argument(source, end)
        if body is None:
            return found.end()
        arity = int(count) if count and count.strip() in set("123456789") else 0
        if name.endswith("x") and default is not None:
            given = dict(part.split("=", 1) for part in default.split(",") if "=" in part)
            defaults = tuple(given.get(str(number + 1)) for number in range(arity))
            spec = "".join("m" if value is None else "o" for value in defaults)
            macro = Macro(spec, defaults, body)
        elif default is not None:
            macro = Macro("o" + "m" * (arity - 1), (default,), body)
        else:
            macro = Macro("m" * arity, (), body)
        if not (name.startswith("provide") and new in self.active):
            self.define(new, self.alias_of(body) or macro)
        return end

    def alias_of(self, body: str) -> Handler | None:
        """The definer that a body consists of: \\newcommand{\\nc}{\\newcommand} makes \\nc define."""
        bare = body.strip()
        action = self.active.get(bare[1:]) if bare[:1] == "\\" else None
        return None if action is None or isinstance(action, Macro) else action

    def def_(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\def\\foo#1, #2.{body}: undelimited and delimited parameters."""
        text = source.text
        found = DEF_NAME.match(text, pos)
        if not found:
            return pos
        brace = text.find("{", found.end(), found.end() + MAX_PARAMETER_CHARS)
        end = source.group_end(brace) if brace >= 0 else -1
        if end < 0:
            return found.end()
        body = text[brace + 1 : end - 1]
        if name in ("edef", "xdef"):
            body = NOEXPAND.sub("", self.expand_quietly(body, depth))
        self.define(found[1], self.alias_of(body) or def_macro(text[found.end() : brace], body))
        return end

    def expand_quietly(self, body: str, depth: int) -> str:
        """A body expanded now, or as it stands where it cannot be."""
        try:
            result = self.expand(body, depth + 1)
        except EndlessExpansion:
            return body
        result, self.tail = result + self.tail, ""
        return result

    def let(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\let\\new=\\old: \\new now means what \\old means at this place, whatever \\old becomes later."""
        found = DEF_NAME.match(source.text, pos)
        target = LET_TARGET.match(source.text, found.end()) if found else None
        if not found or not target:
            return pos
        new, old = found[1], target[1]
        if old == new:
            self.define(new, None)
        elif old is None:
            self.define(new, Macro("", (), target[2], frozen=True))
        else:
            meaning = "" if old == "relax" else "\\" + old  # \relax does nothing
            self.define(new, self.active.get(old) or Macro("", (), meaning, frozen=True))
        return target.end()

    def newenvironment(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\newenvironment{name}[2][default]{begin}{end}; xparse's form with a specification."""
        pos += source.text[pos : pos + 1] == "*"
        found = NAME_IN_BRACES.match(source.text, pos)
        if not found:
            return pos
        if "Document" in name:
            given, end = read_argument(source, found.end())
            spec, defaults = xparse_spec(given or "")
        else:
            count, end = read_option(source, found.end())
            default, end = read_option(source, end) if count is not None else (None, end)
            arity = int(count) if count and count.strip() in set("123456789") else 0
            spec, defaults = ("m" * arity, ()) if default is None else ("o" + "m" * (arity - 1), (default,))
        opening, end = read_argument(source, end)
        closing, end = read_argument(source, end)
        if opening is None or closing is None:
            return found.end()
        if "?" not in spec:
            self.know_environment(found[1], Macro(spec, defaults, by_tags(opening)), by_tags(closing))
        return end

    def know_environment(self, name: str, opening: Macro, closing: str) -> None:
        """Remember an author's environment."""
        self.environments[name] = (opening, closing)
        self.plain_tags.clear()
        self.cache.pop(("\\begin", name), None)
        self.version += 1

    def newtcolorbox(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\newtcolorbox{box}[2][]{title=#2}: of its arguments only the title is printed; \\newtcbtheorem{thm}{Theorem}{options}{prefix}."""
        _, pos = read_option(source, pos)
        named, end = read_argument(source, pos)
        if named is None:
            return pos
        if name.endswith("theorem"):
            for _ in range(3):
                _, end = read_argument(source, end)
            self.know_environment(named.strip(), Macro("omm", (None, None, None), "[#2]"), "")
            return end
        count, end = read_option(source, end)
        default, end = read_option(source, end)
        options, end = read_argument(source, end)
        arity = int(count) if count and count.strip() in set("123456789") else 0
        spec = "o" + "m" * (arity - 1) if default is not None and arity else "m" * arity
        title = BOX_TITLE.search(options or "")
        self.know_environment(named.strip(), Macro(spec, (default,), title[1] if title else ""), "")
        return end

    def excludecomment(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\excludecomment{draft} of the package comment: what stands in that environment is not printed."""
        given, end = read_argument(source, pos)
        if given is None:
            return pos
        self.excluded.add(given.strip())
        self.know_environment(given.strip(), Macro("", (), ""), "")
        return end

    def math_operator(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\DeclareMathOperator*{\\foo}{text} -> \\operatorname*{text}."""
        star = "*" if source.text.startswith("*", skip_blanks(source.text, pos)) else ""
        found = DEFINED_NAME.match(source.text, pos)
        body, end = read_argument(source, found.end()) if found else (None, pos)
        if found and body is not None:
            self.define(found[1] or found[2], Macro("", (), "\\operatorname" + star + "{" + body + "}"))
        return end

    def document_command(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\NewDocumentCommand{\\foo}{s O{default} m}{body}."""
        found = DEFINED_NAME.match(source.text, pos)
        given, end = read_argument(source, found.end()) if found else (None, pos)
        body, end = read_argument(source, end)
        if found and given is not None and body is not None:
            spec, defaults = xparse_spec(given)
            macro = Macro(spec, defaults, body)
            if "?" not in spec:
                self.define(found[1] or found[2], macro)
        return end

    def newif(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\newif\\iffoo makes \\iffoo, \\footrue and \\foofalse."""
        found = DEF_NAME.match(source.text, pos)
        if not found or not found[1].startswith("if"):
            return pos
        flag = found[1]
        self.flags[flag] = False
        self.activate(flag, conditional)
        self.activate(flag[2:] + "true", Expander.set_flag)
        self.activate(flag[2:] + "false", Expander.set_flag)
        self.preamble_words |= {flag, flag[2:] + "true", flag[2:] + "false"}
        return found.end()

    def set_flag(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\footrue, \\foofalse."""
        value = name.endswith("true")
        self.flags["if" + name[: -4 if value else -5]] = value
        self.version += 1
        self.forget()
        return pos

    def prefix(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\long and \\global before a definition go with it."""
        if not PREFIXED.match(source.text, pos):
            out.append(source.text[start:pos])
        return pos

    def at_letter(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\makeatletter: from here on @ is a letter in names."""
        self.letter_at = name == "makeatletter"
        return pos

    def expandafter(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\expandafter\\def\\csname foo\\endcsname{…} defines \\foo; any other \\expandafter is left out."""
        found = CSNAME_DEFINITION.match(source.text, pos)
        if not found:
            return pos
        new = self.expand_quietly(found[2], depth).strip()
        if not new.isalpha():
            return found.end()
        if found[1] == "let":
            target = LET_TARGET.match(source.text, found.end())
            return target.end() if target else found.end()
        rest = Source("\\" + new + " " + source.text[found.end() : found.end() + SCAN_CHARS])
        handler = self.active.get(found[1])
        if handler is None or isinstance(handler, Macro):
            return found.end()
        end = handler(self, rest, found[1], 0, 0, [], depth)
        return found.end() + max(0, end - len(new) - 2)

    def namedef(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\@namedef{foo}{body} and etoolbox's \\csdef define \\foo."""
        given, end = read_argument(source, pos)
        brace = source.text.find("{", end, end + MAX_PARAMETER_CHARS)
        after = source.group_end(brace) if given is not None and brace >= 0 else -1
        if given is None or after < 0:
            return pos
        if given.strip().isalpha():
            self.define(given.strip(), def_macro(source.text[end:brace], source.text[brace + 1 : after - 1]))
        return after

    def csname(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\csname foo\\endcsname and etoolbox's \\csuse{foo} are \\foo, or nothing where the name is no word."""
        if name != "csname":
            given, end = read_argument(source, pos)
        else:
            found = CSNAME.match(source.text, pos)
            given, end = (found[1], found.end()) if found else (None, pos)
        if given is None:
            out.append(source.text[start:pos])
            return pos
        named = self.expand_quietly(given, depth).strip()
        action = self.active.get(named)
        if isinstance(action, Macro) and not action.program:
            return self.macro(source, named, action, end, start, out, depth)
        if named.isalpha():
            out.append("\\" + named + ("" if source.text[end : end + 1] in ("{", "[", "*") else " "))
        return end

    # ------------------------------------------------------------ environments, raw text, conditionals

    def begin(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\begin of raw text copies it whole; of an author's environment around mathematics or a float, writes what it stands for."""
        text = source.text
        if plain := self.plain_tag(text, pos):
            out.append(text[start:plain])
            return plain
        found = NAME_IN_BRACES.match(text, pos)
        if not found:
            out.append(text[start:pos])
            return pos
        inner = found[1]
        if inner in RAW_ENVIRONMENTS:
            close = source.environment_end(inner, found.end())
            end = found.end() if close < 0 else close
            if inner not in SKIPPED_ENVIRONMENTS:
                out.append(text[start:end])
            return end
        if inner in self.excluded:
            close = source.environment_end(inner, found.end())
            if self.places is not None and depth == 0:
                self.notes.append((f"excluded environment {inner}", start, max(close, found.end())))
            return found.end() if close < 0 else close
        if inner in RESTATED:
            self.restatable(source, found.end())
        known = self.environments.get(inner)
        opens = known is not None and depth < MAX_DEPTH and self.opens_something(inner, depth)
        if known and (opens or ("m" in known[0].spec and not known[0].program)):
            arguments: list[str] = []
            if self.read_arguments(source, known[0], found.end(), arguments):
                end = self.arguments_end if known[0].spec else found.end()
                body = known[0].filled(arguments)
                self.left_chars -= len(body)
                if self.left_chars > 0:
                    result = self.expand_quietly(body, depth) if body.strip("[]") else ""
                    if not opens:  # the name stays, and what the arguments print
                        result = "\\begin{" + inner + "}" + result + ("" if result.endswith("]") else " ")
                    out.append(glue(out[-1] if out else "", result))
                    return end
            self.tail = ""
        out.append("\\begin{" + inner + "}")
        return found.end()

    def restatable(self, source: Source, pos: int) -> None:
        """\\begin{restatable}[Name]{theorem}{mainthm} of thm-restate: \\mainthm* says it again, which we leave out."""
        _, pos = read_option(source, pos)
        _, pos = read_argument(source, pos)
        name, _ = read_argument(source, pos)
        if name is not None and name.strip().isalpha():
            self.define(name.strip(), Macro("s", (None,), ""))

    def plain_tag(self, text: str, pos: int) -> int:
        """The place after `{name}` at `pos` if that environment means nothing to us, as most do not; else 0."""
        close = text.find("}", pos, pos + MAX_NAME_CHARS)
        if close < 0 or text[pos] != "{":
            return 0
        name = text[pos + 1 : close]
        if name in TELLING_ENVIRONMENTS or name in self.environments or not name.isalpha():
            return 0
        self.plain_tags.add(text[pos : close + 1])
        return close + 1

    def opens_something(self, name: str, depth: int) -> bool:
        """Whether an author's environment begins mathematics, a float, raw text or another environment, so that its name says less than its definition."""
        key = ("\\begin", name)
        if (found := self.cache.get(key)) is None:
            opening, closing = self.environments[name]
            body = opening.filled(["" for _ in opening.spec])
            del self.environments[name]  # one that begins itself is not looked into again
            expanded = self.expand_quietly(body, depth)
            self.environments[name] = (opening, closing)
            self.plain_tags.clear()
            wraps = "\\begin{" in expanded and "\\end" in closing and not opening.program
            wraps = wraps and name.removesuffix("*") not in NAMED_WELL and "\\begin{" + name + "}" not in expanded
            found = ("yes", "") if wraps or OPENS_SOMETHING.search(expanded) else ("no", "")
            self.cache[key] = found
        return found[0] == "yes"

    def end(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\end of an author's environment; \\end{document} ends everything."""
        if plain := self.plain_tag(source.text, pos):
            out.append(source.text[start:plain])
            return plain
        found = NAME_IN_BRACES.match(source.text, pos)
        if not found:
            if self.plain:
                return self.bye(source, name, pos, start, out, depth)
            out.append(source.text[start:pos])
            return pos
        inner = found[1]
        if inner == "document":
            self.ended = True
            return len(source.text)
        known = self.environments.get(inner)
        if known and depth < MAX_DEPTH and self.left_chars > 0 and self.opens_something(inner, depth):
            self.left_chars -= len(known[1])
            out.append(glue(out[-1] if out else "", self.expand_quietly(known[1], depth)))
        else:
            out.append("\\end{" + inner + "}")
        return found.end()

    def bye(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """Plain TeX's \\bye and AMS-TeX's \\enddocument end everything."""
        self.ended = True
        return len(source.text)

    def verb(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\verb|…| is copied whole."""
        end = verb_end(source.text, pos)
        out.append(source.text[start:end])
        return end

    def url(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """The address of \\url{…} and \\href{…} is copied whole."""
        brace = skip_blanks(source.text, pos)
        end = source.group_end(brace) if source.text[brace : brace + 1] == "{" else -1
        end = pos if end < 0 else end
        out.append(source.text[start:end])
        return end

    def input_(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\input harvmac brings that format's commands; any other file that is still named was not there."""
        found = NAMES_FORMAT.match(source.text, pos, pos + NEAR_CHARS)
        if found:
            for new, action in FORMATS.items():
                if new not in self.active:
                    self.activate(new, action)
            self.forget()
            self.version += 1
            return found.end() + (source.text[found.end() : found.end() + 1] == "}")
        out.append(source.text[start:pos])
        return pos

    def mathpalette(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\mathpalette\\foo{x} gives \\foo a style before its x: neither is looked into."""
        _, end = read_argument(source, pos)
        _, end = read_argument(source, end)
        out.append(source.text[start:end])
        return end

    def acronym(self, source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
        """\\acro{av}[AV]{Automated Vehicle} and its like are remembered, and stay for the cleaner."""
        define_acronym(self.acronyms, source, name, pos)
        out.append(source.text[start:pos])
        return pos


def behind_taker(text: str, pos: int) -> bool:
    """Whether a command that takes an argument, such as \\frac, ends directly before `pos`."""
    slash = text.rfind("\\", max(0, pos - 20), pos)
    return slash >= 0 and text[slash + 1 : pos].strip() in ARGUMENT_TAKERS


def tex_commands() -> dict[str, Macro | Handler]:
    """TeX's and LaTeX's own commands that define, decide or protect -> the method that carries them out."""
    actions: dict[str, Macro | Handler] = {}
    for names, handler in (
        ("newcommand renewcommand providecommand DeclareRobustCommand DeclareTextFontCommand", Expander.newcommand),
        ("newrobustcmd renewrobustcmd providerobustcmd", Expander.newcommand),
        ("newcommandx renewcommandx providecommandx DeclareRobustCommandx", Expander.newcommand),
        ("NewDocumentCommand RenewDocumentCommand ProvideDocumentCommand", Expander.document_command),
        (
            "DeclareDocumentCommand NewExpandableDocumentCommand DeclareExpandableDocumentCommand",
            Expander.document_command,
        ),
        ("def gdef edef xdef define redefine predefine", Expander.def_),
        ("let", Expander.let),
        ("newenvironment renewenvironment provideenvironment", Expander.newenvironment),
        ("newtcolorbox renewtcolorbox newtcbtheorem renewtcbtheorem", Expander.newtcolorbox),
        ("excludecomment", Expander.excludecomment),
        ("NewDocumentEnvironment RenewDocumentEnvironment DeclareDocumentEnvironment", Expander.newenvironment),
        ("DeclareMathOperator", Expander.math_operator),
        ("newif", Expander.newif),
        ("long global outer protected", Expander.prefix),
        ("newtoggle providetoggle toggletrue togglefalse settoggle", switch),
        ("newbool providebool booltrue boolfalse setbool newboolean provideboolean setboolean", switch),
        ("iftoggle nottoggle ifbool notbool ifdef ifundef @ifundefined", choice),
        ("ifblank ifstrempty ifstrequal ifthenelse", choice),
        (DEFINITIONS, Expander.acronym),
        ("makeatletter makeatother", Expander.at_letter),
        ("expandafter", Expander.expandafter),
        ("csname csuse @nameuse", Expander.csname),
        ("@namedef csdef csgdef", Expander.namedef),
        ("begin", Expander.begin),
        ("end", Expander.end),
        ("bye enddocument", Expander.bye),
        ("input", Expander.input_),
        ("mathpalette", Expander.mathpalette),
        ("verb lstinline", Expander.verb),
        ("url path nolinkurl href burl", Expander.url),
        (
            "IfBooleanTF IfBooleanT IfBooleanF IfNoValueTF IfNoValueT IfNoValueF IfValueTF IfValueT IfValueF",
            xparse_test,
        ),
    ):
        actions.update(dict.fromkeys(names.split(), handler))
    actions.update(dict.fromkeys([*CONDITIONALS, *PACKAGE_FLAGS], conditional))
    return actions


TEX_COMMANDS: Final = tex_commands()
KNOWN: Final = known_names((*TEX_COMMANDS, *FRONT_MATTER))
DECIDERS: Final = (conditional, choice)
DEFINERS: Final = (
    Expander.newcommand,
    Expander.document_command,
    Expander.def_,
    Expander.let,
    Expander.newenvironment,
    Expander.newtcolorbox,
    Expander.excludecomment,
    Expander.math_operator,
    Expander.newif,
    switch,
)
TELLING: Final = {  # what --explain calls them
    name: "conditional" if action in DECIDERS else "definition"
    for name, action in TEX_COMMANDS.items()
    if action in DECIDERS or action in DEFINERS
}
PREAMBLE_COMMANDS: Final = (
    frozenset(TEX_COMMANDS)
    - {"csname", "csuse", "@nameuse", "end", "bye", "enddocument"}
    - (CONDITIONALS - {"iffalse", "iftrue"})
)
