"""Downloads against real parts that run here: Amazon's client and moto's S3, Kaggle's client, the hub's client, plain HTTP."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from data_prep import download
from data_prep.cli import UserError
from tests.conftest import ROOT, SAMPLE, need_shared, run_command
from tests.local_servers import Answer, Server, hub_of, shelf, upstream

QUICK = ("--tries", "3", "--retry-wait-s", "0")
SCRIPT = ROOT / "data_prep" / "download.py"
TARS = sorted((SAMPLE / "sources").glob("*.tar"))
LARGE = hashlib.shake_256(b"large").digest(3 << 20)  # bytes reach the disk by the megabyte
BUSY = Answer(503, headers={"Retry-After": "0"})


def run(*words: str | Path) -> int:
    """The command, in this process, impatient."""
    return download.main([*map(str, words), *QUICK])


# --- arXiv's sources from S3 ---


def manifest_of(tars: dict[str, bytes]) -> bytes:
    """A manifest in arXiv's form for some tars by name."""
    rows = []
    for name, data in tars.items():
        yymm = name.split("_")[2]
        facts = {"content_md5sum": "0" * 32, "filename": f"src/{name}", "first_item": "a", "last_item": "b"}
        facts |= {"md5sum": hashlib.md5(data).hexdigest(), "num_items": "3", "seq_num": "1", "size": str(len(data))}
        facts |= {"timestamp": "2010-12-23 00:13:59", "yymm": yymm}
        rows.append("".join(f"<{key}>{value}</{key}>" for key, value in facts.items()))
    files = "".join(f"<file>{row}</file>" for row in rows)
    return f"<?xml version='1.0' standalone='yes'?><arXivSRC>{files}<timestamp>now</timestamp></arXivSRC>".encode()


@pytest.fixture(scope="module")
def moto_port() -> Iterator[int]:
    """moto's S3 with a bucket as arXiv's, which holds the sample's tars."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    port = server._server.server_port
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    client.create_bucket(Bucket="arxiv")
    tars = {path.name: path.read_bytes() for path in TARS} | {"arXiv_src_0101_001.tar": LARGE}
    for name, data in tars.items():
        client.put_object(Bucket="arxiv", Key=f"src/{name}", Body=data)
    client.put_object(Bucket="arxiv", Key="src/arXiv_src_manifest.xml", Body=manifest_of(tars))
    yield port
    server.stop()


@pytest.fixture
def s3(moto_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The same with faults to order, where Amazon's client looks for S3."""
    with Server(upstream("127.0.0.1", moto_port), faulty=r"\.tar$") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        yield server


def tar_requests(server: Server) -> list[tuple[str, str | None]]:
    """(name, range) of each request for a tar."""
    return [(r.path.rsplit("/", 1)[-1], r.headers.get("Range")) for r in server.requests if r.path.endswith(".tar")]


def md5sums_hold(folder: Path) -> bool:
    """Whether `md5sum --check`, which knows nothing of us, is content with each line."""
    checked = subprocess.run(["md5sum", "--check", "--strict", "MD5SUMS"], cwd=folder, capture_output=True, check=False)
    return checked.returncode == 0


def test_sources_come_whole_and_only_once(s3: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("arxiv-sources", "--from", "2003-01", "--to", "2014-12", "--out", tmp_path) == 0
    wanted = [path for path in TARS if path.name < "arXiv_src_15"]
    assert [(tmp_path / path.name).read_bytes() for path in wanted] == [path.read_bytes() for path in wanted]
    assert not list(tmp_path.glob("*.partial"))
    assert all(r.headers["x-amz-request-payer"] == "requester" for r in s3.requests)
    said = capsys.readouterr().err
    assert "2003-03 to 2014-03: 3 tars, 9 items, 0.0 GB; 0 tars are here" in said
    assert "Amazon will charge you about $0.00" in said
    assert md5sums_hold(tmp_path)
    num_requests = len(tar_requests(s3))
    assert run("arxiv-sources", "--from", "2003-01", "--to", "2014-12", "--out", tmp_path) == 0
    assert len(tar_requests(s3)) == num_requests


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        pytest.param([BUSY, BUSY], [None, None, None], id="throttled"),
        pytest.param([Answer(429)], [None, None], id="too many requests"),
        pytest.param(["cut"], [None, "bytes=5120-"], id="cut short"),
        pytest.param(["cut", BUSY], [None, "bytes=5120-", "bytes=5120-"], id="cut short, then throttled"),
        pytest.param(["corrupt"], [None, None], id="corrupt"),
    ],
)
def test_sources_survive(s3: Server, tmp_path: Path, faults: list[str | Answer], ranges: list[str | None]) -> None:
    s3.faults = list(faults)
    assert run("arxiv-sources", "--from", "2003-03", "--to", "2003-03", "--out", tmp_path) == 0
    assert (tmp_path / TARS[0].name).read_bytes() == TARS[0].read_bytes()
    assert [asked for _, asked in tar_requests(s3)] == ranges


