"""Train the language model of config.json on packed tokens with DeepSpeed: `deepspeed train.py` is the published run.

In:  config.json (the model), ds_config.json (ZeRO stage, bf16), a dataset folder with train.jsonl and val.jsonl or their packed
     tokens/, a tokenizer's folder. Every setting of the run is a field of `Settings` below, and a flag.
Out: OUT/metrics.jsonl (a JSON line for each logged step), OUT/checkpoints/ (DeepSpeed's, to go on from; whole or absent),
     OUT/hf (safetensors, config, tokenizer: what AutoModelForCausalLM and AutoTokenizer load).

Killed at any moment, the same command goes on from the newest whole checkpoint, on any number of GPUs. SIGTERM, SIGINT, SIGUSR1, a file
OUT/STOP or --max-hours end it with a checkpoint after the step in progress. --plan says what a run costs; it needs no GPU.

Two things that know nothing of a run stand beside it: budget.py (arithmetic of size, memory and time) and checkpoints.py (folders that
are whole or absent).

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
from typing import Annotated, Any, Literal, NamedTuple

import budget
from checkpoints import (
    CheckpointWriter,
    checkpoint_name,
    list_checkpoints,
    newest_checkpoint,
    read_manifest,
    replace_folder,
)
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
EXIT_CODES = (
    EXIT_DONE,
    EXIT_DONE,
    EXIT_INTERRUPTED,
)  # of a run that went to its end, was stopped as planned, was interrupted
DEEPSPEED_KEYS = """activation_checkpointing bf16 comms_logger communication_data_type data_types flops_profiler
    gradient_accumulation_steps gradient_clipping gradient_predivide_factor memory_breakdown prescale_gradients steps_per_print
    train_batch_size train_micro_batch_size_per_gpu wall_clock_breakdown zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    zero_optimization"""  # what ds_config.json may say: DeepSpeed itself passes over a key that it does not know


# --- settings ---

FIXED = "fixed"  # marks a setting that a resumed run must keep, because it decides the curve


@dataclass(frozen=True)
class Settings:
    """The run: each field is a flag, its annotation holds the help. The defaults are the published run's.

    They come from the paper (KiteFish-A1) and its released train.py. What that script leaves to the Hugging Face Trainer is the
    Trainer's default: betas, epsilon, and a linear decay to 0 (a YAML file beside the script says cosine, but nothing reads it).
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
    out.add_argument("--card", choices=list(budget.CARDS), default="a100", help="of --plan: the GPU (default a100)")
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
    whole = {
        "weight_decay",
        "clip",
        "warmup_steps",
        "eval_sequences",
        "seed",
        "final_lr_frac",
        "beta1",
        "beta2",
    }  # may be 0
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

    A resumed run keeps its global batch on any number of GPUs: --accumulation gives way, unless --global-batch is given too.
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
    """The global rows of one micro-batch: step s owns rows [s x global, (s + 1) x global), whatever the number of ranks."""
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
    """No row of the step was read twice: the published run fed both GPUs the same batches. `starts` holds each rank's first rows."""
    ordered = sorted(start for rank in starts for start in rank)
    if any(after - before < micro_batch for before, after in itertools.pairwise(ordered)):
        raise AssertionError(f"ranks have read the same rows: micro-batches of {micro_batch} rows start at {ordered}")


# --- model and loss ---


