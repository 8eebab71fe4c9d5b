"""Token files: the form of packed tokens on disk, and the order in which training reads them.

In: a folder `tokens/` as pack_tokens.py writes it, and the tokenizer's folder. Out: `Batch`es of rows for training and evaluation.

A packed source is three files, `<split>-<source>.bin`, `.idx` and `.json` (a part other than the full text has its name in
between: `train-arxiv.prose.bin`; a group of a source's documents likewise: `train-arxiv@gold-words.bin`). The first two begin with
the same header of 256 bytes (HEADER), then hold one flat array:

    .bin   <u4 [num_tokens]          the documents one after the other, each BOS + text + EOS
    .idx   <u8 [num_documents + 1]   where each document starts in .bin, and num_tokens at the end
    .json  the same figures and what was packed, for people and programs

Ids are uint32 because a vocabulary of 102,400 does not fit uint16. Nothing here imports torch, or holds a list of sequences.
"""

import functools
import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.cli import UserError, need_file
from data_prep.records import training_text

MAGIC, VERSION = b"A2MTOKEN", 1
HEADER_BYTES = 256
# magic, version, dtype, then num_tokens, num_documents, num_text_bytes, then vocab_size, bos, eos, then the fingerprint
HEADER = struct.Struct("<8sI4sQQQIII64s")
TOKEN_DTYPE, INDEX_DTYPE = np.dtype("<u4"), np.dtype("<u8")

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


# --- what is packed ---


def prose_text(record: Mapping[str, Any]) -> str:
    """The textual part of a record: abstract, introduction and conclusion where the body has them, else the metadata's abstract."""
    spans = [record.get("parts", {}).get(name) for name in PROSE_PARTS]
    pieces = [record["text"][span[0] : span[1]].strip() for span in spans if span]
    return "\n\n".join(pieces) or str(record.get("abstract") or "")


# What can be packed of a record. `text`, the whole document, is what training reads if nothing else is asked for.
FULL_TEXT = "text"
PROSE_PARTS = ("abstract", "introduction", "conclusion")
PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {FULL_TEXT: training_text, "prose": prose_text}


def checked_text(record: Mapping[str, Any], where: str, part: str = FULL_TEXT) -> str:
    """A part of a record that has a text, all of it writable; else a UserError that begins with `where`."""
    if not isinstance(record.get("text"), str) or not record["text"]:
        raise UserError(f"{where}: a record with a non-empty text is needed; prepare_dataset.py writes such records")
    text = PARTS[part](record)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start} of its text is a lone surrogate, which is no text; clean it first"
        ) from None
    return text


# --- which tokenizer ---


