"""The recipes: their models have the sizes that they name, their promises are train.py's own arithmetic, their flags exist."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import posttrain
import train
from data_prep.answers import final_answer
from data_prep.mixture import KNOWN_SOURCES, read_mixture
from data_prep.records import read_jsonl
from posttrain import check_messages
from tests.conftest import ROOT

RECIPES = ROOT / "recipes"
NAMES = ("kitefish-a1", "tinymathreason-1b", "kodalite-1.3b")
ROAD = (RECIPES / "road.sh").read_text()


def config_of(name: str, file: str = "config.json") -> dict[str, Any]:
    return dict(json.loads((RECIPES / name / file).read_text()))


def script(name: str) -> str:
    return (RECIPES / name / "run.sh").read_text()


def train_flags(name: str, *, tiny: bool) -> list[str]:
    """The words of TRAIN=(...) in a run.sh: the recipe's own, or those of --tiny."""
    own, small = re.findall(r"TRAIN=\((.*?)\)", script(name), re.DOTALL)
    return (small if tiny else own).split()


@pytest.mark.parametrize(
    ("name", "rows", "count"),
    [
        ("kitefish-a1", 102_400, 1_633_781_760),
        ("tinymathreason-1b", 32_000, 1_123_117_056),
        ("tinymathreason-1b", 32_768, 1_126_262_784),
        ("kodalite-1.3b", 50_257, 1_269_209_088),
    ],
)
def test_the_models_have_the_parameters_that_are_said(name: str, rows: int, count: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(RECIPES / name)
    assert config.vocab_size >= rows
    config.vocab_size = rows
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert f"{count:,}" in script(name)


def test_the_shapes_are_the_cards() -> None:
    tiny_math, koda = config_of("tinymathreason-1b"), config_of("kodalite-1.3b")
    assert (tiny_math["num_attention_heads"], tiny_math["num_key_value_heads"]) == (16, 4)
    assert tiny_math["max_position_embeddings"] == 4096
    assert (koda["num_attention_heads"], koda["num_key_value_heads"], koda["head_dim"]) == (32, 8, 64)
    assert (koda["max_position_embeddings"], koda["tie_word_embeddings"]) == (1024, False)
    assert config_of("kitefish-a1") == json.loads((ROOT / "config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_small_model_has_the_kind_of_the_large_one(name: str) -> None:
    large, small = config_of(name), config_of(name, "config-tiny.json")
    assert set(small) == set(large) - ({"head_dim"} & set(large))
    for key in (
        "architectures",
        "tie_word_embeddings",
        "rope_parameters",
        "rms_norm_eps",
        "hidden_act",
        "bos_token_id",
    ):
        assert small[key] == large[key]
    groups = [config["num_attention_heads"] // config["num_key_value_heads"] for config in (large, small)]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("name", NAMES)
def test_deepspeeds_settings_are_the_published_runs(name: str) -> None:
    assert config_of(name, "ds_config.json") == json.loads((ROOT / "ds_config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_promise_is_what_the_plan_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(["--plan", "--config", str(RECIPES / name / "config.json"), *train_flags(name, tiny=False)])
    plan = capsys.readouterr().out
    found = re.search(r"([\d,]+) GPU-hours, \d+ hours \(([\d.]+) days\) on 2 GPUs", plan)
    assert found is not None
    head = script(name).split("set -euo")[0]
    assert f"{found[1]} GPU-hours = {found[2]} days" in head
    assert "= 1,572,864 tokens per step" in plan
    checkpoint_gb = re.search(r"14 bytes = ([\d.]+) GB", plan)
    assert checkpoint_gb is not None
    assert f"6 checkpoints of {checkpoint_gb[1]} GB" in head
    assert "which fits the NVIDIA A100 80 GB" in plan


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tiny", [False, True])
def test_the_flags_of_training_exist(name: str, tiny: bool) -> None:
    words = [word for word in train_flags(name, tiny=tiny) if word.startswith("--")]
    known = set(re.findall(r"--[a-z][a-z0-9-]*", train.parser().format_help()))
    assert words
    assert set(words) <= known


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_one_of_the_road(name: str) -> None:
    stages = re.findall(r"^([a-z_]+)\(\)", ROAD, re.MULTILINE)
    body = script(name).split("\nfi\n")[1]
    called = re.findall(r"^([a-z_]+)", body, re.MULTILINE)
    assert called[:6] == ["prepare", "tokenizer", "pack", "train", "evaluate", "write"]
    assert set(called) <= set(stages)


def test_tiny_math_reason_learns_mathematics_first_and_chat_last() -> None:
    stages = re.findall(r"^posttrain (\w+) (\S+)", script("tinymathreason-1b"), re.MULTILINE)
    assert stages == [("sft", "sft-mathematics"), ("grpo", "grpo"), ("sft", "sft-chat")]


def post_training_flags(name: str) -> dict[str, list[str]]:
    """The words of each array of post-training in a run.sh, the recipe's own first."""
    arrays: dict[str, list[str]] = {}
    for array, words in re.findall(r"\b(SFT\w*|GRPO|DPO)=\((.*?)\)", script(name)):
        arrays.setdefault(array, []).append(words)
    return arrays


@pytest.mark.parametrize("name", ["tinymathreason-1b", "kodalite-1.3b"])
def test_the_flags_of_post_training_exist(name: str) -> None:
    arrays = post_training_flags(name)
    assert arrays
    for array, all_words in arrays.items():
        command = "sft" if array.startswith("SFT") else array.lower()
        for words in all_words:
            whole = words.replace('"${SFT[@]}"', arrays["SFT"][0]).replace("$NAME", name).split()
            flags = posttrain.parser().parse_args([command, "--model", "m", "--out", "o", *whole])
            method = posttrain.METHODS[command]
            settings = {one.name: getattr(flags, one.name) for one in dataclasses.fields(method.settings)}
            posttrain.check_settings(method.settings(**settings))


@pytest.mark.parametrize("name", NAMES)
def test_the_mixture_names_the_data_of_the_recipe(name: str) -> None:
    mixture = read_mixture(RECIPES / name / "mixture.json")
    assert mixture.of_stage("pretraining")[0].name == "arxiv"
    assert {source.name for source in mixture.sources} <= set(KNOWN_SOURCES)
    for subject in re.findall(r"--subject (\w+)", script(name)):
        assert posttrain.sources_of(RECIPES / name / "mixture.json", subject)


@pytest.mark.parametrize("path", [RECIPES / "road.sh", *(RECIPES / name / "run.sh" for name in NAMES)], ids=str)
def test_the_scripts_are_good_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.name == "road.sh" or path.stat().st_mode & 0o100


def test_the_mixture_is_table_1_of_the_paper() -> None:
    mixture = read_mixture(RECIPES / "kitefish-a1" / "mixture.json")
    assert {source.name: (source.stage, source.weight) for source in mixture.sources} == {
        name: KNOWN_SOURCES[name] for name in ("arxiv", "openwebmath", "stackexchange", "mathinstruct", "ultrachat")
    }
    assert len(mixture.curriculum) == 3


def test_the_sample_of_sums_is_right_and_judged() -> None:
    records = [
        record for split in ("train", "val") for record in read_jsonl(RECIPES / "math-sample" / f"{split}.jsonl")
    ]
    assert len(records) == 81
    for record in records:
        question, solution = (message["content"] for message in check_messages(record, record["id"]))
        left, right = map(int, re.findall(r"\d+", question))
        assert record["answer"] == final_answer(solution) == str(left + right)


def test_the_sample_of_conversations_is_of_conversations() -> None:
    records = [
        record for split in ("train", "val") for record in read_jsonl(RECIPES / "chat-sample" / f"{split}.jsonl")
    ]
    assert len(records) == 16
    for record in records:
        roles = [message["role"] for message in check_messages(record, record["id"])]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
