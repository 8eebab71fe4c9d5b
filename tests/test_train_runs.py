"""train.py with real ranks (gloo, ZeRO-2, bf16) on a tiny model: it trains, is killed, told to stop, damaged, and
goes on exactly.
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from benchmarks.ranks import TINY_CONFIG, make_tiny, start_ranks, tiny_flags, wait_ranks
from data_prep.cli import UserError
from data_prep.token_files import HEADER_BYTES, TokenSequences, open_token_file, read_header

from .conftest import ROOT, run_command

STEPS = 24
FLAGS = ["--steps", str(STEPS), "--log-every", "1", "--eval-every", "6", "--save-every", "4", "--keep", "9"]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json, a tokenizer, and a data set of made-up words that is packed."""
    folder = tmp_path_factory.mktemp("train")
    make_tiny(folder)
    return folder


def command(place: Path, out: Path, *more: str) -> list[str]:
    return [*tiny_flags(place), "--out", str(out), *FLAGS, *more]


def go(place: Path, out: Path, *more: str, world: int = 2, before: Any = None) -> tuple[list[int | None], str]:
    """Train to the end: exit codes of the ranks, and what they printed."""
    log = out.with_suffix(".log")
    log.unlink(missing_ok=True)
    codes = wait_ranks(start_ranks(command(place, out, *more), world, log, {"TORCHDYNAMO_DISABLE": "1"}, before), 90)
    return codes, log.read_text()


def lines(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in train.read_metrics(out / "metrics.jsonl") if line["kind"] == kind]


def curve(out: Path) -> dict[int, tuple[float, float, float]]:
    return {line["step"]: (line["loss"], line["grad_norm"], line["lr"]) for line in lines(out)}


