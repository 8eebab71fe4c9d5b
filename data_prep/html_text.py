"""HTML of a question-and-answer site as plain text, with its LaTeX kept.

In: an HTML fragment as StackExchange stores a post. Out: paragraphs with blank lines between; code in backquotes or fences, lists with
their marks, quotations behind "> "; formulas ($...$, $$...$$, \\(...\\), environments) exactly as their author typed them.

    >>> plain_text("<p>If $a &lt; b$, then</p><ul><li>$a+c &lt; b+c$.</li></ul>")
    'If $a < b$, then\\n\\n- $a+c < b+c$.'
"""

import re
from html.parser import HTMLParser

# Elements that stand on lines of their own. What is not named here (em, strong, a, span, kbd, ...) leaves its text.
BLOCKS = set(
    "p div blockquote ul ol li pre h1 h2 h3 h4 h5 h6 table tr dl dt dd hr section article aside details summary".split()
)
CELLS = {"td": " | ", "th": " | "}
RAISED = {"sup": ("^{", "}"), "sub": ("_{", "}")}  # outside of formulas people write x<sup>2</sup>
HIDDEN = {"script", "style", "head", "template"}
FENCE = "```"
MAX_DEPTH = 8  # of marks for quotations and lists: nobody reads deeper, and the text stays linear in the HTML
SPACES = re.compile(r"[ \t\r\f\v\xa0]+")


class PlainText(HTMLParser):
    """Collects blocks of text while it is fed; `result` joins them. Unclosed and misnested elements do no harm."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, bool]] = []  # a block, and whether it follows the one before without a blank line
        self.pieces: list[str] = []  # of the block that is growing
        self.lists: list[int | None] = []  # the numbers that open lists have reached, None for unnumbered ones
        self.mark = ""  # "- " or "2. ", for the next block
        self.num_quotes = self.num_hidden = 0
        self.in_pre = self.tight = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HIDDEN:
            self.num_hidden += 1
        elif tag in BLOCKS:
            self.end_block()
            self.open_block(tag)
        elif tag == "br":
            self.pieces.append("\n")
        elif tag == "code" and not self.in_pre:
            self.pieces.append("`")
        elif tag in RAISED:
            self.pieces.append(RAISED[tag][0])
        elif tag in CELLS and any(piece.strip() for piece in self.pieces):
            self.pieces.append(CELLS[tag])

    def open_block(self, tag: str) -> None:
        """What a block's start means for the text that follows."""
        if tag == "pre":
            self.in_pre = True
        elif tag == "blockquote":
            self.num_quotes += 1
        elif tag in ("ul", "ol"):
            self.lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            number = self.lists[-1] + 1 if self.lists and self.lists[-1] is not None else None
            if number is not None:
                self.lists[-1] = number
            self.mark = "  " * (min(len(self.lists), MAX_DEPTH) - 1) + ("- " if number is None else f"{number}. ")
        self.tight = tag == "tr" or (tag == "li" and self.in_list())

    def in_list(self) -> bool:
        """Whether the last block is an item, too, so that the next one follows closely."""
        return bool(self.blocks) and re.match(r"(?:> )*\s*(?:- |\d+\. )", self.blocks[-1][0]) is not None

    def handle_endtag(self, tag: str) -> None:
        if tag in HIDDEN:
            self.num_hidden = max(self.num_hidden - 1, 0)
        elif tag in BLOCKS:
            self.end_block()
            if tag == "pre":
                self.in_pre = False
            elif tag == "blockquote":
                self.num_quotes = max(self.num_quotes - 1, 0)
            elif tag in ("ul", "ol") and self.lists:
                self.lists.pop()
        elif tag == "code" and not self.in_pre:
            self.pieces.append("`")
        elif tag in RAISED:
            self.pieces.append(RAISED[tag][1])

    def handle_data(self, data: str) -> None:
        if not self.num_hidden:
            self.pieces.append(data if self.in_pre else SPACES.sub(" ", data))

    def end_block(self) -> None:
        """Close the block that is growing, if there is anything in it."""
        text = "".join(self.pieces)
        self.pieces = []
        if self.in_pre:
            text = text.strip("\n")
            text = f"{FENCE}\n{text}\n{FENCE}" if text else ""
        else:
            text = "\n".join(line.strip() for line in text.split("\n")).strip()
        if not text:
            return
        text, self.mark = self.mark + text, ""
        if self.num_quotes:
            text = "\n".join(("> " * min(self.num_quotes, MAX_DEPTH) + line).rstrip() for line in text.split("\n"))
        self.blocks.append((text, self.tight))
        self.tight = False

    def result(self) -> str:
        """All that was fed, as text."""
        self.close()
        self.end_block()
        return "".join(("\n" if tight else "\n\n") + text for text, tight in self.blocks).strip("\n")


def plain_text(html: str) -> str:
    """An HTML fragment as plain text; any string is accepted."""
    parser = PlainText()
    parser.feed(html)
    return parser.result()
