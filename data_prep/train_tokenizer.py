"""Train a tokenizer for scientific LaTeX: SentencePiece pieces, in a folder that every common loader reads the same way.

In: train.jsonl as prepare_dataset.py writes it (or other JSON lines with a `text`, or plain .tex and .txt files).
Out: a folder with tokenizer.model (for sentencepiece and llama.cpp's converter) and tokenizer.json, tokenizer_config.json (for
AutoTokenizer and vLLM, with a ChatML template). Both give the same ids, and decode(encode(text)) == text for every text.

How a text is cut, in this order:
1. Control words (\\frac, \\begin{theorem}, \\mathbb{R}), chosen by how many documents of the corpus have them, are pieces of their own.
   No piece reaches over their end.
2. Between them, pieces are merged within chunks (CHUNKS): digits stay single; punctuation goes with punctuation, with one letter after it
   (_{n, = x), with a space before a control word or digit, or with a line's end; a letter is never merged with what follows in a formula.
   `--pieces phrases` lets words of prose join ("if and only if"), `words` does not.
3. What no piece covers becomes bytes.

Documents are drawn evenly by first category and year until --max-bytes; the draw depends on ids and --seed alone.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import hashlib
import io
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.cli import EXIT_DONE, Parser, Progress, UserError, atomic_write, duration, need_file, run
from data_prep.records import read_jsonl
from data_prep.token_files import (
    check_tokenizer_fits,
    checked_text,
    read_json,
    tokenizer_facts,
    tokenizer_fingerprint,
)

__all__ = ["check_tokenizer_fits", "tokenizer_fingerprint", "train"]

# The first ids, the same in every vocabulary of ours, so that post-training never needs another row in the embedding.
NUM_RESERVED = 24
SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *(f"<|reserved_{number}|>" for number in range(NUM_RESERVED)),
)
UNK, BOS, EOS, PAD = SPECIAL_TOKENS[:4]
BOS_ID = 1
NUM_BYTES = 256  # byte fallback: a piece for each byte
ALWAYS_PIECES = "".join(map(chr, range(0x21, 0x7F)))  # ASCII, however small the corpus

# SentencePiece writes a space as U+2581 and would give a true U+2581 back as a space. So that every text comes back, U+2581 is
# written as U+E000 1 before it is cut, and U+E000 (private use, hardly ever seen) as U+E000 2; decoding undoes it.
SPACE, ESCAPE = "\u2581", "\ue000"
ESCAPES = {ESCAPE: ESCAPE + "2", SPACE: ESCAPE + "1"}
# SentencePiece learns no piece that ends in a space, though it reads such pieces. So a chunk's last space is trained as U+E001, and then
# written as a space. The piece that is U+E001 alone becomes the tab, which SentencePiece's table of chunks cannot hold.
LAST_SPACE, TAB = "\ue001", "\t"
UNTRAINED = re.compile(f"[\0{TAB}{LAST_SPACE}]")  # a chunk with one of these is not trained on

# Chunks, within which pieces are merged. A control word stands with its argument if that is one word: {theorem}, {align*}, {R}.
CONTROL_WORD = r"\\[A-Za-z]+"
WORD = r"[^\W\d_]+"
MARK = r"(?:\\[^A-Za-z\s\d]|[^\w\s\\]|_)"  # a control symbol (\, \\ \{) or a punctuation mark
BEFORE_WORD = (
    r"(?: |[^\w\s\\]|_)?"  # the one character that a word may bring along: a space, or a mark as in _i, (x, $n
)
LETTER = r"[^\W\d_](?![^\W\d_])"  # a variable
MARKS = rf"(?: ?{MARK})+"
AFTER_MARKS = (
    rf"(?: ?{LETTER}| (?=[\\\d])|\n*)"  # a variable, the space before a control word or digit, or the line's end
)
CONTROL_CHUNK = CONTROL_WORD + r"(?:\{[A-Za-z]+\*?\})?"
AFTER_WORD = {  # what may be merged to a word
    "phrases": rf"(?:['’-]{WORD}|,? {WORD})*",  # more words, over spaces, commas, hyphens and apostrophes
    "words": "",
}
CHUNKS = {
    kind: re.compile(
        rf"{CONTROL_CHUNK}|{BEFORE_WORD}{WORD}{after}|\d|{MARKS}{AFTER_MARKS}| +(?= )|\n+|.",
        re.DOTALL,
    )
    for kind, after in AFTER_WORD.items()
}
MAX_PIECE_CHARS = (
    24  # SentencePiece's default is 16; phrases are longer, and 16, 24 and 32 pack alike (docs/LOG.md, 2026-11-21)
)
# Distinct chunks held at a time. 0.46 million, of 44 MB of LaTeX, cost 1.04 GB at the peak, inside SentencePiece: about 2.3 KB a chunk
# (docs/LOG.md, 2026-11-21).
MAX_CHUNKS = 1_500_000

SENTENCEPIECE_OPTIONS: dict[str, Any] = {
    "input_format": "tsv",  # a chunk and its count
    "max_sentence_length": 1 << 20,  # bytes of a chunk
    "max_sentencepiece_length": MAX_PIECE_CHARS,
    # the chunks decide what is merged, not SentencePiece's own rules
    "split_by_whitespace": False,
    "split_by_unicode_script": False,
    "split_by_number": False,
    "split_digits": True,
    # every text comes back: no normal form, no space put before it or taken from it, bytes for what no piece holds
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "character_coverage": 0.99995,  # the characters beyond it are bytes
    "required_chars": ALWAYS_PIECES + LAST_SPACE,
    "hard_vocab_limit": False,  # too few pieces are counted by us, in a sentence
    "control_symbols": list(SPECIAL_TOKENS[4:]),
    **{f"{name}_id": number for number, name in enumerate(("unk", "bos", "eos", "pad"))},
    **{f"{name}_piece": SPECIAL_TOKENS[number] for number, name in enumerate(("unk", "bos", "eos", "pad"))},
    "minloglevel": 2,
}

# A control word becomes a piece if any document has it: there are few, 1,350 in 44 MB. With an argument there are many (\cite{smith}), and such
# a form must be in two documents.
MIN_ARGUMENT_DOCUMENTS = 2
MAX_SYMBOL_FRAC = 1 / 16  # of the vocabulary: 6,400 of 102,400, 256 of 4,096

# Roles as ChatML writes them; `generation` marks what the assistant said, so that a loss can be taken on answers alone.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# --- which documents ---


class Document(NamedTuple):
    """A text to learn from, its stratum (first category and year), and its size in UTF-8."""

    id: str
    stratum: str
    text: str
    num_bytes: int


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """The documents of JSON-lines and plain files, streaming; a UserError for one without text or with a lone surrogate."""
    for path in paths:
        if path.suffix == ".jsonl":
            for number, record in enumerate(read_jsonl(path), 1):
                text = checked_text(record, f"{path}, record {number}")
                category = next(iter(record.get("categories") or []), "")
                stratum = f"{category} {record.get('year') or ''}".strip()
                yield Document(str(record.get("id", number)), stratum, text, len(text.encode()))
        else:
            try:
                text = need_file(path, "input").read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it first"
                ) from None
            yield Document(path.name, "", text, len(text.encode()))


def fair_shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Share `total` out among strata, none more than its size, the rest as evenly as can be.

    fair_shares({'a': 10, 'b': 100, 'c': 100}, 90) == {'a': 10, 'b': 40, 'c': 40}
    """
    shares: dict[str, int] = {}
    left = total
    for number, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        shares[name] = min(sizes[name], left // (len(sizes) - number))
        left -= shares[name]
    return shares


def draw(document: Document, seed: int) -> float:
    """A number in [0, 1) that depends on the document's id and the seed alone."""
    digest = hashlib.blake2b(f"{seed} {document.id}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def sample_documents(paths: Sequence[Path], max_bytes: int, seed: int) -> Iterator[str]:
    """Texts of at most `max_bytes` in all, drawn evenly by stratum; two passes over the files, one text in memory at a time."""
    sizes: Counter[str] = Counter()
    num_documents = 0
    with Progress("measure", unit="documents") as progress:
        for document in read_documents(paths):
            sizes[document.stratum] += document.num_bytes
            num_documents += 1
            progress.update()
    if not sum(sizes.values()):
        raise UserError(f"{', '.join(map(str, paths))}: no text to learn from; prepare_dataset.py writes train.jsonl")
    shares = fair_shares(sizes, max_bytes)
    drawn_bytes = sum(shares.values())
    print(
        f"corpus: {num_documents:,} documents, {sum(sizes.values()) / 1e6:,.1f} MB in {len(sizes)} strata (category and year); "
        f"drawing {drawn_bytes / 1e6:,.1f} MB",
        file=sys.stderr,
    )
    left = dict(shares)
    with Progress("count", num_documents, "documents") as progress:
        for document in read_documents(paths):
            progress.update()
            name = document.stratum
            if draw(document, seed) * sizes[name] < shares[name] and left[name] > 0:
                text = document.text
                if document.num_bytes > left[name]:  # only in a stratum that is thinned out
                    text = text.encode()[: left[name]].decode(errors="ignore")
                left[name] -= document.num_bytes
                yield text


# --- what stands in them ---


class Counts(NamedTuple):
    """How often each chunk stands in the sample, and in how many documents each control word does, bare or not, and each with its argument."""

    chunks: "Counter[str]"
    documents: "Counter[str]"


def count_chunks(texts: Iterable[str], kind: str, max_chunks: int) -> Counts:
    """Cut texts into chunks and count. Above `max_chunks`, the rarest phrases are taken apart into words, so that memory is bounded."""
    chunks: Counter[str] = Counter()
    documents: Counter[str] = Counter()
    for text in texts:
        found = CHUNKS[kind].findall(text)
        chunks.update(found)
        forms = {chunk for chunk in found if chunk[0] == "\\" and chunk[1:2].isalpha()}
        documents.update(forms | {split_control(form)[0] for form in forms})
        rare = 1
        while len(chunks) > max_chunks:
            split_rare(chunks, rare)
            rare *= 2
    return Counts(chunks, documents)


def split_rare(chunks: "Counter[str]", rare: int) -> None:
    """Take chunks with a count of at most `rare` apart into words; those that are one already are dropped."""
    for chunk in [chunk for chunk, count in chunks.items() if count <= rare]:
        count = chunks.pop(chunk)
        parts = CHUNKS["words"].findall(chunk)
        if len(parts) > 1:
            for part in parts:
                chunks[part] += count


def split_control(chunk: str) -> tuple[str, str]:
    """'\\\\mathbb{R}' -> ('\\\\mathbb', '{R}')."""
    match = re.match(CONTROL_WORD, chunk)
    end = match.end() if match else 0
    return chunk[:end], chunk[end:]


def choose_symbols(counts: Counts, limit: int) -> list[str]:
    """The control words, bare and with an argument, that become whole pieces: the `limit` that most documents have, then the commonest.

    By documents, because one author's macro or one long list of names may have thousands of uses and tell nothing of other texts.
    """
    totals: Counter[str] = Counter()
    for form in counts.documents:
        word, argument = split_control(form)
        totals[word] += counts.chunks[form]
        if argument and counts.documents[form] >= MIN_ARGUMENT_DOCUMENTS:
            totals[form] = counts.chunks[form]
    return sorted(totals, key=lambda form: (-counts.documents[form], -totals[form], form))[:limit]


def plain_chunks(counts: Counts, symbols: Sequence[str]) -> "Counter[str]":
    """The chunks that are left for merging when the symbols stand by themselves, commonest first (ties by text)."""
    whole = set(symbols)
    rest: Counter[str] = Counter()
    for chunk, count in counts.chunks.items():
        word, argument = split_control(chunk)
        if chunk in whole or UNTRAINED.search(chunk):
            continue
        if word and word not in whole:
            rest[word] += count
        for part in CHUNKS["words"].findall(argument) if word else [chunk]:
            rest[part] += count
    return Counter(dict(sorted(rest.items(), key=lambda item: (-item[1], item[0]))))


# --- SentencePiece ---


def varint(data: bytes, place: int) -> tuple[int, int]:
    """A protocol-buffer integer (7 bits a byte, low ones first) and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return value, place


def proto_fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The fields of a protocol-buffer message: number, the field as it stands, and its payload if it has a length."""
    place = 0
    while place < len(data):
        start = place
        key, place = varint(data, place)
        payload = b""
        if key & 7 == 2:
            size, place = varint(data, place)
            payload, place = data[place : place + size], place + size
        elif key & 7 == 0:
            _, place = varint(data, place)
        else:
            place += {1: 8, 5: 4}[key & 7]
        yield key >> 3, data[start:place], payload


def to_varint(value: int) -> bytes:
    """The opposite of varint."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def proto_field(number: int, payload: bytes) -> bytes:
    """A field with a length, as it stands in a message."""
    return to_varint(number << 3 | 2) + to_varint(len(payload)) + payload


# In sentencepiece_model.proto: ModelProto's pieces, normaliser and denormaliser; a piece's text; the file the rules of both were read from.
PIECES, NORMALISERS, TEXT, RULES_FILE = 1, (3, 5), 1, 6


def finish_model(model: bytes) -> bytes:
    """A model whose pieces have spaces for U+E001 (see LAST_SPACE), and without the names of the temporary files its rules were read
    from, so that the same corpus gives the same bytes.
    """
    fields = []
    for number, field, payload in proto_fields(model):
        inner = list(proto_fields(payload)) if number in NORMALISERS or LAST_SPACE.encode() in payload else []
        if number in NORMALISERS:
            field = proto_field(number, b"".join(part for name, part, _ in inner if name != RULES_FILE))
        elif number == PIECES and inner:
            parts = [
                proto_field(TEXT, with_spaces(text.decode()).encode()) if name == TEXT else part
                for name, part, text in inner
            ]
            field = proto_field(number, b"".join(parts))
        fields.append(field)
    return b"".join(fields)


def mark_last_space(chunk: str) -> str:
    """'= ' -> '=\\ue001'; spaces alone stay."""
    return chunk[:-1] + LAST_SPACE if chunk.endswith(" ") and not chunk.isspace() else chunk


def with_spaces(piece: str) -> str:
    """'=\\ue001' -> '=\u2581'; U+E001 alone is the tab's."""
    return TAB if piece == LAST_SPACE else piece.replace(LAST_SPACE, SPACE)


def escape_table(escapes: Mapping[str, str]) -> str:
    """Rules in SentencePiece's form: code points in hexadecimal, source and target parted by a tab."""
    sides = [[" ".join(f"{ord(char):X}" for char in side) for side in pair] for pair in escapes.items()]
    return "".join(f"{source}\t{target}\n" for source, target in sides)


def train_model(chunks: Mapping[str, int], vocab_size: int, symbols: Sequence[str], model_type: str) -> bytes:
    """Train SentencePiece on chunks with their counts; return the bytes of tokenizer.model.

    A UserError says how many pieces are possible, or how many are the least, where `vocab_size` is out of reach.
    """
    import sentencepiece

    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        escape, unescape = Path(folder) / "escape.tsv", Path(folder) / "unescape.tsv"
        escape.write_text(escape_table(ESCAPES))
        unescape.write_text(escape_table({code: char for char, code in ESCAPES.items()}))
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(f"{mark_last_space(chunk)}\t{count}" for chunk, count in chunks.items()),
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size,
                normalization_rule_tsv=str(escape),
                denormalization_rule_tsv=str(unescape),
                user_defined_symbols=list(symbols),
                **SENTENCEPIECE_OPTIONS,
            )
        except RuntimeError as error:
            least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
            if least is None:
                raise
            raise UserError(
                f"--vocab-size {vocab_size} has no room for the {least[1]} pieces that are always there: {len(SPECIAL_TOKENS)} special "
                f"tokens, {NUM_BYTES} bytes, {len(symbols)} control words and the corpus's characters; ask for more"
            ) from None
    possible = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    if possible < vocab_size:
        raise UserError(
            f"the corpus has {possible:,} distinct pieces, --vocab-size asks for {vocab_size:,}; give more text, or --vocab-size "
            f"{possible} (--pad-to {vocab_size} keeps the embedding's size)"
        )
    return finish_model(model.getvalue())


# --- the folder ---

NEVER = -1000.0  # a unigram score so bad that text which spells a special token or a byte is never read as one


def literal(text: str, content: str) -> dict[str, Any]:
    """A normaliser or decoder of tokenizer.json that replaces a literal text."""
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def bpe_model(vocab: Mapping[str, int], normal: Sequence[str]) -> dict[str, Any]:
    """The model part of tokenizer.json for BPE: every way to merge two pieces into a third, in the order of the third.

    SentencePiece merges the pair whose union has the best score (the lowest id) and of equal ones the leftmost; this list says the same.
    """
    known = set(normal)
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in normal
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": UNK,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": merges,
    }


