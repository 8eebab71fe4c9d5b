"""Train the language model of config.json on packed tokens with DeepSpeed: `deepspeed train.py` is the published run.

In:  config.json (the model), ds_config.json (ZeRO stage, bf16), a dataset folder with train.jsonl, val.jsonl or their packed
     tokens/, a tokenizer folder. Every setting of the run is a field of `Settings` below and a flag.
Out: OUT/metrics.jsonl (one JSON line a logged step), OUT/checkpoints/ (DeepSpeed's, to resume from; whole or absent),
     OUT/hf (safetensors, config, tokenizer: what AutoModelForCausalLM loads).

Killed at any moment, the same command goes on from the newest whole checkpoint. `--plan` says what a run will cost and needs no GPU.

example: deepspeed train.py
         deepspeed --num_gpus 2 train.py --config recipes/demo/config.json --steps 200 --micro-batch 4 --accumulation 2
         python train.py --plan --gpus 8 --card h100
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import queue
import shutil
import signal
import statistics
import sys
import threading
import time
import typing
from argparse import SUPPRESS, BooleanOptionalAction
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple

from data_prep.cli import EXIT_INTERRUPTED, EXIT_USER, Parser, UserError, atomic_write, duration, need_file, run

ROOT = Path(__file__).resolve().parent

# --- facts ---


class Card(NamedTuple):
    """A GPU: peak of dense bf16 matrix arithmetic (without sparsity) in TFLOP/s, and memory in 10^9 bytes."""

    name: str
    peak_tflops: float
    memory_gb: float


# From the vendors' data sheets. The first whose key is part of the device's name (lower case, without spaces and dashes) counts.
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

NEVER_LABEL = -100  # the label that a loss passes over, as everywhere in PyTorch
GUARD_WINDOW = 128  # losses and gradient norms that say what is usual
GUARD_SIGMAS = 6.0
VOCAB_BLOCK = 16_384  # rows of the head whose gradient is made at once: 67 MB in bf16 at hidden size 2,048
CHECKPOINT_BYTES_PER_PARAMETER = 14  # bf16 weights (2), and in fp32 the master copy and AdamW's two moments (3 x 4)
EXIT_CODES = (0, 0, EXIT_INTERRUPTED)  # by what a rank asks for: go on, stop (as planned), stop (interrupted)


# What ds_config.json may say: DeepSpeed itself passes over a key that it does not know.
DEEPSPEED_KEYS = """activation_checkpointing autotuning bf16 checkpoint comms_logger communication_data_type compile data_types
    flops_profiler gradient_accumulation_steps gradient_clipping gradient_predivide_factor memory_breakdown prescale_gradients
    steps_per_print train_batch_size train_micro_batch_size_per_gpu wall_clock_breakdown zero_allow_untested_optimizer
    zero_force_ds_cpu_optimizer zero_optimization"""
# What a LlamaConfig knows; it would keep any other key in silence. The first of the two decides what the weights are.
SHAPE_KEYS = """attention_bias attention_dropout head_dim hidden_act hidden_size initializer_range intermediate_size mlp_bias
    model_type num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters rope_scaling rope_theta
    tie_word_embeddings vocab_size"""
OTHER_KEYS = """architectures bos_token_id dtype eos_token_id max_position_embeddings pad_token_id pretraining_tp torch_dtype
    transformers_version use_cache"""


# --- settings ---


FIXED = "fixed"  # marks a setting that a resumed run must keep, because it decides the curve


@dataclass(frozen=True)
class Settings:
    """The run: each field is a flag, its annotation holds the help. The defaults are the published run's.

    They come from the paper (KiteFish-A1) and its released train.py. What that script leaves to the Hugging Face Trainer is the
    Trainer's default: betas, epsilon, and the linear decay to 0 (the paper names no schedule that we know of; a YAML file beside the
    script says cosine, but nothing reads it).
    """

    config: Annotated[Path, "the model: a Hugging Face LlamaConfig"] = ROOT / "config.json"
    deepspeed_config: Annotated[Path, "DeepSpeed's own: ZeRO stage, bf16, buckets"] = ROOT / "ds_config.json"
    dataset: Annotated[Path, "train.jsonl and val.jsonl, or their packed tokens/"] = Path("dataset_train_val")
    tokenizer: Annotated[Path, "the tokenizer's folder"] = Path("tokenizer")
    out: Annotated[Path, "folder for metrics, checkpoints and the Hugging Face model"] = Path("runs/pretrain")

    seq_len: Annotated[int, "tokens in a sequence", FIXED] = 768
    tokens: Annotated[float, "tokens to train on"] = 52.18e9
    steps: Annotated[int | None, "optimizer steps; default: tokens / tokens per step, rounded up"] = None
    micro_batch: Annotated[int, "sequences that a GPU works on at once"] = 32
    accumulation: Annotated[
        int | None, "micro-batches per step; default: what makes up the global batch (32 on 2 GPUs)"
    ] = None
    global_batch: Annotated[
        int | None, "sequences per step; default: micro-batch x GPUs x accumulation where that is given, else 2,048"
    ] = None
    seed: Annotated[int, "of the initial weights and the order of the data", FIXED] = 0

    optimizer: Annotated[Literal["adamw", "muon"], "muon: the layers' matrices by Muon, the rest by AdamW", FIXED] = (
        "adamw"
    )
    lr: Annotated[float, "AdamW's learning rate at its highest", FIXED] = 2e-4
    muon_lr: Annotated[float, "Muon's learning rate at its highest", FIXED] = 0.02
    beta1: Annotated[float, "AdamW's decay of the first moment", FIXED] = 0.9
    beta2: Annotated[float, "AdamW's decay of the second moment", FIXED] = 0.999
    epsilon: Annotated[float, "AdamW's epsilon", FIXED] = 1e-8
    weight_decay: Annotated[float, "decoupled weight decay of matrices (norms have none)", FIXED] = 0.1
    clip: Annotated[float, "largest norm of the gradient over all parameters; 0: no clipping", FIXED] = 1.0
    warmup_steps: Annotated[int, "steps over which the learning rate rises from 0", FIXED] = 500
    schedule: Annotated[Literal["linear", "cosine", "constant"], "how it falls after that", FIXED] = "linear"
    final_lr_frac: Annotated[float, "learning rate at the end, as a share of the highest", FIXED] = 0.0

    checkpoint_layers: Annotated[str, "layers whose activations are recomputed: a number, all, or auto (what fits)"] = (
        "all"
    )
    compile: Annotated[bool, "torch.compile through DeepSpeed; needs a C++ compiler"] = False
    attention: Annotated[Literal["sdpa", "flash_attention_2", "eager"], "attention kernel"] = "sdpa"
    document_attention: Annotated[bool, "attention stops at the starts of documents", FIXED] = False
    kernels: Annotated[Literal["torch", "liger"], "liger: its fused loss, if it passes a parity check"] = "torch"

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
    out.add_argument("--gpus", type=int, default=2, help="with --plan: number of GPUs (default 2)")
    out.add_argument("--card", choices=list(CARDS), default="a100", help="with --plan: the GPU (default a100)")
    out.add_argument(
        "--mfu", type=float, default=0.5, help="with --plan: share of the card's peak that is reached (default 0.5)"
    )
    out.add_argument(
        "--selftest", action="store_true", help="check that this machine's stack computes the same in every mode"
    )
    out.add_argument("--local_rank", "--local-rank", type=int, help=SUPPRESS)  # DeepSpeed's launcher adds it
    for f in dataclasses.fields(Settings):
        annotated, text = HINTS[f.name][:2]
        kind: Any = next(t for t in (*typing.get_args(annotated), annotated) if t is not type(None))
        default = f.default.name if isinstance(f.default, Path) and f.default.is_absolute() else f.default
        if default is not None and kind is not bool:
            text += f" (default {default})"
        if kind is bool:
            out.add_argument(flag(f.name), action=BooleanOptionalAction, help=text)
        elif isinstance(kind, str):
            out.add_argument(flag(f.name), choices=typing.get_args(annotated), help=text)
        else:
            out.add_argument(flag(f.name), type=kind, metavar=kind.__name__.upper(), help=text)
    return out


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
    """How a step's sequences are shared out: global_batch = micro_batch x world x accumulation."""

    global_batch: int
    micro_batch: int
    accumulation: int


