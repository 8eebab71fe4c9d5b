"""The corpus: every e-print ends in one place, for one reason, and the bytes do not depend on how the work was done."""

import contextlib
import gzip
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import merge, shards
from data_prep.cli import UserError
from data_prep.corpus_folder import code_hash, modules_behind
from data_prep.dedup import THRESHOLD
from data_prep.filters import Limits
from data_prep.metadata import MetadataIndex, bucket_of, index_metadata
from data_prep.prepare_dataset import JACCARD, main
from data_prep.records import REASONS, Rejection
from tests.conftest import ROOT, SAMPLE, need_shared, run_command

FILES = ("train.jsonl", "val.jsonl", "rejects.jsonl", "manifest.json")
TOPICS = [
    "graph",
    "prime",
    "matrix",
    "group",
    "curve",
    "field",
    "measure",
    "lattice",
    "kernel",
    "sphere",
    "ideal",
    "tensor",
]


# A small arXiv, made anew for each test -----------------------------------------------------------------------------------


def prose(seed: int, num_sentences: int = 60) -> str:
    """English sentences that no other seed has in this order."""
    generator = random.Random(seed)
    sentences = []
    for number in range(num_sentences):
        one, two, three = generator.sample(TOPICS, 3)
        sentences.append(
            f"We show that every {one} of degree {generator.randrange(99)} is a {two} over its {three} $x_{{{number}}}$."
        )
    return " ".join(sentences)


def tex(seed: int, num_sentences: int = 60) -> bytes:
    """A LaTeX paper of about 60 characters a sentence."""
    body = prose(seed, num_sentences)
    return f"\\documentclass{{article}}\n\\begin{{document}}\n\\section{{One}}\n{body}\n\\end{{document}}\n".encode()


def record(paper_id: str, **changes: Any) -> dict[str, Any]:
    """A metadata record in the form of arXiv's Kaggle snapshot."""
    versions = [{"version": "v1", "created": "Mon, 5 Jan 2015 00:00:00 GMT"}]
    plain = {
        "id": paper_id,
        "title": f"On {paper_id}",
        "abstract": "We study objects and prove that they are finite.",
        "comments": None,
    }
    return {
        **plain,
        "categories": "math.AG",
        "license": None,
        "doi": None,
        "journal-ref": None,
        "versions": versions,
        **changes,
    }


class Arxiv:
    """A folder with e-prints and metadata; `prepare` makes a corpus of it in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sources, self.out = folder, folder / "sources", folder / "out"
        self.sources.mkdir()
        self.lines: list[str] = []

    def add(self, name: str, data: bytes, **changes: Any) -> None:
        """A loose e-print with its metadata."""
        (self.sources / name).write_bytes(data)
        self.describe(name.removesuffix(".gz").split("v")[0], **changes)

    def describe(self, paper_id: str, **changes: Any) -> None:
        """Metadata alone."""
        self.lines.append(json.dumps(record(paper_id, **changes)))

    def fill(self, count: int) -> None:
        """`count` papers that are kept."""
        for number in range(count):
            self.add(f"1501.{number:05d}.gz", gzip.compress(tex(number), mtime=0))

    @property
    def flags(self) -> list[str]:
        metadata = self.folder / "metadata.jsonl"
        if not metadata.exists():
            metadata.write_text("\n".join(self.lines) + "\n")
        return ["--metadata", str(metadata), "--sources", str(self.sources)]

    def prepare(self, *more: str, out: Path | None = None) -> dict[str, str]:
        """A run with one worker; returns reason by id ("" for the kept ones)."""
        assert main([*self.flags, "--out", str(out or self.out), "--workers", "1", *more]) == 0
        return reasons(out or self.out)


@pytest.fixture
def arxiv(tmp_path: Path) -> Arxiv:
    return Arxiv(tmp_path)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of three loose archives, so that small corpora have several."""
    monkeypatch.setattr(shards, "GROUP_ARCHIVES", 3)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def reasons(out: Path) -> dict[str, str]:
    """Reason by name of the file for rejects, "" by id for kept papers."""
    kept = {paper["id"]: "" for name in FILES[:2] for paper in lines(out / name)}
    return kept | {
        Path(reject["name"] or reject["id"]).name: reject["reason"] for reject in lines(out / "rejects.jsonl")
    }


