"""posttrain.py grpo: what is rewarded, that right answers become likelier, that a run goes on where it was, what is refused."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import posttrain
from data_prep import external
from data_prep.answers import Verifier
from data_prep.cli import UserError
from data_prep.records import read_jsonl
from generate import END_OF_TURN, load_checkpoint, training_facts
from tests.conftest import need_shared
from tests.tiny_checkpoint import tiny_checkpoint


def need_packages() -> None:
    for package in ("trl", "peft", "math_verify"):
        pytest.importorskip(package, reason=f"{package} is an optional extra, see requirements-extra.txt")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_checkpoint(tiny_checkpoint(), device="cpu")[1]


def question(text: str, solution: str, answer: str | None) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": solution}]
    return {"id": text, "messages": messages, **({} if answer is None else {"answer": answer})}


def write_questions(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


# --- rows ---


def test_a_row_is_the_prompt_of_generation_and_the_reference(tokenizer: Any) -> None:
    record = question(" Half of 48? ", "#### 24", "24")
    settings = posttrain.GrpoSettings(max_new_tokens=40)
    row, fate = posttrain.grpo_row(record, "here", tokenizer, 128, settings)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Half of 48?"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert fate is None
    assert row is not None
    assert (tokenizer(row["prompt"])["input_ids"], row["answer"]) == (prompt, "24")
    long = question("word " * 60, "#### 24", "24")
    assert posttrain.grpo_row(long, "here", tokenizer, 128, settings) == (None, "prompt-too-long")
    assert posttrain.grpo_row(question("q", "a", None), "here", tokenizer, 128, settings) == (None, "unreadable")
    assert posttrain.grpo_row(question("</s>", "a", "1"), "here", tokenizer, 128, settings) == (None, "special")


def test_references_that_cannot_be_read_are_left_out_and_counted() -> None:
    need_packages()
    rows = [{"prompt": str(index), "answer": answer} for index, answer in enumerate(["24", "\\frac{", "24", "x^2"])]
    fates = Counter(whole=4)
    kept = posttrain.keep_readable(rows, fates, Verifier())
    assert [row["prompt"] for row in kept] == ["0", "2", "3"]
    assert fates == {"whole": 3, "unreadable": 1}


# --- the reward ---


def test_only_a_right_answer_in_its_place_is_rewarded() -> None:
    need_packages()
    logged: dict[str, float] = {}
    reward = posttrain.correctness(Verifier())
    completions = ["8 + 4 = 12\n#### 12", "The answer is 12.0.", "\\boxed{13}", "12", "#### 12\n#### 13", ""]
    assert reward(completions, answer=["12"] * 6, log_metric=logged.__setitem__, prompts=[]) == [1, 1, 0, 0, 0, 0]
    assert logged == {"answered": 4 / 6}


# --- data ---


def test_records_carry_their_reference(tmp_path: Path) -> None:
    rows = {
        "gsm8k": {"question": "Half of 48?", "answer": "48/2=<<48/2=24>>24\n#### 24"},
        "metamathqa": {"query": "2+2?", "response": "4\nThe answer is: 4", "type": "GSM_SV"},
        "math": {
            "problem": "Half?",
            "solution": "It is $\\boxed{\\frac{1}{2}}$.",
            "type": "Algebra",
            "level": "Level 1",
        },
    }
    for name, row in rows.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.json").write_text(json.dumps([row]))
        assert external.main([name, "--input", str(folder), "--out", str(folder / "out"), "--val-frac", "0"]) == 0
    found = {name: next(read_jsonl(tmp_path / name / "out" / "train.jsonl")) for name in rows}
    assert {name: record["answer"] for name, record in found.items()} == {
        "gsm8k": "24",
        "metamathqa": "4",
        "math": "\\frac{1}{2}",
    }
    assert found["math"]["messages"][0]["content"] == "Half?"


def test_real_questions_fit_in(tokenizer: Any, tmp_path: Path) -> None:
    source = need_shared("datasets", "gsm8k", "train.jsonl.gz")
    assert external.main(["gsm8k", "--input", str(source), "--out", str(tmp_path / "gsm8k")]) == 0
    how = (posttrain.grpo_row, tokenizer, 4096, posttrain.GrpoSettings())
    rows, fates = posttrain.encode_split({tmp_path / "gsm8k": 1.0}, "train", *how)
    assert fates == {"whole": len(rows)}
    assert len(rows) > 7_000


# --- training ---


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that answers sums in the right form, and wrongly more often than not; and the sums."""
    need_packages()
    folder = tmp_path_factory.mktemp("adder")
    pairs = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    sums = [question(f"What is {a} + {b}?", f"{a} + {b} = {a + b}\n#### {a + b}", str(a + b)) for a, b in pairs]
    data = write_questions(folder / "sums", sums)
    flags = ["--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(folder / "sft"), "--lr", "2e-3"]
    posttrain.main(["sft", *flags, "--epochs", "30", "--micro-batch", "8", "--accumulation", "1", "--no-packing"])
    return folder / "sft" / "hf", data


def run_grpo(out: Path, adder: tuple[Path, Path], *words: str) -> Path:
    flags = ["--model", str(adder[0]), "--data", str(adder[1]), "--out", str(out), "--lr", "5e-4", "--log-every", "1"]
    batch = ["--micro-batch", "40", "--accumulation", "1", "--max-new-tokens", "24", "--save-every", "2"]
    posttrain.main(["grpo", *flags, *batch, *words])
    return out


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, adder: tuple[Path, Path]) -> None:
    out = run_grpo(tmp_path / "grpo", adder)
    weights = (out / "hf" / "model.safetensors").read_bytes()
    logs = [one for one in read_jsonl(out / "metrics.jsonl") if one["kind"] == "train"]
    assert [one["step"] for one in logs] == [1, 2, 3, 4, 5]
    for one in logs:
        assert 0 <= one["reward"] <= 1
        assert 0 <= one["completions/clipped_ratio"] <= 1  # the share that was cut at --max-new-tokens
        assert 0 < one["completions/mean_length"] <= 24
        assert one["answered"] >= one["reward"]
        assert {"reward_std", "kl"} <= one.keys()
    assert weights != (adder[0] / "model.safetensors").read_bytes()
    shutil.rmtree(out / "hf")
    shutil.rmtree(out / "checkpoints" / "checkpoint-5")  # as if killed after step 4
    run_grpo(out, adder)
    assert (out / "hf" / "model.safetensors").read_bytes() == weights
    again = [one for one in read_jsonl(out / "metrics.jsonl") if one["kind"] == "train"]
    assert [(one["step"], one["reward"], one["loss"]) for one in again] == [
        (one["step"], one["reward"], one["loss"]) for one in logs
    ]
    stages = training_facts(out / "hf")["post_training"]
    assert [stage["method"] for stage in stages] == ["sft", "grpo"]
    assert stages[1]["generations"] == 8
    for name in ("config.json", "tokenizer.json"):
        assert (out / "hf" / name).read_bytes() == (tiny_checkpoint() / name).read_bytes()