def wait_for_step(out: Path, step: int, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not any(line["step"] >= step for line in lines(out)):
        assert time.monotonic() < deadline_s, f"{out} never came to step {step}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def undisturbed(place: Path) -> Path:
    """The run that all others must equal."""
    out = place / "undisturbed"
    codes, said = go(place, out)
    assert codes == [0, 0], said
    (place / "said.txt").write_text(said)
    return out


def assert_same(out: Path, undisturbed: Path) -> None:
    """The same curve, validation and weights, bit for bit."""
    assert curve(out) == curve(undisturbed)
    assert [(line["step"], line["loss"]) for line in lines(out, "val")] == [
        (line["step"], line["loss"]) for line in lines(undisturbed, "val")
    ]
    assert (out / "hf" / "model.safetensors").read_bytes() == (undisturbed / "hf" / "model.safetensors").read_bytes()


def test_a_run_learns_and_says_so(place: Path, undisturbed: Path) -> None:
    losses = [line["loss"] for line in lines(undisturbed)]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.5
    assert [line["step"] for line in lines(undisturbed, "val")] == [6, 12, 18, 24]
    assert all(line["bits_per_byte"] < line["loss"] / 0.69 for line in lines(undisturbed, "val"))
    assert set(lines(undisturbed)[0]) >= {
        "loss",
        "grad_norm",
        "lr",
        "tokens",
        "tokens_per_s",
        "data_wait_frac",
        "skipped",
        "epoch",
    }
    said = (place / "said.txt").read_text()
    assert "2 processes x 2 sequences x 32 tokens x 2 accumulation = 256 tokens per step" in said
    assert "bits per byte" in said
    assert "Traceback" not in said


def test_runs_are_drawn_over_each_other(place: Path, undisturbed: Path) -> None:
    from benchmarks import plot_run

    page = place / "run.html"
    assert plot_run.main([str(undisturbed), str(undisturbed), "--out", str(page)]) == 0
    drawn = page.read_text()
    assert drawn.count("<svg") == 7
    assert drawn.count("<polyline") == 14
    assert "symbolic integration after step" in drawn
    assert "<script" not in drawn
    assert "http" not in drawn
    with pytest.raises(UserError, match=r"has no metrics.jsonl"):
        plot_run.main([str(place / "nowhere")])


def test_the_model_loads_with_nothing_but_transformers(place: Path, undisturbed: Path) -> None:
    code = (
        "import sys, torch, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = torch.tensor([tokenizer('rate de lume')['input_ids']])\n"
        "assert model.dtype == torch.bfloat16 and float(model(ids, labels=ids).loss) < 8\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, undisturbed / "hf"], capture_output=True, text=True, cwd=place, timeout=100
    )
    assert done.returncode == 0, done.stderr
    for path in (place / "tokenizer").iterdir():
        assert (undisturbed / "hf" / path.name).read_bytes() == path.read_bytes()
    facts = json.loads((undisturbed / "hf" / "training.json").read_text())
    assert (facts["seq_len"], facts["num_steps"], facts["num_tokens"]) == (32, STEPS, STEPS * 256)
    assert (undisturbed / "hf" / "generation_config.json").exists()


def test_killed_and_damaged_it_goes_on_bit_for_bit(place: Path, undisturbed: Path) -> None:
    out, log = place / "killed", place / "killed.log"
    for step in (3, 9, 14):
        ranks = start_ranks(command(place, out), 2, log)
        wait_for_step(out, step)
        kill(ranks)
    newest = train.list_checkpoints(out / "checkpoints")[0]
    target = newest / "mp_rank_00_model_states.pt"
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    (out / "checkpoints" / "step00000099.partial").mkdir()
    codes, said = go(place, out)
    assert codes == [0, 0], said
    assert f"checkpoint {newest} is damaged: {target.name} is missing or does not have its" in said
    assert_same(out, undisturbed)
    assert not list((out / "checkpoints").glob("*.partial"))
    again, said = go(place, out)  # a run that is done changes nothing
    assert again == [0, 0], said
    assert_same(out, undisturbed)


def test_each_way_to_stop_ends_all_ranks_with_a_checkpoint(place: Path, undisturbed: Path) -> None:
    """A signal to one rank is enough; SIGTERM and SIGINT end with 130, SIGUSR1, STOP and --max-hours with 0; then it
    goes on exactly.
    """
    out, log = place / "stopped", place / "stopped.log"
    step = 0
    for way in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, "STOP", "--max-hours"):
        ranks = start_ranks(command(place, out, *(["--max-hours", "1e-9"] if way == "--max-hours" else [])), 2, log)
        wait_for_step(out, step + 1)
        if isinstance(way, signal.Signals):
            pid = ranks[1].pid
            assert pid is not None
            os.kill(pid, way)
        elif way == "STOP":
            (out / "STOP").touch()
        codes = wait_ranks(ranks, 60)
        assert codes == ([130, 130] if way in (signal.SIGTERM, signal.SIGINT) else [0, 0]), log.read_text()
        step = lines(out)[-1]["step"]
        assert (out / "checkpoints" / "latest").read_text() == train.checkpoint_name(step)
        assert not (out / "STOP").exists()
    assert step < STEPS, "the run was over before it could be stopped each way"
    reasons = re.findall(r"Stopped after step \d+ of 24: (.*)\. The same command goes on", log.read_text())
    assert reasons == ["SIGTERM", "SIGINT", "SIGUSR1", f"the file {out / 'STOP'}", "--max-hours 1e-09"]
    codes, said = go(place, out)
    assert codes == [0, 0], said
    assert_same(out, undisturbed)


def kill(ranks: Any) -> None:
    for process in ranks:
        process.kill()
    wait_ranks(ranks, 30)


def assert_other_numbers_of_ranks_go_on(place: Path, whole: Path, out: Path, *flags: str) -> None:
    """From a checkpoint of `whole`, a run of 2 ranks: 1 rank for some steps, then 2 to the end, within 1e-4 of it."""
    shutil.copytree(whole, out)
    for path in train.list_checkpoints(out / "checkpoints"):
        if path.name > "step00000008":
            shutil.rmtree(path)
    (out / "metrics.jsonl").unlink()
    ranks = start_ranks(command(place, out, *flags), 1, out.with_suffix(".log"))
    wait_for_step(out, 9)
    pid = ranks[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGUSR1)
    assert wait_ranks(ranks, 60) == [0], out.with_suffix(".log").read_text()
    stopped = lines(out)[-1]["step"]
    codes, said = go(place, out, *flags)
    assert codes == [0, 0], said
    assert [line["world_size"] for line in lines(out, "event") if line["event"] == "resume"] == [1, 2]
    assert 8 < stopped < lines(whole)[-1]["step"] == lines(out)[-1]["step"]
    for step, (loss, _, rate) in curve(out).items():
        assert loss == pytest.approx(curve(whole)[step][0], rel=1e-4)
        assert rate == curve(whole)[step][2]


