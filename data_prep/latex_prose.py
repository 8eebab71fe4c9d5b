"""The pass over expanded LaTeX: what is text and mathematics is copied, what only serves the printed page goes.

In: LaTeX without comments and without macros of its author (latex_macros.py). Out: text.

It jumps from one character that means something to the next, copies what lies between, and asks the tables of
latex_tables.py what a command is. Nothing here raises on any input, and time is linear in its length.
"""

import re
from collections.abc import Callable
from unicodedata import normalize

from data_prep.latex_acronyms import USES, Acronym, write_out
from data_prep.latex_source import (
    GROUP,
    MATH_TOKEN,
    Source,
    backslashes_before,
    balanced,
    paired_dollars,
    read_argument,
    read_option,
    skip_blanks,
    skip_group,
    skip_option,
    skip_spaces,
    verb_end,
)
from data_prep.latex_tables import (
    ACCENT_NUMBERS,
    ACCENTS,
    ALGORITHM_WORDS,
    ALGORITHMS,
    CITES,
    CLOSED_BY_END,
    CONTROL_SYMBOLS,
    DING_ROWS,
    DINGS,
    DOTTED,
    DRAWN,
    DRAWN_UNTIL,
    DROPPED,
    ENDS_PARAGRAPH,
    FOOTNOTES,
    HEADINGS,
    INSERTS,
    LISTS,
    LOWERED,
    MATH_ENVIRONMENTS,
    MULTIPLE_CITES,
    NEED_OBJECT,
    PATTERNS,
    QUIET_WRAPPERS,
    QUOTES,
    RAISED,
    RAW_ENVIRONMENTS,
    REFERENCES,
    REFS,
    REMOVED_ENVIRONMENTS,
    REMOVED_IN_MATH,
    RESTATED,
    SECTIONS,
    SYMBOLS,
    TEXTUAL_CITES,
    TWO_ARGUMENT_REFS,
    UNIT_POWERS,
    UNIT_PREFIXES,
    UNITS,
    UNWRAPPED,
    WITHOUT_ARGUMENTS,
    WRAPPERS,
)

MAX_NESTING = 30  # of footnotes in headings in footnotes …; deeper ones are unwrapped
ACRONYM_CHARS = 20_000  # that acronyms may write, beside as many as the text has
EXCERPT_CHARS = 60
FRONT_CHARS = 2_000  # of what AMS-TeX closes by \\end…
ABSTRACT_PARTS = 6  # context, aims, methods, results, conclusions, and what stands before them in other classes
MAX_TWO_COLUMNS = 3  # a paper begins them once
TWO_COLUMN_CHARS = 50_000  # that may stand above both columns: authors, abstract
BIBITEM_CHARS = 2_000
DRAWING_CHARS = 2_000  # of \\tikz without braces
SHORT_CHARS = 400  # of an argument of a command that nobody knows, for the next to be parted from it
ARGUMENT_CHARS = 200  # of an environment that nobody knows


# Inside these a formula needs a look; all others are copied as they are.
LOOK_IN_MATH = (
    r"label|nonumber|notag|ensuremath|xspace|ifmmode|protect|includegraphics|epsfig|psfig|epsfbox|epsffile|epsfxsize|epsfysize"
    r"|input|include|raisebox|tikz|index|IEEEnonumber|IEEEyesnumber"
)
MATH_CHARS = r"[^$\\{}\n]*"
FIRST_LETTERS = "bleinpxrtI"  # of those and of begin
MATH_COMMAND = rf"\\(?:[^{FIRST_LETTERS}\n]|(?!{LOOK_IN_MATH}|begin)[{FIRST_LETTERS}])"
INNER_GROUP = rf"\{{{MATH_CHARS}(?:{MATH_COMMAND}{MATH_CHARS})*\}}"
MATH_GROUP = rf"\{{{MATH_CHARS}(?:(?:{MATH_COMMAND}|{INNER_GROUP}){MATH_CHARS})*\}}"
FORMULA = rf"\$(?=[^$])(?!\^\{{?\[?\\cite){MATH_CHARS}(?:(?:{MATH_COMMAND}|{MATH_GROUP}){MATH_CHARS})*\$"
DISPLAY_CHARS = r"[^$\\{}\n]*(?:\n(?!\s*\n)[^$\\{}\n]*)*"
DISPLAY_COMMAND = rf"\\(?:[^][{FIRST_LETTERS}\n]|(?!{LOOK_IN_MATH}|begin)[{FIRST_LETTERS}])"  # at another \[ the first is known not to end
DISPLAY = rf"\\\[(?!\s*\\\]){DISPLAY_CHARS}(?:(?:{DISPLAY_COMMAND}|{MATH_GROUP}){DISPLAY_CHARS}){{0,100}}\\\]"
KEPT = (  # structure that stays as it is written; other names of environments are looked up
    r"\\item (?=\S)|\\(?:begin|end)\{(?:proof|thm|theorem|lem|lemma|prop|proposition|cor|corollary|defn?|definition|rem|remark"
    r"|ex|example)\}(?!\[[^]=\n]{0,100}=)"
)
PLAIN = r"[^\\{}$~&`'-]*"
TOKEN = re.compile(r"\\([A-Za-z@]+|[\s\S])|[{}$~&]|``?|''|---?")
STEP = re.compile(  # what is copied as it stands, and the first thing behind it that is not
    rf"{PLAIN}(?:(?:{FORMULA}|{DISPLAY}|{KEPT}|'(?!')|-(?!-)){PLAIN}){{0,200}}"
    r"(?:(\\(?:(?:begin|end)\{[A-Za-z]+\*?\}|[A-Za-z@]+|[\s\S])|\}\n?|[{$~&]|``?|''|---?|'|-)|\Z)"
)
NAME = re.compile(r"\s*\{\s*([^{}\\$%&#~]*?)\s*\}")
BLANK_LINES = re.compile("\n\n\n+")
PARAGRAPH = re.compile(r"\n[ \t]*\n")
IN_MATH = re.compile(
    rf"\\(?=[{FIRST_LETTERS}])(?:({LOOK_IN_MATH})(?![A-Za-z@])|begin\s*\{{({'|'.join(sorted(REMOVED_IN_MATH))})\}})"
    r"|\n[ \t]*\n\s*"
)
UNIT = r"(?:pt|cm|mm|in|em|ex|pc|bp|sp|dd|cc|mu|fil+)(?![A-Za-z])"
NUMBER = r"[-+]?\s*(?:\d*[.,]?\d+|\d+[.,]?)"
REGISTER = r"[-+]?\s*[\d.]*\\(?:[a-z]*(?:width|height|size|skip|sep|margin|indent|unit|depth|amount)(?![A-Za-z])(?!\s*=?\s*[-+.\d])|[zp]@|jot)"
AMOUNT = rf"(?:\\magstep(?:half|\s*\d)|{REGISTER}|{NUMBER}(?:\s*(?:true\s*)?{UNIT})?)"
LENGTH = re.compile(  # '2pt plus 1pt', '=\\hsize', ' to 3cm', 'height 0pt depth 1pt', a bare number, or nothing
    rf"(?:\s*=?\s*{AMOUNT})?(?:\s*(?:plus|minus|by|to|height|width|depth|spread)\s*{AMOUNT})*"
)
VALUE = r"(?:`\\?[\s\S]|\"[0-9A-F]+|'[0-7]+|-?\d+|\\[A-Za-z@]+)"
LETTERS_OF_SIGNATURES = {  # those of latex_tables.py that a pattern reads
    "p": re.compile(r"\s*\([^()\n]{0,80}\)"),
    "g": LENGTH,
    "=": re.compile(r"\s*=?"),
    "n": re.compile(rf"\s*=?\s*{VALUE}"),
    "b": re.compile(rf"\s*(?:by)?\s*(?:{AMOUNT}|-?\\[A-Za-z@]+)"),
    "d": re.compile(r"\s*(?=\{)"),
    "f": re.compile(r"\s*=?\s*[\w.\\/-]*"),
}
ASSIGNED = re.compile(  # '=3pt plus 1pt', '=\\other', '3pt'
    rf"(?:\s*=\s*(?:{AMOUNT}|{VALUE})?|\s*{NUMBER}\s*(?:true\s*)?{UNIT})(?:\s*(?:plus|minus)\s*{AMOUNT})*"
)
ONE_MANDATORY = frozenset(("m", "om", "oom", "*om", "*oom"))  # of the signatures of latex_tables.py
BOX_SIZE = re.compile(r"\s*(?:to|spread)\s*(?:[-\d.,]*\s*(?:true\s*)?(?:pt|cm|mm|in|em|ex|pc)|[\d.]*\\[a-z]+)")
LETTER_BEHIND_ACCENT = re.compile(
    r"\s*(?:\{\s*(?:\\([ij])(?![A-Za-z])|([^\W\d_]))\s*(?:\{\s*\})?\s*\}|\\([ij])(?![A-Za-z])\s?|([^\W\d_]))"
)
DROW_TSAL = re.compile(
    r"[\s~(\[,:]*([A-Za-z.]+)"
)  # the last word, of a text read backwards: a search would try every start
INPUT_NAME = re.compile(r"\s*(?:\{[^{}]*\}|[^\s{}\\]+)")
GRAPHICS_FILE = re.compile(r"\s*(?:\[[^]\n]*\])?\s*(?:\{[^{}\n]*\}|[^\s{}\\]+)")
ASSIGNED_LENGTH = re.compile(
    r"=\s*-?(?:[\d.,]+\s*(?:true\s*)?(?:pt|cm|mm|in|em|ex|pc)(?![A-Za-z])|[\d.]*\\[hv]size(?![A-Za-z]))"
)
FONT = re.compile(
    r"\s*\\[A-Za-z]+\s*=?\s*[\w-]+(?:\s*(?:scaled\s*(?:\\magstep\s*\w+|\\magstephalf|\d+)|at\s*[\d.]+\s*(?:true\s*)?pt))?"
)
NOTE_MARK = re.compile(r"[^A-Za-z]{0,12}|\$[^$]{1,30}\$")
ROW_GAP = re.compile(r"\[\s*-?[\d.,]*\s*(?:[a-z]{2}|\\[a-z]+)\s*\]")
UNKNOWN_OPTION_IS_LAYOUT = re.compile(
    r"\[(?:[^]\n]*=[^]\n]*\]|[^][{}\n]{0,100}\](?=\{))"
)  # [width=3cm], [0000-0001]{Name}

