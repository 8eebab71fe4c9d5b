"""Check that every mode of train.py computes the same on this machine: `deepspeed --num_gpus 2 train.py --selftest`.

In: nothing; a tiny model and random tokens are made here. Out: a table on stdout, one line a mode, and exit code 0 if
all agree. It takes a minute or two.

ZeRO 0, 1 and 2, eager and compiled, with and without checkpointing, on all ranks and then on one, are compared with a
plain PyTorch loop that works on the whole batch in one process. ZeRO-2 has had races that cost a run its convergence
(DeepSpeed issues 7188, 7371, 7965), and torch.compile has given NaN on some stacks; both show in the first steps.
ZeRO-0 is compared though train.py does not train with it: see `start_stage`.
"""

import dataclasses
import itertools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import numpy as np

import train
from data_prep.token_files import Batch

STEPS = 20
# Losses near 6 that bf16 rounding has moved by up to 0.0006 (docs/LOG.md); a rank that is not heard moves them by 0.01
# and more. AdamW does not see a gradient's scale, so the norm of the first one is compared, too.
LOSS_TOLERANCE, NORM_TOLERANCE_FRAC = 0.005, 0.01
CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
SETTINGS = train.Settings(seq_len=64, micro_batch=2, steps=STEPS, warmup_steps=4, lr=1e-3, loss_kernel="torch")
LAYERS = 3
STAGES = (0, 1, 2)


class Rows:
    """Rows of random tokens in which each token depends on the one before, so that there is something to learn."""

    def rows(self, indices: range) -> Batch:
        tokens = np.empty((len(indices), SETTINGS.seq_len + 1), dtype=np.int64)
        for place, index in enumerate(indices):
            steps = np.random.default_rng(index).integers(1, 4, SETTINGS.seq_len + 1)
            tokens[place] = np.cumsum(steps) % 97
        positions = np.broadcast_to(np.arange(SETTINGS.seq_len), (len(indices), SETTINGS.seq_len)).copy()
        return Batch(tokens[:, :-1], tokens[:, 1:], positions)


def batches_of(ranks: train.Ranks, batches: train.Batches) -> Iterator[train.MicroBatch]:
    """This rank's micro-batches of all steps."""
    import torch

    for step in range(STEPS):
        for micro in range(batches.accumulation):
            rows = train.rows_of(step, micro, ranks, batches)
            yield train.MicroBatch(rows, *(torch.from_numpy(array) for array in Rows().rows(rows)))


class Curve(NamedTuple):
    """The losses of all steps, and the norm of the first gradient."""

    losses: list[float]
    first_norm: float


