"""A checkpoint for the world: GGUF for llama.cpp, MLX for Apple's machines, a folder that can be published on a hub.

In: the Hugging Face folder of a run; for `hub` the run's own records, too. Out: a .gguf file, or a folder.

`gguf` and `mlx` are judged before they get their name: the judge loads them in the runtime that they are for and compares logits,
tokenization and the ids that end a text with the original's. An export that differs by more than LOGIT_LIMITS allows is deleted,
not left. (Where llama-cpp-python is not installed, the GGUF reader of transformers judges the logits only, and says so.)
`hub` fills a model card from the records of data, training and evaluation, and refuses where they do not belong together.

Needs, beside requirements.txt: gguf and llama-cpp-python (or accelerate, for the lesser judge); mlx[cpu] and mlx-lm; matplotlib for the card's picture.

Examples:
    python export.py gguf --model runs/pretrain/hf --out kitefish-bf16.gguf --dataset dataset_train_val
    python export.py mlx --model runs/pretrain/hf --out kitefish-mlx-4bit --bits 4
    python export.py hub --model runs/pretrain/hf --out hub/kitefish --dataset dataset_train_val --evaluation val.json --licence apache-2.0
"""

import contextlib
import importlib.util
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.cli import Parser, Progress, UserError, atomic_write, need_file, run
from data_prep.records import read_jsonl, training_text
from data_prep.token_files import TokenFile, data_fingerprint, open_split
from evaluate import positive, weights_sha256
from generate import END_OF_TURN, check_checkpoint, load_checkpoint, read_config, training_facts

if TYPE_CHECKING:
    import numpy as np

# Where each tensor of a Llama goes; {} is the number of the layer. The order is the file's.
TENSOR_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.layers.{}.input_layernorm.weight": "blk.{}.attn_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "blk.{}.attn_q.weight",
    "model.layers.{}.self_attn.k_proj.weight": "blk.{}.attn_k.weight",
    "model.layers.{}.self_attn.v_proj.weight": "blk.{}.attn_v.weight",
    "model.layers.{}.self_attn.o_proj.weight": "blk.{}.attn_output.weight",
    "model.layers.{}.post_attention_layernorm.weight": "blk.{}.ffn_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "blk.{}.ffn_gate.weight",
    "model.layers.{}.mlp.up_proj.weight": "blk.{}.ffn_up.weight",
    "model.layers.{}.mlp.down_proj.weight": "blk.{}.ffn_down.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
# llama.cpp's numbers for what most of a file's tensors are: llama_ftype in its llama.h.
FILE_TYPES = {"f32": 0, "bf16": 32, "q8_0": 7}
# How far the logits may be from the original's in float32, in units of what bfloat16 costs transformers on the same texts: that
# cost depends on the model (0.35% for a tiny trained one, 2% for a random one), its multiples hardly (docs/LOG.md, 2026-11-21).
LOGIT_LIMITS = {"f32": 0.1, "bf16": 2.0, "q8_0": 8.0, "8 bits": 8.0, "4 bits": 40.0}

# Texts that tokenizers disagree on: spaces and line ends at the edges, characters that no piece holds, digits, what looks
# like a special token, control words.
HARD_TEXTS = (
    "Let $p$ be a prime number. Then $a^p \\equiv a \\pmod p$ for every integer $a$.",
    " leading and trailing ",
    "\n\nblank lines\n\n\n and \t tabs\t",
    "double  triple   and     five",
    "\\begin{align*}\n  x &= \\frac{1}{2}, \\\\\n  y &= \\sqrt{\\pi}\n\\end{align*}",
    "\\alpha\\beta\\gamma \\mathbb{R}^{n\\times m}",
    "naïve café Schrödinger Erdős Łukasiewicz Poincaré",
    "漢字 кириллица ελληνικά עברית",
    "𝔸𝕊 ∀ε>0 ∃δ ≤ ∞ ∑ ∫ ⊗",
    "3.14159265358979 1,234,567 0x1F 10^{-34}",
    "<s> </s> <|im_end|> <unk> <pad> <think>",
    "\\[\\int_0^1 x^2\\,dx=\\tfrac13\\]",
    "e\u0301 \u00a0 \u200b \u2028 \r\n",
    "def f(x):\n    return x ** 2\n",
    "https://arxiv.org/abs/2401.00001v2",
    "%$#&_{}~^\\\\",
)
CURVE = "loss.png"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
MLX_GROUP = 64  # weights that share a scale when MLX quantizes: its default
# The scales of quantized weights: in bfloat16 they cost ten times what 8 bits do (0.0164 against 0.0027; docs/LOG.md, 2026-11-21).
MLX_SCALES = "float16"
SLICE_CHARS = (1, 200)  # lengths of the slices whose tokenization is compared
NUM_LOGIT_TEXTS = 8
# A piece of a tokenizer of ours never holds these two; its normaliser writes them another way, which GGUF cannot say.
OUTSIDE_GGUF = ("\u2581", "\ue000")


