"""Train the language model of config.json on packed tokens with DeepSpeed: `deepspeed train.py` is the published run.

In:  config.json (the model), ds_config.json (ZeRO stage, bf16), a dataset folder with train.jsonl and val.jsonl or
     their packed tokens/, a tokenizer's folder. Every setting of the run is a field of `Settings` below, and a flag.
Out: OUT/metrics.jsonl (a JSON line for each logged step), OUT/checkpoints/ (DeepSpeed's, to go on from; whole or
     absent), OUT/hf (safetensors, config, tokenizer: what AutoModelForCausalLM and AutoTokenizer load).

Killed at any moment, the same command goes on from the newest whole checkpoint, on any number of GPUs. SIGTERM,
SIGINT, SIGUSR1, a file OUT/STOP or --max-hours end it with a checkpoint after the step in progress. --plan says what
a run costs; it needs no GPU.

The file reads like a run: what it costs, settings, data, model and loss, optimiser, schedule, step, checkpoints,
watching, the loop.

example: deepspeed train.py
         deepspeed --num_gpus 2 train.py --config recipes/demo/config.json --steps 200 --micro-batch 4 --accumulation 2
         python train.py --plan --gpus 8 --card h100
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import queue
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import typing
import warnings
from argparse import SUPPRESS, BooleanOptionalAction
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple, cast

from data_prep.cli import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_USER,
    Parser,
    UserError,
    atomic_write,
    duration,
    need_file,
    run,
)

ROOT = Path(__file__).resolve().parent
NEVER_LABEL = -100  # the label that a loss passes over, as everywhere in PyTorch
VOCAB_BLOCK = 16_384  # rows of the head whose gradient is made at once: 67 MB in bf16 at hidden size 2,048
GUARD_WINDOW, GUARD_SIGMAS = 128, 6.0  # the steps that say what is usual, and how far from it is too far
LAST_WORDS_S = 900.0  # for a step and a checkpoint, when the launcher is gone and nobody would kill a rank that hangs
# Of a run that went to its end, one that was stopped as planned, and one that was interrupted.
EXIT_CODES = (EXIT_DONE, EXIT_DONE, EXIT_INTERRUPTED)
DEEPSPEED_KEYS = """activation_checkpointing bf16 comms_logger communication_data_type data_types flops_profiler
    gradient_accumulation_steps gradient_clipping gradient_predivide_factor memory_breakdown prescale_gradients steps_per_print
    train_batch_size train_micro_batch_size_per_gpu wall_clock_breakdown zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    zero_optimization"""  # what ds_config.json may say: DeepSpeed itself passes over a key that it does not know


# --- what a run costs: plain arithmetic without torch; what was measured stands in docs/LOG.md ---


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

# What a LlamaConfig knows; it would keep any other key in silence. The first has what decides weights and their use.
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
            f"model config {path}: hidden_size {config['hidden_size']} must be a multiple of {heads} heads, and those "
            f"of {kv_heads} key-value heads"
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
    """FLOPs of training on one token, forward and backward: 6 per weight of a matrix (the embedding is none) and
    attention.

    Attention counts 12 x layers x width x seq_len if all of the square counts (PaLM's convention), half of that if
    only the causal half does: 8.997e9 and 8.770e9 for the published model at 768 tokens. What checkpointing computes
    again is not counted.
    """
    matrices = shape.layers * layer_matrices(shape) + shape.vocab * shape.hidden
    return 6 * matrices + (6 if causal else 12) * shape.layers * shape.attention * seq_len


def recomputed_frac(shape: Shape, seq_len: int, checkpointed: int) -> float:
    """FLOPs that checkpointing adds, as a share of flops_per_token: 0.287 for all layers of the published model."""
    forward = 2 * layer_matrices(shape) + 4 * shape.attention * seq_len
    return checkpointed * forward / flops_per_token(shape, seq_len)


# --- memory ---

CHECKPOINT_BYTES = 14  # a parameter on disk: bf16 weight (2), in fp32 its copy and AdamW's two moments (3 x 4)
LOSS_CHUNK = 512  # rows whose logits exist at once, see linear_cross_entropy
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


def layer_activation_bytes(shape: Shape, *, compiled: bool) -> int:
    """Bytes that a layer keeps for the backward pass, per token, in bf16 with SDPA or flash attention.

    Of each norm its input in fp32 twice over (as read and as normalised) and twice in bf16, 2 x 8h; attention's q, k, v
    and output, 4a + 4kv; gate, up, SiLU and product, 8f; two fp32 roots and a log-sum for each head: 93,256 for the
    published model. A compiled layer keeps no fp32 copies and no SiLU: 65,864. Both are what autograd was seen to keep
    (benchmarks/activation_memory.py) on a CPU; on a GPU nothing was measured.
    """
    norms, feed_forward = (8, 6) if compiled else (16, 8)
    attention = 4 * shape.attention + 4 * shape.kv
    return norms * shape.hidden + attention + feed_forward * shape.feed_forward + 4 * shape.heads + 8


def activation_bytes(shape: Shape, num_tokens: int, checkpointed: int, *, compiled: bool) -> int:
    """Bytes kept for the backward pass of `num_tokens` tokens: a checkpointed layer keeps its input, and one at a
    time comes back.
    """
    layer = layer_activation_bytes(shape, compiled=compiled)
    inputs = max(checkpointed - compiled, 0)  # compiled, the first layer's is looked up in the embedding again
    kept = (shape.layers - checkpointed) * layer + inputs * 2 * shape.hidden
    again = layer if checkpointed else 0
    outside = (4 if compiled else 8) * shape.hidden  # last norm, hidden states and their gradient
    return num_tokens * (kept + again + outside)


def loss_bytes(shape: Shape) -> int:
    """Bytes of the chunked loss: the head's gradient in fp32, beside it first a chunk's logits (8 bytes each), then
    itself in bf16.
    """
    return 4 * shape.vocab * shape.hidden + max(2 * shape.vocab * shape.hidden, 8 * LOSS_CHUNK * shape.vocab)


def plan_memory(
    shape: Shape,
    *,
    gpus: int,
    stage: int,
    micro_batch: int,
    seq_len: int,
    checkpointed: int,
    compiled: bool = False,
    bucket_elements: float = 5e8,
) -> Memory:
    """Memory of one GPU for `micro_batch` sequences at once under ZeRO `stage`, gradients accumulated in fp32.

    AdamW's state is 12 bytes a parameter (fp32 weight and two moments), shared by the GPUs from stage 1 on; the fp32
    gradient (4 bytes) is shared from stage 2 on, before that the bf16 gradient (2 bytes) lies beside it.
    """
    parameters, num_tokens = count_parameters(shape), micro_batch * seq_len
    gradients = 4 * parameters / gpus if stage == 2 else 6 * parameters
    transient = num_tokens * (6 * shape.feed_forward + 8 * shape.hidden)  # gradients inside the layer that is worked on
    return Memory(
        weights=2 * parameters,
        gradients=gradients,
        optimizer=12 * parameters / (gpus if stage else 1),
        buckets=2 * 2 * min(bucket_elements, parameters) if gpus > 1 else 0,
        activations=activation_bytes(shape, num_tokens, checkpointed, compiled=compiled) + transient,
        loss=loss_bytes(shape),
    )


class Choice(NamedTuple):
    """How to run on a card: ZeRO stage, sequences at once, layers to checkpoint, and the memory that this takes."""

    stage: int
    micro_batch: int
    checkpointed: int
    memory: Memory


LINK_BYTES_PER_S = 100e9  # between GPUs, in one direction: NVLink gives two to nine times that, PCIe 4 a quarter
FULL_SPEED_TOKENS = 512  # t tokens at once run at t / (t + 512) of full speed: a guess that prefers large micro-batches


def choose_plan(
    shape: Shape,
    *,
    memory_bytes: float,
    gpus: int,
    global_batch: int,
    seq_len: int,
    compiled: bool = False,
    max_micro_batch: int = 64,
) -> Choice | None:
    """The fastest way to run `global_batch` sequences per step on cards of `memory_bytes`, by this arithmetic; None
    if none fits.

    Time per token is compute, with what checkpointing computes again, plus sending gradients (2 bytes a parameter, in
    ZeRO-2 for each micro-batch, in ZeRO-1 once a step). The global batch is never changed: only micro-batches that
    divide it are tried.
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
                sizes = {"gpus": gpus, "stage": stage, "micro_batch": micro, "seq_len": seq_len}
                memory = plan_memory(shape, **sizes, checkpointed=checkpointed, compiled=compiled)
                if memory.total <= memory_bytes:
                    choice = Choice(stage, micro, checkpointed, memory)
                    rank = (seconds_per_token(stage, micro, checkpointed), -stage, choice)
                    best = rank if best is None or rank[:2] < best[:2] else best
                    break  # fewer checkpointed layers are always faster
    return None if best is None else best[2]


# --- sentences ---

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, as the paper uses it
BYTES_PER_TOKEN = 4.65  # of papers, measured with our tokenizer of 102,400 pieces: docs/LOG.md
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


def batch_sentence(world: int, micro_batch: int, seq_len: int, accumulation: int, unit: str = "GPUs") -> str:
    """'2 GPUs x 32 sequences x 768 tokens x 32 accumulation = 1,572,864 tokens per step.'"""
    tokens = world * micro_batch * seq_len * accumulation
    factors = f"{world} {unit} x {micro_batch} sequences x {seq_len} tokens x {accumulation} accumulation"
    return f"{factors} = {tokens:,} tokens per step."


def token_sentences(shape: Shape, tokens: float, available: int | None, text_bytes: int | None) -> list[str]:
    """Tokens wanted, advised and there; `available` is None where nothing is packed, `text_bytes` None where there is
    no text.
    """
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
    for checkpointed, compiled in ((shape.layers, False), (0, False), (0, True)):
        m = plan_memory(
            shape,
            gpus=gpus,
            stage=2,
            micro_batch=micro_batch,
            seq_len=seq_len,
            checkpointed=checkpointed,
            compiled=compiled,
        )
        mode = (
            ("all layers" if checkpointed else "no layer")
            + " checkpointed"
            + (" and compiled layers" if compiled else "")
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


# --- settings ---

FIXED = "fixed"  # marks a setting that a resumed run must keep, because it decides the curve


@dataclass(frozen=True)
class Settings:
    """The run: each field is a flag, its annotation holds the help. The defaults are the published run's.

    They come from the paper (KiteFish-A1) and its released train.py. What that script leaves to the Hugging Face
    Trainer is the Trainer's default: betas, epsilon, and a linear decay to 0 (a YAML file beside the script says
    cosine, but nothing reads it).
    """

    config: Annotated[Path, "the model: a Hugging Face LlamaConfig"] = ROOT / "config.json"
    deepspeed_config: Annotated[Path, "DeepSpeed's own: ZeRO stage, bf16, buckets"] = ROOT / "ds_config.json"
    dataset: Annotated[Path, "train.jsonl and val.jsonl, or their packed tokens/"] = Path("dataset_train_val")
    tokenizer: Annotated[Path, "the tokenizer's folder"] = Path("tokenizer")
    mixture: Annotated[Path | None, "mixture.json: sources, weights, stages; default: all of --dataset by Table 1"] = (
        None
    )
    curriculum: Annotated[Literal["stages", "none"], "none: full bodies throughout", FIXED] = "stages"
    allow: Annotated[bool, "let a mixture's post-training sources into pretraining"] = False
    out: Annotated[Path, "folder for metrics, checkpoints and the Hugging Face model"] = Path("runs/pretrain")

    seq_len: Annotated[int, "tokens in a sequence", FIXED] = 768
    tokens: Annotated[float, "tokens to train on"] = 52.18e9
    steps: Annotated[int | None, "optimizer steps; default: tokens / tokens per step, rounded up"] = None
    micro_batch: Annotated[int, "sequences that a GPU works on at once"] = 32
    accumulation: Annotated[
        int | None, "micro-batches per step; default: what the global batch asks for, 32 on 2 GPUs"
    ] = None
    global_batch: Annotated[
        int | None, "sequences per step; default: micro-batch x GPUs x accumulation if given, else 2048"
    ] = None
    seed: Annotated[int, "of the initial weights and the order of the data", FIXED] = 0

    optimizer: Annotated[Literal["adamw", "muon"], "muon: Muon for the layers' matrices, AdamW for the rest", FIXED] = (
        "adamw"
    )
    lr: Annotated[float, "AdamW's learning rate at its highest", FIXED] = 2e-4
    muon_lr: Annotated[float | None, "Muon's, in AdamW's units (updates of RMS 0.2); default: --lr", FIXED] = None
    beta1: Annotated[float, "AdamW's decay of the first moment", FIXED] = 0.9
    beta2: Annotated[float, "AdamW's decay of the second moment", FIXED] = 0.999
    epsilon: Annotated[float, "AdamW's epsilon", FIXED] = 1e-8
    weight_decay: Annotated[float, "decoupled weight decay of matrices (norms have none)", FIXED] = 0.1
    clip: Annotated[float, "largest norm of the gradient over all parameters; 0: no clipping", FIXED] = 1.0
    warmup_steps: Annotated[int, "steps over which the learning rate rises from 0", FIXED] = 500
    schedule: Annotated[Literal["linear", "cosine", "constant"], "how it falls after that", FIXED] = "linear"
    final_lr_frac: Annotated[float, "learning rate at the end, as a share of the highest", FIXED] = 0.0

    checkpoint_layers: Annotated[str, "layers whose activations are recomputed: a number, all, auto (what fits)"] = (
        "all"
    )
    compile: Annotated[bool, "torch.compile through DeepSpeed; needs a C++ compiler"] = False
    attention: Annotated[Literal["sdpa", "flash_attention_2", "eager"], "attention kernel"] = "sdpa"
    document_attention: Annotated[bool, "attention stops at the starts of documents", FIXED] = False
    loss_kernel: Annotated[
        Literal["auto", "torch", "liger"], "auto: Liger's, if installed, on a GPU, and equal to ours"
    ] = "auto"

    log_every: Annotated[int, "steps between lines of metrics"] = 10
    eval_every: Annotated[int, "steps between evaluations on val"] = 1000
    eval_sequences: Annotated[int, "sequences of val in an evaluation, at most"] = 2048
    save_every: Annotated[int, "steps between checkpoints"] = 1000
    keep: Annotated[int, "checkpoints to keep, the best not counted"] = 5
    max_hours: Annotated[float | None, "end with a checkpoint after so many hours"] = None
    max_bad_steps: Annotated[int, "stop after so many skipped steps in a row"] = 20
    skip_outliers: Annotated[bool, "skip a step whose loss or gradient norm is beyond 6 sigma of the last 128"] = False
    wandb: Annotated[Literal["auto", "online", "offline", "off"], "auto: online with a login, else off"] = "auto"
    wandb_project: Annotated[str, "wandb project"] = "arxiv-to-model"


HINTS = {name: typing.get_args(hint) for name, hint in typing.get_type_hints(Settings, include_extras=True).items()}


def flag(name: str) -> str:
    """'micro_batch' -> '--micro-batch'."""
    return "--" + name.replace("_", "-")


def parser() -> Parser:
    """The command line: a flag for each field of Settings, and what is no setting of a run."""
    out = Parser(prog="train.py", description=__doc__)
    out.add_argument("--plan", action="store_true", help="print what the run would cost and stop; needs no GPU")
    out.add_argument("--gpus", type=int, default=2, metavar="INT", help="of --plan: number of GPUs (default 2)")
    out.add_argument("--card", choices=list(CARDS), default="a100", help="of --plan: the GPU (default a100)")
    out.add_argument(
        "--mfu", type=float, default=0.5, metavar="FLOAT", help="of --plan: share of the peak reached (default 0.5)"
    )
    out.add_argument(
        "--selftest", action="store_true", help="check that every mode computes the same on this machine, and stop"
    )
    out.add_argument("--local_rank", "--local-rank", type=int, help=SUPPRESS)  # DeepSpeed's launcher adds it
    for f in dataclasses.fields(Settings):
        annotated, text = HINTS[f.name][:2]
        kind: Any = next(t for t in (*typing.get_args(annotated), annotated) if t is not type(None))
        default = f.default.name if f.default in (ROOT / "config.json", ROOT / "ds_config.json") else f.default
        if kind is bool:
            out.add_argument(flag(f.name), action=BooleanOptionalAction, help=text)
            continue
        text += "" if default is None else f" (default {default})"
        if isinstance(kind, str):
            out.add_argument(flag(f.name), choices=typing.get_args(annotated), help=text)
        else:
            out.add_argument(flag(f.name), type=kind, metavar=kind.__name__.upper(), help=text)
    return out


def check_settings(settings: Settings) -> None:
    """Raise a UserError for a number that makes no sense, before anything is loaded."""
    whole = set("weight_decay clip warmup_steps eval_sequences seed final_lr_frac beta1 beta2".split())  # may be 0
    for name, value in dataclasses.asdict(settings).items():
        if isinstance(value, int | float) and not (
            0 <= value < math.inf and (value > 0 or name in whole or value is False)
        ):
            raise UserError(f"{flag(name)} {value}; a number {'from 0 on' if name in whole else 'above 0'} is needed")
    for name in ("beta1", "beta2"):
        if getattr(settings, name) >= 1:
            raise UserError(f"{flag(name)} {getattr(settings, name)}; a number below 1 is needed")
    if settings.checkpoint_layers not in ("all", "auto") and not settings.checkpoint_layers.isdecimal():
        raise UserError(f"--checkpoint-layers {settings.checkpoint_layers}; a number of layers, all or auto is needed")
    if settings.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise UserError("--compile needs a C++ compiler and there is none on PATH; install g++, or leave --compile out")


class Ranks(NamedTuple):
    """Where this process stands among all; each launcher (deepspeed, torchrun) says so in the environment."""

    rank: int
    local_rank: int
    world: int


def read_ranks() -> Ranks:
    """From RANK, LOCAL_RANK and WORLD_SIZE; a lone `python train.py` is rank 0 of 1."""
    return Ranks(
        *(int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    )


class Batches(NamedTuple):
    """How a step's sequences are shared out: global_batch = micro_batch x GPUs x accumulation."""

    global_batch: int
    micro_batch: int
    accumulation: int


def share_out(settings: Settings, world: int, resumed_batch: int | None = None) -> Batches:
    """The batches of a run on `world` GPUs; a UserError if they do not multiply.

    A resumed run keeps its global batch on any number of GPUs: --accumulation gives way, unless --global-batch is
    given too.
    """
    micro, given = settings.micro_batch, settings.accumulation
    product = micro * world * given if given else None
    total = settings.global_batch or resumed_batch or product or 2048
    if settings.global_batch and product not in (None, total):
        raise UserError(
            f"{micro} sequences x {world} GPUs x {given} accumulation = {product} sequences per step, but --global-batch says {total}; "
            "leave one of them out"
        )
    if total % (micro * world):
        fitting = [m for m in range(1, micro + 1) if total % (m * world) == 0]
        advice = f"--micro-batch {fitting[-1]} would do" if fitting else f"take a number of GPUs that divides {total}"
        raise UserError(f"{total} sequences per step are no multiple of {micro} sequences x {world} GPUs; {advice}")
    return Batches(total, micro, total // (micro * world))


# --- data ---


class MicroBatch(NamedTuple):
    """One rank's rows of one micro-batch. `rows` are global row numbers; the tensors are int64 [micro_batch, seq_len]."""

    rows: range
    input_ids: Any
    labels: Any
    position_ids: Any


def rows_of(step: int, micro: int, ranks: Ranks, batches: Batches) -> range:
    """The global rows of one micro-batch: step s owns rows [s x global, (s + 1) x global), whatever the number of
    ranks.
    """
    first = step * batches.global_batch + (micro * ranks.world + ranks.rank) * batches.micro_batch
    return range(first, first + batches.micro_batch)


class Prefetcher:
    """A thread that has the next micro-batches ready (pinned, on a GPU box), so that no step waits for the disk.

    `waited_s` is the time that `next` has spent waiting since it was last set to 0.
    """

    def __init__(self, sequences: Any, wanted: Iterator[range], *, ahead: int = 4, pin: bool = False) -> None:
        self.sequences, self.wanted, self.pin = sequences, wanted, pin
        self.ready: queue.Queue[MicroBatch | Exception] = queue.Queue(ahead)
        self.waited_s, self.stopped = 0.0, False
        self.thread = threading.Thread(target=self.read, daemon=True, name="prefetch")
        self.thread.start()

    def read(self) -> None:
        import torch

        try:
            for rows in itertools.takewhile(lambda _: not self.stopped, self.wanted):
                tensors = [torch.from_numpy(array) for array in self.sequences.rows(rows)]
                self.put(MicroBatch(rows, *(t.pin_memory() if self.pin else t for t in tensors)))
        except (OSError, ValueError, IndexError) as error:  # raised again in the step that wanted the rows
            self.put(error)

    def put(self, item: MicroBatch | Exception) -> None:
        while not self.stopped:
            try:
                self.ready.put(item, timeout=0.2)
                break
            except queue.Full:
                continue

    def next(self) -> MicroBatch:
        begun_s = time.perf_counter()
        item = self.ready.get()
        self.waited_s += time.perf_counter() - begun_s
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.stopped = True
        self.thread.join()


def assert_disjoint(starts: list[list[float]], micro_batch: int) -> None:
    """No row of the step was read twice: the published run fed both GPUs the same batches. `starts` holds each rank's
    first rows.
    """
    ordered = sorted(start for rank in starts for start in rank)
    if any(after - before < micro_batch for before, after in itertools.pairwise(ordered)):
        raise AssertionError(f"ranks have read the same rows: micro-batches of {micro_batch} rows start at {ordered}")


# --- model and loss ---


def cross_entropy_and_gradients(
    hidden: Any, weight: Any, labels: Any, chunk: int, wanted: bool
) -> tuple[Any, Any, Any]:
    """Mean loss (fp32) and, if wanted, its gradients by hidden [N, H] and weight [V, H], in their dtypes; labels
    int64 [N].

    Logits exist for `chunk` rows at a time: fp32 [chunk, V], turned in place into the softmax, then into their
    gradient. The head's gradient is summed in fp32 and rounded once. Rows labelled -100 count for nothing.
    """
    import torch

    valid = labels != NEVER_LABEL
    scale = (valid.float() / valid.sum().clamp_min(1))[:, None]
    targets = labels.clamp_min(0)[:, None]
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if wanted else None
    d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted else None
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        softmax = (hidden[part] @ weight.T).float()
        top = softmax.amax(dim=1, keepdim=True)
        picked = softmax.gather(1, targets[part]) - top
        softmax.sub_(top).exp_()
        total = softmax.sum(dim=1, keepdim=True)
        loss += ((total.log() - picked) * scale[part]).sum()
        if d_hidden is None or d_weight is None:
            continue
        d_logits = softmax.mul_(scale[part] / total).scatter_add_(1, targets[part], -scale[part]).to(weight.dtype)
        d_hidden[part] = d_logits @ weight
        for first in range(0, weight.shape[0], VOCAB_BLOCK):
            block = slice(first, first + VOCAB_BLOCK)
            d_weight[block] += d_logits[:, block].T @ hidden[part]
        del softmax, d_logits  # else they would live until the next chunk's are made
    return loss, d_hidden, None if d_weight is None else d_weight.to(weight.dtype)


@functools.cache
def loss_function() -> Any:
    """The autograd function of `linear_cross_entropy`, made at first use: importing torch takes seconds."""
    import torch

    class LinearCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, labels: Any, chunk: int) -> Any:
            wanted = any(ctx.needs_input_grad[:2])
            loss, *gradients = cross_entropy_and_gradients(hidden, weight, labels, chunk, wanted)
            if wanted:
                ctx.save_for_backward(*gradients)
            return loss

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> Any:
            d_hidden, d_weight = ctx.saved_tensors
            return d_hidden.mul_(outer[0]), d_weight.mul_(outer[0]), None, None

    return LinearCrossEntropy


def linear_cross_entropy(hidden: Any, weight: Any, labels: Any, chunk: int = LOSS_CHUNK) -> Any:
    """Mean cross entropy (fp32) of the logits hidden @ weight.T without ever holding them: memory does not grow with
    N x V.

    hidden [..., H] and weight [V, H] of one dtype, labels int64 [...]. The gradients are made in the forward pass, so
    backward is a multiplication and may run once. At 32 x 768 x 102,400 x 2,048 it takes 1.3 GB where the usual path
    peaks at 30 GB.
    """
    return loss_function().apply(hidden.reshape(-1, hidden.shape[-1]), weight, labels.reshape(-1), chunk)


def choose_loss(kernel: str, hidden_size: int, device: Any) -> Callable[[Any, Any, Any], Any]:
    """Our chunked loss, or Liger's fused one where it is wanted, can run, and gives the same loss and gradients on
    this device.
    """
    import torch

    if kernel == "torch" or (kernel == "auto" and device.type != "cuda"):
        return linear_cross_entropy
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        if kernel == "auto":
            return linear_cross_entropy
        raise UserError(
            "--loss-kernel liger needs the package liger-kernel; pip install liger-kernel, or leave it out"
        ) from None
    liger = LigerFusedLinearCrossEntropyLoss(ignore_index=NEVER_LABEL, accum_dtype=torch.float32)

    def fused(hidden: Any, weight: Any, labels: Any) -> Any:
        return liger(weight, hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1))

    results = []
    for loss_of in (linear_cross_entropy, fused):
        generator = torch.Generator(device).manual_seed(0)
        shapes = ((256, hidden_size), (4096, hidden_size))
        hidden, weight = (
            torch.randn(*shape, generator=generator, device=device, dtype=torch.bfloat16) for shape in shapes
        )
        leaves = (hidden.requires_grad_(), (weight / hidden_size**0.5).requires_grad_())
        loss = loss_of(*leaves, torch.arange(256, device=device))
        results.append([loss.detach().float(), *(g.float() for g in torch.autograd.grad(loss, leaves))])
    errors = [float((a - b).norm() / a.norm()) for a, b in zip(*results, strict=True)]
    if errors[0] < 1e-3 and max(errors) < 2e-2:  # bf16 rounds each gradient by 2^-9 = 0.2% or less, twice
        return fused
    words = f"Liger's loss differs from ours by {errors[0]:.1e}, its gradients by {max(errors[1:]):.1e}"
    if kernel == "liger":
        raise UserError(f"{words} on this machine; take --loss-kernel torch")
    print(f"{words}: ours is used", file=sys.stderr, flush=True)
    return linear_cross_entropy


def build_model(config: Mapping[str, Any], settings: Settings, device: Any) -> Any:
    """The model with its loss: a module called with (input_ids, labels, position_ids or None) that returns the mean
    loss.

    Weights are bf16, drawn on `device` from the seed. RoPE's frequencies stay fp32: a plain .bfloat16() would round
    them, and the gradient would be off by 0.7%.
    """
    import torch
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attention: str = settings.attention
    if attention == "sdpa" and not settings.document_attention:
        # The same kernel under a name for which transformers makes no mask. Else it would look through position_ids in
        # each micro-batch, which waits for the GPU, and compiled make a mask always, which shuts out flash attention.
        attention = "causal_sdpa"
        AttentionInterface.register(attention, sdpa_attention_forward)

    class ModelWithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llama = LlamaForCausalLM._from_config(
                llama_config, dtype=torch.bfloat16, attn_implementation=attention
            )

        def forward(self, input_ids: Any, labels: Any, position_ids: Any = None) -> Any:
            hidden = self.llama.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
            return head_loss(hidden, self.llama.lm_head.weight, labels)

    llama_config = LlamaConfig.from_dict(dict(config))
    chosen = choose_loss(settings.loss_kernel, llama_config.hidden_size, device)
    head_loss = torch.compiler.disable(chosen)  # type: ignore[no-untyped-call]
    torch.manual_seed(settings.seed)
    with torch.device(device):
        return ModelWithLoss()


def set_checkpointing(model: Any, num_layers: int) -> None:
    """Recompute the activations of the first `num_layers` layers in the backward pass instead of keeping them."""
    import torch.utils.checkpoint

    for number, layer in enumerate(model.llama.model.layers):
        layer.gradient_checkpointing = number < num_layers
        layer._gradient_checkpointing_func = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)


# --- optimizer and schedule ---


def build_optimizer(model: Any, settings: Settings) -> Any:
    """AdamW, or Muon for the matrices of the layers and AdamW for the rest; `scale` in a group multiplies its
    learning rate.

    Norm weights are not decayed: pulling a gain towards 0 regularises nothing (they are 0.006% of the parameters).
    Muon's step is orthogonal, of RMS 1 / sqrt(columns); 0.2 x sqrt(columns) makes that AdamW's usual 0.2 (Liu et al.
    2025), so both share one rate.
    """
    import torch

    named = [(name, p) for name, p in model.named_parameters()]
    adamw = {"lr": settings.lr, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon, "scale": 1.0}
    for name, p in named:
        p.use_muon = settings.optimizer == "muon" and p.ndim >= 2 and ".layers." in name
    groups: list[dict[str, Any]] = [
        {
            **adamw,
            "params": [p for _, p in named if p.ndim >= 2 and not p.use_muon],
            "weight_decay": settings.weight_decay,
        },
        {**adamw, "params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    groups = [{**group, "use_muon": False} for group in groups]
    for columns in sorted({p.shape[1] for _, p in named if p.use_muon}):
        scale = (settings.muon_lr or settings.lr) / settings.lr * 0.2 * math.sqrt(columns)
        decay = settings.weight_decay * (settings.muon_lr or settings.lr) / settings.lr / scale
        params = [p for _, p in named if p.use_muon and p.shape[1] == columns]
        groups.append(
            {
                "params": params,
                "use_muon": True,
                "lr": settings.lr,
                "scale": scale,
                "weight_decay": decay,
                "momentum": 0.95,
            }
        )
    return MuonWithAuxAdam(groups)


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """The learning rate of step `step` (0 is the first) of `steps`: linear warm-up, then the schedule down to
    final_lr_frac.

    With 500 warm-up steps, step 0 has 1/500 of the highest rate and steps 499 and 500 all of it.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
    left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[settings.schedule]
    return settings.lr * (settings.final_lr_frac + (1 - settings.final_lr_frac) * left)


def deepspeed_config(settings: Settings, batches: Batches) -> dict[str, Any]:
    """ds_config.json with what `Settings` decides filled in; a UserError where the two contradict each other."""
    path = settings.deepspeed_config
    try:
        config = json.loads(need_file(path, "DeepSpeed config").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"DeepSpeed config {path} is not JSON ({error})") from None
    if unknown := sorted(set(config) - set(DEEPSPEED_KEYS.split())):
        raise UserError(
            f"DeepSpeed config {path} has the key {unknown[0]!r}, which train.py does not know; remove it or spell it right"
        )
    ours = {
        "train_batch_size": batches.global_batch,
        "train_micro_batch_size_per_gpu": batches.micro_batch,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_clipping": settings.clip,
    }
    for key, value in ours.items():
        if config.get(key, "auto") not in ("auto", value):
            raise UserError(
                f"{path} says {key} {config[key]}, the run's settings say {value}; remove the key, train.py sets it"
            )
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2):  # DeepSpeed 0.19.8 sums gradients in bf16 in stage 0; in 3 the head's weight is not there
        raise UserError(f"{path} says ZeRO stage {stage}; 1 or 2 is needed")
    if stage == 1 and settings.skip_outliers:
        raise UserError(f"{path} says ZeRO stage 1; --skip-outliers needs stage 2")
    if not config.get("bf16", {}).get("enabled"):
        raise UserError(f"{path} does not enable bf16, the one precision that train.py trains in")
    if settings.optimizer == "muon":
        if stage != 2:
            raise UserError(
                f"{path} says ZeRO stage {stage}; --optimizer muon needs stage 2, where it can be clipped rightly"
            )
        ours |= {"managed_gradient_accumulation": False, "gradient_clipping": 0.0}  # see clip_raw_gradient
    return {**config, **ours}


# --- step ---


def start_engine(model: Any, settings: Settings, config: Mapping[str, Any]) -> Any:
    """DeepSpeed's engine around the model and its optimizer."""
    import deepspeed

    model.universal_checkpoint_info = {"universal_checkpoint_version": 0.2}
    with contextlib.redirect_stdout(sys.stderr):  # ZeRO-1 prints its memory
        engine, *_ = deepspeed.initialize(model=model, optimizer=build_optimizer(model, settings), config=dict(config))
    if settings.optimizer == "muon":
        # DeepSpeed 0.19.8 would sum the gradients of Muon's matrices in bf16, whatever grad_accum_dtype says.
        plain = engine.optimizer.get_all_grad_tensors
        engine.optimizer.get_all_grad_tensors = lambda tensors, dtype: [g.to(dtype) for g in plain(tensors, dtype)]
    if settings.compile:
        engine.compile()
    engine.train()
    return engine


def forward_backward(
    engine: Any, next_batch: Callable[[], MicroBatch], accumulation: int, documents: bool
) -> tuple[Any, list[float]]:
    """The micro-batches of a step, forward and backward: their mean loss (a tensor, fp32), and the first row of each."""
    import torch

    loss_sum, starts = torch.zeros((), dtype=torch.float32, device=engine.device), []
    for number in range(accumulation):
        batch = next_batch()
        ids, labels, positions = (t.to(engine.device, non_blocking=True) for t in batch[1:])
        loss = engine(ids, labels, positions if documents else None)
        engine.backward(loss)
        loss_sum += loss.detach()
        starts.append(float(batch.rows.start))
        if number + 1 < accumulation and engine.managed_gradient_accumulation():
            engine.step()  # counts the micro-batch
    return loss_sum / accumulation, starts


def own_gradients(zero: Any) -> Iterator[Any]:
    """The parts of the step's summed gradient that this rank keeps under ZeRO-2, before the optimizer sees them."""
    import torch.distributed as dist

    rank = dist.get_rank()
    for group, params in enumerate(zero.params_in_partition):
        whole = zero.all_grad_tensors.get(group)
        if whole is None:  # AdamW's groups: already cut to this rank's part
            yield zero.averaged_gradients[group].flat_partition
            continue
        for p, gradient in zip(params, whole, strict=True):  # Muon's: whole matrices, of which two ranks may share one
            number = zero.get_param_id(p)
            first = int(zero.grad_start_offset[group][rank][number])
            room = int(zero.partition_size[group] - zero.grad_partition_insertion_offset[group][rank][number])
            yield gradient.view(-1)[first : first + room]


def clip_raw_gradient(engine: Any, limit: float) -> float:
    """For Muon: the norm of the raw gradient, which is scaled down to `limit` before it is made orthogonal.

    DeepSpeed would clip the orthogonalised update instead, whose norm is about the square root of the sum of all
    ranks of matrices: 587 for the published model, so every step would be 587 times too small.
    """
    import torch
    import torch.distributed as dist

    square = torch.zeros((), dtype=torch.float64, device=engine.device)
    for part in own_gradients(engine.optimizer):
        square += part.float().square().sum()
    dist.all_reduce(square)
    norm = math.sqrt(float(square))
    if limit and norm > limit:
        zero = engine.optimizer
        for group in range(len(zero.params_in_partition)):
            for part in zero.all_grad_tensors.get(group) or [zero.averaged_gradients[group].flat_partition]:
                part.mul_(limit / (norm + 1e-6))
    return norm


# --- checkpoint ---


class HashingFile:
    """A binary file that is hashed while it is written, so that its checksum costs no second reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder (after a rename, say) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(partial: Path, final: Path) -> None:
    """Give a folder that is whole its name. One that has the name goes first, by way of a name that nobody takes for
    whole.
    """
    remove_folder(final)
    partial.rename(final)
    sync_folder(final.parent)


def remove_folder(path: Path) -> None:
    if path.exists():
        doomed = path.with_name(path.name + ".old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def checkpoint_name(step: int) -> str:
    return f"step{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((p for p in folder.glob("step" + "[0-9]" * 8) if p.is_dir()), reverse=True)


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """{"step", "world_size", "frozen", "files"} of a checkpoint; None if it is damaged."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        return dict(manifest) if {"step", "world_size", "frozen", "files"} <= set(manifest) else None
    except (OSError, ValueError, TypeError):
        return None


def checkpoint_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint (its manifest; a file that is absent, short or altered), or None."""
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return "its manifest.json cannot be read"
    for name, wanted in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != wanted["bytes"]:
            return f"{name} is missing or does not have its {wanted['bytes']:,} bytes"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(1 << 24):
                digest.update(data)
        if digest.hexdigest() != wanted["sha256"]:
            return f"{name} does not have the checksum that was written"
    return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole. A damaged one is named on stderr, and the one before it is tried."""
    for path in list_checkpoints(folder):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        print(f"checkpoint {path} is damaged: {fault}; the one before it is tried", file=sys.stderr, flush=True)
    return None


class CheckpointWriter:
    """Writes checkpoints while training goes on. It stands in for DeepSpeed's checkpoint engine, of which it changes
    `save`.

    `save` copies this rank's state into host memory that is used again, and returns; `finish` starts a thread that
    writes, hashes and syncs it. When each rank has left its `rank<N>.done` in `step<N>.partial`, rank 0 writes
    manifest.json, renames the folder, and writes `latest` last. So a folder without .partial is whole, and a kill at
    any moment leaves the checkpoint before it as the newest. All ranks must see the same file system.
    """

    def __init__(self, folder: Path, rank: int, world: int, keep: int, plain: Any) -> None:
        self.folder, self.rank, self.world, self.keep, self.plain = folder, rank, world, keep, plain
        self.pending: list[tuple[Path, Any]] = []
        self.buffers: list[Any] = []
        self.next_buffer = 0
        self.thread: threading.Thread | None = None
        self.error: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def save(self, state_dict: Any, path: str) -> None:
        """DeepSpeed calls this for each file of this rank."""
        self.pending.append((Path(path), self.to_host(state_dict)))

    def to_host(self, value: Any) -> Any:
        """A copy of nested containers whose tensors lie in host memory, pinned if they come from a GPU."""
        import torch

        if isinstance(value, torch.Tensor):
            number, self.next_buffer = self.next_buffer, self.next_buffer + 1
            if number == len(self.buffers):
                self.buffers.append(None)
            buffer = self.buffers[number]
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self.buffers[number] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            return buffer.copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self.to_host(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.to_host(item) for item in value)
        return value

    def finish(self, step: int, about: Mapping[str, Any], best: bool) -> None:
        """Write in the background what `save` has collected, as the checkpoint of `step`."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        work, self.pending, self.next_buffer = self.pending, [], 0
        self.thread = threading.Thread(
            target=self.write, args=(work, step, about, best), daemon=True, name="checkpoint"
        )
        self.thread.start()

    def wait(self) -> str | None:
        """Wait for the thread; what went wrong since the last call, or None."""
        if self.thread is not None:
            self.thread.join()
        error, self.error = self.error, None
        return error

    def write(self, work: Sequence[tuple[Path, Any]], step: int, about: Mapping[str, Any], best: bool) -> None:
        """The thread. A full disk costs this checkpoint, not the run."""
        partial = self.folder / (checkpoint_name(step) + ".partial")
        try:
            try:
                done: dict[str, Any] = {"files": {path.name: self.write_file(path, state) for path, state in work}}
            except OSError as error:
                done = {"error": str(error.strerror)}
            with atomic_write(partial / f"rank{self.rank}.done") as file:
                json.dump(done, file)
            if self.rank == 0:
                self.complete(partial, step, about, best)
        except OSError as error:
            self.error = str(error.strerror)

    def write_file(self, path: Path, state: Any) -> dict[str, Any]:
        import torch

        with path.open("wb") as file:
            hashing = HashingFile(file)
            torch.save(state, cast(IO[bytes], hashing))
            file.flush()
            os.fsync(file.fileno())
        return {"bytes": hashing.num_bytes, "sha256": hashing.hash.hexdigest()}

    def complete(self, partial: Path, step: int, about: Mapping[str, Any], best: bool) -> None:
        """Rank 0, when all ranks have written: manifest, rename, `latest`, `best`, and old checkpoints go."""
        reports = [partial / f"rank{rank}.done" for rank in range(self.world)]
        while not all(report.exists() for report in reports):
            time.sleep(0.02)
        contents = [json.loads(report.read_text(encoding="utf-8")) for report in reports]
        self.error = next((content["error"] for content in contents if "error" in content), None)
        if self.error is not None:
            remove_folder(partial)
            return
        files = {name: facts for content in contents for name, facts in content["files"].items()}
        with atomic_write(partial / "manifest.json") as file:
            json.dump({**about, "step": step, "world_size": self.world, "files": files}, file, indent=1)
        for report in reports:
            report.unlink()
        sync_folder(partial)
        replace_folder(partial, self.folder / checkpoint_name(step))
        for name in ("latest", "best") if best else ("latest",):
            with atomic_write(self.folder / name) as file:
                file.write(checkpoint_name(step))
        for converted in self.folder.glob("*.universal"):
            remove_folder(converted)
        marker = self.folder / "best"
        kept = marker.read_text(encoding="utf-8") if marker.exists() else None
        for path in list_checkpoints(self.folder)[self.keep :]:
            if path.name != kept:
                remove_folder(path)


def to_universal(checkpoint: Path) -> str:
    """Convert a checkpoint so that another number of ranks can load it; the name of the converted one, which lies
    beside it.
    """
    target = checkpoint.with_name(checkpoint.name + ".universal")
    if not target.exists():
        print(f"converting {checkpoint} for another number of GPUs", flush=True)
        partial = target.with_name(target.name + ".partial")
        tool = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
        subprocess.run(
            [*tool, "--input_folder", checkpoint, "--output_folder", partial], check=True, stdout=subprocess.DEVNULL
        )
        replace_folder(partial, target)
    return target.name


def export_model(model: Any, settings: Settings, facts: Mapping[str, Any]) -> Path:
    """Write OUT/hf, whole or not at all: weights in bf16, config, generation config, the tokenizer's files as they are."""
    folder, partial = settings.out / "hf", settings.out / "hf.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.llama.save_pretrained(partial)
    for path in sorted(settings.tokenizer.iterdir()):
        if path.is_file():
            shutil.copyfile(path, partial / path.name)
    with atomic_write(partial / "training.json") as file:
        json.dump(facts, file, indent=1)
    replace_folder(partial, folder)
    return folder


# --- stopping ---


class StopRequests:
    """What ends a run before its last step: a signal, the file OUT/STOP, --max-hours, or a launcher that is gone.

    `poll` gives this rank's wish, an index of EXIT_CODES; the ranks take the largest, so that all stop after the same
    step. DeepSpeed's runner dies of a signal without passing it on, and its launcher passes SIGTERM on to one rank
    after the other: so one rank that was told is enough, and ranks whose launcher has died end by themselves.
    """

    def __init__(self, out: Path, max_hours: float | None) -> None:
        self.file, self.max_hours = out / "STOP", max_hours
        self.started_s = time.monotonic()
        self.code, self.reason = 0, ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.on_signal)
        self.launchers = launcher_processes()
        if self.launchers:
            threading.Thread(target=self.watch_launchers, daemon=True, name="launcher watch").start()

    def on_signal(self, number: int, frame: object) -> None:
        self.request(1 if number == signal.SIGUSR1 else 2, signal.Signals(number).name)

    def request(self, code: int, reason: str) -> None:
        if code > self.code:
            self.code, self.reason = code, reason

    def poll(self) -> int:
        if self.file.exists():
            self.request(1, f"the file {self.file}")
        if self.max_hours is not None and time.monotonic() - self.started_s > self.max_hours * 3600:
            self.request(1, f"--max-hours {self.max_hours:g}")
        return self.code

    def watch_launchers(self) -> None:
        while launcher_processes() == self.launchers:
            time.sleep(1.0)
        self.request(2, "the launcher is gone")
        time.sleep(LAST_WORDS_S)
        os._exit(EXIT_INTERRUPTED)  # a message to a rank that has died may wait for ever


def launcher_processes() -> list[int]:
    """Process ids of DeepSpeed's launcher and runner above this process; none if it was started in another way."""
    found, pid = [], os.getppid()
    for word in ("deepspeed.launcher.launch", "deepspeed"):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            break
        if word not in command:
            break
        found.append(pid)
        pid = parent
    return found


# --- watching ---


class Guard:
    """What the losses and gradient norms of the last 128 steps call usual."""

    def __init__(self, state: Mapping[str, Sequence[float]] | None = None) -> None:
        self.seen = {
            name: deque(values, GUARD_WINDOW) for name, values in (state or {"loss": (), "grad_norm": ()}).items()
        }

    def is_outlier(self, **values: float) -> bool:
        """Whether a value lies more than 6 sigma above the mean of its window (once that is full)."""
        full = [(value, self.seen[name]) for name, value in values.items() if len(self.seen[name]) == GUARD_WINDOW]
        return any(value > statistics.fmean(seen) + GUARD_SIGMAS * statistics.pstdev(seen) for value, seen in full)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.seen[name].append(value)

    def state(self) -> dict[str, list[float]]:
        return {name: list(seen) for name, seen in self.seen.items()}


class Watch:
    """Rank 0's words: lines on stdout, the same as JSON lines in metrics.jsonl, and wandb. Other ranks keep silent."""

    def __init__(self, settings: Settings, ranks: Ranks, first_step: int, wandb_id: str | None) -> None:
        self.path, self.leader, self.wandb_id = settings.out / "metrics.jsonl", ranks.rank == 0, wandb_id
        self.wandb: Any = None
        if not self.leader:
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= first_step] if first_step else []
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        mode: Any = ("online" if has_wandb_login() else "off") if settings.wandb == "auto" else settings.wandb
        if mode == "online" and not has_wandb_login():
            self.say(
                "no wandb login (WANDB_API_KEY, or `wandb login`): the run is recorded offline, `wandb sync` sends it later"
            )
            mode = "offline"
        if mode != "off":
            import wandb

            config = {name: str(value) for name, value in dataclasses.asdict(settings).items()}
            self.wandb = wandb.init(
                project=settings.wandb_project,
                name=settings.out.name,
                id=wandb_id,
                resume="allow",
                mode=mode,
                config=config,
                dir=settings.out,
            )
            self.wandb_id = self.wandb.id

    def say(self, text: str) -> None:
        if self.leader:
            print(text, flush=True)

    def record(self, kind: str, step: int, **values: Any) -> None:
        """A JSON line {"kind": "train", "val" or "event", "step": steps done, ...}; a number that is not finite
        becomes null.
        """
        if not self.leader:
            return
        clean = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **clean}) + "\n")
        if self.wandb is not None:
            self.wandb.log(
                {f"{kind}/{name}": value for name, value in clean.items() if isinstance(value, int | float)}, step=step
            )

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()