def share_out(settings: Settings, world: int, resumed_batch: int | None = None) -> Batches:
    """The batches of a run on `world` GPUs; a UserError if they do not multiply.

    A resumed run keeps its global batch on any number of GPUs: `accumulation` gives way, unless --global-batch was given as well.
    """
    micro, given = settings.micro_batch, settings.accumulation
    product = None if given is None else micro * world * given
    total = settings.global_batch or resumed_batch or product or 2048
    if settings.global_batch and product not in (None, total):
        raise UserError(
            f"{micro} sequences x {world} GPUs x {given} accumulation = {product} sequences per step, --global-batch says {total}; leave one out"
        )
    if total % (micro * world):
        fits = max(m for m in range(1, micro + 1) if total % (m * world) == 0) if total % world == 0 else None
        advice = f"--micro-batch {fits} would" if fits else "take a number of GPUs that divides it"
        raise UserError(
            f"a global batch of {total} sequences is no multiple of {micro} sequences x {world} GPUs; {advice}"
        )
    return Batches(total, micro, total // (micro * world))


def total_steps(settings: Settings, global_batch: int) -> int:
    """Optimizer steps of the whole run: 52.18e9 tokens / (2,048 x 768) -> 33,176."""
    return settings.steps or math.ceil(settings.tokens / (global_batch * settings.seq_len))


def check_settings(settings: Settings) -> None:
    """Raise a UserError for a number that makes no sense, before anything is loaded."""
    positive = "seq_len tokens steps micro_batch accumulation global_batch lr muon_lr epsilon log_every eval_every save_every keep max_hours"
    for name in (*positive.split(), "max_bad_steps"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{flag(name)} {value}; a number above 0 is needed")
    for name in ("weight_decay", "clip", "warmup_steps", "eval_sequences"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"{flag(name)} {getattr(settings, name)}; 0 or more is needed")
    for name in ("beta1", "beta2", "final_lr_frac"):
        if not 0 <= getattr(settings, name) <= 1 or (name != "final_lr_frac" and getattr(settings, name) == 1):
            raise UserError(f"{flag(name)} {getattr(settings, name)}; a number from 0 to 1 is needed")
    if settings.checkpoint_layers not in ("all", "auto") and not settings.checkpoint_layers.isdecimal():
        raise UserError(f"--checkpoint-layers {settings.checkpoint_layers}; a number of layers, all or auto is needed")


def learning_rate(step: int, steps: int, settings: Settings, highest: float | None = None) -> float:
    """The learning rate of optimizer step `step` (0 is the first): linear warm-up, then the schedule down to final_lr_frac.

    With warm-up 500 the first step has 1/500 of the highest rate and step 499 all of it; the step after the last would have the
    final rate.
    """
    highest = settings.lr if highest is None else highest
    if step < settings.warmup_steps:
        return highest * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
    left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[settings.schedule]
    return highest * (settings.final_lr_frac + (1 - settings.final_lr_frac) * left)


# --- the model's arithmetic ---


class Shape(NamedTuple):
    """The numbers of a LlamaConfig that decide its size. `kv` and `attention` are widths: heads x head dimension."""

    layers: int
    hidden: int
    feed_forward: int
    vocab: int
    attention: int
    kv: int
    tied: bool


def read_config(path: Path) -> dict[str, Any]:
    """The model's config.json; a UserError if it is no LlamaConfig that we can train, or has keys that mean nothing."""
    try:
        config = json.loads(need_file(path, "model config").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model config {path} is not JSON ({error})") from None
    if not isinstance(config, dict) or config.get("model_type") != "llama":
        seen = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"model config {path} says model_type {seen!r}; 'llama' is needed")
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [key for key in needed if not isinstance(config.get(key), int)]:
        raise UserError(f"model config {path} lacks {', '.join(missing)} (whole numbers)")
    if unknown := sorted(set(config) - set((SHAPE_KEYS + " " + OTHER_KEYS).split())):
        raise UserError(
            f"model config {path} has the unknown key {unknown[0]!r}; a LlamaConfig knows no such thing: remove it or spell it right"
        )
    return config


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The Shape of a LlamaConfig, with its defaults for what is left out."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return Shape(
        config["num_hidden_layers"],
        config["hidden_size"],
        config["intermediate_size"],
        config["vocab_size"],
        heads * head_dim,
        kv_heads * head_dim,
        bool(config.get("tie_word_embeddings", False)),
    )


def layer_matrices(shape: Shape) -> int:
    """Weights in the matrices of one layer: q and o, k and v, gate, up and down."""
    return 2 * shape.hidden * (shape.attention + shape.kv) + 3 * shape.hidden * shape.feed_forward


def count_parameters(shape: Shape) -> int:
    """Embedding, layers with two norms each, the last norm, and the head if it is not the embedding: 1,633,781,760."""
    vocab_matrices = 1 if shape.tied else 2
    return (
        vocab_matrices * shape.vocab * shape.hidden
        + shape.layers * (layer_matrices(shape) + 2 * shape.hidden)
        + shape.hidden
    )


def flops_per_token(shape: Shape, seq_len: int, *, causal: bool = False) -> float:
    """FLOPs of training on one token, forward and backward: 6 per matrix weight (head included, embedding not) and attention.

    Attention is 12 x layers x width x seq_len if all of the square counts (PaLM's convention), half of that if only the causal half
    does. 8.997e9 and 8.770e9 for the published model at 768 tokens. What checkpointing computes again is not counted.
    """
    matrices = shape.layers * layer_matrices(shape) + shape.vocab * shape.hidden
    return 6 * matrices + (6 if causal else 12) * shape.layers * shape.attention * seq_len


# --- data ---


class MicroBatch(NamedTuple):
    """One rank's rows of one micro-batch. `rows` are global row numbers; the tensors are int64 [micro_batch, seq_len]."""

    rows: range
    input_ids: Any
    labels: Any
    position_ids: Any


def rows_of(step: int, micro: int, rank: int, world: int, batches: Batches) -> range:
    """The global rows of one micro-batch: step s owns rows [s x global, (s + 1) x global), whatever the number of ranks."""
    first = step * batches.global_batch + (micro * world + rank) * batches.micro_batch
    return range(first, first + batches.micro_batch)


class Prefetcher:
    """A thread that has the next micro-batches ready (pinned, on a GPU box), so that a step does not wait for the disk.

    `waited_s` is the time that `next` spent waiting since it was last set to 0.
    """

    def __init__(self, sequences: Any, wanted: Iterator[range], *, ahead: int = 4, pin: bool = False) -> None:
        self.sequences, self.wanted, self.pin = sequences, wanted, pin
        self.ready: queue.Queue[MicroBatch | BaseException] = queue.Queue(ahead)
        self.waited_s = 0.0
        self.stopped = False
        self.thread = threading.Thread(target=self.read, daemon=True, name="prefetch")
        self.thread.start()

    def read(self) -> None:
        import torch

        try:
            for rows in self.wanted:
                tensors = [torch.from_numpy(array) for array in self.sequences.rows(rows)]
                self.put(MicroBatch(rows, *(t.pin_memory() if self.pin else t for t in tensors)))
                if self.stopped:
                    return
        except (OSError, ValueError, IndexError) as error:  # handed over to the step that would have used it
            self.put(error)

    def put(self, item: MicroBatch | BaseException) -> None:
        while not self.stopped:
            try:
                return self.ready.put(item, timeout=0.5)
            except queue.Full:
                continue
        return None

    def next(self) -> MicroBatch:
        begun_s = time.perf_counter()
        item = self.ready.get()
        self.waited_s += time.perf_counter() - begun_s
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.stopped = True
        self.thread.join()


# --- model and loss ---


@functools.cache
def linear_cross_entropy_function() -> Any:
    """The autograd function behind `linear_cross_entropy` (made at first use, because importing torch takes seconds)."""
    import torch

    class LinearCrossEntropy(torch.autograd.Function):
        """Mean cross entropy of hidden @ weight.T, whose gradients are made chunk by chunk in the forward pass."""

        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, labels: Any, chunk: int) -> Any:
            wanted = any(ctx.needs_input_grad[:2])
            loss, d_hidden, d_weight = cross_entropy_and_gradients(hidden, weight, labels, chunk, wanted)
            if wanted:
                ctx.save_for_backward(d_hidden, d_weight)
            return loss

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            d_hidden, d_weight = ctx.saved_tensors
            return d_hidden.mul_(grads[0]), d_weight.mul_(grads[0]), None, None

    return LinearCrossEntropy