def need_package(name: str, install: str) -> None:
    """A UserError with the command that installs it, if an optional package is absent."""
    if importlib.util.find_spec(name) is None:
        raise UserError(f"this export needs the package {install}, which is not installed; pip install {install}")


# --- the texts that judge ---


def hard_slices(dataset: Path | None, count: int, seed: int) -> list[str]:
    """HARD_TEXTS, then slices of random length at random places of the val texts (of HARD_TEXTS where no dataset is given)."""
    if dataset is None:
        texts = ["".join(HARD_TEXTS)]
    else:
        texts = [training_text(record) for record in read_jsonl(dataset / "val.jsonl")]
        if not texts:
            raise UserError(
                f"{dataset / 'val.jsonl'} holds no document to judge the tokenization by; leave --dataset out"
            )
    rng = random.Random(seed)
    slices = list(HARD_TEXTS)
    while len(slices) < count:
        text = rng.choice(texts)
        start = rng.randrange(len(text))
        slices.append(text[start : start + rng.randint(*SLICE_CHARS)])
    return slices


@dataclass(frozen=True)
class Original:
    """What the exported model must reproduce: ids and float32 logits [n, vocabulary] of a few texts, ids of all slices.

    `bf16_error` is the yardstick: the relative error of the same logits computed by transformers in bfloat16.
    """

    slices: list[str]
    slice_ids: list[list[int]]
    text_ids: list[list[int]]
    logits: list["np.ndarray[Any, Any]"]
    stop_ids: list[int]
    bf16_error: float


def original(folder: Path, dataset: Path | None, num_slices: int, seed: int) -> Original:
    """Ask transformers, on the CPU in float32, for what the export is measured against."""
    slices = hard_slices(dataset, num_slices, seed)
    model, tokenizer = load_checkpoint(folder, device="cpu", dtype="float32")
    slice_ids = [tokenizer.encode(text, add_special_tokens=False) for text in slices]
    room = min(model.config.max_position_embeddings, 256)
    longest = sorted(slice_ids[len(HARD_TEXTS) :] or slice_ids, key=len, reverse=True)
    text_ids = [[model.config.bos_token_id, *ids][:room] for ids in (slice_ids[0], *longest[: NUM_LOGIT_TEXTS - 1])]
    logits = all_logits(model, text_ids)
    del model  # the next one takes its place in memory
    rounded, _ = load_checkpoint(folder, device="cpu", dtype="bfloat16")
    bf16_error, _ = compare_logits(all_logits(rounded, text_ids), logits)
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    return Original(slices, slice_ids, text_ids, logits, stops, bf16_error)


def all_logits(model: Any, text_ids: Sequence[Sequence[int]]) -> list["np.ndarray[Any, Any]"]:
    """The model's logits for each text, float32 [n, vocabulary]."""
    import torch

    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0].float().numpy() for ids in text_ids]


@dataclass(frozen=True)
class Verdict:
    """What a judge found. Relative logit error and share of equal likeliest tokens; slices that tokenize otherwise."""

    judge: str
    logit_error: float
    same_argmax: float
    num_slices: int | None
    num_different: int | None

    def sentence(self) -> str:
        """The verdict for a person."""
        tokens = (
            "tokenization not judged (pip install llama-cpp-python)"
            if self.num_slices is None
            else f"tokenization equal on {self.num_slices - (self.num_different or 0):,} of {self.num_slices:,} slices"
        )
        return f"{self.judge}: logits differ by {self.logit_error:.2e}, likeliest token equal {self.same_argmax:.1%}; {tokens}"


