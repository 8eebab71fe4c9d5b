"""The tokenizer: the same ids from every loader, every text back, control words whole, refusals in one line; and the report on it."""

import base64
import json
import random
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from data_prep import tokenizer_report, train_tokenizer
from data_prep.cli import UserError
from data_prep.token_files import check_tokenizer_fits, load_encoder, tokenizer_facts, tokenizer_fingerprint
from data_prep.train_tokenizer import (
    CHUNKS,
    SPECIAL_TOKENS,
    choose_symbols,
    count_chunks,
    fair_shares,
    main,
    sample_documents,
    train,
)
from tests.conftest import ROOT, need_shared, run_command
from tests.small_corpus import small_records, small_tokenizer, write_records

VOCAB_SIZE = 600
# What a text may be made of: LaTeX, spaces of all kinds, escapes of our own, letters of other scripts, spelled special tokens.
ODD = (
    *(
        "\\",
        "\\frac",
        "\\fra",
        "\\in",
        "\\inf",
        "\\begin{theorem}",
        "\\begin{",
        "{",
        "}",
        "_",
        "^",
        "$",
        "$$",
        "\\\\",
        "\\,",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\t",
        "\r\n",
        "\0",
        "\x7f",
        "\u00a0",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\ufffd",
        "\U0010ffff",
    ),
    *("▁", "\ue000", "\ue0001", "\ue0002", "\ue001", "é", "e\u0301", "中文", "😀", "ﬁ", "½", "٣", "0", "12", "3.14"),
    *(
        "a",
        "aa",
        "aaa",
        "ab",
        "-",
        "---",
        "of the ",
        ", and",
        "x_1",
        "<s>",
        "</s>",
        "<unk>",
        "<|im_start|>",
        "<think>",
        "<0x0A>",
    ),
)
PERIODIC = tuple(unit * count for unit in ("a", "ab", "-", "\n", "\\,", " ", "of ", "aab") for count in range(1, 20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("bpe"), VOCAB_SIZE)


@pytest.fixture(scope="module")
def unigram_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("unigram"), 470, model_type="unigram")


def load_model(folder: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def check_same_ids(folder: Path, texts: "list[str] | tuple[str, ...]", order: bool = True) -> None:
    """sentencepiece and the fast tokenizer give the same ids, and both give the text back.

    Without `order`, ids may change places: a unigram model has no preference between "\\n" "\\n\\n" and "\\n\\n" "\\n".
    """
    model, fast = load_model(folder), load_encoder(folder)
    for text in texts:
        ids = fast.encode(text, add_special_tokens=False).ids
        assert ids == model.encode(text) or (not order and sorted(ids) == sorted(model.encode(text))), text
        assert fast.decode(ids, skip_special_tokens=False) == text
        assert model.decode(ids) == text


# --- ids and losslessness ---


def test_special_tokens_have_the_first_ids(folder: Path) -> None:
    vocab = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    assert [vocab[token] for token in SPECIAL_TOKENS] == list(range(32))
    assert SPECIAL_TOKENS[:8] == ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    assert sorted(vocab.values()) == list(range(VOCAB_SIZE))
    model = load_model(folder)
    assert [model.is_control(number) for number in range(33)] == [False] + [True] * 31 + [False]
    assert (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id()) == (0, 1, 2, 3)


@pytest.mark.parametrize("kind", ["folder", "unigram_folder"])
def test_odd_strings_have_the_same_ids_and_come_back(kind: str, request: pytest.FixtureRequest) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices(ODD, k=rng.randint(1, 20))) for _ in range(2000)]
    check_same_ids(request.getfixturevalue(kind), [*texts, *ODD, *PERIODIC, ""], order=kind == "folder")


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
@example("▁ \ue000 \ue0001 ▁1")
def test_any_text_has_the_same_ids_and_comes_back(folder: Path, text: str) -> None:
    check_same_ids(folder, [text])


def test_ten_thousand_lines_of_real_latex_have_the_same_ids_and_come_back(tmp_path: Path) -> None:
    texts = []
    with tarfile.open(need_shared("corpus", "HoTT-book.tar.gz")) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.name.endswith(".tex") and (file := archive.extractfile(member)):
                texts.append(file.read().decode(errors="replace"))
    write_records(
        tmp_path / "books.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts) if text]
    )
    train([tmp_path / "books.jsonl"], tmp_path / "tokenizer", 4096)
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    assert len(lines) >= 10_000
    check_same_ids(tmp_path / "tokenizer", random.Random(0).sample(lines, 10_000))