def cross_entropy_and_gradients(
    hidden: Any, weight: Any, labels: Any, chunk: int, wanted: bool
) -> tuple[Any, Any, Any]:
    """Loss (fp32), and if wanted the gradients by hidden [N, H] and weight [V, H], in their dtypes; labels int64 [N].

    Logits exist for `chunk` rows at a time: fp32 [chunk, V], turned in place into softmax, then into the gradient. The head's
    gradient is summed in fp32 and rounded once. Rows labelled -100 count for nothing.
    """
    import torch

    valid = labels != NEVER_LABEL
    scale = valid.float() / valid.sum().clamp_min(1)
    targets = labels.clamp_min(0)[:, None]
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if wanted else None
    d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted else None
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        logits = (hidden[part] @ weight.T).float()
        top = logits.amax(dim=1, keepdim=True)
        picked = logits.gather(1, targets[part]) - top
        softmax = logits.sub_(top).exp_()
        total = softmax.sum(dim=1, keepdim=True)
        loss += ((total.log() - picked).squeeze(1) * scale[part]).sum()
        if d_hidden is None or d_weight is None:
            continue
        d_logits = softmax.mul_(scale[part, None] / total)
        d_logits.scatter_add_(1, targets[part], -scale[part, None])
        d_logits = d_logits.to(weight.dtype)
        d_hidden[part] = d_logits @ weight
        for first in range(0, weight.shape[0], VOCAB_BLOCK):
            block = slice(first, first + VOCAB_BLOCK)
            d_weight[block] += d_logits[:, block].T @ hidden[part]
    return loss, d_hidden, None if d_weight is None else d_weight.to(weight.dtype)


def linear_cross_entropy(hidden: Any, weight: Any, labels: Any, chunk: int = 512) -> Any:
    """Mean cross entropy (fp32) of the logits hidden @ weight.T, without ever holding them: memory does not grow with N x V.

    hidden [..., H] and weight [V, H] of one dtype, labels int64 [...]. At 32 x 768 x 102,400 x 2,048 it takes 1.4 GB where
    logits, their log-softmax and its gradient take 30 GB. Backward is linear in its argument and may run once.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    return linear_cross_entropy_function().apply(flat, weight, labels.reshape(-1), chunk)


def build_model(config: Mapping[str, Any], settings: Settings, device: Any) -> Any:
    """The model with its loss: a module called with (input_ids, labels, position_ids or None) that returns the mean loss.

    Weights are bf16, drawn on `device` from the seed; RoPE's frequencies stay fp32 (a plain .bfloat16() would round them, and
    the gradient would be off by 0.7%).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    class ModelWithLoss(torch.nn.Module):
        def __init__(self, llama: Any) -> None:
            super().__init__()
            self.llama = llama

        def forward(self, input_ids: Any, labels: Any, position_ids: Any = None) -> Any:
            hidden = self.llama.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
            return head_loss(hidden, self.llama.lm_head.weight, labels)

    head_loss = torch.compiler.disable(choose_loss(settings, device))  # type: ignore[no-untyped-call]
    torch.manual_seed(settings.seed)
    with torch.device(device):
        llama = LlamaForCausalLM._from_config(
            LlamaConfig.from_dict(dict(config)), dtype=torch.bfloat16, attn_implementation=settings.attention
        )
    return ModelWithLoss(llama)


