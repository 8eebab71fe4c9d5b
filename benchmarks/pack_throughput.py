"""How fast pack_tokens.py is beside the bare encoding of the same texts by `tokenizers`, and what memory it takes.

In: a JSON-lines file and a tokenizer's folder. Out: one line each for bare encoding and packing (tokens per CPU second and per second of
wall time, on the same number of cores), their ratios, and the peak memory of packing the input once and --repeat times.

Bare encoding has all texts in memory, its tokenizer loaded, and keeps nothing; packing reads and parses the file, starts its processes and
loads the tokenizer in each, and writes tokens to the disk. Runs alternate, and the best of --rounds counts. What packing costs without its
start is the difference between packing the input --repeat times over and once.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.cli import EXIT_DONE, Parser, run
from data_prep.records import read_jsonl, training_text
from data_prep.token_files import load_encoder, open_split

ROOT = Path(__file__).resolve().parent.parent


class Cost(NamedTuple):
    """What one run took: seconds of wall time, of CPU in all processes, and tokens made."""

    wall_s: float
    cpu_s: float
    num_tokens: int

    def line(self, label: str) -> str:
        """One line for a reader."""
        rates = f"{self.num_tokens / self.cpu_s / 1e6:.3f} Mtokens per CPU second, {self.num_tokens / self.wall_s / 1e6:.3f} per second"
        return f"{label:<14} {self.num_tokens:,} tokens, {self.cpu_s:.2f} CPU seconds in {self.wall_s:.2f} s: {rates}"


def encode_bare(texts: Sequence[str], tokenizer: Path, fast: bool) -> Cost:
    """Encode all texts in one call of the library; `fast` leaves out the characters' places."""
    encoder = load_encoder(tokenizer)
    encode = encoder.encode_batch_fast if fast else encoder.encode_batch
    wall_s, cpu_s = time.monotonic(), time.process_time()
    encodings = encode(list(texts), add_special_tokens=False)
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    return Cost(wall_s, cpu_s, sum(len(encoding.ids) for encoding in encodings) + 2 * len(texts))


def pack_once(source: Path, tokenizer: Path, processes: int, repeat: int) -> tuple[Cost, float]:
    """Pack the file, `repeat` times over, in a fresh process; the cost, and the peak memory of any one process in MB."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder)
        with (dataset / "train.jsonl").open("wb") as file:
            for _ in range(repeat):
                file.write(source.read_bytes())
        words = [
            "--dataset",
            dataset,
            "--tokenizer",
            tokenizer,
            "--processes",
            processes,
            "--parts",
            "text",
            "--no-groups",
        ]
        started_s = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, ROOT / "data_prep" / "pack_tokens.py", *map(str, words)], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - started_s
        if status:
            raise SystemExit(f"pack_tokens.py failed with status {status}")
        num_tokens = sum(file.header.num_tokens for file in open_split(dataset, "train"))
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, num_tokens), usage.ru_maxrss / 1e3


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python benchmarks/pack_throughput.py --input dataset_train_val/train.jsonl --tokenizer tokenizer",
    )
    parser.add_argument("--input", type=Path, required=True, help="records, JSON lines")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer's folder")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="cores for both (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=3, help="how often the input is packed for the second look at memory"
    )
    options = parser.parse_args(argv)
    os.environ["RAYON_NUM_THREADS"] = str(options.processes)
    texts = [training_text(record) for record in read_jsonl(options.input)]
    costs: dict[str, list[Cost]] = {"encode_batch": [], "without places": [], "packing": []}
    memory_mb = 0.0
    for _ in range(options.rounds):
        costs["encode_batch"].append(encode_bare(texts, options.tokenizer, fast=False))
        costs["without places"].append(encode_bare(texts, options.tokenizer, fast=True))
        cost, memory_mb = pack_once(options.input, options.tokenizer, options.processes, 1)
        costs["packing"].append(cost)
    best = {label: min(runs, key=lambda cost: cost.cpu_s) for label, runs in costs.items()}
    fastest = {label: min(runs, key=lambda cost: cost.wall_s) for label, runs in costs.items()}
    for label, cost in best.items():
        print(cost.line(label))
    for label in ("encode_batch", "without places"):
        cpu, wall = best[label].cpu_s / best["packing"].cpu_s, fastest[label].wall_s / fastest["packing"].wall_s
        print(f"packing has {100 * cpu:.0f}% of the speed of {label} by CPU time, {100 * wall:.0f}% by wall time")
    repeated, repeated_mb = pack_once(options.input, options.tokenizer, options.processes, options.repeat)
    once = best["packing"]
    steady = Cost(repeated.wall_s - once.wall_s, repeated.cpu_s - once.cpu_s, repeated.num_tokens - once.num_tokens)
    print(steady.line("packing on"))
    for label in ("encode_batch", "without places"):
        share = steady.num_tokens / steady.cpu_s / (best[label].num_tokens / best[label].cpu_s)
        print(
            f"without its start (processes, tokenizers), packing has {100 * share:.0f}% of the speed of {label} by CPU time"
        )
    print(
        f"peak memory of a packing process: {memory_mb:.0f} MB for the input, {repeated_mb:.0f} MB for {options.repeat} times the input"
    )
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