def has_wandb_login() -> bool:
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    logged_in = bool(os.environ.get("WANDB_API_KEY")) or (
        netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
    )
    return logged_in and os.environ.get("WANDB_MODE") not in ("disabled", "offline")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill has cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def device_figures(tokens_per_s: float, shape: Shape, seq_len: int, device: Any) -> dict[str, float]:
    """Of this rank's GPU: MFU by both conventions, peak memory, and what NVML reads; what is not known is left out,
    all of it on a CPU.
    """
    import torch

    if device.type != "cuda":
        return {}
    figures = {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    if card := find_card(torch.cuda.get_device_name(device)):
        for name, causal in (("mfu", False), ("mfu_causal", True)):
            figures[name] = tokens_per_s * flops_per_token(shape, seq_len, causal=causal) / card.peak
    try:
        import pynvml
    except ImportError:
        return figures
    readings: dict[str, Callable[[Any], float]] = {
        "gpu_util_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "gpu_power_w": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        "gpu_temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
        "gpu_ecc_errors": lambda gpu: pynvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 0),  # uncorrected, since the start
    }
    with contextlib.suppress(pynvml.NVMLError):  # no driver that answers
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        for name, read in readings.items():
            with contextlib.suppress(pynvml.NVMLError):  # no such sensor on this card
                figures[name] = float(read(gpu))
    return figures


