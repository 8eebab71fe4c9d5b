"""The pass over expanded LaTeX: what is text and mathematics is copied, what only serves the printed page goes.

In: LaTeX without comments and without macros of its author (latex_macros.py). Out: text.

It jumps from one character that means something to the next, copies what lies between, and asks the tables of latex_tables.py what a command is. Formulas are read in
latex_formulas.py, environments in latex_environments.py; what a command prints is worked out here, or in latex_characters.py, latex_quantities.py and
latex_acronyms.py; what goes with more than its arguments, in latex_drawings.py and latex_front.py. Nothing here raises on any input, and time is linear in its length.
"""

import re
from collections.abc import Callable
from typing import Final

from data_prep.latex_acronyms import USES, Acronym, acronym, forget_acronyms
from data_prep.latex_characters import accent, char, ding, hyphen, numbered_accent, quote, string_test, url
from data_prep.latex_drawings import box, drawn, font, graphics, insert, line, setbox, tikz
from data_prep.latex_environments import begin, close, end, end_restated, environment_arguments, quiet_end, tag
from data_prep.latex_formulas import DISPLAY, FORMULA, bracket_math, dollar, ensuremath, ifmmode
from data_prep.latex_front import abstract_, bibitem, front, refs_list, title_, twocolumn
from data_prep.latex_quantities import dotted, fraction, ion, numbers, quantity, script
from data_prep.latex_scan import (
    IS_COMPILED,
    OPTION_CHARS,
    STRUCTURE,
    copy_to_token,
    fold,
)
from data_prep.latex_source import (
    BLANK_LINE,
    GROUP,
    LABEL_KEY,
    MAX_NESTING,
    OPENS_ARGUMENT,
    RAW_MARK,
    WHITE,
    Source,
    ends_in_blank_line,
    skip_blanks,
    skip_group,
    skip_spaces,
    verb_end,
)
from data_prep.latex_tables import (
    ACCENTS,
    ALGORITHM_WORDS,
    ALGORITHMS,
    CITES,
    CLOSED_BY_END,
    CONTROL_SYMBOLS,
    DOTTED,
    DRAWN,
    DRAWN_UNTIL,
    DROPPED,
    ENDS_PARAGRAPH,
    FOOTNOTES,
    HEADINGS,
    INSERTS,
    LISTS,
    MATH_ENVIRONMENTS,
    MULTIPLE_CITES,
    NEED_OBJECT,
    PATTERNS,
    QUIET_WRAPPERS,
    QUOTES,
    RAW_ENVIRONMENTS,
    REFS,
    REMOVED_ENVIRONMENTS,
    RESTATED,
    SECTIONS,
    SYMBOLS,
    TEXTUAL_CITES,
    TWO_ARGUMENT_REFS,
    UNWRAPPED,
    WRAPPERS,
)

ACRONYM_CHARS: Final = 20_000  # that acronyms may write, beside as many as the text has
EXCERPT_CHARS: Final = 60
SHORT_CHARS: Final = 400  # of an argument of a command that nobody knows, for the next to be parted from it


