r"""The files of an archive and the name of the main one -> one self-contained LaTeX text.

In: `Archive.files` (bytes). Out: a string in which \input, \include, \subfile, \import, their kin and the author's macros
around them are replaced by the files' texts, and the author's own packages by their definitions. One pass over each text:
a compiled pattern finds the next command that matters; whether it is live (no comment, no verbatim, no definition) is looked up
around it; everything between is copied as it is.
"""

import functools
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from data_prep.archives import MAX_NAME_CHARS, Archive, any_of, decode, member_name, stem_of, suffix_of

# Limits: time and memory stay bounded whatever a source says. TeX itself nests 15 files (texmf.cnf, max_in_open).
MAX_SOURCE_CHARS: Final = 16_000_000  # of the flattened text; the largest of the 237 real ones has 2.9 million
MAX_INCLUSIONS: Final = 10_000  # followed or tried; a textbook of 740 files needs 4,400
MAX_DEPTH: Final = 30  # files and macros within each other
MAX_MACROS: Final = 100  # author's macros around an inclusion; 20 of 237 real sources have one or two
MAX_DEFINITION_CHARS: Final = 10_000  # of such a macro's definition
MAX_ARGUMENT_CHARS: Final = 2_000  # of an argument that is read up to its first brace, whatever stands in it
MAX_CALL_CHARS: Final = 100_000  # of a call of one with its arguments put in
MAX_BRANCH_DEPTH: Final = 5  # conditions within each other in one
MAX_LOOKBACK_CHARS: Final = 600  # how far before an inclusion the definition may begin that it stands in
MAX_LOOKED_CHARS: Final = 10_000_000  # read again in all while looking for definitions
MAX_WARNINGS: Final = 20

# Commands that bring in a file, by how they are written.
READS: Final = ("input", "@input", "@@input", "include", "subfile", "subfileinclude")  # {file}
IMPORTS: Final = ("import", "subimport", "includefrom", "inputfrom", "subincludefrom", "subinputfrom")  # {folder}{file}
PACKAGES: Final = ("usepackage", "RequirePackage", "RequirePackageWithOptions")  # [options]{names}
CLASSES: Final = ("documentclass", "documentstyle", "LoadClass", "LoadClassWithOptions")
LOADING: Final = frozenset((*PACKAGES, *CLASSES))
STYLE_SUFFIXES: Final = (".sty", ".cls")
TESTS: Final = ("IfFileExists", "InputIfFileExists")  # {file}{then}{else}
PARAGRAPHS: Final = ("include", "subfileinclude", "includefrom", "subincludefrom")  # these begin and end a page
VERBATIM: Final = "verbatim|Verbatim|BVerbatim|LVerbatim|lstlisting|minted|alltt|comment|filecontents|asy|pycode|spverbatim|tcblisting"
SUFFIXES: Final = (".tex", "", ".ltx", ".latex")  # what TeX and authors leave out; TeX tries .tex first

# TeX's own files, which every installation has: they stay as commands.
SYSTEM_FILES: Final = any_of(
    r"""
    amstex amsppt\w* amssym\w* mssymb cyracc                    # of the AMS
    harvmac lanlmac phyzzx jnl reforder eqnorder tcilatex        # formats of physicists
    eplain texinfo plainenc miniltx glyphtounicode\w* ifpdf size1[012]
    epsf epsfx psfig epsfig graphicx? color colordvi dvipsnam rotate
    xy\w* pictex prepictex postpictex latexpicobjs picmac tikz\w* pgf\w* pst\w* pstricks feynmf axodraw\w* diagrams
    multicol insbox ulem soul hyperbasics
    """,
    r"{}(?:\.(?:tex|sty|def))?",
)
# Classes and packages that TeX distributions and publishers hand out: layout, not the author's notation. An author's copy of one
# stays out, so that a paper reads the same with and without it. Names without suffix, matched whole.
PUBLISHED_STYLES: Final = any_of(
    r"""
    article report book letter latexsym ams(?:art|book|proc|ppt\w*|math|symb|fonts|thm|cd|text)
    # societies and publishers
    revtex\w* revsymb\w* aps\w* aip\w* aastex\w* aas\w* aa emulateapj\w* mn mn2e mnras iop\w* jpconf epj\w* webofc
    elsart\w* cas-\w+ els\w*-cas\w* ieee\w* acm\w* sig-?\w*alternate\w* sigplan\w* siam\w* ltexpprt usenix\w* vldb\w*
    llncs\w* lncs\w* sv(?:jour|mult|mono|proc|epj|glov)\w* sn-jnl birk\w* kluwer\w* kapproc ims\w* informs\w* asme\w*
    jhep\w* jcappub jinst\w* pos scipost quantumarticle quantumview gtart\w* gtpart\w* compositio ptptex espcrc\w* cern\w*
    pnas\w* nature agu\w* ametsoc\w* copernicus plos\w* peerj\w* bmc\w* frontiers\w* mdpi interact tandf\w* wiley\w* sage\w*
    osa\w* optica\w* achemso rsc\w* degruyter\w* cup-\w+ jfm\w* ws-[\w-]+ world_sci sprocl wl(?:scirep|peerj)
    lipics[\w-]* oasics\w* lites\w* eptcs easychair ceur\w* \w*ceurws selfarx arxiv accessibility\w*
    # conferences, with their years
    (?:nips|neurips|icml|iclr|aaai|ijcai|uai|aistats|colm|cvpr|iccv|eccv|bmvc|wacv|interspeech)[\d_a-z-]* jmlr\w* spconf
    (?:acl|naacl|naaclhlt|emnlp|coling|eacl|tacl)[\d_a-z-]*
    # packages
    cite mcite\w* natbib bibunits chapterbib citesort harvard apacite chicago
    epsf epsfig psfig graphics graphicx? trig keyval overpic rotat(?:e|ing) lscape pdflscape pdfpages
    subfigure subfig subcaption caption\w* float wrapfig multirow multicol booktabs colortbl arydshln array tabularx longtable
    supertabular algorithm\w* algpseudocode\w* algcompatible listings lst\w+ minted fancyvrb comment
    fancyhdr fancyheadings fancybox geometry fullpage a4\w* setspace titlesec titling authblk enumitem lineno footmisc endnotes?
    tcolorbox mdframed todonotes changes soul ulem hyperref url doi breakurl cleveref microtype babel inputenc fontenc
    times mathptm\w* helvet txfonts newtx\w* bbm dsfont mathrsfs stmaryrd wasysym marvosym xcolor color xspace etoolbox ifthen calc
    xy\w* tikz\w* pgf\w* pst\w* pstricks\w* diagrams proof prooftree bussproofs mathpartir feynm\w* axodraw\w*
    slashed cancel braket physics siunitx units
    """
)
PUBLISHED_NOTICES: Final = (b"LaTeX Project Public Licen", b"LPPL", b"CTAN")
MAX_NOTICE_BYTES: Final = 6_000  # where a notice stands
MAX_OWN_CLASS_BYTES: Final = 20_000  # a longer class is layout
MAX_OWN_STYLE_BYTES: Final = 3_000  # a longer file with a published name is the published one
STYLE_VERSION: Final = re.compile(r"[-_]?v?\d[\w.]*$")