def compare_logits(
    found: Sequence["np.ndarray[Any, Any]"], wanted: Sequence["np.ndarray[Any, Any]"]
) -> tuple[float, float]:
    """(relative error in the Frobenius norm, share of positions with the same likeliest token) over all texts."""
    import numpy as np

    exported, expected = np.concatenate(found).astype(np.float64), np.concatenate(wanted).astype(np.float64)
    error = np.linalg.norm(exported - expected) / np.linalg.norm(expected)
    return float(error), float((exported.argmax(1) == expected.argmax(1)).mean())


# --- GGUF ---


def tensor_places(folder: Path, num_layers: int) -> list[tuple[str, str, Path]]:
    """(name in the file, name in the checkpoint, shard that holds it) of each tensor, in the order of TENSOR_NAMES.

    A tensor that a Llama does not have is a UserError; so is one that is missing, except the head of a tied model.
    """
    from safetensors import safe_open

    shards = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            shards.update(dict.fromkeys(file.keys(), shard))
    layered = [(source, name) for source, name in TENSOR_NAMES.items() if "{}" in source]
    pairs = [(source, name) for source, name in TENSOR_NAMES.items() if "{}" not in source]
    pairs[1:1] = [(source.format(i), name.format(i)) for i in range(num_layers) for source, name in layered]
    if strange := sorted(set(shards) - {source for source, _ in pairs}):
        raise UserError(f"{folder} holds {strange[0]}, which a plain Llama does not have; this export cannot write it")
    return [(name, source, shards[source]) for source, name in pairs if source in shards]


def permute_heads(weight: "np.ndarray[Any, Any]", num_heads: int) -> "np.ndarray[Any, Any]":
    """Rows of a query or key projection [heads x size, hidden] in llama.cpp's order.

    transformers turns dimension i of a head together with i + size/2, llama.cpp 2i with 2i + 1: the halves are interleaved.
    """
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    permuted: np.ndarray[Any, Any] = halves.swapaxes(1, 2).reshape(rows, columns)
    return permuted


def read_tensors(
    places: Sequence[tuple[str, str, Path]], config: Mapping[str, Any]
) -> Iterator["np.ndarray[Any, Any]"]:
    """The tensors in float32, one at a time, queries and keys permuted."""
    from safetensors import safe_open

    for name, source, shard in places:
        with safe_open(shard, framework="pt") as file:
            weight = file.get_tensor(source).float().numpy()
        if name.endswith("attn_q.weight"):
            weight = permute_heads(weight, config["num_attention_heads"])
        elif name.endswith("attn_k.weight"):
            weight = permute_heads(weight, config["num_key_value_heads"])
        yield weight


def vocabulary(folder: Path, num_rows: int) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and llama.cpp's token types, one for each row of the embedding.

    Pieces and scores are tokenizer.model's, types follow tokenizer.json: a special token is a control token, another added one is
    user-defined (found in a text before all merging). Rows beyond the tokenizer are unused. A UserError if the two files
    disagree about a piece.
    """
    import sentencepiece
    from gguf import TokenType

    if not (folder / "tokenizer.model").is_file():
        raise UserError(
            f"{folder} holds no tokenizer.model, from which GGUF takes its vocabulary; copy it from the tokenizer's folder"
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    by_id = {number: piece for piece, number in ids.items()}
    types = {
        token["id"]: TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        for token in content["added_tokens"]
    }
    names, scores, kinds = [], [], []
    for index in range(num_rows):
        if index >= pieces.vocab_size():
            names.append(f"[UNUSED{index}]")
            scores.append(-1e9)
            kinds.append(TokenType.UNUSED)
            continue
        piece = pieces.id_to_piece(index)
        if by_id.get(index) != piece:
            raise UserError(
                f"id {index} is {piece!r} in {folder}/tokenizer.model, {by_id.get(index)!r} in tokenizer.json; copy both from one tokenizer"
            )
        names.append(piece)
        scores.append(pieces.get_score(index))
        plain = (
            TokenType.BYTE
            if pieces.is_byte(index)
            else TokenType.UNKNOWN
            if pieces.is_unknown(index)
            else TokenType.NORMAL
        )
        kinds.append(plain if pieces.is_unknown(index) else types.get(index, plain))
    return names, scores, [int(kind) for kind in kinds]


def chat_template(folder: Path) -> str | None:
    """The tokenizer's chat template without its generation marks, which only training reads and not every runtime knows.

    A mark becomes an empty comment, which treats the white space around it alike.
    """
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(folder, local_files_only=True).chat_template
    return None if template is None else re.sub(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}", r"{#\1 \2#}", template)


def write_metadata(writer: Any, folder: Path, config: Mapping[str, Any], kind: str, name: str) -> None:
    """All that llama.cpp wants to know beside the tensors."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(
            f"the model's positions are scaled (rope_type {rope['rope_type']}); only plain RoPE can be exported"
        )
    heads = config["num_attention_heads"]
    names, scores, kinds = vocabulary(folder, config["vocab_size"])
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(names.index("<s>"))
    writer.add_eos_token_id(names.index("</s>"))
    writer.add_unk_token_id(names.index("<unk>"))
    writer.add_pad_token_id(names.index("<pad>"))
    writer.add_eot_token_id(names.index(END_OF_TURN))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if (template := chat_template(folder)) is not None:
        writer.add_chat_template(template)