def console_line(step: int, steps: int, line: Mapping[str, Any]) -> str:
    """A line of metrics for a person: aligned, with the time that is left."""
    words = [
        f"step {step:>7,}/{steps:,}",
        f"loss {line['loss']:.4f}",
        f"grad {line['grad_norm']:.3f}",
        f"lr {line['lr']:.2e}",
    ]
    words += [f"{line['tokens_per_s']:>9,.0f} tok/s"]
    words += [f"MFU {line['mfu']:.1%} ({line['mfu_causal']:.1%} causal)"] if "mfu" in line else []
    words += [f"wait {line['data_wait_frac']:.1%}"]
    words += [f"{line[name]:.0f} {unit}" for name, unit in (("memory_gb", "GB"), ("gpu_power_w", "W")) if name in line]
    words += [f"skipped {line['skipped']}"] if line["skipped"] else []
    return "  ".join([*words, f"ETA {duration((steps - step) * line['step_s'])}"])


# --- the run ---


@dataclass(frozen=True)
class Run:
    """What is known before anything is computed; all that can be checked without a GPU has been."""

    config: dict[str, Any]
    shape: Shape
    batches: Batches
    steps: int
    deepspeed: dict[str, Any]
    train: Any  # Curriculum
    val: Any
    val_tokens_per_byte: float
    frozen: dict[str, Any]  # what a resumed run must share

    @property
    def tokens_per_step(self) -> int:
        return self.batches.global_batch * int(self.train.seq_len)