def fast_tokenizer(model: bytes, symbols: Sequence[str], model_type: str) -> dict[str, Any]:
    """The content of tokenizer.json that gives the same ids as the bytes of a tokenizer.model with these user-defined symbols."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {pieces.id_to_piece(number): number for number in range(pieces.vocab_size())}
    first_normal = len(SPECIAL_TOKENS) + len(symbols) + NUM_BYTES
    normal = list(vocab)[first_normal:]
    added = [(vocab[piece], piece, piece in SPECIAL_TOKENS) for piece in (*SPECIAL_TOKENS, *symbols)]
    begin, begin_second = ({"SpecialToken": {"id": BOS, "type_id": number}} for number in (0, 1))
    text, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    scores = [[piece, pieces.get_score(number) if number >= first_normal else NEVER] for piece, number in vocab.items()]
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": scores, "byte_fallback": True}
    unescapes = [literal(code, char) for char, code in reversed(ESCAPES.items())]
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
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*(literal(char, code) for char, code in ESCAPES.items()), literal(" ", SPACE)],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, begin_second, second],
            "special_tokens": {BOS: {"id": BOS, "ids": [BOS_ID], "tokens": [BOS]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [literal(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *unescapes],
        },
        "model": unigram if model_type == "unigram" else bpe_model(vocab, normal),
    }


def write_folder(folder: Path, model: bytes, symbols: Sequence[str], model_type: str) -> None:
    """Write the tokenizer's folder, tokenizer.json last: without it a folder is no tokenizer.

    The configuration is written by hand, because save_pretrained names a class that older transformers and vLLM do not know
    (TokenizersBackend) and calls every control word a special token.
    """
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
        "model_max_length": 4096,  # the context of config.json
        "chat_template": CHAT_TEMPLATE,
    }
    content = fast_tokenizer(model, symbols, model_type)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    with atomic_write(folder / "tokenizer.model", "wb") as file:
        file.write(model)
    for name, value in (("tokenizer_config.json", config), ("tokenizer.json", content)):
        with atomic_write(folder / name) as file:
            file.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def update_config(path: Path, folder: Path, rows: int | None) -> None:
    """Write vocab_size (`rows`, or the number of ids) and the ids of BOS, EOS and PAD into a model's config.json; the rest stays."""
    config, facts = read_json(path, "model's config"), tokenizer_facts(folder)
    values = {"vocab_size": rows or facts.num_ids, "bos_token_id": facts.bos_id, "eos_token_id": facts.eos_id}
    config |= values | {"pad_token_id": facts.pad_id}
    check_tokenizer_fits(folder, config)
    with atomic_write(path) as file:
        file.write(json.dumps(config, indent=2) + "\n")


