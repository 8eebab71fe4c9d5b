"""The account of a corpus as a page: the numbers are the manifest's, the file stands alone, and nothing in it breaks the HTML."""

import gzip
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from data_prep import report
from data_prep.cli import UserError
from data_prep.prepare_dataset import main as prepare
from tests.conftest import run_command
from tests.test_prepare_dataset import record, tex

VOID = {"meta", "br", "rect"}


class Checker(html.parser.HTMLParser):
    """Follows the tags of a page; fails where they do not nest, keeps its text and the addresses that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attributes if name in ("href", "src") and value]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID or (tag == "rect" and not self.get_starttag_text().endswith("/>")):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five kept papers of two years and two categories, one rejected for its category, one without metadata."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = folder / "sources"
    sources.mkdir()
    rows = []
    for number in range(7):
        (sources / f"1501.{number:05d}.gz").write_bytes(gzip.compress(tex(number)))
        created = f"Mon, 5 Jan {2015 + number % 2 * 3} 00:00:00 GMT"
        changes: dict[str, Any] = {
            "categories": "physics.optics <b>" if number == 5 else ("cs.LG" if number % 2 else "math.AG")
        }
        if number != 6:
            rows.append(record(f"1501.{number:05d}", versions=[{"version": "v1", "created": created}], **changes))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "out"
    prepare(
        ["--metadata", str(folder / "metadata.jsonl"), "--sources", str(sources), "--out", str(out), "--workers", "1"]
    )
    return out


def test_the_page_tells_the_manifests_numbers(corpus: Path) -> None:
    done = run_command("data_prep/report.py", corpus)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{corpus / 'report.html'}\n"
    checker = check((corpus / "report.html").read_text())
    text = re.sub(r"\s+", " ", " ".join(checker.text))
    assert "7 e-prints came in" in text
    assert "5 were kept (71.4%)" in text
    assert "none of the wanted categories" in text
    assert "physics.optics <b>" in text  # as text, not as a tag
    assert "an e-print whose id the metadata does not hold" in text
    for year in ("2015", "2018"):
        assert f"{year}: " in text
    assert "5 left" in text


def test_the_page_stands_alone(corpus: Path) -> None:
    page = report.page(corpus, json.loads((corpus / "manifest.json").read_text()), {})
    assert "<script" not in page
    assert all(address.startswith("https://arxiv.org/abs/") for address in check(page).addresses)
    assert "url(" not in page


def test_an_empty_corpus_has_a_page(tmp_path: Path) -> None:
    tally = {"in": 0, "kept": 0, "bytes_in": 0, "chars_out": 0}
    manifest = {
        "papers": {"in": 0, "kept": 0, "train": 0, "val": 0, "rejected": 0},
        "bytes_in": 0,
        "chars_out": 0,
        "tokens_out_estimated": 0,
        "funnel": [{"stage": "metadata", "in": 0, "dropped": {}, "left": 0, "bytes_left": 0}],
        "reasons": {},
        "samples": {},
        "years": {"unknown": tally},
        "categories": {},
        "lengths": [{"from_chars": 0, "papers": 0}],
        "leak_check": "leak check",
        "metadata": {"lines": 1, "ids": 1, "kept": 1, "rejected": {}, "ids_without_eprint": 1, "odd": ["a < b"]},
        "settings": {"--limit": None},
        "files": {},
    }
    assert "0 e-prints came in" in " ".join(check(report.page(tmp_path, manifest, {})).text)


def test_packed_tokens_replace_the_estimate(corpus: Path) -> None:
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert "(estimated" in report.tokens_sentence(corpus, manifest)
    (corpus / "tokens").mkdir()
    (corpus / "tokens/train-arxiv.json").write_text('{"part": "text", "num_tokens": 12000}')
    (corpus / "tokens/train-arxiv.prose.json").write_text('{"part": "prose", "num_tokens": 999}')
    (corpus / "tokens/val-arxiv.json").write_text('{"part": "text", "num_tokens": 345}')
    assert report.tokens_sentence(corpus, manifest) == "12,345 tokens"


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(0, [0]), (1, [0, 1]), (7, [0, 2, 4, 6]), (253, [0, 50, 100, 150, 200, 250]), (2.7e6, [0, 500_000])],
)
def test_ticks_are_round(most: float, ticks: list[int]) -> None:
    assert report.round_ticks(most)[: len(ticks)] == ticks
    assert len(report.round_ticks(most)) <= 7


def test_a_folder_without_a_corpus_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished corpus"):
        report.main([str(tmp_path)])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        report.main([str(tmp_path)])
    assert not (tmp_path / "report.html").exists()
