"""evaluate.py: that every byte is counted once, that the figures are the model's, and what is refused."""

import gzip
import itertools
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
from data_prep.cli import UserError
from data_prep.records import read_jsonl, training_text
from data_prep.token_files import load_encoder
from generate import load_checkpoint
from tests.conftest import need_shared, run_command
from tests.tiny_checkpoint import TEXTS, record, tiny_checkpoint, write_dataset


def document(text: str, **fields: Any) -> evaluate.Document:
    made = {**record(0, text, ["math.NT"]), "title": "", **fields}
    return evaluate.to_document(made, load_encoder(tiny_checkpoint()), bos_id=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def run_perplexity(dataset: Path, *words: str) -> dict[str, Any]:
    out = dataset / "result.json"
    evaluate.main(
        ["perplexity", "--model", str(tiny_checkpoint()), "--dataset", str(dataset), "--out", str(out), *words]
    )
    return dict(json.loads(out.read_text()))


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as error:
        evaluate.main(["perplexity", *words])
    assert "\n" not in str(error.value)
    return str(error.value)


# --- mathematics and bytes ---


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"so $x$ is \(y\)", ["$x$", r"\(y\)"]),
        (r"\[ a \] and $$b$$.", [r"\[ a \]", "$$b$$"]),
        (r"costs 5\$ or $6$", ["$6$"]),
        (r"$a \$ b$ c", [r"$a \$ b$"]),
        (r"a line \\[2pt] is no formula", []),
        (r"\begin{align*} a &= b \\ c \end{align*} d", [r"\begin{align*} a &= b \\ c \end{align*}"]),
        (
            r"\begin{equation} \text{if $x$} \end{equation}$y$",
            [r"\begin{equation} \text{if $x$} \end{equation}", "$y$"],
        ),
        (r"\begin{theorem} so $z$ \end{theorem}", ["$z$"]),
        ("$never closed\n\nnext $a$", ["$never closed", "$a$"]),
        (r"\begin{equation} never", [r"\begin{equation} never"]),
        ("", []),
    ],
)
def test_where_mathematics_stands(text: str, formulas: list[str]) -> None:
    assert [text[start:end] for start, end in evaluate.math_spans(text)] == formulas


def test_many_dollars_take_linear_time() -> None:
    started_s = time.process_time()
    for text in ("$ \\$" * 200_000, "$x$ " * 200_000, "\\begin{align}" * 200_000, "\\[" * 200_000, "$$ $" * 200_000):
        evaluate.math_spans(text)
    assert time.process_time() - started_s < 10


@pytest.mark.parametrize(
    "text", [*TEXTS, "é", "漢字 and 𝔸 $𝔸$", "  two spaces  ", "<s> is text, </s> too", "\t\n\n$x$\n", "▁ and \ue000"]
)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text: str) -> None:
    made = document(text)
    assert made.num_bytes.sum() == len(text.encode())
    assert (made.num_bytes >= 0).all()
    assert len(made.ids) - 1 == len(made.num_bytes) == len(made.is_math)
    assert 1 not in made.ids[1:]
    assert 2 not in made.ids[1:]


def test_a_token_that_touches_a_formula_is_mathematics() -> None:
    text = "We know that $E = m c^2$ is true"
    made = document(text)
    start, end = evaluate.math_spans(text)[0]
    positions = np.concatenate([[0], np.cumsum(made.num_bytes)])
    touches = [low < end and high > start for low, high in itertools.pairwise(positions)]
    assert made.is_math.tolist() == touches


# --- windows ---


@pytest.mark.parametrize(
    ("num_tokens", "context", "stride"), [(2, 4, 2), (5, 4, 2), (8, 4, 2), (100, 7, 3), (64, 64, 1), (65, 64, 64)]
)
def test_every_token_is_scored_once_with_as_much_context_as_fits(num_tokens: int, context: int, stride: int) -> None:
    scored = []
    for start, end, first in evaluate.windows(num_tokens, context, stride):
        assert end - start <= context
        assert first == 1 or end - start == context  # only a document's first window is short
        scored += list(range(first, end + 1))
    assert scored == list(range(1, num_tokens))