def write_gguf(folder: Path, config: Mapping[str, Any], kind: str, name: str, path: Path) -> None:
    """Write the checkpoint as `path`; one tensor at a time is in memory. Matrices are of `kind`, norms float32.

    A matrix whose rows do not fill the blocks of `kind` stays bfloat16, and stderr says how many do.
    """
    import gguf

    places = tensor_places(folder, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, folder, config, kind, name)
    types = gguf.GGMLQuantizationType
    kinds = []
    for place, shape in zip(places, tensor_shapes(places), strict=True):
        this = types[kind.upper()] if len(shape) == 2 else types.F32
        if shape[-1] % gguf.GGML_QUANT_SIZES[this][0]:
            this = types.BF16
        block, block_bytes = gguf.GGML_QUANT_SIZES[this]
        writer.add_tensor_info(place[0], shape, "float32", math.prod(shape) // block * block_bytes, this)
        kinds.append(this)
    if kind == "q8_0" and (num_kept := kinds.count(types.BF16)):
        print(f"{num_kept} matrices have rows that are no multiple of 32: they stay bfloat16", file=sys.stderr)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with Progress("write", total=len(places), unit="tensors") as progress:
        for weight, this in zip(read_tensors(places, config), kinds, strict=True):
            writer.write_tensor_data(gguf.quantize(weight, this))
            progress.update()
    writer.close()


def tensor_shapes(places: Sequence[tuple[str, str, Path]]) -> list[tuple[int, ...]]:
    """The shapes of the tensors, from the headers of their shards."""
    from safetensors import safe_open

    shapes = []
    for _, source, shard in places:
        with safe_open(shard, framework="pt") as file:
            shapes.append(tuple(file.get_slice(source).get_shape()))
    return shapes


def judge_by_llama_cpp(path: Path, wanted: Original) -> Verdict:
    """Load the file in llama.cpp and ask for tokens, logits and the ids that end a text.

    Raises UserError if llama.cpp does not stop at a stop token. Keys and values are kept in float32, so that what is seen is
    the export's error and not the cache's.
    """
    import llama_cpp
    import numpy as np

    longest = max(map(len, wanted.text_ids))
    sizes = {"n_ctx": longest, "n_batch": longest, "n_ubatch": longest}
    llama = llama_cpp.Llama(str(path), **sizes, logits_all=True, verbose=False, type_k=0, type_v=0)
    logits = []
    for ids in wanted.text_ids:
        llama.reset()
        llama.eval(ids)
        logits.append(np.array(llama.scores[: len(ids)]))
    for index in wanted.stop_ids:
        if not llama_cpp.llama_vocab_is_eog(llama._model.vocab, index):
            raise UserError(f"llama.cpp would not stop at token {index}; nothing was exported")
    judged = [
        (text, ids)
        for text, ids in zip(wanted.slices, wanted.slice_ids, strict=True)
        if not any(c in text for c in OUTSIDE_GGUF)
    ]
    different = [text for text, ids in judged if llama.tokenize(text.encode(), add_bos=False, special=True) != ids]
    if different:
        print(f"first slice that tokenizes otherwise: {different[0]!r}", file=sys.stderr)
    return Verdict("llama.cpp", *compare_logits(logits, wanted.logits), len(judged), len(different))


def judge_by_transformers(path: Path, wanted: Original) -> Verdict:
    """Load the file with the GGUF reader of transformers and compare logits; its tokenizer reader is no judge, so none is asked."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32").eval()
    return Verdict("transformers", *compare_logits(all_logits(model, wanted.text_ids), wanted.logits), None, None)


def check_verdict(verdict: Verdict, wanted: Original, kind: str) -> None:
    """Raise UserError if the export is not the model; the caller then deletes it."""
    limit = LOGIT_LIMITS[kind] * wanted.bf16_error
    print(f"{verdict.sentence()}; bfloat16 costs transformers {wanted.bf16_error:.2e}", file=sys.stderr)
    if not verdict.logit_error <= limit:  # also where it is not a number
        raise UserError(
            f"the export's logits differ by {verdict.logit_error:.2e}; {LOGIT_LIMITS[kind]:g} x the {wanted.bf16_error:.2e} that "
            f"bfloat16 costs = {limit:.2e} is allowed; it was deleted"
        )
    if verdict.num_different:
        raise UserError(
            f"{verdict.num_different:,} of {verdict.num_slices:,} slices tokenize otherwise in the export; it was deleted"
        )


def export_gguf(flags: Any) -> int:
    """The subcommand: write under a temporary name, judge, rename."""
    need_package("gguf", "gguf")
    judge = judge_by_llama_cpp
    if importlib.util.find_spec("llama_cpp") is None:
        need_package("accelerate", "accelerate")  # the GGUF reader of transformers asks for it
        judge = judge_by_transformers
    config = check_checkpoint(flags.model, flags.model)
    wanted = original(flags.model, flags.dataset, flags.num_slices, flags.seed)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    partial = flags.out.with_name(flags.out.name + ".partial")
    try:
        write_gguf(flags.model, config, flags.type, flags.name or flags.out.stem, partial)
        check_verdict(judge(partial, wanted), wanted, flags.type)
        partial.replace(flags.out)
    finally:
        partial.unlink(missing_ok=True)
    print(flags.out)
    return 0


# --- a folder that every loader reads ---


def write_portable(folder: Path, target: Path) -> None:
    """The model in a new folder, as transformers 4.57 and 5, vLLM and mlx-lm read it alike; the weights are hard links or copies.

    config.json gets the names that transformers 4 knows (rope_theta, torch_dtype) beside those of 5; generation_config.json
    ends a text at </s> and at the end of a chat turn.
    """
    target.mkdir(parents=True)
    config = read_config(folder)
    rope = config.get("rope_parameters") or {}
    config["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    config["torch_dtype"] = config.get("dtype", config.get("torch_dtype", "float32"))
    stops = [config["eos_token_id"], special_id(folder, END_OF_TURN)]
    ids = {"bos_token_id": config["bos_token_id"], "eos_token_id": stops, "pad_token_id": config["pad_token_id"]}
    for name, content in (("config.json", config), ("generation_config.json", ids)):
        with atomic_write(target / name) as file:
            json.dump(content, file, indent=2)
            file.write("\n")
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]):
        link_or_copy(path, target / path.name)
    copy_tokenizer(folder, target)


def special_id(folder: Path, token: str) -> int:
    """The id of a special token in a tokenizer's folder."""
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return next(int(one["id"]) for one in added if one["content"] == token)


def link_or_copy(source: Path, target: Path) -> None:
    """Another name for the same bytes where the file system can, else a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def copy_tokenizer(folder: Path, target: Path) -> None:
    """The tokenizer's files as train_tokenizer.py wrote them: what loaders save of their own is not read alike by all."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that gets the name `out` when the block ends, and is deleted when it raises."""
    if out.exists():
        raise UserError(f"{out} exists already; remove it, or give --out another name")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# --- MLX ---


def judge_by_mlx(folder: Path, wanted: Original) -> Verdict:
    """Load the folder in mlx-lm and ask for tokens, logits and the ids that end a text.

    Scales and activations are computed in float32, so that what is seen is the export's error; and on a CPU MLX multiplies
    quantized float16 matrices 30 times more slowly.
    """
    import mlx.core as mx
    import mlx_lm
    import numpy as np

    model, tokenizer = mlx_lm.load(str(folder))
    model.set_dtype(mx.float32)
    logits = [np.array(model(mx.array([ids]))[0].astype(mx.float32)) for ids in wanted.text_ids]
    if missing := set(wanted.stop_ids) - set(tokenizer.eos_token_ids):
        raise UserError(f"mlx-lm would not stop at the tokens {sorted(missing)}; nothing was exported")
    pairs = zip(wanted.slices, wanted.slice_ids, strict=True)
    num_different = sum(tokenizer.encode(text, add_special_tokens=False) != ids for text, ids in pairs)
    return Verdict("mlx-lm", *compare_logits(logits, wanted.logits), len(wanted.slices), num_different)


def export_mlx(flags: Any) -> int:
    """The subcommand: mlx-lm converts a portable copy, the tokenizer's own files go beside it, the judge decides."""
    need_package("mlx", "mlx[cpu]")
    need_package("mlx_lm", "mlx-lm")
    check_checkpoint(flags.model, flags.model)
    with new_folder(flags.out) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as scratch:
        wanted = original(flags.model, flags.dataset, flags.num_slices, flags.seed)
        import mlx_lm

        write_portable(flags.model, Path(scratch) / "portable")
        how: dict[str, Any] = {"dtype": "bfloat16"}
        if flags.bits is not None:
            how = {"dtype": MLX_SCALES, "quantize": True, "q_bits": flags.bits, "q_group_size": MLX_GROUP}
        with contextlib.redirect_stdout(sys.stderr):
            mlx_lm.convert(str(Path(scratch) / "portable"), mlx_path=str(partial), **how)
        for extra in ("README.md", "chat_template.jinja"):
            (partial / extra).unlink(missing_ok=True)
        copy_tokenizer(flags.model, partial)
        check_verdict(judge_by_mlx(partial, wanted), wanted, "bf16" if flags.bits is None else f"{flags.bits} bits")
    print(flags.out)
    return 0


# --- the hub ---

NEEDED_FACTS = ("seq_len", "num_tokens", "num_steps", "val_loss", "hours", "num_gpus", "device", "seed")


@dataclass(frozen=True)
class Records:
    """What a run and its data wrote about themselves, checked against each other.

    `manifests` and `files` go by dataset folder: manifest.json, and the packed training tokens with their headers.
    """

    config: dict[str, Any]
    facts: dict[str, Any]
    metrics: list[dict[str, Any]]
    manifests: dict[Path, dict[str, Any]]
    files: list[TokenFile]
    evaluation: dict[str, Any]
    num_parameters: int


def read_records(model: Path, metrics: Path, datasets: Sequence[Path], evaluation: Path) -> Records:
    """Read the records; a UserError names the first that is missing or that does not belong to the others."""
    config = check_checkpoint(model, model)
    facts = training_facts(model)
    if absent := [key for key in NEEDED_FACTS if facts.get(key) is None]:
        raise UserError(
            f"{model / 'training.json'} does not say {', '.join(absent)}; publish the folder that train.py wrote"
        )
    lines = list(read_jsonl(need_file(metrics, "the run's metrics")))
    last_step = max((line["step"] for line in lines), default=0)
    if last_step != facts["num_steps"]:
        raise UserError(
            f"{metrics} ends at step {last_step:,}, the model is of step {facts['num_steps']:,}; give its own metrics.jsonl"
        )
    manifests = {}
    for dataset in datasets:
        path = need_file(dataset / "manifest.json", "the account of the data")
        manifests[dataset] = manifest = json.loads(path.read_text(encoding="utf-8"))
        papers = manifest["papers"]
        if papers["in"] != papers["kept"] + papers["rejected"]:
            raise UserError(
                f"{path}: {papers['in']:,} in are not {papers['kept']:,} kept + {papers['rejected']:,} rejected"
            )
    files = [file for dataset in datasets for file in open_split(dataset, "train", tokenizer=model)]
    read = data_fingerprint([file for dataset in datasets for file in open_split(dataset, "train", part=None)])
    if facts.get("data", read) != read:
        raise UserError(
            f"the model was trained on the tokens {facts['data']}, the datasets given are {read}; give those that it read"
        )
    result = json.loads(need_file(evaluation, "the evaluation").read_text(encoding="utf-8"))
    if result.get("weights_sha256") != (own := weights_sha256(model)):
        seen = str(result.get("weights_sha256"))[:12]
        raise UserError(
            f"{evaluation} is of the weights {seen}, {model} has {own[:12]}; run evaluate.py perplexity --out again"
        )
    return Records(config, facts, lines, manifests, files, result, count_parameters(model, config))


def count_parameters(folder: Path, config: Mapping[str, Any]) -> int:
    """The entries of all tensors of a checkpoint."""
    return sum(math.prod(shape) for shape in tensor_shapes(tensor_places(folder, config["num_hidden_layers"])))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; whole numbers get their commas."""
    lines = [
        head,
        ["---"] * len(head),
        *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def card_front(name: str, licence: str, records: Records) -> str:
    """The card's front matter, title and first sentence."""
    facts = records.facts
    return f"""---
license: {licence}
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [mathematics, physics, latex, arxiv]
---

# {name}

A Llama model of {records.num_parameters:,} parameters (counted), trained from random weights on {facts["num_tokens"]:,} tokens of scientific LaTeX.
On text that training never saw it needs {records.evaluation["tables"]["all"][0]["bits_per_byte"]:.4f} bits per byte.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("Let $p$ be a prime number. Then", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=60)[0]))
```
"""


def card_model(records: Records) -> str:
    """The architecture, from config.json."""
    config = records.config
    names = {
        "num_hidden_layers": "layers",
        "hidden_size": "hidden size",
        "intermediate_size": "feed-forward size",
        "num_attention_heads": "query heads",
        "num_key_value_heads": "key and value heads",
        "vocab_size": "rows of the embedding",
        "max_position_embeddings": "positions",
    }
    return "## Model\n\n" + table(["", ""], [(label, config[key]) for key, label in names.items()])


def card_data(records: Records) -> str:
    """What was read, and what became of what was not."""
    by_source: dict[str, list[int]] = {}
    for file in records.files:
        counts = (file.header.num_documents, file.header.num_tokens, file.header.num_text_bytes)
        by_source[file.source] = [a + b for a, b in zip(by_source.get(file.source, [0, 0, 0]), counts, strict=True)]
    sources = [(source, *counts) for source, counts in by_source.items()]
    text = "## Data\n\n" + table(["source", "documents", "tokens", "bytes of text"], sources)
    passes = records.facts["num_tokens"] / max(sum(file.header.num_tokens for file in records.files), 1)
    text += f"\nThe {records.facts['num_tokens']:,} tokens of training are {passes:.2f} passes over these.\n"
    for dataset, manifest in records.manifests.items():
        papers = manifest["papers"]
        text += (
            f"\n{dataset.name}: {papers['in']:,} e-prints in = {papers['kept']:,} kept + {papers['rejected']:,} rejected; "
            f"of the kept {papers['train']:,} train and {papers['val']:,} validate.\n\n"
        )
        rows = [
            (
                row["stage"],
                row["in"],
                ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items()) or "-",
                row["left"],
            )
            for row in manifest.get("funnel", [])
        ]
        text += table(["stage", "in", "dropped", "left"], rows)
        if leak := manifest.get("leak_check"):
            text += f"\n{leak[0].upper()}{leak[1:]}.\n"
    return text