class TokenizerFacts(NamedTuple):
    """What decides whether tokens and a model belong to a tokenizer. `num_ids` is its largest id + 1."""

    num_ids: int
    bos_id: int
    eos_id: int
    pad_id: int | None
    fingerprint: str


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file; a UserError if it is absent or is none."""
    try:
        value = json.loads(need_file(path, what).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{what} {path} is not JSON ({error}); write it anew") from None
    if not isinstance(value, dict):
        raise UserError(f"{what} {path} holds {type(value).__name__}, a JSON object is needed")
    return value


def tokenizer_facts(folder: Path) -> TokenizerFacts:
    """The facts of a tokenizer's folder (any Hugging Face fast tokenizer with a BOS and an EOS, not ours alone).

    The fingerprint is the SHA-256 of all that decides ids: vocabulary, merges, added tokens, normaliser, pre-tokeniser, and
    the ids of BOS and EOS. The layout of the JSON, the chat template and truncation settings do not count.
    """
    files = tuple(folder / name for name in ("tokenizer.json", "tokenizer_config.json"))
    if not files[0].exists():
        raise UserError(
            f"tokenizer {folder} has no tokenizer.json; train one with data_prep/train_tokenizer.py --out {folder}"
        )
    stamps = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)
    return cached_facts(folder.resolve(), stamps)


@functools.lru_cache(maxsize=8)
def cached_facts(folder: Path, stamps: tuple[int, ...]) -> TokenizerFacts:
    """tokenizer_facts, computed once for each state of the files (`stamps` are their modification times)."""
    content = read_json(folder / "tokenizer.json", "tokenizer")
    config = read_json(folder / "tokenizer_config.json", "tokenizer's configuration")
    model: dict[str, Any] = content.get("model", {})
    added: list[dict[str, Any]] = content.get("added_tokens", [])
    vocab = model.get("vocab", {})
    ids: dict[str, int] = (
        vocab if isinstance(vocab, dict) else {piece: number for number, (piece, _) in enumerate(vocab)}
    )
    ids = ids | {token["content"]: token["id"] for token in added}

    def special(name: str) -> int | None:
        token = config.get(name)
        return ids.get(str(token["content"] if isinstance(token, dict) else token))

    bos_id, eos_id = special("bos_token"), special("eos_token")
    if bos_id is None or eos_id is None:
        raise UserError(
            f"tokenizer {folder} names bos_token {config.get('bos_token')!r} and eos_token {config.get('eos_token')!r}; both must "
            "be tokens of its vocabulary, because a packed document is BOS + text + EOS"
        )
    deciding = [
        {
            key: model.get(key)
            for key in ("type", "vocab", "merges", "byte_fallback", "unk_token", "unk_id", "ignore_merges")
        },
        content.get("normalizer"),
        content.get("pre_tokenizer"),
        sorted(added, key=lambda token: int(token["id"])),
        [bos_id, eos_id],
    ]
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
    return TokenizerFacts(max(ids.values()) + 1, bos_id, eos_id, special("pad_token"), digest)


def load_encoder(folder: Path, fingerprint: str | None = None) -> Any:
    """The tokenizer of a folder as a `tokenizers.Tokenizer` set for texts: what packs, and what must give the same ids as packing.

    Characters in a text that spell a special token ("</s>" in a paper on language models) stay text; nothing is cut or padded. Who knows
    the folder's fingerprint already saves half a second by saying so.
    """
    return cached_encoder(folder.resolve(), fingerprint or tokenizer_fingerprint(folder))


@functools.lru_cache(maxsize=2)
def cached_encoder(folder: Path, fingerprint: str) -> Any:
    """load_encoder, loaded once for each state of the folder."""
    return new_encoder(folder)


def new_encoder(folder: Path) -> Any:
    """The tokenizer of a folder, set for texts."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder.encode_special_tokens = True
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


@functools.lru_cache(maxsize=2)
def packing_encoder(folder: Path, fingerprint: str) -> tuple[Any, list[tuple[str, str]]]:
    """A tokenizer, and what `str.replace` does to a text before it: together they give the ids of load_encoder.

    Where a normaliser only replaces literal text, as ours does, Python does it in a hundredth of the library's time, which saves a sixth of all
    encoding (docs/LOG.md, packing beside bare encoding). Any other normaliser stays where it is, and nothing is replaced.
    """
    encoder = new_encoder(folder)
    replacements = literal_replacements(encoder)
    if replacements:
        encoder.normalizer = None
    return encoder, replacements


def literal_replacements(encoder: Any) -> list[tuple[str, str]]:
    """The (old, new) pairs, in order, that stand for a tokenizer's normaliser; empty where pairs cannot stand for it.

    The library finds added tokens before it normalises. So a pair may not overlap an added token in any text, nor may a token look at its
    neighbours or be sought in normalised text.
    """
    if encoder.normalizer is None:
        return []
    rule = json.loads(encoder.normalizer.__getstate__())
    pairs = []
    for step in rule.get("normalizers", [rule]):
        if step.get("type") != "Replace" or not step["pattern"].get("String"):
            return []
        pairs.append((step["pattern"]["String"], step["content"]))
    for token in encoder.get_added_tokens_decoder().values():
        if token.normalized or token.single_word or token.lstrip or token.rstrip:
            return []
        if any(can_overlap(token.content, part) for pair in pairs for part in pair):
            return []
    return pairs


def can_overlap(one: str, other: str) -> bool:
    """Whether some text holds both so that they share a character: 'ab' and 'bc' do in 'abc'."""
    ends = range(1, min(len(one), len(other)))
    return one in other or other in one or any(one[-n:] == other[:n] or other[-n:] == one[:n] for n in ends)


def tokenizer_fingerprint(folder: Path) -> str:
    """64 hexadecimal digits that change when any id could (see tokenizer_facts)."""
    return tokenizer_facts(folder).fingerprint


