"""generate.py: what it writes, where it stops, and what it refuses."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import generate
from data_prep.cli import UserError
from tests.conftest import run_command
from tests.tiny_checkpoint import ANSWER, QUESTION, tiny_checkpoint


def copy_of_checkpoint(tmp_path: Path, **config: Any) -> Path:
    """The tiny checkpoint in a folder of its own, with other values in its config.json."""
    folder = tmp_path / "hf"
    shutil.copytree(tiny_checkpoint(), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as error:
        generate.main(list(words))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_chat_is_answered_and_ends_at_the_end_of_its_turn(capsys: pytest.CaptureFixture[str]) -> None:
    generate.main(["--model", str(tiny_checkpoint()), "--chat", "--prompt", QUESTION, "--temperature", "0"])
    assert capsys.readouterr().out == ANSWER + "\n"


def test_a_conversation_keeps_its_history(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = generate.load_checkpoint(tiny_checkpoint())
    seen: list[list[int]] = []
    draw = generate.draw

    def spy(model: Any, tokenizer: Any, ids: list[int], how: generate.Sampling, *, show_prompt: bool) -> list[int]:
        seen.append(list(ids))
        return draw(model, tokenizer, ids, how, show_prompt=show_prompt)

    monkeypatch.setattr(generate, "draw", spy)
    lines = iter([QUESTION + "\n", "And $3 + 3$?\n", ""])
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    generate.chat(model, tokenizer, "Be brief.", generate.Sampling(max_new_tokens=25, temperature=0))
    second = tokenizer.decode(seen[1])
    assert second.startswith("<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n" + QUESTION)
    assert second.endswith("<|im_start|>user\nAnd $3 + 3$?<|im_end|>\n<|im_start|>assistant\n")


def test_a_long_conversation_loses_its_oldest_turns_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = generate.load_checkpoint(tiny_checkpoint())
    turns = [{"role": role, "content": "word " * 10} for role in ("user", "assistant")] * 6
    messages = [{"role": "system", "content": "Be brief."}, *turns, {"role": "user", "content": QUESTION}]
    generate.answer(model, tokenizer, messages, generate.Sampling(max_new_tokens=20, temperature=0))
    assert messages[0]["role"] == "system"
    assert messages[-1]["content"] == QUESTION
    assert len(messages) < 14
    assert "left out" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_text_and_another_seed_another(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(tiny_checkpoint()), "--prompt", "Let $p$", "--max-new-tokens", "30", "--temperature", "2"]
    texts = []
    for seed in ("1", "1", "2"):
        generate.main([*words, "--seed", seed])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("Let $p$")


def test_temperature_0_agrees_with_the_argmax_of_the_logits() -> None:
    model, tokenizer = generate.load_checkpoint(tiny_checkpoint())
    ids = [1, *tokenizer.encode("Let $p$ be", add_special_tokens=False)]
    drawn = generate.draw(model, tokenizer, ids, generate.Sampling(5, temperature=0), show_prompt=False)
    for count, index in enumerate(drawn):
        logits = model(torch.tensor([[*ids, *drawn[:count]]])).logits[0, -1]
        assert index == int(logits.argmax())


def test_a_small_top_p_leaves_only_the_likeliest_token() -> None:
    model, tokenizer = generate.load_checkpoint(tiny_checkpoint())
    likeliest = generate.draw(model, tokenizer, [1, 40], generate.Sampling(8, temperature=0), show_prompt=False)
    drawn = generate.draw(model, tokenizer, [1, 40], generate.Sampling(8, 1.0, top_p=1e-6), show_prompt=False)
    assert drawn == likeliest


def test_a_character_of_several_tokens_is_printed_once_it_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    _, tokenizer = generate.load_checkpoint(tiny_checkpoint())
    printer = generate.Printer(tokenizer, show_first=True)
    printed = []
    for index in tokenizer.encode("a 漢$", add_special_tokens=False):
        printer.put(torch.tensor([index]))
        printed.append(capsys.readouterr().out)
    assert "".join(printed) == "a 漢$"
    assert not any("\ufffd" in piece for piece in printed)
    assert "漢" in printed


def test_the_prompt_may_come_from_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Every continuous"))
    generate.main(["--model", str(tiny_checkpoint()), "--prompt", "-", "--max-new-tokens", "3", "--device", "cpu"])
    printed = capsys.readouterr()
    assert printed.out.startswith("Every continuous")
    assert "3 written" in printed.err


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    done = run_command("generate.py", "--model", tmp_path, "--prompt", "x")
    assert done.returncode == 2
    assert done.stderr == (
        f"generate.py: {tmp_path} holds no config.json; give the Hugging Face folder of a run, say runs/pretrain/hf\n"
    )


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = copy_of_checkpoint(tmp_path, architectures=["GPT2LMHeadModel"], model_type="gpt2")
    assert "describes GPT2LMHeadModel; LlamaForCausalLM is needed" in refusal("--model", str(folder), "--prompt", "x")


@pytest.mark.parametrize(
    ("config", "values"),
    [({"vocab_size": 100}, ("480", "100")), ({"eos_token_id": 7}, ("7", "2")), ({"bos_token_id": 0}, ("0", "1"))],
)
def test_a_tokenizer_that_does_not_fit_is_refused_with_both_values(
    tmp_path: Path, config: dict[str, int], values: tuple[str, str]
) -> None:
    message = refusal("--model", str(copy_of_checkpoint(tmp_path, **config)), "--prompt", "x")
    assert all(value in message for value in values)


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path) -> None:
    folder = copy_of_checkpoint(tmp_path)
    (folder / "training.json").write_text(json.dumps({"tokenizer_fingerprint": "abcdef012345"}))
    message = refusal("--model", str(folder), "--prompt", "x")
    assert "trained with the tokenizer abcdef012345" in message
    assert generate.tokenizer_fingerprint(folder)[:12] in message


def test_weights_that_do_not_fill_the_model_are_refused(tmp_path: Path) -> None:
    folder = copy_of_checkpoint(tmp_path, num_hidden_layers=3)
    assert "do not match its config.json" in refusal("--model", str(folder), "--prompt", "x")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = copy_of_checkpoint(tmp_path, intermediate_size=96)
    assert str(folder) in refusal("--model", str(folder), "--prompt", "x")


def test_weights_cut_short_are_refused(tmp_path: Path) -> None:
    folder = copy_of_checkpoint(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be read" in refusal("--model", str(folder), "--prompt", "x")
    weights.unlink()
    assert "no weights" in refusal("--model", str(folder), "--prompt", "x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --prompt TEXT, or --chat"),
        (["--prompt", "x", "--system", "y"], "--system is part of a chat"),
        (["--prompt", "x", "--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--prompt", "x", "--temperature", "-1"], "--temperature -1.0"),
        (["--prompt", "x", "--top-p", "0"], "--top-p 0.0"),
        (["--prompt", "x", "--device", "abacus"], "--device abacus"),
        (["--prompt", "x" * 500], "exceed the model's context of 128"),
    ],
)
def test_flags_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    assert message in refusal("--model", str(tiny_checkpoint()), *words)