def card_training(records: Records) -> str:
    """How it was trained, with the picture of the loss."""
    facts = records.facts
    return (
        f"## Training\n\n{facts['num_steps']:,} steps, {facts['num_tokens']:,} tokens in sequences of {facts['seq_len']:,}, seed {facts['seed']}; "
        f"{facts['hours']:,.2f} hours on {facts['num_gpus']} x {facts['device']}. Loss on validation at the end: {facts['val_loss']:.4f} nats a token.\n\n"
        f"![Loss by tokens]({CURVE})\n"
    )


def card_post_training(records: Records) -> str:
    """The stages after pretraining, in their order; nothing where there were none."""
    rows = [
        (
            stage["method"],
            ", ".join(Path(folder).name for folder in stage["data"]),
            sum(count for fate, count in stage["conversations"].items() if fate in ("whole", "cut")),
            stage["num_steps"],
            f"{stage['lr']:g}",
            "all weights" if stage["lora_rank"] is None else f"LoRA, rank {stage['lora_rank']}",
            f"{stage['hours']:.2f}",
        )
        for stage in records.facts.get("post_training", [])
    ]
    head = ["method", "data", "records", "steps", "learning rate", "trained", "hours"]
    return "## After pretraining\n\n" + table(head, rows) if rows else ""