def test_on_one_gpu_instead_of_two_and_back(place: Path, undisturbed: Path) -> None:
    assert_other_numbers_of_ranks_go_on(place, undisturbed, place / "worlds")


def test_zero_1_goes_on_bit_for_bit_and_on_other_numbers_of_ranks(place: Path) -> None:
    flags = ["--deepspeed-config", deepspeed_variant(place, "zero1", zero_optimization={"stage": 1})]
    whole, killed = place / "zero1_whole", place / "zero1_killed"
    codes, said = go(place, whole, *flags)
    assert codes == [0, 0], said
    ranks = start_ranks(command(place, killed, *flags), 2, place / "zero1_killed.log")
    wait_for_step(killed, 9)
    kill(ranks)
    codes, said = go(place, killed, *flags)
    assert codes == [0, 0], said
    assert "step00000008 after step 8" in said
    assert_same(killed, whole)
    assert_other_numbers_of_ranks_go_on(place, whole, place / "zero1_worlds", *flags)


def nan_loss(rank: int) -> None:
    """Make the loss of rank 1 NaN in its 7th micro-batch, and from the 30th on."""
    plain, calls = train.linear_cross_entropy, [0]

    def broken(hidden: Any, weight: Any, labels: Any, chunk: int = 512) -> Any:
        calls[0] += 1
        bad = rank == 1 and (calls[0] == 7 or calls[0] >= 30)
        return plain(hidden, weight, labels, chunk) * (float("nan") if bad else 1.0)

    train.linear_cross_entropy = broken


def test_steps_that_are_not_finite_are_skipped_counted_and_bounded(place: Path) -> None:
    out = place / "nan"
    codes, said = go(place, out, "--max-bad-steps", "3", "--eval-every", "100", before=nan_loss)
    assert codes[0] == 2, said
    assert "3 steps in a row were skipped (loss nan at step 17); the last checkpoint" in said
    assert said.count("train.py:") == 1
    events = [line for line in lines(out, "event") if line["event"] == "not finite, skipped"]
    assert [line["step"] for line in events] == [4, 15, 16, 17]
    assert {line["step"]: line["skipped"] for line in lines(out)}[14] == 1
    assert (out / "checkpoints" / "latest").read_text() == "step00000012"


def guard_of_16_steps(rank: int) -> None:
    train.GUARD_WINDOW = 16


def test_outliers_are_skipped_and_counted(place: Path) -> None:
    """The model counts from 4 to 19 again and again; two steps draw rows of random tokens, and they alone are skipped."""
    out, data, poisoned, seq_len = place / "outliers", place / "poisoned", (44, 50), 32
    shutil.copytree(place / "data", data)
    flags = ["--dataset", str(data), "--steps", "56", "--curriculum", "none"]
    flags += ["--skip-outliers", "--eval-sequences", "0", "--save-every", "56"]
    run = prepare(place, out, *flags)
    sequences, batch = run.train.segments[0].sequences, run.batches.global_batch
    (tokens,) = [np.memmap(file.path, "<u4", "r+", offset=HEADER_BYTES) for file in sequences.files]
    tokens[:] = np.arange(len(tokens)) % 16 + 4
    for step in poisoned:
        for row in sequences.locate(range(step * batch, (step + 1) * batch))[1]:
            first = row * seq_len
            tokens[first : first + seq_len] = np.random.default_rng(row).integers(4, 512, seq_len)
    codes, said = go(place, out, *flags, before=guard_of_16_steps)
    assert codes == [0, 0], said
    events = [(line["step"], line["event"]) for line in lines(out, "event") if "skipped" in line["event"]]
    assert events == [(step + 1, "outlier skipped") for step in poisoned]
    assert (lines(out)[-1]["skipped"], lines(out)[-1]["outliers"]) == (2, 2)
    losses = {step: loss for step, (loss, _, _) in curve(out).items()}
    for step in poisoned:
        assert losses[step] < 3 < 6 < losses[step + 1]
        assert losses[step + 2] < losses[step] + 0.1, "a step that was skipped has changed the model"


