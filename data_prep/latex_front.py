"""Front matter and lists of references by command, as classes and formats without environments have them.

In: the place of a command, in latex_prose.py. Out: title and abstract, and the place behind. Nothing here raises on any input.
"""

import re
from typing import TYPE_CHECKING, Final

from data_prep.latex_source import MAX_NESTING, skip_blanks

if TYPE_CHECKING:
    from data_prep.latex_prose import Cleaner

FRONT_CHARS: Final = 2_000  # of what AMS-TeX closes by \\end…
ABSTRACT_PARTS: Final = 6  # context, aims, methods, results, conclusions, and what stands before them in other classes
MAX_TWO_COLUMNS: Final = 3  # a paper begins them once
TWO_COLUMN_CHARS: Final = 50_000  # that may stand above both columns: authors, abstract
BIBITEM_CHARS: Final = 2_000
NEXT_PART: Final = re.compile(r"[ \t]*\n?[ \t]*\{")
BRACKET: Final = re.compile(r"\\[\s\S]|[\[\]{]")
BEHIND_BIBITEM: Final = re.compile(
    r"\n[ \t]*\n|\\bibitem(?![A-Za-z])|\\(?:end|begin)\{|\\(?:section|appendix|par|bye|endthebibliography)(?![A-Za-z])"
)


def front(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\author … \\endauthor of AMS-TeX goes, as \\author{…} does."""
    if cleaner.next_char(pos) not in ("{", "[", "*"):
        end = cleaner.text.find("\\end" + name, pos, pos + FRONT_CHARS)
        if end >= 0:
            cleaner.note("command", start, end, name)
            return end
    return cleaner.dropped(name, start, pos)


def title_(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\title{…} goes to `title`."""
    after = cleaner.skip("*o", pos)
    closing = cleaner.text.find("\\end" + name, after, after + 2000)
    if cleaner.next_char(after) != "{":
        if closing >= 0 and cleaner.nesting < MAX_NESTING and not cleaner.title:
            cleaner.nesting += 1
            cleaner.title = " ".join(cleaner.prose(after, closing).split())
            cleaner.nesting -= 1
            return closing + len("\\end" + name)
        return pos
    found = cleaner.group(after)
    if found is None:
        return after
    cleaner.note("title", start, found[1])
    cleaner.title = cleaner.title or " ".join(found[0].split())
    return found[1]


def abstract_(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\abstract{…} becomes the environment; \\abstract … \\endabstract too."""
    found = cleaner.group(pos) if cleaner.next_char(pos) == "{" else None
    if found is None:
        return pos
    parts: list[str] = []
    while found is not None:
        parts.append(found[0].strip())
        pos = found[1]
        brace = NEXT_PART.match(cleaner.text, pos) if len(parts) < ABSTRACT_PARTS else None
        found = cleaner.group(brace.end() - 1) if brace else None
    if any(parts):
        cleaner.out.append("\\begin{abstract}\n" + "\n".join(filter(None, parts)) + "\n\\end{abstract}")
    return pos


def twocolumn(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """\\twocolumn[what stands above both columns]: often the abstract."""
    place = skip_blanks(cleaner.text, pos)
    cleaner.num_unwrapped_columns += 1
    if cleaner.text[place : place + 1] != "[" or cleaner.num_unwrapped_columns > MAX_TWO_COLUMNS:
        return pos
    depth, end = 1, place + 1
    limit = min(cleaner.limit, place + TWO_COLUMN_CHARS)
    while depth and (found := BRACKET.search(cleaner.text, end, limit)):
        end = found.end()
        if found[0] == "{":
            end = max(end, cleaner.source.group_end(found.start()))
        elif found[0] in ("[", "]"):
            depth += 1 if found[0] == "[" else -1
    if depth or end > limit or cleaner.nesting >= MAX_NESTING:
        return pos
    cleaner.nesting += 1
    cleaner.out.append(f"\n\n{cleaner.prose(place + 1, end - 1).strip()}\n\n")
    cleaner.nesting -= 1
    return end


def bibitem(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """An entry of a list of references outside its environment goes, as far as the next or a blank line."""
    found = BEHIND_BIBITEM.search(cleaner.text, pos, min(cleaner.limit, pos + BIBITEM_CHARS))
    end = found.start() if found else min(cleaner.limit, pos + BIBITEM_CHARS)
    cleaner.note("references", start, end)
    return end


def refs_list(cleaner: "Cleaner", name: str, start: int, pos: int) -> int:
    """AMS-TeX's \\Refs … \\endRefs."""
    end = cleaner.text.find("\\endRefs", pos)
    end = len(cleaner.text) if end < 0 else end + len("\\endRefs")
    cleaner.note("references", start, end)
    return end
