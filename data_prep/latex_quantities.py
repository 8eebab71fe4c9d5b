"""Quantities as their packages print them: numbers, units, fractions, what stands above and below the line.

In: the place of a command, in latex_prose.py. Out: text such as 5 km/s, 1/2, 10⁻⁵. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_source import OPENS_ARGUMENT, skip_blanks
from data_prep.latex_tables import DOTTED, LOWERED, RAISED, UNIT_POWERS, UNIT_PREFIXES, UNITS

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

TWO_DIGITS: Final = re.compile(r"\s*(\d)\s*(\d)(?!\d)")
SMALL_NUMBER: Final = re.compile(r"\s*\{\s*\$?\s*([-+−]?\d{1,6})\s*\$?\s*\}")
SIMPLE_NUMBER: Final = re.compile(
    r"\s*([-+]?\s*\d*[.,]?\d*)\s*(\(\d+\))?\s*(?:(?:\+-|\\pm)\s*(\d*[.,]?\d+))?\s*(?:[eEdD]\s*([-+]?\d+))?\s*"
)
UNIT_TOKEN: Final = re.compile(r"\\([A-Za-z]+)\s*(?:(?<=tothe)\{([-\d]+)\})?|\\%|[^\\${}]")
ONES: Final = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")


def fraction(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\nicefrac{1}{2} -> 1/2, \\unitfrac[3]{m}{s} -> 3 m/s."""
    end = pos
    if cleaner.text[pos : pos + 1] == "[" and (end := cleaner.source.option_end(pos)) > 0 and name == "unitfrac":
        cleaner.out.append(cleaner.prose(pos + 1, end - 1).strip() + " ")
    if digits := TWO_DIGITS.match(cleaner.text, pos):
        cleaner.out.append(f"{digits[1]}/{digits[2]}")
        return digits.end()
    found = cleaner.arguments(max(end, pos), 2)
    if found is None:
        return max(end, pos)
    cleaner.out.append("/".join(found[0]))
    return found[1]


def script(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """10\\textsuperscript{-5} -> 10⁻⁵, CO\\textsubscript{2} -> CO₂; other text stays in the line."""
    number = SMALL_NUMBER.match(cleaner.text, pos)
    if number is None:
        return cleaner.unwrapped(name, start, pos)
    cleaner.out.append(number[1].translate(RAISED if name == "textsuperscript" else LOWERED))
    return number.end()


def dotted(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\eg -> e.g. with its blank, \\etal. -> et al."""
    cleaner.out.append(DOTTED[name])
    if cleaner.text[pos : pos + 1] != ".":
        cleaner.out.append(".")
        return cleaner.xspace(name, start, pos)
    return pos


def ion(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\ion{H}{ii} -> H II, \\ion{Fe}{17} -> Fe XVII."""
    found = cleaner.arguments(pos, 2)
    if found is None:
        return pos
    element, degree = found[0]
    cleaner.out.append(f"{element} {roman(degree) if degree.isdecimal() else degree.upper()}")
    return found[1]


def quantity(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\unit[60]{km} of units, \\SI{60}{\\kilo\\metre} and \\qty of siunitx -> 60 km; \\si{\\kilo\\metre} -> km."""
    end = pos
    if name in ("SI", "qty"):
        pos = cleaner.skip("o", pos)
        behind = cleaner.braced(pos)
        if cleaner.next_char(behind) not in OPENS_ARGUMENT or (found := number(cleaner, pos)) is None:
            return pos
        cleaner.out.append(found[0] + " ")
        end = cleaner.skip("o", skip_blanks(cleaner.text, behind))
    elif name == "unit" and cleaner.text[pos : pos + 1] == "[" and (close := cleaner.source.option_end(pos)) > 0:
        cleaner.out.append(cleaner.prose(pos + 1, close - 1).strip() + " ")
        end = close
    close, unit = unit_at(cleaner, end)
    if unit is None:
        return end  # a unit that we do not know is read as prose
    cleaner.out.append(unit)
    return close


def unit_at(cleaner: "Cleaner", pos: int) -> tuple[int, str | None]:
    """(the place after the argument at `pos`, the unit that it names), or (pos, None)."""
    close = cleaner.source.group_end(pos) if cleaner.text[pos : pos + 1] == "{" else -1
    unit = unit_text(cleaner.text[pos + 1 : close - 1]) if 0 < close < pos + 300 else None
    return (close, unit) if unit is not None else (pos, None)


def number(cleaner: "Cleaner", pos: int) -> tuple[str, int] | None:
    """The number in braces at `pos` as siunitx prints it, and the place after it."""
    start, end = skip_blanks(cleaner.text, pos), cleaner.braced(pos)
    if pos < end < start + 80 and (simple := SIMPLE_NUMBER.fullmatch(cleaner.text, start + 1, end - 1)):
        return number_text(simple), end
    found = cleaner.group(pos)
    return (found[0].strip(), found[1]) if found else None


def numbers(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\num{1e5}, \\ang{30}, and the ranges and lists of siunitx: \\SIrange{1}{5}{\\metre} -> 1 m to 5 m."""
    pos = cleaner.skip("o", pos)
    is_range = name.endswith("range")
    if is_range and cleaner.braced(cleaner.braced(pos)) == cleaner.braced(pos):
        return pos
    found = number(cleaner, pos)
    if found is None:
        return pos
    first, end = found
    values = [first]
    if is_range and (found := number(cleaner, end)):
        values.append(found[0])
        end = found[1]
    elif name.endswith("list"):
        values = [part.strip() for part in first.split(";")]
    if name == "ang":
        values = ["".join(part + sign for part, sign in zip(first.split(";"), "°′″", strict=False) if part.strip())]
    unit: str | None = None
    if name[0] in "Sq":
        end, unit = unit_at(cleaner, cleaner.skip("o", skip_blanks(cleaner.text, end)))
    values = [f"{value} {unit}" if unit else value for value in values]
    cleaner.out.append(listed(values, " to " if is_range else ", "))
    return end


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