def plain_curve(batches: train.Batches, device: Any) -> Curve:
    """The reference: no DeepSpeed, one process, bf16 weights with an fp32 master copy, the optimizer and schedule of
    train.py.
    """
    import torch

    model = train.build_model(CONFIG, SETTINGS, device)
    weights = list(model.parameters())
    masters = [torch.nn.Parameter(p.detach().float()) for p in weights]
    decay = [m for m in masters if m.ndim >= 2]
    gains = [m for m in masters if m.ndim < 2]
    groups = [{"params": decay, "weight_decay": SETTINGS.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(SETTINGS.beta1, SETTINGS.beta2), eps=SETTINGS.epsilon)
    losses, first_norm = [], math.nan
    micro_batches = batches_of(train.Ranks(0, 0, 1), batches)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(step, STEPS, SETTINGS)
        total = 0.0
        for _ in range(batches.accumulation):
            batch = next(micro_batches)
            loss = model(batch.input_ids.to(device), batch.labels.to(device)) / batches.accumulation
            gradients = torch.autograd.grad(loss, weights)
            total += float(loss)
            for master, gradient in zip(masters, gradients, strict=True):
                master.grad = gradient.float() if master.grad is None else master.grad + gradient.float()
        norm = float(torch.nn.utils.clip_grad_norm_(masters, SETTINGS.clip))
        first_norm = norm if step == 0 else first_norm
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for p, master in zip(weights, masters, strict=True):
                p.copy_(master)
        losses.append(total)
    return Curve(losses, first_norm)


class Mode(NamedTuple):
    """A way to compute a step."""

    stage: int
    compiled: bool
    checkpointed: int

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "eager"
        return f"ZeRO-{self.stage}, {how}, {self.checkpointed} layers checkpointed"


def start_stage(model: Any, batches: train.Batches, stage: int) -> Any:
    """train.py's engine under ZeRO `stage`.

    DeepSpeed 0.19.8 has stage 0 in bf16 with an fp32 copy of the weights, but sums the micro-batches' gradients in bf16
    (with fp32 it raises NotImplementedError), and AdamW has taken a step with a gradient of 0 before the first one
    (pull request 5104, open), which its bias correction would remember: losses would be off by 0.06.
    """
    config = train.deepspeed_config(SETTINGS, batches)
    config |= {"zero_optimization": {**config["zero_optimization"], "stage": stage}}
    if stage > 0:
        return train.start_engine(model, SETTINGS, config)
    engine = train.start_engine(model, SETTINGS, {**config, "data_types": {}})
    engine.optimizer.optimizer.state.clear()
    return engine


def engine_curve(ranks: train.Ranks, batches: train.Batches, device: Any, mode: Mode) -> Curve:
    """The same by train.py's own step."""
    import torch

    model = train.build_model(CONFIG, SETTINGS, device)
    train.set_checkpointing(model, mode.checkpointed)
    engine = start_stage(model, batches, mode.stage)
    if mode.compiled:
        engine.compile()
    micro_batches = batches_of(ranks, batches)
    losses, first_norm = [], math.nan
    for step in range(STEPS):
        for group in engine.optimizer.param_groups:
            group["lr"] = train.learning_rate(step, STEPS, SETTINGS)
        loss, _ = train.forward_backward(engine, micro_batches.__next__, batches.accumulation, documents=False)
        engine.step()
        first_norm = float(engine.get_global_grad_norm()) if step == 0 else first_norm
        losses.append(math.fsum(rank[0] for rank in train.gather([float(loss)], device)) / ranks.world)
    engine.destroy()
    if mode.compiled:
        torch.compiler.reset()
    return Curve(losses, first_norm)


def difference(curve: Curve, reference: Curve) -> float:
    """The largest difference of a loss; infinite where one is not finite."""
    pairs = zip(curve.losses, reference.losses, strict=True)
    return max(abs(a - b) if math.isfinite(a) else math.inf for a, b in pairs)


def agree(curve: Curve, reference: Curve) -> bool:
    norm_off_frac = abs(curve.first_norm / reference.first_norm - 1)
    return difference(curve, reference) <= LOSS_TOLERANCE and norm_off_frac <= NORM_TOLERANCE_FRAC


def alone() -> int:
    """The same on one rank, in a process of its own; its exit code."""
    ours = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run([sys.executable, train.__file__, "--selftest"], env=env, check=False).returncode


def selftest(ranks: train.Ranks) -> int:
    """Run every mode; print the table on rank 0; 0 if all agree with the reference, else 1."""
    import torch.distributed as dist

    device = train.join_ranks(ranks)
    global_batch = SETTINGS.micro_batch * max(2 * ranks.world, 4)
    batches = train.share_out(dataclasses.replace(SETTINGS, global_batch=global_batch), ranks.world)
    reference = plain_curve(batches._replace(accumulation=global_batch // SETTINGS.micro_batch), device)
    can_compile = bool(shutil.which("g++") or shutil.which("clang++"))
    modes = [Mode(*mode) for mode in itertools.product(STAGES, (False, True)[: 1 + can_compile], (0, LAYERS))]
    table = {f"plain PyTorch, {global_batch} sequences a step, 1 process": reference}
    table |= {str(mode): engine_curve(ranks, batches, device, mode) for mode in modes}
    wrong = [mode for mode, curve in table.items() if not agree(curve, reference)]
    dist.barrier()
    dist.destroy_process_group()
    if ranks.rank > 0:
        return 0  # rank 0 speaks for all
    print(f"{f'ranks: {ranks.world}':50} first loss  last loss  first norm  largest difference of a loss")
    for mode, curve in table.items():
        figures = f"{curve.losses[0]:10.5f} {curve.losses[-1]:10.5f} {curve.first_norm:11.5f}"
        print(f"{mode:50} {figures}  {difference(curve, reference):.1e}{'  WRONG' if mode in wrong else ''}")
    if not can_compile:
        print("torch.compile was not tried: there is no C++ compiler on PATH.")
    print("Do not train on this machine in a mode that is marked WRONG." if wrong else "All modes agree.", flush=True)
    return max(min(len(wrong), 1), alone() if ranks.world > 1 else 0)
