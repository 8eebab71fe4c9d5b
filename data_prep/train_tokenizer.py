"""Train a tokenizer for scientific LaTeX: SentencePiece pieces, in a folder that every common loader reads the same way.

In: train.jsonl (or any JSON lines with a text, or plain .tex and .txt files).
Out: a folder with tokenizer.model (sentencepiece, llama.cpp's converter), tokenizer.json and tokenizer_config.json (AutoTokenizer,
vLLM), chat template included.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import io
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_prep.cli import EXIT_DONE, Parser, UserError, atomic_write, duration, run
from data_prep.records import read_jsonl, training_text
from data_prep.token_files import check_tokenizer_fits, read_json, tokenizer_facts, tokenizer_fingerprint

__all__ = ["check_tokenizer_fits", "tokenizer_fingerprint", "train"]

# The first ids, the same in every vocabulary of ours, so that post-training never needs another row in the embedding.
NUM_RESERVED = 24
SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *(f"<|reserved_{number}|>" for number in range(NUM_RESERVED)),
)
UNK, BOS, EOS, PAD = SPECIAL_TOKENS[:4]
NUM_BYTES = 256  # byte fallback: one piece a byte, for all that no piece holds

# SentencePiece writes a space as U+2581 and would give a true U+2581 back as a space. So that all text comes back, U+2581 is
# written as U+E000 1, and U+E000 (private use, hardly ever seen) as U+E000 2, before the pieces; decoding undoes it.
SPACE, ESCAPE = "\u2581", "\ue000"
ESCAPES = {SPACE: ESCAPE + "1", ESCAPE: ESCAPE + "2"}

# Roles as ChatML writes them; `generation` marks what the assistant said, for losses on answers alone.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONTROL_WORD = re.compile(r"\\[A-Za-z]+")
CHUNK = re.compile(r"\\[A-Za-z]+|\n+| ?[^\W\d_]+| ?\d| ?[^\w\s]+|\s|_")
MIN_SYMBOL_COUNT = 20
MAX_SYMBOL_FRAC = 0.03  # of the vocabulary


def training_texts(paths: Sequence[Path]) -> Iterator[str]:
    """The texts of JSON-lines files and plain files, streaming."""
    for path in paths:
        if path.suffix == ".jsonl":
            yield from (training_text(record) for record in read_jsonl(path))
        else:
            yield path.read_text(encoding="utf-8")


def count_chunks(texts: Iterable[str]) -> "Counter[str]":
    """How often each chunk (CHUNK) stands in the texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(CHUNK.findall(text))
    return counts


def choose_symbols(counts: Mapping[str, int], limit: int) -> list[str]:
    """The control words that become whole pieces: the commonest first."""
    words = [
        (count, word) for word, count in counts.items() if count >= MIN_SYMBOL_COUNT and CONTROL_WORD.fullmatch(word)
    ]
    return [word for _, word in sorted(words, key=lambda pair: (-pair[0], pair[1]))[:limit]]


def train_model(counts: Mapping[str, int], vocab_size: int, symbols: Sequence[str], model_type: str) -> bytes:
    """Train SentencePiece on chunks with their counts; return the bytes of tokenizer.model."""
    import sentencepiece

    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = [Path(folder) / name for name in ("escape.tsv", "unescape.tsv")]
        pairs = [
            (" ".join(f"{ord(c):X}" for c in key), " ".join(f"{ord(c):X}" for c in value))
            for key, value in ESCAPES.items()
        ]
        rules[0].write_text("".join(f"{plain}\t{escaped}\n" for plain, escaped in pairs))
        rules[1].write_text("".join(f"{escaped}\t{plain}\n" for plain, escaped in pairs))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{chunk}\t{count}" for chunk, count in counts.items()),
            input_format="tsv",
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=True,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            normalization_rule_tsv=str(rules[0]),
            denormalization_rule_tsv=str(rules[1]),
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            character_coverage=0.99995,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            control_symbols=list(SPECIAL_TOKENS[4:]),
            user_defined_symbols=list(symbols),
            minloglevel=2,
        )
    return model.getvalue()