def card_evaluation(records: Records) -> str:
    """The tables of evaluate.py perplexity."""
    result = records.evaluation
    rows = []
    for name, lines in result["tables"].items():
        for line in lines:
            ends = "-" if line["interval"] is None else "[{:.4f}, {:.4f}]".format(*line["interval"])
            rows.append(
                (
                    name,
                    line["name"],
                    f"{line['bits_per_byte']:.4f}",
                    ends,
                    f"{line['token_perplexity']:,.2f}",
                    line["num_documents"],
                )
            )
    head = ["table", "part", "bits per byte", "95% interval", "token perplexity", "documents"]
    return (
        f"## Evaluation\n\nSliding windows of {result['context_tokens']:,} tokens, every byte predicted once; intervals by drawing documents "
        "anew. Token perplexity depends on the tokenizer: compare models by bits per byte.\n\n" + table(head, rows)
    )


def card_limits(records: Records) -> str:
    """What a user must know before trusting the model."""
    facts, positions = records.facts, records.config["max_position_embeddings"]
    limits = [
        "It goes on with text; it was not trained to follow instructions, and nothing was done to make its answers safe."
        if not facts.get("post_training")
        else "It was trained to answer; nothing was done to make its answers safe.",
        "What it writes looks like mathematics and need not be true: check every step.",
        "It read scientific English; other languages and everyday subjects are foreign to it.",
        "The texts keep their authors' licences, which each record of the data names.",
    ]
    if facts["seq_len"] < positions:
        limits.append(
            f"Training showed it {facts['seq_len']:,} tokens at once; the positions up to {positions:,} are untrained."
        )
    return "## Limitations\n\n" + "".join(f"- {one}\n" for one in limits)


