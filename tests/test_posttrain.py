"""posttrain.py: that the loss is on the assistant's tokens to the token, that a run goes on where it was, and what is refused."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import posttrain
from data_prep.cli import UserError
from generate import load_checkpoint
from tests.tiny_checkpoint import CONVERSATION, tiny_checkpoint


def need_trl() -> None:
    for package in ("trl", "peft"):
        pytest.importorskip(package, reason=f"{package} is an optional extra, see requirements-extra.txt")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_checkpoint(tiny_checkpoint(), device="cpu")[1]


def turns(*contents: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)]


def write_conversations(folder: Path, conversations: list[list[dict[str, str]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"id": str(index), "messages": messages}) + "\n" for index, messages in enumerate(conversations)
    ]
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "val.jsonl").write_text("".join(lines[:2]))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sums of our own, each a conversation of two answers."""
    rng = random.Random(0)
    pairs = [(rng.randint(2, 9), rng.randint(2, 9)) for _ in range(16)]
    return write_conversations(
        tmp_path / "sums",
        [
            turns(f"What is ${a} + {b}$?", f"It is ${a + b}$.", "Why?", f"Since ${a} + {b} = {a + b}$.")
            for a, b in pairs
        ],
    )


def run_sft(out: Path, data: Path, *words: str) -> Path:
    flags = ["--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(out)]
    posttrain.main(
        ["sft", *flags, "--epochs", "3", "--micro-batch", "4", "--accumulation", "1", "--save-every", "3", *words]
    )
    return out


# --- the mask ---


def test_the_loss_mask_token_by_token(tokenizer: Any) -> None:
    ids, labels = posttrain.encode(tokenizer, turns("Why $p$?", "So é.", "Sure?", "Yes."))
    pieces = [
        tokenizer.decode([index]) if label == posttrain.NEVER_LABEL else "*"
        for index, label in zip(ids, labels, strict=True)
    ]
    said = [[index for index, label in zip(ids, labels, strict=True) if label != posttrain.NEVER_LABEL]]
    assert tokenizer.decode(said[0]) == "So é.<|im_end|>Yes.<|im_end|>"
    assert [label for label in labels if label != posttrain.NEVER_LABEL] == said[0]
    whole = "".join(pieces)
    first, second = (len(tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)) for text in ("So é.", "Yes."))
    assert whole == (
        "<s><|im_start|>user\nWhy $p$?<|im_end|>\n<|im_start|>assistant\n"
        + "*" * first
        + "\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n" + "*" * second + "\n"
    )


