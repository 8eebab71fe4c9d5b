"""export.py: that an export is the model it came from, in the runtime it is for, and that one that is not is deleted."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate
import export
from data_prep import pack_tokens
from data_prep.cli import UserError
from generate import load_checkpoint
from tests.conftest import run_command
from tests.tiny_checkpoint import ANSWER, CONVERSATION, QUESTION, tiny_checkpoint, write_dataset


def need(package: str) -> Any:
    """An optional package, or a skip that says how to get it."""
    return pytest.importorskip(package, reason=f"{package} is an optional extra, see requirements-extra.txt")


def need_gguf() -> None:
    """gguf and a judge."""
    need("gguf")
    if importlib.util.find_spec("llama_cpp") is None:
        need("accelerate")


def copy_of_checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "hf"
    shutil.copytree(tiny_checkpoint(), folder)
    return folder


def export_gguf(out: Path, *words: str, model: Path | None = None) -> Path:
    folder = model or tiny_checkpoint()
    export.main(["gguf", "--model", str(folder), "--out", str(out), "--num-slices", "60", *words])
    return out


def refusal(out: Path, *words: str, model: Path | None = None) -> str:
    """The one sentence of a failed export; nothing is left on the disk."""
    with pytest.raises(UserError) as error:
        export_gguf(out, *words, model=model)
    assert "\n" not in str(error.value)
    assert not list(out.parent.glob("*gguf*"))
    return str(error.value)


# --- GGUF: the file ---


@pytest.mark.parametrize(("kind", "limit"), [("f32", 1e-5), ("bf16", 1e-2), ("q8_0", 2e-2)])
def test_llama_cpp_reproduces_logits_and_tokens(
    tmp_path: Path, kind: str, limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    need("gguf")
    need("llama_cpp")
    dataset = write_dataset(tmp_path)
    out = export_gguf(tmp_path / "m.gguf", "--type", kind, "--dataset", str(dataset), "--num-slices", "500")
    report = capsys.readouterr().err
    assert "tokenization equal on 500 of 500 slices" in report
    assert float(report.split("logits differ by ")[1].split(",")[0]) < limit
    assert not (tmp_path / "m.gguf.partial").exists()
    assert out.stat().st_size > 0


def test_llama_cpp_stops_at_the_end_of_the_turn(tmp_path: Path) -> None:
    need("gguf")
    llama_cpp = need("llama_cpp")
    llama = llama_cpp.Llama(str(export_gguf(tmp_path / "m.gguf")), n_ctx=128, verbose=False)
    reply = llama.create_chat_completion([{"role": "user", "content": QUESTION}], temperature=0, max_tokens=60)
    assert reply["choices"][0]["message"]["content"] == ANSWER
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_llama_cpp_renders_the_chat_as_transformers_does(tmp_path: Path) -> None:
    need("gguf")
    llama_cpp = need("llama_cpp")
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter
    from transformers import AutoTokenizer

    llama = llama_cpp.Llama(str(export_gguf(tmp_path / "m.gguf")), n_ctx=128, verbose=False)
    template = llama.metadata["tokenizer.chat_template"]
    assert "generation %}" not in template
    found = Jinja2ChatFormatter(template, "</s>", "<s>")(messages=[*CONVERSATION, CONVERSATION[0]]).prompt
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint())
    assert found == tokenizer.apply_chat_template(
        [*CONVERSATION, CONVERSATION[0]], tokenize=False, add_generation_prompt=True
    )


def test_without_llama_cpp_transformers_judges_and_the_report_says_so(
    tmp_path: Path, without: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    need("gguf")
    need("accelerate")
    without("llama_cpp")
    export_gguf(tmp_path / "m.gguf", "--type", "f32")
    assert "tokenization not judged (pip install llama-cpp-python)" in capsys.readouterr().err


def test_the_same_checkpoint_gives_the_same_bytes_also_from_shards(tmp_path: Path) -> None:
    need_gguf()
    from transformers import AutoModelForCausalLM

    whole = export_gguf(tmp_path / "whole.gguf", "--name", "tiny").read_bytes()
    folder = copy_of_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint()).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert export_gguf(tmp_path / "sharded.gguf", "--name", "tiny", model=folder).read_bytes() == whole


# --- GGUF: an export that is not the model is deleted ---


def test_a_wrong_order_of_the_heads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_gguf()
    monkeypatch.setattr(export, "permute_heads", lambda weight, num_heads: weight)
    message = refusal(tmp_path / "m.gguf", "--type", "f32")
    assert "it was deleted" in message


def test_a_wrong_order_of_the_pieces_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("gguf")
    need("llama_cpp")
    vocabulary = export.vocabulary

    def reversed_scores(folder: Path, num_rows: int) -> tuple[list[str], list[float], list[int]]:
        names, scores, kinds = vocabulary(folder, num_rows)
        return names, [-score for score in scores], kinds

    monkeypatch.setattr(export, "vocabulary", reversed_scores)
    assert "slices tokenize otherwise" in refusal(tmp_path / "m.gguf")


def test_two_files_of_different_tokenizers_are_refused(tmp_path: Path) -> None:
    need_gguf()
    folder = copy_of_checkpoint(tmp_path)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.__getitem__)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "tokenizer.model" in refusal(tmp_path / "m.gguf", model=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "tokenizer.model").unlink(), "holds no tokenizer.model"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: edit_config(folder, rope_parameters={"rope_type": "linear", "factor": 2.0}), "only plain RoPE"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    need_gguf()
    folder = copy_of_checkpoint(tmp_path)
    change(folder)
    assert message in refusal(tmp_path / "m.gguf", model=folder)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_matrix_whose_rows_do_not_fill_a_block_stays_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_gguf()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = copy_of_checkpoint(tmp_path)
    config = LlamaConfig.from_pretrained(folder)
    config.intermediate_size = 40
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    export_gguf(tmp_path / "m.gguf", "--type", "q8_0", model=folder)
    assert "2 matrices have rows that are no multiple of 32" in capsys.readouterr().err


def test_an_absent_package_is_one_line(tmp_path: Path, without: Callable[[str], None]) -> None:
    without("gguf")
    assert "pip install gguf" in refusal(tmp_path / "m.gguf")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Call it with a package's name: from then on it counts as not installed."""
    find_spec = export.importlib.util.find_spec

    def hide(name: str) -> None:
        monkeypatch.setattr(
            export.importlib.util, "find_spec", lambda other: None if other == name else find_spec(other)
        )

    return hide


