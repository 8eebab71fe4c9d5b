"""Characters by command: accents, quotes, codes and signs, addresses.

In: the place of a command, in latex_prose.py. Out: the characters that TeX prints. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from data_prep.latex_source import read_argument, read_option, skip_blanks, skip_spaces, verb_end
from data_prep.latex_tables import ACCENT_NUMBERS, ACCENTS, DING_ROWS, DINGS, QUOTES

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

LETTER_BEHIND_ACCENT: Final = re.compile(
    r"\s*(?:\{\s*(?:\\([ij])(?![A-Za-z])|([^\W\d_]))\s*(?:\{\s*\})?\s*\}|\\([ij])(?![A-Za-z])\s?|([^\W\d_]))"
)
CHAR: Final = re.compile(r"""\s*\{?\s*(?:"([0-9A-Fa-f]{1,4})|'([0-7]{1,5})|`\\?(\S)|(\d{1,5}))\s?\s*\}?""")
TILDE: Final = re.compile(r"\{?\$\\sim\s*\$\}?|\\(?:textasciitilde|sim)(?![A-Za-z])(?:\{\})?|\\~\{\s*\}")
UNREADABLE_IN_URL: Final = re.compile(r"[\\${}\s]")

NAMED: Final = {char: "\\" + char for char in "%${}"} | {
    "\\": "\\textbackslash "
}  # as CONTROL_SYMBOLS and SYMBOLS write them


def quote(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\enquote{text} -> “text”, within another and starred 'text'."""
    single = cleaner.text[pos : pos + 1] == "*" or cleaner.quotes > 0
    pos = cleaner.skip(QUOTES[name], pos)
    cleaner.quotes += 1
    found = cleaner.group(pos)
    cleaner.quotes -= 1
    if found is None:
        return pos
    cleaner.out.append(f"'{found[0]}'" if single else f"“{found[0]}”")
    return found[1]


def char(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\char126, \\symbol{95}, \\char`\\%: the character."""
    found = CHAR.match(cleaner.text, pos)
    if found is None:
        return cleaner.skip("m", pos)
    code = int(found[1], 16) if found[1] else int(found[2], 8) if found[2] else int(found[4] or ord(found[3]))
    if 32 < code < 127:
        cleaner.out.append(NAMED.get(chr(code), chr(code)))
    return found.end()


def ding(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\ding{51} -> ✓."""
    found = CHAR.match(cleaner.text, pos)
    number = int(found[4]) if found and found[4] else 0
    for first, last, sign in DING_ROWS:
        if first <= number <= last:
            cleaner.out.append(DINGS.get(number) or chr(sign + number - first))
    return found.end() if found else pos


def numbered_accent(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\accent"7F u, \\accent'27a -> ü, å."""
    found = CHAR.match(cleaner.text, pos)
    if found is None or not (found[1] or found[2] or found[4]):
        return pos
    number = int(found[1], 16) if found[1] else int(found[2], 8) if found[2] else int(found[4])
    if number in ACCENT_NUMBERS:
        return accent(cleaner, ACCENT_NUMBERS[number], start, found.end())
    return found.end()


def hyphen(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\- says where a word may be broken; \\-/ of extdash is a hyphen."""
    if cleaner.text[pos : pos + 1] != "/":
        return pos
    cleaner.out.append("-")
    return pos + 1


def accent(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\'e, \\'{e}, \\'\\i -> é."""
    found = LETTER_BEHIND_ACCENT.match(cleaner.text, pos)
    if not found:
        if name.isalpha():
            return skip_spaces(cleaner.text, pos)
        if name in "~^" and cleaner.text.startswith("{}", pos):
            cleaner.out.append(name)
            return pos + 2
        return pos
    letter = found[1] or found[2] or found[3] or found[4]
    cleaner.out.append(normalize("NFC", letter + ACCENTS[name]))
    return found.end()


def url(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\url{address} -> address without blanks and line ends, as TeX reads it, unless it would read as LaTeX."""
    brace = skip_blanks(cleaner.text, pos)
    end = cleaner.source.group_end(brace) if cleaner.text[brace : brace + 1] == "{" else verb_end(cleaner.text, brace)
    if end <= brace:
        return pos
    address = cleaner.text[brace + 1 : end - 1]
    if "\\" in address or "$" in address:
        address = TILDE.sub("~", address)
        for escaped in ("\\_", "\\#", "\\~", "\\&", "\\%"):
            address = address.replace(escaped, escaped[1])
    address = "".join(address.replace("{", "").replace("}", "").split())
    if not UNREADABLE_IN_URL.search(address):
        cleaner.out.append(address.replace("%", "\\%"))
    return end


def string_test(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\IfStrEq{a}{b}{then}{else} of xstring, \\IfStrEqCase{a}{{b}{text}{c}{text}}[else]: the branch that holds."""
    pos = cleaner.skip("*", pos)
    first, place = read_argument(cleaner.source, pos)
    second, end = read_argument(cleaner.source, place)
    if first is None or second is None:
        return pos
    if name in ("IfStrEq", "IfEq"):
        branches = cleaner.arguments(end, 2)
        if branches is None:
            return end
        cleaner.out.append(branches[0][first.strip() != second.strip()])
        return branches[1]
    inside = skip_blanks(cleaner.text, place) + 1
    otherwise, after = read_option(cleaner.source, end)
    while inside < end - 1:
        case, branch = read_argument(cleaner.source, inside)
        text, inside = read_argument(cleaner.source, branch)
        if case is None or text is None:
            break
        if case.strip() == first.strip() and (found := cleaner.arguments(branch, 1)):
            cleaner.out.append(found[0][0])
            return after
    if otherwise is not None:
        cleaner.out.append(cleaner.prose(after - 1 - len(otherwise), after - 1))
    return after