def prepare(settings: Settings, ranks: Ranks) -> Run:
    """Check settings, model, tokenizer, disk, data and the newest checkpoint against each other; pack tokens if that
    was not done.
    """
    from data_prep.mixture import Curriculum
    from data_prep.token_files import TokenSequences, check_tokenizer_fits, data_fingerprint, open_split
    from data_prep.token_files import tokenizer_fingerprint as fingerprint_of

    check_settings(settings)
    config = read_config(settings.config)
    shape = read_shape(config)
    longest = config.get("max_position_embeddings", 2048)
    if settings.seq_len > longest:
        raise UserError(f"--seq-len {settings.seq_len} is longer than the {longest} positions of {settings.config}")
    wanted = settings.checkpoint_layers
    if wanted.isdecimal() and int(wanted) > shape.layers:
        raise UserError(f"--checkpoint-layers {wanted}; {settings.config} has {shape.layers} layers")
    check_tokenizer_fits(settings.tokenizer, config)
    check_disk(settings.out, count_parameters(shape))
    manifests = [m for path in list_checkpoints(settings.out / "checkpoints") if (m := read_manifest(path)) is not None]
    batches = share_out(settings, ranks.world, manifests[0]["frozen"]["global_batch"] if manifests else None)
    steps = settings.steps or math.ceil(settings.tokens / (batches.global_batch * settings.seq_len))
    pack_if_absent(settings, ranks)
    val = open_split(settings.dataset, "val", tokenizer=settings.tokenizer, vocab_size=shape.vocab)
    train = Curriculum(
        choose_mixture(settings),
        steps=steps,
        rows_per_step=batches.global_batch,
        seq_len=settings.seq_len,
        seed=settings.seed,
        tokenizer=settings.tokenizer,
    )
    frozen = {name: getattr(settings, name) for name, hint in HINTS.items() if FIXED in hint}
    frozen |= {"global_batch": batches.global_batch, "steps": steps, "mixture": train.fingerprint()}
    frozen |= {"tokenizer": fingerprint_of(settings.tokenizer)[:12]}
    frozen |= {"data": data_fingerprint(open_split(settings.dataset, "train", part=None))}
    frozen |= {f"config.{key}": config.get(key) for key in SHAPE_KEYS.split()}
    if manifests:
        check_resumed(manifests[0], frozen, settings, ranks)
    text_bytes = sum(f.header.num_text_bytes for f in val)
    return Run(
        config=config,
        shape=shape,
        batches=batches,
        steps=steps,
        deepspeed=deepspeed_config(settings, batches),
        train=train,
        val=TokenSequences(val, seq_len=settings.seq_len, seed=0),
        val_tokens_per_byte=sum(f.header.num_tokens for f in val) / max(text_bytes, 1),
        frozen=frozen,
    )