# --- MLX ---


# 4 bits cost models of this size 15% to 18% of the logits (docs/LOG.md, "After pretraining")
@pytest.mark.parametrize(("words", "limit"), [([], 0.01), (["--bits", "8"], 0.01), (["--bits", "4"], 0.25)])
def test_mlx_reproduces_logits_and_tokens_and_stops(
    tmp_path: Path, words: list[str], limit: float, capsys: pytest.CaptureFixture[str]
) -> None:
    need("mlx")
    need("mlx_lm")
    out = tmp_path / "mlx"
    export.main(["mlx", "--model", str(tiny_checkpoint()), "--out", str(out), "--num-slices", "60", *words])
    report = capsys.readouterr().err
    assert "tokenization equal on 60 of 60 slices" in report
    assert float(report.split("logits differ by ")[1].split(",")[0]) < limit
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [2, 5]
    assert (out / "tokenizer_config.json").read_bytes() == (tiny_checkpoint() / "tokenizer_config.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mlx"]


def test_an_mlx_export_that_is_not_the_model_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlx")
    need("mlx_lm")
    monkeypatch.setitem(export.LOGIT_LIMITS, "4 bits", 0.1)
    with pytest.raises(UserError, match="it was deleted"):
        export.main(["mlx", "--model", str(tiny_checkpoint()), "--out", str(tmp_path / "mlx"), "--bits", "4"])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"), export.new_folder(tmp_path):
        pytest.fail("the block must not run")


