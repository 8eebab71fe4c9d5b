"""What all commands share: one-line errors, whole files, arXiv ids, JSON lines, the closed list of reasons."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.cli import Parser, Progress, UserError, atomic_write, duration, need_file
from data_prep.records import REASONS, Rejection, json_line, parse_name, read_jsonl, training_text, write_jsonl

from .conftest import ROOT

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from data_prep.cli import UserError, run
def main(argv):
    {body}
run(main)
"""


def run_body(tmp_path: Path, body: str) -> "subprocess.CompletedProcess[str]":
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), body=body))
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("return 0", 0, ""),
        ("raise UserError('saw 3, need 4; give --four')", 2, "script.py: saw 3, need 4; give --four\n"),
        ("raise KeyboardInterrupt", 130, "script.py: interrupted; the same command goes on\n"),
        ("import errno; raise OSError(errno.ENOSPC, 'No space left on device')", 2, "the disk is full"),
    ],
)
def test_exit_codes(tmp_path: Path, body: str, code: int, says: str) -> None:
    done = run_body(tmp_path, body)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") <= 1


def test_our_bug_keeps_its_traceback(tmp_path: Path) -> None:
    done = run_body(tmp_path, "raise ZeroDivisionError")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), body="[print('x' * 99) for _ in range(9999)]; return 0"))
    done = subprocess.run(
        f"{sys.executable} {script} | head -1", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""


def test_parser_errors_are_one_line_and_abbreviations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="x.py")
    parser.add_argument("--vocab-size", type=int)
    with pytest.raises(SystemExit) as error:
        parser.parse_args(["--vocab", "3"])
    assert error.value.code == 2
    assert capsys.readouterr().err == "x.py: unrecognized arguments: --vocab 3; see x.py --help\n"


def test_atomic_write_leaves_the_old_file_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(TypeError, match="str"), atomic_write(path) as file:
        file.writelines(["half", 3])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_progress_line() -> None:
    progress = Progress("clean", total=237, unit="papers")
    progress.started_s -= 2
    progress.count = 120
    line = progress.line(kept="81%")
    assert line.startswith("clean: 120/237 papers, ")
    assert "ETA" in line
    assert line.endswith("kept 81%")


def test_durations() -> None:
    assert [duration(s) for s in (0.234, 75, 3700)] == ["0.2s", "1m15s", "1h01m"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("math0303002.gz", ("math/0303002", None)),
        ("0303/math0303002.gz", ("math/0303002", None)),
        ("1403.0037.gz", ("1403.0037", None)),
        ("1512.08928v2.tar.gz", ("1512.08928", 2)),
        ("hep-lat9107001v3.pdf", ("hep-lat/9107001", 3)),
        ("math.GT0309136", ("math.GT/0309136", None)),
        ("9912.00016.tex", ("9912.00016", None)),
        ("thesis.tar.gz", ("thesis", None)),
    ],
)
def test_ids_come_from_names_as_arxiv_gives_them(name: str, expected: tuple[str, int | None]) -> None:
    assert parse_name(name) == expected


def test_a_reason_outside_the_closed_list_is_our_bug() -> None:
    assert all(key == key.lower() and sentence for key, sentence in REASONS.items())
    with pytest.raises(ValueError, match="boredom is not a documented reason"):
        Rejection("boredom")


def test_jsonl_round_trip_and_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"id": "1", "text": "naïve\n$x^2$"}, {"id": "2", "text": "\u2028"}]
    assert write_jsonl(path, records) == 2
    assert list(read_jsonl(path)) == records
    assert path.read_text(encoding="utf-8").startswith(json_line(records[0]))
    path.write_text('{"id": 1}\n[2]\n')
    with pytest.raises(UserError, match="line 2: a JSON object is needed, this is list"):
        list(read_jsonl(path))
    path.write_text('{"id": 1}\n{"id":\n')
    with pytest.raises(UserError, match="line 2: not JSON"):
        list(read_jsonl(path))
    with pytest.raises(UserError, match=r"input .*b\.jsonl does not exist"):
        list(read_jsonl(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match=r"config .* does not exist"):
        need_file(tmp_path / "c", "config")


def test_training_text_reads_no_abstract_twice() -> None:
    record = {"title": "On x", "abstract": "We x.", "text": "Body.", "parts": {}}
    assert training_text(record) == "On x\n\nWe x.\n\nBody."
    own = {**record, "text": "\\begin{abstract}We x.\\end{abstract}\nBody."}
    assert training_text(own).count("We x.") == 1
    assert training_text({"text": "Only text."}) == "Only text."