def check_resumed(manifest: Mapping[str, Any], frozen: Mapping[str, Any], settings: Settings, ranks: Ranks) -> None:
    """Raise a UserError that names what a checkpoint was trained with and what is different now."""
    old, world = manifest["frozen"], manifest["world_size"]
    changed = [f"{name} was {old.get(name)} and is {new}" for name, new in frozen.items() if old.get(name) != new]
    if changed:
        words = "; ".join(changed)
        raise UserError(f"{settings.out} was trained with other settings: {words}. Take the old ones, or another --out")
    if settings.optimizer == "muon" and world != ranks.world:
        raise UserError(f"a run with Muon goes on on the {world} GPUs that it began on, here are {ranks.world}")


def choose_mixture(settings: Settings) -> Any:
    """The Mixture of --mixture, or all that --dataset holds with the weights of Table 1."""
    from data_prep.mixture import default_mixture, read_mixture

    staged = settings.curriculum == "stages"
    if settings.mixture is None:
        return default_mixture(settings.dataset, curriculum=staged)
    return read_mixture(settings.mixture, allow=settings.allow, curriculum=staged)


def check_disk(out: Path, num_parameters: int) -> None:
    """Raise a UserError if OUT cannot be written, or its disk has no room for a checkpoint and the final model."""
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = out / f"probe{os.getpid()}.partial"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); name a folder that can") from None
    needed, free = num_parameters * (CHECKPOINT_BYTES + 2), shutil.disk_usage(out).free
    if free < needed:
        raise UserError(f"--out {out} has {gb(free)} free, a checkpoint and the model need {gb(needed)}; free some")