def check_tokenizer_fits(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise a UserError that names both values if the tokenizer and a model's config.json contradict each other.

    The embedding may have more rows than the tokenizer has pieces (padding), never fewer.
    """
    facts = tokenizer_facts(folder)
    advice = f"write the tokenizer's values with data_prep/train_tokenizer.py --out {folder} --update-config"
    if config.get("model_type") != "llama":
        raise UserError(
            f"the model's config says model_type {config.get('model_type')!r}; 'llama' is needed: this repository trains Llama models"
        )
    rows = config.get("vocab_size")
    if not isinstance(rows, int) or facts.num_ids > rows:
        raise UserError(f"tokenizer {folder} has {facts.num_ids:,} ids, the model's vocab_size is {rows}; {advice}")
    for key, wanted in (("bos_token_id", facts.bos_id), ("eos_token_id", facts.eos_id), ("pad_token_id", facts.pad_id)):
        seen = config.get(key)
        if wanted is None or (seen is None and key == "pad_token_id"):
            continue
        if seen != wanted and not (isinstance(seen, list) and wanted in seen):
            raise UserError(f"the model's config says {key} {seen}, tokenizer {folder} has {wanted}; {advice}")


# --- one packed source ---


class Header(NamedTuple):
    """The header of .bin and .idx (see HEADER)."""

    dtype: str
    num_tokens: int
    num_documents: int
    num_text_bytes: int
    vocab_size: int
    bos_id: int
    eos_id: int
    fingerprint: str

    def to_bytes(self) -> bytes:
        """The header as the 256 bytes that begin a file."""
        fixed = HEADER.pack(MAGIC, VERSION, self.dtype.encode(), *self[1:7], self.fingerprint.encode())
        return fixed.ljust(HEADER_BYTES, b"\0")


def read_header(path: Path) -> Header:
    """The header of a .bin or .idx; a UserError if the file is none of ours, of another version, or cut short."""
    with need_file(path, "token file").open("rb") as file:
        data = file.read(HEADER_BYTES)
    if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is no token file; pack again with data_prep/pack_tokens.py")
    _, version, dtype, *numbers, fingerprint = HEADER.unpack_from(data)
    if version != VERSION:
        raise UserError(f"{path} is a token file of version {version}, version {VERSION} is needed; pack again")
    header = Header._make([dtype.rstrip(b"\0").decode(), *numbers, fingerprint.decode()])
    items = header.num_tokens if path.suffix == ".bin" else header.num_documents + 1
    wanted = HEADER_BYTES + items * np.dtype(header.dtype).itemsize
    if path.stat().st_size != wanted:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, its header asks for {wanted:,}: it is cut short or damaged; pack again"
        )
    return header


@dataclass(frozen=True)
class TokenFile:
    """One packed source of one split, memory-mapped: tokens <u4 [num_tokens], starts <u8 [num_documents + 1]."""

    path: Path
    split: str
    source: str
    part: str
    group: str
    header: Header
    tokens: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.uint64]


def open_token_file(path: Path) -> TokenFile:
    """Map a .bin with its .idx; a UserError if one is missing, damaged, or they do not belong together."""
    header, index_header = read_header(path), read_header(path.with_suffix(".idx"))
    if header[1:] != index_header[1:]:
        raise UserError(f"{path} and its .idx were not written together; pack again with data_prep/pack_tokens.py")
    facts = read_json(path.with_suffix(".json"), "token file's description")
    maps = [
        np.memmap(name, dtype=dtype, mode="r", offset=HEADER_BYTES)
        for name, dtype in ((path, TOKEN_DTYPE), (path.with_suffix(".idx"), INDEX_DTYPE))
    ]
    return TokenFile(path, facts["split"], facts["source"], facts["part"], facts["group"], header, maps[0], maps[1])


def open_split(
    dataset: Path,
    split: str,
    *,
    part: str | None = FULL_TEXT,
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
) -> list[TokenFile]:
    """The packed sources of a split ("train" or "val") under `dataset`/tokens, in the order of their names.

    All groups of the `part` are among them; None stands for all parts.

    A UserError if there are none, if they were packed by different tokenizers, by another one than `tokenizer` (a folder),
    or if one holds ids that a model of `vocab_size` rows does not have.
    """
    folder = dataset / "tokens"
    if (folder / f"{split}.journal").exists():
        raise UserError(
            f"packing of {split!r} in {folder} was not finished; run data_prep/pack_tokens.py --dataset {dataset} again"
        )
    files = [open_token_file(path) for path in sorted(folder.glob(f"{split}-*.bin"))]
    files = [file for file in files if file.split == split and part in (None, file.part)]
    if not files:
        raise UserError(
            f"{folder} holds no packed tokens of {split!r} ({part or 'any part'}); run data_prep/pack_tokens.py --dataset {dataset}"
        )
    wanted = files[0].header.fingerprint if tokenizer is None else tokenizer_fingerprint(tokenizer)
    for file in files:
        if file.header.fingerprint != wanted:
            other = f"tokenizer {tokenizer}" if tokenizer else files[0].path.name
            raise UserError(
                f"{file.path} was packed by the tokenizer {file.header.fingerprint[:12]}, {other} is {wanted[:12]}; pack again "
                f"with data_prep/pack_tokens.py --dataset {dataset}"
                + (f" --tokenizer {tokenizer}" if tokenizer else "")
            )
        if vocab_size is not None and file.header.vocab_size > vocab_size:
            raise UserError(
                f"{file.path} holds ids below {file.header.vocab_size:,}, the model's vocab_size is {vocab_size:,}"
            )
    return files


def data_fingerprint(files: Sequence[TokenFile]) -> str:
    """12 hexadecimal digits that change when the packed tokens of a run do: sources, parts, groups, counts, tokenizer."""
    facts = sorted([file.split, file.source, file.part, file.group, *file.header] for file in files)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


# --- the order of an epoch ---


def mix64(values: UInt64) -> UInt64:
    """Spread 64 bits over 64 bits, one to one (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64 = values ^ (values >> np.uint64(31))
    return mixed


def round_keys(*numbers: int, rounds: int) -> UInt64:
    """One 64-bit key a round out of any integers (seed, epoch, ...), the same on every machine."""
    digest = hashlib.shake_256(repr(numbers).encode()).digest(8 * rounds)
    return np.array(struct.unpack(f"<{rounds}Q", digest), dtype=np.uint64)


FEISTEL_ROUNDS = 6


def permute(indices: Int64, size: int, *key: int) -> Int64:
    """Where a permutation of range(size), chosen by `key`, puts each of `indices`; O(1) memory beside the indices.

    A Feistel network is one to one on numbers of 2k bits; a result outside range(size) is sent through again until it falls inside
    (fewer than 4 times on average, because 4^k is below 4 x size).
    """
    if size <= 1:
        return np.zeros_like(indices)
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = round_keys(*key, rounds=FEISTEL_ROUNDS)
    result = indices.astype(np.uint64)
    todo = np.arange(len(result))
    while len(todo):
        left, right = result[todo] >> half, result[todo] & mask
        for round_key in keys:
            left, right = right, left ^ (mix64(right + round_key) & mask)
        result[todo] = (left << half) | right
        todo = todo[result[todo] >= np.uint64(size)]
    return result.astype(np.int64)


class Batch(NamedTuple):
    """Rows for the model, int64 ndarrays [num_rows, seq_len].

    labels[i, j] is the token that follows input_ids[i, j]; no label is masked. position_ids begin at 0 in each row and again at
    each document's BOS, so that attention can stop at documents.
    """

    input_ids: Int64
    labels: Int64
    position_ids: Int64


class TokenSequences:
    """The rows of an endless training run: row g is a pure function of (files, weights, seq_len, seed, g).

    Each file is a circle of tokens, cut into ceil(num_tokens / seq_len) rows of seq_len + 1 tokens, of which neighbours share
    one; so each token is predicted once a pass, and nothing is padded. Where seq_len does not divide the number of tokens, the last
    row goes on with the file's first tokens (fewer than seq_len, seen twice). A file of weight 2.0 is passed twice an epoch;
    of weight 0.4, another 40% of its rows each epoch, in turn: five epochs see each row twice. Any number of ranks
    share the work by asking for different row numbers; nothing is stored, so resuming is asking for the next row.

    Example: `TokenSequences(open_split(dataset, "train"), seq_len=768, seed=0).rows(range(32)).input_ids.shape == (32, 768)`.
    """

    def __init__(
        self,
        files: Sequence[TokenFile],
        weights: Sequence[float] | None = None,
        *,
        seq_len: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        weights = [1.0] * len(files) if weights is None else list(weights)
        if not files or len(weights) != len(files):
            raise UserError(f"{len(weights)} weights for {len(files)} token files; one weight each is needed")
        for file, weight in zip(files, weights, strict=True):
            if not 0 < weight < float("inf"):
                raise UserError(f"weight {weight} for {file.path.name}; a weight is a number above 0")
        if seq_len < 1:
            raise UserError(f"sequence length {seq_len}; at least 1 token is needed")
        self.files, self.seq_len, self.seed, self.shuffle = list(files), seq_len, seed, shuffle
        self.rows_in_file = [-(-file.header.num_tokens // seq_len) for file in files]
        self.rows_drawn = [round(weight * rows) for weight, rows in zip(weights, self.rows_in_file, strict=True)]
        self.ends = np.cumsum(self.rows_drawn)
        self.rows_per_epoch = int(self.ends[-1])
        if self.rows_per_epoch == 0:
            raise UserError("no tokens to draw from: the token files are empty, or their weights too small for one row")

    def locate(self, indices: Sequence[int] | range) -> tuple[Int64, Int64]:
        """Global row numbers -> (file number, row in that file), each int64 [len(indices)]."""
        wanted = np.asarray(indices, dtype=np.int64)
        epochs, places = np.divmod(wanted, self.rows_per_epoch)
        file_numbers, rows = np.empty_like(places), np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            drawn = places[chosen]
            if self.shuffle:
                drawn = permute(drawn, self.rows_per_epoch, self.seed, int(epoch))
            numbers = np.searchsorted(self.ends, drawn, side="right")
            file_numbers[chosen] = numbers
            rows[chosen] = self.rows_within(numbers, drawn, int(epoch))
        return file_numbers, rows

    def rows_within(self, numbers: Int64, drawn: Int64, epoch: int) -> Int64:
        """The row of its file that each draw of an epoch means: whole passes first, then a part that moves on each epoch."""
        rows = np.empty_like(drawn)
        for number in np.unique(numbers):
            chosen = numbers == number
            size, count = self.rows_in_file[number], self.rows_drawn[number]
            draw = drawn[chosen] - (self.ends[number] - count)
            partial = draw >= count - count % size
            turn = (draw + epoch * (count % size)) % size
            scattered = permute(turn, size, self.seed, -1, int(number)) if self.shuffle else turn
            rows[chosen] = np.where(partial, scattered, draw % size)
        return rows

    def rows(self, indices: Sequence[int] | range) -> Batch:
        """The rows of these global numbers, counted since the start of training: epoch, place = divmod(number, rows_per_epoch)."""
        file_numbers, rows = self.locate(indices)
        tokens = np.empty((len(rows), self.seq_len + 1), dtype=np.int64)
        positions = np.empty((len(rows), self.seq_len), dtype=np.int64)
        for place, (number, row) in enumerate(zip(file_numbers.tolist(), rows.tolist(), strict=True)):
            tokens[place], positions[place] = read_row(self.files[number], row * self.seq_len, self.seq_len)
        return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), positions)


def read_row(file: TokenFile, begin: int, seq_len: int) -> tuple[Int64, Int64]:
    """seq_len + 1 tokens of the circle from `begin` on, and the positions of the first seq_len of them."""
    size, end = file.header.num_tokens, begin + seq_len
    tokens = file.tokens[begin : end + 1] if end < size else np.take(file.tokens, range(begin, end + 1), mode="wrap")
    restarts = np.zeros(seq_len, dtype=np.int64)
    for lap in range(begin // size, (end - 1) // size + 1):
        first, last = np.searchsorted(file.starts[:-1], [max(begin - lap * size, 0), end - lap * size])
        starts = file.starts[first:last].astype(np.int64) + lap * size - begin
        restarts[starts] = starts
    return tokens.astype(np.int64), np.arange(seq_len) - np.maximum.accumulate(restarts)
