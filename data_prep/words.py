"""Words of a text as 64-bit hashes, several times faster than Python strings: what deduplication compares.

In: a text. Out: one hash for each word, one for each run of words, and a table to look hashes up in.

Words are runs of letters and digits, case-folded, without LaTeX's layout commands: `Let $x \\in \\mathbf{R}$.` has the words
`let x in r`. So neither punctuation nor layout tells two texts apart.
"""

import functools
import unicodedata
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Commands that say how a paper looks, not what it says: two layouts of one paper differ in them. The name after \begin and
# \end goes with them.
LAYOUT_COMMANDS = (
    "begin end part chapter section subsection subsubsection paragraph subparagraph item label ref eqref par noindent indent "
    "emph textbf textit textrm textsf texttt textsc textsl textup textnormal text mathrm mathbf mathit mathsf bf it rm em sl sc "
    "tt sf left right middle big bigl bigr bigg biggl biggr quad qquad displaystyle textstyle scriptstyle limits nolimits "
    "centering footnote hspace vspace hfill vfill newpage clearpage pagebreak linebreak newline nonumber notag tiny "
    "footnotesize small normalsize large huge"
)

BLOCK_BYTES = 1 << 17  # a text is hashed in blocks, cut at white space: memory stays flat, tables small
BASE = 0x9E3779B97F4A7C15  # of the polynomial hashes, modulo 2**64; odd, so that it has an inverse
SHIFT, FACTOR_1, FACTOR_2 = np.uint64(32), np.uint64(0xD6E8FEB86659FD93), np.uint64(0xFF51AFD7ED558CCD)


def powers(base: int, count: int) -> Hashes:
    """base**0 .. base**(count-1) modulo 2**64, uint64 [count]."""
    return np.cumprod(np.array([1] + [base] * (count - 1), dtype=np.uint64), dtype=np.uint64)


POWERS, INVERSE_POWERS = powers(BASE, BLOCK_BYTES + 4), powers(pow(BASE, -1, 1 << 64), BLOCK_BYTES + 4)


def mixed(values: Hashes) -> Hashes:
    """The values with all bits depending on all bits: a bijection of uint64."""
    values = values ^ (values >> SHIFT)
    values *= FACTOR_1
    values ^= values >> SHIFT
    values *= FACTOR_2
    values ^= values >> SHIFT
    return values


def byte_weights() -> Hashes:
    """uint64 [256]: 0 for a byte that separates words, else a fixed random number, the same for `a` and `A`."""
    weights = mixed(np.arange(1, 257, dtype=np.uint64) * np.uint64(BASE))
    weights[[byte for byte in range(128) if not chr(byte).isalnum()]] = 0
    weights[ord("A") : ord("Z") + 1] = weights[ord("a") : ord("z") + 1]
    return weights


WEIGHTS = byte_weights()


def folded_bytes(text: str) -> bytes:
    """UTF-8 of the text; if it is not ASCII, in compatibility form and case-folded (`𝑥` and `X` become `x`, `ﬁ` `fi`)."""
    if text.isascii():
        return text.encode()
    return unicodedata.normalize("NFKC", text).casefold().encode("utf-8", "surrogatepass")


def blocks(data: bytes) -> Iterator[bytes]:
    """The data in pieces of at most BLOCK_BYTES, cut after white space where there is some; a space stands at both ends."""
    start = 0
    while start < len(data):
        end = min(start + BLOCK_BYTES, len(data))
        if end < len(data):
            cut = max(data.rfind(b" ", start, end), data.rfind(b"\n", start, end)) + 1
            end = cut if cut > start else end
            while data[end] & 0xC0 == 0x80:
                end -= 1  # not within a character
        yield b" " + data[start:end] + b" "
        start = end


def separate_symbols(codes: NDArray[np.uint8], weights: Hashes) -> None:
    """Give weight 0, in place, to non-ASCII punctuation and symbols: U+0080-00BF and U+2000-2BFF, by their UTF-8 bytes."""
    of_two = np.flatnonzero(codes == 0xC2)
    of_three = np.flatnonzero(codes == 0xE2)
    of_three = of_three[codes[of_three + 1] < 0xB0]
    for place in (of_two, of_two + 1, of_three, of_three + 1, of_three + 2):
        weights[place] = 0


