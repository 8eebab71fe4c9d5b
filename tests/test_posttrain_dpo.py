"""posttrain.py dpo: that the pairs are those of generation, that preferences are learned, that a run goes on where it was."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import posttrain
from data_prep import external
from data_prep.cli import UserError
from data_prep.records import read_jsonl
from generate import END_OF_TURN, load_checkpoint, training_facts
from tests.conftest import need_shared
from tests.tiny_checkpoint import tiny_checkpoint


def need_trl() -> None:
    for package in ("trl", "peft"):
        pytest.importorskip(package, reason=f"{package} is an optional extra, see requirements-extra.txt")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_checkpoint(tiny_checkpoint(), device="cpu")[1]


def pair(question: str, chosen: str, rejected: str, *before: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": [*before, {"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def write_pairs(folder: Path, pairs: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": str(index), **one}) + "\n" for index, one in enumerate(pairs)]
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "val.jsonl").write_text("".join(lines[:2]))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sums of our own, where a right answer is preferred to none."""
    rng = random.Random(0)
    terms = [(rng.randint(2, 9), rng.randint(2, 9)) for _ in range(12)]
    return write_pairs(
        tmp_path / "pairs", [pair(f"What is ${a} + {b}$?", f"It is ${a + b}$.", "No.") for a, b in terms]
    )


def run_dpo(out: Path, data: Path, *words: str) -> Path:
    flags = ["--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(out), "--lr", "1e-3"]
    posttrain.main(
        ["dpo", *flags, "--epochs", "2", "--micro-batch", "4", "--accumulation", "1", "--save-every", "2", *words]
    )
    return out


def row_of(tokenizer: Any, record: dict[str, Any], context: int = 128) -> Any:
    return posttrain.dpo_row(record, "here", tokenizer, context, posttrain.DpoSettings())


# --- rows ---


def test_a_pair_is_the_chat_that_generation_sees(tokenizer: Any) -> None:
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    record = pair(" Why $p$? ", "So.\n", "Well é.", *before)
    row, fate = row_of(tokenizer, record)
    assert fate is None
    for name in ("chosen", "rejected"):
        ids, labels = posttrain.encode(tokenizer, [*record["prompt"], *record[name]])
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row[name], add_special_tokens=False)["input_ids"]
        assert ids == [*prompt, *answer, *tokenizer("\n", add_special_tokens=False)["input_ids"]]
        assert [label for label in labels[len(prompt) :] if label != posttrain.NEVER_LABEL] == answer
        assert answer[-1] == tokenizer.convert_tokens_to_ids(END_OF_TURN)


def test_trl_reads_the_pair_as_the_same_tokens(tokenizer: Any, tmp_path: Path) -> None:
    need_trl()
    from datasets import Dataset

    model, mine = load_checkpoint(tiny_checkpoint(), device="cpu")
    mine.eos_token = END_OF_TURN
    record = pair("Why $p$?", "So.", "Well é.")
    rows = Dataset.from_list([row_of(tokenizer, record)[0]])
    common = posttrain.trainer_settings(posttrain.DpoSettings(), tmp_path, None)
    trainer = posttrain.dpo_trainer(
        posttrain.DpoSettings(), 128, common, model=model, train_dataset=rows, processing_class=mine
    )
    [row] = trainer.train_dataset
    for name in ("chosen", "rejected"):
        ids, labels = posttrain.encode(tokenizer, [*record["prompt"], *record[name]])
        assert row["prompt_ids"] + row[f"{name}_ids"] == ids[: len(ids) - 1]  # without the line end after <|im_end|>
        assert row[f"{name}_ids"] == [label for label in labels if label != posttrain.NEVER_LABEL]


