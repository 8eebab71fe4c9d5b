"""The sample is what its readable papers say, and each of its e-prints ends as expected."""

import gzip
import importlib.util
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from data_prep import external
from data_prep.mixture import is_gold
from data_prep.records import REASONS, parse_name
from tests.conftest import ROOT, SAMPLE, run_command

MAX_SAMPLE_BYTES = 1_000_000
METADATA_KEYS = "id submitter authors title comments journal-ref doi report-no categories license abstract versions update_date authors_parsed"
# Seen in the metadata, in our own code, or only with a flag: not in an e-print as such.
NOT_SHOWN = {"bad-metadata", "internal-error", "licence", "contaminated"}


def load_builder() -> ModuleType:
    """make_sample.py as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location("make_sample", SAMPLE / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unpacked(data: bytes) -> bytes:
    """What a gzip holds, as another zlib may pack it differently; anything else as it is."""
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile):
        return data


def contents(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder of archives, bulk tars opened and gzip undone, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.suffix != ".tar":
            found[path.name] = unpacked(data)
            continue
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                found[f"{path.name}:{member.name}"] = unpacked(file.read())
    return found


def expected_outcomes() -> dict[str, list[str]]:
    """arXiv id -> what each of its stored copies should become, as papers/*/paper.json say."""
    outcomes: dict[str, list[str]] = {}
    for path in sorted(SAMPLE.glob("papers/*/paper.json")):
        paper = json.loads(path.read_text(encoding="utf-8"))
        outcomes.setdefault(parse_name(path.parent.name)[0], []).extend(paper["expected"])
    return {name: sorted(reasons) for name, reasons in outcomes.items()}


def outcomes_in(prepared: Path) -> dict[str, list[str]]:
    """arXiv id -> what prepare_dataset.py made of it."""
    outcomes: dict[str, list[str]] = {}
    for name in ("train.jsonl", "val.jsonl", "rejects.jsonl"):
        for line in (prepared / name).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            outcomes.setdefault(record["id"], []).append(record.get("reason", "kept"))
    return {name: sorted(reasons) for name, reasons in outcomes.items()}


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, built again from its papers."""
    out = tmp_path_factory.mktemp("sample")
    result = run_command(SAMPLE / "make_sample.py", "--out", out)
    assert result.returncode == 0, result.stderr
    return out


def prepare(out: Path, *flags: str | Path) -> dict[str, list[str]]:
    """The outcomes of the sample under some flags."""
    options = ["--metadata", SAMPLE / "metadata.jsonl", "--sources", SAMPLE / "sources", "--out", out, *flags]
    result = run_command(ROOT / "data_prep" / "prepare_dataset.py", *options)
    assert result.returncode == 0, result.stderr
    return outcomes_in(out)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, prepared; what is missing is listed."""
    out = tmp_path_factory.mktemp("prepared")
    prepare(out, "--list-missing")
    return out


def test_committed_archives_are_what_the_papers_say(rebuilt: Path) -> None:
    old, new = contents(SAMPLE / "sources"), contents(rebuilt / "sources")
    assert list(old) == list(new)
    assert [name for name in old if old[name] != new[name]] == []
    assert (rebuilt / "metadata.jsonl").read_bytes() == (SAMPLE / "metadata.jsonl").read_bytes()


def test_a_changed_paper_is_noticed(tmp_path: Path) -> None:
    papers = tmp_path / "papers"
    shutil.copytree(SAMPLE / "papers", papers)
    with (papers / "math0303991" / "primes.tex").open("a") as file:
        file.write("% one more line\n")
    load_builder().build(papers, tmp_path / "out")
    old, new = contents(SAMPLE / "sources"), contents(tmp_path / "out" / "sources")
    assert [name for name in old if old[name] != new[name]] == ["arXiv_src_0303_001.tar:0303/math0303991.gz"]


def test_every_eprint_ends_as_expected(prepared: Path) -> None:
    assert outcomes_in(prepared) == expected_outcomes()


def test_every_reason_is_shown() -> None:
    shown = {reason for reasons in expected_outcomes().values() for reason in reasons}
    assert shown - {"kept"} == REASONS.keys() - NOT_SHOWN


def test_licences_and_benchmarks_reject_by_flag(tmp_path: Path) -> None:
    benchmark = tmp_path / "benchmark.jsonl"
    sentence = "Where a training set shows this sentence: Byte-pair encoding starts with bytes and repeats: join the most frequent "
    benchmark.write_text(json.dumps({"question": sentence + "pair of neighbouring tokens into a new token."}) + "\n")
    outcomes = prepare(tmp_path / "out", "--licences", "cc-by", "--decontaminate", benchmark)
    assert outcomes["2402.99001"] == ["contaminated"]
    assert [name for name, reasons in outcomes.items() if "kept" in reasons] == ["1506.99002", "1911.99001"]
    assert outcomes["0806.9901"] == ["licence"]


def test_good_papers_are_many_and_long_enough(prepared: Path) -> None:
    lines = [line for name in ("train.jsonl", "val.jsonl") for line in (prepared / name).read_text().splitlines()]
    lengths = [len(json.loads(line)["text"]) for line in lines]
    assert 40 <= len(lengths) <= 48
    assert min(lengths) > 3500
    assert max(lengths) < 9000
    assert sum(lengths) > 200_000


def test_metadata_have_the_form_of_the_snapshot() -> None:
    lines = (SAMPLE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[:-1]]
    assert {tuple(record) for record in records} == {tuple(METADATA_KEYS.split())}
    assert max(Counter(record["id"] for record in records).values()) == 1
    years = {record["versions"][0]["created"].split()[3] for record in records}
    assert {"1999", "2001", "2007", "2015", "2024"} <= years
    with pytest.raises(ValueError, match="control character"):
        json.loads(lines[-1] + "\n")


def test_web_pages_become_records(rebuilt: Path, tmp_path: Path) -> None:
    assert (rebuilt / "openwebmath.jsonl").read_bytes() == (SAMPLE / "openwebmath.jsonl").read_bytes()
    assert external.main(["openwebmath", "--input", str(SAMPLE / "openwebmath.jsonl"), "--out", str(tmp_path)]) == 0
    texts = [json.loads(line)["text"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(texts) == 18
    assert min(map(len, texts)) > 800
    assert not (tmp_path / "rejects.jsonl").read_text()


def test_sample_has_a_gold_paper(prepared: Path) -> None:
    lines = [line for name in ("train.jsonl", "val.jsonl") for line in (prepared / name).read_text().splitlines()]
    assert [record["id"] for record in map(json.loads, lines) if is_gold(record)] == ["1911.99001"]


def test_sample_stays_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < MAX_SAMPLE_BYTES