def cross_entropy_and_gradients(
    hidden: Any, weight: Any, labels: Any, chunk: int, wanted: bool
) -> tuple[Any, Any, Any]:
    """Mean loss (fp32) and, if wanted, its gradients by hidden [N, H] and weight [V, H], in their dtypes; labels int64 [N].

    Logits exist for `chunk` rows at a time: fp32 [chunk, V], turned in place into the softmax, then into their gradient. The
    head's gradient is summed in fp32 and rounded once. Rows labelled -100 count for nothing.
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


def linear_cross_entropy(hidden: Any, weight: Any, labels: Any, chunk: int = budget.LOSS_CHUNK) -> Any:
    """Mean cross entropy (fp32) of the logits hidden @ weight.T without ever holding them: memory does not grow with N x V.

    hidden [..., H] and weight [V, H] of one dtype, labels int64 [...]. The gradients are made in the forward pass, so backward
    is a multiplication and may run once. At 32 x 768 x 102,400 x 2,048 it takes 1.3 GB where the usual path peaks at 30 GB.
    """
    return loss_function().apply(hidden.reshape(-1, hidden.shape[-1]), weight, labels.reshape(-1), chunk)


def choose_loss(kernel: str, hidden_size: int, device: Any) -> Callable[[Any, Any, Any], Any]:
    """Our chunked loss, or Liger's fused one where it is wanted, can run, and gives the same loss and gradients on this device."""
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
    """The model with its loss: a module called with (input_ids, labels, position_ids or None) that returns the mean loss.

    Weights are bf16, drawn on `device` from the seed. RoPE's frequencies stay fp32: a plain .bfloat16() would round them, and the
    gradient would be off by 0.7%.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    class ModelWithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llama = LlamaForCausalLM._from_config(
                llama_config, dtype=torch.bfloat16, attn_implementation=settings.attention
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
    """AdamW, or Muon for the matrices of the layers and AdamW for the rest; `scale` in a group multiplies its learning rate.

    Norm weights are not decayed: pulling a gain towards 0 regularises nothing (they are 0.006% of the parameters). Muon's step is
    orthogonal, of RMS 1 / sqrt(columns); 0.2 x sqrt(columns) makes that AdamW's usual 0.2 (Liu et al. 2025), so both share one rate.
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
    """The learning rate of step `step` (0 is the first) of `steps`: linear warm-up, then the schedule down to final_lr_frac.

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
    if stage not in (
        1,
        2,
    ):  # 0: DeepSpeed 0.19.8 would keep no fp32 copy of the weights; 3: the head's weight would not be there
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

    DeepSpeed would clip the orthogonalised update instead, whose norm is about the square root of the sum of all ranks of matrices:
    587 for the published model, so every step would be 587 times too small.
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


def to_universal(checkpoint: Path) -> str:
    """Convert a checkpoint so that another number of ranks can load it; the name of the converted one, which lies beside it."""
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

    `poll` gives this rank's wish, an index of EXIT_CODES; the ranks take the largest, so that all stop after the same step. DeepSpeed's
    runner dies of a signal without passing it on, and its launcher passes SIGTERM on to one rank after the other: so one rank that
    was told is enough, and ranks whose launcher has died end by themselves.
    """

    def __init__(self, out: Path, max_hours: float | None) -> None:
        self.file, self.max_hours = out / "STOP", max_hours
        self.started_s = time.monotonic()
        self.code, self.reason = 0, "another rank was told to"
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
        """A JSON line {"kind": "train", "val" or "event", "step": steps done, ...}; a number that is not finite becomes null."""
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