def test_the_example_of_the_docstring() -> None:
    assert list(evaluate.windows(8, 4, 2)) == [(0, 4, 1), (2, 6, 5), (3, 7, 7)]


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_scores_are_those_of_each_window_by_itself(batch_tokens: int) -> None:
    model, _ = load_checkpoint(tiny_checkpoint(), device="cpu")
    documents = [document(text) for text in TEXTS]
    found = evaluate.score_documents(model, documents, 32, 8, batch_tokens)
    for one, (nats, given) in zip(documents, found, strict=True):
        assert np.isfinite(nats).all()
        for target in (1, 5, 31, 32, 33, 40, len(one.ids) - 1):
            context = one.ids[target - given[target - 1] : target]
            with torch.inference_mode():
                logits = model(torch.from_numpy(context)[None]).logits[0, -1].double()
            expected = torch.logsumexp(logits, 0) - logits[one.ids[target]]
            assert nats[target - 1] == pytest.approx(float(expected), rel=1e-4)
            assert given[target - 1] == min(target, given[target - 1])
            assert target <= 32 or 32 - 8 < given[target - 1] <= 32


def test_one_window_equals_the_loss_of_transformers() -> None:
    model, _ = load_checkpoint(tiny_checkpoint(), device="cpu")
    made = document(TEXTS[0][:150])
    ids = torch.from_numpy(made.ids)[None]
    nats, _ = evaluate.score_documents(model, [made], 128, 64, 8192)[0]
    assert nats.mean() == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)


# --- the figures ---


def test_the_tables_add_up(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_perplexity(dataset)
    tables = result["tables"]
    whole = tables["all"][0]
    texts = [training_text(json.loads(line)) for line in (dataset / "val.jsonl").read_text().splitlines()]
    assert whole["num_bytes"] == sum(len(text.encode()) for text in texts)
    for name in ("kind", "subject", "context"):
        lines = tables[name]
        assert sum(line["num_bytes"] for line in lines) == whole["num_bytes"]
        bits = sum(line["bits_per_byte"] * line["num_bytes"] for line in lines)
        assert bits / whole["num_bytes"] == pytest.approx(whole["bits_per_byte"])
    assert [line["name"] for line in tables["subject"]] == ["cs", "math"]
    assert tables["source"] == []
    assert [line["name"] for line in tables["context"]] == ["1-31", "32-63", "64-128"]
    bits = sum(one["bits"] for one in result["documents"])
    assert whole["bits_per_byte"] == pytest.approx(bits / whole["num_bytes"])
    assert whole["token_perplexity"] == pytest.approx(2 ** (bits / whole["num_tokens"]))
    low, high = whole["interval"]
    assert low <= whole["bits_per_byte"] <= high
    printed = capsys.readouterr()
    assert f"{whole['bits_per_byte']:.4f}" in printed.out
    assert "each predicted once" in printed.err


def test_a_uniform_model_needs_log2_of_its_rows_for_each_token(dataset: Path) -> None:
    model, _ = load_checkpoint(tiny_checkpoint(), device="cpu")
    torch.nn.init.zeros_(model.lm_head.weight)
    nats, _ = evaluate.score_documents(model, [document(TEXTS[1])], 64, 32, 8192)[0]
    assert nats == pytest.approx(np.full(len(nats), math.log(512)))


def test_a_second_run_gives_the_same_bytes(dataset: Path) -> None:
    run_perplexity(dataset)
    first = (dataset / "result.json").read_bytes()
    run_perplexity(dataset)
    assert (dataset / "result.json").read_bytes() == first


def test_documents_are_drawn_with_the_seed(dataset: Path) -> None:
    drawn = [
        [one["id"] for one in run_perplexity(dataset, "--max-documents", "2", "--seed", str(seed))["documents"]]
        for seed in (0, 0, 3)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0])


def test_the_window_is_the_length_trained_with_unless_asked(dataset: Path, tmp_path: Path) -> None:
    assert run_perplexity(dataset)["context_tokens"] == 128
    assert run_perplexity(dataset, "--context-tokens", "32")["stride_tokens"] == 16


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        num_bytes = rng.integers(500, 5_000, size=60).astype(float)
        bits = num_bytes * rng.normal(1.5, 0.4, size=60)
        low, high = evaluate.interval(bits, num_bytes, seed) or [0.0, 0.0]
        hits += low <= 1.5 <= high
    assert 87 <= hits <= 100