# --- the hub ---


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder: hf/ with training.json, metrics.jsonl, dataset/ with manifest and tokens, val.json of evaluate.py."""
    model = copy_of_checkpoint(tmp_path)
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    write_dataset(dataset)
    papers = {"in": 6, "kept": 4, "train": 4, "val": 4, "rejected": 2}
    funnel = [{"stage": "metadata", "in": 6, "dropped": {"category": 2}, "left": 4, "bytes_left": 900}]
    (dataset / "manifest.json").write_text(json.dumps({"papers": papers, "funnel": funnel}))
    pack_tokens.main(["--dataset", str(dataset), "--tokenizer", str(model)])
    facts = {"seq_len": 64, "num_tokens": 1234567, "num_steps": 60, "val_loss": 1.5, "hours": 2.0, "num_gpus": 1}
    facts |= {"device": "cpu", "seed": 0, "tokenizer_fingerprint": pack_tokens.tokenizer_fingerprint(model)[:12]}
    (model / "training.json").write_text(json.dumps(facts))
    lines = [{"kind": "train", "step": step, "loss": 9 / step, "tokens": 100 * step} for step in (20, 40, 60)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--model", str(model), "--dataset", str(dataset), "--out", str(tmp_path / "val.json")]
    evaluate.main(["perplexity", *words])
    return tmp_path


def export_hub(run: Path) -> Path:
    out = run / "published"
    words = ["--model", run / "hf", "--dataset", run / "dataset", "--evaluation", run / "val.json", "--out", out]
    export.main(["hub", *map(str, words), "--licence", "mit", "--name", "Tiny"])
    return out


def test_the_card_says_what_the_records_say(run: Path) -> None:
    need("matplotlib")
    out = export_hub(run)
    card = (out / "README.md").read_text()
    result = json.loads((run / "val.json").read_text())
    num_parameters = sum(parameter.numel() for parameter in load_checkpoint(out)[0].parameters())
    for fact in (
        "license: mit",
        f"{num_parameters:,} parameters",
        "1,234,567 tokens",
        f"{result['tables']['all'][0]['bits_per_byte']:.4f} bits per byte",
        "6 e-prints in = 4 kept + 2 rejected",
        "| metadata | 6 | category 2 | 4 |",
        "2.00 hours on 1 x cpu",
        "64 tokens at once; the positions up to 128 are untrained",
        "it was not trained to follow instructions",
    ):
        assert fact in card
    assert "After pretraining" not in card
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.glob("*.partial"))


def test_the_card_tells_the_stages_after_pretraining(run: Path) -> None:
    need("matplotlib")
    facts = json.loads((run / "hf" / "training.json").read_text())
    stage = {
        "num_steps": 70,
        "lr": 2e-5,
        "lora_rank": None,
        "hours": 0.5,
        "conversations": {"whole": 9, "cut": 1, "empty": 2},
    }
    sft = {**stage, "method": "sft", "data": ["dataset_train_val/mathinstruct", "dataset_train_val/gsm8k"]}
    grpo = {**stage, "method": "grpo", "data": ["dataset_train_val/gsm8k"], "lora_rank": 16}
    (run / "hf" / "training.json").write_text(json.dumps({**facts, "post_training": [sft, grpo]}))
    card = (export_hub(run) / "README.md").read_text()
    assert "| sft | mathinstruct, gsm8k | 10 | 70 | 2e-05 | all weights | 0.50 |" in card
    assert "| grpo | gsm8k | 10 | 70 | 2e-05 | LoRA, rank 16 | 0.50 |" in card
    assert "It was trained to answer" in card


def test_the_published_model_loads_with_nothing_else(run: Path) -> None:
    need("matplotlib")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = export_hub(run)
    shutil.rmtree(run / "hf")
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    ids = tokenizer.apply_chat_template(CONVERSATION[:1], add_generation_prompt=True, return_tensors="pt")
    reply = model.generate(**ids, max_new_tokens=60, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(reply, skip_special_tokens=True) == ANSWER


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "hf" / "training.json").unlink(), "does not say seq_len"),
        (lambda run: edit_json(run / "hf" / "training.json", num_steps=80), "ends at step 60, the model is of step 80"),
        (lambda run: (run / "metrics.jsonl").unlink(), "the run's metrics"),
        (lambda run: (run / "dataset" / "manifest.json").unlink(), "the account of the data"),
        (
            lambda run: edit_json(run / "dataset" / "manifest.json", papers={"in": 7, "kept": 4, "rejected": 2}),
            "7 in are not 4 kept + 2 rejected",
        ),
        (lambda run: shutil.rmtree(run / "dataset" / "tokens"), "holds no packed tokens"),
        (lambda run: edit_json(run / "hf" / "training.json", data="0" * 12), "was trained on the tokens 000000000000"),
        (lambda run: edit_json(run / "val.json", weights_sha256="0" * 64), "is of the weights 000000000000"),
        (lambda run: (run / "published").mkdir(), "exists already"),
    ],
)
def test_what_it_cannot_account_for_it_does_not_publish(
    run: Path, change: Callable[[Path], object], message: str
) -> None:
    need("matplotlib")
    change(run)
    before = sorted(run.iterdir())
    with pytest.raises(UserError, match=re.escape(message)) as error:
        export_hub(run)
    assert "\n" not in str(error.value)
    assert sorted(run.iterdir()) == before


# --- the parts ---


def test_heads_are_permuted_as_llama_cpp_turns_them() -> None:
    weight = np.arange(8)[:, None] * np.ones((1, 3))  # two heads of size 4
    assert export.permute_heads(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_slices_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    first, again, other = (export.hard_slices(dataset, 50, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first[: len(export.HARD_TEXTS)] == list(export.HARD_TEXTS)
    assert len(first) == 50
    assert len(export.hard_slices(None, 50, 0)) == 50


def test_help_needs_no_optional_package() -> None:
    done = run_command("export.py", "gguf", "--help")
    assert done.returncode == 0
    assert "python export.py gguf --model" in done.stdout