XY_SETTINGS = re.compile(r"(?:\s*@(?:\{[^{}]{0,40}\}|[^\s{}\\]{0,40}))*")
NODE = re.compile(  # all that stands before the text of a drawing's only node
    r"\s*\{?\s*\\node\s*(?:(?:\[[^][]*(?:\[[^][]*\][^][]*)*\]|\([^()]*\)|at\s*\([^()]*\))\s*){0,4}(?=\{)"
)
NODE_ENDS = re.compile(r"\s*;?\s*\}?")
DRAWING_TOKEN = re.compile(r"\\[\s\S]|[{};]")
CONTROL_WORD = re.compile(r"\\[A-Za-z]+")
HARVMAC_NAME = re.compile(r"\s*\\[A-Za-z]+\s*(?=\{)")
BOX = re.compile(r"\s*\\(?:hbox|vbox|vtop|vcenter)(?![A-Za-z])")
REFERENCES_HEADING = re.compile(
    r"\\(?:sub)?(?:section|chapter)\*?\{(?:References?|REFERENCES|Bibliography|Literature|Literature [Cc]ited)\}"
)
RAISED_CITATION = re.compile(
    r"\^\{?[\[(]?\s*(?:\\(?:cite|citep|onlinecite|citenum)\s*(?:\[[^][]{0,80}\]\s*)?\{[^{}]{0,300}\}[-,;\s]*){1,9}[\])]?\s*\}?"
)
ENVIRONMENT = re.compile(r"[A-Za-z][A-Za-z0-9]*\*?")
BEFORE_VALUE = frozenset("=-. 0123456789")
REGISTERS = re.compile(
    r"\\new(?:count|dimen|skip|muskip|toks|length)\s*\{?\s*\\([A-Za-z@]+)"
)  # that the author declares
KEYWORDS = re.compile(r"\\SetKw(InOut|Input|Function|Data|)\s*\{\s*([A-Za-z]+)\s*\}\s*\{([^{}\\$]*)\}")
KEYWORD_FORMS = {  # how many arguments each kind takes, and what it prints of its word and of them
    "InOut": (1, "{}: {{}}\n"), "Input": (1, "{}: {{}}\n"), "Function": (1, "{}({{}})"), "Data": (0, "{}"), "": (0, "{} "),
}  # fmt: skip
REFERRING = ("ref", "Ref", "refs", "Refs")
CITING = re.compile(r"[cC]ite(?:s|p|t|n|a|alt|alp|year|author|online|num|text|sup|full)?$")
KEY = re.compile(r"\{[^{}\\$\n]{1,100}\}")
LABEL_KEY = re.compile(r"\{(?=[^{}\\$\n]{0,100}[A-Za-z])[^{}\\$\n]{1,100}\}")
NO_XSPACE = re.compile(  # after xspace
    r"[.,;:!?)\]'/}{~\n%´-]|\\(?:[\s\\/}]|(?:footnote|footnotemark|xspace|space|par|item|end|begin|label)(?![A-Za-z]))|\Z"
)
NO_SPACE = re.compile(r"\s*\{?\s*(?:-|(?:0+\.?0*|\.0+)\s*[a-z\\}])")
TWO_DIGITS = re.compile(r"\s*(\d)\s*(\d)(?!\d)")
SMALL_NUMBER = re.compile(r"\s*\{\s*\$?\s*([-+−]?\d{1,6})\s*\$?\s*\}")
SIMPLE_NUMBER = re.compile(
    r"\s*([-+]?\s*\d*[.,]?\d*)\s*(\(\d+\))?\s*(?:(?:\+-|\\pm)\s*(\d*[.,]?\d+))?\s*(?:[eEdD]\s*([-+]?\d+))?\s*"
)
CHAR = re.compile(r"""\s*\{?\s*(?:"([0-9A-Fa-f]{1,4})|'([0-7]{1,5})|`\\?(\S)|(\d{1,5}))\s?\s*\}?""")
TILDE = re.compile(r"\{?\$\\sim\s*\$\}?|\\(?:textasciitilde|sim)(?![A-Za-z])(?:\{\})?|\\~\{\s*\}")
NEXT_PART = re.compile(r"[ \t]*\n?[ \t]*\{")
BRACKET = re.compile(r"\\[\s\S]|[\[\]{]")
BEHIND_BIBITEM = re.compile(
    r"\n[ \t]*\n|\\bibitem(?![A-Za-z])|\\(?:end|begin)\{|\\(?:section|appendix|par|bye|endthebibliography)(?![A-Za-z])"
)
OPTION_OF_SETTINGS = re.compile(  # [label=x], [Name, label=x], [htbp]
    r"\[(?:(?:[^][{}$\\=]{0,100},)?\s*[A-Za-z-]{2,}(?:\s[a-z]+)?\s*=|(?:[htbp]{2,4}!?|![htbpH]{1,4}|H)\])"
)
NAME_BEFORE_SETTINGS = re.compile(r"\[\s*([A-Z][^][,={}]*),")
NAME_IN_OPTION = re.compile(r"[\[,]\s*(?:name|title)\s*=\s*(\{[^{}]*\}|[^][{},]+)")
STYLED = re.compile(
    r"\{\s*\\(?:bf|it|em|rm|sl|sc|tt|small|large|footnotesize|noindent|color|bfseries|itshape|label)(?![A-Za-z])"
)
LENGTH_IN_BRACES = re.compile(
    r"\{\s*[-\d.]*\s*(?:\\[a-z]*(?:width|height|size|skip|sep|indent)|pt|cm|mm|in|em|ex)\s*\}"
)

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
        text, step, actions, out = self.text, STEP.match, TOKENS, self.out
        outer_end, self.limit = self.limit, end
        while match := step(text, pos, end):
            token, stop = match[1], match.end()
            if token is None:
                if stop > pos:
                    out.append(text[pos:stop])
                break
            start = stop - len(token)
            if start > pos:
                out.append(text[pos:start])
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
                self.close(token)
                pos = stop
            else:
                out.append(token)
                pos = stop
                if text[stop : stop + 1] in OPENS_ARGUMENT:
                    pos = self.environment_arguments(token[7:-1], stop)
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
            return self.drawn(name[:letters], start, start + 1 + letters)
        self.note("unknown command", start, pos)
        if name in self.keywords:
            return self.pattern(name, start, pos)
        text, behind_name = self.text, pos
        if text[pos : pos + 1] != "{":
            if text[pos : pos + 1] in BEFORE_VALUE and (found := ASSIGNED.match(text, pos)) and self.is_register(name):
                end = found.end()
                return self.past_line_end(self.skip("m", end) if text[end - 1] == "=" else end)
            pos = self.after_word(pos)
            if text[pos : pos + 1] == "=" and (found := ASSIGNED_LENGTH.match(text, pos)):
                return found.end()
            if text[pos : pos + 1] == "[" and (found := UNKNOWN_OPTION_IS_LAYOUT.match(text, pos, pos + 300)):
                pos = found.end()
        if text[pos : pos + 1] == "{" and name[0].isalpha():
            return self.unknown_arguments(name, start, behind_name, pos)
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

    def front(self, name: str, start: int, pos: int) -> int:
        """\\author … \\endauthor of AMS-TeX goes, as \\author{…} does."""
        if self.next_char(pos) not in ("{", "[", "*"):
            end = self.text.find("\\end" + name, pos, pos + FRONT_CHARS)
            if end >= 0:
                self.note("command", start, end, name)
                return end
        return self.dropped(name, start, pos)

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

    def fraction(self, name: str, start: int, pos: int) -> int:
        """\\nicefrac{1}{2} -> 1/2, \\unitfrac[3]{m}{s} -> 3 m/s."""
        end = pos
        if self.text[pos : pos + 1] == "[" and (end := self.source.option_end(pos)) > 0 and name == "unitfrac":
            self.out.append(self.prose(pos + 1, end - 1).strip() + " ")
        if digits := TWO_DIGITS.match(self.text, pos):
            self.out.append(f"{digits[1]}/{digits[2]}")
            return digits.end()
        found = self.arguments(max(end, pos), 2)
        if found is None:
            return max(end, pos)
        self.out.append("/".join(found[0]))
        return found[1]

    def script(self, name: str, start: int, pos: int) -> int:
        """10\\textsuperscript{-5} -> 10⁻⁵, CO\\textsubscript{2} -> CO₂; other text stays in the line."""
        number = SMALL_NUMBER.match(self.text, pos)
        if number is None:
            return self.unwrapped(name, start, pos)
        self.out.append(number[1].translate(RAISED if name == "textsuperscript" else LOWERED))
        return number.end()

    def quote(self, name: str, start: int, pos: int) -> int:
        """\\enquote{text} -> “text”, within another and starred 'text'."""
        single = self.text[pos : pos + 1] == "*" or self.quotes > 0
        pos = self.skip(QUOTES[name], pos)
        self.quotes += 1
        found = self.group(pos)
        self.quotes -= 1
        if found is None:
            return pos
        self.out.append(f"'{found[0]}'" if single else f"“{found[0]}”")
        return found[1]

    def dotted(self, name: str, start: int, pos: int) -> int:
        """\\eg -> e.g. with its blank, \\etal. -> et al."""
        self.out.append(DOTTED[name])
        if self.text[pos : pos + 1] != ".":
            self.out.append(".")
            return self.xspace(name, start, pos)
        return pos

    def ion(self, name: str, start: int, pos: int) -> int:
        """\\ion{H}{ii} -> H II, \\ion{Fe}{17} -> Fe XVII."""
        found = self.arguments(pos, 2)
        if found is None:
            return pos
        element, degree = found[0]
        self.out.append(f"{element} {roman(degree) if degree.isdecimal() else degree.upper()}")
        return found[1]

    def char(self, name: str, start: int, pos: int) -> int:
        """\\char126, \\symbol{95}, \\char`\\%: the character."""
        found = CHAR.match(self.text, pos)
        if found is None:
            return self.skip("m", pos)
        code = int(found[1], 16) if found[1] else int(found[2], 8) if found[2] else int(found[4] or ord(found[3]))
        if 32 < code < 127:
            self.out.append(NAMED.get(chr(code), chr(code)))
        return found.end()

    def ding(self, name: str, start: int, pos: int) -> int:
        """\\ding{51} -> ✓."""
        found = CHAR.match(self.text, pos)
        number = int(found[4]) if found and found[4] else 0
        for first, last, sign in DING_ROWS:
            if first <= number <= last:
                self.out.append(DINGS.get(number) or chr(sign + number - first))
        return found.end() if found else pos

    def numbered_accent(self, name: str, start: int, pos: int) -> int:
        """\\accent"7F u, \\accent'27a -> ü, å."""
        found = CHAR.match(self.text, pos)
        if found is None or not (found[1] or found[2] or found[4]):
            return pos
        number = int(found[1], 16) if found[1] else int(found[2], 8) if found[2] else int(found[4])
        if number in ACCENT_NUMBERS:
            return self.accent(ACCENT_NUMBERS[number], start, found.end())
        return found.end()

    def hyphen(self, name: str, start: int, pos: int) -> int:
        """\\- says where a word may be broken; \\-/ of extdash is a hyphen."""
        if self.text[pos : pos + 1] != "/":
            return pos
        self.out.append("-")
        return pos + 1

    def string_test(self, name: str, start: int, pos: int) -> int:
        """\\IfStrEq{a}{b}{then}{else} of xstring, \\IfStrEqCase{a}{{b}{text}{c}{text}}[else]: the branch that holds."""
        pos = self.skip("*", pos)
        first, place = read_argument(self.source, pos)
        second, end = read_argument(self.source, place)
        if first is None or second is None:
            return pos
        if name in ("IfStrEq", "IfEq"):
            branches = self.arguments(end, 2)
            if branches is None:
                return end
            self.out.append(branches[0][first.strip() != second.strip()])
            return branches[1]
        inside = skip_blanks(self.text, place) + 1
        otherwise, after = read_option(self.source, end)
        while inside < end - 1:
            case, branch = read_argument(self.source, inside)
            text, inside = read_argument(self.source, branch)
            if case is None or text is None:
                break
            if case.strip() == first.strip() and (found := self.arguments(branch, 1)):
                self.out.append(found[0][0])
                return after
        if otherwise is not None:
            self.out.append(self.prose(after - 1 - len(otherwise), after - 1))
        return after

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
        self.out.append(f"\\{HEADINGS.get(name, name)}{star}{{{found[0].strip()}}}")
        return found[1]

    def heading(self, name: str, start: int, pos: int) -> int:
        """A heading of plain TeX or another class: with an argument in braces it becomes a \\section, else its name goes."""
        if self.next_char(pos) == "{" or self.text[pos : pos + 1] == "*":
            return self.section(name, start, pos)
        closing = self.text.find("\\end" + name, pos, pos + 500)
        if closing < 0 or self.nesting >= MAX_NESTING:
            return pos
        self.nesting += 1
        self.out.append(f"\\{HEADINGS.get(name, name)}{{{' '.join(self.prose(pos, closing).split())}}}")
        self.nesting -= 1
        return closing + len("\\end" + name)

    def beginsection(self, name: str, start: int, pos: int) -> int:
        """Plain TeX's \\beginsection heading \\par."""
        found = PARAGRAPH.search(self.text, pos, pos + 300)
        end = found.start() if found else pos
        par = self.text.find("\\par", pos, end)
        end = par if par >= 0 else end
        self.out.append(f"\\section{{{' '.join(self.prose(pos, end).split())}}}" if end > pos else "")
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
        if self.text[pos : pos + 1] == "{" and (found := self.arguments(pos, 2)):  # harvmac
            self.out.append(f"\\section{{{found[0][1]}}}")
            return found[1]
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
        if name == "ref" and (harvmac := HARVMAC_NAME.match(self.text, pos)):  # \ref\name{entry of the bibliography}
            self.out.append("[*]")
            return self.braced(harvmac.end())
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

    def quantity(self, name: str, start: int, pos: int) -> int:
        """\\unit[60]{km} of units, \\SI{60}{\\kilo\\metre} and \\qty of siunitx -> 60 km; \\si{\\kilo\\metre} -> km."""
        end = pos
        if name in ("SI", "qty"):
            pos = self.skip("o", pos)
            behind = self.braced(pos)
            if self.next_char(behind) not in OPENS_ARGUMENT or (found := self.number(pos)) is None:
                return pos
            self.out.append(found[0] + " ")
            end = self.skip("o", skip_blanks(self.text, behind))
        elif name == "unit" and self.text[pos : pos + 1] == "[" and (close := self.source.option_end(pos)) > 0:
            self.out.append(self.prose(pos + 1, close - 1).strip() + " ")
            end = close
        close, unit = self.unit_at(end)
        if unit is None:
            return end  # a unit that we do not know is read as prose
        self.out.append(unit)
        return close

    def unit_at(self, pos: int) -> tuple[int, str | None]:
        """(the place after the argument at `pos`, the unit that it names), or (pos, None)."""
        close = self.source.group_end(pos) if self.text[pos : pos + 1] == "{" else -1
        unit = unit_text(self.text[pos + 1 : close - 1]) if 0 < close < pos + 300 else None
        return (close, unit) if unit is not None else (pos, None)

    def number(self, pos: int) -> tuple[str, int] | None:
        """The number in braces at `pos` as siunitx prints it, and the place after it."""
        start, end = skip_blanks(self.text, pos), self.braced(pos)
        if pos < end < start + 80 and (simple := SIMPLE_NUMBER.fullmatch(self.text, start + 1, end - 1)):
            return number_text(simple), end
        found = self.group(pos)
        return (found[0].strip(), found[1]) if found else None

    def numbers(self, name: str, start: int, pos: int) -> int:
        """\\num{1e5}, \\ang{30}, and the ranges and lists of siunitx: \\SIrange{1}{5}{\\metre} -> 1 m to 5 m."""
        pos = self.skip("o", pos)
        is_range = name.endswith("range")
        if is_range and self.braced(self.braced(pos)) == self.braced(pos):
            return pos
        found = self.number(pos)
        if found is None:
            return pos
        first, end = found
        values = [first]
        if is_range and (found := self.number(end)):
            values.append(found[0])
            end = found[1]
        elif name.endswith("list"):
            values = [part.strip() for part in first.split(";")]
        if name == "ang":
            values = ["".join(part + sign for part, sign in zip(first.split(";"), "°′″", strict=False) if part.strip())]
        unit: str | None = None
        if name[0] in "Sq":
            end, unit = self.unit_at(self.skip("o", skip_blanks(self.text, end)))
        values = [f"{value} {unit}" if unit else value for value in values]
        self.out.append(listed(values, " to " if is_range else ", "))
        return end

    def acronym(self, name: str, start: int, pos: int) -> int:
        """\\ac{av} -> Automated Vehicle (AV), later AV; \\acro{av}[AV]{Automated Vehicle} of the list -> AV: Automated Vehicle."""
        text = self.text
        after = pos + (text[pos : pos + 1] == "*")
        end = self.source.group_end(after) if text[after : after + 1] == "{" else -1
        key = text[after + 1 : end - 1].strip() if end > 0 else ""
        known = self.acronyms.get(key)
        if known is None:
            return pos
        if name == "acro":
            self.out.append(f"\n{known.short}: {known.long}\n")
            return self.skip("om", end)
        if len(known.long) + len(known.short) > self.acronym_chars:
            return pos
        words = write_out(name, known, key not in self.written_out)
        self.acronym_chars -= len(words)
        self.out.append(words)
        self.written_out.add(key)
        return end

    def forget_acronyms(self, name: str, start: int, pos: int) -> int:
        """\\acresetall: each acronym is written out again."""
        self.written_out.clear()
        return pos

    def texorpdfstring(self, name: str, start: int, pos: int) -> int:
        """\\texorpdfstring{text}{bookmark} -> text."""
        found = self.group(pos)
        if found is None:
            return pos
        self.out.append(found[0])
        return self.skip("m", found[1])

    def url(self, name: str, start: int, pos: int) -> int:
        """\\url{address} -> address without blanks and line ends, as TeX reads it, unless it would read as LaTeX."""
        brace = skip_blanks(self.text, pos)
        end = self.source.group_end(brace) if self.text[brace : brace + 1] == "{" else verb_end(self.text, brace)
        if end <= brace:
            return pos
        address = self.text[brace + 1 : end - 1]
        if "\\" in address or "$" in address:
            address = TILDE.sub("~", address)
            for escaped in ("\\_", "\\#", "\\~", "\\&", "\\%"):
                address = address.replace(escaped, escaped[1])
        address = "".join(address.replace("{", "").replace("}", "").split())
        if not UNREADABLE_IN_URL.search(address):
            self.out.append(address.replace("%", "\\%"))
        return end

    def verb(self, name: str, start: int, pos: int) -> int:
        """\\verb|text| -> text; it stays as written where the text would read as LaTeX."""
        end = verb_end(self.text, pos)
        if end == pos:
            return pos
        inner = self.text[start:end]
        plain = self.text[pos:end].lstrip("*")[1:-1]
        self.out.append(inner if SPECIAL.search(plain) or self.text[pos : pos + 1] == "[" else plain)
        return end

    def accent(self, name: str, start: int, pos: int) -> int:
        """\\'e, \\'{e}, \\'\\i -> é."""
        found = LETTER_BEHIND_ACCENT.match(self.text, pos)
        if not found:
            if name.isalpha():
                return skip_spaces(self.text, pos)
            if name in "~^" and self.text.startswith("{}", pos):
                self.out.append(name)
                return pos + 2
            return pos
        letter = found[1] or found[2] or found[3] or found[4]
        self.out.append(normalize("NFC", letter + ACCENTS[name]))
        return found.end()

    def line_break(self, name: str, start: int, pos: int) -> int:
        """\\\\[2pt] -> a new line."""
        if self.text[pos : pos + 1] == "*":
            pos += 1
        if self.text[pos : pos + 1] == "[" and (found := ROW_GAP.match(self.text, pos)):
            pos = found.end()
        self.out.append("\n" if self.text[pos : pos + 1] != "\n" else "")
        return pos

    def box(self, name: str, start: int, pos: int) -> int:
        """\\hbox to 3cm{text} -> text."""
        found = BOX_SIZE.match(self.text, pos)
        return found.end() if found else pos

    def font(self, name: str, start: int, pos: int) -> int:
        """\\font\\titlefont=cmbx12 scaled\\magstep1 of plain TeX."""
        found = FONT.match(self.text, pos)
        end = found.end() if found else pos
        self.note("font of plain TeX", start, end)
        return end

    def title_(self, name: str, start: int, pos: int) -> int:
        """\\title{…} goes to `title`."""
        after = self.skip("*o", pos)
        closing = self.text.find("\\end" + name, after, after + 2000)
        if self.next_char(after) != "{":
            if closing >= 0 and self.nesting < MAX_NESTING and not self.title:
                self.nesting += 1
                self.title = " ".join(self.prose(after, closing).split())
                self.nesting -= 1
                return closing + len("\\end" + name)
            return pos
        found = self.group(after)
        if found is None:
            return after
        self.note("title", start, found[1])
        self.title = self.title or " ".join(found[0].split())
        return found[1]

    def abstract_(self, name: str, start: int, pos: int) -> int:
        """\\abstract{…} becomes the environment; \\abstract … \\endabstract too."""
        found = self.group(pos) if self.next_char(pos) == "{" else None
        if found is None:
            return pos
        parts: list[str] = []
        while found is not None:
            parts.append(found[0].strip())
            pos = found[1]
            brace = NEXT_PART.match(self.text, pos) if len(parts) < ABSTRACT_PARTS else None
            found = self.group(brace.end() - 1) if brace else None
        if any(parts):
            self.out.append("\\begin{abstract}\n" + "\n".join(filter(None, parts)) + "\n\\end{abstract}")
        return pos

    def twocolumn(self, name: str, start: int, pos: int) -> int:
        """\\twocolumn[what stands above both columns]: often the abstract."""
        place = skip_blanks(self.text, pos)
        self.num_unwrapped_columns += 1
        if self.text[place : place + 1] != "[" or self.num_unwrapped_columns > MAX_TWO_COLUMNS:
            return pos
        depth, end = 1, place + 1
        limit = min(self.limit, place + TWO_COLUMN_CHARS)
        while depth and (found := BRACKET.search(self.text, end, limit)):
            end = found.end()
            if found[0] == "{":
                end = max(end, self.source.group_end(found.start()))
            elif found[0] in ("[", "]"):
                depth += 1 if found[0] == "[" else -1
        if depth or end > limit or self.nesting >= MAX_NESTING:
            return pos
        self.nesting += 1
        self.out.append(f"\n\n{self.prose(place + 1, end - 1).strip()}\n\n")
        self.nesting -= 1
        return end

    def bibitem(self, name: str, start: int, pos: int) -> int:
        """An entry of a list of references outside its environment goes, as far as the next or a blank line."""
        found = BEHIND_BIBITEM.search(self.text, pos, min(self.limit, pos + BIBITEM_CHARS))
        end = found.start() if found else min(self.limit, pos + BIBITEM_CHARS)
        self.note("references", start, end)
        return end

    def graphics(self, name: str, start: int, pos: int) -> int:
        """A picture from a file."""
        pos = self.skip("*", pos)
        found = GRAPHICS_FILE.match(self.text, pos)
        pos = self.skip("oom", pos) if self.next_char(pos) == "[" else found.end() if found else pos
        self.note("graphics", start, pos, name)
        return pos

    def input_(self, name: str, start: int, pos: int) -> int:
        """A file that was not there."""
        found = INPUT_NAME.match(self.text, pos)
        pos = found.end() if found else pos
        self.note("unresolved \\input", start, pos)
        return pos

    def insert(self, name: str, start: int, pos: int) -> int:
        """\\midinsert … \\endinsert, \\xy … \\endxy: a float or drawing of plain TeX goes."""
        end = self.source.closing(DRAWN_UNTIL.get(name, "\\endinsert"), pos)
        self.note("float of plain TeX", start, max(end, pos), name)
        return max(end, pos)

    def drawn(self, name: str, start: int, pos: int) -> int:
        """\\xymatrix@C=1em{…} goes."""
        found = XY_SETTINGS.match(self.text, pos)
        end = self.braced(self.skip("o", found.end() if found else pos))
        self.note("drawing", start, end, name)
        return end

    def tikz(self, name: str, start: int, pos: int) -> int:
        """\\tikz{…} and \\tikz \\draw …; go; of one that is only a node its text stays, such as a number in a circle."""
        pos = self.skip("o", pos)
        end = drawing_end(self.source, pos)
        if end < 0:
            return pos
        self.note("drawing", start, end, name)
        found = NODE.match(self.text, pos, end)
        if found and NODE_ENDS.fullmatch(self.text, after := self.braced(found.end()), end) and after > found.end():
            text = self.group(found.end())
            self.out.append(text[0].strip() if text else "")
        return end

    def setbox(self, name: str, start: int, pos: int) -> int:
        """\\setbox0=\\hbox{…}: a box is kept for later."""
        pos = self.skip("n=", pos)
        found = BOX.match(self.text, pos)
        return self.braced(self.box(name, start, found.end())) if found else pos

    def line(self, name: str, start: int, pos: int) -> int:
        """\\line(1,0){250} of a picture goes; \\line{…} of plain TeX is a line of text."""
        return self.skip("pm", pos) if self.next_char(pos) == "(" else pos

    def equation(self, name: str, start: int, pos: int) -> int:
        """\\eqn\\name{formula} of harvmac."""
        found = HARVMAC_NAME.match(self.text, pos)
        end = self.braced(found.end()) if found else pos
        if found is None or end == found.end():
            return pos
        self.emit("$$", self.text[found.end() + 1 : end - 1], "$$")
        return end

    def refs_list(self, name: str, start: int, pos: int) -> int:
        """AMS-TeX's \\Refs … \\endRefs."""
        end = self.text.find("\\endRefs", pos)
        end = len(self.text) if end < 0 else end + len("\\endRefs")
        self.note("references", start, end)
        return end

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

    def ensuremath(self, name: str, start: int, pos: int) -> int:
        """\\ensuremath{x} in prose -> $x$."""
        brace = skip_blanks(self.text, pos)
        end = self.source.group_end(brace) if self.text[brace : brace + 1] == "{" else -1
        if end < 0:
            if not (word := CONTROL_WORD.match(self.text, brace)):
                return pos
            self.out.append(f"${word[0]}$")
            return word.end()
        inner = self.math(self.text[brace + 1 : end - 1]).replace("$", "")
        if inner.strip():
            self.out.append(f"${inner}$")
        return end

    def ifmmode(self, name: str, start: int, pos: int) -> int:
        """\\ifmmode a\\else b\\fi in prose -> b."""
        middle, after, end = self.source.conditional_end(start)
        if end < 0:
            return pos
        if middle >= 0 and self.nesting < MAX_NESTING:
            self.nesting += 1
            self.out.append(self.prose(after, end - len("\\fi")))
            self.nesting -= 1
        return end

    def xspace(self, name: str, start: int, pos: int) -> int:
        """A blank, unless punctuation follows, or a command that the package excepts."""
        pos = skip_spaces(self.text, pos)
        if not NO_XSPACE.match(self.text, pos):
            self.out.append(" ")
        return pos

    # ------------------------------------------------------------ environments

    def begin(self, name: str, start: int, pos: int) -> int:
        """\\begin {…} that STEP does not read as one token: blanks in it, or digits."""
        found = NAME.match(self.text, pos)
        return self.opened(found[1], start, found.end()) if found else pos

    def tag(self, name: str, start: int, pos: int) -> int:
        """\\begin{…} of an environment in our tables."""
        return self.opened(name[len("begin{") : -1], start, pos)

    def opened(self, inner: str, start: int, pos: int) -> int:
        """Mathematics and raw text are copied, floats and references go, layout is unwrapped, structure stays."""
        if inner.removesuffix("*") in MATH_ENVIRONMENTS:
            return self.math_environment(inner, pos)
        if inner in RAW_ENVIRONMENTS:
            end = self.environment_end(inner, pos)
            if end <= pos:
                return pos
            behind = skip_spaces(self.text, end)
            line_ends = self.text[behind : behind + 1] in ("\n", "")
            self.out.append(RAW_MARK + self.text[start:end] + RAW_MARK + ("" if line_ends else "\n"))
            return end
        if inner in REMOVED_ENVIRONMENTS:
            return self.removed(inner, start, pos)
        if inner in WRAPPERS:
            self.note(f"layout {inner}", start, pos)
            pos = self.skip(WRAPPERS[inner], pos)
            return self.past_line_end(pos) if inner in QUIET_WRAPPERS else pos
        if inner in RESTATED:
            return self.restate(inner, pos)
        self.out.append(f"\\begin{{{inner}}}")
        if inner in LISTS:
            return self.skip(LISTS[inner], pos)
        if inner in ALGORITHMS:
            if not self.keywords_learned:
                self.learn_keywords()
            return self.skip(ALGORITHMS[inner], pos)
        return self.environment_arguments(inner, pos)

    def restate(self, name: str, pos: int) -> int:
        """\\begin{restatable}[Main]{theorem}{mainthm} -> \\begin{theorem}[Main]."""
        after = self.skip("o", pos)
        kind, end = read_argument(self.source, after)
        if kind is None or not ENVIRONMENT.fullmatch(kind) or len(self.restated) > MAX_NESTING:
            self.restated.append(name)
            self.out.append(f"\\begin{{{name}}}")
            return pos
        self.restated.append(kind)
        self.out.append(f"\\begin{{{kind}}}")
        if self.next_char(pos) == "[":
            self.environment_arguments(kind, skip_blanks(self.text, pos), end=after)
        return self.skip("m", end)

    def end_restated(self, name: str, start: int, pos: int) -> int:
        """\\end{restatable} -> \\end{theorem}."""
        self.close("\\end{" + (self.restated.pop() if self.restated else name[len("end{") : -1]) + "}")
        return pos

    def quiet_end(self, name: str, start: int, pos: int) -> int:
        """\\end{…} of QUIET_WRAPPERS."""
        return self.past_line_end(pos)

    def environment_arguments(self, name: str, pos: int, end: int = 0) -> int:
        """Behind \\begin{name} of an environment that stays: options of the form word=value don't print, an argument becomes an option."""
        text = self.text
        if text[pos : pos + 1] == "[":
            if OPTION_OF_SETTINGS.match(text, pos, pos + 200) and (close := self.source.option_end(pos)) > 0:
                found = NAME_IN_OPTION.search(text, pos, close) or NAME_BEFORE_SETTINGS.match(text, pos, close)
                if found:
                    self.out.append("[" + self.prose(found.start(1), found.end(1)).strip() + "]")
                return close if text[close : close + 1] != "{" else self.environment_arguments(name, close)
            if end:
                self.out.append(self.prose(pos, end))
            return pos
        if text[pos : pos + 1] != "{" or name in WITHOUT_ARGUMENTS or STYLED.match(text, pos):
            return pos
        close = self.short_group_end(pos)
        if not pos < close < pos + ARGUMENT_CHARS or "\n\n" in text[pos:close]:
            return pos
        if LENGTH_IN_BRACES.match(text, pos):
            return close
        if found_group := self.group(pos):
            if inner := found_group[0].strip():
                self.out.append(f"[{inner}]")
            label = LABEL_KEY.match(text, close)  # the name of a box of tcolorbox may be followed by its label
            return label.end() if label and ":" in label[0] else close
        return pos

    def close(self, tag: str) -> None:
        """Write \\end{…} of an environment that stays; one of which nothing is left goes."""
        out = self.out
        if out and out[-1][-1:] not in CAN_END_BLANK:  # most of all
            out.append(tag)
            return
        last = len(out) - 1
        while last >= 0 and (not out[last] or out[last].isspace()):
            last -= 1
        if last >= 0 and out[last] == "\\begin" + tag[len("\\end") :]:
            del out[last:]
        else:
            out.append(tag)

    def end(self, name: str, start: int, pos: int) -> int:
        """\\end {…} that STEP does not read as one token: of what stayed it stays, of what was unwrapped it goes."""
        found = NAME.match(self.text, pos)
        if not found:
            return pos
        inner = found[1]
        if (
            inner not in WRAPPERS
            and inner not in REMOVED_ENVIRONMENTS
            and inner.removesuffix("*") not in MATH_ENVIRONMENTS
        ):
            self.close(f"\\end{{{inner}}}")
        return found.end()

    def environment_end(self, name: str, pos: int) -> int:
        """The place after the next \\end{name}, or -1."""
        return self.source.closing("\\end{" + name + "}", pos)

    def removed(self, name: str, start: int, pos: int) -> int:
        """A float, drawing or list of references goes as a whole; one that does not end loses only its tag."""
        end = self.nested_end(name, pos)
        if end < 0:
            self.warnings.add(f"environment {name} does not end")
            if name in REFERENCES:
                self.note("references", start, len(self.text))
                return len(self.text)
            return pos
        self.note("references" if name in REFERENCES else f"environment {name}", start, end)
        if name in REFERENCES:
            self.drop_heading()
        if self.keep_captions and name not in REFERENCES:
            place = self.text.find("\\caption", pos, end)
            while place >= 0 and self.nesting < MAX_NESTING:
                self.caption("caption", place, place + len("\\caption"))
                place = self.text.find("\\caption", place + 1, end)
            self.out += [f"\n\n{caption}\n\n" for caption in self.captions]
            self.captions.clear()
        return end

    def drop_heading(self) -> None:
        """A heading `References` directly before the list goes with it."""
        out = self.out
        last = len(out) - 1
        while last >= 0 and (not out[last] or out[last].isspace()):
            last -= 1
        if last >= 0 and REFERENCES_HEADING.fullmatch(out[last]):
            del out[last:]

    def nested_end(self, name: str, pos: int) -> int:
        """The place after the \\end{name} that closes; up to a dozen of the same name may lie within."""
        opening = "\\begin{" + name + "}"
        end = self.environment_end(name, pos)
        inside = pos
        for _ in range(12):
            if end < 0 or (inside := self.text.find(opening, inside, end)) < 0:
                return end
            inside += len(opening)
            further = self.environment_end(name, end)
            if further < 0:
                return end
            end = further
        return end

    # ------------------------------------------------------------ mathematics

    def dollar(self, name: str, start: int, pos: int) -> int:
        """`text[start]` is a $ that opens mathematics, or a stray one that goes."""
        text, limit = self.text, self.limit
        if text.startswith("$$", start):
            end = self.source.unescaped("$$", start + 2)
            if end < 0 or end > limit:
                return start + 2
            if "\\halign" in text[start:end] and ("\\vrule" in text[start:end] or "\\hrule" in text[start:end]):
                self.note("table", start, end)
                return end + 2
            self.emit("$$", text[start + 2 : end], "$$")
            return end + 2
        end = self.source.unescaped("$", start + 1)
        if end < 0 or end >= limit:
            self.warnings.add("a $ has no partner")
            return start + 1
        inner = text[start + 1 : end]
        if inner[:1] == "^" and RAISED_CITATION.fullmatch(inner):
            self.note("citation", start, end + 1)
            self.trim()
            return end + 1
        if inner.count("{") != inner.count("}"):
            end = self.balanced_dollar(start + 1, min(limit, start + 4000), end)
            inner = text[start + 1 : end]
        if "\n\n" in inner or ("\n" in inner and PARAGRAPH.search(inner)):
            self.warnings.add("a $ has no partner")
            return start + 1
        self.emit("$", inner, "$")
        return end + 1

    def balanced_dollar(self, pos: int, limit: int, fallback: int) -> int:
        """The first $ outside braces from `pos` on, so that `$a \\mbox{if $b$}$` is one formula; else `fallback`."""
        while match := MATH_TOKEN.search(self.text, pos, limit):
            pos = match.end()
            if match[0] == "$":
                return match.start()
            if match[0] == "}" or (match[0] == "{" and (pos := self.source.group_end(match.start())) < 0):
                return fallback
        return fallback

    def bracket_math(self, name: str, start: int, pos: int) -> int:
        """\\[ … \\] and \\( … \\)."""
        close = "\\]" if name == "[" else "\\)"
        end = self.source.unescaped(close, pos)
        if end < 0:
            return pos
        self.emit("\\" + name, self.text[pos:end], close)
        return end + 2

    def math_environment(self, name: str, pos: int) -> int:
        """\\begin{equation} … \\end{equation}."""
        end = self.environment_end(name, pos)
        if end < 0:
            self.warnings.add(f"environment {name} does not end")
            return pos
        close = "\\end{" + name + "}"
        self.emit("\\begin{" + name + "}", self.text[pos : end - len(close)], close)
        return end

    def emit(self, opening: str, inner: str, closing: str) -> None:
        """Write a formula; an empty one goes."""
        if IN_MATH.search(inner):
            inner = self.math(inner)
        if inner.count("{") != inner.count("}") or "\\{" in inner or "\\}" in inner:
            inner = balanced(inner)
        if "$" in inner:
            inner = paired_dollars(inner)
        if inner and not inner.isspace():
            self.out.append(opening + inner + closing)

    def math(self, inner: str) -> str:
        """A formula without labels, pictures and blank lines."""
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
            rest = inner[pos : pos + 1]
            if rest in WHITE and inner.startswith("\n", skip_spaces(inner, pos)) and ends_in_blank_line(out):
                pos = skip_blanks(inner, pos)  # what went had its line to itself
            if rest.isalpha() and out and re.search(r"\\[A-Za-z@]+$", out[-1][-40:]):
                out.append(" ")
        out.append(inner[pos:])
        return "".join(out)