def test_every_pair_that_is_left_out_is_counted(tokenizer: Any) -> None:
    assert row_of(tokenizer, pair("q", "a", "word " * 200)) == (None, "pair-too-long")
    assert row_of(tokenizer, pair("q", "a", " a ")) == (None, "same")
    assert row_of(tokenizer, pair("q", "a", " ")) == (None, "empty")
    assert row_of(tokenizer, pair("q", "a", "</s>")) == (None, "special")
    assert row_of(tokenizer, pair("q", "a", "b"))[1] is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, "here has no prompt; data_prep/external.py --as preferences writes such records"),
        ({**pair("q", "a", "b"), "chosen": "a"}, "here has no chosen"),
        ({**pair("q", "a", "b"), "rejected": []}, "rejected is no single message of the assistant"),
        ({**pair("q", "a", "b"), "chosen": [{"role": "user", "content": "x"}]}, "chosen is no single message"),
    ],
)
def test_records_that_are_no_pairs_are_refused(tokenizer: Any, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        row_of(tokenizer, record)


# --- the data sets that rank ---


def convert(name: str, rows: list[dict[str, Any]] | Path, folder: Path, *words: str) -> list[dict[str, Any]]:
    source = rows if isinstance(rows, Path) else folder / "rows.json"
    if isinstance(rows, list):
        folder.mkdir(parents=True, exist_ok=True)
        source.write_text(json.dumps(rows))
    assert external.main([name, "--input", str(source), "--out", str(folder / "out"), "--val-frac", "0", *words]) == 0
    return list(read_jsonl(folder / "out" / "train.jsonl"))


ASKED = {"role": "user", "content": "Why?"}
WANTED = pair("Why?", "Because.", "No.")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "ultrafeedback",
            [
                {
                    "prompt": "Why?",
                    "prompt_id": "a",
                    "chosen": [ASKED, {"role": "assistant", "content": "Because."}],
                    "rejected": [ASKED, {"role": "assistant", "content": "No."}],
                }
            ],
        ),
        (
            "dpo-en",
            [
                {
                    "conversations": [{"from": "human", "value": "Why?"}],
                    "chosen": {"from": "gpt", "value": "Because."},
                    "rejected": {"from": "gpt", "value": "No."},
                }
            ],
        ),
        (
            "stackexchange",
            [
                {"qid": 1, "question": "Why?", "response_j": "Because.", "response_k": "No.", "metadata": []},
                {"qid": 1, "question": "Why?", "response_j": "Because.", "response_k": "Never.", "metadata": []},
            ],
        ),
        (
            "oasst1",
            [
                {
                    "prompt": {
                        "message_id": "q",
                        "role": "prompter",
                        "text": "Why?",
                        "replies": [
                            {"message_id": "w", "role": "assistant", "text": "No.", "rank": 2, "replies": []},
                            {"message_id": "b", "role": "assistant", "text": "Because.", "rank": 0, "replies": []},
                            {"message_id": "m", "role": "assistant", "text": "Hm.", "rank": 1, "replies": []},
                        ],
                    }
                }
            ],
        ),
    ],
)
def test_what_a_data_set_ranks_becomes_a_pair(name: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    [record] = convert(name, rows, tmp_path, "--as", "preferences")
    assert {key: record[key] for key in WANTED} == WANTED
    assert record["source"] == name


def test_rows_that_rank_nothing_are_rejected_with_their_reason(tmp_path: Path) -> None:
    tree = {"prompt": {"message_id": "q", "role": "prompter", "text": "Why?", "replies": []}}
    tree["prompt"]["replies"] = [{"message_id": "b", "role": "assistant", "text": "Because.", "rank": 0, "replies": []}]
    assert convert("oasst1", [tree], tmp_path / "a", "--as", "preferences") == []
    other = {"chosen": [ASKED, WANTED["chosen"][0]], "rejected": [WANTED["rejected"][0]]}
    assert convert("ultrafeedback", [other], tmp_path / "b") == []
    reasons = [json.loads((tmp_path / one / "out" / "manifest.json").read_text())["reasons"] for one in "ab"]
    assert reasons == [{"no-preference": 1}, {"bad-row": 1}]
    with pytest.raises(UserError, match="gsm8k does not say which answers are worse; --as preferences is for dpo-en"):
        external.main(["gsm8k", "--input", str(tmp_path), "--out", str(tmp_path), "--as", "preferences"])


def test_real_preferences_fit_in(tokenizer: Any, tmp_path: Path) -> None:
    records = convert("dpo-en", need_shared("datasets", "chat", "dpo_300.json.gz"), tmp_path)
    assert len(records) == 295
    fates = [row_of(tokenizer, record, context=100_000)[1] for record in records]
    assert fates == [None] * 295


# --- training ---


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, data: Path) -> None:
    need_trl()
    out = run_dpo(tmp_path / "dpo", data, "--log-every", "1")
    weights = (out / "hf" / "model.safetensors").read_bytes()
    logs = list(read_jsonl(out / "metrics.jsonl"))
    train = [one for one in logs if one["kind"] == "train"]
    assert [one["step"] for one in train] == [1, 2, 3, 4, 5, 6]
    assert train[0]["loss"] == pytest.approx(0.6931, abs=1e-4)  # log 2: it starts as its own reference
    assert train[-1]["loss"] < 0.3
    assert train[-1]["rewards/accuracies"] == 1.0
    shutil.rmtree(out / "hf")
    shutil.rmtree(out / "checkpoints" / "checkpoint-6")  # as if killed after step 4
    run_dpo(out, data, "--log-every", "1")
    assert (out / "hf" / "model.safetensors").read_bytes() == weights
    assert [one["step"] for one in read_jsonl(out / "metrics.jsonl") if one["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    [stage] = training_facts(out / "hf")["post_training"]
    assert (stage["method"], stage["conversations"], stage["beta"]) == ("dpo", {"whole": 12}, 0.1)
    for name in ("config.json", "tokenizer.json"):  # TRL was told of another end of text: the files were not
        assert (out / "hf" / name).read_bytes() == (tiny_checkpoint() / name).read_bytes()
    with pytest.raises(UserError, match=r"holds a run with beta 0\.1, this one has 0.2"):
        run_dpo(out, data, "--beta", "0.2")
    with pytest.raises(UserError, match="has no messages"):
        posttrain.main(["sft", "--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(out)])


def test_lora_learns_the_preference_and_is_merged(tmp_path: Path, data: Path) -> None:
    need_trl()
    import torch
    from peft import PeftModel

    out = run_dpo(tmp_path / "lora", data, "--lora", "--log-every", "1")
    losses = [one["loss"] for one in read_jsonl(out / "metrics.jsonl") if one["kind"] == "train"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert losses[-1] < losses[0]
    base, _ = load_checkpoint(tiny_checkpoint(), device="cpu")
    merged, _ = load_checkpoint(out / "hf", device="cpu")
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        beside = PeftModel.from_pretrained(base, out / "adapter")(ids).logits
        found = merged(ids).logits
    assert torch.linalg.norm(found - beside) / torch.linalg.norm(beside) < 1e-5
