"""Measure memory and time of the chunked loss against the usual path (logits, fp32, cross entropy).

In: nothing. Out: a table on stdout, for docs/LOG.md.

example: python benchmarks/loss_memory.py --tokens 768 3072 --hidden 512
         python benchmarks/loss_memory.py --tokens 24576 --hidden 2048 --kinds chunked --repeats 1
"""

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
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


def used_bytes(device: Any) -> int:
    """Memory that this process (or, on a GPU, its tensors) takes now."""
    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: Any) -> int:
    """The most that it has ever taken."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(kind: str, num_tokens: int, hidden_size: int, repeats: int) -> str:
    """One row, in a process of its own because a peak never falls: kind, tokens, MB over the inputs, CPU seconds, loss."""
    import torch

    import train

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(
        (num_tokens, hidden_size), generator=generator, device=device, dtype=torch.bfloat16
    ).requires_grad_()
    weight = torch.empty(VOCAB, hidden_size, device=device, dtype=torch.bfloat16)
    weight.normal_(std=hidden_size**-0.5, generator=generator).requires_grad_()
    labels = torch.randint(VOCAB, (num_tokens,), generator=generator, device=device)
    loss_of = usual_loss if kind == "usual" else train.linear_cross_entropy
    before_bytes = used_bytes(device)
    seconds = []
    for _ in range(repeats):
        hidden.grad = weight.grad = None
        begun_s = time.process_time()
        loss = loss_of(hidden, weight, labels)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.process_time() - begun_s)
    megabytes = (peak_bytes(device) - before_bytes) / 1e6
    return f"{kind:8} {num_tokens:7,} {megabytes:12,.0f} {min(seconds):12.2f} {float(loss.detach()):10.5f}"


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
    parser.add_argument("--one", choices=KINDS, help="measure one row in this process and print it")
    args = parser.parse_args(argv)
    if args.one:
        print(measure(args.one, args.tokens[0], args.hidden, args.repeats))
        return EXIT_DONE
    print(
        f"hidden {args.hidden}, vocabulary {VOCAB:,}, bf16\nloss      tokens  MB over in.  CPU seconds       loss",
        flush=True,
    )
    for num_tokens in args.tokens:
        for kind in args.kinds:
            sizes = ["--tokens", str(num_tokens), "--hidden", str(args.hidden), "--repeats", str(args.repeats)]
            subprocess.run([sys.executable, __file__, "--one", kind, *sizes], check=True)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