KEPT: Final = (  # structure that stays as it is written
    rf"\\item (?=\S)|\\(?:begin|end)\{{(?:{'|'.join(sorted(STRUCTURE))})\}}(?!\[[^]=\n]{{0,{OPTION_CHARS}}}=)"
)
PLAIN: Final = r"[^\\{}$~&`'-]*"
TOKEN: Final = re.compile(r"\\([A-Za-z@]+|[\s\S])|[{}$~&]|``?|''|---?")
STEP: Final = re.compile(  # what is copied as it stands, and the first thing behind it that is not
    rf"{PLAIN}(?:(?:{FORMULA}|{DISPLAY}|{KEPT}|'(?!')|-(?!-)){PLAIN}){{0,200}}"
    r"(?:(\\(?:(?:begin|end)\{[A-Za-z]+\*?\}|[A-Za-z@]+|[\s\S]|\Z)|\}\n?|[{$~&]|``?|''|---?|'|-)|\Z)"
)
BLANK_LINES: Final = re.compile("\n\n\n+")
UNIT: Final = r"(?:pt|cm|mm|in|em|ex|pc|bp|sp|dd|cc|mu|fil+)(?![A-Za-z])"
NUMBER: Final = r"[-+]?\s*(?:\d*[.,]?\d+|\d+[.,]?)"
REGISTER: Final = r"[-+]?\s*[\d.]*\\(?:[a-z]*(?:width|height|size|skip|sep|margin|indent|unit|depth|amount)(?![A-Za-z])(?!\s*=?\s*[-+.\d])|[zp]@|jot)"
AMOUNT: Final = rf"(?:\\magstep(?:half|\s*\d)|{REGISTER}|{NUMBER}(?:\s*(?:true\s*)?{UNIT})?)"
LENGTH: Final = re.compile(  # '2pt plus 1pt', '=\\hsize', ' to 3cm', 'height 0pt depth 1pt', a bare number, or nothing
    rf"(?:\s*=?\s*{AMOUNT})?(?:\s*(?:plus|minus|by|to|height|width|depth|spread)\s*{AMOUNT})*"
)
VALUE: Final = r"(?:`\\?[\s\S]|\"[0-9A-F]+|'[0-7]+|-?\d+|\\[A-Za-z@]+)"
LETTERS_OF_SIGNATURES: Final = {  # those of latex_tables.py that a pattern reads
    "p": re.compile(r"\s*\([^()\n]{0,80}\)"),
    "g": LENGTH,
    "=": re.compile(r"\s*=?"),
    "n": re.compile(rf"\s*=?\s*{VALUE}"),
    "b": re.compile(rf"\s*(?:by)?\s*(?:{AMOUNT}|-?\\[A-Za-z@]+)"),
    "d": re.compile(r"\s*(?=\{)"),
    "f": re.compile(r"\s*=?\s*[\w.\\/-]*"),
}
ASSIGNED: Final = re.compile(  # '=3pt plus 1pt', '=\\other', '3pt'
    rf"(?:\s*=\s*(?:{AMOUNT}|{VALUE})?|\s*{NUMBER}\s*(?:true\s*)?{UNIT})(?:\s*(?:plus|minus)\s*{AMOUNT})*"
)
ONE_MANDATORY: Final = frozenset(("m", "om", "oom", "*om", "*oom"))  # of the signatures of latex_tables.py
DROW_TSAL: Final = re.compile(
    r"[\s~(\[,:]*([A-Za-z.]+)"
)  # the last word, of a text read backwards: a search would try every start
INPUT_NAME: Final = re.compile(r"\s*(?:\{[^{}]*\}|[^\s{}\\]+)")
ASSIGNED_LENGTH: Final = re.compile(
    r"=\s*-?(?:[\d.,]+\s*(?:true\s*)?(?:pt|cm|mm|in|em|ex|pc)(?![A-Za-z])|[\d.]*\\[hv]size(?![A-Za-z]))"
)
NOTE_MARK: Final = re.compile(r"[^A-Za-z]{0,12}|\$[^$]{1,30}\$")
ROW_GAP: Final = re.compile(r"\[\s*-?[\d.,]*\s*(?:[a-z]{2}|\\[a-z]+)\s*\]")
UNKNOWN_OPTION_IS_LAYOUT: Final = re.compile(
    r"\[(?:[^]\n]*=[^]\n]*\]|[^][{}\n]{0,100}\](?=\{))"
)  # [width=3cm], [0000-0001]{Name}

BEFORE_VALUE: Final = frozenset("=-. 0123456789")
REGISTERS: Final = re.compile(
    r"\\new(?:count|dimen|skip|muskip|toks|length)\s*\{?\s*\\([A-Za-z@]+)"
)  # that the author declares
KEYWORDS: Final = re.compile(r"\\SetKw(InOut|Input|Function|Data|)\s*\{\s*([A-Za-z]+)\s*\}\s*\{([^{}\\$]*)\}")
KEYWORD_FORMS: Final = {  # how many arguments each kind takes, and what it prints of its word and of them
    "InOut": (1, "{}: {{}}\n"), "Input": (1, "{}: {{}}\n"), "Function": (1, "{}({{}})"), "Data": (0, "{}"), "": (0, "{} "),
}  # fmt: skip
REFERRING: Final = ("ref", "Ref", "refs", "Refs")
CITING: Final = re.compile(r"[cC]ite(?:s|p|t|n|a|alt|alp|year|author|online|num|text|sup|full)?$")
KEY: Final = re.compile(r"\{[^{}\\$\n]{1,100}\}")
NO_XSPACE: Final = re.compile(  # after xspace
    r"[.,;:!?)\]'/}{~\n%´-]|\\(?:[\s\\/}]|(?:footnote|footnotemark|xspace|space|par|item|end|begin|label)(?![A-Za-z]))|\Z"
)
NO_SPACE: Final = re.compile(r"\s*\{?\s*(?:-|(?:0+\.?0*|\.0+)\s*[a-z\\}])")