def test_autotokenizer_reads_the_folder_as_it_is(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)  # control words are not special
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    text = "Let $\\frac{1}{2}$ ▁ be\n  given."
    ids = load_encoder(folder).encode(text, add_special_tokens=False).ids
    assert tokenizer(text).input_ids == [1, *ids]
    assert tokenizer.decode(ids) == tokenizer.decode([1, *ids], skip_special_tokens=True) == text
    assert tokenizer.encode("</s>", add_special_tokens=False) == [2]
    assert 2 not in tokenizer.encode("</s>", add_special_tokens=False, split_special_tokens=True)


def test_the_chat_template_marks_what_the_assistant_says(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "It is 2."}]
    assert (
        tokenizer.apply_chat_template(chat, tokenize=False)
        == "<s><|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nIt is 2.<|im_end|>\n"
    )
    coded = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    said = [number for number, mask in zip(coded["input_ids"], coded["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "It is 2.<|im_end|>"
    assert coded["input_ids"].count(1) == 1
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")


# --- how a text is cut ---


def pieces(folder: Path, text: str) -> list[str]:
    return [piece.replace("▁", " ") for piece in load_encoder(folder).encode(text, add_special_tokens=False).tokens]


@pytest.mark.parametrize("word", ["\\frac", "\\alpha", "\\begin{theorem}", "\\mathbb{R}", "\\section{Introduction}"])
@pytest.mark.parametrize("after", ["", "{", "{x}", "_n", "^2", " is", "(", "\\frac", "1", "\n", "$", ","])
def test_a_common_control_word_is_one_piece_that_takes_nothing_along(folder: Path, word: str, after: str) -> None:
    assert pieces(folder, word + after)[0] == word
    assert pieces(folder, f"so ${word}{after}").count(word) >= 1


def test_digits_stand_alone(folder: Path) -> None:
    assert pieces(folder, "1729") == ["1", "7", "2", "9"]
    learned = load_encoder(folder).get_vocab()
    assert not [
        piece for piece in learned if len(piece) > 1 and any(map(str.isdigit, piece)) and not piece.startswith("<")
    ]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("We have, for every $x_n$", ["We have, for every", " $x", "_n", "$"]),
        ("(\\alpha_{12}+y)\\\\\nso", ["(", "\\alpha", "_{", "1", "2", "}+y", ")\\\\\n", "so"]),
        ("$x_{n} = x_{ij}$", ["$x", "_{n", "} = x", "_{", "ij", "}$"]),
        ("= \\pi - 2 + a, b", ["= ", "\\pi", " - ", "2", " + a", ", b"]),
        ("$ is in (a set) \\\\alpha", ["$", " is in", " (a", " set", ") \\\\", "alpha"]),
        ("\\begin{align*}\n    x", ["\\begin{align*}", "\n", "   ", " x"]),
        ("don't well-known; it", ["don't well-known", ";", " it"]),
        ("\\\\alpha \\, b", ["\\\\", "alpha", " \\, b"]),
        ("\\ \t7", ["\\", " ", "\t", "7"]),
    ],
)
def test_chunks(text: str, chunks: list[str]) -> None:
    assert CHUNKS["phrases"].findall(text) == chunks


def test_words_do_not_join_if_asked() -> None:
    assert CHUNKS["words"].findall("We have, for x") == ["We", " have", ",", " for", " x"]


@given(st.text(alphabet=st.sampled_from("ab\\{}_^$ ,'-\n\t1é▁"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_chunks_hold_all_of_a_text(text: str) -> None:
    assert all("".join(pattern.findall(text)) == text for pattern in CHUNKS.values())


def test_words_of_many_documents_come_before_words_of_many_uses() -> None:
    records = small_records(100)
    records[0]["text"] += "\\mymacro \\cite{me} " * 500
    counts = count_chunks([record["text"] for record in records], "phrases", 10**6)
    assert counts.chunks["\\mymacro"] > max(counts.chunks["\\frac"], counts.chunks["\\alpha"])
    chosen = choose_symbols(counts, limit=100)
    assert set(chosen[:5]) == {"\\begin", "\\end", "\\begin{theorem}", "\\end{theorem}", "\\section"}
    assert chosen[-2:] == ["\\mymacro", "\\cite"] or chosen[-2:] == ["\\cite", "\\mymacro"]
    assert "\\cite{me}" not in chosen  # an argument in one document
    assert choose_symbols(counts, limit=5) == chosen[:5]


def test_a_piece_may_end_in_a_space_before_a_control_word_or_digit(folder: Path) -> None:
    assert pieces(folder, "$x = \\alpha$")[-3:] == [" = ", "\\alpha", "$"]
    assert pieces(folder, "u(0) &= 1")[-2:] == [") &= ", "1"]
    learned = [piece.replace("▁", " ") for piece in load_encoder(folder).get_vocab()]
    ending = [piece for piece in learned if piece.endswith(" ") and not piece.isspace()]
    assert ending
    assert not [piece for piece in ending if piece[-2].isalnum()]
    assert not [piece for piece in learned if "\ue001" in piece]
    assert pieces(folder, "a\tb")[1] == "\t"


def test_no_piece_goes_on_after_a_letter_but_with_words(folder: Path) -> None:
    for piece in load_encoder(folder).get_vocab():
        text = piece.replace("▁", " ")
        if (text.startswith("\\") and text[1:2].isalpha()) or text.startswith("<"):
            continue  # a control word, or a special token
        for place, char in enumerate(text[:-1]):
            if char.isalpha():
                assert text[place + 1].isalpha() or text[place + 1] in " ,'’-", piece


# --- the sample ---


def test_shares_are_as_even_as_sizes_allow() -> None:
    assert fair_shares({"a": 10, "b": 100, "c": 100}, 90) == {"a": 10, "b": 40, "c": 40}
    assert fair_shares({"a": 10, "b": 20}, 100) == {"a": 10, "b": 20}


def test_a_sample_is_even_bounded_and_the_same_each_time(tmp_path: Path) -> None:
    records = [
        {"id": str(number), "text": f"{category} {number:06d}" + "x" * 90, "categories": [category], "year": 2005}
        for category, count in (("math.AG", 900), ("cs.LG", 90), ("hep-th", 10))
        for number in range(count)
    ]
    path = write_records(tmp_path / "many.jsonl", records)
    texts = list(sample_documents([path], 30_000, seed=0))
    drawn = Counter(text.split()[0] for text in texts)
    assert drawn["hep-th"] == 10
    assert 75 <= drawn["cs.LG"] <= 90
    assert 140 <= drawn["math.AG"] <= 210
    assert sum(len(text) for text in texts) <= 30_000
    assert texts == list(sample_documents([path], 30_000, seed=0))
    assert texts != list(sample_documents([path], 30_000, seed=1))
    assert len(list(sample_documents([path], 10**9, seed=0))) == 1000


def test_counting_is_bounded(tmp_path: Path) -> None:
    texts = [record["text"] for record in small_records(200)]
    free, bounded = count_chunks(texts, "phrases", 10**6), count_chunks(texts, "phrases", 300)
    assert len(free.chunks) > 1000
    assert len(bounded.chunks) <= 300
    assert bounded.documents == free.documents
    assert bounded.chunks[", $x"] >= free.chunks[", $x"] > 0


def test_the_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = small_tokenizer(tmp_path, VOCAB_SIZE)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
        assert b".tsv" not in (again / name).read_bytes()  # no name of a temporary file


# --- the model's config ---


def config_of(folder: Path, **changes: Any) -> dict[str, Any]:
    config = {"model_type": "llama", "vocab_size": 600, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    return config | changes


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 32_768}, {"eos_token_id": [2, 5]}, {"pad_token_id": None}])
def test_a_config_that_fits(folder: Path, changes: dict[str, Any]) -> None:
    check_tokenizer_fits(folder, config_of(folder, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 599}, r"has 600 ids, the model's vocab_size is 599; write .*--update-config"),
        ({"vocab_size": None}, r"vocab_size is None"),
        ({"bos_token_id": 100_000}, r"says bos_token_id 100000, tokenizer .* has 1"),
        ({"eos_token_id": 100_001}, r"says eos_token_id 100001, tokenizer .* has 2"),
        ({"eos_token_id": None}, r"says eos_token_id None, tokenizer .* has 2"),
        ({"pad_token_id": 2}, r"says pad_token_id 2, tokenizer .* has 3"),
        ({"model_type": "gpt2"}, r"says model_type 'gpt2'; 'llama' is needed"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_both_values(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check_tokenizer_fits(folder, config_of(folder, **changes))


def test_update_config_writes_four_values_and_keeps_the_rest(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    shutil.copyfile(ROOT / "config.json", path)
    before = json.loads(path.read_text())
    assert main(["--keep", "--out", str(folder), "--pad-to", "640", "--update-config", str(path)]) == 0
    after = json.loads(path.read_text())
    assert after == before | {"vocab_size": 640, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    assert list(after) == list(before)
    with pytest.raises(UserError, match=r"has 600 ids, the model's vocab_size is 100"):
        main(["--keep", "--out", str(folder), "--pad-to", "100", "--update-config", str(path)])


def test_the_published_config_agrees_with_the_special_ids() -> None:
    config = json.loads((ROOT / "config.json").read_text())
    ids = [SPECIAL_TOKENS.index(token) for token in ("<s>", "</s>", "<pad>")]
    assert [config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]] == ids
    assert config["vocab_size"] == train_tokenizer.make_parser().get_default("vocab_size")


def test_the_fingerprint_follows_ids_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    whole = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps(whole))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "", "model_max_length": 7}))
    assert tokenizer_fingerprint(copy) == tokenizer_fingerprint(folder)
    for change in ({"bos_token": "</s>"}, {"eos_token": {"content": "<|im_end|>"}}):
        (copy / "tokenizer_config.json").write_text(json.dumps(config | change))
        assert tokenizer_fingerprint(copy) != tokenizer_fingerprint(folder)
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    for part in ("merges", "vocab"):
        model = dict(whole["model"])
        model[part] = model[part][::-1] if part == "merges" else model[part] | {"new": 600}
        (copy / "tokenizer.json").write_text(json.dumps(whole | {"model": model}))
        assert tokenizer_fingerprint(copy) != tokenizer_fingerprint(folder)


def test_another_makers_tokenizer_can_be_used(tmp_path: Path) -> None:
    foreign = Tokenizer(models.BPE({"<bos>": 0, "<eos>": 1, "a": 2, "b": 3, "ab": 4}, [("a", "b")], unk_token="<bos>"))
    foreign.decoder = decoders.Fuse()
    foreign.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}')
    assert tokenizer_facts(tmp_path)[:4] == (5, 0, 1, None)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    with pytest.raises(UserError, match=r"names bos_token None and eos_token '<eos>'; both must be tokens"):
        tokenizer_facts(tmp_path)


