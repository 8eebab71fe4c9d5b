"""Measure the bytes that a forward pass keeps for the backward pass, beside what train.py's plan says of them.

In: nothing; layers as the published model has them, and others. Out: a table on stdout, for docs/LOG.md.

`kept` is what autograd has saved when the forward pass is done, weights and the gradients that the loss makes in
advance not counted. Of a compiled model, torch.compile's partitioner decides that; it is asked without making code,
which takes a compiler and minutes and keeps the same (docs/LOG.md). `peak` is the most bytes of tensors alive at once
in forward and backward, beside the weights; the plan's figure for it adds the gradients inside a layer, the loss, and
the weights' gradients in bf16. It is not measured of a compiled model, whose backward pass is not made.

example: python benchmarks/activation_memory.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import train
from benchmarks.loss_memory import tensor_bytes
from data_prep.cli import EXIT_DONE, Parser, run

VOCAB, NUM_LAYERS = 1_000, 3  # so that no activation has the shape of the head


class Case(NamedTuple):
    """A shape of layers, and what is asked of them."""

    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    seq_len: int
    checkpointed: int
    compiled: bool = False


EAGER = [
    Case(2048, 5504, 16, 16, 768, 0),  # the published model's layers
    Case(2048, 5504, 16, 16, 768, NUM_LAYERS),
    Case(1024, 2752, 16, 16, 768, 0),
    Case(1024, 2752, 16, 16, 768, 1),
    Case(1024, 2752, 16, 4, 768, 0),
    Case(1024, 2752, 16, 4, 2048, 2),
    Case(1024, 4096, 8, 8, 2048, 0),
    Case(512, 1376, 32, 8, 2048, 0),
    Case(512, 1376, 8, 1, 2048, 0),
    Case(512, 1376, 8, 8, 2048, NUM_LAYERS),
]
CASES = EAGER + [case._replace(compiled=True) for case in EAGER]


def shape_of(case: Case) -> train.Shape:
    kv = case.hidden * case.kv_heads // case.heads
    return train.Shape(NUM_LAYERS, case.hidden, case.feed_forward, VOCAB, case.heads, case.hidden, kv, tied=False)


def build(case: Case) -> Any:
    """The model of a case, on the CPU, as train.py builds it."""
    import torch

    config = {
        "model_type": "llama",
        "hidden_size": case.hidden,
        "intermediate_size": case.feed_forward,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": case.seq_len,
    }
    model = train.build_model(config, train.Settings(), torch.device("cpu")).train()
    train.set_checkpointing(model, case.checkpointed)
    if case.compiled:
        torch.compiler.reset()
        model.compile(backend="aot_eager_decomp_partition")
    return model


def kept_bytes(case: Case) -> int:
    """Bytes of the distinct tensors that autograd keeps for one sequence."""
    import torch

    model = build(case)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        alive.append(tensor)
        if storage.data_ptr() not in weights and tensor.shape != (VOCAB, case.hidden):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros((1, case.seq_len), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids, ids)
    return sum(kept.values())


def planned_bytes(case: Case) -> int:
    """What the plan says of `kept_bytes`; a checkpointed layer that comes back does so in the backward pass only."""
    shape = shape_of(case)
    planned = train.activation_bytes(shape, case.seq_len, case.checkpointed, compiled=case.compiled)
    again = case.seq_len * train.layer_activation_bytes(shape, compiled=case.compiled)
    return planned - (again if case.checkpointed else 0)


def peak_bytes(case: Case) -> int:
    """The most bytes alive at once, beside the weights, in a forward and backward pass of one sequence."""
    import torch

    model = build(case)
    ids = torch.zeros((1, case.seq_len), dtype=torch.int64)
    return tensor_bytes(lambda: model(ids, ids).backward())


def planned_peak_bytes(case: Case) -> float:
    shape = shape_of(case)
    memory = train.plan_memory(
        shape, gpus=1, stage=2, micro_batch=1, seq_len=case.seq_len, checkpointed=case.checkpointed
    )
    return memory.activations + memory.loss + 2 * train.count_parameters(shape)


def main(argv: Sequence[str] | None = None) -> int:
    Parser(prog="activation_memory.py", description=__doc__).parse_args(argv)
    print(f"{NUM_LAYERS} layers, one sequence, bf16, sdpa; MB")
    print(
        "hidden   ffn heads   kv   seq  checkpointed            kept  planned  ratio     peak  planned  ratio",
        flush=True,
    )
    for case in CASES:
        kept, planned = kept_bytes(case), planned_bytes(case)
        line = f"{case.hidden:6} {case.feed_forward:5} {case.heads:5} {case.kv_heads:4} {case.seq_len:5} {case.checkpointed:13}"
        line += f" {'compiled' if case.compiled else '':8} {kept / 1e6:6.1f} {planned / 1e6:8.1f} {planned / kept:6.3f}"
        if not case.compiled:
            peak, planned_peak = peak_bytes(case), planned_peak_bytes(case)
            line += f" {peak / 1e6:8.1f} {planned_peak / 1e6:8.1f} {planned_peak / peak:6.3f}"
        print(line, flush=True)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