@pytest.mark.parametrize(
    "answer", ["x", "a 漢字 𝔸", "\n\nlines\n", "\ttab", "\\frac{1}{2}", "  two  spaces  ", "$\\pi$\n\nSo."]
)
def test_every_answer_is_learned_whole_with_its_end(tokenizer: Any, answer: str) -> None:
    ids, labels = posttrain.encode(tokenizer, [{"role": "system", "content": "Be brief."}, *turns("q", answer)])
    said = [label for label in labels if label != posttrain.NEVER_LABEL]
    assert tokenizer.decode(said) == answer.strip() + "<|im_end|>"
    assert said[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(ids) == len(labels)


def test_what_is_trained_on_is_what_generation_sees(tokenizer: Any) -> None:
    ids, labels = posttrain.encode(tokenizer, CONVERSATION)
    prompt = tokenizer.apply_chat_template(
        CONVERSATION[:1], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert ids[: len(prompt)] == prompt
    assert all(label == posttrain.NEVER_LABEL for label in labels[: len(prompt)])
    assert labels[len(prompt)] == ids[len(prompt)]


def test_a_long_conversation_is_cut_after_the_last_answer_that_fits(tokenizer: Any) -> None:
    messages = turns("Why?", "So.", "And?", "word " * 60)
    pair, fate = posttrain.encode_to_fit(tokenizer, messages, 60)
    assert fate == "cut"
    assert pair == posttrain.encode(tokenizer, messages[:2])
    assert posttrain.encode_to_fit(tokenizer, messages, 10) == (None, "too-long")
    assert posttrain.encode_to_fit(tokenizer, messages, 1000) == (posttrain.encode(tokenizer, messages), None)
    assert posttrain.encode_to_fit(tokenizer, messages[:1], 60) == (None, "no-answer")
    assert posttrain.encode_to_fit(tokenizer, turns("<|im_end|>", "So."), 60) == (None, "special")
    assert posttrain.encode_to_fit(tokenizer, turns("Why?", " \n"), 60) == (None, "empty")


def test_every_conversation_is_counted(tokenizer: Any, tmp_path: Path) -> None:
    folder = write_conversations(
        tmp_path / "chat",
        [turns("q", "a"), turns("Q", "a", "word " * 90), turns("q"), turns("</s>", "a"), turns("word " * 90, "a")],
    )
    how = (posttrain.sft_row, tokenizer, 60, posttrain.SftSettings())
    rows, fates = posttrain.encode_split({folder: 1.0}, "train", *how)
    assert fates == {"whole": 2, "no-answer": 1, "special": 1, "too-long": 1}
    assert len(rows) == 2
    sentences = list(posttrain.describe(rows, fates, 60, posttrain.SftSettings()))
    assert sentences[0].startswith("5 records in, 2 trained on")
    assert len(sentences) == 4
    twice, same = posttrain.encode_split({folder: 2.5}, "train", *how)
    assert same == fates
    assert [twice.count(row) for row in rows] in ([3, 2], [2, 3])
    assert posttrain.encode_split({folder: 2.5}, "train", *how)[0] == twice
    assert len(posttrain.encode_split({folder: 2.5}, "val", *how)[0]) == 2


# --- training ---


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, data: Path) -> None:
    need_trl()
    out = run_sft(tmp_path / "sft", data, "--lr", "2e-3", "--log-every", "1")
    weights = (out / "hf" / "model.safetensors").read_bytes()
    metrics = (out / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in metrics if json.loads(line)["kind"] == "train"]
    assert losses[-1] < losses[0] / 1.3
    steps = sorted(int(path.name.split("-")[1]) for path in (out / "checkpoints").glob("checkpoint-*"))
    shutil.rmtree(out / "hf")
    shutil.rmtree(out / "checkpoints" / f"checkpoint-{steps[-1]}")  # as if killed after the one before
    run_sft(out, data, "--lr", "2e-3", "--log-every", "1")
    assert (out / "hf" / "model.safetensors").read_bytes() == weights
    again = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in again if one["kind"] == "train"] == list(range(1, steps[-1] + 1))
    facts = json.loads((out / "hf" / "training.json").read_text())
    assert facts["post_training"][0]["conversations"] == {"whole": 16}
    before = (out / "hf" / "model.safetensors").stat().st_mtime_ns
    run_sft(out, data, "--lr", "2e-3")
    assert (out / "hf" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"holds a run with lr 0.002, this one has 0.001; give another --out"):
        run_sft(out, data, "--lr", "1e-3")
    with (data / "train.jsonl").open("a") as file:
        file.write(json.dumps({"messages": CONVERSATION}) + "\n")
    with pytest.raises(UserError, match="holds a run with conversations"):
        run_sft(out, data, "--lr", "2e-3")


def test_lora_is_merged_in_float32(tmp_path: Path, data: Path) -> None:
    need_trl()
    import torch
    from peft import PeftModel

    out = run_sft(tmp_path / "lora", data, "--lora", "--lr", "1e-2")
    base, tokenizer = load_checkpoint(tiny_checkpoint(), device="cpu")
    merged, _ = load_checkpoint(out / "hf", device="cpu")
    ids = torch.tensor([tokenizer.apply_chat_template(CONVERSATION, tokenize=True, return_dict=False)])
    with torch.inference_mode():
        plain = base(ids).logits
        beside = PeftModel.from_pretrained(base, out / "adapter")(ids).logits
        found = merged(ids).logits
    assert torch.linalg.norm(found - beside) / torch.linalg.norm(beside) < 1e-5
    assert torch.linalg.norm(found - plain) / torch.linalg.norm(plain) > 1e-2


