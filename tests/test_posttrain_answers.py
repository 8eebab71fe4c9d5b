r"""data_prep/answers.py: which answer a solution gives, and that comparing it survives whatever a model writes."""

import gzip
import json
import threading

import pytest

from data_prep import answers
from data_prep.answers import Verifier, final_answer
from data_prep.cli import UserError
from tests.conftest import need_shared


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48 / 2 = 24\n#### 24", "24"),
        ("#### 1,200\n", "1,200"),
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"the set is \boxed{\{1, 2\}} here", r"\{1, 2\}"),
        ("The answer is: 5.50. Done.", "5.50"),
        ("Final Answer: The final answer is $[2,5)$. I hope it is correct.", "[2,5)"),
        (r"The answer is 3. No: \boxed{4}", "4"),
        (r"\boxed{4}, I mean: the answer is 3", "3"),
        (r"The answer is $\boxed{7}$.", "7"),
        (r"it never closes \boxed{1 + {2}", None),
        ("####", None),
        ("It is 24, surely.", None),
        ("", None),
    ],
)
def test_the_last_answer_counts(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_every_solution_of_gsm8k_has_its_answer() -> None:
    with gzip.open(need_shared("datasets", "gsm8k", "test.jsonl.gz"), "rt") as file:
        texts = [json.loads(line)["answer"] for line in file]
    assert [final_answer(text) for text in texts] == [text.rsplit("#### ", 1)[1].strip() for text in texts]


def test_every_solution_of_math_has_an_answer() -> None:
    with gzip.open(need_shared("datasets", "benchmarks", "math.jsonl.gz"), "rt") as file:
        texts = [json.loads(line)["chain_of_thought"] for line in file]
    assert len(texts) == 5_000
    assert None not in map(final_answer, texts)


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    pytest.importorskip("math_verify", reason="math-verify is an optional extra, see requirements-extra.txt")
    return Verifier()


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("1200", "1,200", True),
        (r"\frac{1}{2}", "0.5", True),
        ("2k + 2", "2(k + 1)", True),
        ("(1, 2)", "(2, 1)", False),
        ("72", "71", False),
        ("72", "", False),
        ("72", "\\frac{", False),
        ("72", "72" * 2_000, False),
    ],
)
def test_answers_are_compared_as_mathematics(verifier: Verifier, reference: str, answer: str, equal: bool) -> None:
    assert verifier.equal(reference, answer) is equal


def test_it_works_off_the_main_thread(verifier: Verifier) -> None:
    """math-verify itself refuses there, because its time limit is a signal."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(verifier.equal("5", "5.0")))
    thread.start()
    thread.join()
    assert found == [True]


def test_an_answer_that_takes_too_long_is_wrong_and_the_next_is_judged(verifier: Verifier) -> None:
    impatient = Verifier(limit_s=0.5)  # less than math-verify's own alarm
    assert not impatient.equal("5", "10^{10^{10}}")
    assert impatient.num_failures == 1
    assert impatient.equal("5", "5")
    assert impatient.num_failures == 1
    impatient.close()


def test_a_process_that_dies_is_started_again(verifier: Verifier) -> None:
    mine = Verifier()
    assert mine.equal("5", "5")
    mine.process.kill()
    mine.process.join()
    assert not mine.equal("5", "5")
    assert mine.num_failures == 1
    assert mine.equal("5", "5")
    mine.close()


def test_the_absent_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install math-verify"):
        Verifier()
