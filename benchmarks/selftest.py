"""Check that every mode of train.py computes the same on this machine: `deepspeed train.py --selftest`, a minute.

In: nothing; a tiny model and random tokens are made here. Out: a table on stdout, one line a mode, and exit code 0 if
all agree.

ZeRO-2 has had races that cost a run its convergence (DeepSpeed issues 7188, 7371, 7965), and torch.compile has given
NaN on some stacks; both show in the first steps. The reference is a plain PyTorch loop that works on the whole batch
in one process. (It stands for ZeRO-0 as well: DeepSpeed 0.19.8 has no stage 0 in bf16 with an fp32 copy of the
weights, so train.py refuses that stage.)
"""

import math
import shutil
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


def engine_curve(
    ranks: train.Ranks, batches: train.Batches, device: Any, stage: int, checkpointed: int, compiled: bool
) -> Curve:
    """The same by train.py's own step under ZeRO `stage`."""
    import torch

    model = train.build_model(CONFIG, SETTINGS, device)
    train.set_checkpointing(model, checkpointed)
    config = train.deepspeed_config(SETTINGS, batches)
    engine = train.start_engine(
        model, SETTINGS, {**config, "zero_optimization": {**config["zero_optimization"], "stage": stage}}
    )
    if compiled:
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
    if compiled:
        torch.compiler.reset()
    return Curve(losses, first_norm)


def selftest(ranks: train.Ranks) -> int:
    """Run every mode; print the table on rank 0; 0 if all agree with the reference, else 1."""
    device = train.join_ranks(ranks)
    batches = train.Batches(4 * ranks.world, SETTINGS.micro_batch, 2)
    reference = plain_curve(batches._replace(accumulation=2 * ranks.world), device)
    modes = [(stage, checkpointed, False) for stage in (1, 2) for checkpointed in (0, LAYERS)]
    can_compile = bool(shutil.which("g++") or shutil.which("clang++"))
    modes += [(2, 0, True), (2, LAYERS, True)] if can_compile else []
    lines = [f"{'mode':50} first loss  last loss  first norm  largest difference of a loss"]
    lines += [
        f"{'plain PyTorch, 1 process':50} {reference.losses[0]:10.5f} {reference.losses[-1]:10.5f} {reference.first_norm:11.5f}"
    ]
    num_wrong = 0
    for stage, checkpointed, compiled in modes:
        curve = engine_curve(ranks, batches, device, stage, checkpointed, compiled)
        worst = max(
            abs(a - b) if math.isfinite(a) else math.inf for a, b in zip(curve.losses, reference.losses, strict=True)
        )
        wrong = worst > LOSS_TOLERANCE or abs(curve.first_norm / reference.first_norm - 1) > NORM_TOLERANCE_FRAC
        num_wrong += wrong
        mode = f"ZeRO-{stage}, {ranks.world} ranks, {checkpointed} layers checkpointed, {'compiled' if compiled else 'eager'}"
        figures = f"{curve.losses[0]:10.5f} {curve.losses[-1]:10.5f} {curve.first_norm:11.5f}  {worst:.1e}"
        lines.append(f"{mode:50} {figures}{'  WRONG' if wrong else ''}")
    if ranks.rank == 0:
        print("\n".join(lines))
        print("All modes agree." if num_wrong == 0 else "Do not train on this machine in a mode that is marked WRONG.")
        print("" if can_compile else "torch.compile was not tried: there is no C++ compiler on PATH.")
    return min(num_wrong, 1)
