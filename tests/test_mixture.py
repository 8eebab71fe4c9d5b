"""Mixture and curriculum: weights act when rows are drawn, stages follow their shares, refusals come before any work."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.cli import UserError
from data_prep.mathematics import formula_share
from data_prep.mixture import Curriculum, Mixture, default_mixture, group_of, is_gold, main, read_mixture
from data_prep.pack_tokens import pack
from tests.small_corpus import small_records, small_tokenizer, write_records

SEQ_LEN, ROWS_PER_STEP = 32, 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources, arxiv and web, packed with both parts; a fifth of the arXiv papers is gold."""
    folder = tmp_path_factory.mktemp("mixture")
    records = small_records(400, seed=3)
    for number, record in enumerate(records):
        if number % 5 == 0 and record["source"] == "arxiv":
            record |= {
                "doi": "10.1/x",
                "text": record["text"] + "\\begin{proof}\n" + "Clear. " * 1_200 + "\\end{proof}\n",
            }
        if record["source"] == "web":
            record |= {"source": "openwebmath"}
    write_records(folder / "train.jsonl", records)
    write_records(folder / "val.jsonl", records[:8])
    pack(folder, small_tokenizer(folder), parts=("text", "prose"), grouped=True)
    return folder


def write_mixture(folder: Path, **changes: Any) -> Path:
    """A mixture of Table 1's pretraining sources under `folder`, with some keys changed."""
    arxiv = {"stage": "pretraining", "weight": 2.0, "dataset": str(folder), "gold_factor": 3.0}
    web = {"stage": "pretraining", "weight": 1.0, "dataset": str(folder)}
    content = {"sources": {"arxiv": arxiv, "openwebmath": web}} | changes
    path = folder / "mixture.json"
    path.write_text(json.dumps(content))
    return path


def curriculum_of(mixture: Mixture, steps: int = 50) -> Curriculum:
    return Curriculum(mixture, steps=steps, rows_per_step=ROWS_PER_STEP, seq_len=SEQ_LEN, seed=1)


def test_gold_is_published_proved_and_of_a_papers_length() -> None:
    text = "\\begin{theorem}A\\end{theorem}\\begin{proof}B\\end{proof}" + "x" * 8_000
    record = {"doi": "10.1/x", "text": text, "warnings": []}
    assert is_gold(record)
    assert is_gold({**record, "doi": None, "journal_ref": "Ann. Math. 1"})
    assert not is_gold({**record, "doi": None})
    assert not is_gold({**record, "warnings": ["missing file"]})
    assert not is_gold({**record, "text": text[:7_000]})
    assert not is_gold({**record, "text": text.replace("proof", "remark")})


def test_groups_part_formulas_from_words() -> None:
    assert formula_share("ab $x$ c") == 3 / 8
    assert group_of({"text": "ab $x$ c"}) == "plain-formulas"
    assert group_of({"text": "words alone"}) == "plain-words"


def test_drawn_tokens_match_the_weights_over_an_epoch(dataset: Path) -> None:
    mixture = read_mixture(write_mixture(dataset), curriculum=False)
    sequences = curriculum_of(mixture).segments[0].sequences
    numbers, _ = sequences.locate(range(sequences.rows_per_epoch))
    drawn: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for number, count in Counter(numbers.tolist()).items():
        drawn[sequences.files[number].source] += count * SEQ_LEN
    for file in sequences.files:
        gold = 3.0 if file.group.startswith("gold") and file.source == "arxiv" else 1.0
        wanted[file.source] += file.header.num_tokens * gold * (2.0 if file.source == "arxiv" else 1.0)
    assert {file.group[:4] for file in sequences.files} == {"gold", "plai"}
    for source in ("arxiv", "openwebmath"):
        assert drawn[source] / drawn.total() == pytest.approx(wanted[source] / wanted.total(), rel=0.01)