WORD_END: Final = r"(?![A-Za-z@])"
COMMAND: Final = (  # %s: the author's macros. Alternatives that begin with different letters cost a search least.
    rf"\\(?:i(?:n(?:put(?:from)?|clude(?:from|only)?)|mport){WORD_END}|@@?input{WORD_END}|endinput{WORD_END}"
    rf"|sub(?:file(?:include)?|import|includefrom|inputfrom){WORD_END}|I(?:nputI)?fFileExists{WORD_END}"
    rf"|document(?:class|style){WORD_END}|usepackage{WORD_END}|RequirePackage(?:WithOptions)?{WORD_END}"
    rf"|LoadClass(?:WithOptions)?{WORD_END}%s|begin\s*\{{(?P<environment>document|(?:{VERBATIM})\*?)\}})"
)
NAME: Final = re.compile(rf"\s*\{{([^{{}}]{{0,{MAX_ARGUMENT_CHARS}}})\}}")
BARE_NAME: Final = re.compile(r"[ \t]*(?:\n[ \t]*)?(?:\"([^\"\n]{1,500})\"|([^\s{}\\%\"#$&~^\[\]]{1,500}))")
LOADED: Final = re.compile(r"\s*(?:\[([^\]]{0,2000})\]\s*)?\{([^{}]{0,2000})\}(?:[ \t]*\[[^\]]{0,200}\])?")
COMMENT: Final = re.compile(r"%[^\n]*\n?[ \t]*")
COMMENT_LINE: Final = re.compile(r"(?m)^[ \t]*%.*\n")
HARMLESS: Final = re.compile(
    r"\\(?:url|path|href|nolinkurl)\s*\{[^{}]*\}|\\(?:verb|lstinline)\*?([^A-Za-z\s*\[]).{0,1000}?\1|\\[^A-Za-z]"
)
OPEN_VERB: Final = re.compile(r"\\(?:verb|lstinline)\*?([^A-Za-z\s*\[])")
CONTROL_WORD_END: Final = re.compile(r"\\[A-Za-z@]+\Z")
INK: Final = re.compile(r"\S")
BLANK_REST: Final = re.compile(r"[ \t]*(?:\n|\Z)")
DEFINE: Final = re.compile(
    r"\\(newcommand|renewcommand|providenewcommand|Declare(?:Robust|Document)Command|(?:New|Renew|Provide)DocumentCommand"
    r"|def|[gex]def|define|redefine)(?![A-Za-z@])\*?"
)
DEFINED: Final = re.compile(r"\s{0,99}\{?\s{0,99}\\([A-Za-z@]+)\s*\}?\s*")
BEING_DEFINED: Final = re.compile(  # the command at the end of this is the one defined, not used
    r"\\(?:(?:re|provide)?newcommand\*?|DeclareRobustCommand\*?|\w+DocumentCommand|[gex]?def|let|string|noexpand|show|meaning)\s*\{?\s*\Z"
)
LET: Final = re.compile(r"\\let\s*\\([A-Za-z@]+)\s*=?\s*\Z")
ENDS_OF_DEFINING: Final = ("@", "*", "=")  # what these two end in, if not in a letter
PICTURE: Final = re.compile(
    r"(?i)\.(?:tikz|pgf|pdf_tex|pdf_t|pstex_t|eps_tex|pspdftex|latex_t)$"
)  # drawings written as TeX
NUM_ARGUMENTS: Final = re.compile(r"\[(\d)\]\s*(?:\[([^\]]{0,500})\]\s*)?")
XPARSE: Final = re.compile(r"([msoO])\s*(?:\{([^{}]*)\})?")
NO_VALUE: Final = "-NoValue-"  # what xparse gives for an optional argument that is not there
TRUE, FALSE = "\\BooleanTrue", "\\BooleanFalse"
CONDITION_VALUES: Final = (NO_VALUE, TRUE, FALSE)
BRANCH: Final = re.compile(r"\\If(NoValue|Value|Boolean)(TF|T|F)(?![A-Za-z@])")
UNDELIMITED: Final = re.compile(r"(?:#\d|\s)*")  # the parameters of a \def, one behind the other
WORDS: Final = re.compile(r"\w[\w ./-]*")  # an argument that opens, closes and hides nothing
GLUED_PARAMETER: Final = re.compile(r"[\\-][A-Za-z@]*#")  # one whose argument may end a command or a NO_VALUE
PARAMETER: Final = re.compile(r"#([1-9])")
BRACE: Final = re.compile(r"[{}]|\\[{}%\\]|%[^\n]*")  # with what hides one
HIDDEN_BRACE: Final = re.compile(r"\\[{}]|%[^\n{}%]*[{}]")  # escaped or in a comment; some that matches is none
SIMPLE_DEFINITION: Final = re.compile(
    r"\\(?:def|[gex]def|(?:newcommand|renewcommand|providenewcommand)\*?)\s{0,9}\{?\s{0,9}\\([A-Za-z@]+)\s{0,9}\}?\s{0,9}\{([^{}]{0,500})\}"
)
SIMPLE_MACRO: Final = re.compile(r"\\([A-Za-z@]+)\s*")
CONDITION: Final = re.compile(r"(?<!\\newif)\\(if(?!f\b|thenelse)[A-Za-z@]*|fi)(?![A-Za-z@])")
DOCUMENT: Final = "{document}"  # behind \begin or \end


