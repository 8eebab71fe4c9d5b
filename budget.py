"""What a training run costs: parameters, FLOPs, memory of a GPU, hours. Plain arithmetic, without torch.

In: the numbers of a LlamaConfig, of the run and of a GPU. Out: counts, and the sentences of `python train.py --plan`.

It stands beside train.py, not in it, because it computes nothing of a run: train.py asks it before the first step, evaluation and
tests ask it without one. The figures of memory are derived; what was measured of them stands in docs/LOG.md.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.cli import UserError, need_file

# --- cards ---


class Card(NamedTuple):
    """A GPU: peak of dense bf16 matrix arithmetic (without sparsity) in TFLOP/s, and memory in 10^9 bytes."""

    name: str
    peak_tflops: float
    memory_gb: float

    @property
    def peak(self) -> float:
        """FLOP/s."""
        return self.peak_tflops * 1e12


# From the vendors' data sheets. The first whose key is part of the device's name (in small letters and digits) counts.
CARDS: dict[str, Card] = {
    "b200": Card("NVIDIA B200", 2250.0, 180.0),
    "h200": Card("NVIDIA H200 SXM", 989.4, 141.0),
    "h100pcie": Card("NVIDIA H100 PCIe", 756.0, 80.0),
    "h100nvl": Card("NVIDIA H100 NVL", 835.0, 94.0),
    "h100": Card("NVIDIA H100 SXM", 989.4, 80.0),
    "a100sxm440gb": Card("NVIDIA A100 40 GB", 312.0, 40.0),
    "a100pcie40gb": Card("NVIDIA A100 40 GB", 312.0, 40.0),
    "a100": Card("NVIDIA A100 80 GB", 312.0, 80.0),
    "l40s": Card("NVIDIA L40S", 362.0, 48.0),
    "a40": Card("NVIDIA A40", 149.7, 48.0),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 165.2, 24.0),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", 71.0, 24.0),
    "l4": Card("NVIDIA L4", 121.0, 24.0),
}


def find_card(device_name: str) -> Card | None:
    """The card whose key is part of a device's name: 'NVIDIA A100-SXM4-40GB' -> A100 40 GB; None if no key is."""
    plain = "".join(c for c in device_name.lower() if c.isalnum())
    return next((card for key, card in CARDS.items() if key in plain), None)


# --- the model ---

# What a LlamaConfig knows; it would keep any other key in silence. The first string has what decides the weights and their use.
SHAPE_KEYS = """attention_bias attention_dropout head_dim hidden_act hidden_size initializer_range intermediate_size mlp_bias
    model_type num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters rope_scaling rope_theta
    tie_word_embeddings vocab_size"""
OTHER_KEYS = """architectures bos_token_id dtype eos_token_id max_position_embeddings pad_token_id pretraining_tp torch_dtype
    transformers_version use_cache"""


class Shape(NamedTuple):
    """The numbers of a LlamaConfig that decide its size. `attention` and `kv` are widths: heads x head dimension."""

    layers: int
    hidden: int
    feed_forward: int
    vocab: int
    heads: int
    attention: int
    kv: int
    tied: bool