def choose_loss(settings: Settings, device: Any) -> Callable[[Any, Any, Any], Any]:
    """Our chunked loss, or with --kernels liger Liger's fused one, if it gives the same on this device."""
    if settings.kernels == "torch":
        return linear_cross_entropy
    raise UserError("--kernels liger needs a GPU and the package liger-kernel")


def set_checkpointing(model: Any, num_layers: int) -> None:
    """Recompute the activations of the first `num_layers` layers in the backward pass instead of keeping them."""
    import torch.utils.checkpoint

    for number, layer in enumerate(model.llama.model.layers):
        layer.gradient_checkpointing = number < num_layers
        layer._gradient_checkpointing_func = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)


# --- optimizer ---


def build_optimizer(model: Any, settings: Settings, device: Any) -> Any:
    """AdamW over two groups: matrices with weight decay, norms without. (Its state is what ZeRO shares out among the ranks.)

    Norm weights are left out of the decay because pulling a gain towards 0 is no regularisation; they are 0.006% of all.
    """
    import torch

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.epsilon, fused=True
    )


def deepspeed_config(settings: Settings, batches: Batches) -> dict[str, Any]:
    """ds_config.json with what `Settings` decides filled in; a UserError where the file says otherwise."""
    path = settings.deepspeed_config
    try:
        config = json.loads(need_file(path, "DeepSpeed config").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"DeepSpeed config {path} is not JSON ({error})") from None
    if unknown := sorted(set(config) - set(DEEPSPEED_KEYS.split())):
        raise UserError(f"DeepSpeed config {path} has the unknown key {unknown[0]!r}; remove it or spell it right")
    ours = {
        "train_batch_size": batches.global_batch,
        "train_micro_batch_size_per_gpu": batches.micro_batch,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_clipping": settings.clip,
    }
    for key, value in ours.items():
        if key in config and config[key] not in ("auto", value):
            raise UserError(
                f"{path} says {key} {config[key]}, the run's settings say {value}; remove the key, train.py sets it"
            )
    if config.get("zero_optimization", {}).get("stage", 0) not in (0, 1, 2):
        raise UserError(f"{path} says ZeRO stage {config['zero_optimization']['stage']}; 0, 1 or 2 is needed")
    if not config.get("bf16", {}).get("enabled"):
        raise UserError(f"{path} does not enable bf16, the only precision that train.py trains in")
    return {**config, **ours}


# --- checkpoints ---


class HashingFile:
    """A binary file that is hashed as it is written, so that its checksum costs no second reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while data := file.read(1 << 24):
            digest.update(data)
        return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder (a rename, say) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint (its manifest, a file that is absent, short or altered), or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, wanted in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != wanted["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {wanted['bytes']:,}"
            if file_sha256(path) != wanted["sha256"]:
                return f"{name} does not have the checksum that was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({error})"
    return None


def checkpoint_name(step: int) -> str:
    return f"step{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted((p for p in folder.glob("step" + "[0-9]" * 8) if p.is_dir()), reverse=True)


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; a damaged one is named, and the one before it is tried."""
    for path in list_checkpoints(folder):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        say(f"checkpoint {path} is damaged: {fault}; going back to the one before")
    return None