def corpus_bytes(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> bytes:
    """A bulk tar as arXiv lays it out; returns its bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def members(path: Path) -> list[str]:
    """The files in a tar, by the standard library's reader."""
    with tarfile.open(path) as tar:
        return [member.name for member in tar if member.isfile()]


# Every paper accounted for -----------------------------------------------------------------------------------------------


def test_every_archive_of_the_sample_is_a_record_or_a_reject(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(
        [
            "--metadata",
            str(SAMPLE / "metadata.jsonl"),
            "--sources",
            str(SAMPLE / "sources"),
            "--out",
            str(out),
            "--workers",
            "1",
        ]
    )
    manifest = json.loads((out / "manifest.json").read_text())
    given = [path for path in (SAMPLE / "sources").rglob("*") if path.is_file()]
    tars = [path for path in given if path.name.startswith("arXiv_src")]
    num_given = len(given) - len(tars) + sum(len(members(path)) for path in tars)
    rejects = lines(out / "rejects.jsonl")
    kept = lines(out / "train.jsonl") + lines(out / "val.jsonl")
    num_cut_tars = sum(reject["id"].startswith("arXiv_src") for reject in rejects)
    assert len(kept) + len(rejects) == manifest["papers"]["in"] == num_given + num_cut_tars
    assert manifest["reasons"].get("internal-error", 0) == 0
    assert all(reject["reason"] in REASONS for reject in rejects)
    assert f"{manifest['papers']['in']:,} e-prints = " in capsys.readouterr().out


def test_each_real_archive_ends_once(tmp_path: Path) -> None:
    source, metadata = need_shared("bulk"), need_shared("eprints", "metadata.jsonl")
    main(["--metadata", str(metadata), "--sources", str(source), "--out", str(tmp_path / "out"), "--workers", "1"])
    found = sorted(paper["id"] for name in FILES[:3] for paper in lines(tmp_path / "out" / name))
    given = [name for path in source.glob("*.tar") for name in members(path)]
    assert len(found) == len(given) == 16


def test_every_reason_stands_in_one_stage_of_the_funnel() -> None:
    assert sorted(reason for stage in merge.FUNNEL.values() for reason in stage) == sorted(REASONS)


def test_a_reason_for_each_fault(arxiv: Arxiv) -> None:
    arxiv.add("1501.00001.gz", gzip.compress(tex(1)))
    arxiv.add("1501.00002.gz", gzip.compress(tex(2)), categories="physics.optics")
    arxiv.add(
        "1501.00003.gz", gzip.compress(tex(3)), versions=[{"version": "v1", "created": "Mon, 3 Jan 2000 00:00:00 GMT"}]
    )
    arxiv.add("1501.00004.gz", gzip.compress(tex(4)), comments="This paper has been withdrawn")
    arxiv.add("1501.00005.gz", gzip.compress(tex(5, num_sentences=10)))
    arxiv.add("1501.00006.gz", b"\x1f\x8b broken")
    arxiv.add("1501.00007.pdf", b"%PDF-1.4 ...")
    arxiv.describe("1501.00007")
    arxiv.add("1501.00008.gz", gzip.compress(tex(1)))
    (arxiv.sources / "1501.00009.gz").write_bytes(gzip.compress(tex(9)))
    assert arxiv.prepare() == {
        "1501.00001": "",
        "1501.00002.gz": "category",
        "1501.00003.gz": "year",
        "1501.00004.gz": "withdrawn",
        "1501.00005.gz": "too-short",
        "1501.00006.gz": "corrupt-archive",
        "1501.00007.pdf": "pdf-only",
        "1501.00008.gz": "exact-duplicate",
        "1501.00009.gz": "no-metadata",
    }


def test_a_record_says_what_the_metadata_says(arxiv: Arxiv) -> None:
    licence = "http://creativecommons.org/licenses/by/4.0/"
    arxiv.add(
        "1501.00001v2.gz",
        gzip.compress(tex(1)),
        title="On\n  curves",
        categories="math.AG cs.LG",
        license=licence,
        doi="10.1/x",
    )
    arxiv.prepare()
    (paper,) = lines(arxiv.out / "train.jsonl") + lines(arxiv.out / "val.jsonl")
    assert paper["text"].startswith("\\section{One}")
    del paper["text"], paper["parts"], paper["warnings"]
    assert paper == {
        "id": "1501.00001",
        "version": 2,
        "source": "arxiv",
        "title": "On curves",
        "abstract": "We study objects and prove that they are finite.",
        "categories": ["math.AG", "cs.LG"],
        "year": 2015,
        "licence": licence,
        "doi": "10.1/x",
        "journal_ref": None,
    }


def test_the_last_version_decides(arxiv: Arxiv) -> None:
    two = [{"version": f"v{n}", "created": "Mon, 5 Jan 2015 00:00:00 GMT"} for n in (1, 2)]
    arxiv.add("1501.00001v1.gz", gzip.compress(tex(1)), versions=two)
    arxiv.add("1501.00001v2.gz", gzip.compress(tex(2)), versions=two)
    arxiv.add("1501.00002v1.gz", gzip.compress(tex(3)), versions=two)
    arxiv.add("1501.00002v2.gz", gzip.compress(b"%auto-ignore\n"), versions=two)  # withdrawn by its last version
    arxiv.add("1501.00003v2.gz", gzip.compress(tex(4)), versions=two)
    write_tar(
        arxiv.sources / "arXiv_src_1501_001.tar", [("1501/1501.00003.gz", gzip.compress(tex(4)))]
    )  # version 2, too
    found = arxiv.prepare()
    assert found["1501.00001v1.gz"] == "older-version"
    assert found["1501.00001"] == ""
    assert found["1501.00002v1.gz"] == "older-version"
    assert found["1501.00002v2.gz"] == "withdrawn-source"
    assert found["1501.00003v2.gz"] == "duplicate-id"
    assert found["1501.00003"] == ""


def test_a_whole_copy_goes_before_a_broken_one(arxiv: Arxiv) -> None:
    write_tar(arxiv.sources / "arXiv_src_1501_001.tar", [("1501/1501.00001.gz", b"\x1f\x8b broken")])
    arxiv.add("1501.00001.gz", gzip.compress(tex(1)))
    arxiv.prepare()
    (reject,) = lines(arxiv.out / "rejects.jsonl")
    assert (reject["name"], reject["reason"]) == ("arXiv_src_1501_001.tar/1501/1501.00001.gz", "duplicate-id")


def test_a_tar_cut_short_gives_what_stands_before_the_cut(arxiv: Arxiv) -> None:
    names = [f"1501.{number:05d}" for number in range(4)]
    path = arxiv.sources / "arXiv_src_1501_001.tar"
    whole = write_tar(
        path, [(f"1501/{name}.gz", gzip.compress(tex(number), mtime=0)) for number, name in enumerate(names)]
    )
    path.write_bytes(whole[: len(whole) // 2])
    for name in names:
        arxiv.describe(name)
    found = arxiv.prepare("--val-frac", "0")
    kept = [name for name in names if found.get(name) == ""]
    assert kept == names[: len(kept)]
    assert 1 <= len(kept) < 4
    assert found[path.name] == "corrupt-archive"
    assert json.loads((arxiv.out / "manifest.json").read_text())["metadata"]["ids_without_eprint"] == 4 - len(kept)


def test_our_bug_costs_one_paper_and_is_told(
    arxiv: Arxiv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arxiv.fill(3)
    clean = shards.clean_latex

    def buggy(source: str, **options: Any) -> Any:
        if prose(1)[:400] in source:
            raise ZeroDivisionError("a bug")
        return clean(source, **options)

    monkeypatch.setattr(shards, "clean_latex", buggy)
    assert arxiv.prepare() == {"1501.00000": "", "1501.00001.gz": "internal-error", "1501.00002": ""}
    (reject,) = lines(arxiv.out / "rejects.jsonl")
    assert reject["detail"] == "ZeroDivisionError: a bug (test_prepare_dataset.py, buggy)"
    assert "1 e-prints met a bug of ours, for example 1501.00001: ZeroDivisionError" in capsys.readouterr().err


def test_a_file_name_that_is_no_text_is_told_as_it_can_be(arxiv: Arxiv) -> None:
    arxiv.fill(1)
    Path(os.fsdecode(os.fsencode(arxiv.sources) + b"/caf\xe9.gz")).write_bytes(gzip.compress(tex(1)))
    arxiv.prepare()
    (reject,) = lines(arxiv.out / "rejects.jsonl")
    assert (reject["name"], reject["reason"]) == ("caf\\udce9.gz", "no-metadata")


def test_a_reader_that_loses_archives_fails_the_run(arxiv: Arxiv, monkeypatch: pytest.MonkeyPatch) -> None:
    arxiv.fill(3)
    read = shards.iter_eprints
    monkeypatch.setattr(shards, "iter_eprints", lambda sources: list(read(sources))[:-1])
    with pytest.raises(RuntimeError, match="holds 3 archives, 2 were read"):
        arxiv.prepare()
    assert not (arxiv.out / "manifest.json").exists()


def test_records_that_vanish_fail_the_merge(arxiv: Arxiv) -> None:
    arxiv.fill(3)
    arxiv.prepare()
    (path,) = arxiv.out.glob("shards/*/records.jsonl")
    path.write_bytes(path.read_bytes()[:5000])
    (arxiv.out / "manifest.json").unlink()
    with pytest.raises(RuntimeError, match="fewer records than it says"):
        arxiv.prepare()
    assert not (arxiv.out / "manifest.json").exists()


# Metadata ----------------------------------------------------------------------------------------------------------------


def test_odd_metadata_is_counted_named_and_survived(arxiv: Arxiv, capsys: pytest.CaptureFixture[str]) -> None:
    arxiv.fill(2)
    arxiv.lines += ["{broken", "[1, 2]", '{"title": "no id"}', json.dumps(record("1501.00000", title="Second line"))]
    arxiv.lines += [json.dumps(record("1501.09999", categories="math.XX zz.Top", abstract=None))]
    arxiv.describe("1501.09998", categories=None)
    arxiv.prepare("--val-frac", "0")
    account = json.loads((arxiv.out / "manifest.json").read_text())["metadata"]
    assert {
        key: account[key]
        for key in ("lines", "bad_lines", "repeated_ids", "ids", "kept", "rejected", "ids_without_eprint")
    } == {
        "lines": 8,
        "bad_lines": 3,
        "repeated_ids": 1,
        "ids": 4,
        "kept": 3,
        "rejected": {"bad-metadata": 1},
        "ids_without_eprint": 2,
    }
    errors = capsys.readouterr().err
    assert "3 lines are no records: line 3: not JSON" in errors
    assert "math.XX" in errors
    assert lines(arxiv.out / "train.jsonl")[0]["title"] == "Second line"


def test_missing_eprints_are_listed_if_asked(arxiv: Arxiv) -> None:
    arxiv.fill(1)
    arxiv.describe("1501.07777")
    arxiv.describe("1501.07778", categories="physics.optics")
    assert arxiv.prepare("--list-missing") == {"1501.00000": "", "1501.07777": "no-source"}
    assert json.loads((arxiv.out / "manifest.json").read_text())["papers"]["in"] == 2


@pytest.mark.parametrize(
    ("paper_id", "bucket"),
    [
        ("math/0303002", "0303"),
        ("1403.0037", "1403"),
        ("math.AG/9912001", "9912"),
        ("thesis", "other"),
        ("9913.0001", "other"),
    ],
)
def test_ids_carry_their_month(paper_id: str, bucket: str) -> None:
    assert bucket_of(paper_id) == bucket


def test_the_index_finds_each_id_and_no_other(tmp_path: Path) -> None:
    generator = random.Random(0)
    ids = {f"{generator.choice(['1501', '1502', '9912'])}.{generator.randrange(10**5):05d}" for _ in range(500)}
    ids |= {f"math/{generator.randrange(10**7):07d}" for _ in range(200)} | {"thesis", "thèse", "a", "zz"}
    path = tmp_path / "metadata.jsonl"
    path.write_text("".join(json.dumps(record(name, title=f"Title of {name}")) + "\n" for name in ids))
    assert index_metadata(path, Limits(first_year=None), tmp_path / "index")["kept"] == len(ids)
    index = MetadataIndex(tmp_path / "index")
    assert set(index.kept_ids()) == ids
    for name in ids:
        paper = index.find(name)
        assert paper is not None
        assert paper.title == f"Title of {name}"
    for name in ("1501.0000", "1501.999999", "math/", "theses", "", "b", "\ud800"):
        assert name in ids or index.find(name) is None


def test_the_index_is_the_same_whatever_the_order_of_the_metadata(tmp_path: Path) -> None:
    rows = [json.dumps(record(f"1501.{number:05d}")) + "\n" for number in range(50)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(order))
        index_metadata(tmp_path / f"{name}.jsonl", Limits(), tmp_path / name)
    assert (tmp_path / "a/1501.tsv").read_bytes() == (tmp_path / "b/1501.tsv").read_bytes()


# The same bytes ----------------------------------------------------------------------------------------------------------


def test_workers_arrays_and_order_do_not_change_a_byte(arxiv: Arxiv, tmp_path: Path) -> None:
    arxiv.fill(7)
    bulk = [(f"1502/1502.{number:05d}.gz", gzip.compress(tex(100 + number), mtime=0)) for number in range(4)]
    write_tar(arxiv.sources / "arXiv_src_1502_001.tar", bulk)
    for name, _ in bulk:
        arxiv.describe(name[5:-3])
    arxiv.prepare()
    expected = corpus_bytes(arxiv.out)
    done = run_command("data_prep/prepare_dataset.py", *arxiv.flags, "--out", tmp_path / "two", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert corpus_bytes(tmp_path / "two") == expected
    for task in ("1", "0"):
        main(
            [
                *arxiv.flags,
                "--out",
                str(tmp_path / "array"),
                "--workers",
                "1",
                "--shard-index",
                task,
                "--num-shards",
                "2",
            ]
        )
    assert not (tmp_path / "array" / "train.jsonl").exists()
    arxiv.prepare(out=tmp_path / "array")
    assert corpus_bytes(tmp_path / "array") == expected
    loose = sorted(map(str, arxiv.sources.iterdir()), reverse=True)
    main(["--metadata", arxiv.flags[1], "--sources", *loose, "--out", str(tmp_path / "reversed"), "--workers", "1"])
    assert corpus_bytes(tmp_path / "reversed") == expected


def test_tasks_of_a_job_array_may_start_at_once(arxiv: Arxiv) -> None:
    arxiv.fill(120)
    tasks = [start(arxiv, "--workers", "1", "--shard-index", str(task), "--num-shards", "3") for task in range(3)]
    for task in tasks:
        _, errors = task.communicate(timeout=60)
        assert task.returncode == 0, errors
    done = run_command("data_prep/prepare_dataset.py", *arxiv.flags, "--out", arxiv.out)
    assert "2 of 2 shards are done already" in done.stderr
    assert "120 e-prints = 120 kept" in done.stdout


def test_ray_gives_the_same_bytes(arxiv: Arxiv, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is optional and not installed")
    arxiv.fill(2)
    arxiv.prepare()
    done = run_command(
        "data_prep/prepare_dataset.py", *arxiv.flags, "--out", tmp_path / "ray", "--workers", "2", "--engine", "ray"
    )
    assert done.returncode == 0, done.stderr
    assert corpus_bytes(tmp_path / "ray") == corpus_bytes(arxiv.out)


def test_without_ray_the_engine_says_what_to_install(arxiv: Arxiv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arxiv.fill(1)
    with pytest.raises(UserError, match="pip install ray"):
        arxiv.prepare("--engine", "ray")


def start(arxiv: Arxiv, *more: str) -> "subprocess.Popen[str]":
    """A run with two workers in a process group of its own."""
    words = [
        sys.executable,
        str(ROOT / "data_prep/prepare_dataset.py"),
        *arxiv.flags,
        "--out",
        str(arxiv.out),
        "--workers",
        "2",
        *more,
    ]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path: Path, pattern: str, child: "subprocess.Popen[str]") -> None:
    """Wait until a file of that pattern is there, or the run has ended."""
    for _ in range(3000):
        if any(path.glob(pattern)) or child.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} in {path} after 30 s")


@pytest.mark.parametrize(
    "moment", ["shards/metadata-*", "shards/*/items.jsonl", "shards/loose_*[0-9a-f]/cost.json", "train.jsonl*"]
)
def test_a_killed_run_goes_on_to_the_same_bytes(arxiv: Arxiv, tmp_path: Path, moment: str) -> None:
    arxiv.fill(120)
    child = start(arxiv)
    wait_for(arxiv.out, moment, child)
    child.kill()  # the driver alone; its workers must notice
    child.wait()
    arxiv.prepare()
    assert not list(arxiv.out.glob("shards/*.partial"))
    arxiv.prepare(out=tmp_path / "quiet")
    assert corpus_bytes(arxiv.out) == corpus_bytes(tmp_path / "quiet")


def test_workers_follow_a_killed_driver(arxiv: Arxiv) -> None:
    arxiv.fill(120)
    child = start(arxiv)
    wait_for(arxiv.out, "shards/*/items.jsonl", child)
    child.kill()
    child.wait()
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("processes of the killed run are still there")


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(arxiv: Arxiv) -> None:
    arxiv.fill(120)
    child = start(arxiv)
    wait_for(arxiv.out, "shards/*/items.jsonl", child)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: driver and workers
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert errors.splitlines()[-1] == "prepare_dataset.py: interrupted; the same command goes on"
    assert not list(arxiv.out.glob("shards/loose*.partial"))


def test_a_finished_shard_is_not_done_again(arxiv: Arxiv, small_groups: None) -> None:
    arxiv.fill(7)
    arxiv.prepare()
    before = {path: path.stat().st_mtime_ns for path in arxiv.out.glob("shards/loose*")}
    assert len(before) == 3
    shutil.rmtree(min(before))
    (arxiv.out / "manifest.json").unlink()
    arxiv.prepare()
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path for path in before if before[path] != after[path]] == [min(before)]


def test_a_finished_corpus_is_left_alone(arxiv: Arxiv, capsys: pytest.CaptureFixture[str]) -> None:
    arxiv.fill(2)
    arxiv.prepare()
    before, table = (arxiv.out / "train.jsonl").stat().st_mtime_ns, capsys.readouterr().out
    arxiv.prepare()
    printed = capsys.readouterr()
    assert "is finished already" in printed.err
    assert printed.out == table
    assert (arxiv.out / "train.jsonl").stat().st_mtime_ns == before


def test_a_folder_that_is_refused_is_left_as_it_was(arxiv: Arxiv) -> None:
    arxiv.fill(1)
    arxiv.out.mkdir()
    (arxiv.out / "val.jsonl").write_text("mine\n")
    with pytest.raises(UserError):
        arxiv.prepare()
    assert [path.name for path in arxiv.out.iterdir()] == ["val.jsonl"]


# Folders of other runs ---------------------------------------------------------------------------------------------------


def test_another_flag_is_refused_with_both_values_and_forced(arxiv: Arxiv, small_groups: None) -> None:
    arxiv.fill(7)
    arxiv.prepare("--val-frac", "0.5")
    shards_before = {path: path.stat().st_mtime_ns for path in arxiv.out.glob("shards/loose*")}
    with pytest.raises(UserError, match=r"--val-frac was 0.5 and is 0.0.*--force"):
        arxiv.prepare("--val-frac", "0")
    assert (arxiv.out / "manifest.json").exists()
    arxiv.prepare("--val-frac", "0", "--force")
    assert len(lines(arxiv.out / "train.jsonl")) == 7
    assert {path: path.stat().st_mtime_ns for path in arxiv.out.glob("shards/loose*")} == shards_before
    with pytest.raises(UserError, match=r"--min-body-chars was 2000 and is 100"):
        arxiv.prepare("--val-frac", "0", "--min-body-chars", "100")
    arxiv.prepare("--val-frac", "0", "--min-body-chars", "100", "--force")
    assert not set(arxiv.out.glob("shards/loose*")) & set(shards_before)


def test_other_code_is_refused(arxiv: Arxiv, monkeypatch: pytest.MonkeyPatch) -> None:
    arxiv.fill(1)
    arxiv.prepare()
    monkeypatch.setattr("data_prep.corpus_folder.code_hash", lambda *modules, **but: code_hash(*modules, **but) + "x")
    with pytest.raises(UserError, match="stage code was"):
        arxiv.prepare()


def test_the_code_that_counts_is_what_a_stage_imports() -> None:
    assert modules_behind("metadata") == {"metadata", "filters", "records"}
    assert {
        "shards",
        "archives",
        "extraction",
        "latex_cleaner",
        "filters",
        "dedup",
        "metadata",
        "records",
    } <= modules_behind("shards")
    assert not modules_behind("shards") & {"merge", "corpus", "report", "pack_tokens", "prepare_dataset"}


def test_a_changed_source_is_seen_and_redone_alone(arxiv: Arxiv, small_groups: None) -> None:
    arxiv.fill(7)
    arxiv.prepare()
    (arxiv.sources / "1501.00006.gz").write_bytes(gzip.compress(tex(66)))
    with pytest.raises(UserError, match="--sources was"):
        arxiv.prepare()
    before = set(arxiv.out.glob("shards/loose*"))
    arxiv.prepare("--force")
    assert len(before & set(arxiv.out.glob("shards/loose*"))) == 2


def test_a_foreign_folder_is_refused(arxiv: Arxiv) -> None:
    arxiv.fill(1)
    arxiv.out.mkdir()
    (arxiv.out / "train.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"holds train.jsonl of another run"):
        arxiv.prepare()
    assert (arxiv.out / "train.jsonl").read_text() == "mine\n"
    assert arxiv.prepare("--force") == {"1501.00000": ""}


def test_a_second_run_at_the_same_time_is_refused(arxiv: Arxiv) -> None:
    import fcntl

    arxiv.fill(1)
    arxiv.prepare()
    (arxiv.out / "manifest.json").unlink()
    with (arxiv.out / "shards/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is at work"):
            arxiv.prepare()


# Duplicates, split, benchmarks ---------------------------------------------------------------------------------------------


def test_near_duplicates_fall_on_one_side_and_one_stays(arxiv: Arxiv) -> None:
    for number in range(30):
        arxiv.add(f"1501.{number:05d}.gz", gzip.compress(tex(number)))
        arxiv.add(
            f"1502.{number:05d}.gz", gzip.compress(tex(number).replace(b"\\end{doc", b"Some words more.\n\\end{doc"))
        )
    found = arxiv.prepare("--val-frac", "0.5")
    assert sum(reason == "near-duplicate" for reason in found.values()) == 30
    sides = {paper["id"]: name for name in FILES[:2] for paper in lines(arxiv.out / name)}
    assert set(sides) == {f"1502.{number:05d}" for number in range(30)}  # the longer of two
    arxiv.prepare("--val-frac", "0.5", "--jaccard", "1", "--force")
    apart = {paper["id"]: name for name in FILES[:2] for paper in lines(arxiv.out / name)}
    firsts = {f"1502{paper_id[4:]}": name for paper_id, name in apart.items() if paper_id.startswith("1501")}
    assert sides == firsts  # the cluster is where its first paper is, with or without the second


def test_benchmark_questions_are_kept_out(arxiv: Arxiv) -> None:
    question = (
        "How many apples does the gardener carry home when three baskets of seven apples each fall down the hill?"
    )
    (arxiv.folder / "benchmark.jsonl").write_text(json.dumps({"question": question}) + "\n")
    arxiv.fill(1)
    arxiv.add("1501.00009.gz", gzip.compress(tex(9).replace(b"\\end{doc", question.encode() + b"\n\\end{doc")))
    found = arxiv.prepare("--decontaminate", str(arxiv.folder / "benchmark.jsonl"))
    assert found == {"1501.00000": "", "1501.00009.gz": "contaminated"}
    assert arxiv.prepare("--force") == {"1501.00000": "", "1501.00009": ""}


# Manners -----------------------------------------------------------------------------------------------------------------


def test_a_limit_reads_the_first_eprints_only(arxiv: Arxiv, small_groups: None) -> None:
    arxiv.fill(7)
    bulk = [(f"1502/1502.{number:05d}.gz", gzip.compress(tex(100 + number))) for number in range(3)]
    write_tar(arxiv.sources / "arXiv_src_1502_001.tar", bulk)
    for name, _ in bulk:
        arxiv.describe(name[5:-3])
    assert sorted(arxiv.prepare("--limit", "2", out=arxiv.folder / "two")) == ["1502.00000", "1502.00001"]
    assert sorted(arxiv.prepare("--limit", "5", out=arxiv.folder / "five"))[:2] == ["1501.00000", "1501.00001"]
    assert len(reasons(arxiv.folder / "five")) == 5


def test_a_dry_run_writes_nothing_and_shows_its_arithmetic(arxiv: Arxiv, capsys: pytest.CaptureFixture[str]) -> None:
    arxiv.fill(4)
    assert main([*arxiv.flags, "--out", str(arxiv.out), "--dry-run", "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "0 bulk tars and 4 loose archives" in printed
    assert "4 e-prints / (2 workers x" in printed
    assert not arxiv.out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metadata", "absent.jsonl"], "metadata file absent.jsonl does not exist"),
        (["--sources", "absent"], "source absent does not exist"),
        (["--val-frac", "2"], "--val-frac is 2.0; it must lie between 0 and 1"),
        (["--jaccard", "0.3"], "--jaccard is 0.3; it must lie between 0.6"),
        (["--language", "english"], "--language english is unknown; known are any, af, ar,"),
        (["--workers", "0"], "--workers is 0; it must lie between 1 and 1024"),
        (["--num-shards", "3"], "--shard-index and --num-shards go together"),
        (["--num-shards", "3", "--shard-index", "3"], "--shard-index is 3; with --num-shards 3 it must be 0 to 2"),
        (["--decontaminate", "absent.jsonl"], "benchmark file absent.jsonl does not exist"),
        (["--categories", "maths"], "--categories maths is none of arXiv's"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arxiv: Arxiv, flags: list[str], message: str) -> None:
    arxiv.fill(1)
    with pytest.raises(UserError) as error:
        arxiv.prepare(*flags)
    assert message in str(error.value)
    assert not arxiv.out.exists()


def test_an_empty_folder_of_sources_and_empty_metadata_are_mistakes(arxiv: Arxiv) -> None:
    (arxiv.folder / "empty").mkdir()
    arxiv.fill(1)
    with pytest.raises(UserError, match="holds no archive"):
        arxiv.prepare("--sources", str(arxiv.folder / "empty"))
    (arxiv.folder / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no record"):
        arxiv.prepare("--metadata", str(arxiv.folder / "empty.jsonl"))


def test_sources_and_folders_that_cannot_be_used_are_mistakes(arxiv: Arxiv) -> None:
    arxiv.fill(1)
    (arxiv.folder / "file").write_text("")
    for out, message in (("file", "is a file; name a folder"), ("file/out", "cannot be written")):
        with pytest.raises(UserError, match=message):
            arxiv.prepare(out=arxiv.folder / out)
    (arxiv.sources / "1501.00009.gz").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"1501.00009.gz cannot be read \(No such file"):
        arxiv.prepare()


def test_a_mistake_is_one_line_and_exit_2() -> None:
    done = run_command("data_prep/prepare_dataset.py", "--metadata", "absent.jsonl", "--sources", "absent")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "prepare_dataset.py: metadata file absent.jsonl does not exist\n"


def test_a_full_disk_stops_the_run_in_one_line_and_a_larger_one_goes_on(arxiv: Arxiv, tmp_path: Path) -> None:
    arxiv.fill(60)
    arxiv.out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(arxiv.out)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = run_command("data_prep/prepare_dataset.py", *arxiv.flags, "--out", arxiv.out, "--workers", "2")
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("prepare_dataset.py: the disk is full")
        assert len(done.stderr.splitlines()) == 1
        assert not list(arxiv.out.glob("**/*.partial"))
        assert not [name for name in FILES if (arxiv.out / name).exists()]
        subprocess.run(["mount", "-o", "remount,size=20m", str(arxiv.out)], check=True)
        assert run_command("data_prep/prepare_dataset.py", *arxiv.flags, "--out", arxiv.out).returncode == 0
        arxiv.prepare(out=tmp_path / "quiet")
        assert corpus_bytes(arxiv.out) == corpus_bytes(tmp_path / "quiet")
    finally:
        subprocess.run(["umount", "--lazy", str(arxiv.out)], check=True)


def test_a_worker_that_is_killed_is_told(arxiv: Arxiv) -> None:
    arxiv.fill(120)
    child = start(arxiv)
    wait_for(arxiv.out, "shards/*/items.jsonl", child)
    (partial, *_) = arxiv.out.glob("shards/loose*.partial")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(partial.name.split(".")[-2]), signal.SIGKILL)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "a worker process was killed, perhaps for want of memory; the same command goes on" in errors


def test_help_is_quick() -> None:
    usage_before = os.times().children_user
    done = run_command("data_prep/prepare_dataset.py", "--help")
    assert done.returncode == 0
    assert "python data_prep/prepare_dataset.py --metadata" in done.stdout
    assert os.times().children_user - usage_before < 0.5


def test_the_index_of_a_shard_says_where_records_lie(arxiv: Arxiv) -> None:
    arxiv.fill(4)
    arxiv.prepare()
    (folder,) = arxiv.out.glob("shards/loose*")
    with np.load(folder / "index.npz") as index:
        data = (folder / "records.jsonl").read_bytes()
        starts = index["offsets"]
        assert starts[-1] == len(data)
        ids = [json.loads(data[a:b])["id"] for a, b in itertools.pairwise(starts)]
        assert ids == [f"1501.{number:05d}" for number in range(4)]
        assert len(index["signatures"]) == 4


def test_a_rejection_needs_a_documented_reason() -> None:
    with pytest.raises(ValueError, match="not a documented reason"):
        Rejection("bad-luck")


def test_the_flag_and_the_function_agree_on_near_duplicates() -> None:
    assert JACCARD == THRESHOLD
