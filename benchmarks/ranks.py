"""Start the ranks of train.py quickly: fork them from a process that has imported torch and DeepSpeed once.

In: the arguments of train.py, a number of ranks, a log file. Out: real processes that train as under a launcher, and
that can be killed.

A start through `deepspeed` spends 10 to 20 seconds on imports; this one about one. Used by tests and by benchmarks
that start training often.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import signal
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


TINY_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "dtype": "bfloat16",
}


def make_tiny(folder: Path) -> None:
    """Write into `folder` what a tiny run needs: config.json, a tokenizer of 512 pieces, and data of made-up words,
    packed.
    """
    import numpy as np

    from data_prep import pack_tokens, train_tokenizer
    from data_prep.records import write_jsonl

    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdeilmnorstu"), size=random.integers(2, 8))) for _ in range(200)]
    texts = [" ".join(random.choice(words, size=300)) for _ in range(30)]
    records = [
        {"id": f"t{n}", "source": "test", "title": "", "abstract": text[:300], "text": text, "parts": {}}
        for n, text in enumerate(texts)
    ]
    write_jsonl(folder / "data" / "train.jsonl", records[:26])
    write_jsonl(folder / "data" / "val.jsonl", records[26:])
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG), encoding="utf-8")
    data, tokenizer = str(folder / "data"), str(folder / "tokenizer")
    train_tokenizer.main(["--input", f"{data}/train.jsonl", "--vocab-size", "512", "--out", tokenizer])
    pack_tokens.main(["--dataset", data, "--tokenizer", tokenizer])


def tiny_flags(folder: Path) -> list[str]:
    """Flags of train.py for what `make_tiny` has written: 256 tokens a step on 2 ranks."""
    flags = [
        "--config",
        str(folder / "config.json"),
        "--dataset",
        str(folder / "data"),
        "--tokenizer",
        str(folder / "tokenizer"),
    ]
    flags += ["--seq-len", "32", "--micro-batch", "2", "--accumulation", "2", "--warmup-steps", "4", "--lr", "3e-3"]
    return [*flags, "--eval-sequences", "8", "--wandb", "off"]


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
    """The life of one rank, as a launcher would start it; it ends with the process that it was forked from (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({**env, **address, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)})
    sys.argv = ["train.py", *argv]
    import train
    from data_prep.cli import run

    gc.freeze()  # what was imported before the fork: DeepSpeed collects garbage six times when ZeRO-1 starts
    if before is not None:
        before(rank)
    run(train.main)


def wait_ranks(ranks: "Sequence[multiprocessing.context.ForkServerProcess]", timeout_s: float) -> list[int | None]:
    """Exit codes once all ranks have ended; as a launcher does, a rank that fails ends the others (SIGTERM, later
    SIGKILL).
    """
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