def device_figures(tokens_per_s: float, shape: budget.Shape, seq_len: int, device: Any) -> dict[str, float]:
    """Of this rank's GPU: MFU by both conventions, peak memory, and what NVML reads; what is not known is left out, all of it on a CPU."""
    import torch

    if device.type != "cuda":
        return {}
    figures = {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    if card := budget.find_card(torch.cuda.get_device_name(device)):
        for name, causal in (("mfu", False), ("mfu_causal", True)):
            figures[name] = tokens_per_s * budget.flops_per_token(shape, seq_len, causal=causal) / card.peak
    try:
        import pynvml
    except ImportError:
        return figures
    readings: dict[str, Callable[[Any], float]] = {
        "gpu_util_percent": lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "gpu_power_w": lambda handle: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "gpu_temperature_c": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "gpu_ecc_errors": lambda handle: pynvml.nvmlDeviceGetTotalEccErrors(
            handle, 1, 0
        ),  # uncorrected, since the last start
    }
    for name, read in readings.items():
        try:
            pynvml.nvmlInit()
            figures[name] = float(
                read(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}"))
            )
        except pynvml.NVMLError:  # no such sensor on this card
            continue
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
    shape: budget.Shape
    batches: Batches
    steps: int
    deepspeed: dict[str, Any]
    train: Any  # TokenSequences
    val: Any
    val_tokens_per_byte: float
    frozen: dict[str, Any]  # what a resumed run must share

    @property
    def tokens_per_step(self) -> int:
        return self.batches.global_batch * int(self.train.seq_len)


def prepare(settings: Settings, ranks: Ranks) -> Run:
    """Check settings, model, tokenizer, disk, data and the newest checkpoint against each other; pack tokens if that was not done."""
    from data_prep.token_files import TokenSequences, check_tokenizer_fits, open_split, tokenizer_fingerprint

    check_settings(settings)
    config = budget.read_config(settings.config)
    shape = budget.read_shape(config)
    longest = config.get("max_position_embeddings", 2048)
    if settings.seq_len > longest:
        raise UserError(
            f"--seq-len {settings.seq_len} is longer than the {longest} positions (max_position_embeddings) of {settings.config}"
        )
    if settings.checkpoint_layers.isdecimal() and int(settings.checkpoint_layers) > shape.layers:
        raise UserError(
            f"--checkpoint-layers {settings.checkpoint_layers}; {settings.config} has {shape.layers} layers"
        )
    check_tokenizer_fits(settings.tokenizer, config)
    check_disk(settings.out, budget.count_parameters(shape))
    manifests = [m for path in list_checkpoints(settings.out / "checkpoints") if (m := read_manifest(path)) is not None]
    batches = share_out(settings, ranks.world, manifests[0]["frozen"]["global_batch"] if manifests else None)
    steps = settings.steps or math.ceil(settings.tokens / (batches.global_batch * settings.seq_len))
    pack_if_absent(settings, ranks)
    splits = {
        s: open_split(settings.dataset, s, tokenizer=settings.tokenizer, vocab_size=shape.vocab)
        for s in ("train", "val")
    }
    data = json.dumps([[f.source, f.part, *f.header] for f in splits["train"]])
    frozen = {name: getattr(settings, name) for name, hint in HINTS.items() if FIXED in hint}
    frozen |= {
        "global_batch": batches.global_batch,
        "steps": steps,
        "tokenizer": tokenizer_fingerprint(settings.tokenizer)[:12],
    }
    frozen |= {"data": hashlib.sha256(data.encode()).hexdigest()[:12]}
    frozen |= {f"config.{key}": config.get(key) for key in budget.SHAPE_KEYS.split()}
    if manifests:
        old = manifests[0]["frozen"]
        changed = [
            f"{name} was {old.get(name)} and is {value}" for name, value in frozen.items() if old.get(name) != value
        ]
        if changed:
            raise UserError(
                f"{settings.out} was trained with other settings: {'; '.join(changed)}. Take the old ones, or another --out"
            )
        if settings.optimizer == "muon" and manifests[0]["world_size"] != ranks.world:
            raise UserError(
                f"a run with Muon goes on on the {manifests[0]['world_size']} GPUs that it began on, here are {ranks.world}"
            )
    text_bytes = sum(f.header.num_text_bytes for f in splits["val"])
    return Run(
        config=config,
        shape=shape,
        batches=batches,
        steps=steps,
        deepspeed=deepspeed_config(settings, batches),
        train=TokenSequences(splits["train"], seq_len=settings.seq_len, seed=settings.seed),
        val=TokenSequences(splits["val"], seq_len=settings.seq_len, seed=0),
        val_tokens_per_byte=sum(f.header.num_tokens for f in splits["val"]) / max(text_bytes, 1),
        frozen=frozen,
    )


def check_disk(out: Path, num_parameters: int) -> None:
    """Raise a UserError if OUT cannot be written, or its disk has no room for a checkpoint and the final model."""
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = out / f"probe{os.getpid()}.partial"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); name a folder that can") from None
    needed, free = num_parameters * (budget.CHECKPOINT_BYTES + 2), shutil.disk_usage(out).free
    if free < needed:
        raise UserError(
            f"--out {out} has {budget.gb(free)} free, a checkpoint and the model need {budget.gb(needed)}; name another disk"
        )


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
        alone = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": probe.getsockname()[1],
            "RANK": 0,
            "LOCAL_RANK": 0,
            "WORLD_SIZE": 1,
        }
    for name, value in alone.items():
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
        mine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / int(
            os.environ.get("LOCAL_SIZE", ranks.world)
        )
    return min(rank[0] for rank in gather([mine], device))