def test_one_document_has_no_interval() -> None:
    assert evaluate.interval(np.array([3.0]), np.array([2.0]), 0) is None


# --- as a user runs it ---


def test_the_command_prints_a_table(dataset: Path) -> None:
    done = run_command(
        "evaluate.py", "perplexity", "--model", tiny_checkpoint(), "--dataset", dataset, "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("all ")


def test_an_absent_split_is_one_line(tmp_path: Path) -> None:
    done = run_command("evaluate.py", "perplexity", "--model", tiny_checkpoint(), "--dataset", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"evaluate.py: the val split {tmp_path / 'val.jsonl'} does not exist\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context-tokens", "500"], "max_position_embeddings 128"),
        (["--context-tokens", "64", "--stride-tokens", "65"], "--stride-tokens 65"),
    ],
)
def test_flags_that_make_no_sense_are_refused(dataset: Path, words: list[str], message: str) -> None:
    assert message in refusal("--model", str(tiny_checkpoint()), "--dataset", str(dataset), *words)


@pytest.mark.parametrize("flag", ["--max-documents", "--batch-tokens"])
def test_a_count_below_1_is_one_line(dataset: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_perplexity(dataset, flag, "0")
    assert stop.value.code == 2
    assert f"argument {flag}: 0: a whole number, 1 or more, is needed" in capsys.readouterr().err


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text("")
    assert "holds no document" in refusal("--model", str(tiny_checkpoint()), "--dataset", str(tmp_path))


def test_another_tokenizer_is_refused_with_both_values(dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    from data_prep import train_tokenizer

    train_tokenizer.main(["--input", str(dataset / "train.jsonl"), "--vocab-size", "530", "--out", str(other)])
    message = refusal("--model", str(tiny_checkpoint()), "--dataset", str(dataset), "--tokenizer", str(other))
    assert "512" in message
    assert "530" in message


# --- benchmarks ---

QUESTIONS = [
    {
        "query": f"Question: What is ${i} + {j}$?",
        "choices": [f"${i + j}$", f"It is ${i - j}$, since", "$p$"],
        "gold": (i + j) % 3,
    }
    for i in range(3)
    for j in range(3)
]
PAIRS = [
    {"context_options": [f"Let $p$ be {i}", f"Every prime {i}"], "continuation": "is bounded.", "gold": i % 2}
    for i in range(4)
]
WORDS = [
    {"context": "What is $2 +", "continuation": "3$?"},
    {"context": "Let $p$ be a prime", "continuation": "number"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Local benchmark files of our own, a few questions each."""
    folder = tmp_path / "data"
    for name, rows in (("arc_easy", QUESTIONS), ("winogrande", PAIRS), ("lambada_openai", WORDS)):
        path = folder / "benchmarks" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return folder


def test_the_harness_scores_what_the_model_says(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is an optional extra, see requirements-extra.txt")
    out = tmp_path / "bench.json"
    evaluate.main(
        ["benchmarks", "--model", str(tiny_checkpoint()), "--data", str(data), "--out", str(out), "--device", "cpu"]
    )
    found = json.loads(out.read_text())["benchmarks"]
    assert set(found) == {"arc_easy", "winogrande", "lambada_openai"}
    model, tokenizer = load_checkpoint(tiny_checkpoint(), device="cpu")

    def nats(context: str, continuation: str) -> float:
        both = [1, *tokenizer.encode(context + continuation, add_special_tokens=False)]
        start = 1 + len(tokenizer.encode(context, add_special_tokens=False))
        with torch.inference_mode():
            said = torch.log_softmax(model(torch.tensor([both])).logits[0].double(), dim=-1)
        return float(sum(said[i - 1, both[i]] for i in range(start, len(both))))

    for index, row in enumerate(QUESTIONS):
        totals = [nats(f"{row['query']}\nAnswer:", f" {choice}") for choice in row["choices"]]
        by_length = [total / len(choice) for total, choice in zip(totals, row["choices"], strict=True)]
        assert found["arc_easy"]["answers"]["acc"][index] == (int(np.argmax(totals)) == row["gold"])
        assert found["arc_easy"]["answers"]["acc_norm"][index] == (int(np.argmax(by_length)) == row["gold"])
    for index, row in enumerate(PAIRS):
        totals = [nats(option, f" {row['continuation']}") for option in row["context_options"]]
        assert found["winogrande"]["answers"]["acc"][index] == (int(np.argmax(totals)) == row["gold"])
    assert "arc_easy" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "data"]
    evaluate.main(["--compare", str(out), str(out)])
    assert "+0.0000" in capsys.readouterr().out


def test_benchmarks_without_the_package_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install lm_eval"):
        evaluate.main(["benchmarks", "--model", str(tiny_checkpoint()), "--out", str(tmp_path / "b.json")])


def test_benchmarks_that_cannot_be_asked_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trivia is no benchmark that we know; give some of hellaswag, arc_easy"):
        evaluate.choose_tasks(["trivia"], None)
    with pytest.raises(UserError, match=r"piqa: .*piqa.jsonl.gz is absent; leave --data out"):
        evaluate.choose_tasks(["piqa"], data)
    with pytest.raises(UserError, match=r"mmlu: we read no local file of it"):
        evaluate.choose_tasks(["mmlu"], data)
    with pytest.raises(UserError, match=r"holds no file of a benchmark"):
        evaluate.choose_tasks(None, tmp_path / "nothing")
    assert [task["task"] for task in evaluate.choose_tasks(None, data)] == ["arc_easy", "winogrande", "lambada_openai"]
    assert evaluate.choose_tasks(["mmlu"], None) == ["mmlu"]


def test_the_real_files_are_in_the_form_that_is_asked_for() -> None:
    shared = need_shared("datasets")
    names = [name for name, one in evaluate.BENCHMARKS.items() if one.files and name != "minerva_math"]
    tasks = {task["task"]: task for task in evaluate.choose_tasks(names, shared)}
    for task in tasks.values():
        with gzip.open(task["dataset_kwargs"]["data_files"]["test"], "rt", encoding="utf-8") as file:
            row = json.loads(file.readline())
        asked = json.dumps([task[key] for key in ("doc_to_text", "doc_to_target")] + [task.get("doc_to_choice", "")])
        assert set(re.findall(r"[a-z_]+", " ".join(re.findall(r"{{.*?}}", asked)))) <= set(row)


# --- generated answers, against the harness called by hand ---

SUM, SUM_ANSWER = "What is 3 + 4?", "3 + 4 = 7\n#### 7"
PROBLEM, PROOF = "What is $2 + 3$?", "It is $\\boxed{5}$.\nFinal Answer: The final answer is $5$. I hope it is correct."
WRONG_SUM, WRONG_PROOF = "3 + 4 = 8\n#### 8", "It is $\\boxed{6}$."
LONG_CONTEXT_TOKENS = 640


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes on with the last question of each prompt below as its solution says, and a little beyond."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("by-heart") / "hf"
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        tiny_checkpoint(), max_position_embeddings=LONG_CONTEXT_TOKENS, dtype=torch.float32
    )
    texts = [
        f"Question: {SUM}\nAnswer: {SUM_ANSWER}\n\nQuestion:",
        f"Problem:\n{PROBLEM}\n\nSolution: {PROOF}\n\nProblem:",
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        ids = torch.tensor([tokenizer(texts[step % 2])["input_ids"]])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_checkpoint() / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GSM8K and MATH of our own: one question of each that the model knows, and one that it does not."""
    folder = tmp_path_factory.mktemp("generated")
    sums = [{"question": SUM, "answer": answer} for answer in (SUM_ANSWER, WRONG_SUM)]
    proofs = [
        {"context": PROBLEM, "answer": "5", "chain_of_thought": PROOF, "category": "algebra"},
        {"context": PROBLEM, "answer": "6", "chain_of_thought": WRONG_PROOF, "category": "algebra"},
    ]
    files = {"gsm8k/test": sums, "gsm8k/train": sums, "benchmarks/math": proofs, "benchmarks/arc_easy": QUESTIONS}
    for name, rows in files.items():
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return folder


def test_generated_answers_are_judged_as_by_the_harness_called_by_hand(
    by_heart: Path, generated: Path, tmp_path: Path
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is an optional extra, see requirements-extra.txt")
    pytest.importorskip("math_verify", reason="math-verify is an optional extra, see requirements-extra.txt")
    out = tmp_path / "bench.json"
    words = [
        "--data",
        str(generated),
        "--tasks",
        "gsm8k",
        "minerva_math",
        "arc_easy",
        "--shots",
        "0",
        "--device",
        "cpu",
    ]
    evaluate.main(["benchmarks", "--model", str(by_heart), "--out", str(out), *words])
    found = json.loads(out.read_text())["benchmarks"]
    assert found["gsm8k"]["answers"] == {"exact_match": [1, 0], "flexible-extract": [1, 0]}
    assert found["minerva_math"]["answers"] == {"exact_match": [1, 0], "math_verify": [1, 0]}

    # the same questions under the names that the harness's own tasks want
    hub = {
        "gsm8k": [{"question": SUM, "answer": answer} for answer in (SUM_ANSWER, WRONG_SUM)],
        "minerva_math": [{"problem": PROBLEM, "solution": solution} for solution in (PROOF, WRONG_PROOF)],
        "arc_easy": [
            {
                "question": row["query"].removeprefix("Question: "),
                "choices": {"text": row["choices"], "label": [*"ABCD"[: len(row["choices"])]]},
                "answerKey": "ABCD"[row["gold"]],
            }
            for row in QUESTIONS
        ],
    }
    bases = {
        "gsm8k": "gsm8k/gsm8k.yaml",
        "minerva_math": "minerva_math/minerva_math_algebra.yaml",
        "arc_easy": "arc/arc_easy.yaml",
    }
    for name, base in bases.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in hub[name]))
        task = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / base),
            "task": f"{name}_by_hand",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": dict.fromkeys(("train", "validation", "test"), str(path))},
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    words = ["-m", "lm_eval", "run", "--model", "hf", "--tasks", ",".join(f"{name}_by_hand" for name in bases)]
    words += [
        "--model_args",
        f"pretrained={by_heart},dtype=float32,add_bos_token=True,max_length={LONG_CONTEXT_TOKENS}",
    ]
    words += ["--include_path", str(tmp_path), "--device", "cpu", "--batch_size", "2", "--num_fewshot", "0"]
    words += ["--log_samples", "--output_path", str(tmp_path / "out")]
    done = run_command(*words, env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    assert done.returncode == 0, done.stderr[-2000:]
    for name in bases:
        [path] = (tmp_path / "out").rglob(f"samples_{name}_by_hand_*.jsonl")
        by_hand = evaluate.count_answers(name, 0, [list(read_jsonl(path))])
        assert by_hand["answers"] == found[name]["answers"]
        if name == "gsm8k":  # the rows of MATH were renamed, so their hashes differ
            assert by_hand["questions_sha256"] == found[name]["questions_sha256"]


def test_a_context_without_room_for_the_text_is_one_line(generated: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is an optional extra, see requirements-extra.txt")
    words = ["--model", str(tiny_checkpoint()), "--out", str(tmp_path / "b.json"), "--data", str(generated)]
    with pytest.raises(UserError, match=r"gsm8k want texts of 256 tokens, .* context of 128; give --tasks without"):
        evaluate.main(["benchmarks", *words, "--tasks", "gsm8k", "--device", "cpu"])


def test_examples_that_a_local_file_cannot_give_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match="arc_easy: its local file can give 0 examples, not 25; give other --tasks"):
        evaluate.choose_tasks(["arc_easy"], data, 25)


def test_the_judges_of_math_are_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.importlib.metadata, "version", lambda name: "4.13.2")
    with pytest.raises(UserError, match=r"pip install math-verify antlr4-python3-runtime==4\.11\.0; or give --tasks"):
        evaluate.choose_tasks(["minerva_math"], None)


# --- the table beside published figures ---


def sample(doc_id: int, reading: str = "none", **metrics: float) -> dict[str, Any]:
    return {"doc_id": doc_id, "doc_hash": f"d{doc_id}", "prompt_hash": "p", "filter": reading, **metrics}


def test_the_parts_of_a_benchmark_are_counted_as_one() -> None:
    names = ["mmlu_virology", "piqa", "mmlu_anatomy", "minerva_math_algebra"]
    assert evaluate.parts_by_name(names) == {
        "piqa": ["piqa"],
        "minerva_math": ["minerva_math_algebra"],
        "mmlu": ["mmlu_anatomy", "mmlu_virology"],
    }
    parts = [[sample(1, acc=1.0), sample(0, acc=0.0)], [sample(0, acc=1.0)]]
    assert evaluate.count_answers("mmlu", 5, parts)["answers"] == {"acc": [0, 1, 1]}
    readings = [sample(0, "strict-match", exact_match=0.0), sample(0, "flexible-extract", exact_match=1.0)]
    assert evaluate.count_answers("gsm8k", 8, [readings])["answers"] == {"exact_match": [0], "flexible-extract": [1]}


def test_published_figures_stand_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"num_shots": 0, "chance": 0.25, "answers": {"acc": [1, 0], "acc_norm": [1, 1]}}
    evaluate.print_benchmarks({"benchmarks": {"hellaswag": one, "arc_easy": one}})
    printed = capsys.readouterr()
    head, hellaswag, by_length, arc, _ = printed.out.splitlines()
    assert head.split("questions")[1].split() == ["KodaLite", "TMR", "base", "TMR", "SFT", "TMR", "GRPO"]
    assert hellaswag.split()[7:] == ["0.2565@0", "0.2580@10", "0.2670@10", "0.2630@10"]
    assert len(by_length.split()) == 7
    assert arc.split()[7:] == ["0.3279@0"]
    assert "compared with the same number only" in printed.err


def test_every_published_figure_is_of_a_benchmark_that_is_asked() -> None:
    assert {name for figures in evaluate.PUBLISHED.values() for name in figures} <= set(evaluate.BENCHMARKS)
    assert set(evaluate.PUBLISHED["KodaLite"]) == set(list(evaluate.BENCHMARKS)[:8])
    assert {"gsm8k", "minerva_math", "mmlu"} <= set(evaluate.PUBLISHED["TMR GRPO"])


# --- two results ---


@pytest.mark.parametrize(
    ("pair", "p"), [((0, 0), 1.0), ((1, 9), 0.021484375), ((9, 1), 0.021484375), ((5, 5), 1.0), ((0, 5), 0.0625)]
)
def test_mcnemars_exact_test(pair: tuple[int, int], p: float) -> None:
    assert evaluate.mcnemar(*pair) == pytest.approx(p)


def bench_file(path: Path, answers: list[int], questions: str = "q") -> str:
    one = {"num_shots": 0, "chance": 0.5, "questions_sha256": questions, "answers": {"acc": answers}}
    path.write_text(json.dumps({"benchmarks": {"piqa": one}}))
    return str(path)


def test_benchmarks_are_compared_question_by_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = bench_file(tmp_path / "a.json", [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    second = bench_file(tmp_path / "b.json", [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    evaluate.main(["--compare", first, second])
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "piqa",
        "acc",
        "0.2500",
        "0.9167",
        "+0.6667",
        "1",
        "9",
        "0.021",
    ]
    other = bench_file(tmp_path / "c.json", [1] * 12, questions="others")
    with pytest.raises(UserError, match="other questions or prompts"):
        evaluate.main(["--compare", first, other])


def test_perplexities_are_compared_document_by_document(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = run_perplexity(dataset)
    (tmp_path / "long.json").write_text(json.dumps(long))
    short = run_perplexity(dataset, "--context-tokens", "16")
    (tmp_path / "short.json").write_text(json.dumps(short))
    capsys.readouterr()
    evaluate.main(["--compare", str(tmp_path / "long.json"), str(tmp_path / "short.json")])
    line = capsys.readouterr().out
    rates = [result["tables"]["all"][0]["bits_per_byte"] for result in (long, short)]
    assert f"bits/byte {rates[0]:.4f} -> {rates[1]:.4f}: {rates[1] - rates[0]:+.4f}, 95% interval" in line
    fewer = {**short, "documents": short["documents"][1:]}
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    with pytest.raises(UserError, match="4 and 3 documents that are not the same"):
        evaluate.main(["--compare", str(tmp_path / "long.json"), str(tmp_path / "fewer.json")])
    with pytest.raises(UserError, match="give perplexity, benchmarks or --compare A B"):
        evaluate.main([])
    with pytest.raises(UserError, match="of different kinds"):
        evaluate.main(["--compare", str(tmp_path / "long.json"), bench_file(tmp_path / "b.json", [1])])