def test_corrupt_sources_are_never_kept(s3: Server, tmp_path: Path) -> None:
    s3.faults = ["corrupt"] * 3
    with pytest.raises(
        UserError, match=r"gave up after 3 tries: arXiv_src_0303_001.tar came with the MD5 \w+ in place of"
    ):
        run("arxiv-sources", "--from", "2003-03", "--to", "2003-03", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["arXiv_src_manifest.xml"]


def test_killed_download_goes_on(s3: Server, tmp_path: Path) -> None:
    s3.faults = ["stall"]
    words = ["arxiv-sources", "--from", "2001-01", "--to", "2001-01", "--out", tmp_path]
    partial = tmp_path / "arXiv_src_0101_001.tar.partial"
    with subprocess.Popen([sys.executable, SCRIPT, *words], stderr=subprocess.DEVNULL) as process:
        assert s3.stalled.wait(60)
        for _ in range(2000):  # the first half is on its way
            if partial.exists() and partial.stat().st_size:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    half = partial.stat().st_size
    assert 0 < half < len(LARGE)
    assert run(*words) == 0
    assert (tmp_path / "arXiv_src_0101_001.tar").read_bytes() == LARGE
    assert tar_requests(s3)[-1] == ("arXiv_src_0101_001.tar", f"bytes={half}-")


def test_sources_put_there_by_hand_are_checked(s3: Server, tmp_path: Path) -> None:
    right, wrong = TARS[0], TARS[2]
    (tmp_path / right.name).write_bytes(right.read_bytes())
    (tmp_path / wrong.name).write_bytes(bytes(wrong.stat().st_size))
    assert run("arxiv-sources", "--from", "2003-03", "--to", "2014-03", "--out", tmp_path) == 0
    assert (tmp_path / wrong.name).read_bytes() == wrong.read_bytes()
    assert [name for name, _ in tar_requests(s3)] == [TARS[1].name, wrong.name]


def test_a_tar_that_arxiv_has_replaced_comes_again(s3: Server, tmp_path: Path) -> None:
    old = bytes(TARS[0].stat().st_size)
    (tmp_path / TARS[0].name).write_bytes(old)
    (tmp_path / "MD5SUMS").write_text(f"{hashlib.md5(old).hexdigest()}  {TARS[0].name}\n")
    assert md5sums_hold(tmp_path)
    assert run("arxiv-sources", "--from", "2003-03", "--to", "2003-03", "--out", tmp_path) == 0
    assert (tmp_path / TARS[0].name).read_bytes() == TARS[0].read_bytes()
    assert md5sums_hold(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--from", "1985-01", "--to", "1990-12"], "the manifest has no tar from 1985-01 to 1990-12"),
        (["--max-dollars", "0"], "that is more than --max-dollars 0; raise it"),
    ],
)
def test_sources_refused(s3: Server, tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run("arxiv-sources", "--out", tmp_path, *words)
    assert not list(tmp_path.glob("*.tar"))


def test_sources_without_credentials(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="requester pays: it needs an AWS account's credentials"):
        run("arxiv-sources", "--out", tmp_path / "out")


def test_forbidden_is_the_users_business(s3: Server, tmp_path: Path) -> None:
    s3.faults = [Answer(403)]
    with pytest.raises(UserError, match=r"s3://arxiv/src/arXiv_src_0303_001.tar: the server answers 403"):
        run("arxiv-sources", "--from", "2003-03", "--to", "2003-03", "--out", tmp_path)


def test_dry_run_on_the_real_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = need_shared("metadata", "arXiv_src_manifest.xml.gz")
    words = ["arxiv-sources", "--dry-run", "--manifest", manifest, "--out", tmp_path / "none"]
    assert run(*words, "--from", "2014-03", "--to", "2014-03") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 14
    assert out.splitlines()[0].split() == ["arXiv_src_1403_001.tar", "601", "items", "0.548", "GB"]
    assert "14 tars, 8,154 items, 7.4 GB" in err
    assert "$0.67 (7.4 GB x $0.09)" in err
    assert run(*words, "--from", "1991-07", "--in-region") == 0
    err = capsys.readouterr().err
    assert "1991-07 to 2025-01: 9,547 tars, 2,657,110 items, 5,0" in err
    assert "$0.00 (requests only, within the region)" in err
    assert not (tmp_path / "none").exists()


def test_what_is_no_manifest(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html><body>Sign in to continue<br></body></html>")
    with pytest.raises(UserError, match="this is no manifest of arXiv's source tars"):
        run("arxiv-sources", "--dry-run", "--manifest", page, "--out", tmp_path)
    with pytest.raises(UserError, match=r"manifest .*absent\.xml does not exist"):
        run("arxiv-sources", "--dry-run", "--manifest", tmp_path / "absent.xml", "--out", tmp_path)


def test_a_full_disk_is_foreseen(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1,000,000\.0 GB are to come and [\d,.]+ GB are free at"):
        download.need_space(tmp_path / "not" / "yet", 1e15)


# --- single papers ---

PAPER = (SAMPLE / "sources" / "1103.9901.gz").read_bytes()
PDF = (SAMPLE / "sources" / "1905.99002.pdf").read_bytes()
FILES = {"/e-print/1103.9901v2": PAPER, "/e-print/math/0303991": PDF, "/e-print/1210.9901": b"\\bye plain text"}
POLITE = ("--contact", "me@example.org", "--wait-s", "0.05")


def papers(server: Server, out: Path, *ids: str) -> int:
    return run("arxiv-papers", *ids, "--out", out, "--server", server.url, *POLITE)


def test_papers_under_their_names(tmp_path: Path) -> None:
    with Server(shelf(FILES)) as server:
        began = time.monotonic()
        assert papers(server, tmp_path, "1103.9901v2", "math/0303991", "1210.9901") == 0
        assert time.monotonic() - began >= 0.1
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            "1103.9901v2.gz": PAPER,
            "math0303991.pdf": PDF,
            "1210.9901.txt": b"\\bye plain text",
        }
        assert {r.headers["User-Agent"] for r in server.requests} == {"arxiv-to-model/0.1 (me@example.org)"}
        assert papers(server, tmp_path, "1103.9901v2", "math/0303991") == 0
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "faults", [[BUSY, Answer(429)], ["cut", "cut"], [Answer(500)]], ids=["throttled", "cut", "error"]
)
def test_papers_survive(tmp_path: Path, faults: list[str | Answer]) -> None:
    with Server(shelf(FILES)) as server:
        server.faults = list(faults)
        assert papers(server, tmp_path, "1103.9901v2") == 0
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("1103.9901v2.gz", PAPER)]


