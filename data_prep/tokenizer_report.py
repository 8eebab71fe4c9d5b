"""Compare tokenizers on the same LaTeX: how much a token holds, and what becomes of formulas, control words and numbers.

In: tokenizers, each a folder with tokenizer.json, a tokenizer.json, or a tiktoken vocabulary (.tiktoken); text as JSON lines or plain files.
Out: a table on stdout; with --json the same figures as JSON, with --picture a chart (.png or .svg; needs matplotlib).

The columns (COLUMNS has them in words): bytes of UTF-8 per token on all of the text, its prose, its mathematics; tokens of a formula; tokens of
each of the 500 commonest control words, standing alone; share of control words whose last letters are in one token with what follows;
tokens of a number; share of tokens that are less than a character; speed on one core.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import base64
import bisect
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.cli import EXIT_DONE, Parser, UserError, atomic_write, need_file, run
from data_prep.mathematics import math_spans
from data_prep.token_files import read_json
from data_prep.train_tokenizer import CONTROL_WORD, read_documents

NUM_CONTROL_WORDS = 500
NUM_WORSE_SHOWN = 8
SPEED_SAMPLE_BYTES = 2_000_000
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# A control word, or another escaped character, which is stepped over: letters after a line break (two backslashes) are no control word.
ESCAPED = re.compile(rf"\\(?:[^A-Za-z]|$)|{CONTROL_WORD}")
# How cl100k and o200k cut a text before merging (tiktoken's vocabularies do not say), in the syntax of `tokenizers`.
TIKTOKEN_PATTERNS = {
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
}
# key, heading, what a reader needs to know
COLUMNS = {
    "num_pieces": ("pieces", "size of the vocabulary"),
    "bytes_per_token": ("B/tok", "bytes of UTF-8 per token, all of the text"),
    "prose_bytes_per_token": ("prose", "the same outside formulas"),
    "math_bytes_per_token": ("math", "the same inside formulas"),
    "tokens_per_formula": ("tok/formula", "mean number of tokens of a formula"),
    "tokens_per_control_word": (
        "tok/control",
        "mean number of tokens of an occurrence of the 500 commonest control words",
    ),
    "whole_control_words": ("whole", "how many of these 500 are one token"),
    "glued_frac": (
        "glued",
        "share of control words whose end is inside a token (one that is the word with its argument does not count)",
    ),
    "tokens_per_number": ("tok/number", "mean number of tokens of a number"),
    "fallback_frac": ("fallback", "share of tokens that are less than a character"),
    "megabytes_per_cpu_s": ("MB/s", "megabytes encoded in a second of one core"),
}


# --- tokenizers ---


def byte_letters() -> dict[int, str]:
    """The letter that a byte-level vocabulary writes for each byte (GPT-2's table: printable Latin-1 stands for itself)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def tiktoken_tokenizer(path: Path) -> dict[str, Any]:
    """A tokenizer.json that cuts as a tiktoken vocabulary (lines of base64 and rank) does."""
    letters = byte_letters()
    ranks: dict[str, int] = {}
    for number, line in enumerate(need_file(path, "vocabulary").read_bytes().splitlines(), 1):
        try:
            piece, rank = line.split()
            ranks["".join(letters[byte] for byte in base64.b64decode(piece, validate=True))] = int(rank)
        except ValueError:
            raise UserError(f"{path}, line {number}: a piece in base64 and its rank are needed") from None
    pieces = sorted(ranks, key=ranks.__getitem__)
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in ranks and piece[cut:] in ranks
    ]
    pattern = next(pattern for name, pattern in TIKTOKEN_PATTERNS.items() if name in path.name)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": ranks, "merges": merges},
    }


