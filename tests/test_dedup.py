"""Duplicates, the split, leaks, contamination: the rules of data_prep/dedup.py, each against a plain reimplementation or example."""

import gzip
import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import dedup
from data_prep import words as hashed_words
from data_prep.cli import UserError
from tests.conftest import need_shared, run_command

VOCABULARY = [
    a + b + c
    for a in ("ka", "lo", "mi", "nu", "pe", "ri")
    for b in ("", "sta", "ron", "vel")
    for c in ("", "m", "x", "do")
]


def random_words(rng: random.Random, num: int) -> list[str]:
    return rng.choices(VOCABULARY, k=num)


def edited(rng: random.Random, words: Sequence[str], num_edits: int) -> list[str]:
    """The words with `num_edits` of them replaced, inserted or removed, at random places."""
    result = list(words)
    for _ in range(num_edits):
        place = rng.randrange(len(result))
        result[place : place + rng.choice((0, 1))] = random_words(rng, rng.choice((0, 1, 1)))
    return result


def plain_jaccard(left: str, right: str) -> float:
    """Jaccard similarity of the sets of word 5-grams, by Python's own sets."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    a, b = grams(left), grams(right)
    return len(a & b) / len(a | b)


def shingle_set(text: str) -> hashed_words.Hashes:
    return hashed_words.sorted_set(dedup.shingles(dedup.word_hashes(text)))


def clusters_of(
    texts: Sequence[str], ids: Sequence[str] | None = None, versions: Sequence[int | None] | None = None
) -> dedup.Clusters:
    ids = ids or [f"2001.{number:05d}" for number in range(len(texts))]
    signatures = np.array([dedup.sign(text) for text in texts], dedup.SIGNATURE)
    return dedup.cluster(signatures, ids, versions or [None] * len(texts), texts.__getitem__)


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Let $x \\in \\mathbf{R}$.", "let x in r"),
        ("\\begin{theorem}[Main]\\label{thm:a} Each\n\ngraph\\end{theorem}", "main thm a each graph"),
        ("\\section*{Introduction} We  show", "introduction we show"),
        ("“ﬁnite” groups — of order 𝑛²", "finite groups of order n2"),
        ("Straße, ÉTALE…", "strasse étale"),
        ("a<b", "a b"),
        ("\\beginning is no layout command", "beginning is no layout command"),
        ("", ""),
        ("$$ \\{ \\} $$", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert dedup.normalised_text(text) == words
    assert len(dedup.word_hashes(text)) == len(words.split())


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_hashes_are_those_of_the_normalised_words(text: str) -> None:
    words = dedup.normalised_text(text).split(" ")
    apart = [dedup.word_hashes(word) for word in words]
    np.testing.assert_array_equal(dedup.word_hashes(text), np.concatenate(apart))


def test_long_texts_are_hashed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(random_words(random.Random(1), 3000)) + " é’" + "ü" * 500
    whole = dedup.word_hashes(text)
    monkeypatch.setattr(hashed_words, "BLOCK_BYTES", 200)
    assert dedup.normalised_text(text).split()[:3000] == text.split()[:3000]
    np.testing.assert_array_equal(dedup.word_hashes(text)[:3001], whole[:3001])


def test_distinct_words_have_distinct_hashes() -> None:
    words = [f"{a}{number}" for a in ("x", "ab", "ba", "") for number in range(30_000)]
    hashes = dedup.word_hashes(" ".join(words))
    assert len(np.unique(hashes)) == len(set(words))
    assert len(np.unique(hashes & np.uint64(0xFFFFFFFF))) > 0.999 * len(words)


# Signatures


@pytest.mark.parametrize("num_words", [1, 4, 6, 30, 200, 2000])
def test_estimates_are_unbiased_at_any_length(num_words: int) -> None:
    rng = random.Random(num_words)
    errors = []
    for _ in range(60):
        words = [f"{rng.getrandbits(40):x}" for _ in range(num_words)]
        other = words[: max(3 * num_words // 4, 1)] + [f"{rng.getrandbits(40):x}" for _ in range(num_words // 8)]
        left, right = (shingle_set(" ".join(part)) for part in (words, other))
        estimate = dedup.estimated_jaccard(dedup.minhash_slots(left), dedup.minhash_slots(right))
        errors.append(float(estimate) - dedup.jaccard(left, right))
    assert abs(np.mean(errors)) < 4 * 0.045 / 60**0.5
    assert np.std(errors) < 0.06


def test_jaccard_is_that_of_plain_sets() -> None:
    rng = random.Random(2)
    for num_edits in (0, 1, 5, 40):
        words = random_words(rng, 300)
        left, right = " ".join(words), " ".join(edited(rng, words, num_edits))
        sets = [shingle_set(text) for text in (left, right)]
        assert dedup.jaccard(*sets) == pytest.approx(plain_jaccard(left, right))


def test_known_words_need_not_be_hashed_again() -> None:
    hashes = dedup.word_hashes(PAPER)
    assert dedup.sign("", hashes) == dedup.sign(PAPER)
    np.testing.assert_array_equal(dedup.leak_sample("", hashes), dedup.leak_sample(PAPER))


def test_signatures_go_into_datasketch() -> None:
    from datasketch import MinHashLSH

    rng = random.Random(3)
    words = random_words(rng, 500)
    texts = [" ".join(words), " ".join(edited(rng, words, 2)), " ".join(random_words(rng, 500))]
    signatures = [dedup.sign(text) for text in texts]
    first, second, third = map(dedup.to_datasketch, signatures)
    assert first.jaccard(second) == pytest.approx(
        float(dedup.estimated_jaccard(signatures[0]["slots"], signatures[1]["slots"]))
    )
    lsh = MinHashLSH(threshold=0.8, num_perm=dedup.NUM_PERM)
    lsh.insert("second", second)
    lsh.insert("third", third)
    assert lsh.query(first) == ["second"]


# Clusters


def brute_force(
    texts: Sequence[str], ids: Sequence[str], versions: Sequence[int]
) -> tuple[dict[str, str], dict[str, str]]:
    """The rule of the module's docstring, word by word, over all pairs: id -> id kept for it; kept id -> its cluster's first."""
    words = [text.split() for text in texts]

    def similar(left: int, right: int) -> bool:
        return plain_jaccard(texts[left], texts[right]) >= 0.8

    order = sorted(range(len(texts)), key=lambda i: (-versions[i], -len(words[i]), dedup.id_order(ids[i])))
    kept: list[int] = []
    kept_for: dict[str, str] = {}
    for number in order:
        better = next((other for other in kept if similar(other, number)), None)
        if better is None:
            kept.append(number)
        kept_for[ids[number]] = ids[number if better is None else better]
    first = {
        ids[one]: min(
            (ids[other] for other in range(len(texts)) if other == one or similar(one, other)), key=dedup.id_order
        )
        for one in kept
    }
    return kept_for, first


def test_clusters_are_those_of_brute_force_in_any_order() -> None:
    rng = random.Random(4)
    texts, ids, versions = [], [], []
    for family in range(30):
        words = random_words(rng, rng.randint(60, 200))
        for _ in range(rng.choice((1, 1, 3, 8))):
            texts.append(" ".join(edited(rng, words, rng.choice((0, 1, 2, 4, 8)))))
            ids.append(
                f"{rng.randint(1, 20):02d}{rng.randint(1, 12):02d}.{len(ids):05d}" if family % 4 else f"web-{len(ids)}"
            )
            versions.append(rng.randint(1, 3))
    kept_for, first = brute_force(texts, ids, versions)
    assert 30 <= len(first) < len(texts) - 20, "the test needs duplicates"
    for _ in range(3):
        order = rng.sample(range(len(texts)), len(texts))
        shuffled = [ids[i] for i in order]
        clusters = clusters_of([texts[i] for i in order], shuffled, [versions[i] for i in order])
        assert {shuffled[i]: shuffled[k] for i, k in enumerate(clusters.duplicate_of)} == kept_for
        assert {shuffled[i]: shuffled[clusters.first[i]] for i in np.flatnonzero(clusters.kept)} == first


PAPER = " ".join(random_words(random.Random(5), 400))
REVISED = " ".join(edited(random.Random(6), PAPER.split(), 8))


@pytest.mark.parametrize(
    ("papers", "kept"),
    [
        ([("2001.00001", 1, PAPER), ("2001.00002", 2, REVISED)], "2001.00002"),  # newest version
        (
            [("2001.00001", 1, PAPER), ("2001.00002", 1, REVISED + " and then some more words")],
            "2001.00002",
        ),  # then longest
        ([("2001.00002", None, PAPER), ("math/9901001", None, PAPER)], "math/9901001"),  # then smallest id, by date
        ([("web page", None, PAPER), ("2001.00002", None, PAPER)], "2001.00002"),  # arXiv before others
        ([("2001.00003", 2, PAPER), ("2001.00001", 1, REVISED), ("2001.00002", 1, REVISED)], "2001.00003"),
    ],
)
def test_which_one_is_kept(papers: list[tuple[str, int | None, str]], kept: str) -> None:
    for order in itertools.permutations(papers):
        ids, versions, texts = zip(*order, strict=True)
        clusters = clusters_of(texts, ids, versions)
        assert [ids[i] for i in np.flatnonzero(clusters.kept)] == [kept]


def test_reasons_name_the_kept_paper() -> None:
    ids = ["2001.00001", "2001.00002", "2001.00003", "2001.00004"]
    other = " ".join(random_words(random.Random(7), 300))
    clusters = clusters_of([PAPER, PAPER + ".", REVISED, other], ids, [2, 1, 1, 1])
    first, exact, near, alone = (clusters.rejection(number, ids) for number in range(4))
    assert first is None
    assert alone is None
    assert exact is not None
    assert (exact.reason, exact.detail) == ("exact-duplicate", "the words of 2001.00001")
    assert near is not None
    assert near.reason == "near-duplicate"
    assert re.fullmatch(r"Jaccard 0\.[89]\d\d with 2001\.00001", near.detail)


def test_an_exact_copy_of_a_dropped_paper_is_a_near_duplicate() -> None:
    """It has not the words of a kept paper, so it may not say so."""
    ids = ["2001.00001", "2001.00002", "2001.00003"]
    clusters = clusters_of([PAPER, REVISED, REVISED], ids, [2, 1, 1])
    assert [clusters.rejection(i, ids).reason for i in (1, 2)] == ["near-duplicate", "near-duplicate"]  # type: ignore[union-attr]
    assert clusters.jaccard[1] == clusters.jaccard[2] < 1


def test_nothing_is_dropped_on_an_estimate() -> None:
    """Pairs whose real similarity is just below the threshold stay, whatever their signatures say."""
    rng = random.Random(8)
    texts = []
    for _ in range(40):
        words = random_words(rng, 300)
        other = edited(rng, words, 9)
        if 0.7 < plain_jaccard(" ".join(words), " ".join(other)) < 0.8:
            texts += [" ".join(words), " ".join(other)]
    assert len(texts) > 20
    assert clusters_of(texts).kept.all()


LAYOUT = """\\section{{Introduction}}
{first}