Handler = Callable[["Cleaner", str, int, int], int]


class Cleaner:
    """The pass over expanded LaTeX. `text[start:end]` is prose unless a handler finds mathematics or raw text in it."""

    def __init__(self, text: str, *, keep_captions: bool, explain: list[tuple[str, int, str]] | None) -> None:
        self.source = Source(text)
        self.text = text
        self.keep_captions = keep_captions
        self.explain = explain
        self.out: list[str] = []
        self.limit = len(text)  # where the prose that is being read ends
        self.nesting = 0
        self.title = ""
        self.headings: set[str] = set()  # the kinds that were written: section, subsection …
        self.captions: list[str] = []
        self.warnings: set[str] = set()
        self.restated: list[str] = []  # the environments that restatable stands for
        self.definitions = text  # the source with its preamble, where counters and words of algorithms are declared
        self.registers: frozenset[str] | None = (
            None  # counters and lengths of the author; looked for when one may be assigned to
        )
        self.keywords: dict[str, tuple[str, int, str]] = {}  # of algorithm2e, as PATTERNS
        self.keywords_learned = False
        self.num_unwrapped_columns = 0
        self.quotes = 0  # that are open around
        self.acronyms: dict[str, Acronym] = {}
        self.written_out: set[str] = set()  # acronyms that have been used
        self.acronym_chars = len(text) + ACRONYM_CHARS  # left for writing acronyms out

    # ------------------------------------------------------------ prose

    def prose(self, pos: int, end: int) -> str:
        """The cleaned form of `text[pos:end]`."""
        outer, self.out = self.out, []
        text, actions, out = self.text, TOKENS, self.out
        outer_end, self.limit = self.limit, end
        while True:
            if IS_COMPILED:
                start, stop = copy_to_token(text, pos, end, out)
            else:
                start, stop = STEP.match(text, pos, end).span(1)  # type: ignore[union-attr]
                if copied := text[pos : start if start >= 0 else end]:
                    out.append(copied)
            if start < 0:
                break
            token = text[start:stop]
            action = actions.get(token)
            if action.__class__ is str:
                pos = stop
                if action:
                    out.append(action)
            elif action is not None:
                if (pos := action(self, token[1:], start, stop)) > end:  # type: ignore[operator]
                    pos = end
            elif token[-1] != "}":
                pos = self.unknown(token[1:], stop)
            elif token[1] == "e":  # of an environment that means nothing to us
                close(self, token)
                pos = stop
            else:
                out.append(token)
                pos = stop
                if text[stop : stop + 1] in OPENS_ARGUMENT:
                    pos = environment_arguments(self, token[7:-1], stop)
        self.out, self.limit = outer, outer_end
        return "".join(out)

    def group(self, pos: int) -> tuple[str, int] | None:
        """(the cleaned argument in braces at `pos`, the place after it), or None where there is none."""
        start = skip_blanks(self.text, pos)
        end = self.source.group_end(start) if self.text[start : start + 1] == "{" else -1
        if end < 0 or self.nesting >= MAX_NESTING:
            return None
        self.nesting += 1
        inner = self.prose(start + 1, end - 1)
        self.nesting -= 1
        return inner, end

    def unknown(self, name: str, pos: int) -> int:
        """A command in no table: its name goes, what follows stays."""
        start = pos - len(name) - 1
        if (letters := name.find("@")) > 0 and name[:letters] in DRAWN:  # \xymatrix@C=1em
            return drawn(self, name[:letters], start, start + 1 + letters)
        if name in self.keywords:
            return self.pattern(name, start, pos)
        text, behind_name = self.text, pos
        if text[pos : pos + 1] != "{":
            if text[pos : pos + 1] in BEFORE_VALUE and (found := ASSIGNED.match(text, pos)) and self.is_register(name):
                end = found.end()
                end = self.skip("m", end) if text[end - 1] == "=" else end
                self.note("assignment", start, end)
                return self.past_line_end(end)
            pos = self.after_word(pos)
            if text[pos : pos + 1] == "=" and (found := ASSIGNED_LENGTH.match(text, pos)):
                self.note("assignment", start, found.end())
                return found.end()
            if text[pos : pos + 1] == "[" and (found := UNKNOWN_OPTION_IS_LAYOUT.match(text, pos, pos + 300)):
                pos = found.end()
        if text[pos : pos + 1] == "{" and name[0].isalpha():
            return self.unknown_arguments(name, start, behind_name, pos)
        self.note("unknown command", start, behind_name)
        return self.past_line_end(pos)

    def is_register(self, name: str) -> bool:
        """Whether the author declared a counter or length of that name."""
        if self.registers is None:
            self.registers = frozenset(REGISTERS.findall(self.definitions))
        return name in self.registers

    def learn_keywords(self) -> None:
        """At the first algorithm: the words that the author declared for algorithm2e."""
        self.keywords_learned = True
        for kind, name, word in KEYWORDS.findall(self.definitions):
            count, form = KEYWORD_FORMS[kind]
            self.keywords[name] = ("", count, form.format(word))

    def unknown_arguments(self, name: str, start: int, behind_name: int, pos: int) -> int:
        """What its name tells is a citation or a reference is read as one; several arguments are kept apart by blanks."""
        text = self.text
        if ("cite" in name or "Cite" in name) and CITING.search(name) and KEY.match(text, pos):
            return self.cite(name, start, behind_name)
        if name.endswith(REFERRING) and (found := LABEL_KEY.match(text, pos)):
            self.note("reference", start, found.end(), name)
            self.out.append("*")
            return found.end()
        self.note("unknown command", start, behind_name)
        end = self.short_group_end(pos)
        while end > 0 and text[end : end + 1] == "{" and self.nesting < MAX_NESTING:  # the last one is read as any text
            self.nesting += 1
            inner = self.prose(pos + 1, end - 1)
            self.nesting -= 1
            self.out.append(inner)
            pos = end
            if inner[-1:].isalnum() and (text[pos + 1 : pos + 2].isalnum() or text.startswith("\\", pos + 1)):
                self.out.append(" ")
            end = self.short_group_end(pos)
        return pos

    def brace_at_line_end(self, name: str, start: int, pos: int) -> int:
        """A brace that goes at the end of a line."""
        return self.past_line_end(start + 1)

    def braced(self, pos: int) -> int:
        """The place behind the group at `pos`, or `pos` where none is."""
        return skip_group(self.source, pos)

    def short_group_end(self, pos: int) -> int:
        """`text[pos]` is `{`: the place after its `}` if that is near, else -1; it spares the search for the end of a chapter."""
        text = self.text
        close = text.find("}", pos, pos + SHORT_CHARS)
        if close > 0 and text[close - 1] != "\\" and text.find("{", pos + 1, close) < 0:
            return close + 1
        match = GROUP.match(text, pos, pos + SHORT_CHARS) if close > 0 else None
        return match.end() if match else -1

    def arguments(self, pos: int, count: int) -> tuple[list[str], int] | None:
        """`count` cleaned arguments in braces at `pos` and the place after them, or None where there are fewer."""
        places, place = list[tuple[int, int]](), pos
        for _ in range(count):
            start = skip_blanks(self.text, place)
            end = self.source.group_end(start) if self.text[start : start + 1] == "{" else -1
            if end < 0 or "\n\n" in self.text[place:start]:
                return None
            places.append((start + 1, end - 1))
            place = end
        if self.nesting >= MAX_NESTING:
            return None
        self.nesting += 1
        found = [self.prose(start, end).strip() for start, end in places]
        self.nesting -= 1
        return found, place

    def past_line_end(self, pos: int) -> int:
        """The place behind the line end at `pos` if only removed things stood on its line: for TeX no blank line is there."""
        text, out = self.text, self.out
        if text[pos : pos + 1] not in WHITE or not out or out[-1][-1:] not in WHITE_OR_EMPTY:
            return pos  # most of all
        end = skip_spaces(text, pos)
        if text[end : end + 1] != "\n" or not ends_in_blank_line(out):
            return pos
        next_line = skip_spaces(text, end + 1)
        return pos if text[next_line : next_line + 1] == "\n" else end + 1

    def next_char(self, pos: int) -> str:
        """The next character that is no white space, '' at the end."""
        start = skip_blanks(self.text, pos)
        return self.text[start : start + 1]

    def after_word(self, pos: int) -> int:
        """The place behind the blanks after a control word that went; they stay where two words would become one."""
        end = skip_spaces(self.text, pos)
        if end > pos and self.out and self.out[-1][-1:].isalnum() and self.text[end : end + 1].isalnum():
            self.out.append(" ")
        return end

    def skip(self, signature: str, pos: int) -> int:
        """The place behind the arguments that `signature` names (see latex_tables.py)."""
        text = self.text
        char = text[pos : pos + 1]
        if char == "{" and signature in ONE_MANDATORY:  # most of all
            end = self.source.group_end(pos)
            return pos + 1 if end < 0 else end
        for letter in signature:
            start = pos
            char = text[start : start + 1]
            if char.isspace():
                start = skip_blanks(text, pos)
                char = text[start : start + 1]
            if letter == "m":
                if char == "{":
                    end = self.source.group_end(start)
                    pos = start + 1 if end < 0 else end
                elif char == "\\":
                    match = TOKEN.match(text, start)
                    pos = match.end() if match else pos
                elif char and char not in "}$&" and start - pos < 2:
                    pos = start + 1
            elif letter == "o":
                if char == "[" and (end := self.source.option_end(start)) > 0:
                    pos = end
            elif letter == "*":
                pos = start + 1 if char == "*" else pos
            else:
                found = LETTERS_OF_SIGNATURES[letter].match(text, pos)
                pos = found.end() if found else pos
                if found and letter == "d":
                    pos = self.braced(pos)
        return pos

    def note(self, rule: str, start: int, end: int, name: str = "") -> None:
        """Tell --explain that `text[start:end]` went, by a rule for the command \\name."""
        if self.explain is not None:
            self.explain.append(
                (f"{rule} \\{name}" if name else rule, start, self.text[start : min(end, start + EXCERPT_CHARS)])
            )

    def trim(self) -> None:
        """Take back the blanks before a removed reference."""
        out = self.out
        while out:
            kept = out[-1].rstrip(" \t\n") if "\n\n" not in out[-1][-4:] else out[-1].rstrip(" \t")
            if kept:
                out[-1] = kept
                return
            if "\n\n" in out[-1]:
                return
            out.pop()

    # ------------------------------------------------------------ commands

    def dropped(self, name: str, start: int, pos: int) -> int:
        """Name and arguments go."""
        pos = self.skip(DROPPED[name], pos)
        self.note("command", start, pos, name)
        if not DROPPED[name]:
            pos = self.after_word(pos)
        return self.past_line_end(pos) if self.text[pos : pos + 1] == "\n" and name not in ENDS_PARAGRAPH else pos

    def space(self, name: str, start: int, pos: int) -> int:
        """\\hspace{2mm}, \\hskip 2mm: a blank, unless there is nothing of it; \\vspace: nothing."""
        after = pos + (self.text[pos : pos + 1] == "*")
        end = self.skip("m" if self.next_char(after) == "{" else "g", after)
        self.note("command", start, end, name)
        if name[0] == "v":
            return self.past_line_end(end)
        if not NO_SPACE.match(self.text, after) and self.text[end : end + 1] not in (",", ".", ";", ":", ")"):
            self.out.append(" ")
        return end

    def pattern(self, name: str, start: int, pos: int) -> int:
        """A command of PATTERNS: its arguments with what it prints between them."""
        signature, count, printed = PATTERNS.get(name) or self.keywords[name]
        found = self.arguments(self.skip(signature, pos), count)
        if found is None:
            word = printed.split("{")[0].strip(" \n(")
            self.out.append(word and word + " ")
            return skip_spaces(self.text, pos)
        words = printed.format(*found[0])
        if words[-1:] == "\n" and self.text[(end := skip_spaces(self.text, found[1])) : end + 1] == "\n":
            words = words[:-1]
        self.out.append(words)
        return found[1]

    def unwrapped(self, name: str, start: int, pos: int) -> int:
        """The first arguments go, the text that follows stays."""
        signature = UNWRAPPED[name]
        if signature:
            pos = self.skip(signature, pos)
        if self.explain is not None:
            self.note("wrapper", start, pos, name)
        return pos + 1 if self.text[pos : pos + 1] == "{" else skip_spaces(self.text, pos)

    def symbol(self, name: str, start: int, pos: int) -> int:
        """A control word that is a character: the blanks behind it go."""
        self.out.append(WORDS[name])
        return skip_spaces(self.text, pos)

    def label(self, name: str, start: int, pos: int) -> int:
        """A label or index entry goes, with the blanks before it where a mark of punctuation follows."""
        pos = self.skip("om", pos)
        if self.explain is not None:
            self.note("command", start, pos, name)
        if self.text[pos : pos + 1] in (",", ".", ";", ":", ")"):
            self.trim()
            return pos
        return self.past_line_end(pos)

    def section(self, name: str, start: int, pos: int) -> int:
        """\\section[short]{heading} -> \\section{heading}."""
        star = "*" if self.text[pos : pos + 1] == "*" else ""
        after = self.skip("*o", pos)
        found = self.group(after)
        if found is None:
            return after
        self.head(name, star, found[0].strip())
        return found[1]

    def heading(self, name: str, start: int, pos: int) -> int:
        """A heading of plain TeX or another class: with an argument in braces it becomes a \\section, else its name goes."""
        if self.next_char(pos) == "{" or self.text[pos : pos + 1] == "*":
            return self.section(name, start, pos)
        closing = self.text.find("\\end" + name, pos, pos + 500)
        if closing < 0 or self.nesting >= MAX_NESTING:
            return pos
        self.nesting += 1
        self.head(name, "", " ".join(self.prose(pos, closing).split()))
        self.nesting -= 1
        return closing + len("\\end" + name)

    def head(self, name: str, star: str, text: str) -> None:
        """Write a heading."""
        command = HEADINGS.get(name, name)
        self.headings.add(command)
        self.out.append(f"\\{command}{star}{{{text}}}")

    def beginsection(self, name: str, start: int, pos: int) -> int:
        """Plain TeX's \\beginsection heading \\par."""
        found = BLANK_LINE.search(self.text, pos, pos + 300)
        end = found.start() if found else pos
        par = self.text.find("\\par", pos, end)
        end = par if par >= 0 else end
        if end > pos:
            self.head("section", "", " ".join(self.prose(pos, end).split()))
        return end

    def item(self, name: str, start: int, pos: int) -> int:
        """\\item stays; no letter may touch it."""
        self.out.append("\\item")
        pos = skip_spaces(self.text, pos)
        if self.text[pos : pos + 1] != "\n":
            self.out.append(" ")
        return pos

    def kept(self, name: str, start: int, pos: int) -> int:
        """A command of structure without arguments stays."""
        self.out.append(f"\\{name}\n")
        return pos

    def cite(self, name: str, start: int, pos: int) -> int:
        """A citation goes with the blank before it; where the sentence needs it, `[*]` stands in its place."""
        if name in MULTIPLE_CITES:
            pos = self.skip("*pp", pos)
        pos = self.skip("*oom", pos)
        while name in MULTIPLE_CITES and self.text[pos : pos + 1] in OPENS_ARGUMENT:
            behind = self.skip("oom", pos)
            if behind == pos:
                break
            pos = behind
        self.note("citation", start, pos, name)
        out = self.out
        if name in TEXTUAL_CITES:
            out.append("[*]")
            return pos
        before = "".join(out[-3:])[-60:]
        match = DROW_TSAL.match(before[::-1])
        opened = before.rstrip()[-1:]
        after = skip_blanks(self.text, pos)
        if opened in "([" and opened and self.text[after : after + 1] in (")", "]"):
            self.trim()
            if out and out[-1][-1:] in "([":
                out[-1] = out[-1][:-1]
                self.trim()
                return after + 1
        if match is None or match[1][::-1].lower() in NEED_OBJECT or opened in ".([,":
            out.append("[*]")
        else:
            self.trim()
        return pos

    def reference(self, name: str, start: int, pos: int) -> int:
        """A reference to a number that we do not know is written `*`, one to an equation `(*)`."""
        pos = self.skip("*omm" if name in TWO_ARGUMENT_REFS else "*om", pos)
        self.note("reference", start, pos, name)
        self.out.append(REFS[name])
        return pos

    def footnote(self, name: str, start: int, pos: int) -> int:
        """A footnote's text stays in its place, in parentheses."""
        pos = self.skip("o", pos)
        found = self.group(pos)
        if found is None:
            return pos
        inner, end = found[0].strip(), found[1]
        if self.text[end : end + 1] == "{" and NOTE_MARK.fullmatch(inner) and (note := self.group(end)):
            inner, end = f"{inner} {note[0].strip()}".strip(), note[1]  # plain TeX: \footnote{mark}{text}
        self.trim()
        if inner:
            self.out.append(f" ({inner})")
        return end

    def href(self, name: str, start: int, pos: int) -> int:
        """\\href{address}{text} -> text."""
        pos = self.skip("om", pos)
        self.note("address of \\href", start, pos)
        return pos

    def texorpdfstring(self, name: str, start: int, pos: int) -> int:
        """\\texorpdfstring{text}{bookmark} -> text."""
        found = self.group(pos)
        if found is None:
            return pos
        self.out.append(found[0])
        return self.skip("m", found[1])

    def verb(self, name: str, start: int, pos: int) -> int:
        """\\verb|text| -> text; it stays as written where the text would read as LaTeX."""
        end = verb_end(self.text, pos)
        if end == pos:
            return pos
        inner = self.text[start:end]
        plain = self.text[pos:end].lstrip("*")[1:-1]
        self.out.append(inner if SPECIAL.search(plain) or self.text[pos : pos + 1] == "[" else plain)
        return end

    def line_break(self, name: str, start: int, pos: int) -> int:
        """\\\\[2pt] -> a new line."""
        if self.text[pos : pos + 1] == "*":
            pos += 1
        if self.text[pos : pos + 1] == "[" and (found := ROW_GAP.match(self.text, pos)):
            pos = found.end()
        self.out.append("\n" if self.text[pos : pos + 1] != "\n" else "")
        return pos

    def input_(self, name: str, start: int, pos: int) -> int:
        """A file that was not there."""
        found = INPUT_NAME.match(self.text, pos)
        pos = found.end() if found else pos
        self.note("unresolved \\input", start, pos)
        return pos

    def caption(self, name: str, start: int, pos: int) -> int:
        """A caption goes; an option keeps it as text."""
        after = self.skip("*o", pos)
        found = self.group(after)
        if found is None:
            return after
        self.note("caption", start, found[1])
        if self.keep_captions:
            self.captions.append(found[0].strip())
        return found[1]

    def xspace(self, name: str, start: int, pos: int) -> int:
        """A blank, unless punctuation follows, or a command that the package excepts."""
        pos = skip_spaces(self.text, pos)
        if not NO_XSPACE.match(self.text, pos):
            self.out.append(" ")
        return pos


