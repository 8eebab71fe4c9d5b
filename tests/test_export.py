"""export.py: that an export is the model it came from, in the runtime it is for, and that one that is not is deleted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export
from data_prep.cli import UserError
from tests.conftest import run_command
from tests.tiny_checkpoint import ANSWER, CONVERSATION, QUESTION, tiny_checkpoint, write_dataset


def need(package: str) -> Any:
    """An optional package, or a skip that says how to get it."""
    return pytest.importorskip(package, reason=f"{package} is an optional extra, see requirements-extra.txt")


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
    without("llama_cpp")
    export_gguf(tmp_path / "m.gguf", "--type", "f32")
    assert "tokenization not judged (pip install llama-cpp-python)" in capsys.readouterr().err


def test_the_same_checkpoint_gives_the_same_bytes_also_from_shards(tmp_path: Path) -> None:
    need("gguf")
    from transformers import AutoModelForCausalLM

    whole = export_gguf(tmp_path / "whole.gguf", "--name", "tiny").read_bytes()
    folder = copy_of_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint()).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert export_gguf(tmp_path / "sharded.gguf", "--name", "tiny", model=folder).read_bytes() == whole


# --- GGUF: an export that is not the model is deleted ---


def test_a_wrong_order_of_the_heads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("gguf")
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
    need("gguf")
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
    need("gguf")
    folder = copy_of_checkpoint(tmp_path)
    change(folder)
    assert message in refusal(tmp_path / "m.gguf", model=folder)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_matrix_whose_rows_do_not_fill_a_block_stays_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need("gguf")
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


@pytest.mark.parametrize(("words", "limit"), [([], 0.01), (["--bits", "8"], 0.01), (["--bits", "4"], 0.15)])
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