class CheckpointWriter:
    """Writes checkpoints while training goes on. It stands in for DeepSpeed's checkpoint engine, of which it changes `save`.

    `save` copies a rank's state to host memory (into buffers that are used again) and returns; `finish` starts a thread
    that writes, hashes and syncs the files. When every rank has left its `rank<N>.done` in the folder `step<N>.partial`, rank 0 writes
    manifest.json, renames the folder, and writes `latest` last. So a folder without `.partial` is whole, and a
    kill at any moment leaves the checkpoint before it as the newest one. All ranks must see the same file system.
    """

    def __init__(self, folder: Path, ranks: Ranks, keep: int, plain: Any) -> None:
        self.folder, self.ranks, self.keep, self.plain = folder, ranks, keep, plain
        self.pending: list[tuple[Path, Any]] = []
        self.buffers: dict[int, Any] = {}
        self.next_buffer = 0
        self.thread: threading.Thread | None = None
        self.error: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def save(self, state_dict: Any, path: str) -> None:
        """DeepSpeed calls this for each file of this rank."""
        self.pending.append((Path(path), self.to_host(state_dict)))

    def to_host(self, value: Any) -> Any:
        """A copy of nested containers whose tensors lie in host memory (pinned, if they come from a GPU)."""
        import torch

        if isinstance(value, torch.Tensor):
            number, self.next_buffer = self.next_buffer, self.next_buffer + 1
            buffer = self.buffers.get(number)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                self.buffers[number] = buffer
            return buffer.copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self.to_host(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(self.to_host(item) for item in value)
        return value

    def finish(self, step: int, about: Mapping[str, Any], best: bool) -> None:
        """Write in the background what `save` collected, as the checkpoint of `step`."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.next_buffer = 0
        work, self.pending = self.pending, []
        self.thread = threading.Thread(
            target=self.write, args=(work, step, about, best), daemon=True, name="checkpoint"
        )
        self.thread.start()

    def wait(self) -> str | None:
        """Wait for the thread; what went wrong, or None."""
        if self.thread is not None:
            self.thread.join()
        error, self.error = self.error, None
        return error

    def write(self, work: list[tuple[Path, Any]], step: int, about: Mapping[str, Any], best: bool) -> None:
        partial = self.folder / (checkpoint_name(step) + ".partial")
        done: dict[str, Any] = {"files": {}}
        try:
            for path, state in work:
                done["files"][path.name] = self.write_file(path, state)
        except OSError as error:
            done = {"error": f"{error.strerror or error}"}
        with_error = done.get("error")
        try:
            with atomic_write(partial / f"rank{self.ranks.rank}.done") as file:
                json.dump(done, file)
            if self.ranks.rank == 0:
                with_error = self.complete(partial, step, about, best)
        except OSError as error:
            with_error = f"{error.strerror or error}"
        self.error = with_error

    def write_file(self, path: Path, state: Any) -> dict[str, Any]:
        import torch

        with path.open("wb") as file:
            hashing = HashingFile(file)
            torch.save(state, typing.cast(IO[bytes], hashing))
            file.flush()
            os.fsync(file.fileno())
        return {"bytes": hashing.num_bytes, "sha256": hashing.hash.hexdigest()}

    def complete(self, partial: Path, step: int, about: Mapping[str, Any], best: bool) -> str | None:
        """Rank 0, when all ranks have written: manifest, rename, `latest`, `best`, and old ones go."""
        reports = [partial / f"rank{rank}.done" for rank in range(self.ranks.world)]
        while not all(report.exists() for report in reports):
            time.sleep(0.02)
        files: dict[str, Any] = {}
        for report in reports:
            content = json.loads(report.read_text(encoding="utf-8"))
            if "error" in content:
                shutil.rmtree(partial, ignore_errors=True)
                return str(content["error"])
            files |= content["files"]
        with atomic_write(partial / "manifest.json") as file:
            json.dump({**about, "step": step, "world_size": self.ranks.world, "files": files}, file, indent=1)
        for report in reports:
            report.unlink()
        sync_folder(partial)
        final = self.folder / checkpoint_name(step)
        remove_checkpoint(final)
        partial.rename(final)
        sync_folder(self.folder)
        for name in ("latest", *(["best"] if best else [])):
            with atomic_write(self.folder / name) as file:
                file.write(final.name)
        self.prune()
        return None

    def prune(self) -> None:
        best = self.folder / "best"
        kept = {best.read_text(encoding="utf-8")} if best.exists() else set()
        for path in list_checkpoints(self.folder)[self.keep :]:
            if path.name not in kept:
                remove_checkpoint(path)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint by way of a name that nobody takes for a whole one."""
    if path.exists():
        doomed = path.with_name(path.name + ".old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)


def frozen_settings(settings: Settings, run: "Run") -> dict[str, Any]:
    """What a resumed run must share with the run that wrote the checkpoint, because it decides the curve."""
    frozen = {name: getattr(settings, name) for name, hint in HINTS.items() if FIXED in hint}
    frozen |= {
        "steps": run.steps,
        "global_batch": run.batches.global_batch,
        "tokenizer": run.fingerprint,
        "data": run.data_hash,
    }
    return frozen | {f"config.{key}": value for key, value in sorted(run.config.items()) if key in SHAPE_KEYS.split()}


def check_frozen(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Raise a UserError that names each setting that differs, with its old and new value."""
    changed = [
        f"{name} was {old.get(name)}, is {new[name]}"
        for name in new
        if old.get(name) != json.loads(json.dumps(new[name]))
    ]
    if changed:
        raise UserError(
            f"{folder} was trained with other settings: {'; '.join(changed)}; take the old values, or another --out"
        )


# --- stopping ---


class StopRequests:
    """What ends a run before its last step: a signal, the file OUT/STOP, --max-hours, or a launcher that is gone.

    `poll` gives this rank's wish as an index of EXIT_CODES; the ranks reduce it to the largest, so that all stop after the same step.
    DeepSpeed's runner dies of a signal without passing it on, and its launcher passes SIGTERM from rank to rank; so a signal that
    one rank gets is enough, and a rank whose launcher has died ends by itself.
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
            self.request(1, f"file {self.file}")
        if self.max_hours is not None and time.monotonic() - self.started_s > self.max_hours * 3600:
            self.request(1, f"--max-hours {self.max_hours:g}")
        return self.code

    def watch_launchers(self) -> None:
        while self.launchers == launcher_processes():
            time.sleep(1.0)
        self.request(2, "the launcher is gone")
        time.sleep(LAST_WORDS_S)
        os._exit(EXIT_INTERRUPTED)  # a collective that waits for a dead rank never returns


LAST_WORDS_S = 900.0  # for one step and one checkpoint, when nobody is left who would kill a hanging rank


def launcher_processes() -> list[int]:
    """Process ids of DeepSpeed's launcher and runner above this process; empty if it was started in another way."""
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


class Watch:
    """Rank 0's words: aligned lines on stdout, the same as JSON lines in metrics.jsonl, and wandb. Other ranks say nothing."""

    def __init__(self, settings: Settings, ranks: Ranks, run: "Run", resumed_step: int, wandb_id: str | None) -> None:
        self.path, self.leader = settings.out / "metrics.jsonl", ranks.rank == 0
        self.wandb: Any = None
        self.wandb_id = wandb_id
        if not self.leader:
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= resumed_step] if resumed_step else []
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        mode: Any = settings.wandb
        if mode == "auto":
            mode = "online" if has_wandb_login() else "off"
        if mode == "online" and not has_wandb_login():
            self.say(
                "no wandb login (WANDB_API_KEY or `wandb login`): its files are written offline, `wandb sync` sends them later"
            )
            mode = "offline"
        if mode != "off":
            import wandb

            config = {f.name: str(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
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
        """One JSON line: {"kind": "train" | "val" | "event", "step": ..., ...}; numbers that are not finite become null."""
        if not self.leader:
            return
        clean = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items() if v is not None
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **clean}) + "\n")
        if self.wandb is not None:
            self.wandb.log({f"{kind}/{k}": v for k, v in clean.items() if isinstance(v, int | float)}, step=step)

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()


def has_wandb_login() -> bool:
    if os.environ.get("WANDB_MODE") in ("disabled", "offline"):
        return False
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return bool(os.environ.get("WANDB_API_KEY")) or (
        netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill has cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line.startswith("{") and line.endswith("}")]


def gpu_figures(device_index: int) -> dict[str, float]:
    """Utilisation (%), power (W), temperature (C) and uncorrected ECC errors of a GPU through NVML; {} where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return {}
    except pynvml.NVMLError:
        return {}
    handle = pynvml.nvmlDeviceGetHandleByIndex(device_index)
    readings: dict[str, Callable[[], float]] = {
        "gpu_util_percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "gpu_power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "gpu_temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "gpu_ecc_errors": lambda: pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        ),
    }
    figures = {}
    for name, read in readings.items():
        try:
            figures[name] = float(read())
        except pynvml.NVMLError:  # a card without this sensor
            continue
    return figures


class Guard:
    """What the losses and gradient norms of the last 128 steps call usual."""

    def __init__(self, state: Mapping[str, Sequence[float]] | None = None) -> None:
        state = state or {"loss": (), "grad_norm": ()}
        self.seen = {name: deque(values, maxlen=GUARD_WINDOW) for name, values in state.items()}

    def is_outlier(self, **values: float) -> bool:
        """Whether one lies more than 6 sigma above the mean of a full window. Values that are used are then `add`ed."""
        return any(
            len(self.seen[name]) == GUARD_WINDOW
            and value > statistics.fmean(self.seen[name]) + GUARD_SIGMAS * statistics.pstdev(self.seen[name])
            for name, value in values.items()
        )

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.seen[name].append(value)

    def state(self) -> dict[str, list[float]]:
        return {name: list(values) for name, values in self.seen.items()}


# --- the run ---


@dataclass(frozen=True)
class Run:
    """What a run knows before anything is computed: all checks are behind it."""

    config: dict[str, Any]
    shape: Shape
    batches: Batches
    steps: int
    deepspeed: dict[str, Any]
    fingerprint: str
    data_hash: str
    train: Any  # TokenSequences
    val: Any
    val_tokens_per_byte: float

    @property
    def tokens_per_step(self) -> int:
        return self.batches.global_batch * int(self.train.seq_len)


def prepare(settings: Settings, ranks: Ranks) -> Run:
    """Check everything that can be checked without a GPU, pack tokens if that was not done, and open them."""
    from data_prep.token_files import TokenSequences, check_tokenizer_fits, open_split, tokenizer_fingerprint

    check_settings(settings)
    config = read_config(settings.config)
    shape = read_shape(config)
    if settings.seq_len > config.get("max_position_embeddings", 2048):
        raise UserError(
            f"--seq-len {settings.seq_len} is longer than the model's max_position_embeddings {config.get('max_position_embeddings')}"
        )
    check_tokenizer_fits(settings.tokenizer, config)
    check_writable(settings.out, count_parameters(shape))
    checkpoints = list_checkpoints(settings.out / "checkpoints")
    resumed_batch = None
    if checkpoints and (checkpoints[0] / "manifest.json").exists():
        resumed_batch = json.loads((checkpoints[0] / "manifest.json").read_text())["frozen"]["global_batch"]
    batches = share_out(settings, ranks.world, resumed_batch)
    pack_if_absent(settings, ranks)
    splits = {
        split: open_split(settings.dataset, split, tokenizer=settings.tokenizer, vocab_size=shape.vocab)
        for split in ("train", "val")
    }
    identity = [[f.source, f.part, *f.header] for f in splits["train"]]
    val = splits["val"]
    return Run(
        config=config,
        shape=shape,
        batches=batches,
        steps=total_steps(settings, batches.global_batch),
        deepspeed=deepspeed_config(settings, batches),
        fingerprint=tokenizer_fingerprint(settings.tokenizer),
        data_hash=hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        train=TokenSequences(splits["train"], seq_len=settings.seq_len, seed=settings.seed),
        val=TokenSequences(val, seq_len=settings.seq_len, seed=0),
        val_tokens_per_byte=sum(f.header.num_tokens for f in val) / max(sum(f.header.num_text_bytes for f in val), 1),
    )


def check_writable(out: Path, num_parameters: int) -> None:
    """Raise a UserError if OUT cannot be written, or its disk has no room for a checkpoint and the final model."""
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = out / f".probe{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); name a folder that can") from None
    needed, free = num_parameters * (CHECKPOINT_BYTES_PER_PARAMETER + 2), shutil.disk_usage(out).free
    if free < needed:
        raise UserError(
            f"--out {out} has {free / 1e9:.1f} GB free; a checkpoint and the model need {needed / 1e9:.1f} GB: free some or name another disk"
        )


def pack_if_absent(settings: Settings, ranks: Ranks) -> None:
    """Let rank 0 pack tokens where there are none; the others wait for them (if it fails, the launcher ends them)."""
    folder = settings.dataset / "tokens"

    def packed() -> bool:
        return all(list(folder.glob(f"{split}-*.json")) for split in ("train", "val"))

    if packed():
        return
    if ranks.rank == 0:
        from data_prep import pack_tokens

        print(f"no packed tokens in {folder}: packing {settings.dataset} first", flush=True)
        pack_tokens.main(["--dataset", str(settings.dataset), "--tokenizer", str(settings.tokenizer)])
    while not packed():
        time.sleep(0.5)


def join_ranks(ranks: Ranks) -> Any:
    """Meet the other ranks (NCCL on GPUs, gloo on CPUs) and return this rank's torch device."""
    import logging

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    for name, value in zip(("RANK", "LOCAL_RANK", "WORLD_SIZE"), ranks, strict=True):
        os.environ.setdefault(name, str(value))
    if "MASTER_PORT" not in os.environ:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    import deepspeed
    import deepspeed.ops
    import torch
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
    else:
        # A faster gather for CPU ranks that DeepSpeed would compile first: half a minute, and it needs a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()
    return torch.device("cuda", ranks.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def gather(values: Sequence[float], device: Any) -> list[list[float]]:
    """Each rank's values, in the order of the ranks: the one small message that a step needs beside its gradients."""
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


def assert_disjoint(starts: list[list[float]], micro_batch: int) -> None:
    """Every row of the step was read by one rank only (the published run fed both GPUs the same batches)."""
    ordered = sorted(start for rank in starts for start in rank)
    if any(b - a < micro_batch for a, b in itertools.pairwise(ordered)):
        raise AssertionError(f"ranks have read the same rows: micro-batches of {micro_batch} rows start at {ordered}")


def evaluate(engine: Any, run: Run, settings: Settings, ranks: Ranks, device: Any) -> float:
    """Mean loss per token on the first eval_sequences rows of val (shuffled once and for all), shared out among the ranks."""
    import torch

    count = min(settings.eval_sequences, run.val.rows_per_epoch)
    mine = range(ranks.rank, count, ranks.world)
    loss_sum = 0.0
    engine.module.eval()
    with torch.no_grad():
        for first in range(0, len(mine), run.batches.micro_batch):
            rows = mine[first : first + run.batches.micro_batch]
            ids, labels, positions = (torch.from_numpy(a).to(device) for a in run.val.rows(rows))
            loss_sum += len(rows) * float(engine(ids, labels, positions if settings.document_attention else None))
    engine.module.train()
    return math.fsum(rank[0] for rank in gather([loss_sum], device)) / int(count)


def poison(engine: Any) -> None:
    """Make DeepSpeed skip the coming step, exactly as it skips one whose gradient is not finite."""
    for gradients in engine.optimizer.averaged_gradients.values():
        gradients[0].fill_(math.nan)


def to_universal(checkpoint: Path, say: Callable[[str], None]) -> str:
    """Convert a checkpoint so that another number of ranks can load it; the name of the converted one beside it."""
    import subprocess

    name = checkpoint.name + ".universal"
    target, partial = checkpoint.with_name(name), checkpoint.with_name(name + ".partial")
    if not target.exists():
        say(f"converting {checkpoint} for another number of GPUs")
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
        command += ["--input_folder", str(checkpoint), "--output_folder", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ds_to_universal failed: {done.stderr[-2000:]}")
        partial.rename(target)
    return name


def export_model(engine: Any, settings: Settings, run: Run, facts: Mapping[str, Any]) -> Path:
    """Write OUT/hf, whole or not at all: weights in bf16, config, generation config, the tokenizer's files as they are."""
    folder, partial = settings.out / "hf", settings.out / "hf.partial"
    shutil.rmtree(partial, ignore_errors=True)
    llama = engine.module.llama
    llama.config.dtype = "bfloat16"
    llama.save_pretrained(partial)
    for path in sorted(settings.tokenizer.iterdir()):
        if path.is_file():
            shutil.copyfile(path, partial / path.name)
    with atomic_write(partial / "training.json") as file:
        json.dump(facts, file, indent=1)
    if folder.exists():
        old = settings.out / "hf.old.partial"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        shutil.rmtree(old)
    partial.rename(folder)
    return folder


def train(settings: Settings, ranks: Ranks) -> int:
    """The story of a run: prepare, meet, resume, step after step, save, export. Returns the exit code."""
    run = prepare(settings, ranks)
    device = join_ranks(ranks)
    import deepspeed
    import torch
    import torch.distributed as dist

    checkpoints, batches = settings.out / "checkpoints", run.batches
    stop = StopRequests(settings.out, settings.max_hours)

    # resume: rank 0 chooses the newest whole checkpoint
    chosen: tuple[str, int] | None = None
    if ranks.rank == 0:
        stop.file.unlink(missing_ok=True)
        for rest in checkpoints.glob("*.partial"):
            shutil.rmtree(rest)
        newest = newest_checkpoint(checkpoints, lambda text: print(text, file=sys.stderr, flush=True))
        if newest is not None:
            manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
            check_frozen(manifest["frozen"], frozen_settings(settings, run), newest)
            same_world = manifest["world_size"] == ranks.world
            chosen = (newest.name if same_world else to_universal(newest, print), manifest["step"])
    chosen = broadcast(chosen)

    model = build_model(run.config, settings, device)
    model.universal_checkpoint_info = {"universal_checkpoint_version": 0.2}
    num_layers = run.shape.layers if settings.checkpoint_layers == "all" else int(settings.checkpoint_layers)
    set_checkpointing(model, num_layers)
    universal = chosen is not None and chosen[0].endswith(".universal")
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(model, settings, device),
        config={**run.deepspeed, "checkpoint": {"load_universal": universal}},
    )
    if settings.compile:
        engine.compile()
    client: dict[str, Any] = {}
    if chosen is not None:
        _, client = engine.load_checkpoint(str(checkpoints), tag=chosen[0])
    writer = CheckpointWriter(checkpoints, ranks, settings.keep, engine.checkpoint_engine)
    engine.checkpoint_engine = writer

    first_step = client.get("step", 0)
    best_val, guard = client.get("best_val", math.inf), Guard(client.get("guard"))
    seconds_before, bad_steps, outliers = client.get("seconds", 0.0), 0, client.get("outliers", 0)
    val_loss = client.get("val_loss")
    watch = Watch(settings, ranks, run, first_step, client.get("wandb_id"))
    for sentence in plan_sentences(settings, run, ranks.world):
        watch.say(sentence)
    if first_step:
        watch.say(f"resumed from {checkpoints / chosen[0]} at step {first_step:,}")
        watch.record("event", first_step, event="resume", world_size=ranks.world)

    started_s = logged_s = time.monotonic()
    logged_step, saved_step = first_step, first_step if chosen else None
    peak_flops = find_card_peak(device)
    wanted = (
        rows_of(step, m, ranks.rank, ranks.world, batches)
        for step in range(first_step, run.steps)
        for m in range(batches.accumulation)
    )
    prefetch = Prefetcher(run.train, wanted, pin=device.type == "cuda")

    def save(step: int, best: bool) -> None:
        nonlocal saved_step
        begun_s = time.monotonic()
        if error := writer.wait():
            watch.say(f"the last checkpoint was not written: {error}")
        needed = count_parameters(run.shape) * CHECKPOINT_BYTES_PER_PARAMETER
        free = broadcast(shutil.disk_usage(checkpoints).free)
        if free < needed:
            watch.say(
                f"no checkpoint at step {step:,}: it needs {needed / 1e9:.1f} GB, {checkpoints} has {free / 1e9:.1f} GB free"
            )
            watch.record("event", step, event="no space for a checkpoint")
            return
        state = {
            "step": step,
            "best_val": best_val,
            "val_loss": val_loss,
            "guard": guard.state(),
            "outliers": outliers,
            "seconds": seconds_before + time.monotonic() - started_s,
            "wandb_id": watch.wandb_id,
        }
        engine.save_checkpoint(
            str(checkpoints), tag=checkpoint_name(step) + ".partial", client_state=state, save_latest=False
        )
        writer.finish(step, {"frozen": frozen_settings(settings, run)}, best)
        saved_step = step
        watch.record("event", step, event="checkpoint", blocked_s=round(time.monotonic() - begun_s, 3))

    step, stop_code, loss = first_step, 0, math.nan
    engine.train()
    while step < run.steps and not stop_code:
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, run.steps, settings)
        loss_sum = torch.zeros((), dtype=torch.float32, device=device)
        starts = []
        for micro in range(batches.accumulation):
            batch = prefetch.next()
            starts.append(float(batch.rows.start))
            ids, labels, positions = (t.to(device, non_blocking=True) for t in batch[1:])
            micro_loss = engine(ids, labels, positions if settings.document_attention else None)
            engine.backward(micro_loss)
            loss_sum += micro_loss.detach()
            if micro + 1 < batches.accumulation:
                engine.step()
        if (step - first_step) % 100 == 0:
            assert_disjoint(gather(starts, device), batches.micro_batch)
        told = gather([float(loss_sum) / batches.accumulation, stop.poll()], device)
        loss, stop_code = math.fsum(rank[0] for rank in told) / ranks.world, int(max(rank[1] for rank in told))
        seen = {"loss": loss}
        if settings.skip_outliers:
            seen["grad_norm"] = float(engine.optimizer.scaled_global_norm())
        outlier = guard.is_outlier(**seen)
        if outlier and settings.skip_outliers:
            poison(engine)
        skipped_before = engine.skipped_steps
        engine.step()
        step += 1
        grad_norm = float(engine.get_global_grad_norm() or 0.0)
        if engine.skipped_steps > skipped_before:
            bad_steps += 1
            watch.record("event", step, event="outlier skipped" if outlier else "not finite, skipped", loss=loss)
            if bad_steps >= settings.max_bad_steps:
                raise UserError(
                    f"{bad_steps} steps in a row gave no usable gradient (loss {loss:g} at step {step:,}); the last good checkpoint in "
                    f"{checkpoints} is of step {saved_step}: go on from it with a lower --lr in another --out, or run --selftest"
                )
        else:
            bad_steps = 0
            guard.add(loss=loss, grad_norm=grad_norm)
        outliers += outlier

        if step % settings.log_every == 0 or step == run.steps or stop_code:
            now_s = time.monotonic()
            step_s = (now_s - logged_s) / max(step - logged_step, 1)
            tokens_per_s = run.tokens_per_step / step_s
            line = {
                "loss": loss,
                "grad_norm": grad_norm,
                "lr": learning_rate(step - 1, run.steps, settings),
                "tokens": step * run.tokens_per_step,
                "epoch": step * batches.global_batch / run.train.rows_per_epoch,
                "skipped": engine.skipped_steps,
                "outliers": outliers,
                "hours": (seconds_before + now_s - started_s) / 3600,
                "step_s": step_s,
                "tokens_per_s": tokens_per_s,
                "data_wait_frac": prefetch.waited_s / max(now_s - logged_s, 1e-9),
                **speed_figures(tokens_per_s / ranks.world, run.shape, settings.seq_len, peak_flops, device),
            }
            watch.record("train", step, **line)
            watch.say(console_line(step, run.steps, line))
            logged_s, logged_step, prefetch.waited_s = now_s, step, 0.0

        last = step == run.steps or stop_code > 0
        best = False
        if step % settings.eval_every == 0 or step == run.steps:
            val_loss = evaluate(engine, run, settings, ranks, device)
            bits_per_byte = val_loss / math.log(2) * run.val_tokens_per_byte
            best, best_val = val_loss < best_val, min(val_loss, best_val)
            watch.record("val", step, loss=val_loss, bits_per_byte=bits_per_byte, tokens=step * run.tokens_per_step)
            watch.say(f"step {step:>7,}  val loss {val_loss:.4f}, {bits_per_byte:.4f} bits per byte")
        if (step % settings.save_every == 0 or last) and not bad_steps:
            save(step, best)

    prefetch.close()
    if error := writer.wait():
        watch.say(f"the last checkpoint was not written: {error}")
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
            "tokenizer_fingerprint": run.fingerprint,
            "seed": settings.seed,
        }
        folder = export_model(engine, settings, run, facts)
        watch.say(f"model in {folder}")
    if stop_code:
        watch.say(
            f"stopped after step {step:,} of {run.steps:,} ({stop.reason or 'another rank was told to'}); the same command goes on"
        )
        stop.file.unlink(missing_ok=True)
    watch.close()
    dist.barrier()
    dist.destroy_process_group()
    return EXIT_CODES[stop_code]