def draw_curve(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss on train and val by tokens, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for kind, style in (("train", "-"), ("val", "o-")):
        points = [(line["tokens"], line["loss"]) for line in metrics if line.get("kind") == kind]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=kind, linewidth=1, markersize=3)
    axes.set(xlabel="tokens", ylabel="loss, nats a token")
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def export_hub(flags: Any) -> int:
    """The subcommand: check the records, then write model, tokenizer, card and picture."""
    need_package("matplotlib", "matplotlib")
    metrics = flags.metrics or flags.model.parent / "metrics.jsonl"
    records = read_records(flags.model, metrics, flags.dataset, flags.evaluation)
    name = flags.name or flags.out.name
    parts = [card_front(name, flags.licence, records), card_model(records), card_data(records)]
    parts += [card_training(records), card_post_training(records), card_evaluation(records), card_limits(records)]
    with new_folder(flags.out) as partial:
        write_portable(flags.model, partial)
        shutil.copyfile(flags.model / "training.json", partial / "training.json")
        draw_curve(records.metrics, partial / CURVE)
        with atomic_write(partial / "README.md") as file:
            file.write("\n".join(part for part in parts if part))
    print(flags.out)
    return 0


def add_judged(words: Parser) -> None:
    """The flags of an export that a judge looks at."""
    words.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder, say runs/pretrain/hf"
    )
    words.add_argument("--dataset", type=Path, metavar="DIR", help="judge with slices of its val.jsonl")
    words.add_argument(
        "--num-slices", type=positive, default=1_000, help="texts to tokenize both ways (default %(default)s)"
    )
    words.add_argument("--seed", type=int, default=0, help="of the slices (default %(default)s)")