SPECIAL: Final = re.compile(r"[\\${}%&#~^]")
WORDS: Final = {**{name: text for name, text in SYMBOLS.items() if name.isalpha()}, **ALGORITHM_WORDS}
WHITE_OR_EMPTY: Final = frozenset((" ", "\t", "\n", ""))
PUNCTUATION: Final = {
    "\\": "",
    "{": "",
    "}": "",
    "'": "'",
    "-": "-",
    "~": " ",
    "&": " ",
    "``": "“",
    "''": "”",
    "`": "'",
    "--": "–",
    "---": "—",
}


def tidy(text: str) -> str:
    """Runs of blanks folded, lines stripped, at most one blank line between paragraphs; raw text untouched."""
    folded = fold if IS_COMPILED else fold_by_pattern
    if RAW_MARK not in text:
        return folded(text).strip()
    pieces = text.split(RAW_MARK)
    pieces[::2] = [folded(piece) for piece in pieces[::2]]
    return "".join(pieces).strip()


def fold_by_pattern(text: str) -> str:
    """What latex_scan.fold does."""
    text = "\n".join(map(str.strip, text.replace("\t", " ").split("\n")))
    parts = text.split("  ")  # runs are few: cutting at them is quicker than a search for each
    if len(parts) > 1:
        text = " ".join(filter(None, [part.strip(" ") for part in parts]))
    return BLANK_LINES.sub("\n\n", text)