def test_a_missing_paper_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(shelf(FILES)) as server:
        assert papers(server, tmp_path, "9999.99999", "1103.9901v2") == 2
    assert (tmp_path / "1103.9901v2.gz").read_bytes() == PAPER
    assert "1 of 2 papers are not to be had: 9999.99999" in capsys.readouterr().err


def test_no_server_at_all(tmp_path: Path) -> None:
    with Server(shelf(FILES)) as server:
        pass
    with pytest.raises(UserError, match=r"gave up after 3 tries: http://127.0.0.1:\d+/e-print/1103.9901v2: .*refused"):
        papers(server, tmp_path, "1103.9901v2")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["1103.99", "--contact", "me"], "'1103.99' is no arXiv id; they look like 1706.03762"),
        (
            ["1103.9901", "--contact", "me", "--wait-s", "1"],
            "https://export.arxiv.org wants 3 s between requests; raise",
        ),
    ],
)
def test_papers_refused(tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run("arxiv-papers", "--out", tmp_path, *words)


# --- metadata, through Kaggle's client ---


def snapshot() -> bytes:
    """A zip as Kaggle serves it."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(SAMPLE / "metadata.jsonl", "arxiv-metadata-oai-snapshot.json")
    return buffer.getvalue()


def kaggle(server: Server, out: Path, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """The command with Kaggle's client set to its local service, which it finds through a proxy: our server."""
    pytest.importorskip("kagglesdk", reason="kaggle is not installed")
    proxy = {"HTTP_PROXY": server.url, "http_proxy": server.url, "NO_PROXY": "", "no_proxy": ""}
    login = {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "KAGGLE_USERNAME": "a",
        "KAGGLE_KEY": "b",
        "KAGGLE_CONFIG_DIR": str(tmp_path),
    }
    environment = {**os.environ, **proxy, **login}
    return run_command(SCRIPT, "arxiv-metadata", "--out", out, *QUICK, env=environment)


@pytest.mark.parametrize("faults", [[], [BUSY], ["corrupt-zip"]], ids=["fresh", "throttled", "corrupt"])
def test_metadata(tmp_path: Path, faults: list[str]) -> None:
    packed = snapshot()
    half_broken = packed[:40] + bytes(40) + packed[80:]
    with Server(lambda request: Answer(200, packed, {"Last-Modified": "Mon, 02 Mar 2026 12:00:00 GMT"})) as server:
        server.faults = [Answer(200, half_broken) if fault == "corrupt-zip" else fault for fault in faults]
        result = kaggle(server, tmp_path / "out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert (
        "Cornell-University/arxiv on Kaggle: about 1.7 GB to fetch, 5.0 GB when unpacked, free of charge"
        in result.stderr
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["arxiv-metadata-oai-snapshot.json"]
    assert (tmp_path / "out" / "arxiv-metadata-oai-snapshot.json").read_bytes() == (
        SAMPLE / "metadata.jsonl"
    ).read_bytes()
    assert json.loads(server.requests[0].body) == {"ownerSlug": "Cornell-University", "datasetSlug": "arxiv"}


# --- data sets of the hub ---

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """All rows of the parts, in order."""
    parts = sorted(folder.glob("part-*.jsonl.gz"))
    return [json.loads(line) for part in parts for line in gzip.decompress(part.read_bytes()).splitlines()]


def hub(out: Path, server: Server) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own: the hub's client reads its environment when it is imported."""
    local = {
        "HF_ENDPOINT": server.url if server else "http://127.0.0.1:9",
        "HF_HOME": str(out.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [SCRIPT, "hub", "gsm8k", "--config", "default", "--part-rows", "8", "--out", out, *QUICK]
    return run_command(*command, env={**os.environ, **local})


def test_hub_set_from_a_throttled_hub(tmp_path: Path) -> None:
    with Server(hub_of("openai/gsm8k", {"train.jsonl": JSONL}), faulty="/resolve/.*jsonl|/api/datasets") as server:
        server.faults = [BUSY, "ok", BUSY, "ok", "ok", "ok", BUSY]
        result = hub(tmp_path / "out", server)
    assert result.returncode == 0, result.stderr
    assert not server.faults
    assert rows_in(tmp_path / "out") == ROWS
    assert (
        "gsm8k: openai/gsm8k, train; about 0.003 GB to fetch, free of charge, licence MIT; 0 rows are here"
        in result.stderr
    )
    state = json.loads((tmp_path / "out" / "state.json").read_text())
    assert (state["complete"], state["revision"], [part["rows"] for part in state["parts"]]) == (
        True,
        "0" * 40,
        [8, 8, 4],
    )


def test_hub_set_that_is_not_there(tmp_path: Path) -> None:
    with Server(hub_of("openai/other", {})) as server:
        result = hub(tmp_path / "out", server)
    assert (result.returncode, result.stderr.splitlines()[-1]) == (2, "download.py: openai/gsm8k is not there")


def test_hub_set_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(JSONL)
    out = tmp_path / "out"
    words = ("hub", "gsm8k", "--repo", tmp_path / "set", "--config", "default", "--part-rows", "8", "--out", out)
    assert run(*words, "--max-rows", "11") == 0
    assert rows_in(out) == ROWS[:11]
    (out / "part-00002.jsonl.gz.partial").write_bytes(b"what a kill leaves")
    assert run(*words) == 0
    assert rows_in(out) == ROWS
    (out / "part-00001.jsonl.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"part-00001\.jsonl\.gz has changed since it came; remove the folder and begin anew"
    ):
        run(*words)


def test_hub_set_without_that_split(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(JSONL)
    with pytest.raises(UserError, match=r"has no such data \(.*none.*\); see --config and --split"):
        run("hub", "gsm8k", "--repo", tmp_path, "--config", "default", "--split", "none", "--out", tmp_path / "out")


def test_two_sets_do_not_share_a_folder(tmp_path: Path) -> None:
    state = {"wanted": {"repo": "a/b", "config": None, "split": "train"}, "parts": [], "complete": False}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"holds \{'repo': 'a/b'.*; choose another --out"):
        run("hub", "gsm8k", "--out", tmp_path)


def test_help_is_quick_and_complete() -> None:
    result = run_command(SCRIPT, "--help")
    assert result.returncode == 0
    for command in ("arxiv-metadata", "arxiv-sources", "arxiv-papers", "hub"):
        assert command in result.stdout