def test_muon(place: Path, undisturbed: Path) -> None:
    """Its first gradient has AdamW's norm (it is the raw one that is clipped), it learns, and it goes on bit for bit."""
    out = place / "muon"
    codes, said = go(place, out, "--optimizer", "muon")
    assert codes == [0, 0], said
    assert curve(out)[1][:2] == pytest.approx(curve(undisturbed)[1][:2], rel=1e-3)
    assert lines(out)[-1]["loss"] < lines(out)[0]["loss"] - 0.5
    whole = curve(out)
    shutil.rmtree(out / "checkpoints" / "step00000024")
    shutil.rmtree(out / "checkpoints" / "step00000020")
    codes, said = go(place, out, "--optimizer", "muon")
    assert codes == [0, 0], said
    assert curve(out) == whole
    with pytest.raises(UserError, match=r"goes on on the 2 GPUs that it began on, here are 1"):
        prepare(place, out, "--optimizer", "muon", world=1)


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")


@needs_compiler
def test_compiled_it_learns_the_same_and_goes_on_bit_for_bit(place: Path) -> None:
    """One layer on one rank, because compiling takes 20 s where nothing is cached."""
    flags = ["--config", variant(place, "one_layer", num_hidden_layers=1), "--steps", "8", "--eval-sequences", "0"]
    flags += ["--checkpoint-layers", "0"]
    eager, out = place / "eager", place / "compiled"
    assert go(place, eager, *flags, world=1)[0] == [0]
    for _ in range(2):
        log = place / "compiled.log"
        env = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        assert wait_ranks(start_ranks(command(place, out, *flags, "--compile"), 1, log, env), 120) == [0], (
            log.read_text()
        )
        for step, (loss, norm, _) in curve(out).items():
            assert loss == pytest.approx(curve(eager)[step][0], abs=2e-3)
            assert norm == pytest.approx(curve(eager)[step][1], rel=1e-2)
        if not (out / "first").exists():
            (out / "hf").rename(out / "first")
            shutil.rmtree(out / "checkpoints" / "step00000008")
    assert "Going on from" in log.read_text()
    assert (out / "hf" / "model.safetensors").read_bytes() == (out / "first" / "model.safetensors").read_bytes()


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """The history of an offline run's .wandb file: 7 bytes, then LevelDB's log format, with a message in each record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, history, message, position, block = path.read_bytes(), [], b"", 7, 32_768
    while position + 7 <= len(data):
        if block - position % block < 7:  # too short for a record's head: padding
            position += block - position % block
        size, kind = struct.unpack_from("<HB", data, position + 4)
        message += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            record = Record.FromString(message)
            message = b""
            if record.HasField("history"):
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                history.append(items | {"step": record.history.step.num})
    return history


def test_wandb_offline_is_one_run_with_one_axis_of_steps(place: Path) -> None:
    """Stopped after its first step and gone on: the same id twice, steps that go on, the metrics of metrics.jsonl."""
    out = place / "wandb"
    for more in (["--max-hours", "1e-9"], []):
        codes, said = go(place, out, "--steps", "6", "--eval-every", "3", "--wandb", "offline", *more, world=1)
        assert codes == [0], said
    files = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert files[0].name == files[1].name
    before, after = map(wandb_history, files)
    assert [max(line["step"] for line in history) for history in (before, after)] == [1, 6]
    logged = {line["step"]: line for line in before + after if "train/loss" in line}
    assert {
        step: (line["train/loss"], line["train/grad_norm"], line["train/lr"]) for step, line in logged.items()
    } == curve(out)
    assert [line["val/bits_per_byte"] for line in after if "val/loss" in line] == [
        line["bits_per_byte"] for line in lines(out, "val")
    ]


# --- bad input: one line, exit 2, before anything is computed ---


def prepare(place: Path, out: Path, *more: str, world: int = 2) -> train.Run:
    given = vars(train.parser().parse_args(command(place, out, *more)))
    return train.prepare(
        train.Settings(**{name: given[name] for name in train.HINTS if given[name] is not None}),
        train.Ranks(0, 0, world),
    )


def variant(place: Path, name: str, **changes: Any) -> str:
    """A changed copy of config.json; a value of None removes the key."""
    path = place / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in {**TINY_CONFIG, **changes}.items() if value is not None}))
    return str(path)


def deepspeed_variant(place: Path, name: str, **changes: Any) -> str:
    path = place / f"{name}.json"
    path.write_text(json.dumps({**json.loads((ROOT / "ds_config.json").read_text()), **changes}))
    return str(path)


def test_bad_input(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "empty").mkdir()
    (place / "file").write_text("")
    ds, model = "--deepspeed-config", "--config"
    cases: list[tuple[list[str], str]] = [
        ([model, str(place / "absent.json")], "model config .*absent.json does not exist"),
        ([model, variant(place, "typo", hiden_size=3)], "unknown key 'hiden_size'"),
        ([model, variant(place, "other", model_type="gpt2")], "model_type 'gpt2'; 'llama' is needed"),
        ([model, variant(place, "lacks", vocab_size=None)], "lacks vocab_size"),
        ([model, variant(place, "heads", num_attention_heads=3)], "hidden_size 32 must be a multiple of 3 heads"),
        ([model, variant(place, "small", vocab_size=100)], "tokenizer .* has 512 ids, the model's vocab_size is 100"),
        ([model, variant(place, "bos", bos_token_id=0)], "bos_token_id 0, tokenizer .* has 1"),
        (["--tokenizer", str(place / "empty")], "has no tokenizer.json"),
        (["--dataset", str(place / "absent")], "absent"),
        (["--out", str(place / "file")], "cannot be written"),
        (["--seq-len", "129"], "--seq-len 129 is longer than the 128 positions"),
        (["--lr", "-1"], "--lr -1.0; a number above 0 is needed"),
        (["--lr", "nan"], "--lr nan; a number above 0"),
        (["--beta2", "1"], "--beta2 1.0; a number below 1"),
        (["--micro-batch", "0"], "--micro-batch 0; a number above 0"),
        (["--global-batch", "9"], "--global-batch says 9"),
        (["--checkpoint-layers", "most"], "--checkpoint-layers most; a number of layers, all or auto"),
        (["--checkpoint-layers", "3"], "--checkpoint-layers 3; .* has 2 layers"),
        ([ds, str(place / "absent.json")], "DeepSpeed config .* does not exist"),
        (
            [ds, deepspeed_variant(place, "ds_typo", zero_optimisation={})],
            "key 'zero_optimisation', which train.py does not know",
        ),
        (
            [ds, deepspeed_variant(place, "ds_clip", gradient_clipping=0.5)],
            r"gradient_clipping 0.5, the run's settings say 1.0",
        ),
        (
            [ds, deepspeed_variant(place, "ds_batch", train_batch_size=64)],
            "train_batch_size 64, the run's settings say 8",
        ),
        ([ds, deepspeed_variant(place, "ds_stage", zero_optimization={"stage": 3})], "ZeRO stage 3; 1 or 2"),
        ([ds, deepspeed_variant(place, "ds_fp", bf16={"enabled": False})], "does not enable bf16"),
        (
            [ds, deepspeed_variant(place, "ds_one", zero_optimization={"stage": 1}), "--optimizer", "muon"],
            "muon needs stage 2",
        ),
        (
            [ds, deepspeed_variant(place, "ds_one", zero_optimization={"stage": 1}), "--skip-outliers"],
            "--skip-outliers needs stage 2",
        ),
    ]
    for number, (flags, words) in enumerate(cases):
        with pytest.raises(UserError, match=words) as caught:
            prepare(place, place / f"bad{number}", *flags)
        assert "\n" not in str(caught.value)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"has 0.0 GB free, a checkpoint and the model need 0.0 GB"):
            prepare(place, place / "full")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "which", lambda name: None)
        with pytest.raises(UserError, match=r"--compile needs a C\+\+ compiler"):
            prepare(place, place / "nocompiler", "--compile")


def test_neither_a_compiler_nor_ninja_is_needed(place: Path) -> None:
    """Nothing on PATH: AdamW's and Muon's steps run all the same; --compile alone asks for a compiler, in one line."""
    flags = command(place, place / "bare", "--steps", "2", "--eval-sequences", "0", "--optimizer", "muon")
    env = {**os.environ, "PATH": "", "OMP_NUM_THREADS": "1"}
    done = run_command("train.py", *flags, env=env)
    assert done.returncode == 0, done.stderr
    assert len(lines(place / "bare")) == 2
    done = run_command("train.py", *flags, "--compile", env=env)
    assert (done.returncode, done.stderr) == (
        2,
        "train.py: --compile needs a C++ compiler and there is none on PATH; install g++, or leave --compile out\n",
    )


def test_seeking_in_52_billion_tokens_takes_no_time_and_no_memory(place: Path, tmp_path: Path) -> None:
    """The published run's tokens as a file of holes (209 GB that take no room): its first, middle and last step."""
    (packed,) = (place / "data" / "tokens").glob("train-*words.bin")
    header = read_header(packed)._replace(num_tokens=52_180_000_000, num_documents=1)
    path = tmp_path / packed.name
    shutil.copyfile(packed.with_suffix(".json"), path.with_suffix(".json"))
    path.with_suffix(".idx").write_bytes(
        header._replace(dtype="<u8").to_bytes() + np.array([0, header.num_tokens], "<u8").tobytes()
    )
    with path.open("wb") as file:
        file.write(header.to_bytes())
        file.truncate(HEADER_BYTES + 4 * header.num_tokens)
    batches = train.share_out(train.Settings(), 2)
    for step in (0, 16_588, 33_175):
        tracemalloc.start()
        begun_s = time.process_time()
        sequences = TokenSequences([open_token_file(path)], seq_len=768, seed=0)
        batch = sequences.rows(train.rows_of(step, 31, train.Ranks(1, 1, 2), batches))
        seconds, peak_bytes = time.process_time() - begun_s, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert batch.input_ids.shape == (32, 768)
        assert seconds < 1.0
        assert peak_bytes < 4e6


