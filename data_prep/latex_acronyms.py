"""The acronyms that a paper defines with the packages acronym, glossaries and acro, and how each use of one is written out.

In: their definitions. Out: {key: Acronym}; the words of \\ac{key} and its like. As the packages print them, the first use gives the
long form with the short one in parentheses, later uses the short one alone.
"""

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from data_prep.latex_source import Source, read_argument, read_option

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

MAX_ACRONYMS: Final = 1_000  # of one paper
MAX_DEFINITION_CHARS: Final = 5_000  # of one of them, so that definitions within definitions take linear time
DEFINITIONS: Final = "acro acrodef newacro newacronym newabbreviation DeclareAcronym acroindefinite newglossaryentry"
FIELD: Final = re.compile(r"(?:^|[,\s])(short|long|name|text)\s*=\s*(\{?)")
USE: Final = re.compile(  # every name in USES
    r"([iI]?)(?:([aA]c)|([gG]ls)(?:xtr|entry)?|(acr))(|s|l|f|short|long|full|name|text|first)(p|pl|\*)?"
)
STYLES: Final = {"s": "short", "l": "long", "f": "full", "n": "short", "t": "short"}
USES: Final = """ac acs acl acf acp acsp aclp acfp Ac Acp Acl Acf iac Iac gls Gls glspl Glspl acrshort acrlong acrfull
    acrshortpl acrlongpl acrfullpl glsxtrshort glsxtrlong glsxtrfull glsxtrshortpl glsxtrlongpl glsxtrfullpl
    glsentryshort glsentrylong glsentryfull glsentryname glsentrytext glsname glstext glsfirst""".split()


class Acronym(NamedTuple):
    """What a key stands for. `articles` stand before the short and the long form."""

    short: str
    long: str
    articles: tuple[str, str] = ("a", "a")


def define_acronym(found: dict[str, Acronym], source: Source, name: str, pos: int) -> None:
    """Add what the command `name` with its arguments at `pos` defines to `found`; the last definition of a key holds."""
    if name in ("newacronym", "newabbreviation"):
        _, pos = read_option(source, pos)
    key, pos = read_argument(source, pos)
    option, pos = read_option(source, pos)
    first, pos = read_argument(source, pos)
    if not key or first is None or len(first) > MAX_DEFINITION_CHARS or len(found) >= MAX_ACRONYMS:
        return
    if name in ("newacronym", "newabbreviation", "acroindefinite"):
        second, pos = read_argument(source, pos)
        if second is not None and name != "acroindefinite":
            found[key] = Acronym(first, second)
        elif second is not None and key in found:
            found[key] = found[key]._replace(articles=(first, second))
    elif name == "newglossaryentry":
        fields = read_fields(first)
        if printed := fields.get("text") or fields.get("name"):
            found[key] = Acronym(printed, printed)
    elif name == "DeclareAcronym":
        fields = read_fields(first)
        if "short" in fields and "long" in fields:
            found[key] = Acronym(fields["short"], fields["long"])
    else:
        found[key] = Acronym(key if option is None else option, first)


def read_fields(text: str) -> dict[str, str]:
    """'short = AV, long = {Automated Vehicle}' -> {"short": "AV", "long": "Automated Vehicle"}."""
    source, fields = Source(text), dict[str, str]()
    for match in FIELD.finditer(text):
        end = source.group_end(match.end() - 1) if match[2] else text.find(",", match.end())
        end = len(text) if end < 0 else end
        fields[match[1]] = text[match.end() : end - 1 if match[2] else end].strip()
    return fields


def write_out(name: str, acronym: Acronym, is_first: bool) -> str:
    """What \\name{key} prints: write_out("acp", Acronym("AV", "Automated Vehicle"), True) -> "Automated Vehicles (AVs)"."""
    match = USE.fullmatch(name)
    style = (match[5] if match else "")[:1]
    ending = "s" if match and match[6] in ("p", "pl") else ""
    short, long = acronym.short + ending, acronym.long + ending
    style = STYLES.get(style, "full" if is_first else "short")
    words = {"short": short, "long": long, "full": f"{long} ({short})" if long != short else long}[style]
    if match and match[1]:
        words = f"{acronym.articles[style != 'short']} {words}"
    return words[:1].upper() + words[1:] if name[:1].isupper() else words


def acronym(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\ac{av} -> Automated Vehicle (AV), later AV; \\acro{av}[AV]{Automated Vehicle} of the list -> AV: Automated Vehicle."""
    text = cleaner.text
    after = pos + (text[pos : pos + 1] == "*")
    end = cleaner.source.group_end(after) if text[after : after + 1] == "{" else -1
    key = text[after + 1 : end - 1].strip() if end > 0 else ""
    known = cleaner.acronyms.get(key)
    if known is None:
        return pos
    if name == "acro":
        cleaner.out.append(f"\n{known.short}: {known.long}\n")
        return cleaner.skip("om", end)
    if len(known.long) + len(known.short) > cleaner.acronym_chars:
        return pos
    words = write_out(name, known, key not in cleaner.written_out)
    cleaner.acronym_chars -= len(words)
    cleaner.out.append(words)
    cleaner.written_out.add(key)
    return end


def forget_acronyms(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\acresetall: each acronym is written out again."""
    cleaner.written_out.clear()
    return pos
