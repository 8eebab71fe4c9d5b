"""How fast pack_tokens.py is beside the bare encoding of the same texts by `tokenizers`, and what memory it takes.

In: a JSON-lines file and a tokenizer's folder. Out: for each round a line for bare encoding and one for packing (tokens per CPU second and per
second of wall time), the share of the bare speed that the whole command has, the cost of its start, and the peak memory of packing the input
once and --repeat times.

Both run side by side, each with --processes threads or processes, so that both meet the same neighbours on a shared machine, and CPU
seconds are compared. Bare encoding has all texts in memory and its tokenizer loaded, hands all texts to the library in one call, --repeat times, and
keeps nothing; only the calls are timed. Packing is the command as a user starts it, on the input --repeat times over: it reads and parses
the file, starts its processes, loads the tokenizer in each, and writes tokens to the disk.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from data_prep.cli import EXIT_DONE, Parser, run
from data_prep.records import read_jsonl, training_text
from data_prep.token_files import load_encoder, open_split

ROOT = Path(__file__).resolve().parent.parent


class Cost(NamedTuple):
    """What one run took: seconds of wall time, of CPU in all processes, tokens made, and the peak memory of one process in MB."""

    wall_s: float
    cpu_s: float
    num_tokens: int
    memory_mb: float = 0.0

    def line(self, label: str) -> str:
        """One line for a reader."""
        rates = f"{self.num_tokens / self.cpu_s / 1e6:.3f} Mtokens per CPU second, {self.num_tokens / self.wall_s / 1e6:.3f} per second"
        return f"{label:<18} {self.num_tokens:,} tokens, {self.cpu_s:.2f} CPU seconds in {self.wall_s:.2f} s: {rates}"


def encode_bare(source: Path, tokenizer: Path, method: str, repeat: int) -> Cost:
    """Encode all texts in one call of a method of the library's tokenizer, `repeat` times; the calls alone are timed."""
    texts = [training_text(record) for record in read_jsonl(source)]
    encode = getattr(load_encoder(tokenizer), method)
    wall_s = cpu_s = 0.0
    num_tokens = 0
    for _ in range(repeat):
        wall_start_s, cpu_start_s = time.monotonic(), time.process_time()
        encodings = encode(texts, add_special_tokens=False)
        wall_s, cpu_s = wall_s + time.monotonic() - wall_start_s, cpu_s + time.process_time() - cpu_start_s
        num_tokens += sum(map(len, encodings)) + 2 * len(texts)
    return Cost(wall_s, cpu_s, num_tokens)


def pack_once(lines: bytes, tokenizer: Path, processes: int, repeat: int) -> Cost:
    """Pack these lines, `repeat` times over, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder)
        with (dataset / "train.jsonl").open("wb") as file:
            for _ in range(repeat):
                file.write(lines)
        words = f"--dataset {dataset} --tokenizer {tokenizer} --processes {processes} --parts text --no-groups".split()
        started_s = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, ROOT / "data_prep" / "pack_tokens.py", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - started_s
        if status:
            raise SystemExit(f"pack_tokens.py failed with status {status}")
        num_tokens = sum(file.header.num_tokens for file in open_split(dataset, "train"))
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, num_tokens, usage.ru_maxrss / 1e3)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python benchmarks/pack_throughput.py --input dataset_train_val/train.jsonl --tokenizer tokenizer",
    )
    parser.add_argument("--input", type=Path, required=True, help="records, JSON lines")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer's folder")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="cores for each of the two (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of the two together (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=5, help="how often a run goes over the input (default: %(default)s)"
    )
    parser.add_argument(
        "--method",
        choices=("encode_batch_fast", "encode_batch"),
        default="encode_batch_fast",
        help="the library's call; encode_batch finds the characters' places, too (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    os.environ["RAYON_NUM_THREADS"] = str(options.processes)
    lines = options.input.read_bytes()
    start = pack_once(lines[: lines.index(b"\n") + 1], options.tokenizer, options.processes, 1)
    once = pack_once(lines, options.tokenizer, options.processes, 1)
    shares = []
    for _ in range(options.rounds):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as beside:
            future = beside.submit(encode_bare, options.input, options.tokenizer, options.method, options.repeat)
            packing = pack_once(lines, options.tokenizer, options.processes, options.repeat)
            bare = future.result()
        shares.append(packing.num_tokens / packing.cpu_s / (bare.num_tokens / bare.cpu_s))
        print(bare.line(options.method))
        print(packing.line("packing"))
        print(f"packing has {100 * shares[-1]:.1f}% of the bare speed, by CPU time", flush=True)
    print(
        f"median of {options.rounds} rounds, {options.repeat * len(lines) / 1e6:.0f} MB of JSON lines: {100 * statistics.median(shares):.1f}%"
    )
    print(f"start, by packing one record with one worker: {start.cpu_s:.2f} CPU seconds")
    print(
        f"peak memory of a packing process: {once.memory_mb:.0f} MB for the input, {packing.memory_mb:.0f} MB for {options.repeat} times the input"
    )
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
