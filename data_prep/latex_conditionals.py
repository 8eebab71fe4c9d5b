"""Which branch TeX takes: \\if... \\else \\fi, the switches of etoolbox and ifthen, the tests of xparse.

In: the place of a conditional, in latex_macros.py. Out: the chosen branch, expanded. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_definitions import CSNAME, MAX_DEPTH, NO_VALUE, TRUE, Macro
from data_prep.latex_source import Source, glue, read_argument

if TYPE_CHECKING:
    from data_prep.latex_macros import Expander

COMPARISON: Final = re.compile(
    r"\s*([^<=>\\]{0,20}|\\[A-Za-z@]+)\s*([<=>])\s*(-?[0-9.]+\s*(?:pt|cm|mm|in|em|ex)?|\\[A-Za-z@]+)\s?"
)
TEST_TOKEN: Final = re.compile(r"\s*(\\(?:[A-Za-z@]+|[\s\S])|[^\s{}])")
NEGATION: Final = re.compile(r"\s*\\(?:NOT|not)(?![A-Za-z])\s*")
IFTHEN: Final = re.compile(
    r"\s*\\(?:(boolean|isundefined)\s*\{([^{}]{0,80})\}|equal\s*\{([^{}]{0,200})\}\s*\{([^{}]{0,200})\})\s*\Z"
)


def xparse_test(
    expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int
) -> int:
    """\\IfBooleanTF{#1}{yes}{no} and \\IfNoValueTF, with their one-branch forms."""
    given, end = read_argument(source, pos)
    kind = name.removeprefix("If").rstrip("TF")
    holds = {"Boolean": given == TRUE, "NoValue": given == NO_VALUE, "Value": given != NO_VALUE}.get(kind, False)
    for branch in name[2 + len(kind) :]:
        argument, end = read_argument(source, end)
        if argument is not None and holds == (branch == "T"):
            out.append(glue(out[-1] if out else "", expander.expand_quietly(argument, depth)))
    return end


def conditional(
    expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int
) -> int:
    """\\if… \\else … \\fi: the branch that TeX takes; a test that we cannot carry out counts as false."""
    if name == "ifmmode":
        out.append(source.text[start:pos])
        return pos
    middle, after, end = source.conditional_end(start)
    if end < 0:
        return pos
    if name == "iffalse":
        holds, body = False, pos
    elif name in expander.flags:
        holds, body = expander.flags[name], pos
    else:
        holds, body = test(expander, source, name, pos)
    limit = end - len("\\fi")
    if holds:
        taken = source.text[body : middle if middle >= 0 else limit]
    else:
        taken = source.text[after:limit] if middle >= 0 else ""
    if taken and depth < MAX_DEPTH:
        out.append(glue(out[-1] if out else "", expander.expand_quietly(taken.lstrip(" \t"), depth + 2)))
    return end


def switch(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\newtoggle{foo}, \\toggletrue{foo}, \\setbool{foo}{true} and their families; a boolean foo has its \\iffoo, too."""
    given, end = read_argument(source, pos)
    if given is None:
        return pos
    given, value = given.strip(), name.endswith("true")
    if name.startswith("set"):
        word, end = read_argument(source, end)
        value = word is not None and word.strip() == "true"
    if "toggle" in name:
        expander.toggles[given] = value
    else:
        if "if" + given not in expander.flags:
            expander.newif(Source("\\if" + given), name, 0, 0, [], depth)
        expander.flags["if" + given] = value
    expander.version += 1
    expander.forget()
    return end


def choice(expander: "Expander", source: Source, name: str, pos: int, start: int, out: list[str], depth: int) -> int:
    """\\iftoggle{foo}{yes}{no} and their like of etoolbox, \\ifthenelse{test}{yes}{no}: the branch that TeX takes.

    A test that we cannot carry out leaves both branches, as text that may be either.
    """
    arguments: list[str] = []
    end = pos
    for _ in range(4 if name == "ifstrequal" else 3):
        argument, end = read_argument(source, end)
        if argument is None:
            break
        arguments.append(argument)
    holds = decided(expander, name, arguments)
    if holds is None or len(arguments) < (4 if name == "ifstrequal" else 3):
        out.append(source.text[start:pos])
        return pos
    chosen = arguments[-2] if holds else arguments[-1]
    if chosen and depth < MAX_DEPTH:
        out.append(glue(out[-1] if out else "", expander.expand_quietly(chosen.strip(), depth + 2)))
    return end


def decided(expander: "Expander", name: str, arguments: list[str]) -> bool | None:
    """What the test of `choice` says, None where it cannot be told."""
    test = arguments[0].strip() if arguments else ""
    if name in ("iftoggle", "nottoggle"):
        held = expander.toggles.get(test)
    elif name in ("ifbool", "notbool"):
        held = expander.flags.get("if" + test)
    elif name in ("ifdef", "ifundef"):
        held = test[1:] in expander.active
    elif name == "@ifundefined":
        held = test not in expander.active
    elif name in ("ifblank", "ifstrempty"):
        held = not test
    elif name == "ifstrequal":
        held = len(arguments) > 1 and arguments[0] == arguments[1]
    else:
        return ifthen(expander, test)
    return not held if held is not None and name.startswith(("not", "ifundef")) else held


def ifthen(expander: "Expander", test: str) -> bool | None:
    """A test of \\ifthenelse: \\equal, \\boolean, \\isundefined, a comparison of numbers, \\NOT before one of them."""
    if negated := NEGATION.match(test):
        test = test[negated.end() :]
        held = None if NEGATION.match(test) else ifthen(expander, test)
        return None if held is None else not held
    found = IFTHEN.match(test)
    if found and found[1] == "boolean":
        return expander.flags.get("if" + found[2].strip())
    if found and found[1] == "isundefined":
        return found[2].strip()[1:] not in expander.active
    if found:
        return (
            expander.expand_quietly(found[3], MAX_DEPTH - 2).strip()
            == expander.expand_quietly(found[4], MAX_DEPTH - 2).strip()
        )
    compared = COMPARISON.fullmatch(test)
    if compared:
        return compare(expander, compared)
    return None


def test(expander: "Expander", source: Source, name: str, pos: int) -> tuple[bool, int]:
    """(what the test of conditional `name` at `pos` says, the place after it)."""
    text = source.text
    if name in ("iftrue", "ifvmode", "ifhmode", "ifinner"):
        return name == "iftrue", pos
    if name in ("ifnum", "ifdim", "ifodd", "ifcase"):
        found = COMPARISON.match(text, pos, pos + 200)
        if not found:
            return False, pos
        return bool(compare(expander, found)), found.end()
    if name == "ifcsname":
        named = CSNAME.match(text, pos)
        return (named[1] in expander.active, named.end()) if named else (False, pos)
    first = TEST_TOKEN.match(text, pos)
    if first is None:
        return False, pos
    if name == "ifdefined":
        return first[1][1:] in expander.active, first.end()
    if name not in ("ifx", "if", "ifcat"):
        return False, first.end()
    second = TEST_TOKEN.match(text, first.end())
    if second is None:
        return False, first.end()
    return same(expander, first[1], second[1]), second.end()


def compare(expander: "Expander", found: re.Match[str]) -> bool | None:
    """What COMPARISON found, if both sides are numbers."""
    left, right = number(expander, found[1].strip()), number(expander, found[3])
    if left is None or right is None:
        return None
    return {"<": left < right, "=": left == right, ">": left > right}[found[2]]


def same(expander: "Expander", left: str, right: str) -> bool:
    """Whether \\ifx would find two tokens to mean the same; a name that nobody defined means \\undefined."""
    names = {left.lstrip("\\"), right.lstrip("\\")}
    if names & {"undefined", "undefinded", "@undefined", "relax"}:
        other = next(iter(names - {"undefined", "undefinded", "@undefined", "relax"}), "")
        return bool(other) and other not in expander.active and not other.startswith("pdf")
    return left == right or (
        left[1:] in expander.active and expander.active.get(left[1:]) == expander.active.get(right[1:])
    )


def number(expander: "Expander", token: str) -> float | None:
    """The number that a token of \\ifnum stands for, if it can be told."""
    action = expander.active.get(token[1:]) if token.startswith("\\") else None
    digits = action.body if isinstance(action, Macro) and not action.spec else token
    try:
        return float(digits.strip().rstrip("ptcmnixe "))
    except ValueError:
        return None
