"""Packing and reading of tokens: nothing lost, nothing twice, the same order for every number of ranks, refusals in one line."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import pack_tokens, token_files
from data_prep.cli import UserError
from data_prep.pack_tokens import Shard, cut_shards, main, pack
from data_prep.records import training_text
from data_prep.token_files import (
    TokenSequences,
    can_overlap,
    load_encoder,
    open_split,
    packing_encoder,
    permute,
    prose_text,
    tokenizer_facts,
)
from tests.conftest import run_command
from tests.small_corpus import small_records, small_tokenizer, write_records

TRAIN, VAL = small_records(60, seed=1), small_records(8, seed=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("small"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_records(tmp_path / "data" / "train.jsonl", TRAIN)
    write_records(tmp_path / "data" / "val.jsonl", VAL)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    write_records(folder / "train.jsonl", TRAIN)
    pack(folder, tokenizer)
    return folder


def contents(dataset: Path) -> dict[str, bytes]:
    """Every file of the packed tokens with its bytes."""
    return {path.name: path.read_bytes() for path in sorted((dataset / "tokens").iterdir())}


def expected_stream(records: list[dict[str, object]], tokenizer: Path, source: str) -> list[int]:
    """BOS + text + EOS of the records of a source, one after the other."""
    facts, encoder = tokenizer_facts(tokenizer), load_encoder(tokenizer)
    texts = [training_text(record) for record in records if record["source"] == source]
    ids = [encoder.encode(text, add_special_tokens=False).ids for text in texts]
    return [number for row in ids for number in (facts.bos_id, *row, facts.eos_id)]


# --- what is packed ---


def test_each_source_is_one_stream_of_whole_documents(dataset: Path, tokenizer: Path) -> None:
    pack(dataset, tokenizer)
    files = open_split(dataset, "train", tokenizer=tokenizer)
    assert [file.path.name for file in files] == ["train-arxiv.bin", "train-web.bin"]
    for file in files:
        assert file.tokens.tolist() == expected_stream(TRAIN, tokenizer, file.source)
        assert file.starts[-1] == file.header.num_tokens == len(file.tokens)
        assert (file.tokens[file.starts[:-1]] == file.header.bos_id).all()
        assert (file.tokens[file.starts[1:] - np.uint64(1)] == file.header.eos_id).all()
    assert [file.header.num_documents for file in open_split(dataset, "val")] == [6, 2]


def test_text_that_spells_special_tokens_stays_text(dataset: Path, tokenizer: Path) -> None:
    record = TRAIN[0] | {"text": "The end is </s>, then <s> and <|im_start|>, or <think>."}
    write_records(dataset / "train.jsonl", [record])
    pack(dataset, tokenizer)
    tokens = open_split(dataset, "train")[0].tokens
    assert (tokens >= 32).sum() == len(tokens) - 2
    assert load_encoder(tokenizer).decode(tokens[1:-1].tolist(), skip_special_tokens=False) == training_text(record)


def test_prose_is_a_part_of_its_own(dataset: Path, tokenizer: Path) -> None:
    pack(dataset, tokenizer, parts=["text", "prose"])
    assert [file.path.name for file in open_split(dataset, "train")] == ["train-arxiv.bin", "train-web.bin"]
    prose = open_split(dataset, "train", part="prose")
    assert [file.path.name for file in prose] == ["train-arxiv.prose.bin", "train-web.prose.bin"]
    first = prose[0].tokens[1 : int(prose[0].starts[1]) - 1].tolist()
    assert (
        load_encoder(tokenizer).decode(first)
        == prose_text(TRAIN[0])
        == TRAIN[0]["text"].split("\\begin{theorem}")[0].strip()
    )


PARTS_OF_TEXT = (" ", "  ", "▁", "\ue000", "1", "2", "\\frac", "\\fra", "\\in", "</s>", "a", "the ", "\n", "é", "\0")


@given(st.lists(st.sampled_from(PARTS_OF_TEXT), max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_texts_are_packed_with_the_ids_of_the_tokenizer(tokenizer: Path, text: str) -> None:
    facts = tokenizer_facts(tokenizer)
    packed = pack_tokens.encode_documents([text], tokenizer, facts)
    assert packing_encoder(tokenizer, facts.fingerprint)[1]  # the quick way was taken
    ids = load_encoder(tokenizer).encode(text, add_special_tokens=False).ids
    assert np.frombuffer(packed.tokens, "<u4").tolist() == [facts.bos_id, *ids, facts.eos_id]


IN_WORDS = {
    "id": 600,
    "content": "",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": False,
}


@pytest.mark.parametrize(
    ("normalizer", "token"),
    [
        ({"type": "Lowercase"}, None),
        ({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}, None),
        ({"type": "Replace", "pattern": {"Regex": "a+"}, "content": "a"}, None),
        (None, {"content": "of the"}),
        (None, {"content": "ab\ue000"}),
        (None, {"content": "xyz", "normalized": True}),
        (None, {"content": "xyz", "lstrip": True}),
        (None, {"content": "xyz", "single_word": True}),
    ],
)
def test_a_normaliser_that_replacing_cannot_stand_for_stays(
    tokenizer: Path, tmp_path: Path, normalizer: "dict[str, object] | None", token: "dict[str, object] | None"
) -> None:
    shutil.copytree(tokenizer, tmp_path / "other")
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["normalizer"] = normalizer or content["normalizer"]
    content["added_tokens"] += [IN_WORDS | token] if token else []
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content))
    facts, text = tokenizer_facts(tmp_path / "other"), "Aaa of the xyz xyzz\n ab\ue000 B"
    assert packing_encoder(tmp_path / "other", facts.fingerprint)[1] == []
    packed = pack_tokens.encode_documents([text], tmp_path / "other", facts)
    ids = load_encoder(tmp_path / "other").encode(text, add_special_tokens=False).ids
    assert np.frombuffer(packed.tokens, "<u4").tolist() == [facts.bos_id, *ids, facts.eos_id]


@pytest.mark.parametrize(
    ("one", "other", "can"),
    [
        ("ab", "bc", True),
        ("bc", "ab", True),
        ("abc", "b", True),
        ("b", "abc", True),
        ("ab", "cd", False),
        ("ab", "ba", True),
        ("aab", "baa", True),
        ("abc", "bd", False),
        ("<|1|>", "\ue0001", False),
    ],
)
def test_strings_that_can_overlap(one: str, other: str, can: bool) -> None:
    assert can_overlap(one, other) is can


@pytest.mark.parametrize("shard_bytes", [1, 1000, 1 << 20])
def test_any_shards_and_processes_give_the_same_bytes(
    dataset: Path, packed: Path, tokenizer: Path, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_tokens, "SHARD_BYTES", shard_bytes)
    (dataset / "val.jsonl").unlink()
    pack(dataset, tokenizer, processes=2 if shard_bytes == 1000 else 1)
    assert contents(dataset) == contents(packed)


def test_shards_cover_every_byte_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dataset / "train.jsonl"
    for shard_bytes in (1, 17, 700, 10_000, 10**9):
        monkeypatch.setattr(pack_tokens, "SHARD_BYTES", shard_bytes)
        shards = list(cut_shards(path))
        assert shards[0].start == 0
        assert shards[-1].end == path.stat().st_size
        assert all(left.end == right.start for left, right in itertools.pairwise(shards))
        assert all(path.read_bytes()[shard.end - 1 : shard.end] == b"\n" for shard in shards)


# --- killed and started again ---


def die_after(dataset: Path, tokenizer: Path, num_shards: int) -> None:
    """In a process of its own: pack, and end as by SIGKILL when so many shards are written."""
    pack_tokens.SHARD_BYTES, pack_tokens.COMMIT_INTERVAL_S = 2000, 0.0
    add = pack_tokens.SplitWriter.add

    def add_or_die(writer: pack_tokens.SplitWriter, shard: Shard, documents: object) -> None:
        nonlocal num_shards
        num_shards -= 1
        if num_shards < 0:
            writer.outputs[pack_tokens.Key("arxiv", "text", "")].tokens.write(b"torn")
            writer.outputs[pack_tokens.Key("arxiv", "text", "")].tokens.flush()
            os._exit(9)
        add(writer, shard, documents)  # type: ignore[arg-type]

    pack_tokens.SplitWriter.add = add_or_die  # type: ignore[method-assign, assignment]
    pack(dataset, tokenizer)


@pytest.mark.parametrize("num_shards", [1, 7])
def test_a_killed_packing_goes_on_and_ends_with_the_same_bytes(
    dataset: Path, packed: Path, tokenizer: Path, num_shards: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "val.jsonl").unlink()
    child = multiprocessing.get_context("fork").Process(target=die_after, args=(dataset, tokenizer, num_shards))
    child.start()
    child.join()
    assert child.exitcode == 9
    assert not list((dataset / "tokens").glob("*.bin"))
    with pytest.raises(UserError, match=r"packing of 'train' .* was not finished; run .*pack_tokens.py"):
        open_split(dataset, "train")
    pack(dataset, tokenizer)
    assert "going on at byte" in capsys.readouterr().err
    assert contents(dataset) == contents(packed)


def test_two_packers_take_turns(dataset: Path, packed: Path, tokenizer: Path) -> None:
    (dataset / "val.jsonl").unlink()
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=pack, args=(dataset, tokenizer)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert contents(dataset) == contents(packed)


def test_a_repeated_run_does_nothing_and_a_changed_input_packs_anew(
    dataset: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(dataset, tokenizer)
    before = contents(dataset)
    pack(dataset, tokenizer)
    assert "train: packed before" in capsys.readouterr().err
    assert contents(dataset) == before
    write_records(dataset / "train.jsonl", [record for record in TRAIN if record["source"] == "arxiv"])
    pack(dataset, tokenizer)
    assert [file.source for file in open_split(dataset, "train")] == ["arxiv"]


def test_a_damaged_file_is_packed_anew_and_a_split_without_input_goes(dataset: Path, tokenizer: Path) -> None:
    pack(dataset, tokenizer)
    before = contents(dataset)
    for name in ("train-web.bin", "train-web.idx", "train-web.json"):
        (dataset / "tokens" / name).write_bytes(before[name][:-3])
        pack(dataset, tokenizer)
        assert contents(dataset) == before
    (dataset / "tokens" / "train-web.idx").unlink()
    (dataset / "val.jsonl").unlink()
    pack(dataset, tokenizer)
    assert contents(dataset) == {name: data for name, data in before.items() if not name.startswith("val")}


def test_another_tokenizer_packs_anew(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    pack(dataset, tokenizer)
    other = small_tokenizer(tmp_path, vocab_size=500)
    with pytest.raises(
        UserError, match=r"train-arxiv.bin was packed by the tokenizer \w{12}, tokenizer .* is \w{12}; pack again"
    ):
        open_split(dataset, "train", tokenizer=other)
    pack(dataset, other)
    assert open_split(dataset, "train", tokenizer=other)


# --- reading ---


@given(st.integers(1, 5000), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_permute_is_one_to_one(size: int, seed: int) -> None:
    assert sorted(permute(np.arange(size), size, seed).tolist()) == list(range(size))


def test_permute_of_many_needs_no_list_of_them() -> None:
    places = permute(np.arange(1000) + 10**11, 68_000_000_000_000, 7)
    assert len(set(places.tolist())) == 1000
    assert 0.4 < np.mean(places / 68_000_000_000_000) < 0.6


def predicted(sequences: TokenSequences, rows: range) -> "Counter[tuple[int, ...]]":
    """How often each (input, label) pair of neighbours was shown."""
    batch = sequences.rows(rows)
    return Counter(zip(batch.input_ids.ravel().tolist(), batch.labels.ravel().tolist(), strict=True))


@pytest.mark.parametrize("seq_len", [1, 7, 64, 768])
def test_every_token_is_predicted_once_an_epoch(packed: Path, seq_len: int) -> None:
    files = [numbered(file) for file in open_split(packed, "train")]
    sequences = TokenSequences(files, seq_len=seq_len, seed=3)
    for epoch in (0, 5):
        shown = predicted(sequences, range(epoch * sequences.rows_per_epoch, (epoch + 1) * sequences.rows_per_epoch))
        for file in files:
            first, size = int(file.tokens[0]), len(file.tokens)
            repeated = -size % seq_len  # what completes the file's last row
            pairs = {(first + place, first + (place + 1) % size) for place in range(size)}
            assert pairs <= shown.keys()
            twice = sum(shown[pair] - 1 for pair in pairs)
            assert twice == repeated < seq_len
    assert (
        sequences.rows(range(3)).input_ids.tolist()
        != sequences.rows(range(sequences.rows_per_epoch, sequences.rows_per_epoch + 3)).input_ids.tolist()
    )


def numbered(file: token_files.TokenFile) -> token_files.TokenFile:
    """The same file with tokens that are all different, so that a test can tell places apart."""
    offset = 10**6 if file.source == "web" else 0
    return dataclasses.replace(file, tokens=np.arange(len(file.tokens), dtype=np.uint32) + offset)


def test_rows_do_not_depend_on_ranks_or_on_what_was_asked_before(packed: Path) -> None:
    files = open_split(packed, "train")
    whole = TokenSequences(files, seq_len=32, seed=1).rows(range(100, 164))
    for ranks in (2, 4):
        for rank in range(ranks):
            part = TokenSequences(files, seq_len=32, seed=1).rows(range(100 + rank, 164, ranks))
            for name in ("input_ids", "labels", "position_ids"):
                assert (getattr(part, name) == getattr(whole, name)[rank::ranks]).all()


def test_positions_restart_at_documents_and_rows(packed: Path) -> None:
    file = open_split(packed, "train")[0]
    batch = TokenSequences([file], seq_len=200, seed=0, shuffle=False).rows(range(-(-file.header.num_tokens // 200)))
    assert batch.position_ids[0, 0] == 0
    assert (batch.position_ids[:, 0] == 0).all()
    begins = batch.input_ids == file.header.bos_id
    assert (batch.position_ids[begins] == 0).all()
    steps = np.diff(batch.position_ids, axis=1)
    assert ((steps == 1) | begins[:, 1:]).all()
    assert batch.input_ids.dtype == batch.labels.dtype == batch.position_ids.dtype == np.int64


def test_a_file_shorter_than_a_row_goes_round(packed: Path) -> None:
    file = open_split(packed, "train")[0]
    size = file.header.num_tokens
    batch = TokenSequences([file], seq_len=3 * size, seed=0).rows([0])
    assert batch.input_ids[0].tolist() == file.tokens.tolist() * 3
    assert (
        np.flatnonzero(batch.position_ids[0] == 0) == np.flatnonzero(batch.input_ids[0] == file.header.bos_id)
    ).all()


@pytest.mark.parametrize(("weight", "epochs", "passes"), [(2.0, 1, 2), (0.4, 5, 2), (1.5, 2, 3), (1.0, 1, 1)])
def test_a_weight_is_the_number_of_passes(packed: Path, weight: float, epochs: int, passes: int) -> None:
    first, second = open_split(packed, "train")
    sequences = TokenSequences([first, second], [1.0, weight], seq_len=8, seed=4)
    numbers, rows = sequences.locate(range(epochs * sequences.rows_per_epoch))
    seen = Counter(rows[numbers == 1].tolist())
    size = sequences.rows_in_file[1]
    assert abs(sum(seen.values()) - passes * size) <= epochs
    assert set(seen) == set(range(size))
    assert max(seen.values()) - min(seen.values()) <= 1
    assert Counter(rows[numbers == 0].tolist()) == dict.fromkeys(range(sequences.rows_in_file[0]), epochs)


# --- refusals ---


def one_line(message: str) -> bool:
    return len(message.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "1"}', "train.jsonl, byte 0: a record with a non-empty text is needed"),
        ('{"id": "1", "text": ""}', "a record with a non-empty text is needed"),
        ('{"id": "1", "text": 7}', "a record with a non-empty text is needed"),
        ('{"id": "1", "text": "a \\ud800 b"}', "character 2 of its text is a lone surrogate"),
        ('["text"]', "a JSON object is needed, this is list"),
        ('{"id": "1", "text": "cut', "not JSON"),
        ("", "holds no record"),
    ],
)
def test_a_bad_record_stops_with_its_place(dataset: Path, tokenizer: Path, line: str, words: str) -> None:
    (dataset / "train.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as error:
        pack(dataset, tokenizer)
    assert words in str(error.value)
    assert not list((dataset / "tokens").glob("*.bin"))
    write_records(dataset / "train.jsonl", TRAIN)
    pack(dataset, tokenizer)  # mended, it packs
    assert open_split(dataset, "train")[0].header.num_documents == 45


def test_the_command_says_what_is_wrong_in_one_line_and_exits_2(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    (dataset / "train.jsonl").write_text('{"id": "1"}\n')
    shown = run_command("data_prep/pack_tokens.py", "--dataset", dataset, "--tokenizer", tokenizer, "--processes", "2")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("pack_tokens.py: ")
    assert one_line(shown.stderr)
    assert "train.jsonl, byte 0: a record with a non-empty text is needed" in shown.stderr


def kill_self(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_named(dataset: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_tokens, "pack_shard", kill_self)
    with pytest.raises(UserError, match=r"a worker process was killed, .* start again with --processes 1, it goes on"):
        pack(dataset, tokenizer, processes=2)
    monkeypatch.undo()
    pack(dataset, tokenizer)
    assert open_split(dataset, "train")


def test_missing_things_are_named(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no train.jsonl; run data_prep/prepare_dataset.py"):
        pack(tmp_path / "nothing", tokenizer)
    with pytest.raises(UserError, match=r"has no tokenizer.json; train one"):
        pack(dataset, tmp_path)
    with pytest.raises(UserError, match=r"holds no packed tokens of 'train'"):
        open_split(tmp_path, "train")
    with pytest.raises(SystemExit) as stop:
        main(["--processes", "0"])
    assert stop.value.code == 2


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_damaged_file_is_refused(packed: Path, tmp_path: Path, suffix: str) -> None:
    shutil.copytree(packed, tmp_path / "copy")
    path = tmp_path / "copy" / "tokens" / f"train-arxiv{suffix}"
    whole = path.read_bytes()
    for data, words in (
        (whole[:-1], "it is cut short or damaged"),
        (whole[:100], "is no token file"),
        (b"x" + whole[1:], "is no token file"),
        (whole[:8] + b"\x09" + whole[9:], "is a token file of version 9"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=words):
            open_split(tmp_path / "copy", "train")
    path.write_bytes(whole[:24] + (45).to_bytes(8, "little") + whole[32:])
    if suffix == ".idx":  # as many documents as before, but another number of bytes of text
        path.write_bytes(whole[:32] + b"\x01" * 8 + whole[40:])
        with pytest.raises(UserError, match="were not written together"):
            open_split(tmp_path / "copy", "train")


def test_a_model_with_too_few_rows_is_refused(packed: Path) -> None:
    with pytest.raises(UserError, match=r"holds ids below 600, the model's vocab_size is 500"):
        open_split(packed, "train", vocab_size=500)


def test_nonsense_for_the_reader_is_refused(packed: Path) -> None:
    files = open_split(packed, "train")
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("inf")]):
        with pytest.raises(UserError, match="weight"):
            TokenSequences(files, weights, seq_len=8, seed=0)
    with pytest.raises(UserError, match="at least 1 token"):
        TokenSequences(files, seq_len=0, seed=0)


def test_the_description_says_what_was_packed(packed: Path) -> None:
    facts = json.loads((packed / "tokens" / "train-web.json").read_text())
    texts = [training_text(record) for record in TRAIN if record["source"] == "web"]
    assert (facts["source"], facts["num_documents"]) == ("web", 15)
    assert facts["num_text_bytes"] == sum(len(text.encode()) for text in texts)