UNIT_TOKEN = re.compile(r"\\([A-Za-z]+)\s*(?:(?<=tothe)\{([-\d]+)\})?|\\%|[^\\${}]")
OPENS_ARGUMENT = frozenset("[{")
NAMED = {char: "\\" + char for char in "%${}"} | {"\\": "\\textbackslash "}  # as CONTROL_SYMBOLS and SYMBOLS write them
UNREADABLE_IN_URL = re.compile(r"[\\${}\s]")
SPECIAL = re.compile(r"[\\${}%&#~^]")
RAW_MARK = "\x00"
WORDS = {**{name: text for name, text in SYMBOLS.items() if name.isalpha()}, **ALGORITHM_WORDS}
WHITE = frozenset(" \t\n")
CAN_END_BLANK = frozenset((" ", "\t", "\n", "", "}"))
WHITE_OR_EMPTY = frozenset((" ", "\t", "\n", ""))
PUNCTUATION = {
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


def drawing_end(source: Source, pos: int) -> int:
    """The place behind what \\tikz draws: a group, or all as far as its `;`; -1 where neither is near."""
    start = skip_blanks(source.text, pos)
    if source.text[start : start + 1] == "{":
        return source.group_end(start)
    if source.text.find(";", pos, start + DRAWING_CHARS) < 0:
        return -1
    while match := DRAWING_TOKEN.search(source.text, pos, start + DRAWING_CHARS):
        pos = match.end()
        if match[0] == ";":
            return pos
        if match[0] == "}" or (match[0] == "{" and (pos := source.group_end(match.start())) < 0):
            return -1
    return -1


def unit_text(raw: str) -> str | None:
    """\\kilo\\metre\\per\\square\\second -> km/s²; None where it holds what we do not know."""
    out: list[str] = []
    power, pos, behind_unit = "", 0, False
    while pos < len(raw):
        match = UNIT_TOKEN.match(raw, pos)
        if match is None:
            return None
        pos = match.end()
        word = match[1]
        if word is None:
            out.append(match[0])
            behind_unit = False
        elif word in UNIT_POWERS:
            power = UNIT_POWERS[word]
        elif word in ("tothe", "raiseto"):
            out.append((match[2] or "").translate(RAISED))
        elif word in UNITS:
            if behind_unit and UNITS[word][0].isalpha():
                out.append(" ")
            out.append(UNITS[word])
            behind_unit = word not in UNIT_PREFIXES
            if behind_unit:
                out.append(power)
                power = ""
        else:
            return None
    return "".join(out).strip()


def number_text(match: re.Match[str]) -> str:
    """What SIMPLE_NUMBER found, as siunitx prints it: 1e5 -> 1 × 10⁵."""
    text = match[1].replace(" ", "") + (match[2] or "")
    if match[3]:
        text += f" ± {match[3]}"
    if not match[4]:
        return text
    power = f"10{match[4].lstrip('+').translate(RAISED)}"
    return f"({text}) × {power}" if match[3] else f"{text} × {power}" if text else power


def listed(values: list[str], between: str) -> str:
    """['1', '2', '3'] -> '1, 2 and 3'; ['1', '5'] with ' to ' -> '1 to 5'."""
    if between != ", " or len(values) < 2:
        return between.join(values)
    return ", ".join(values[:-1]) + " and " + values[-1]


def roman(number: str) -> str:
    """'17' -> 'XVII'; a number above 39 stays."""
    value = int(number[:4])
    return "X" * (value // 10) + ONES[value % 10] if 0 < value < 40 else number


ONES = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")


def ends_in_blank_line(pieces: list[str]) -> bool:
    """Whether the line that the pieces end in is blank so far."""
    for piece in pieces[:-5:-1]:
        if bare := piece.rstrip(" \t"):
            return bare[-1] == "\n"
    return False


def tidy(text: str) -> str:
    """Runs of blanks folded, lines stripped, at most one blank line between paragraphs; raw text untouched."""
    if RAW_MARK not in text:
        return fold(text).strip()
    pieces = text.split(RAW_MARK)
    pieces[::2] = [fold(piece) for piece in pieces[::2]]
    return "".join(pieces).strip()


def fold(text: str) -> str:
    """`tidy` of text that holds no raw text."""
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
    actions.update(dict.fromkeys((name for name in ACCENTS if name not in "."), Cleaner.accent))
    actions.update(dict.fromkeys(SECTIONS, Cleaner.section))
    actions.update(dict.fromkeys(HEADINGS, Cleaner.heading))
    actions.update(dict.fromkeys(CITES, Cleaner.cite))
    actions.update(dict.fromkeys(REFS, Cleaner.reference))
    methods: dict[str, Handler] = {
        "label": Cleaner.label, "index": Cleaner.label, "glossary": Cleaner.label, "nocite": Cleaner.label, "item": Cleaner.item,
        "appendix": Cleaner.kept, "href": Cleaner.href, "texorpdfstring": Cleaner.texorpdfstring, "unit": Cleaner.quantity, "SI": Cleaner.quantity, "qty": Cleaner.quantity, "si": Cleaner.quantity, "url": Cleaner.url,
        "path": Cleaner.url, "nolinkurl": Cleaner.url, "verb": Cleaner.verb, "lstinline": Cleaner.verb, "\\": Cleaner.line_break, "font": Cleaner.font, "hbox": Cleaner.box,
        "vbox": Cleaner.box, "vtop": Cleaner.box, "vcenter": Cleaner.box, "title": Cleaner.title_, "icmltitle": Cleaner.title_,
        "abstract": Cleaner.abstract_, "includegraphics": Cleaner.graphics, "epsfig": Cleaner.graphics, "psfig": Cleaner.graphics,
        "epsfbox": Cleaner.graphics, "epsffile": Cleaner.graphics, "epsf": Cleaner.graphics, "input": Cleaner.input_, "include": Cleaner.input_, "Refs": Cleaner.refs_list,
        "caption": Cleaner.caption, "ensuremath": Cleaner.ensuremath, "ifmmode": Cleaner.ifmmode, "xspace": Cleaner.xspace, "begin": Cleaner.begin,
        "end": Cleaner.end, "[": Cleaner.bracket_math, "(": Cleaner.bracket_math, "beginsection": Cleaner.beginsection, ".": Cleaner.accent,
        "ion": Cleaner.ion, "ding": Cleaner.ding, "accent": Cleaner.numbered_accent, "-": Cleaner.hyphen, "twocolumn": Cleaner.twocolumn,
        "bibitem": Cleaner.bibitem, "tikz": Cleaner.tikz, "setbox": Cleaner.setbox, "line": Cleaner.line, "eqn": Cleaner.equation, "itemitem": Cleaner.item,
    }  # fmt: skip
    for handler, names in (
        (Cleaner.footnote, tuple(FOOTNOTES)),
        (Cleaner.insert, (*INSERTS, *DRAWN_UNTIL)),
        (Cleaner.drawn, tuple(DRAWN)),
        (Cleaner.pattern, tuple(PATTERNS)),
        (Cleaner.front, tuple(CLOSED_BY_END)),
        (Cleaner.dotted, tuple(DOTTED)),
        (Cleaner.fraction, ("nicefrac", "sfrac", "unitfrac", "frac", "tfrac", "dfrac")),
        (Cleaner.script, ("textsuperscript", "textsubscript")),
        (Cleaner.quote, tuple(QUOTES)),
        (Cleaner.char, ("char", "symbol")),
        (Cleaner.numbers, ("num", "ang", "numrange", "numlist", "SIrange", "qtyrange", "SIlist", "qtylist")),
        (Cleaner.string_test, ("IfStrEq", "IfEq", "IfStrEqCase", "IfEqCase")),
        (Cleaner.space, ("vspace", "hspace", "hskip")),
    ):
        actions.update(dict.fromkeys(names, handler))
    actions.update(dict.fromkeys((*USES, "acro"), Cleaner.acronym))
    actions.update(dict.fromkeys(("acresetall", "glsresetall"), Cleaner.forget_acronyms))
    actions.update(methods)
    mathematics = [name + star for name in MATH_ENVIRONMENTS for star in ("", "*")]
    unwrapped = [*mathematics, *REMOVED_ENVIRONMENTS, *WRAPPERS]
    for name in (*unwrapped, *RAW_ENVIRONMENTS, *LISTS, *ALGORITHMS):
        actions["begin{" + name + "}"] = Cleaner.tag
    actions.update(dict.fromkeys(["end{" + name + "}" for name in unwrapped], ""))
    actions.update(dict.fromkeys(["end{" + name + "}" for name in QUIET_WRAPPERS], Cleaner.quiet_end))
    actions.update(dict.fromkeys(["begin{" + name + "}" for name in RESTATED], Cleaner.tag))
    actions.update(dict.fromkeys(["end{" + name + "}" for name in RESTATED], Cleaner.end_restated))
    return {
        **{"\\" + name: action for name, action in actions.items()},
        **PUNCTUATION,
        "$": Cleaner.dollar,
        "}\n": Cleaner.brace_at_line_end,
    }


TOKENS = build_tokens()