# --- refusals ---


def test_more_pieces_than_possible_says_how_many_are(tmp_path: Path) -> None:
    path = write_records(tmp_path / "small.jsonl", small_records(10))
    with pytest.raises(
        UserError, match=r"the corpus has [\d,]+ distinct pieces, --vocab-size asks for 20,000; .*--vocab-size \d+"
    ) as error:
        train([path], tmp_path, 20_000)
    possible = int(str(error.value).split("or --vocab-size ")[1].split(" ")[0])
    assert not (tmp_path / "tokenizer.json").exists()
    train([path], tmp_path, possible)
    assert tokenizer_facts(tmp_path).num_ids == possible


def test_fewer_pieces_than_needed_says_how_many_are(tmp_path: Path) -> None:
    path = write_records(tmp_path / "small.jsonl", small_records(10))
    with pytest.raises(UserError, match=r"--vocab-size 300 has no room for the (\d+) pieces that are always there"):
        train([path], tmp_path, 300)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no text to learn from"),
        ('{"id": "1"}\n', "record 1: a record with a non-empty text is needed"),
        ('{"id": "1", "text": "a \\ud800"}\n', "record 1: character 2 of its text is a lone surrogate"),
        ('{"id": "1", "te\n', "line 1: not JSON"),
    ],
)
def test_bad_input_is_named_and_the_old_tokenizer_stays(folder: Path, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    shutil.copytree(folder, tmp_path / "tokenizer")
    with pytest.raises(UserError) as error:
        train([tmp_path / "in.jsonl"], tmp_path / "tokenizer", 1000)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert tokenizer_fingerprint(tmp_path / "tokenizer") == tokenizer_fingerprint(folder)


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.tex").write_bytes(b"caf\xe9")
    for words, flags in (
        ("nothing.jsonl does not exist", ["--input", tmp_path / "nothing.jsonl"]),
        ("latin.tex is not UTF-8", ["--input", tmp_path / "latin.tex"]),
        ("--pad-to 100 is below --vocab-size 102400", ["--pad-to", "100"]),
        ("--max-bytes 0 must be above 0", ["--max-bytes", "0"]),
    ):
        shown = run_command("data_prep/train_tokenizer.py", "--out", tmp_path / "out", *flags)
        assert (shown.returncode, shown.stdout) == (2, "")
        assert words in shown.stderr
        assert len(shown.stderr.strip().splitlines()) == 1


# --- the report ---


def test_the_report_counts_what_it_says(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.tex"
    text.write_text("Let $\\alpha_{12}$ be \\frac{}.\n" * 50)
    assert tokenizer_report.main([str(folder), "--text", str(text), "--json", str(tmp_path / "report.json")]) == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["tokenizer"]
    ids = load_encoder(folder).encode(text.read_text(), add_special_tokens=False).ids
    formula = load_encoder(folder).encode("$\\alpha_{12}$", add_special_tokens=False).tokens
    assert figures["num_pieces"] == VOCAB_SIZE
    assert figures["bytes_per_token"] == pytest.approx(len(text.read_bytes()) / len(ids))
    assert figures["tokens_per_formula"] == len(formula)
    assert figures["tokens_per_number"] == 2
    assert (figures["tokens_per_control_word"], figures["whole_control_words"], figures["glued_frac"]) == (1, 2, 0)
    shown = capsys.readouterr().out
    assert f"tokenizer  {VOCAB_SIZE:>6}" in shown
    assert "tokenizer: of 50 lines 0 have other ids by its tokenizer.model, 0 do not come back" in shown


def test_the_report_finds_a_folder_whose_parts_differ(folder: Path, unigram_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mixed")
    shutil.copyfile(unigram_folder / "tokenizer.model", tmp_path / "mixed" / "tokenizer.model")
    tokenizer = tokenizer_report.load_tokenizer(tmp_path / "mixed")
    assert tokenizer_report.check_model(tokenizer, tmp_path / "mixed", ["Let x be given.\n\nThen $y$."]) == (2, 2, 0)


def test_the_report_reads_tiktoken_vocabularies_and_draws(folder: Path, tmp_path: Path) -> None:
    ranks = [bytes([byte]) for byte in range(256)] + [b"al", b"ph", b"alph", b"alpha", b" \\", b"\xc3\xa9"]
    lines = [base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(ranks)]
    (tmp_path / "other.tiktoken").write_bytes(b"".join(lines))
    (tmp_path / "text.tex").write_text("so \\alpha é 中 of $x^2$ or \\(y\\) \\$5\n")
    tokenizer = tokenizer_report.load_tokenizer(tmp_path / "other.tiktoken")
    assert tokenizer.encode("\\alpha").ids == [ord("\\"), 259]
    flags = ["--text", tmp_path / "text.tex", "--json", tmp_path / "report.json", "--picture", tmp_path / "report.png"]
    assert tokenizer_report.main([*map(str, (tmp_path / "other.tiktoken", folder, *flags))]) == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["other"]
    assert figures["fallback_frac"] > 0
    assert figures["tokens_per_formula"] == 5
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_refuses_what_it_cannot_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tex").write_text("text")
    (tmp_path / "bad.tiktoken").write_text("!!! 1\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    for path, words in (
        (tmp_path / "nothing", "is no folder with a tokenizer.json"),
        (tmp_path / "bad.tiktoken", "line 1: a piece in base64 and its rank are needed"),
        (tmp_path / "tokenizer.json", "holds no model with a vocabulary"),
    ):
        with pytest.raises(UserError, match=words):
            tokenizer_report.main([str(path), "--text", str(tmp_path / "text.tex")])
    with pytest.raises(UserError, match="two tokenizers have the same name"):
        tokenizer_report.main([str(folder), str(folder), "--text", str(tmp_path / "text.tex")])


def test_spans_are_found_where_latex_has_them() -> None:
    text = r"a \$5 $x$ \[y\] \begin{align}z&\alpha\end{align} \\alpha 3.14"
    spans = tokenizer_report.find_spans(text)
    assert [text[start:end] for start, end in spans.formulas] == ["$x$", r"\[y\]", r"\begin{align}z&\alpha\end{align}"]
    assert [text[start:end] for start, end in spans.control_words] == [r"\begin", r"\alpha", r"\end"]
    assert [text[start:end] for start, end in spans.numbers] == ["5", "3.14"]