def test_completions_end_at_the_end_of_the_turn(tmp_path: Path, adder: tuple[Path, Path]) -> None:
    """<|im_end|> is one token and stops a completion: nearly none is cut, and none is longer than form and sum need."""
    logs = read_jsonl(run_grpo(tmp_path / "grpo", adder, "--lora") / "metrics.jsonl")
    steps = [one for one in logs if one["kind"] == "train"]
    assert max(one["completions/clipped_ratio"] for one in steps) < 0.2
    tokenizer = load_checkpoint(adder[0], device="cpu")[1]
    assert len(tokenizer.encode(END_OF_TURN, add_special_tokens=False)) == 1
    assert (tmp_path / "grpo" / "adapter" / "adapter_config.json").is_file()


# --- what is refused ---


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_packages()
    data = write_questions(tmp_path / "q", [question("q", "a", None)])
    words = ["grpo", "--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(tmp_path / "out")]
    for more, message in (
        (
            ["--generations", "7"],
            "8 x --accumulation 4 = 32 completions a step cannot be shared out by --generations 7",
        ),
        (["--generations", "1"], "give 2 or more that divide it"),
        (["--max-new-tokens", "20"], "can be trained on; the counts stand above"),
    ):
        with pytest.raises(UserError, match=message):
            posttrain.main([*words, *more])
    monkeypatch.setattr(posttrain.importlib.util, "find_spec", lambda name: None if name == "math_verify" else name)
    with pytest.raises(UserError, match=r"needs the package math-verify, .* pip install trl peft math-verify"):
        posttrain.main(words)
    assert not (tmp_path / "out").exists()