\\begin{{theorem}}\\label{{thm:main}} {second} \\end{{theorem}}
\\begin{{proof}} {third} \\end{{proof}}
"""
OTHER_LAYOUT = """\\section*{{\\textbf{{INTRODUCTION}}}}
{first}\\par\\noindent
\\begin{{thm}} {second} \\end{{thm}} \\medskip
\\textit{{Proof.}} {third} \\hfill $\\square$ \\newpage
"""


def layouts() -> tuple[str, str]:
    parts = {name: " ".join(random_words(random.Random(name), 90)) for name in ("first", "second", "third")}
    return LAYOUT.format(**parts), OTHER_LAYOUT.format(**parts)


def web_page() -> str:
    """A paper as a web page would give it: other punctuation, Unicode, a menu above and a footer below."""
    return (
        "Home | About | Contact\n\n"
        + PAPER.capitalize().replace(" ka ", " “ka” — ")
        + "\n\n© The authors. All rights reserved."
    )


@pytest.mark.parametrize(
    "pair", [layouts(), (PAPER, REVISED), (PAPER, web_page())], ids=["layouts", "versions", "web page"]
)
def test_one_paper_in_two_forms_is_found(pair: tuple[str, str]) -> None:
    assert clusters_of(pair).kept.sum() == 1


def test_a_substantial_revision_is_kept() -> None:
    new_section = " ".join(random_words(random.Random(9), 130))
    assert clusters_of([PAPER, PAPER + " " + new_section]).kept.all()


def test_empty_and_tiny_texts() -> None:
    clusters = clusters_of(["", "one", "one two", "ONE, two.", ""])
    np.testing.assert_array_equal(clusters.duplicate_of, [0, 1, 2, 2, 0])
    assert len(clusters_of([]).kept) == 0


def test_a_large_family_is_found_without_comparing_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "BUCKET_BEST", 4)
    rng = random.Random(10)
    texts = [" ".join(edited(rng, PAPER.split(), 2)) for _ in range(120)]
    reads: list[int] = []

    def text_of(index: int) -> str:
        reads.append(index)
        return texts[index]

    signatures = np.array([dedup.sign(text) for text in texts], dedup.SIGNATURE)
    clusters = dedup.cluster(signatures, [f"2001.{i:05d}" for i in range(120)], [1] * 120, text_of)
    assert clusters.kept.sum() == 1
    assert len(reads) < 120 * 4


@pytest.mark.parametrize(
    "ids",
    [
        ["hep-th/9901001", "math/0003005", "cs/0012001", "0704.0001", "1412.9999", "1501.00001", "a thesis", "web-1"],
    ],
)
def test_ids_in_the_order_of_their_dates(ids: list[str]) -> None:
    assert sorted(random.Random(0).sample(ids, len(ids)), key=dedup.id_order) == ids


# Split


def test_split_takes_the_share_and_depends_on_the_id_alone() -> None:
    sides = [dedup.split_of(f"2001.{number:05d}", 0.05) for number in range(20_000)]
    assert 0.045 < sides.count("val") / len(sides) < 0.055
    assert {dedup.split_of("x", 0.0), dedup.split_of("x", 1.0)} == {"train", "val"}
    growing = [
        {number for number in range(2000) if dedup.split_of(str(number), frac) == "val"} for frac in (0.01, 0.1, 0.5)
    ]
    assert growing[0] < growing[1] < growing[2]


def test_adding_papers_moves_none_and_splits_no_pair() -> None:
    """Papers of later months, new versions and near duplicates of old ones among them: each old text stays on its side."""
    rng = random.Random(11)
    families = [random_words(rng, 150) for _ in range(60)]
    texts = {
        f"{10 + i % 5:02d}01.{i:05d}": " ".join(families[i % 60])
        if i < 60
        else " ".join(edited(rng, families[i % 60], 2))
        for i in range(90)
    }
    later = {f"2003.{i:05d}": " ".join(edited(rng, families[i % 60], 2)) for i in range(120)}

    def sides(papers: dict[str, str]) -> dict[str, str]:
        ids = list(papers)
        clusters = clusters_of(list(papers.values()), ids, [2 if name.startswith("2003") else 1 for name in ids])
        return {ids[i]: dedup.split_of(ids[clusters.first[i]], 0.5) for i in range(len(ids))}

    before, after = sides(texts), sides(texts | later)
    assert set(before.values()) == {"train", "val"}
    assert {name: after[name] for name in before} == before
    for number in range(60):
        family = {after[name] for name in after if int(name.split(".")[1]) % 60 == number}
        assert len(family) == 1


# Leaks


def test_leak_is_the_share_of_val_found_in_train() -> None:
    rng = random.Random(12)
    shared, own, train = ([f"{rng.getrandbits(40):x}" for _ in range(20_000)] for _ in range(3))
    val = [" ".join(shared), " ".join(own), " ".join(shared[:9_000] + own[:11_000])]
    samples = [dedup.leak_sample(text) for text in val]
    offsets = np.cumsum([0] + [len(sample) for sample in samples])
    found = dedup.leak(
        [dedup.leak_sample(" ".join(train)), dedup.leak_sample(" ".join(shared))], np.concatenate(samples), offsets
    )
    assert found.overlap == pytest.approx([1, 0, 0.45], abs=0.12)
    assert found.sentence().startswith("leak check: of 3 val documents 1 share")
    assert 200 < len(samples[0]) < 430, "one 13-gram in 64"


def test_leak_without_val_or_train() -> None:
    nothing = np.zeros(0, np.uint64)
    assert dedup.leak([nothing], nothing, np.zeros(1, np.int64)).sentence().startswith("leak check: of 0 val documents")
    assert dedup.leak([], dedup.leak_sample(PAPER), np.array([0, len(dedup.leak_sample(PAPER))])).overlap.tolist() == [
        0.0
    ]


# Contamination

QUESTION = "A farmer sells seven baskets of ripe apples each morning and three baskets of pears. How many baskets in nine mornings?"
SHORT_QUESTION = "How many primes lie strictly between fifty and eighty?"
FORMS: dict[str, object] = {
    "gsm8k": {"question": QUESTION, "answer": "#### 90"},
    "math": {"context": QUESTION, "answer": "90", "category": "algebra"},
    "math as published": {"problem": QUESTION, "solution": "90", "level": "Level 1"},
    "arc": {"choices": ["80", "90"], "query": "Question: " + QUESTION, "gold": 1},
    "boolq": {"query": f"Passage: {QUESTION}\nQuestion: is it ninety?\nAnswer:", "gold": 1},
    "winogrande": {"context_options": [QUESTION[:60], QUESTION[:59] + "X"], "continuation": QUESTION[60:], "gold": 0},
}


def benchmark(folder: Path, *records: object, name: str = "bench.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
def test_benchmark_forms(record: object, tmp_path: Path) -> None:
    index = dedup.BenchmarkIndex.build([benchmark(tmp_path, {"question": "unrelated " * 20}, record)])
    found = index.check(f"{PAPER}\n\n{QUESTION}\n\n{PAPER}")
    assert found is not None
    assert (found.reason, found.detail) == ("contaminated", "holds a question of bench.jsonl:2")
    assert index.check(PAPER) is None


@pytest.mark.parametrize("write", [lambda p, t: p.write_text(t), lambda p, t: p.write_bytes(gzip.compress(t.encode()))])
@pytest.mark.parametrize(
    "as_text", [json.dumps, lambda records: "\n".join(map(json.dumps, records))], ids=["array", "lines"]
)
def test_benchmark_files(
    tmp_path: Path, write: Callable[[Path, str], object], as_text: Callable[[object], str]
) -> None:
    path = tmp_path / "questions"
    write(path, as_text([{"question": QUESTION}, {"question": SHORT_QUESTION}]))
    assert [name for name, _ in dedup.benchmark_questions(path)] == ["questions:1", "questions:2"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SHORT_QUESTION, True),
        (f"We ask: {SHORT_QUESTION.upper()} There are seven.", True),
        ("How many primes lie strictly between fifty and ninety?", False),
        ("How many primes lie strictly between fifty", False),
    ],
)
def test_short_questions_are_found_whole_only(text: str, found: bool, tmp_path: Path) -> None:
    longer = {"question": SHORT_QUESTION.replace("eighty?", "eighty one at most?")}
    index = dedup.BenchmarkIndex.build([benchmark(tmp_path, longer, {"question": SHORT_QUESTION})])
    assert (index.check(text) is not None) == found


@pytest.mark.parametrize(
    "question",
    [
        "What is one plus one?",
        "Compute $1+2+3+4+5+6+7+8+9+10+11+12+13+14+15$.",
        "$\\begin{pmatrix} 0 & 0 & 0 & 0 \\\\ 0 & 0 & 0 & 0 \\\\ 0 & 0 & 0 & 0 \\\\ 0 & 0 & 0 & 0 \\end{pmatrix}$",
    ],
)
def test_questions_that_say_nothing_are_not_looked_for(question: str, tmp_path: Path) -> None:
    index = dedup.BenchmarkIndex.build([benchmark(tmp_path, {"question": question})])
    assert index.check(f"{PAPER} {question} {PAPER}") is None


def test_an_index_is_saved_and_loaded(tmp_path: Path) -> None:
    index = dedup.BenchmarkIndex.build(
        [benchmark(tmp_path, {"question": QUESTION}, {"question": SHORT_QUESTION}, {"question": "Why?"})]
    )
    index.save(tmp_path / "index.npz")
    loaded = dedup.BenchmarkIndex.load(tmp_path / "index.npz")
    assert loaded.sentence() == index.sentence()
    assert loaded.sentence().startswith(
        "3 benchmark questions: 9 runs of 13 words, 1 short questions whole, 1 too short"
    )
    assert loaded.check(QUESTION) == index.check(QUESTION) is not None
    assert loaded.check(SHORT_QUESTION) == index.check(SHORT_QUESTION) is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "a"}\n{"answer": "b"}', r"record 2: a question is needed under one of question, problem"),
        ("no json", r"a benchmark is JSON lines or a JSON array of objects"),
        ("[1, 2]", r"record 1: a question is needed"),
    ],
)
def test_bad_benchmark_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        dedup.BenchmarkIndex.build([path])


def test_real_benchmarks_are_found_and_papers_are_not() -> None:
    paths = [
        need_shared("datasets", "gsm8k", "test.jsonl.gz"),
        need_shared("datasets", "benchmarks", "arc_easy.jsonl.gz"),
    ]
    index = dedup.BenchmarkIndex.build(paths)
    questions = [question for path in paths for _, question in dedup.benchmark_questions(path)]
    missed = [question for question in questions if index.check(f"{PAPER} {question} {PAPER}") is None]
    assert len(questions) == 1319 + 2376
    assert len(missed) == int(index.arrays["num_skipped"]) < 0.15 * len(questions)


# Command line


def test_command(tmp_path: Path) -> None:
    web = benchmark(
        tmp_path,
        {"id": "page", "text": web_page()},
        {"id": "quiz", "text": f"{PAPER[::-1]} {QUESTION}"},
        name="web.jsonl",
    )
    arxiv = benchmark(tmp_path, {"id": "2001.00001", "text": PAPER, "version": 2}, name="arxiv.jsonl")
    out = tmp_path / "kept.jsonl"
    bench = benchmark(tmp_path, {"question": QUESTION})
    done = run_command("data_prep/dedup.py", "--input", web, arxiv, "--out", out, "--decontaminate", bench)
    assert (done.returncode, done.stdout) == (0, "in 3, kept 1, contaminated 1, near-duplicate 1\n")
    assert out.read_text() == arxiv.read_text()
    rejects = [json.loads(line) for line in (tmp_path / "kept.rejects.jsonl").read_text().splitlines()]
    assert [(reject["id"], reject["reason"]) for reject in rejects] == [
        ("page", "near-duplicate"),
        ("quiz", "contaminated"),
    ]


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ('{"id": "a"}\n', [], "line 1: an object with strings `id` and `text` is needed"),
        ("{\n", [], "line 1: not JSON"),
        ("", ["--jaccard", "0.2"], "--jaccard 0.2: from 0.6 to 1 is needed"),
    ],
)
def test_command_with_bad_input(content: str, flags: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        dedup.main(["--input", str(path), "--out", str(tmp_path / "out.jsonl"), *flags])
    assert not (tmp_path / "out.jsonl").exists()