def load_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` from any of the three forms, set to read a whole text as text."""
    from tokenizers import Tokenizer

    if path.suffix == ".tiktoken":
        return Tokenizer.from_str(json.dumps(tiktoken_tokenizer(path)))
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"tokenizer {path} is no folder with a tokenizer.json, no tokenizer.json and no .tiktoken vocabulary"
        )
    if "vocab" not in read_json(file, "tokenizer").get("model", {}):
        raise UserError(
            f"{file} holds no model with a vocabulary; a tokenizer.json of Hugging Face's tokenizers is needed"
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenizer_name(path: Path) -> str:
    """'runs/tokenizer/tokenizer.json' -> 'tokenizer', 'cl100k_base.tiktoken' -> 'cl100k_base'."""
    return path.resolve().parent.name if path.name == "tokenizer.json" else path.name.removesuffix(".tiktoken")


def partial_pieces(tokenizer: Any) -> set[int]:
    """The ids of pieces that are less than a character: <0xE2>, or bytes of a byte-level vocabulary that are no UTF-8."""
    bytes_of = {letter: byte for byte, letter in byte_letters().items()}
    byte_level = "ByteLevel" in tokenizer.to_str(pretty=False)[:20000] or "Ġthe" in tokenizer.get_vocab()
    partial = set()
    for piece, number in tokenizer.get_vocab(with_added_tokens=False).items():
        if not byte_level:
            if re.fullmatch("<0x[0-9A-F]{2}>", piece):
                partial.add(number)
            continue
        try:
            bytes(bytes_of[letter] for letter in piece).decode()
        except (UnicodeDecodeError, KeyError):
            partial.add(number)
    return partial


# --- the text ---


class Spans(NamedTuple):
    """Where formulas, control words and numbers stand in a text: [start, end) in characters, in order."""

    formulas: list[tuple[int, int]]
    control_words: list[tuple[int, int]]
    numbers: list[tuple[int, int]]


def find_spans(text: str) -> Spans:
    """Find them; a control word is a backslash that is not itself escaped, and letters."""
    words = [match.span() for match in ESCAPED.finditer(text) if text[match.end() - 1].isalpha()]
    return Spans(math_spans(text), words, [match.span() for match in NUMBER.finditer(text)])


def inside(spans: Sequence[tuple[int, int]], place: int) -> bool:
    """Whether a character lies in one of the spans (sorted, disjoint)."""
    number = bisect.bisect_right(spans, (place, sys.maxsize)) - 1
    return number >= 0 and place < spans[number][1]


# --- the figures ---


def tokens_over(starts: Sequence[int], ends: Sequence[int], span: tuple[int, int]) -> int:
    """How many tokens have a part in a span; `starts` and `ends` are those of all tokens, in order."""
    return bisect.bisect_left(starts, span[1]) - bisect.bisect_right(ends, span[0])


def measure_text(tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans]) -> "Counter[str]":
    """Sums over all texts: tokens and bytes, in all and in formulas; formulas, numbers, control words and what became of them."""
    sums: Counter[str] = Counter()
    partial = partial_pieces(tokenizer)
    for text, (formulas, words, numbers) in zip(texts, spans, strict=True):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        offsets = encoding.offsets
        starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
        sums["tokens"] += len(starts)
        sums["bytes"] += len(text.encode())
        sums["math_bytes"] += sum(len(text[start:end].encode()) for start, end in formulas)
        sums["math_tokens"] += sum(inside(formulas, start) for start in starts)
        sums["formulas"] += len(formulas)
        sums["formula_tokens"] += sum(tokens_over(starts, ends, span) for span in formulas)
        sums["numbers"] += len(numbers)
        sums["number_tokens"] += sum(tokens_over(starts, ends, span) for span in numbers)
        sums["partial"] += sum(number in partial for number in encoding.ids)
        sums["control_words"] += len(words)
        for start, end in words:
            over = bisect.bisect_left(starts, end) - 1  # the last token that begins before the word's end
            sums["glued"] += offsets[over][1] > end and offsets[over][0] != start
    return sums


def measure_control_words(tokenizer: Any, words: Mapping[str, int]) -> dict[str, int]:
    """The number of tokens of each control word that stands alone."""
    encodings = tokenizer.encode_batch(list(words), add_special_tokens=False)
    return {word: len(encoding.ids) for word, encoding in zip(words, encodings, strict=True)}


def measure_speed(tokenizer: Any, texts: Sequence[str]) -> float:
    """Megabytes encoded in a second of CPU time on one thread; the better of two passes."""
    sample, size = [], 0
    for text in texts:
        sample.append(text)
        size += len(text.encode())
        if size >= SPEED_SAMPLE_BYTES:
            break
    best = 0.0
    for _ in range(2):
        started_s = time.process_time()
        tokenizer.encode_batch_fast(sample, add_special_tokens=False)
        best = max(best, size / 1e6 / (time.process_time() - started_s))
    return best


def measure(tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans], words: Mapping[str, int]) -> dict[str, float]:
    """All COLUMNS of one tokenizer."""
    sums = measure_text(tokenizer, texts, spans)
    per_word = measure_control_words(tokenizer, words)
    prose_tokens = sums["tokens"] - sums["math_tokens"]
    return {
        "num_pieces": tokenizer.get_vocab_size(),
        "bytes_per_token": ratio(sums["bytes"], sums["tokens"]),
        "prose_bytes_per_token": ratio(sums["bytes"] - sums["math_bytes"], prose_tokens),
        "math_bytes_per_token": ratio(sums["math_bytes"], sums["math_tokens"]),
        "tokens_per_formula": ratio(sums["formula_tokens"], sums["formulas"]),
        "tokens_per_control_word": ratio(
            sum(per_word[word] * count for word, count in words.items()), sum(words.values())
        ),
        "whole_control_words": sum(count == 1 for count in per_word.values()),
        "glued_frac": ratio(sums["glued"], sums["control_words"]),
        "tokens_per_number": ratio(sums["number_tokens"], sums["numbers"]),
        "fallback_frac": ratio(sums["partial"], sums["tokens"]),
        "megabytes_per_cpu_s": measure_speed(tokenizer, texts),
    }


def check_model(tokenizer: Any, folder: Path, texts: Sequence[str]) -> tuple[int, int, int]:
    """Of the lines that are not blank: how many there are, how many have other ids in the folder's tokenizer.model, how many do not come back."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    encodings = tokenizer.encode_batch_fast(lines, add_special_tokens=False)
    different = sum(encoding.ids != ids for encoding, ids in zip(encodings, model.encode(lines), strict=True))
    back = tokenizer.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=False)
    return len(lines), different, sum(line != again for line, again in zip(lines, back, strict=True))


def ratio(part: float, whole: float) -> float:
    """part / whole, 0 where there is nothing to divide by."""
    return part / whole if whole else 0.0


def common_control_words(texts: Sequence[str], spans: Sequence[Spans]) -> dict[str, int]:
    """The NUM_CONTROL_WORDS commonest control words with their counts, commonest first."""
    counts: Counter[str] = Counter()
    for text, found in zip(texts, spans, strict=True):
        counts.update(text[start:end] for start, end in found.control_words)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NUM_CONTROL_WORDS])


def documents_with(texts: Sequence[str], spans: Sequence[Spans]) -> "Counter[str]":
    """In how many texts each control word stands: a word with thousands of uses in one list of authors is no common word."""
    documents: Counter[str] = Counter()
    for text, found in zip(texts, spans, strict=True):
        documents.update({text[start:end] for start, end in found.control_words})
    return documents


def worse_than_best(per_word: Mapping[str, Mapping[str, int]], name: str) -> list[str]:
    """The control words that `name` cuts into more tokens than the best of the other tokenizers does."""
    others = [counts for other, counts in per_word.items() if other != name]
    return [word for word, count in per_word[name].items() if others and count > min(counts[word] for counts in others)]


def worse_line(name: str, worse: Sequence[str], words: Mapping[str, int], documents: Mapping[str, int]) -> str:
    """What worse_than_best found, among the words with most uses and among those of two or more texts, with uses and texts of each."""
    shared = [word for word in words if documents[word] > 1]
    shared_worse = [word for word in worse if documents[word] > 1]
    examples = "".join(f" {word} ({words[word]:,} uses in {documents[word]:,})" for word in worse[:NUM_WORSE_SHOWN])
    return (
        f"{name}: more tokens than the best of the others for {len(worse)} of the {len(words)} control words with most uses, for "
        f"{len(shared_worse)} of the {len(shared)} of them that two or more texts have;{examples or ' none'}"
    )


# --- what is shown ---


def cell(key: str, value: float) -> str:
    """A figure as the table shows it."""
    if key.endswith("_frac"):
        return f"{100 * value:.2f}%"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as aligned columns, the tokenizer with most bytes per token first, then what the headings mean."""
    names = sorted(figures, key=lambda name: -figures[name]["bytes_per_token"])
    rows = [["tokenizer", *(heading for heading, _ in COLUMNS.values())]]
    rows += [[name, *(cell(key, figures[name][key]) for key in COLUMNS)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            word.ljust(width) if place == 0 else word.rjust(width)
            for place, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, "", *(f"{heading}: {meaning}" for heading, meaning in COLUMNS.values())])


def draw_picture(figures: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A bar chart of bytes per token (all, prose, mathematics) beside one of tokens per formula."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(figures, key=lambda name: figures[name]["bytes_per_token"])
    chart, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.6 + 0.55 * len(names)), width_ratios=(2, 1), sharey=True)
    bars = {
        "bytes_per_token": ("all text", "#1f4e79"),
        "prose_bytes_per_token": ("prose", "#8fb4d9"),
        "math_bytes_per_token": ("mathematics", "#e0a030"),
    }
    for place, (key, (label, colour)) in enumerate(bars.items()):
        heights = [number + 0.27 * (1 - place) for number in range(len(names))]
        drawn = left.barh(heights, [figures[name][key] for name in names], height=0.25, label=label, color=colour)
        left.bar_label(drawn, fmt="%.2f", fontsize=7, padding=2)
    left.set_yticks(range(len(names)), names)
    left.set_title("bytes per token (more is better)", fontsize=9)
    left.legend(fontsize=8, loc="lower right", framealpha=1)
    drawn = right.barh(
        range(len(names)), [figures[name]["tokens_per_formula"] for name in names], height=0.5, color="#e0a030"
    )
    right.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
    right.set_title("tokens per formula (fewer is better)", fontsize=9)
    for axes in (left, right):
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    chart.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(chart)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python data_prep/tokenizer_report.py tokenizer ../general/cl100k_base.tiktoken --text dataset_train_val/val.jsonl",
    )
    parser.add_argument(
        "tokenizers", type=Path, nargs="+", metavar="TOKENIZER", help="folder, tokenizer.json or .tiktoken vocabulary"
    )
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="JSON lines or plain text, best not trained on"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--picture", type=Path, help="write a chart here (.png or .svg)")
    options = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # speed is that of one core
    names = [tokenizer_name(path) for path in options.tokenizers]
    if len(set(names)) < len(names):
        raise UserError(
            f"two tokenizers have the same name among {', '.join(names)}; rename a folder, the table needs to tell them apart"
        )
    texts = [document.text for document in read_documents(options.text)]
    if not any(texts):
        raise UserError(f"{', '.join(map(str, options.text))}: no text to compare on")
    spans = [find_spans(text) for text in texts]
    words, documents = common_control_words(texts, spans), documents_with(texts, spans)
    figures: dict[str, dict[str, float]] = {}
    per_word: dict[str, dict[str, int]] = {}
    for name, path in zip(names, options.tokenizers, strict=True):
        tokenizer = load_tokenizer(path)
        figures[name] = measure(tokenizer, texts, spans, words)
        per_word[name] = measure_control_words(tokenizer, words)
        if (path / "tokenizer.model").exists():
            num_lines, different, lost = check_model(tokenizer, path, texts)
            print(
                f"{name}: of {num_lines:,} lines {different} have other ids by its tokenizer.model, {lost} do not come back\n"
            )
    print(table(figures))
    for name in names if len(names) > 1 else []:
        print(worse_line(name, worse_than_best(per_word, name), words, documents))
    if options.json:
        with atomic_write(options.json) as file:
            file.write(json.dumps({"figures": figures, "control_words": per_word}, indent=1) + "\n")
    if options.picture:
        draw_picture(figures, options.picture)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