def fit_card(settings: Settings, run: Run, ranks: Ranks, device: Any) -> tuple[Run, int]:
    """The layers to checkpoint, and the run, with what `auto` chooses for the card; a UserError if it does not fit the card."""
    room, micro, fused = device_bytes(ranks, device), run.batches.micro_batch, settings.compile
    stage = run.deepspeed["zero_optimization"]["stage"]
    sizes: dict[str, Any] = {"gpus": ranks.world, "fused": fused, "seq_len": settings.seq_len}
    best = budget.choose_plan(run.shape, memory_bytes=room, global_batch=run.batches.global_batch, **sizes)
    if settings.checkpoint_layers != "auto":
        num_layers = run.shape.layers if settings.checkpoint_layers == "all" else int(settings.checkpoint_layers)
        needed = budget.plan_memory(run.shape, stage=stage, micro_batch=micro, checkpointed=num_layers, **sizes).total
        if device.type == "cuda" and needed > room:
            fits = (
                f"--micro-batch {best.micro_batch} --checkpoint-layers {best.checkpointed} fit"
                if best
                else "take more GPUs"
            )
            raise UserError(
                f"a GPU has {budget.gb(room)}, {micro} sequences at once need about {budget.gb(needed)}; {fits}"
            )
        return run, num_layers
    if best is None:
        raise UserError(
            f"a GPU has {budget.gb(room)}, too little for one sequence at once; take a larger card, or more of them"
        )
    stage = stage if settings.optimizer == "muon" or settings.skip_outliers else best.stage
    batches = share_out(
        dataclasses.replace(settings, micro_batch=best.micro_batch), ranks.world, run.batches.global_batch
    )
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batches.micro_batch,
        "gradient_accumulation_steps": batches.accumulation,
    }
    ours |= {"zero_optimization": {**run.deepspeed["zero_optimization"], "stage": stage}}
    if ranks.rank == 0:
        print(
            f"Chosen for {budget.gb(room)}: {best.micro_batch} sequences at once, {best.checkpointed} of {run.shape.layers} layers "
            f"checkpointed, ZeRO-{stage}, {budget.gb(best.memory.total)}: the fastest that fits, by the arithmetic of budget.py."
        )
    return dataclasses.replace(run, batches=batches, deepspeed={**run.deepspeed, **ours}), best.checkpointed