def fast_tokenizer(model: bytes, model_type: str) -> dict[str, Any]:
    """The content of tokenizer.json that gives the same ids as a SentencePiece model."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {pieces.id_to_piece(number): number for number in range(pieces.vocab_size())}
    first = len(SPECIAL_TOKENS)
    normal = {piece for piece, number in vocab.items() if number >= first and not pieces.is_byte(number)}
    symbols = [
        piece
        for piece, number in vocab.items()
        if number >= first and pieces.get_score(number) == 0.0 and not pieces.is_byte(number) and len(piece) > 1
    ]
    added = [(number, piece, True) for number, piece in enumerate(SPECIAL_TOKENS)] + [
        (vocab[piece], piece, False) for piece in symbols
    ]
    normal -= set(symbols)
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in sorted(normal, key=lambda piece: vocab[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    escape = [
        {"type": "Replace", "pattern": {"String": plain}, "content": text}
        for plain, text in (*reversed(ESCAPES.items()), (" ", SPACE))
    ]
    unescape = [{"type": "Replace", "pattern": {"String": text}, "content": plain} for plain, text in ESCAPES.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for number, piece, special in sorted(added)
        ],
        "normalizer": {"type": "Sequence", "normalizers": escape},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": BOS, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": BOS, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {BOS: {"id": BOS, "ids": [1], "tokens": [BOS]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *unescape,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNK,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def write_folder(folder: Path, model: bytes, model_type: str) -> None:
    """Write the tokenizer's folder."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "additional_special_tokens": list(SPECIAL_TOKENS[4:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    with atomic_write(folder / "tokenizer.model", "wb") as file:
        file.write(model)
    for name, content in (("tokenizer_config.json", config), ("tokenizer.json", fast_tokenizer(model, model_type))):
        with atomic_write(folder / name) as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def update_config(path: Path, folder: Path, rows: int) -> None:
    """Write vocab_size and the ids of BOS, EOS and PAD into a model's config.json, whose other keys stay as they are."""
    config, facts = read_json(path, "model's config"), tokenizer_facts(folder)
    config |= {
        "vocab_size": rows,
        "bos_token_id": facts.bos_id,
        "eos_token_id": facts.eos_id,
        "pad_token_id": facts.pad_id,
    }
    with atomic_write(path) as file:
        file.write(json.dumps(config, indent=2) + "\n")


def train(inputs: Sequence[Path], folder: Path, vocab_size: int, model_type: str = "bpe") -> None:
    """Train a tokenizer of `vocab_size` pieces on the texts of `inputs` and write its folder."""
    counts = count_chunks(training_texts(inputs))
    symbols = choose_symbols(counts, int(MAX_SYMBOL_FRAC * vocab_size))
    for symbol in symbols:
        del counts[symbol]
    symbols = ["\n", "\n\n", "\t", *symbols]
    model = train_model(
        {chunk: count for chunk, count in counts.items() if not chunk.isspace()}, vocab_size, symbols, model_type
    )
    write_folder(folder, model, model_type)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python data_prep/train_tokenizer.py --input dataset_train_val/train.jsonl --vocab-size 102400 --out tokenizer",
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        default=[Path("dataset_train_val/train.jsonl")],
        help="JSON lines or plain text files",
    )
    parser.add_argument("--vocab-size", type=int, default=102_400, help="number of pieces (default: %(default)s)")
    parser.add_argument(
        "--pad-to", type=int, help="rows of the embedding, at least --vocab-size (default: --vocab-size)"
    )
    parser.add_argument(
        "--model-type", choices=("bpe", "unigram"), default="bpe", help="kind of pieces (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("tokenizer"), help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--update-config",
        type=Path,
        metavar="CONFIG",
        help="a model's config.json that gets vocab_size and special ids",
    )
    options = parser.parse_args(argv)
    rows = options.pad_to or options.vocab_size
    if rows < options.vocab_size:
        raise UserError(
            f"--pad-to {rows} is below --vocab-size {options.vocab_size}; the embedding needs a row for each piece"
        )
    started_s = time.monotonic()
    train(options.input, options.out, options.vocab_size, options.model_type)
    if options.update_config:
        update_config(options.update_config, options.out, rows)
    facts = tokenizer_facts(options.out)
    print(
        f"{options.out}: {facts.num_ids:,} pieces, fingerprint {facts.fingerprint[:12]}, {duration(time.monotonic() - started_s)}"
    )
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