class TooLarge(Exception):
    """A source beyond the limits; the text says which."""


@dataclass(frozen=True)
class Macro:
    """An author's macro around an inclusion. `arguments` says how each is read: 'm' {one}, 'o' [one, or this default], 's' a star.

    `chosen` keeps what `fill` makes of the body, by which of the arguments decide a condition.
    """

    arguments: tuple[tuple[str, str], ...]
    body: str
    chosen: dict[tuple[str, ...], list[str]] = field(default_factory=dict)


def closing_brace(text: str, pos: int, end: int) -> int:
    """The position of the brace that closes the one at `pos`, -1 where there is none before `end`.

    Escaped ones and those in comments don't count.
    """
    depth, at = 0, pos
    while (close := text.find("}", at, end)) >= 0:
        depth += text.count("{", at, close) - 1
        at = close + 1
        if depth == 0:
            break
    if HIDDEN_BRACE.search(text, pos, end if close < 0 else at) is None:
        return close
    depth = 0
    for match in BRACE.finditer(text, pos, end):
        brace = match[0]
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def definition_head(text: str, define: re.Match[str]) -> tuple[str, tuple[tuple[str, str], ...], int] | None:
    r"""(name, arguments, position of the body's brace) of the definition whose command `define` matched; None if none we read.

    Example: for \chap#1{\input{ch/#1}} behind \def, ('chap', (('m', ''),), the position of the brace before \input).
    """
    named = DEFINED.match(text, define.end())
    if named is None:
        return None
    start = named.end()
    arguments: list[tuple[str, str]] = []
    if define[1].endswith(("def", "define")):
        start = text.find("{", named.end(), named.end() + 200)
        if start < 0 or (start > named.end() and UNDELIMITED.fullmatch(text, named.end(), start) is None):
            return None  # delimited arguments: nobody has been seen to include that way
        arguments = [("m", "")] * text.count("#", named.end(), start)
    elif define[1].endswith("DocumentCommand"):
        specified = NAME.match(text, start)
        if specified is None:
            return None
        arguments = [
            ("o", NO_VALUE) if kind == "o" else (kind.lower(), default)
            for kind, default in XPARSE.findall(specified[1])
        ]
        start = text.find("{", specified.end(), specified.end() + 200)
    elif (counted := NUM_ARGUMENTS.match(text, start)) is not None:
        first = ("m", "") if counted[2] is None else ("o", counted[2])
        arguments = [first, *[("m", "")] * 9][: int(counted[1])]
        start = counted.end()
    return (named[1], tuple(arguments), start) if start >= 0 and text.startswith("{", start) else None