def evaluate(engine: Any, run: Run, settings: Settings, ranks: Ranks) -> float:
    """Mean loss per token on the first eval_sequences rows of val (in an order shuffled once and for all), shared among the ranks."""
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
    """Rank 0 clears away what a kill has left and picks the newest whole checkpoint, converted if the ranks are more or fewer now."""
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
    writer = engine.checkpoint_engine = CheckpointWriter(
        checkpoints, ranks.rank, ranks.world, settings.keep, engine.checkpoint_engine
    )

    step = first_step = int(past.get("step", 0))
    guard, outliers, best_val, val_loss = (
        Guard(past.get("guard")),
        past.get("outliers", 0),
        past.get("best_val", math.inf),
        past.get("val_loss"),
    )
    started_s = logged_s = time.monotonic()
    seconds_before, logged_step, saved_step = past.get("seconds", 0.0), step, step if chosen else None
    bad_steps, stop_code, loss = 0, 0, math.nan
    watch = Watch(settings, ranks, first_step, past.get("wandb_id"))
    for sentence in plan_sentences(settings, run, ranks.world):
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
        needed = budget.count_parameters(run.shape) * budget.CHECKPOINT_BYTES
        free = broadcast(shutil.disk_usage(checkpoints).free)
        if free < needed:
            watch.say(
                f"No checkpoint of step {step:,}: it needs {budget.gb(needed)}, {checkpoints} has {budget.gb(free)} free."
            )
            watch.record("event", step, event="no space for a checkpoint")
            return
        seconds = seconds_before + time.monotonic() - started_s
        state = {"step": step, "best_val": best_val, "val_loss": val_loss, "guard": guard.state(), "outliers": outliers}
        state |= {"seconds": seconds, "wandb_id": watch.wandb_id}
        engine.save_checkpoint(
            str(checkpoints), tag=checkpoint_name(step) + ".partial", client_state=state, save_latest=False
        )
        writer.finish(step, {"frozen": run.frozen}, best)
        saved_step = step
        watch.record("event", step, event="checkpoint", blocked_s=round(time.monotonic() - begun_s, 3))

    wanted = (
        rows_of(s, micro, ranks, batches) for s in range(step, run.steps) for micro in range(batches.accumulation)
    )
    prefetch = Prefetcher(run.train, wanted, pin=device.type == "cuda")
    while step < run.steps and not stop_code:
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
        grad_norm = usual["grad_norm"] if settings.optimizer == "muon" else float(engine.get_global_grad_norm() or 0.0)
        outliers += outlier
        if engine.skipped_steps > skipped_before:
            bad_steps += 1
            watch.record("event", step, event="outlier skipped" if outlier else "not finite, skipped", loss=loss)
            if bad_steps >= settings.max_bad_steps:
                raise UserError(
                    f"{bad_steps} steps in a row were skipped (loss {loss:g} at step {step:,}); the last checkpoint in {checkpoints} is of "
                    f"step {saved_step}: go on from a copy of it with a lower --lr, or look at --selftest"
                )
        else:
            bad_steps = 0
            guard.add(loss=loss, grad_norm=grad_norm)

        if step % settings.log_every == 0 or step == run.steps or stop_code:
            now_s = time.monotonic()
            step_s = (now_s - logged_s) / (step - logged_step)
            line = {"loss": loss, "grad_norm": grad_norm, "lr": rate, "tokens": step * run.tokens_per_step}
            line |= {
                "epoch": step * batches.global_batch / run.train.rows_per_epoch,
                "skipped": engine.skipped_steps,
                "outliers": outliers,
            }
            line |= {
                "hours": (seconds_before + now_s - started_s) / 3600,
                "step_s": step_s,
                "tokens_per_s": run.tokens_per_step / step_s,
            }
            line |= {"data_wait_frac": prefetch.waited_s / (now_s - logged_s)}
            line |= device_figures(line["tokens_per_s"] / ranks.world, run.shape, settings.seq_len, device)
            watch.record("train", step, **line)
            watch.say(console_line(step, run.steps, line))
            logged_s, logged_step, prefetch.waited_s = now_s, step, 0.0

        best = False
        if step % settings.eval_every == 0 or step == run.steps:
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
        }
        facts |= {
            "hours": (seconds_before + time.monotonic() - started_s) / 3600,
            "num_gpus": ranks.world,
            "seed": settings.seed,
        }
        facts |= {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
        facts |= {"tokenizer_fingerprint": run.frozen["tokenizer"], "data": run.frozen["data"]}
        watch.say(f"The model is in {export_model(engine.module, settings, facts)}.")
    if stop_code:
        watch.say(f"Stopped after step {step:,} of {run.steps:,}: {stop.reason}. The same command goes on.")
        stop.file.unlink(missing_ok=True)
    watch.close()
    dist.barrier()
    dist.destroy_process_group()
    return EXIT_CODES[stop_code]


def plan_sentences(settings: Settings, run: Run, gpus: int) -> list[str]:
    """What is about to happen, with its arithmetic."""
    b, available = run.batches, run.train.rows_per_epoch * settings.seq_len
    total = run.steps * run.tokens_per_step
    rates = f"learning rate {settings.lr:g} after {settings.warmup_steps} warm-up steps, then {settings.schedule} to {settings.final_lr_frac:g} of it"
    return [
        *budget.model_sentences(run.shape, settings.seq_len),
        budget.batch_sentence(gpus, b.micro_batch, settings.seq_len, b.accumulation),
        f"{run.steps:,} steps x {run.tokens_per_step:,} = {total:,} tokens, {total / available:.2f} epochs of {available:,}.",
        f"{settings.optimizer}, {rates}; weight decay {settings.weight_decay:g}, clipping at {settings.clip:g}.",
    ]


def plan(settings: Settings, card: budget.Card, gpus: int, mfu: float) -> int:
    """--plan: what the run would cost, on stdout."""
    from data_prep.token_files import open_split

    check_settings(settings)
    if gpus < 1 or not 0 < mfu <= 1:
        raise UserError(f"--gpus {gpus} --mfu {mfu}; at least one GPU and a share from 0 to 1 are needed")
    shape, batches = budget.read_shape(budget.read_config(settings.config)), share_out(settings, gpus)
    tokens_per_step = batches.global_batch * settings.seq_len
    steps = settings.steps or math.ceil(settings.tokens / tokens_per_step)
    packed = any((settings.dataset / "tokens").glob("train-*.bin"))
    available = sum(file.header.num_tokens for file in open_split(settings.dataset, "train")) if packed else None
    text = settings.dataset / "train.jsonl"
    text_bytes = text.stat().st_size if text.exists() else None
    print(*budget.model_sentences(shape, settings.seq_len), sep="\n")
    print(budget.batch_sentence(gpus, batches.micro_batch, settings.seq_len, batches.accumulation))
    print(f"{steps:,} steps x {tokens_per_step:,} = {steps * tokens_per_step / 1e9:,.2f} billion tokens.")
    print(*budget.token_sentences(shape, steps * tokens_per_step, available, text_bytes), sep="\n")
    print(*budget.memory_sentences(shape, card, gpus, batches.micro_batch, settings.seq_len), sep="\n")
    print(budget.time_sentence(shape, settings.seq_len, steps * tokens_per_step, card, gpus, mfu))
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    given = vars(parser().parse_args(argv))
    settings = Settings(**{name: given[name] for name in HINTS if given[name] is not None})
    ranks = read_ranks()
    if given["plan"]:
        return plan(settings, budget.CARDS[given["card"]], given["gpus"], given["mfu"])
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
