"""Measure memory and time of the chunked loss against the usual path (logits, fp32, cross entropy).

In: nothing. Out: a table on stdout, for docs/LOG.md.

example: python benchmarks/loss_memory.py --tokens 768 3072 --hidden 512
         python benchmarks/loss_memory.py --tokens 24576 --hidden 2048 --kinds chunked --repeats 1
"""

import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import EXIT_DONE, Parser, run

VOCAB = 102_400
KINDS = ("usual", "chunked")


def usual_loss(hidden: Any, weight: Any, labels: Any) -> Any:
    """What LlamaForCausalLM does: all logits in bf16, then in fp32, then their log-softmax."""
    import torch

    return torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels)


def tensor_bytes(compute: Callable[[], None]) -> int:
    """The most bytes of tensors that are alive at once while `compute` runs, beside those that were there before.

    A GPU's allocator would count the same. (A CPU process takes more: oneDNN packs a copy of the head for its products.)
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.now = self.most = 0
            self.known: set[int] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given | self.known:
                    self.count(tensor.untyped_storage())
            return out

        def count(self, storage: Any) -> None:
            self.known.add(storage.data_ptr())
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, storage.data_ptr(), storage.nbytes())

        def forget(self, pointer: int, num_bytes: int) -> None:
            self.known.discard(pointer)
            self.now -= num_bytes

    with Alive() as alive:
        compute()
    return int(alive.most)


def measure(kind: str, num_tokens: int, hidden_size: int, repeats: int) -> str:
    """One row: kind, tokens, MB of tensors beside the inputs, CPU seconds of the fastest repeat, loss."""
    import torch

    import train

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    shape = (num_tokens, hidden_size)
    hidden = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16).requires_grad_()
    weight = torch.empty(VOCAB, hidden_size, device=device, dtype=torch.bfloat16)
    weight.normal_(std=hidden_size**-0.5, generator=generator).requires_grad_()
    labels = torch.randint(VOCAB, (num_tokens,), generator=generator, device=device)
    loss_of = usual_loss if kind == "usual" else train.linear_cross_entropy
    losses: list[float] = []
    seconds: list[float] = []

    def step() -> None:
        hidden.grad = weight.grad = None
        begun_s = time.process_time()
        loss = loss_of(hidden, weight, labels)
        loss.backward()
        losses.append(float(loss.detach()))  # waits for a GPU
        seconds.append(time.process_time() - begun_s)

    most_bytes = tensor_bytes(step)
    for _ in range(repeats - 1):
        step()
    return f"{kind:8} {num_tokens:7,} {most_bytes / 1e6:14,.0f} {min(seconds):12.2f} {losses[0]:10.5f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="loss_memory.py", description=__doc__)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[768, 3072], help="tokens in a micro-batch (default 768 3072)"
    )
    parser.add_argument(
        "--hidden", type=int, default=512, help="hidden size (default 512; the published model has 2048)"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which losses (default both)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default 3)")
    args = parser.parse_args(argv)
    print(f"hidden {args.hidden}, vocabulary {VOCAB:,}, bf16")
    print("loss      tokens  MB of tensors  CPU seconds       loss", flush=True)
    for num_tokens in args.tokens:
        for kind in args.kinds:
            print(measure(kind, num_tokens, args.hidden, args.repeats), flush=True)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