def call_macro(macro: Macro, text: str, pos: int) -> tuple[str, int] | None:
    """A macro's body with the arguments that stand at `pos` put in, and the position behind them; None where they don't."""
    values = []
    for kind, default in macro.arguments:
        pos = past_blanks(text, pos)
        opened = text[pos : pos + 1]
        if kind == "s":
            values.append(TRUE if opened == "*" else FALSE)
            pos += opened == "*"
        elif kind == "o":
            end = text.find("]", pos, pos + 2000) if opened == "[" else -1
            values.append(text[pos + 1 : end] if end >= 0 else default)
            pos = end + 1 if end >= 0 else pos
        elif opened == "{":
            end = closing_brace(text, pos, pos + MAX_DEFINITION_CHARS)
            if end < 0:
                return None
            values.append(text[pos + 1 : end])
            pos = end + 1
        elif opened and opened not in "}\\%":
            values.append(opened)
            pos += 1
        else:
            return None
    if macro.body.count("#") * max(map(len, values), default=0) > MAX_CALL_CHARS:
        return None
    return fill(macro, values), pos


def fill(macro: Macro, values: list[str]) -> str:
    r"""A macro's body with the arguments put in and xparse's conditions on them decided.

    Mere words as arguments decide no condition, so that what is left of the body is the same for all calls with the same
    stars and missing arguments; it is kept. A book calls one macro 700 times.
    """
    parts = PARAMETER.split(macro.body)
    deciding = tuple(value if value in CONDITION_VALUES else "" for value in values)
    words = [value for value in values if value not in CONDITION_VALUES]
    num_chars = len(macro.body) + len(parts) * max(map(len, values), default=0)
    if num_chars > MAX_ARGUMENT_CHARS or GLUED_PARAMETER.search(macro.body) or not all(map(WORDS.fullmatch, words)):
        called = put_in(parts, values)
        return choose_branches(called) if "\\If" in called else called
    if deciding not in macro.chosen:
        kept = [value or f"#{number}" for number, value in enumerate(deciding, 1)]
        macro.chosen[deciding] = PARAMETER.split(choose_branches(put_in(parts, kept)))
    return put_in(macro.chosen[deciding], values)


def put_in(parts: list[str], values: list[str]) -> str:
    """A text split at its parameters, ['ch/', '1', '.tex'], with their values in it; '' where there is none."""
    parts = parts.copy()
    for place in range(1, len(parts), 2):
        number = int(parts[place])
        parts[place] = values[number - 1] if number <= len(values) else ""
    return "".join(parts)


def choose_branches(text: str, depth: int = 0) -> str:
    r"""xparse's conditions on optional arguments and stars, decided: '\IfBooleanTF{\BooleanTrue}{a}{b}' -> 'a'."""
    out: list[str] = []
    pos = 0
    while depth < MAX_BRANCH_DEPTH and (match := BRANCH.search(text, pos)) is not None:
        arguments: list[str] = []
        end = match.end()
        while len(arguments) <= len(match[2]) and (argument := braced(text, end)) is not None:
            arguments.append(argument[0])
            end = argument[1]
        if len(arguments) <= len(match[2]):  # not written as it should be: the rest stays
            break
        value, *branches = arguments
        truth = value == TRUE if match[1] == "Boolean" else (value == NO_VALUE) == (match[1] == "NoValue")
        chosen = dict(zip(match[2], branches, strict=True)).get("T" if truth else "F", "")
        out += (text[pos : match.start()], choose_branches(chosen, depth + 1))
        pos = end
    out.append(text[pos:])
    return "".join(out)


def definitions_in(text: str) -> str:
    """The definitions in a preamble, one a line; what else stands there is dropped."""
    found, pos = [], 0
    while (define := DEFINE.search(text, pos)) is not None:
        dead = dead_until(text, pos, define.start())
        head = None if dead else definition_head(text, define)
        if head is None:
            pos = max(dead, define.end())
            continue
        end = closing_brace(text, head[2], head[2] + MAX_DEFINITION_CHARS)
        if end < 0:
            break
        found.append(text[define.start() : end + 1] + "\n")
        pos = end + 1
    return "".join(found)


def dead_until(text: str, safe: int, pos: int) -> int:
    r"""0 where the command at `pos` is live; else the position behind the comment, \verb or escape that it stands in.

    `safe` is a position before `pos` that is known to lie outside all of these, so that a long line is read once.
    """
    line = text[max(text.rfind("\n", safe, pos) + 1, safe) : pos]
    if "%" in line or "\\verb" in line or "\\lst" in line:
        line = HARMLESS.sub("", line)
        if "%" in line:
            return line_end(text, pos)
        if (verb := OPEN_VERB.search(line)) is not None:
            return text.find(verb[1], pos, line_end(text, pos)) + 1
    return pos + 1 if line.endswith("\\") and (len(line) - len(line.rstrip("\\"))) % 2 else 0


@dataclass
class Hit:
    r"""A command that may include something: text[start:pos] is it; `base` is the folder that an \import set, if one did."""

    command: str
    text: str
    start: int
    pos: int
    base: str | None
    depth: int
    heads: dict[
        int, tuple[str, tuple[tuple[str, str], ...], int, int] | None
    ]  # of the definitions in `text`, by their start


