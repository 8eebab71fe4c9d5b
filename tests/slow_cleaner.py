"""The cleaner's rules once more, for a small LaTeX, written to be obvious instead of fast.

In: a source made of the words, commands and environments that tests/test_latex_cleaner.py puts together, all of them closed.
Out: what clean_latex must say. Works by rewriting the whole text, again and again, and by reading character by character.
"""

import re
import unicodedata

MACROS = {"\\zero": "\\alpha"}  # and \mac{x}, which is <x>
SIGNS = {"---": "—", "\\%": "\\%", "\\$": "\\$", "\\&": "&", "\\ ": " ", "~": " ", "``": "“", "''": "”", "--": "–"}
GONE_WITH_ARGUMENT = ("\\label", "\\index", "\\cite")
GONE_ENVIRONMENTS = ("figure", "tabular")


def slow_clean(source: str) -> str:
    """The cleaned text of a source."""
    text = without_comments(source)
    text = re.sub(r"\\newcommand\{.*?\}(\[1\])?\{.*?\}(?=\\newcommand|\n)", "", text)
    text = without_hidden(text)
    text = expanded(text)
    return folded(prose(text))


def without_comments(text: str) -> str:
    """Line by line: a line that is a comment goes, and a comment at a line's end takes the line's end with it."""
    out = ""
    joined = False  # the line before ended in a comment
    for line in text.split("\n"):
        place = re.search(r"(?<!\\)(?:\\\\)*%", line)
        if joined:
            line = line.lstrip(" ")
            place = re.search(r"(?<!\\)(?:\\\\)*%", line)
            if not line:
                out += "\n"
        if place and not line[: place.end() - 1].strip() and not joined:
            continue
        out += line[: place.end() - 1] if place else line + "\n"
        joined = bool(place)
    return out.removesuffix("\n")


def without_hidden(text: str) -> str:
    """The innermost \\iffalse … \\fi goes, until there is none."""
    while found := re.search(r"\\iffalse(?![A-Za-z])((?!\\iffalse(?![A-Za-z])).)*?\\fi(?![A-Za-z])", text, re.S):
        text = text[: found.start()] + text[found.end() :]
    return text


def expanded(text: str) -> str:
    """Every macro replaced, outermost first, until there is none."""
    while (start := text.find("\\mac{")) >= 0:
        end = closing(text, start + 4)
        text = text[:start] + "<" + text[start + 5 : end] + ">" + text[end + 1 :]
    for name, body in MACROS.items():
        text = re.sub(re.escape(name) + r"[ \t]*", lambda _, body=body: body, text)
    return text


def closing(text: str, start: int) -> int:
    """The place of the brace that closes the one at `start`."""
    depth, place = 0, start
    while True:
        if text[place] == "\\":
            place += 1
        elif text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
        place += 1


def prose(text: str, out: str = "") -> str:
    """`out` and the prose, read from left to right."""
    place = 0
    while place < len(text):
        rest = text[place:]
        if rest[0] in "{}":
            place = past_line_end(out, text, place + 1) if rest[0] == "}" else place + 1
        elif rest[0] == "$":
            end = place + 1 + re.search(r"(?<!\\)\$", rest[1:]).start()  # type: ignore[union-attr]
            formula = re.sub(r"\\label\{.*?\}", "", text[place : end + 1])
            out, place = out + formula, end + 1
        elif sign := next((sign for sign in SIGNS if rest.startswith(sign)), None):
            out, place = out + SIGNS[sign], place + len(sign)
        elif rest[0] == "`":
            out, place = out + "'", place + 1
        elif accent := re.match(r"\\(['\"])\{?(\w)\}?", rest):
            mark = {"'": "\u0301", '"': "\u0308"}[accent[1]]
            out, place = out + unicodedata.normalize("NFC", accent[2] + mark), place + accent.end()
        elif environment := re.match(r"\\begin\{(\w+)\}", rest):
            out, length = whole(environment[1], rest, out)
            place += length
        elif command := re.match(r"\\[a-z]+", rest):
            out, place = one_command(command[0], text, place, out)
        else:
            out, place = out + rest[0], place + 1
    return out


def whole(name: str, rest: str, out: str) -> tuple[str, int]:
    """(`out` and the cleaned environment that `rest` begins with, its length)."""
    depth = 0
    for tag in re.finditer(rf"\\(begin|end)\{{{name}\}}", rest):
        depth += 1 if tag[1] == "begin" else -1
        if depth == 0 or name == "equation":  # an equation ends at its first \end
            if depth and tag[1] == "begin":
                continue
            inner, end = rest[len(name) + 8 : tag.start()], tag.end()
            if name in GONE_ENVIRONMENTS:
                return out, end
            if name == "center":
                return prose(inner, out), end
            opening = f"\\begin{{{name}}}"
            kept = prose(inner, out + opening)
            if name != "theorem" and not kept[len(out + opening) :].strip():  # tags round nothing go
                return out, end
            return f"{kept}\\end{{{name}}}", end
    raise AssertionError(f"{name} does not end")


def one_command(name: str, text: str, place: int, out: str) -> tuple[str, int]:
    """(what was written so far with this command's text, the place after it)."""
    start = place + len(name)
    if text[start : start + 1] != "{":
        return out, start
    end = closing(text, start)
    inner = text[start + 1 : end]
    if name == "\\footnote":
        note = prose(inner).strip()
        return trimmed(out) + (f" ({note})" if note else ""), end + 1
    if name == "\\section":
        return out + f"\\section{{{prose(inner).strip()}}}", end + 1
    if name == "\\ref":
        return out + "*", end + 1
    if name in GONE_WITH_ARGUMENT:
        following = text[end + 1 : end + 2]
        if following and following in ",.;:)":
            return trimmed(out), end + 1
        return out, past_line_end(out, text, end + 1)
    out = prose(inner, out)
    return out, past_line_end(out, text, end + 1)


def past_line_end(out: str, text: str, place: int) -> int:
    """Behind the line end, where the line is empty so far: what went had it to itself."""
    line_end = re.compile(r"[ \t]*\n(?![ \t]*\n)").match(text, place)
    return line_end.end() if line_end and re.search(r"\n[ \t]*\Z", out) else place


def trimmed(text: str) -> str:
    """Without the blanks at its end, unless a paragraph ends there."""
    bare = text.rstrip(" \n")
    return bare if "\n\n" not in text[len(bare) :] else text


def folded(text: str) -> str:
    """Blanks and blank lines folded."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