def block_words(block: bytes) -> tuple[NDArray[np.intp], NDArray[np.intp], Hashes]:
    """Start, end and hash of each word of a block that begins and ends with a space; layout commands left out."""
    codes = np.frombuffer(block, np.uint8)
    weights = np.take(WEIGHTS, codes)
    if not block.isascii():
        separate_symbols(codes, weights)
    inside = weights != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    weights *= POWERS[: len(weights)]
    sums = np.cumsum(weights)
    hashes = (sums[ends - 1] - sums[starts - 1]) * INVERSE_POWERS[starts]
    layout = layout_words(codes, starts, ends, hashes)
    return (starts, ends, hashes) if layout is None else (starts[~layout], ends[~layout], hashes[~layout])


def layout_words(
    codes: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp], hashes: Hashes
) -> NDArray[np.bool_] | None:
    """True for words that are layout commands, or the name in \\begin{name}, \\end{name}; None where there are none."""
    commands = np.flatnonzero(codes[starts - 1] == ord("\\"))
    if not len(commands):
        return None
    layout, begin_end = layout_tables()
    found = np.zeros(len(starts), np.bool_)
    found[commands[layout.find(hashes[commands])[0]]] = True
    names = commands[begin_end.find(hashes[commands])[0]] + 1
    names = names[names < len(starts)]
    names = names[(starts[names] == ends[names - 1] + 1) & (codes[ends[names - 1]] == ord("{"))]
    found[names] = True
    return found


@functools.cache
def layout_tables() -> "tuple[HashTable, HashTable]":
    """The hashes of all LAYOUT_COMMANDS, and of the two that are followed by an environment's name."""

    def table(names: str) -> HashTable:
        return HashTable(np.sort(block_words(f" {names} ".encode())[2]))

    return table(LAYOUT_COMMANDS), table("begin end")


def word_hashes(text: str) -> Hashes:
    """One 64-bit hash for each word of the text, uint64 [num_words]: equal words, equal hashes, on any machine.

    A polynomial in the word's bytes modulo 2**64. `np.cumsum` gives it for all words in a few passes over the bytes,
    which is several times faster than splitting the text into Python strings.
    """
    parts = [block_words(block)[2] for block in blocks(folded_bytes(text))]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def normalised_text(text: str) -> str:
    """The words of a text with one space between: what decides whether two texts are exact duplicates.

    'Let $x \\in \\mathbf{R}$.' -> 'let x in r'; '\\begin{proof} Ok' -> 'ok'.
    """
    words = [
        block[start:end]
        for block in blocks(folded_bytes(text))
        for start, end in zip(*(ends.tolist() for ends in block_words(block)[:2]), strict=True)
    ]
    return b" ".join(words).lower().decode("utf-8", "surrogatepass")


def ngram_hashes(words: Hashes, length: int) -> Hashes:
    """A hash of each run of `length` words, uint64 [max(num_words - length + 1, 0)], in the order of the text."""
    count = len(words) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    total = words[length - 1 :].copy()
    for offset in range(length - 2, -1, -1):
        total *= np.uint64(BASE)
        total += words[offset : offset + count]
    return mixed(total)


def sorted_set(hashes: Hashes) -> Hashes:
    """The different hashes, sorted; several times faster on millions than `np.unique`."""
    ordered = np.sort(hashes)
    first: NDArray[np.bool_] = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return np.asarray(ordered[first])


class HashTable:
    """Sorted hashes, and which of many others are among them: a table of bits answers "no" before a search is made."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        num_bits = max(8 * len(hashes), 8).bit_length()
        self.shift = np.uint64(64 - num_bits)
        self.maybe = np.zeros(1 << num_bits, np.bool_)
        self.maybe[hashes >> self.shift] = True

    def find(self, values: Hashes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions of the values that are in the table, and where in `hashes` each stands first."""
        where = np.flatnonzero(self.maybe[values >> self.shift])
        at = np.searchsorted(self.hashes, values[where])
        hit = self.hashes[np.minimum(at, len(self.hashes) - 1)] == values[where] if len(self.hashes) else at < 0
        return where[hit], at[hit]