def pack_if_absent(settings: Settings, ranks: Ranks) -> None:
    """Let rank 0 pack tokens where there are none, while the others wait (if it fails, the launcher ends them)."""

    def packed() -> bool:
        return all(any((settings.dataset / "tokens").glob(f"{split}-*.json")) for split in ("train", "val"))

    if not packed() and ranks.rank == 0:
        from data_prep import pack_tokens

        print(f"no packed tokens in {settings.dataset / 'tokens'}: packing them first", flush=True)
        pack_tokens.main(["--dataset", str(settings.dataset), "--tokenizer", str(settings.tokenizer)])
    while ranks.rank > 0 and not packed():
        time.sleep(0.5)


def join_ranks(ranks: Ranks) -> Any:
    """Meet the other ranks (NCCL between GPUs, gloo between CPUs) and return this rank's torch device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": probe.getsockname()[1]}
    for name, value in {**alone, "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}.items():
        os.environ.setdefault(name, str(value))
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # Muon's iteration is compiled where it can be
    import deepspeed
    import deepspeed.ops
    import torch
    import transformers
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of calls inside DeepSpeed
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
    else:
        # A faster message between CPU ranks that DeepSpeed would compile first: half a minute, and it needs a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()
    return torch.device("cuda", ranks.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def gather(values: Sequence[float], device: Any) -> list[list[float]]:
    """Each rank's values, in the order of the ranks: the small message of a step, beside its gradients."""
    import torch
    import torch.distributed as dist

    mine = torch.tensor(values, dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return [t.tolist() for t in everyone]


def broadcast(value: Any) -> Any:
    """Rank 0's value (anything small), on every rank."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def device_bytes(ranks: Ranks, device: Any) -> float:
    """The memory of the smallest GPU of all ranks (of a machine's part for each of its ranks, without GPUs)."""
    import torch

    if device.type == "cuda":
        mine = float(torch.cuda.mem_get_info(device)[1])
    else:
        here = int(os.environ.get("LOCAL_SIZE", ranks.world))
        mine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / here
    return min(rank[0] for rank in gather([mine], device))


def fit_card(settings: Settings, run: Run, ranks: Ranks, device: Any) -> tuple[Run, int]:
    """The layers to checkpoint, and the run, with what `auto` chooses for the card; a UserError if it does not fit
    the card.
    """
    room, micro = device_bytes(ranks, device), run.batches.micro_batch
    stage = run.deepspeed["zero_optimization"]["stage"]
    sizes: dict[str, Any] = {"gpus": ranks.world, "compiled": settings.compile, "seq_len": settings.seq_len}
    best = choose_plan(run.shape, memory_bytes=room, global_batch=run.batches.global_batch, **sizes)
    if settings.checkpoint_layers != "auto":
        num_layers = run.shape.layers if settings.checkpoint_layers == "all" else int(settings.checkpoint_layers)
        needed = plan_memory(run.shape, stage=stage, micro_batch=micro, checkpointed=num_layers, **sizes).total
        if device.type == "cuda" and needed > room:
            fit = "take a larger card, or more"
            if best is not None:
                fit = f"--micro-batch {best.micro_batch} --checkpoint-layers {best.checkpointed} fit with ZeRO-{best.stage}"
            raise UserError(f"a GPU has {gb(room)}, {micro} sequences at once need about {gb(needed)}; {fit}")
        return run, num_layers
    if best is None:
        raise UserError(f"a GPU has {gb(room)}, too little for one sequence at once; take a larger card, or more")
    stage = stage if settings.optimizer == "muon" or settings.skip_outliers else best.stage
    changed = dataclasses.replace(settings, micro_batch=best.micro_batch)
    batches = share_out(changed, ranks.world, run.batches.global_batch)
    ours: dict[str, Any] = {"train_micro_batch_size_per_gpu": batches.micro_batch}
    ours |= {"gradient_accumulation_steps": batches.accumulation}
    ours |= {"zero_optimization": {**run.deepspeed["zero_optimization"], "stage": stage}}
    if ranks.rank == 0:
        print(
            f"Chosen for {gb(room)}: {best.micro_batch} sequences at once, {best.checkpointed} of {run.shape.layers} layers "
            f"checkpointed, ZeRO-{stage}, {gb(best.memory.total)}: the fastest that fits, by the arithmetic above."
        )
    return dataclasses.replace(run, batches=batches, deepspeed={**run.deepspeed, **ours}), best.checkpointed


def evaluate(engine: Any, run: Run, settings: Settings, ranks: Ranks) -> float:
    """Mean loss per token on the first eval_sequences rows of val (in an order shuffled once and for all), shared
    among the ranks.
    """
    import torch

    count = min(settings.eval_sequences, run.val.rows_per_epoch)
    mine, loss_sum = range(ranks.rank, count, ranks.world), 0.0
    engine.eval()
    with torch.no_grad():
        for first in range(0, len(mine), run.batches.micro_batch):
            rows = mine[first : first + run.batches.micro_batch]
            ids, labels, positions = (torch.from_numpy(array).to(engine.device) for array in run.val.rows(rows))
            loss_sum += len(rows) * float(engine(ids, labels, positions if settings.document_attention else None))
    engine.train()
    return math.fsum(rank[0] for rank in gather([loss_sum], engine.device)) / max(int(count), 1)


def poison(engine: Any) -> None:
    """Make DeepSpeed skip the coming step, in the way in which it skips one whose gradient is not finite."""
    for gradient in itertools.islice(own_gradients(engine.optimizer), 1):
        gradient.fill_(math.nan)


def choose_checkpoint(settings: Settings, ranks: Ranks) -> str | None:
    """Rank 0 clears away what a kill has left and picks the newest whole checkpoint, converted if the ranks are more
    or fewer now.
    """
    if ranks.rank > 0:
        return str(broadcast(None)) or None
    folder = settings.out / "checkpoints"
    for rest in [*folder.glob("*.partial"), *settings.out.glob("*.partial")]:
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
    (settings.out / "STOP").unlink(missing_ok=True)
    newest = newest_checkpoint(folder)
    name = ""
    if newest is not None:
        manifest = read_manifest(newest) or {}
        name = newest.name if manifest["world_size"] == ranks.world else to_universal(newest)
    return str(broadcast(name)) or None


def train(settings: Settings, ranks: Ranks) -> int:
    """The story of a run: prepare, meet, resume, step after step, evaluate, save, export. Returns the exit code."""
    run = prepare(settings, ranks)
    device = join_ranks(ranks)
    import torch
    import torch.distributed as dist

    stop = StopRequests(settings.out, settings.max_hours)
    run, checkpointed = fit_card(settings, run, ranks, device)
    checkpoints, batches = settings.out / "checkpoints", run.batches
    chosen = choose_checkpoint(settings, ranks)

    model = build_model(run.config, settings, device)
    set_checkpointing(model, checkpointed)
    universal = {"checkpoint": {"load_universal": chosen is not None and chosen.endswith(".universal")}}
    engine = start_engine(model, settings, {**run.deepspeed, **universal})
    past: dict[str, Any] = {} if chosen is None else engine.load_checkpoint(str(checkpoints), tag=chosen)[1]
    writer = CheckpointWriter(checkpoints, ranks.rank, ranks.world, settings.keep, engine.checkpoint_engine)
    engine.checkpoint_engine = writer

    step = first_step = int(past.get("step", 0))
    guard, outliers = Guard(past.get("guard")), past.get("outliers", 0)
    best_val, val_loss = past.get("best_val", math.inf), past.get("val_loss")
    started_s = logged_s = time.monotonic()
    seconds_before, logged_step, saved_step = past.get("seconds", 0.0), step, step if chosen else None
    bad_steps, stop_code, loss = 0, 0, math.nan
    watch = Watch(settings, ranks, first_step, past.get("wandb_id"))
    for sentence in plan_sentences(settings, run, ranks.world, "GPUs" if device.type == "cuda" else "processes"):
        watch.say(sentence)
    if chosen is not None:
        watch.say(f"Going on from {checkpoints / chosen} after step {step:,}.")
        watch.record("event", step, event="resume", world_size=ranks.world)

    def save(best: bool) -> None:
        nonlocal saved_step
        begun_s = time.monotonic()
        if error := writer.wait():
            watch.say(f"The checkpoint of step {saved_step} was not written: {error}.")
            watch.record("event", step, event="checkpoint failed", error=error)
        needed = count_parameters(run.shape) * CHECKPOINT_BYTES
        free = broadcast(shutil.disk_usage(checkpoints).free)
        if free < needed:
            watch.say(f"No checkpoint of step {step:,}: it needs {gb(needed)}, {checkpoints} has {gb(free)} free.")
            watch.record("event", step, event="no space for a checkpoint")
            return
        seconds = seconds_before + time.monotonic() - started_s
        state = {"step": step, "best_val": best_val, "val_loss": val_loss, "guard": guard.state(), "outliers": outliers}
        state |= {"seconds": seconds, "stage": stage, "wandb_id": watch.wandb_id}
        partial = checkpoint_name(step) + ".partial"
        engine.save_checkpoint(str(checkpoints), tag=partial, client_state=state, save_latest=False)
        writer.finish(step, {"frozen": run.frozen}, best)
        saved_step = step
        watch.record("event", step, event="checkpoint", blocked_s=round(time.monotonic() - begun_s, 3))

    to_come = itertools.product(range(step, run.steps), range(batches.accumulation))
    wanted = (rows_of(number, micro, ranks, batches) for number, micro in to_come)
    prefetch = Prefetcher(run.train, wanted, pin=device.type == "cuda")
    stage, available = past.get("stage", ""), run.train.num_tokens()
    while step < run.steps and not stop_code:
        if stage != (begun := run.train.segment_of(step * batches.global_batch).stage.name):
            stage = begun
            watch.say(f"step {step:>7,}  stage {stage!r} begins")
            watch.record("event", step, event="stage", stage=stage)
        rate = learning_rate(step, run.steps, settings)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        loss_here, starts = forward_backward(engine, prefetch.next, batches.accumulation, settings.document_attention)
        if (step - first_step) % 100 == 0:
            assert_disjoint(gather(starts, device), batches.micro_batch)
        told = gather([float(loss_here), stop.poll()], device)
        loss, stop_code = math.fsum(rank[0] for rank in told) / ranks.world, int(max(rank[1] for rank in told))

        usual: dict[str, float] = {"loss": loss}
        if settings.optimizer == "muon":
            usual["grad_norm"] = clip_raw_gradient(engine, settings.clip)
        elif settings.skip_outliers:
            usual["grad_norm"] = float(engine.optimizer.scaled_global_norm())
        outlier = guard.is_outlier(**usual)
        if outlier and settings.skip_outliers:
            poison(engine)
        skipped_before = engine.skipped_steps
        engine.step()
        step += 1
        grad_norm = usual["grad_norm"] if "grad_norm" in usual else float(engine.get_global_grad_norm() or 0.0)
        outliers += outlier
        if engine.skipped_steps > skipped_before:
            bad_steps += 1
            watch.record("event", step, event="outlier skipped" if outlier else "not finite, skipped", loss=loss)
            if bad_steps >= settings.max_bad_steps:
                writer.wait()
                raise UserError(
                    f"{bad_steps} steps in a row were skipped (loss {loss:g} at step {step:,}); the last checkpoint in "
                    f"{checkpoints} is of step {saved_step}: go on from a copy with a lower --lr, or try --selftest"
                )
        else:
            bad_steps = 0
            guard.add(loss=loss, grad_norm=grad_norm)

        if step % settings.log_every == 0 or step == run.steps or stop_code:
            now_s = time.monotonic()
            step_s = (now_s - logged_s) / (step - logged_step)
            line: dict[str, Any] = {
                "loss": loss,
                "grad_norm": grad_norm,
                "lr": rate,
                "tokens": step * run.tokens_per_step,
                "epoch": step * run.tokens_per_step / available,
                "stage": stage,
                "skipped": engine.skipped_steps,
                "outliers": outliers,
                "hours": (seconds_before + now_s - started_s) / 3600,
                "step_s": step_s,
                "tokens_per_s": run.tokens_per_step / step_s,
                "data_wait_frac": prefetch.waited_s / (now_s - logged_s),
            }
            line |= device_figures(line["tokens_per_s"] / ranks.world, run.shape, settings.seq_len, device)
            watch.record("train", step, **line)
            watch.say(console_line(step, run.steps, line))
            logged_s, logged_step, prefetch.waited_s = now_s, step, 0.0

        best = False
        if settings.eval_sequences and (step % settings.eval_every == 0 or step == run.steps):
            val_loss = evaluate(engine, run, settings, ranks)
            best, best_val = val_loss < best_val, min(val_loss, best_val)
            bits_per_byte = val_loss / math.log(2) * run.val_tokens_per_byte
            watch.record("val", step, loss=val_loss, bits_per_byte=bits_per_byte, tokens=step * run.tokens_per_step)
            watch.say(f"step {step:>7,}  val loss {val_loss:.4f}, {bits_per_byte:.4f} bits per byte")
        if (step % settings.save_every == 0 or step == run.steps or stop_code) and not bad_steps:
            save(best)

    prefetch.close()
    if error := writer.wait():
        watch.say(f"The checkpoint of step {saved_step} was not written: {error}.")
    dist.barrier()
    if ranks.rank == 0 and stop_code < 2:
        facts = {
            "seq_len": settings.seq_len,
            "num_tokens": step * run.tokens_per_step,
            "num_steps": step,
            "train_loss": loss,
            "val_loss": val_loss,
            "hours": (seconds_before + time.monotonic() - started_s) / 3600,
            "num_gpus": ranks.world,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "seed": settings.seed,
            "tokenizer_fingerprint": run.frozen["tokenizer"],
            "data": run.frozen["data"],
            "mixture": [entry._asdict() for entry in run.train.drawn()],
        }
        watch.say(f"The model is in {export_model(engine.module, settings, facts)}.")
    if stop_code:
        wishes: list[Any] = [None] * ranks.world
        dist.all_gather_object(wishes, (stop.code, stop.reason))
        watch.say(f"Stopped after step {step:,} of {run.steps:,}: {max(wishes)[1]}. The same command goes on.")
        stop.file.unlink(missing_ok=True)
    watch.close()
    dist.barrier()
    dist.destroy_process_group()
    return EXIT_CODES[stop_code]


def plan_sentences(settings: Settings, run: Run, world: int, unit: str) -> list[str]:
    """What is about to happen, with its arithmetic."""
    b, available = run.batches, run.train.num_tokens()
    total = run.steps * run.tokens_per_step
    rates = f"learning rate {settings.lr:g} after {settings.warmup_steps} warm-up steps, then {settings.schedule}"
    return [
        *model_sentences(run.shape, settings.seq_len),
        batch_sentence(world, b.micro_batch, settings.seq_len, b.accumulation, unit),
        f"{run.steps:,} steps x {run.tokens_per_step:,} = {total:,} tokens, {total / available:.2f} times the {available:,} at hand.",
        *run.train.sentences(),
        f"{settings.optimizer}, {rates}; weight decay {settings.weight_decay:g}, clipping at {settings.clip:g}.",
    ]


def plan(settings: Settings, card: Card, gpus: int, mfu: float) -> int:
    """--plan: what the run would cost, on stdout."""
    from data_prep.mixture import Curriculum
    from data_prep.token_files import open_split

    check_settings(settings)
    if gpus < 1 or not 0 < mfu <= 1:
        raise UserError(f"--gpus {gpus} --mfu {mfu}; at least one GPU and a share from 0 to 1 are needed")
    shape, batches = read_shape(read_config(settings.config)), share_out(settings, gpus)
    tokens_per_step = batches.global_batch * settings.seq_len
    steps = settings.steps or math.ceil(settings.tokens / tokens_per_step)
    packed = any((settings.dataset / "tokens").glob("train-*.bin"))
    available = sum(file.header.num_tokens for file in open_split(settings.dataset, "train")) if packed else None
    text = settings.dataset / "train.jsonl"
    text_bytes = text.stat().st_size if text.exists() else None
    print(*model_sentences(shape, settings.seq_len), sep="\n")
    print(batch_sentence(gpus, batches.micro_batch, settings.seq_len, batches.accumulation))
    print(f"{steps:,} steps x {tokens_per_step:,} = {steps * tokens_per_step / 1e9:,.2f} billion tokens.")
    print(*token_sentences(shape, steps * tokens_per_step, available, text_bytes), sep="\n")
    if packed:
        mixture, rows = choose_mixture(settings), batches.global_batch
        drawn = Curriculum(mixture, steps=steps, rows_per_step=rows, seq_len=settings.seq_len, seed=settings.seed)
        print(*drawn.sentences(), sep="\n")
    print(*memory_sentences(shape, card, gpus, batches.micro_batch, settings.seq_len), sep="\n")
    print(time_sentence(shape, settings.seq_len, steps * tokens_per_step, card, gpus, mfu))
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    given = vars(parser().parse_args(argv))
    settings = Settings(**{name: given[name] for name in HINTS if given[name] is not None})
    ranks = read_ranks()
    if given["plan"]:
        return plan(settings, CARDS[given["card"]], given["gpus"], given["mfu"])
    try:
        if given["selftest"]:
            from benchmarks.selftest import selftest

            return selftest(ranks)
        return train(settings, ranks)
    except UserError:
        if ranks.local_rank == 0:
            raise
        time.sleep(60)  # rank 0 says it; its exit makes the launcher end this rank, which must not come first
        return EXIT_USER


if __name__ == "__main__":
    run(main)