class Flattener:
    """Writes one source out of the files of an archive, from the main file on."""

    def __init__(self, archive: Archive, main_name: str) -> None:
        self.archive, self.main = archive, main_name
        self.home = posixpath.dirname(main_name)  # where TeX is run
        self.by_lower: dict[str, str] = {}  # made where it is needed
        self.by_base: dict[str, str] = {}  # '' where several files in different folders have one name
        for name in archive.names:
            base = name[name.rfind("/") + 1 :].lower()
            self.by_base[base] = "" if base in self.by_base else name
        self.texts: dict[str, str] = {}
        self.used: dict[str, None] = {}  # ordered set of file names
        self.loaded: set[str] = set()  # style files, which TeX loads once
        self.open: list[str] = []  # the files that we are in
        self.macros: dict[str, Macro] = {}
        self.aliases: dict[str, str] = {}
        self.pattern = command_pattern(())
        self.simple: dict[
            str, str
        ] = {}  # macros without arguments, from the files read so far but for the `unsearched`
        self.unsearched: list[str] = []
        self.in_call: set[str] | None = None  # files that the macro being called has included
        self.only: set[str] | None = None  # \includeonly
        self.begun = False
        self.in_style = 0
        self.has_styles = any(is_own_style(name, data) for name, data in archive.files.items())
        self.num_chars = self.num_inclusions = self.num_looked_chars = 0
        self.warnings: list[str] = []
        if archive.cut is not None:
            self.warn(f"archive: {archive.cut}; what stands before is used")

    def run(self) -> str:
        """The whole source. Raises TooLarge."""
        self.open.append(self.main)
        text = self.text_of(self.main)
        if self.main == self.archive.cut_member:
            text = text[: text.rfind("\n") + 1]  # the last line is torn
        return self.expand(text, None, 0)

    def warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS and text not in self.warnings:
            self.warnings.append(text)

    def text_of(self, name: str) -> str:
        """A file's text, decoded once; counts what is used. Raises TooLarge."""
        if name not in self.texts:
            self.texts[name] = decode(self.archive.files[name], self.archive.files[self.main])
            self.unsearched.append(name)
        self.used[name] = None
        self.count(len(self.texts[name]))
        return self.texts[name]

    def count(self, num_chars: int) -> None:
        self.num_chars += num_chars
        if self.num_chars > MAX_SOURCE_CHARS:
            raise TooLarge(f"inclusions make more than {MAX_SOURCE_CHARS:,} characters")

    def look(self, num_chars: int) -> None:
        self.num_looked_chars += num_chars
        if self.num_looked_chars > MAX_LOOKED_CHARS:
            raise TooLarge(f"more than {MAX_LOOKED_CHARS:,} characters to look for definitions in")

    def argument(self, text: str, pos: int) -> tuple[str, int] | None:
        """What `braced` finds, counted."""
        found = braced(text, pos)
        if found is not None:
            self.look(found[1] - pos)
        elif text.startswith("{", past_blanks(text, pos)):
            self.look(MAX_DEFINITION_CHARS)  # read in vain
        return found

    def expand(self, text: str, base: str | None, depth: int) -> str:
        r"""`text` with its inclusions replaced. `base` is the folder that an \import set, None outside one."""
        out: list[str] = []
        copied = pos = safe = 0
        unclosed: set[str] = set()
        heads: dict[int, tuple[str, tuple[tuple[str, str], ...], int, int] | None] = {}
        while (match := self.pattern.search(text, pos)) is not None:
            start, pos = match.start(), match.end()
            command = match[0][1:]
            if command in LOADING and not self.has_styles:
                continue
            if dead := dead_until(text, safe, start):
                pos = safe = max(pos, dead)
                continue
            safe = start
            if match["environment"] is not None:
                pos = safe = self.pass_environment(match, text, unclosed)
                continue
            hit = Hit(command, text, start, pos, base, depth, heads)
            if defined := self.definition_around(hit):
                pos = safe = defined
            elif hit.command == "endinput":
                if not self.is_guard(hit):
                    out.append(text[copied:start])
                    copied, text = pos, text[: line_end(text, pos)]
            elif (replaced := self.replace(hit)) is not None:
                new, pos = replaced
                if new[:1].isalpha() and CONTROL_WORD_END.search(text, max(copied, start - 50), start):
                    new = " " + new  # \bf\input{x}: the word ends where the command began
                out += (text[copied:start], new)
                copied = safe = pos
        out.append(text[copied:])
        return "".join(out)

    def pass_environment(self, match: re.Match[str], text: str, unclosed: set[str]) -> int:
        r"""The end of a verbatim environment, or of the \begin alone; `unclosed` keeps those without an end in `text`."""
        name = match["environment"]
        if name == "document":
            self.begun = True
        elif name not in unclosed:
            end = text.find(f"\\end{{{name}}}", match.end())
            if end >= 0:
                return end
            unclosed.add(name)
        return match.end()

    def definition_around(self, hit: Hit) -> int:
        """The end of the definition that a command stands in, 0 if none; such a macro is remembered as one that includes."""
        self.num_inclusions += 1
        if self.num_inclusions > MAX_INCLUSIONS:
            raise TooLarge(f"more than {MAX_INCLUSIONS:,} inclusions")
        text, window_start = hit.text, max(0, hit.start - MAX_LOOKBACK_CHARS)
        window = text[window_start : hit.start]
        if "def" not in window and "ommand" not in window:
            return 0
        for define in reversed(list(DEFINE.finditer(text, window_start, hit.start))):
            head = self.head(hit, define)
            if head is None:
                continue
            name, arguments, brace, end = head
            if not brace < hit.start < end or dead_until(text, window_start, define.start()):
                continue
            if hit.command not in LOADING and hit.command != "endinput" and len(self.macros) < MAX_MACROS:
                self.macros[name] = Macro(arguments, text[brace + 1 : end])
                self.pattern = command_pattern((*self.macros, *self.aliases))
            return end + 1
        return 0

    def head(self, hit: Hit, define: re.Match[str]) -> tuple[str, tuple[tuple[str, str], ...], int, int] | None:
        """What `definition_head` finds, and the position of the brace that ends the body; read once for each definition."""
        start = define.start()
        if start not in hit.heads:
            head = definition_head(hit.text, define)
            end = -1
            if head is not None:
                end = closing_brace(hit.text, head[2], head[2] + MAX_DEFINITION_CHARS)
                self.look(end - head[2] if end >= 0 else MAX_DEFINITION_CHARS)
            hit.heads[start] = (*head, end) if head is not None and end >= 0 else None
        return hit.heads[start]

    def is_guard(self, hit: Hit) -> bool:
        r"""Whether an \endinput stands in a condition, or behind an open brace of its line: it guards a file then."""
        self.look(hit.start)
        depth = sum(-1 if match[1] == "fi" else 1 for match in CONDITION.finditer(hit.text, 0, hit.start))
        line = hit.text[hit.text.rfind("\n", 0, hit.start) + 1 : hit.start]
        return depth > 0 or line.count("{") > line.count("}")

    def replace(self, hit: Hit) -> tuple[str, int] | None:
        """What stands in place of an inclusion, and the position behind it; None where the command stays as it is."""
        before = hit.text[max(0, hit.start - 80) : hit.start]
        last = before.rstrip().removesuffix("{").rstrip()[-1:]
        if last.isalpha() or last in ENDS_OF_DEFINING:  # hardly ever
            if (let := LET.search(before)) is not None and hit.command not in self.macros:
                self.aliases[let[1]] = self.aliases.get(hit.command, hit.command)
                self.pattern = command_pattern((*self.macros, *self.aliases))
                return None
            if BEING_DEFINED.search(before):
                return None
        if hit.depth > MAX_DEPTH:
            self.warn(f"inclusions nested more than {MAX_DEPTH} deep")
            return "", hit.pos
        if hit.command in self.macros:
            return self.call(hit)
        hit.command = self.aliases.get(hit.command, hit.command)
        if hit.command in READS:
            return self.read(hit)
        if hit.command in LOADING:
            return self.load(hit)
        if hit.command in IMPORTS:
            return self.read_import(hit)
        if hit.command in TESTS:
            return self.test(hit)
        if hit.command == "includeonly" and (match := NAME.match(hit.text, hit.pos)) is not None:
            self.only = {stem_of(name) for name in match[1].split(",")}
            return "", match.end()
        return None

    def call(self, hit: Hit) -> tuple[str, int] | None:
        """An author's macro: its body with the arguments put in, expanded."""
        called = call_macro(self.macros[hit.command], hit.text, hit.pos)
        if called is None:
            self.look(MAX_DEFINITION_CHARS)
            return None
        self.look(called[1] - hit.pos)
        self.count(len(called[0]))
        outer, self.in_call = self.in_call, set()
        content = self.expand(called[0], hit.base, hit.depth + 1)
        self.in_call = outer
        return content, called[1]

    def read(self, hit: Hit) -> tuple[str, int] | None:
        r"""\input{name}, \input name and their like."""
        pos = hit.pos + hit.text.startswith("*", hit.pos)
        argument = self.argument(hit.text, pos)
        if argument is None and hit.command.endswith("input") and (bare := BARE_NAME.match(hit.text, pos)) is not None:
            argument = bare[1] or bare[2], bare.end()
        if argument is None or "#" in argument[0]:
            return None
        name, end = self.plain_name(argument[0]), argument[1]
        if self.only is not None and hit.command == "include" and stem_of(name) not in self.only:
            return "", end
        found = self.find(name, hit.base)
        if found is None:
            return self.missing(name, end)
        if SYSTEM_FILES.fullmatch(posixpath.basename(found)) and b"\\catcode" in self.archive.files.get(found, b""):
            return None
        base = posixpath.dirname(found) if hit.command.startswith("subfile") else hit.base
        return joined(self.file(found, base, hit.depth), hit, end)

    def read_import(self, hit: Hit) -> tuple[str, int] | None:
        r"""\import{folder}{name}: inside it, names are relative to that folder; \subimport's folder to the one before."""
        folder = self.argument(hit.text, hit.pos + hit.text.startswith("*", hit.pos))
        argument = None if folder is None else self.argument(hit.text, folder[1])
        if folder is None or argument is None or "#" in folder[0] + argument[0]:
            return None
        outer = hit.base if hit.base is not None and hit.command.startswith("sub") else self.home
        base = member_name(outer, self.plain_name(folder[0]))
        found = self.find(self.plain_name(argument[0]), base)
        if found is None:
            return self.missing(f"{base}/{argument[0]}", argument[1])
        return joined(self.file(found, base, hit.depth), hit, argument[1])

    def test(self, hit: Hit) -> tuple[str, int] | None:
        r"""\IfFileExists{name}{then}{else} and \InputIfFileExists, where the archive can tell."""
        arguments: list[str] = []
        pos = hit.pos
        while len(arguments) < 3:
            argument = self.argument(hit.text, pos)
            if argument is None:
                return None
            arguments.append(argument[0])
            pos = argument[1]
        name, then, otherwise = arguments
        found = self.find(self.plain_name(name), hit.base)
        if found is None:
            is_style = suffix_of(name) not in SUFFIXES  # which TeX may have
            return None if is_style else (self.expand(otherwise, hit.base, hit.depth + 1), pos)
        content = self.file(found, hit.base, hit.depth) if hit.command == "InputIfFileExists" else ""
        return self.expand(then, hit.base, hit.depth + 1) + content, pos

    def load(self, hit: Hit) -> tuple[str, int] | None:
        r"""\usepackage, \documentclass and their like: the author's own files come in behind or in place of the command."""
        match = LOADED.match(hit.text, hit.pos)
        if match is None:
            return None
        is_209 = hit.command == "documentstyle"  # whose options are styles, too
        named = f"{match[1] or ''},{match[2]}" if is_209 else match[2]
        named = COMMENT.sub("", named) if "%" in named else named
        names = [name for name in map(self.plain_name, named.split(",")) if name]
        suffixes = (".sty",) if hit.command in PACKAGES else (".sty", ".cls") if is_209 else (".cls",)
        own = {name: found for name in names if (found := self.find_own_style(name, hit.base, suffixes)) is not None}
        if not own:
            return None
        block = "".join(self.style(found, hit.depth) for found in own.values())
        if hit.command not in PACKAGES:
            return hit.text[hit.start : match.end()] + block, match.end()
        others = ",".join(name for name in names if name not in own)
        options = "" if match[1] is None else f"[{match[1]}]"
        return (f"\\{hit.command}{options}{{{others}}}" if others else "") + block, match.end()

    def find_own_style(self, name: str, base: str | None, suffixes: Sequence[str]) -> str | None:
        """The archive's file for a package or class, unless it is a published one."""
        found = self.find(name, base, suffixes)
        data = self.archive.files.get(found) if found is not None else None
        if data is None or is_published(posixpath.basename(name), data, suffixes):
            return None
        return found

    def style(self, name: str, depth: int) -> str:
        r"""The text of a package or class, between \makeatletter and \makeatother; '' the second time."""
        if name in self.loaded:
            return ""
        self.loaded.add(name)
        self.in_style += 1
        self.open.append(name)
        text = self.expand(COMMENT_LINE.sub("", self.text_of(name)), None, depth + 1)
        self.open.pop()
        self.in_style -= 1
        text = text if text.endswith("\n") else text + "\n"
        return text if self.in_style else f"\n\\makeatletter\n{text}\\makeatother\n"

    def file(self, name: str, base: str | None, depth: int) -> str:
        """The text of an included file, its own inclusions replaced; '' for pictures and what includes itself."""
        if name not in self.archive.files or PICTURE.search(name):
            return ""
        if self.in_call is not None:
            if name in self.in_call:
                return ""  # a macro that names one file in two branches of a condition includes it once
            self.in_call.add(name)
        if name in self.open:
            self.warn(f"{name} includes itself")
            return ""
        if suffix_of(name) in STYLE_SUFFIXES:
            return self.style(name, depth)
        text = self.text_of(name)
        if self.begun and (begin := live_document("\\begin", text, 0)) is not None:
            end = live_document("\\end", text, begin[1])
            text = definitions_in(text[: begin[0]]) + text[begin[1] : len(text) if end is None else end[0]]
        self.open.append(name)
        outer, self.in_call = self.in_call, None
        text = self.expand(text, base, depth + 1)
        self.in_call = outer
        self.open.pop()
        return text

    def missing(self, name: str, end: int) -> tuple[str, int] | None:
        """A file that the archive lacks: TeX's own stay as commands, others go, with a warning."""
        if SYSTEM_FILES.fullmatch(posixpath.basename(name)):
            return None
        if name and suffix_of(name) != ".bbl" and NO_VALUE not in name and "#" not in name:
            self.warn(f"{name} is missing")
        return "", end

    def find(self, name: str, base: str | None, suffixes: Sequence[str] = SUFFIXES) -> str | None:
        r"""The archive's name of the file that an inclusion means.

        Looked for below the folder of \import, where TeX runs, where the including file lies and at the top; then without
        regard to case; then by its last part alone, if only one file has it (an absolute path on the author's machine).
        """
        if not name:
            return None
        last = name[name.rfind("/") + 1 :]
        lasts = [(last + suffix).lower() for suffix in suffixes]
        is_file = last not in ("", ".", "..") and "\\" not in last and len(name) < MAX_NAME_CHARS - 10
        if is_file:  # in whatever folder, and in whatever case: only a file that is called so can be the one
            called_so = [found for last in lasts if (found := self.by_base.get(last)) is not None]
            if not called_so:
                return None
            if len(called_so) == 1 and called_so[0]:
                return called_so[0]
        folders = dict.fromkeys((self.home if base is None else base, self.home, posixpath.dirname(self.open[-1]), ""))
        paths = []
        for folder in folders:
            stem = member_name(folder, name)
            for suffix in suffixes:
                path = stem + suffix if is_file else member_name(folder, name + suffix)
                if path in self.archive.kinds:
                    return path
                paths.append(path)
        if not self.by_lower:
            self.by_lower = {name.lower(): name for name in reversed(self.archive.names)}
        for path in paths:
            if (found := self.by_lower.get(path.lower())) is not None:
                return found
        return next((found for last in lasts if (found := self.by_base.get(last))), None)

    def plain_name(self, name: str) -> str:
        """A file's name with comments, quotes and macros in it resolved: '\\jobname-body' -> 'paper-body'."""
        if "%" in name:
            name = COMMENT.sub("", name)
        if "\\" in name:
            name = SIMPLE_MACRO.sub(lambda match: self.simple_macro(match[1]), name)
        return " ".join(name.replace("{", "").replace("}", "").replace('"', "").split())

    def simple_macro(self, name: str) -> str:
        """What a macro without arguments stands for, as the last definition in the files read so far says; '' if none does."""
        if name == "jobname":
            return stem_of(self.main)
        if name == "space":
            return " "
        for file in self.unsearched:
            self.simple.update(SIMPLE_DEFINITION.findall(self.texts[file]))
        self.unsearched.clear()
        return self.simple.get(name, "")


