"""Train variants of a small model on the same tokens, seed by seed, and compare their bits per byte in validation.

In: a packed dataset, its tokenizer, a model's config, and variants: NAME=FLAGS of train.py.
Out: a run for each variant and seed in OUT (started again, what is done is not done twice), a table on stdout with means
and paired differences to the first variant, and OUT/run.html.

example: python benchmarks/compare_runs.py --dataset data --tokenizer tokenizer --config small.json --out runs/compared \\
             --seeds 0 1 --common="--steps 200 --seq-len 128 --micro-batch 8 --accumulation 1" \\
             --variants "adamw=--lr 2e-3" "muon=--lr 2e-3 --optimizer muon --muon-lr 4e-3"
"""

import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import train
from benchmarks import plot_run
from benchmarks.ranks import start_ranks, wait_ranks
from data_prep.cli import EXIT_DONE, Parser, UserError, atomic_write, run


def bits_per_byte(out: Path) -> list[tuple[int, float]]:
    """(step, bits per byte) of each evaluation of a run."""
    return [
        (line["step"], line["bits_per_byte"])
        for line in train.read_metrics(out / "metrics.jsonl")
        if line["kind"] == "val"
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="compare_runs.py", description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True, help="packed; a variant may name another with --dataset")
    parser.add_argument("--tokenizer", type=Path, required=True, help="its folder")
    parser.add_argument("--config", type=Path, required=True, help="the model")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--common", default="", help="flags of train.py for all variants")
    parser.add_argument("--variants", nargs="+", required=True, metavar="NAME=FLAGS", help="what is compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default 0")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    variants = dict(variant.partition("=")[::2] for variant in args.variants)
    given = [
        "--config",
        str(args.config),
        "--dataset",
        str(args.dataset),
        "--tokenizer",
        str(args.tokenizer),
        "--wandb",
        "off",
    ]
    last: dict[str, list[float]] = {}
    for name, flags in variants.items():
        for seed in args.seeds:
            out = args.out / f"{name}-seed{seed}"
            if not (out / "hf").exists():
                words = [*given, *shlex.split(args.common), *shlex.split(flags), "--seed", str(seed), "--out", str(out)]
                if wait_ranks(start_ranks(words, 1, out.with_suffix(".log")), 3600) != [0]:
                    raise UserError(f"{out} failed; see {out.with_suffix('.log')}")
            curve = bits_per_byte(out)
            last.setdefault(name, []).append(curve[-1][1])
            print(f"{out.name:28} " + "  ".join(f"{step}: {bits:.4f}" for step, bits in curve), flush=True)
    first = next(iter(last))
    print(
        f"\n{'variant':20} bits per byte at the end, mean of {len(args.seeds)} seeds; difference to {first}, seed by seed"
    )
    for name, values in last.items():
        differences = " ".join(f"{value - base:+.4f}" for value, base in zip(values, last[first], strict=True))
        print(f"{name:20} {statistics.fmean(values):.4f}   {differences}")
    runs = [
        plot_run.Metrics(
            name,
            plot_run.COLOURS[number % len(plot_run.COLOURS)],
            train.read_metrics(args.out / f"{name}-seed{args.seeds[0]}" / "metrics.jsonl"),
        )
        for number, name in enumerate(variants)
    ]
    with atomic_write(args.out / "run.html") as file:
        file.write(plot_run.page(runs, "tokens"))
    print(f"\n{args.out / 'run.html'}")
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