def build_tokens() -> dict[str, str | Handler]:
    """What STEP finds -> its text, or the method that reads it; for \\begin{…} and \\end{…} with the name of the environment."""
    actions: dict[str, str | Handler] = {}
    actions.update(dict.fromkeys(DROPPED, Cleaner.dropped))
    actions.update(dict.fromkeys(UNWRAPPED, Cleaner.unwrapped))
    actions.update(dict.fromkeys(WORDS, Cleaner.symbol))
    actions.update(CONTROL_SYMBOLS)
    actions.update(dict.fromkeys((name for name in ACCENTS if name not in "."), accent))
    actions.update(dict.fromkeys(SECTIONS, Cleaner.section))
    actions.update(dict.fromkeys(HEADINGS, Cleaner.heading))
    actions.update(dict.fromkeys(CITES, Cleaner.cite))
    actions.update(dict.fromkeys(REFS, Cleaner.reference))
    methods: dict[str, Handler] = {
        "label": Cleaner.label, "index": Cleaner.label, "glossary": Cleaner.label, "nocite": Cleaner.label, "item": Cleaner.item,
        "appendix": Cleaner.kept, "href": Cleaner.href, "texorpdfstring": Cleaner.texorpdfstring, "unit": quantity, "SI": quantity, "qty": quantity, "si": quantity, "url": url,
        "path": url, "nolinkurl": url, "verb": Cleaner.verb, "lstinline": Cleaner.verb, "\\": Cleaner.line_break, "font": font, "hbox": box,
        "vbox": box, "vtop": box, "vcenter": box, "title": title_, "icmltitle": title_,
        "abstract": abstract_, "includegraphics": graphics, "epsfig": graphics, "psfig": graphics,
        "epsfbox": graphics, "epsffile": graphics, "epsf": graphics, "input": Cleaner.input_, "include": Cleaner.input_, "Refs": refs_list,
        "caption": Cleaner.caption, "ensuremath": ensuremath, "ifmmode": ifmmode, "xspace": Cleaner.xspace, "begin": begin,
        "end": end, "[": bracket_math, "(": bracket_math, "beginsection": Cleaner.beginsection, ".": accent,
        "ion": ion, "ding": ding, "accent": numbered_accent, "-": hyphen, "twocolumn": twocolumn,
        "bibitem": bibitem, "tikz": tikz, "setbox": setbox, "line": line, "itemitem": Cleaner.item,
    }  # fmt: skip
    for handler, names in (
        (Cleaner.footnote, tuple(FOOTNOTES)),
        (insert, (*INSERTS, *DRAWN_UNTIL)),
        (drawn, tuple(DRAWN)),
        (Cleaner.pattern, tuple(PATTERNS)),
        (front, tuple(CLOSED_BY_END)),
        (dotted, tuple(DOTTED)),
        (fraction, ("nicefrac", "sfrac", "unitfrac", "frac", "tfrac", "dfrac")),
        (script, ("textsuperscript", "textsubscript")),
        (quote, tuple(QUOTES)),
        (char, ("char", "symbol")),
        (numbers, ("num", "ang", "numrange", "numlist", "SIrange", "qtyrange", "SIlist", "qtylist")),
        (string_test, ("IfStrEq", "IfEq", "IfStrEqCase", "IfEqCase")),
        (Cleaner.space, ("vspace", "hspace", "hskip")),
    ):
        actions.update(dict.fromkeys(names, handler))
    actions.update(dict.fromkeys((*USES, "acro"), acronym))
    actions.update(dict.fromkeys(("acresetall", "glsresetall"), forget_acronyms))
    actions.update(methods)
    mathematics = [name + star for name in MATH_ENVIRONMENTS for star in ("", "*")]
    unwrapped = [*mathematics, *REMOVED_ENVIRONMENTS, *WRAPPERS]
    for name in (*unwrapped, *RAW_ENVIRONMENTS, *LISTS, *ALGORITHMS):
        actions["begin{" + name + "}"] = tag
    actions.update(dict.fromkeys(["end{" + name + "}" for name in unwrapped], ""))
    actions.update(dict.fromkeys(["end{" + name + "}" for name in QUIET_WRAPPERS], quiet_end))
    actions.update(dict.fromkeys(["begin{" + name + "}" for name in RESTATED], tag))
    actions.update(dict.fromkeys(["end{" + name + "}" for name in RESTATED], end_restated))
    return {
        **{"\\" + name: action for name, action in actions.items()},
        **PUNCTUATION,
        "$": dollar,
        "}\n": Cleaner.brace_at_line_end,
    }


TOKENS: Final = build_tokens()