def parser() -> Parser:
    """The command line."""
    words = Parser(prog="export.py", description=__doc__)
    commands = words.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("gguf", help="one file for llama.cpp", description=__doc__)
    add_judged(one)
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .gguf file to write")
    one.add_argument("--type", choices=list(FILE_TYPES), default="bf16", help="of the matrices (default %(default)s)")
    one.add_argument("--name", help="the model's name in the file (default: the file's)")
    one.set_defaults(work=export_gguf)
    two = commands.add_parser("mlx", help="a folder for mlx-lm", description=__doc__)
    add_judged(two)
    two.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    two.add_argument("--bits", type=int, choices=[4, 8], help="quantize the matrices (default: bfloat16)")
    two.set_defaults(work=export_mlx)
    three = commands.add_parser("hub", help="a folder with a model card, to publish", description=__doc__)
    three.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder, say runs/pretrain/hf"
    )
    three.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    three.add_argument(
        "--dataset", type=Path, required=True, nargs="+", metavar="DIR", help="each dataset that it read"
    )
    three.add_argument("--evaluation", type=Path, required=True, metavar="FILE", help="of evaluate.py perplexity --out")
    three.add_argument("--licence", required=True, help="of the weights, as the hub names it, say apache-2.0")
    three.add_argument(
        "--metrics", type=Path, metavar="FILE", help="the run's (default: metrics.jsonl beside the model)"
    )
    three.add_argument("--name", help="the model's name on the card (default: the folder's)")
    three.set_defaults(work=export_hub)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the docstring of this file."""
    flags = parser().parse_args(argv)
    return int(flags.work(flags))


if __name__ == "__main__":
    run(main)