# --- how fast, how much ---


def find_card(name: str) -> Card | None:
    """The card whose key is part of a device's name: 'NVIDIA A100-SXM4-80GB' -> A100 80 GB."""
    plain = name.lower().replace(" ", "").replace("-", "").replace("sxm4", "sxm").replace("sxm5", "sxm")
    return next((card for key, card in CARDS.items() if key in plain), None)


def find_card_peak(device: Any) -> float | None:
    """FLOP/s of this rank's GPU at its peak, or None (a CPU, an unknown card)."""
    import torch

    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return card.peak_tflops * 1e12 if card else None


def speed_figures(tokens_per_s: float, shape: Shape, seq_len: int, peak: float | None, device: Any) -> dict[str, float]:
    """MFU by both conventions, memory and NVML's figures, of one GPU; what is not known is left out."""
    figures: dict[str, float] = {}
    if peak:
        figures["mfu"] = tokens_per_s * flops_per_token(shape, seq_len) / peak
        figures["mfu_causal"] = tokens_per_s * flops_per_token(shape, seq_len, causal=True) / peak
    if device.type == "cuda":
        import torch

        figures["memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        figures |= gpu_figures(device.index)
    return figures


def console_line(step: int, steps: int, line: Mapping[str, Any]) -> str:
    """A line of metrics for a person: aligned, with what is left of the run."""
    words = [
        f"step {step:>7,}/{steps:,}",
        f"loss {line['loss']:.4f}",
        f"grad {line['grad_norm']:.3f}",
        f"lr {line['lr']:.2e}",
    ]
    words += [f"{line['tokens_per_s']:>9,.0f} tok/s"]
    words += [f"MFU {line['mfu']:.1%} ({line['mfu_causal']:.1%} causal)"] if "mfu" in line else []
    words += [f"wait {line['data_wait_frac']:.1%}"]
    words += [f"{line['memory_gb']:.1f} GB"] if "memory_gb" in line else []
    words += [f"{line['gpu_power_w']:.0f} W"] if "gpu_power_w" in line else []
    words += [f"skipped {line['skipped']}"] if line["skipped"] else []
    return "  ".join([*words, f"ETA {duration((steps - step) * line['step_s'])}"])


def plan_sentences(settings: Settings, run: Run, gpus: int) -> list[str]:
    """What is about to happen, with its arithmetic."""
    b, parameters = run.batches, count_parameters(run.shape)
    tokens = run.tokens_per_step
    available = run.train.rows_per_epoch * settings.seq_len
    per_layer = layer_matrices(run.shape) + 2 * run.shape.hidden
    return [
        f"{parameters:,} parameters: {run.shape.layers} layers of {per_layer:,}, vocabulary {run.shape.vocab:,} x {run.shape.hidden:,}",
        f"{gpus} GPUs x {b.micro_batch} sequences x {settings.seq_len} tokens x {b.accumulation} accumulation = {tokens:,} tokens per step",
        f"{run.steps:,} steps x {tokens:,} = {run.steps * tokens / 1e9:.3g} billion tokens, {run.steps * tokens / available:.2f} epochs of {available:,}",
        f"{settings.optimizer}, learning rate {settings.lr:g} after {settings.warmup_steps} warm-up steps, then {settings.schedule}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    given = vars(parser().parse_args(argv))
    settings = Settings(
        **{k: v for k, v in given.items() if v is not None and k in {f.name for f in dataclasses.fields(Settings)}}
    )
    ranks = read_ranks()
    try:
        return train(settings, ranks)
    except UserError:
        if ranks.local_rank != 0:
            return EXIT_USER  # rank 0 says it
        raise


if __name__ == "__main__":
    run(main)