def test_stages_follow_each_other_at_step_boundaries(dataset: Path) -> None:
    curriculum = curriculum_of(read_mixture(write_mixture(dataset)), steps=50)
    ends = [(s.stage.reads, s.first_row // ROWS_PER_STEP, s.num_rows // ROWS_PER_STEP) for s in curriculum.segments]
    assert ends == [("prose", 0, 5), ("full", 5, 30), ("balanced", 35, 15)]
    assert curriculum.segment_of(39).stage.reads == "prose"
    assert curriculum.segment_of(40).stage.reads == "full"
    assert curriculum.segment_of(10**9).stage.reads == "balanced"


def test_rows_are_a_pure_function_of_their_number(dataset: Path) -> None:
    curriculum = curriculum_of(read_mixture(write_mixture(dataset)))
    together = curriculum.rows(range(30, 60))  # over the border of the first stage
    again = curriculum_of(read_mixture(write_mixture(dataset)))
    for place, row in enumerate(range(30, 60)):
        alone = again.rows([row])
        assert all(np.array_equal(a[0], b[place]) for a, b in zip(alone, together, strict=True))


def test_the_balanced_stage_draws_as_many_tokens_from_formulas_as_from_words(dataset: Path) -> None:
    curriculum = curriculum_of(read_mixture(write_mixture(dataset)))
    sequences = curriculum.segments[2].sequences
    drawn: Counter[str] = Counter()
    for file, rows in zip(sequences.files, sequences.rows_drawn, strict=True):
        drawn[file.group.split("-")[1]] += rows
    assert drawn["formulas"] == pytest.approx(drawn["words"], rel=0.01)
    full = curriculum.segments[1].sequences
    assert sequences.rows_per_epoch == pytest.approx(full.rows_per_epoch, rel=0.01)


def test_without_a_file_the_weights_are_table_1s(dataset: Path) -> None:
    mixture = default_mixture(dataset)
    assert {source.name: source.weight for source in mixture.sources} == {"arxiv": 2.0, "openwebmath": 1.0}
    assert len(mixture.curriculum) == 3
    assert len(default_mixture(dataset, curriculum=False).curriculum) == 1


def test_the_plan_adds_up(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", str(dataset), "--tokens", "40960", "--seq-len", "32", "--global-batch", "8"]
    assert main([*words, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert sum(row["tokens"] for row in table) == pytest.approx(40_960)
    assert main(words) == 0
    assert "stage 'textual warm-up' reads prose: 10% of the run, 4,096 tokens" in capsys.readouterr().out


ARXIV = {"stage": "pretraining", "weight": 1.0, "dataset": "."}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": {"arxiv": ARXIV | {"weight": 0}}}, "weight is 0; a number above 0 is needed"),
        ({"sources": {"arxiv": ARXIV | {"weight": float("nan")}}}, "weight is nan"),
        ({"sources": {"arxiv": ARXIV | {"weigth": 1}}}, "unknown key 'weigth'"),
        ({"sources": {"arxiv": ARXIV | {"stage": "midtraining"}}}, "stage 'midtraining'; it must be one of"),
        ({"sources": {}}, "names no source"),
        ({"sources": {"ultrachat": ARXIV}}, "belongs to post-training but stands in pretraining; give --allow"),
        ({"curriculum": [{"name": "a", "share": 0.5, "reads": "full"}]}, "shares are 0.5 = 0.5; they must sum to 1"),
        ({"curriculum": [{"name": "a", "share": 1.0, "reads": "half"}]}, "reads 'half'; it must be one of"),
        (
            {"curriculum": [{"name": "a", "share": 1.0, "reads": "full", "weights": {"web": 1}}]},
            "unknown key 'web'; known are arxiv, openwebmath",
        ),
        ({"sorces": {}}, "unknown key 'sorces'"),
    ],
)
def test_a_wrong_mixture_is_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        read_mixture(write_mixture(tmp_path, **changes))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_source_and_one_without_tokens_are_refused(dataset: Path) -> None:
    sources = {"arxiv": ARXIV | {"dataset": str(dataset)}, "wikipedia": ARXIV | {"dataset": str(dataset)}}
    mixture = read_mixture(write_mixture(dataset, sources=sources))
    with pytest.raises(UserError, match=r"source 'wikipedia' has no tokens in .*, which holds arxiv, openwebmath"):
        curriculum_of(mixture)


def test_tokens_packed_for_no_curriculum_are_refused_by_name(dataset: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_bytes((dataset / f"{split}.jsonl").read_bytes())
    pack(tmp_path, dataset / "tokenizer")
    with pytest.raises(UserError, match="reads prose, of which no source has tokens; pack again with"):
        curriculum_of(default_mixture(tmp_path))
    assert curriculum_of(default_mixture(tmp_path, curriculum=False)).rows([0]).input_ids.shape == (1, SEQ_LEN)
    pack(tmp_path, dataset / "tokenizer", parts=("text", "prose"))
    with pytest.raises(UserError, match="packed in one group; pack again with"):
        curriculum_of(default_mixture(tmp_path))


def test_allow_lets_a_post_training_source_in(tmp_path: Path) -> None:
    path = write_mixture(tmp_path, sources={"ultrachat": ARXIV})
    assert read_mixture(path, allow=True).names() == ["ultrachat"]
