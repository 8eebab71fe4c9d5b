"""Start the ranks of train.py quickly: fork them from a process that has imported torch, transformers and DeepSpeed once.

In: the arguments of train.py, a number of ranks, a log file. Out: real processes that train as under a launcher, and that can be killed.

A start through `deepspeed` spends 10 to 20 seconds on imports; this one about one. Used by tests and by benchmarks that start training often.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
PRELOAD = [
    "train",
    "torch",
    "deepspeed",
    "transformers.models.llama.modeling_llama",
    "data_prep.token_files",
    "benchmarks.ranks",
]


def start_ranks(
    argv: Sequence[str],
    world: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    before: Callable[[int], None] | None = None,
) -> "list[multiprocessing.context.ForkServerProcess]":
    """Start `world` ranks of `train.py ARGV`; their stdout and stderr are appended to `log`.

    `before`, a function of a module, is called in each rank with its number first (a test's way to break something).
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # the server inherits it, and torch reads it when it is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        context.Process(target=run_rank, args=(list(argv), rank, world, port, log, dict(env or {}), before))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def run_rank(
    argv: Sequence[str],
    rank: int,
    world: int,
    port: int,
    log: Path,
    env: Mapping[str, str],
    before: Callable[[int], None] | None,
) -> None:
    """The life of one rank, as a launcher would start it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({**env, **address, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)})
    sys.argv = ["train.py", *argv]
    import train
    from data_prep.cli import run

    if before is not None:
        before(rank)
    run(train.main)


def wait_ranks(ranks: "Sequence[multiprocessing.context.ForkServerProcess]", timeout_s: float) -> list[int | None]:
    """Exit codes once all ranks have ended; as a launcher does, a rank that fails ends the others (SIGTERM, later SIGKILL)."""
    deadline_s = time.monotonic() + timeout_s
    while any(process.is_alive() for process in ranks):
        failed = any(process.exitcode for process in ranks)
        if failed or time.monotonic() > deadline_s:
            for process in ranks:
                process.join(5)
                process.terminate()
                process.join(5)
                process.kill()
        time.sleep(0.05)
    return [process.exitcode for process in ranks]