@functools.lru_cache(maxsize=64)
def command_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """The commands that `expand` stops at, the author's macros and aliases among them."""
    return re.compile(COMMAND % "".join(f"|{name}{WORD_END}" for name in names))


def is_own_style(name: str, data: bytes) -> bool:
    """Whether a file of the archive is a package or class that would come in where it is loaded."""
    if not name.endswith(STYLE_SUFFIXES) and not name.lower().endswith(STYLE_SUFFIXES):
        return False
    return not is_published(name[name.rfind("/") + 1 : -4], data, (suffix_of(name),))


def is_published(name: str, data: bytes, suffixes: Sequence[str]) -> bool:
    """Whether a style is one that distributions or publishers hand out: by its name, its notice, or a class's length.

    A short file without a notice is the author's whatever its name: physics.sty with ten macros is not the package physics.
    """
    if any(notice in data[:MAX_NOTICE_BYTES] for notice in PUBLISHED_NOTICES):
        return True
    if ".cls" in suffixes and len(data) > MAX_OWN_CLASS_BYTES:
        return True
    known = PUBLISHED_STYLES.fullmatch(name) or PUBLISHED_STYLES.fullmatch(STYLE_VERSION.sub("", name))
    return known is not None and (len(data) > MAX_OWN_STYLE_BYTES or b"\\Provides" in data)