# --- what is refused ---


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as error:
        posttrain.main(["sft", *words])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_input_is_one_line(tmp_path: Path, data: Path) -> None:
    need_trl()
    words = ["--model", str(tiny_checkpoint()), "--out", str(tmp_path / "out"), "--data"]
    assert "does not exist" in refusal(*words, str(tmp_path / "nothing"))
    assert "can be trained on; the counts stand above" in refusal(
        *words, str(write_conversations(tmp_path / "a", [turns("q")]))
    )
    (tmp_path / "a" / "train.jsonl").write_text('{"id": "1", "text": "no messages"}\n')
    assert "record 1 has no messages; data_prep/external.py --as messages" in refusal(*words, str(tmp_path / "a"))
    strange = write_conversations(tmp_path / "b", [[{"role": "oracle", "content": "x"}]])
    assert "role 'oracle'" in refusal(*words, str(strange))
    assert "max_position_embeddings 128" in refusal(*words, str(data), "--context-tokens", "500")
    assert "either --data with folders, or --mixture" in refusal(*words[:-1])
    assert "either --data with folders, or --mixture" in refusal(*words, str(data), "--mixture", "m.json")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_marks_is_refused(tmp_path: Path, data: Path) -> None:
    need_trl()
    folder = tmp_path / "hf"
    shutil.copytree(tiny_checkpoint(), folder)
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    del content["chat_template"]
    path.write_text(json.dumps(content))
    assert "has no chat template that marks" in refusal(
        "--model", str(folder), "--data", str(data), "--out", str(tmp_path / "out")
    )


def test_absent_packages_are_one_line(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posttrain.importlib.util, "find_spec", lambda name: None)
    assert "pip install trl peft" in refusal(
        "--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(tmp_path / "out")
    )


def test_deepspeeds_launcher_may_add_its_flag() -> None:
    flags = posttrain.parser().parse_args(["--local_rank=1", "sft", "--model", "m", "--data", "d", "--out", "o"])
    assert flags.local_rank == 1


# --- the mixture ---


def write_mixture(path: Path, *sources: tuple[str, float, Path]) -> Path:
    entries = {
        name: {"stage": "post-training", "weight": weight, "dataset": str(folder)} for name, weight, folder in sources
    }
    papers = {"arxiv": {"stage": "pretraining", "weight": 1.0, "dataset": "dataset_train_val"}}
    path.write_text(json.dumps({"sources": papers | entries}))
    return path


def test_a_mixture_gives_the_folders_of_a_subject_with_their_weights(tmp_path: Path, data: Path) -> None:
    mixture = write_mixture(
        tmp_path / "mixture.json", ("ultrachat", 1.0, tmp_path / "chat"), ("mathinstruct", 2.0, data)
    )
    words = ["sft", "--model", "m", "--out", "o", "--mixture", str(mixture)]
    flags = posttrain.parser().parse_args([*words, "--subject", "mathematics"])
    assert posttrain.folders_of(flags) == {data: 2.0}
    assert list(posttrain.folders_of(posttrain.parser().parse_args(words))) == [tmp_path / "chat", data]
    chat_alone = write_mixture(tmp_path / "chat.json", ("ultrachat", 1.0, data))
    with pytest.raises(UserError, match="no post-training source of mathematics; it names ultrachat"):
        posttrain.folders_of(posttrain.parser().parse_args([*words[:-1], str(chat_alone), "--subject", "mathematics"]))


def test_the_plan_says_passes_and_orders_the_stages(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture = write_mixture(
        tmp_path / "mixture.json", ("ultrachat", 1.0, tmp_path / "absent"), ("mathinstruct", 2.0, data)
    )
    num_chars = sum(
        len(message["content"])
        for line in (data / "train.jsonl").read_text().splitlines()
        for message in json.loads(line)["messages"]
    )
    tokens = num_chars / posttrain.CHARS_PER_TOKEN
    assert posttrain.main(["plan", "--mixture", str(mixture), "--tokens", str(tokens * 6)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:3] == ["ultrachat", "1.0", "none"]
    assert out[2].split() == ["mathinstruct", "2.0", f"{tokens:,.0f}", "6.00"]
    assert out[3].endswith("= 3.00 epochs of what is there")
    assert [line.split("--subject ")[1].split()[0] for line in out[4:]] == ["mathematics", "chat"]
    assert "--model runs/sft-mathematics/hf" in out[5]


def test_the_default_plan_is_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert posttrain.main(["plan"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert names == ["stackexchange", "mathinstruct", "ultrachat"]
    assert posttrain.parser().parse_args(["plan"]).tokens == 5e9