def read_config(path: Path) -> dict[str, Any]:
    """The model's config.json; a UserError if it is no LlamaConfig that we can train, or has a key that means nothing."""
    try:
        config = json.loads(need_file(path, "model config").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model config {path} is not JSON ({error})") from None
    seen = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if seen != "llama":
        raise UserError(f"model config {path} says model_type {seen!r}; 'llama' is needed")
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [key for key in needed if not isinstance(config.get(key), int) or config[key] < 1]:
        raise UserError(f"model config {path} lacks {', '.join(missing)} (a whole number above 0)")
    if unknown := sorted(set(config) - set(f"{SHAPE_KEYS} {OTHER_KEYS}".split())):
        raise UserError(f"model config {path} has the unknown key {unknown[0]!r}; remove it or spell it right")
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    if config["hidden_size"] % heads or heads % kv_heads:
        raise UserError(
            f"model config {path}: hidden_size {config['hidden_size']} must be a multiple of {heads} heads, and those of "
            f"{kv_heads} key-value heads"
        )
    return dict(config)


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The Shape of a LlamaConfig, with its defaults for what is left out."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        vocab=config["vocab_size"],
        heads=heads,
        attention=heads * head_dim,
        kv=kv_heads * head_dim,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def layer_matrices(shape: Shape) -> int:
    """Weights in the matrices of a layer: q and o, k and v, gate, up and down."""
    return 2 * shape.hidden * (shape.attention + shape.kv) + 3 * shape.hidden * shape.feed_forward


def count_parameters(shape: Shape) -> int:
    """Embedding, layers with two norms each, the last norm, and the head if it is not the embedding: 1,633,781,760."""
    vocab_matrices = 1 if shape.tied else 2
    layers = shape.layers * (layer_matrices(shape) + 2 * shape.hidden)
    return vocab_matrices * shape.vocab * shape.hidden + layers + shape.hidden


def flops_per_token(shape: Shape, seq_len: int, *, causal: bool = False) -> float:
    """FLOPs of training on one token, forward and backward: 6 per weight of a matrix (the embedding is none) and attention.

    Attention counts 12 x layers x width x seq_len if all of the square counts (PaLM's convention), half of that if only the causal
    half does: 8.997e9 and 8.770e9 for the published model at 768 tokens. What checkpointing computes again is not counted.
    """
    matrices = shape.layers * layer_matrices(shape) + shape.vocab * shape.hidden
    return 6 * matrices + (6 if causal else 12) * shape.layers * shape.attention * seq_len


def recomputed_frac(shape: Shape, seq_len: int, checkpointed: int) -> float:
    """FLOPs that checkpointing adds, as a share of flops_per_token: 0.287 for all layers of the published model."""
    forward = 2 * layer_matrices(shape) + 4 * shape.attention * seq_len
    return checkpointed * forward / flops_per_token(shape, seq_len)


# --- memory ---

CHECKPOINT_BYTES = (
    14  # a parameter on disk: bf16 weight (2), and in fp32 the master copy and AdamW's two moments (3 x 4)
)
LOSS_CHUNK = 512  # rows whose logits exist at once, see linear_cross_entropy in train.py
CONTEXT_BYTES = 1_000_000_000  # CUDA context, cuBLAS workspaces, NCCL buffers: an estimate
SLACK_FRAC = 0.04  # what the allocator loses to fragments: an estimate


class Memory(NamedTuple):
    """Bytes on one GPU at the worst moment of a step, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    buckets: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        """All of them, the allocator's slack, and what CUDA takes for itself."""
        return sum(self) * (1 + SLACK_FRAC) + CONTEXT_BYTES


def layer_activation_bytes(shape: Shape, *, fused: bool) -> int:
    """Bytes that a layer keeps for the backward pass, per token, in bf16 with SDPA or flash attention.

    Without fusion: of each norm its input in fp32 twice over (as read and as normalised) and twice in bf16, 2 x 8h; attention's q, k, v
    and output, 4a + 4kv; gate, up, SiLU and product, 8f; two fp32 roots and a log-sum for each head. 93,256 for the published
    model. Fused layers (torch.compile, Liger) keep no fp32 copies and neither SiLU nor product: 54,856.
    """
    norms, feed_forward = (8, 4) if fused else (16, 8)
    attention = 4 * shape.attention + 4 * shape.kv
    return norms * shape.hidden + attention + feed_forward * shape.feed_forward + 4 * shape.heads + 8


def activation_bytes(shape: Shape, num_tokens: int, checkpointed: int, *, fused: bool) -> int:
    """Bytes kept for the backward pass of `num_tokens` tokens: a checkpointed layer keeps its input, and one at a time comes back."""
    layer = layer_activation_bytes(shape, fused=fused)
    kept = (shape.layers - checkpointed) * layer + checkpointed * 2 * shape.hidden
    again = layer if checkpointed else 0
    outside = 8 * shape.hidden  # last norm, hidden states and their gradient
    return num_tokens * (kept + again + outside)


def loss_bytes(shape: Shape) -> int:
    """Bytes of the chunked loss: the head's gradient in fp32, beside it first a chunk's logits (8 bytes each), then itself in bf16."""
    return 4 * shape.vocab * shape.hidden + max(2 * shape.vocab * shape.hidden, 8 * LOSS_CHUNK * shape.vocab)


def plan_memory(
    shape: Shape,
    *,
    gpus: int,
    stage: int,
    micro_batch: int,
    seq_len: int,
    checkpointed: int,
    fused: bool = False,
    bucket_elements: float = 5e8,
) -> Memory:
    """Memory of one GPU for `micro_batch` sequences at once under ZeRO `stage`, gradients accumulated in fp32.

    AdamW's state is 12 bytes a parameter (fp32 weight and two moments), shared by the GPUs from stage 1 on; the fp32 gradient (4 bytes)
    is shared from stage 2 on, before that the bf16 gradient (2 bytes) lies beside it.
    """
    parameters, num_tokens = count_parameters(shape), micro_batch * seq_len
    gradients = 4 * parameters / gpus if stage == 2 else 6 * parameters
    transient = num_tokens * (6 * shape.feed_forward + 8 * shape.hidden)  # gradients inside the layer that is worked on
    return Memory(
        weights=2 * parameters,
        gradients=gradients,
        optimizer=12 * parameters / (gpus if stage else 1),
        buckets=2 * 2 * min(bucket_elements, parameters) if gpus > 1 else 0,
        activations=activation_bytes(shape, num_tokens, checkpointed, fused=fused) + transient,
        loss=loss_bytes(shape),
    )


class Choice(NamedTuple):
    """How to run on a card: ZeRO stage, sequences at once, layers to checkpoint, and the memory that this takes."""

    stage: int
    micro_batch: int
    checkpointed: int
    memory: Memory


LINK_BYTES_PER_S = 100e9  # between GPUs, in one direction: NVLink gives two to nine times that, PCIe 4 a quarter
FULL_SPEED_TOKENS = (
    512  # a micro-batch of t tokens runs at t / (t + 512) of full speed: a guess that prefers large ones
)


def choose_plan(
    shape: Shape,
    *,
    memory_bytes: float,
    gpus: int,
    global_batch: int,
    seq_len: int,
    fused: bool = False,
    max_micro_batch: int = 64,
) -> Choice | None:
    """The fastest way to run `global_batch` sequences per step on cards of `memory_bytes`, by this arithmetic; None if none fits.

    Time per token is compute, with what checkpointing computes again, plus sending gradients (2 bytes a parameter, in ZeRO-2 for each
    micro-batch, in ZeRO-1 once a step). The global batch is never changed: only micro-batches that divide it are tried.
    """
    parameters, flops = count_parameters(shape), flops_per_token(shape, seq_len)

    def seconds_per_token(stage: int, micro: int, checkpointed: int) -> float:
        tokens = micro * seq_len
        compute = flops * (1 + recomputed_frac(shape, seq_len, checkpointed)) / (0.6 * CARDS["a100"].peak)
        messages = 1 if stage == 2 else micro * gpus / global_batch
        send = 2 * parameters * messages / LINK_BYTES_PER_S / tokens if gpus > 1 else 0.0
        return compute * (tokens + FULL_SPEED_TOKENS) / tokens + send

    best: tuple[float, int, Choice] | None = None
    divisors = [m for m in range(1, max_micro_batch + 1) if global_batch % (m * gpus) == 0]
    for stage in (2, 1) if gpus > 1 else (2,):
        for micro in divisors:
            for checkpointed in range(shape.layers + 1):
                memory = plan_memory(
                    shape,
                    gpus=gpus,
                    stage=stage,
                    micro_batch=micro,
                    seq_len=seq_len,
                    checkpointed=checkpointed,
                    fused=fused,
                )
                if memory.total <= memory_bytes:
                    rank = (
                        seconds_per_token(stage, micro, checkpointed),
                        -stage,
                        Choice(stage, micro, checkpointed, memory),
                    )
                    best = rank if best is None or rank[:2] < best[:2] else best
                    break  # fewer checkpointed layers are always faster
    return None if best is None else best[2]


# --- sentences ---

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, as the paper uses it
BYTES_PER_TOKEN = 3.0  # measured, with our tokenizer of 102,400 pieces: docs/LOG.md
PAPER_BYTES_PER_TOKEN = (3.0, 4.0)  # the paper's rule: one billion tokens from 3 to 4 GB of text


def gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"


def model_sentences(shape: Shape, seq_len: int) -> list[str]:
    """Size and FLOPs of the model."""
    vocab, per_layer = f"{shape.vocab:,} x {shape.hidden:,}", layer_matrices(shape) + 2 * shape.hidden
    matrices = vocab if shape.tied else f"2 x {vocab}"
    unit, size = ("GFLOP", 1e9) if flops_per_token(shape, seq_len) >= 1e8 else ("MFLOP", 1e6)
    full, half = (flops_per_token(shape, seq_len, causal=causal) / size for causal in (False, True))
    return [
        f"Model: {matrices} + {shape.layers} layers x {per_layer:,} + {shape.hidden:,} = {count_parameters(shape):,} parameters.",
        f"A token costs {full:.2f} {unit} in training at {seq_len} tokens, {half:.2f} if attention counts its causal half only.",
    ]


def batch_sentence(gpus: int, micro_batch: int, seq_len: int, accumulation: int) -> str:
    """'2 GPUs x 32 sequences x 768 tokens x 32 accumulation = 1,572,864 tokens per step.'"""
    tokens = gpus * micro_batch * seq_len * accumulation
    return f"{gpus} GPUs x {micro_batch} sequences x {seq_len} tokens x {accumulation} accumulation = {tokens:,} tokens per step."


def token_sentences(shape: Shape, tokens: float, available: int | None, text_bytes: int | None) -> list[str]:
    """Tokens wanted, advised and there; `available` is None where nothing is packed, `text_bytes` None where there is no text."""
    parameters = count_parameters(shape)
    ratio, advised = tokens / parameters, CHINCHILLA_TOKENS_PER_PARAMETER * parameters
    regime = "below" if ratio < 16 else "about" if ratio < 25 else "beyond"
    rule = f"{CHINCHILLA_TOKENS_PER_PARAMETER} x {parameters / 1e9:.3f} billion = {advised / 1e9:.1f} billion"
    lines = [
        f"{tokens / 1e9:,.2f} billion tokens are {ratio:.1f} per parameter, {regime} the Chinchilla rule of {rule}."
    ]
    if available is not None:
        lines.append(f"Packed are {available:,} tokens: {tokens / available:.2f} epochs.")
    elif text_bytes is not None:
        guess, few, many = (text_bytes / n / 1e9 for n in (BYTES_PER_TOKEN, *reversed(PAPER_BYTES_PER_TOKEN)))
        lines.append(
            f"Not packed yet: {gb(text_bytes)} of text / {BYTES_PER_TOKEN} bytes per token = {guess:.3f} billion tokens "
            f"(by the paper's rule {few:.3f} to {many:.3f})."
        )
    else:
        lines.append("The dataset folder holds no text and no packed tokens yet.")
    return lines


def memory_sentences(shape: Shape, card: Card, gpus: int, micro_batch: int, seq_len: int) -> list[str]:
    """Memory under ZeRO-2 with and without checkpointing, and the size of checkpoints."""
    lines = []
    for checkpointed, fused in ((shape.layers, False), (0, False), (0, True)):
        m = plan_memory(
            shape, gpus=gpus, stage=2, micro_batch=micro_batch, seq_len=seq_len, checkpointed=checkpointed, fused=fused
        )
        mode = (
            ("all layers" if checkpointed else "no layer") + " checkpointed" + (" and compiled layers" if fused else "")
        )
        parts = ", ".join(f"{name} {gb(value)}" for name, value in m._asdict().items())
        fits = "fits" if m.total <= card.memory_gb * 1e9 else "does not fit"
        lines.append(
            f"ZeRO-2 with {mode}: {parts}; with slack and context {gb(m.total)}, which {fits} the {card.name}."
        )
    parameters = count_parameters(shape)
    lines.append(f"A checkpoint takes {parameters:,} x {CHECKPOINT_BYTES} bytes = {gb(parameters * CHECKPOINT_BYTES)}.")
    lines.append(f"The Hugging Face folder takes {parameters:,} x 2 bytes = {gb(parameters * 2)}.")
    return lines


def time_sentence(shape: Shape, seq_len: int, tokens: float, card: Card, gpus: int, mfu: float) -> str:
    """Hours and GPU-hours at a share of the card's peak."""
    tokens_per_s = mfu * card.peak / flops_per_token(shape, seq_len)
    gpu_hours = tokens / tokens_per_s / 3600
    return (
        f"At {mfu:.0%} of the {card.name}'s {card.peak_tflops:g} TFLOP/s: {tokens_per_s:,.0f} tokens/s per GPU, "
        f"{gpu_hours:,.0f} GPU-hours, {gpu_hours / gpus:,.0f} hours ({gpu_hours / gpus / 24:.1f} days) on {gpus} GPUs."
    )