# --- the driver ---


def train(
    inputs: Sequence[Path],
    folder: Path,
    vocab_size: int,
    *,
    model_type: str = "bpe",
    kind: str = "phrases",
    max_bytes: int = 200_000_000,
    max_chunks: int = MAX_CHUNKS,
    seed: int = 0,
) -> None:
    """Train a tokenizer of `vocab_size` pieces on texts of `inputs` and write its folder; the same input gives the same bytes."""
    counts = count_chunks(sample_documents(inputs, max_bytes, seed), kind, max_chunks)
    symbols = choose_symbols(counts, int(MAX_SYMBOL_FRAC * vocab_size))
    chunks = plain_chunks(counts, symbols)
    num_chars = sum(map(len, chunks))
    print(
        f"{len(symbols):,} control words are pieces by count, the commonest {', '.join(symbols[:5])}; SentencePiece now trains "
        f"{vocab_size:,} {model_type} pieces on {len(chunks):,} chunks ({num_chars / 1e6:.1f} million characters). It is silent, "
        f"and takes {'about a second' if model_type == 'bpe' else 'minutes'} per million characters.",
        file=sys.stderr,
    )
    write_folder(folder, train_model(chunks, vocab_size, symbols, model_type), symbols, model_type)


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        description=__doc__,
        epilog="example: python data_prep/train_tokenizer.py --input dataset_train_val/train.jsonl --vocab-size 102400 "
        "--out tokenizer --update-config config.json",
    )
    train_jsonl = Path("dataset_train_val/train.jsonl")
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        default=[train_jsonl],
        help=f"JSON lines or plain text (default: {train_jsonl})",
    )
    parser.add_argument(
        "--vocab-size", type=int, default=102_400, help="number of pieces, special ones included (default: %(default)s)"
    )
    parser.add_argument(
        "--pad-to",
        type=int,
        metavar="ROWS",
        help="vocab_size for --update-config, if the embedding has more rows than pieces",
    )
    parser.add_argument(
        "--model-type",
        choices=("bpe", "unigram"),
        default="bpe",
        help="kind of SentencePiece model (default: %(default)s)",
    )
    parser.add_argument(
        "--pieces",
        choices=list(AFTER_WORD),
        default="phrases",
        help="whether words of prose may join (default: %(default)s)",
    )
    parser.add_argument(
        "--max-bytes", type=int, default=200_000_000, help="how much text to learn from (default: %(default)s)"
    )
    parser.add_argument(
        "--max-chunks",
        type=int,
        default=MAX_CHUNKS,
        help="bound on memory, about 2.3 KB each; rarer phrases are taken apart (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of documents (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("tokenizer"), help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--update-config",
        type=Path,
        metavar="CONFIG",
        help="a model's config.json that gets vocab_size and special ids",
    )
    parser.add_argument(
        "--keep", action="store_true", help="train nothing: the tokenizer in --out stays, for --update-config"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    for flag in ("vocab_size", "max_bytes", "max_chunks"):
        if getattr(options, flag) < 1:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(options, flag)} must be above 0")
    if options.pad_to and not options.keep and options.pad_to < options.vocab_size:
        raise UserError(f"--pad-to {options.pad_to} is below --vocab-size {options.vocab_size}; each piece needs a row")
    started_s = time.monotonic()
    if not options.keep:
        train(
            options.input,
            options.out,
            options.vocab_size,
            model_type=options.model_type,
            kind=options.pieces,
            max_bytes=options.max_bytes,
            max_chunks=options.max_chunks,
            seed=options.seed,
        )
    facts = tokenizer_facts(options.out)
    print(
        f"{options.out}: {facts.num_ids:,} pieces, fingerprint {facts.fingerprint[:12]}, {duration(time.monotonic() - started_s)}"
    )
    if options.update_config:
        update_config(options.update_config, options.out, options.pad_to)
        print(
            f"{options.update_config}: vocab_size {options.pad_to or facts.num_ids:,}, ids of BOS, EOS, PAD {facts[1:4]}"
        )
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