def past_blanks(text: str, pos: int) -> int:
    """The position of the first character from `pos` on that is no blank."""
    match = INK.search(text, pos)
    return len(text) if match is None else match.start()


def braced(text: str, pos: int) -> tuple[str, int] | None:
    """The argument in braces at `pos` and the position behind it."""
    start = pos if text.startswith("{", pos) else past_blanks(text, pos)
    if not text.startswith("{", start):
        return None
    end = text.find("}", start, start + MAX_ARGUMENT_CHARS + 2)
    if end < 0 or text.find("{", start + 1, end) >= 0:  # not a mere name
        end = closing_brace(text, start, start + MAX_DEFINITION_CHARS)
    return None if end < 0 else (text[start + 1 : end], end + 1)


def joined(content: str, hit: Hit, end: int) -> tuple[str, int]:
    """An included file's text as it stands in its place before hit.text[end:], and `end`.

    TeX ends the file's last line, then goes on in the line of the command: no blank line where the author left none.
    """
    newline = "" if content.endswith("\n") else "\n"
    if hit.command in PARAGRAPHS:
        return f"\n\n{content}{newline}\n", end
    return (content.removesuffix("\n") if BLANK_REST.match(hit.text, end) else content + newline), end


def find_document(tag: str, text: str, pos: int) -> tuple[int, int] | None:
    r"""Where the first \begin{document} or \end{document} (`tag` says which) from `pos` on begins and ends."""
    while (brace := text.find(DOCUMENT, pos)) >= 0:
        head = text[pos:brace].rstrip()
        if head.endswith(tag):
            return pos + len(head) - len(tag), brace + len(DOCUMENT)
        pos = brace + len(DOCUMENT)
    return None


def live_document(tag: str, text: str, pos: int) -> tuple[int, int] | None:
    r"""What `find_document` finds, but for what stands in a comment or \verb."""
    safe = pos
    while (found := find_document(tag, text, pos)) is not None:
        dead = dead_until(text, safe, found[0])
        if not dead:
            return found
        pos = safe = max(found[1], dead)
    return None


def line_end(text: str, pos: int) -> int:
    """The position of the newline that ends the line at `pos`, or of the end."""
    end = text.find("\n", pos)
    return len(text) if end < 0 else end
