"""Kill a run of train.py at random moments, again and again, and compare the result with an undisturbed run.

In: nothing; a tiny model, data and tokenizer are made. Out: a table on stdout, and exit code 0 if the loss curve, the
validation losses and the final weights equal the undisturbed run's, bit for bit.

Two ranks train. SIGKILL hits both (a machine that fails) or one (a process that fails); SIGTERM, SIGINT and SIGUSR1
hit one; a STOP file hits none. Before some starts the newest checkpoint is damaged: a byte altered, a file cut short
or removed, a manifest spoilt. When a run comes to its end before all that was done, another one begins. --minutes
ends the work early; the same command goes on.

example: python benchmarks/kill_train.py --folder runs/kill --kills 50 --minutes 4
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import train
from benchmarks.ranks import make_tiny, start_ranks, tiny_flags, wait_ranks
from data_prep.cli import EXIT_DONE, EXIT_INTERRUPTED, Parser, UserError, atomic_write, run
from train import list_checkpoints

STOPS = {"SIGTERM": EXIT_INTERRUPTED, "SIGINT": EXIT_INTERRUPTED, "SIGUSR1": EXIT_DONE, "STOP": EXIT_DONE}
DAMAGES = ("byte altered", "cut short", "file removed", "manifest spoilt")
MOMENT_S = 0.7  # a disturbance comes up to so long after the step that it waits for: somewhere in the next one or two


def flags(folder: Path, out: Path, steps: int) -> list[str]:
    often = ["--log-every", "1", "--save-every", "3", "--eval-every", "50", "--keep", "3"]
    return [*tiny_flags(folder), "--out", str(out), "--steps", str(steps), *often]


def result(out: Path) -> dict[str, Any]:
    """What must be equal: (step, loss, gradient norm, rate) of all steps, validation losses, the weights' hash."""
    lines = train.read_metrics(out / "metrics.jsonl")
    curve = [[line["step"], line["loss"], line["grad_norm"], line["lr"]] for line in lines if line["kind"] == "train"]
    val = [[line["step"], line["loss"]] for line in lines if line["kind"] == "val"]
    weights = hashlib.sha256((out / "hf" / "model.safetensors").read_bytes()).hexdigest()
    return {"curve": curve, "val": val, "weights": weights}


def damage(checkpoints: Path, how: str, dice: random.Random) -> bool:
    """Damage the newest checkpoint; False if there are fewer than two, because one must be left to go on from."""
    found = list_checkpoints(checkpoints)
    if len(found) < 2:
        return False
    victim = dice.choice(sorted(found[0].glob("*.pt")))
    content = bytearray(victim.read_bytes())
    if how == "byte altered":
        content[dice.randrange(len(content))] ^= 0xFF
        victim.write_bytes(content)
    elif how == "cut short":
        victim.write_bytes(content[: dice.randrange(len(content))])
    elif how == "file removed":
        victim.unlink()
    else:
        (found[0] / "manifest.json").write_text('{"step":')
    return True


def attack(kind: str, folder: Path, out: Path, steps: int, dice: random.Random) -> str:
    """Start training and disturb it at a random moment: "hit", or "finished" if it was over before, or what went wrong.

    The moment is a random time after a random number of steps; one in six falls before the first step.
    """
    log, metrics = out.with_suffix(".log"), out / "metrics.jsonl"
    last = max((line["step"] for line in train.read_metrics(metrics)), default=0)
    ranks = start_ranks(flags(folder, out, steps), 2, log)
    awaited = last + dice.randrange(6)
    begun_s = time.monotonic()
    while all(process.is_alive() for process in ranks) and time.monotonic() - begun_s < 120:
        if metrics.exists() and max((line["step"] for line in train.read_metrics(metrics)), default=0) >= awaited:
            break
        time.sleep(0.01)
    time.sleep(dice.random() * MOMENT_S)
    if not all(process.is_alive() for process in ranks):
        return "finished" if wait_ranks(ranks, 60) == [0, 0] else f"ended by itself, see {log}"
    if kind == "STOP":
        (out / "STOP").touch()
    else:
        victims = ranks if kind == "SIGKILL both" else [dice.choice(ranks)]
        for process in victims:
            os.kill(process.pid or 0, signal.Signals[kind.split()[0]])
    codes = wait_ranks(ranks, 60)
    if kind.startswith("SIGKILL") or any(code is not None and code < 0 for code in codes):
        return "hit"  # a signal that comes before train.py listens kills, and there is nothing to save yet
    return "hit" if codes in ([STOPS[kind]] * 2, [EXIT_DONE] * 2) else f"exit codes {codes}, see {log}"