def test_tokens_of_another_tokenizer(place: Path) -> None:
    other = place / "other_tokenizer"
    shutil.copytree(place / "tokenizer", other)
    content = json.loads((other / "tokenizer.json").read_text())
    content["added_tokens"][-1]["content"] += "x"
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError,
        match=r"was packed by the tokenizer [0-9a-f]{12}, tokenizer .*other_tokenizer is [0-9a-f]{12}; pack again",
    ):
        prepare(place, place / "othertok", "--tokenizer", str(other))


def test_changed_settings_are_named_with_old_and_new(place: Path, undisturbed: Path) -> None:
    prepare(place, undisturbed, "--keep", "3", "--checkpoint-layers", "0")  # these may change
    with pytest.raises(
        UserError, match=r"other settings: lr was 0.003 and is 0.001; steps was 24 and is 30\. Take the old ones"
    ):
        prepare(place, undisturbed, "--lr", "1e-3", "--steps", "30")
    with pytest.raises(UserError, match=r"config.rms_norm_eps was None and is 1e-05"):
        prepare(place, undisturbed, "--config", variant(place, "eps", rms_norm_eps=1e-5))


# --- through DeepSpeed's own launcher ---


def launch(place: Path, out: Path, log: Path, *more: str) -> "subprocess.Popen[str]":
    deepspeed = Path(sys.executable).with_name("deepspeed")
    words = [deepspeed, "--num_gpus", "2", "--master_port", "29777", "train.py", *command(place, out, *more)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(
            words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
        )


def test_bad_input_is_one_line_from_one_rank_and_exit_2(place: Path) -> None:
    log = place / "launched_bad.log"
    process = launch(place, place / "launched_bad", log, "--global-batch", "9")
    assert process.wait(100) == 2
    assert log.read_text().count("train.py: 2 sequences x 2 GPUs x 2 accumulation = 8 sequences per step") == 1
    assert "Traceback" not in log.read_text()


def test_ranks_whose_launcher_dies_save_and_end(place: Path, undisturbed: Path) -> None:
    """SIGTERM to `deepspeed` (as Docker and Kubernetes send it) kills the runner alone: the ranks notice, and nobody
    is left behind.
    """
    out, log = place / "launched", place / "launched.log"
    process = launch(place, out, log, "--steps", "100000", "--save-every", "100000", "--eval-every", "100000")
    try:
        wait_for_step(out, 2, timeout_s=90)
        process.terminate()
        process.wait(30)
        deadline_s = time.monotonic() + 60
        while (left := train_processes(out)) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        assert not left
        last = lines(out)[-1]["step"]
        assert (out / "checkpoints" / "latest").read_text() == train.checkpoint_name(last)
        assert "the launcher is gone" in log.read_text()
        assert curve(out)[1][:2] == curve(undisturbed)[1][:2]
    finally:
        for pid in train_processes(out):
            os.kill(pid, signal.SIGKILL)


def train_processes(out: Path) -> list[int]:
    """Processes that have `out` in their command line, zombies not counted."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]
