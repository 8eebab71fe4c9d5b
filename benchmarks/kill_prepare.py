"""Kill prepare_dataset.py again and again; the corpus that comes out in the end must be that of a quiet run, byte for byte.

In: e-prints and their metadata (default: ../shared/eprints and ../shared/bulk). Out: a line for each check; exit 1 if a
byte differs.

    python benchmarks/kill_prepare.py --kills 50

Checks: 1, 2 and 4 workers, Ray (where installed) and a job array of three tasks give the same bytes; then runs with two
workers are killed with SIGKILL at moments drawn from a seeded generator, in turn the driver alone (as by `kill -9`) and all its
processes at once (as by a batch system), and started again until one gets through. A kill may hit any moment: imports, the
metadata's index, a shard, the merge, the last rename.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)  # run as a file: import from the repository root

from data_prep.cli import Parser, UserError, run

FILES = ("train.jsonl", "val.jsonl", "rejects.jsonl", "manifest.json")  # timings.json may differ


def command(args: argparse.Namespace, out: Path, *more: str) -> list[str]:
    """The command line of one run into `out`."""
    sources = [str(path) for path in args.sources]
    words = [
        sys.executable,
        str(ROOT / "data_prep/prepare_dataset.py"),
        "--metadata",
        str(args.metadata),
        "--sources",
        *sources,
    ]
    return [*words, "--out", str(out), *more]


def prepare(args: argparse.Namespace, out: Path, *more: str) -> float:
    """A run that nobody disturbs; returns its wall seconds. Raises UserError with its last words if it fails."""
    started_s = time.monotonic()
    done = subprocess.run(command(args, out, *more), capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"prepare_dataset.py {' '.join(more)} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.monotonic() - started_s


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of each file of a corpus."""
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in FILES}


def report(what: str, out: Path, expected: dict[str, str]) -> bool:
    """Print whether a corpus has the expected bytes."""
    found = hashes(out)
    different = [name for name in FILES if found[name] != expected[name]]
    print(f"{what:<44} {'same bytes' if not different else 'DIFFERENT: ' + ', '.join(different)}", flush=True)
    return not different


def ways(args: argparse.Namespace, folder: Path, expected: dict[str, str]) -> bool:
    """The same corpus made in other ways."""
    same = True
    for name, more in (("2 workers", ["--workers", "2"]), ("4 workers", ["--workers", "4"])):
        prepare(args, folder / name, *more)
        same &= report(name, folder / name, expected)
    for task in (2, 0, 1):
        prepare(args, folder / "array", "--workers", "1", "--shard-index", str(task), "--num-shards", "3")
    prepare(args, folder / "array", "--workers", "1")
    same &= report("job array of 3, tasks in the order 2, 0, 1", folder / "array", expected)
    with contextlib.suppress(ImportError):
        import ray

        prepare(args, folder / "ray", "--workers", "2", "--engine", "ray")
        same &= report(f"ray {ray.__version__}", folder / "ray", expected)
    return same


def start_and_kill(args: argparse.Namespace, out: Path, delay_s: float, all_processes: bool) -> float | None:
    """Start a run and kill it after `delay_s`: None, or its seconds if it was through by then. UserError if it failed by itself."""
    started_s = time.monotonic()
    child = subprocess.Popen(
        command(args, out, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, errors = child.communicate(timeout=delay_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL) if all_processes else child.kill()
        child.wait()
        return None
    if child.returncode != 0:
        raise UserError(f"a run started after a kill ended with {child.returncode}: {errors.decode()[-500:]}")
    return time.monotonic() - started_s


def kill_often(args: argparse.Namespace, folder: Path, quiet_s: float, expected: dict[str, str]) -> bool:
    """Kill `args.kills` times; every corpus that is finished on the way is compared, then thrown away."""
    generator = random.Random(args.seed)
    out = folder / "killed"
    same, num_kills, num_finished, streak, longest = True, 0, 0, 0, 0
    while num_kills < args.kills:
        through_s = start_and_kill(args, out, generator.uniform(0, 1.1 * quiet_s), all_processes=num_kills % 2 == 1)
        if through_s is None:
            num_kills, streak = num_kills + 1, streak + 1
            longest = max(longest, streak)
        else:
            quiet_s, streak = (
                (quiet_s if streak else through_s),
                0,
            )  # a machine that is less busy now wants earlier kills
            same &= report(f"finished after {num_kills} kills in all", out, expected)
            num_finished += 1
            shutil.rmtree(out)
    prepare(args, out, "--workers", "2")
    same &= report(f"finished after the last of {num_kills} kills", out, expected)
    leftovers = [path.name for path in (out / "shards").glob("*.partial")]
    print(
        f"{num_kills} kills, {num_finished + 1} corpora finished, at most {longest} kills in a row; leftovers: {leftovers or 'none'}"
    )
    return same and not leftovers


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks; 0 if every byte is as expected."""
    parser = Parser(prog="kill_prepare.py", description=__doc__)
    parser.add_argument("--sources", type=Path, nargs="+", default=[SHARED / "eprints/src", SHARED / "bulk"])
    parser.add_argument("--metadata", type=Path, default=SHARED / "eprints/metadata.jsonl")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-kills", action="store_true", help="leave out workers, Ray and job arrays")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args, folder / "quiet", "--workers", "1")
        expected = hashes(folder / "quiet")
        same = args.only_kills or ways(args, folder, expected)
        quiet_s = prepare(args, folder / "timed", "--workers", "2")
        same &= kill_often(args, folder, quiet_s, expected)
    print("all bytes are the same" if same else "bytes differ")
    return 0 if same else 1


if __name__ == "__main__":
    run(main)