def attacks_to_do(kills: int, signals: int, done: Counter[str]) -> list[str]:
    wanted = {"SIGKILL both": kills - kills // 2, "SIGKILL one": kills // 2, **dict.fromkeys(STOPS, signals)}
    return [kind for kind, count in wanted.items() for _ in range(count - done[kind])]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="kill_train.py", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs and state are kept")
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs (default 50)")
    parser.add_argument("--signals", type=int, default=5, help="of each other way to stop (default 5)")
    parser.add_argument("--damages", type=int, default=10, help="newest checkpoints to damage (default 10)")
    parser.add_argument("--steps", type=int, default=90, help="of a run (default 90)")
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default 0)")
    parser.add_argument("--minutes", type=float, default=60.0, help="end after so long (default 60)")
    args = parser.parse_args(argv)
    begun_s = time.monotonic()
    folder, state_path = args.folder, args.folder / "state.json"
    if not (folder / "config.json").exists():
        make_tiny(folder)
    if not (folder / "undisturbed" / "hf").exists():
        codes = wait_ranks(
            start_ranks(flags(folder, folder / "undisturbed", args.steps), 2, folder / "undisturbed.log"), 600
        )
        if codes != [0, 0]:
            raise UserError(f"the undisturbed run ended with {codes}; see {folder / 'undisturbed.log'}")
    expected = result(folder / "undisturbed")
    state: dict[str, Any] = (
        json.loads(state_path.read_text())
        if state_path.exists()
        else {"done": {}, "damages": {}, "rounds": 0, "equal": 0, "starts": 0}
    )
    done, damages = Counter(state["done"]), Counter(state["damages"])

    def note() -> None:
        with atomic_write(state_path) as file:
            json.dump({**state, "done": done, "damages": damages}, file)

    while (todo := attacks_to_do(args.kills, args.signals, done)) and time.monotonic() - begun_s < args.minutes * 60:
        dice = random.Random(f"{args.seed} {state['starts']}")
        state["starts"] += 1
        out = folder / f"round{state['rounds']}"
        kind = dice.choice(todo)
        outcome = attack(kind, folder, out, args.steps, dice)
        if outcome == "hit":
            done[kind] += 1
            how = DAMAGES[damages.total() % len(DAMAGES)]
            if damages.total() < args.damages and dice.random() < 0.4 and damage(out / "checkpoints", how, dice):
                damages[how] += 1
        elif outcome != "finished":
            raise UserError(f"{kind}: {outcome}")
        if outcome == "finished" or not attacks_to_do(args.kills, args.signals, done):
            codes = wait_ranks(start_ranks(flags(folder, out, args.steps), 2, out.with_suffix(".log")), 600)
            equal = codes == [0, 0] and result(out) == expected
            state["rounds"], state["equal"] = state["rounds"] + 1, state["equal"] + equal
            if not equal:
                raise UserError(f"{out} ended with {codes} and differs from {folder / 'undisturbed'}")
            shutil.rmtree(out)
        note()
    note()
    print("disturbance            times")
    for name, count in [*sorted(done.items()), *sorted((f"newest checkpoint: {how}", n) for how, n in damages.items())]:
        print(f"{name:32} {count:4}")
    left = len(attacks_to_do(args.kills, args.signals, done))
    print(
        f"{state['starts']} starts, {state['rounds']} runs came to their end, {state['equal']} equal to the undisturbed one bit for bit"
    )
    print(f"{left} disturbances are left to do: start again" if left else "all done")
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
