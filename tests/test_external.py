"""External data sets become records: each form, each reason, and the real files where they lie beside this checkout."""

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_prep import external
from data_prep.cli import UserError
from data_prep.html_text import plain_text
from data_prep.records import training_text
from tests.conftest import ROOT, need_shared, run_command


def convert(name: str, source: Path | Sequence[Any], out: Path, *flags: str | Path) -> list[dict[str, Any]]:
    """The records of a data set, train and val together; rows that are given as objects are written to a file first."""
    if not isinstance(source, Path):
        path = out / "rows.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in source))
        source = path
    assert external.main([name, "--input", str(source), "--out", str(out / "out"), *map(str, flags)]) == 0
    return [row for split in ("train", "val") for row in lines(out / "out" / f"{split}.jsonl")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasons(out: Path) -> list[str]:
    """Why rows were rejected, in their order."""
    return [row["reason"] for row in lines(out / "out" / "rejects.jsonl")]


def said(record: dict[str, Any]) -> list[tuple[str, str]]:
    """A record's conversation as pairs."""
    return [(message["role"], message["content"]) for message in record["messages"]]


# --- HTML ---

HTML_CASES = {
    "formulas are kept": (
        "<p>If $a &lt; b$ then $$a_1 \\\\ b^{2}$$ and \\(x&amp;y\\).</p>",
        "If $a < b$ then $$a_1 \\\\ b^{2}$$ and \\(x&y\\).",
    ),
    "environments keep their lines": (
        "<p>\\begin{align}\na &amp;= b \\\\\nc &amp;= d\n\\end{align}</p>",
        "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
    ),
    "paragraphs": ("<p>One\ntwo.</p>\n\n<p>Three.</p>\n", "One\ntwo.\n\nThree."),
    "line breaks": ("<p>one<br>two<br/>three</p>", "one\ntwo\nthree"),
    "emphasis and links leave their words": (
        '<p>a <em>b</em> <a href="http://x">c</a> <strong>d</strong></p>',
        "a b c d",
    ),
    "lists": ("<ul><li>a</li><li>b</li></ul><ol><li>c</li><li>d</li></ol>", "- a\n- b\n1. c\n2. d"),
    "nested lists": ("<ul><li>a<ol><li>b</li></ol></li><li>c</li></ul>", "- a\n  1. b\n- c"),
    "code": (
        "<p>Use <code>x &lt; 3</code>:</p><pre><code>if x:\n    y()\n</code></pre>",
        "Use `x < 3`:\n\n```\nif x:\n    y()\n```",
    ),
    "quotations": ("<blockquote><p>a</p><p>b</p></blockquote><p>c</p>", "> a\n\n> b\n\nc"),
    "tables": ("<table><tr><th>n</th><th>n!</th></tr><tr><td>3</td><td>6</td></tr></table>", "n | n!\n3 | 6"),
    "raised and lowered": ("<p>x<sup>2</sup>, a<sub>n</sub></p>", "x^{2}, a_{n}"),
    "pictures and scripts are dropped": ('<p>a<img src="x.png" alt="y">b</p><script>alert("<p>")</script>', "ab"),
    "unclosed elements": ("<p>a<li>b</ul></blockquote><pre>c", "a\n\n- b\n\n```\nc\n```"),
    "no HTML at all": ("1 < 2 & 3", "1 < 2 & 3"),
    "nothing": ("<p> </p>", ""),
}


@pytest.mark.parametrize(("html", "text"), HTML_CASES.values(), ids=HTML_CASES.keys())
def test_html(html: str, text: str) -> None:
    assert plain_text(html) == text


def test_deep_html_stays_small() -> None:
    text = plain_text("<blockquote>x<ul><li>y" * 20_000)
    assert text.count("x") == text.count("y") == 20_000
    assert len(text) < 100 * 20_000


# --- each data set ---


def test_openwebmath(tmp_path: Path) -> None:
    page = {
        "url": "http://example.org/a",
        "text": "Let $x=1$.\n\nThen $x^2=1$.",
        "date": "2021-03-04T00:00:00",
        "metadata": "{}",
    }
    [record] = convert("openwebmath", [page], tmp_path)
    assert (record["id"], record["source"], record["year"], record["licence"]) == (
        page["url"],
        "openwebmath",
        2021,
        "ODC-By 1.0",
    )
    assert training_text(record) == page["text"]


def test_slimpajama(tmp_path: Path) -> None:
    [record] = convert("slimpajama", [{"text": "A page.", "meta": {"redpajama_set_name": "RedPajamaC4"}}], tmp_path)
    assert (record["id"], record["categories"], training_text(record)) == (
        "slimpajama/rows.jsonl#1",
        ["RedPajamaC4"],
        "A page.",
    )


ANSWERED = [
    (
        "mathinstruct",
        {"source": "data/CoT/x.json", "instruction": "Add 1 << 2.", "output": "5 <<kept>>"},
        "Add 1 << 2.",
        "5 <<kept>>",
    ),
    (
        "metamathqa",
        {"query": "2+2?", "response": "4\nThe answer is: 4", "type": "GSM_SV"},
        "2+2?",
        "4\nThe answer is: 4",
    ),
    ("gsm8k", {"question": "Half of 48?", "answer": "48/2=<<48/2=24>>24\n#### 24"}, "Half of 48?", "48/2=24\n#### 24"),
    (
        "dolly",
        {"instruction": "Sum up.", "context": "A text.", "response": "A sum.", "category": "qa"},
        "Sum up.\n\nA text.",
        "A sum.",
    ),
    ("dolly", {"instruction": "Hello?", "context": "", "response": "Yes."}, "Hello?", "Yes."),
]


@pytest.mark.parametrize(("name", "row", "question", "answer"), ANSWERED)
def test_questions_with_answers(name: str, row: dict[str, str], question: str, answer: str, tmp_path: Path) -> None:
    [record] = convert(name, [row], tmp_path)
    assert said(record) == [("user", question), ("assistant", answer)]
    assert record["source"] == name
    [record] = convert(name, [row], tmp_path, "--as", "text")
    assert training_text(record) == f"{question}\n\n{answer}"


def test_ultrachat_in_both_editions(tmp_path: Path) -> None:
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", "Bye."), ("assistant", "Farewell.")]
    new = {"prompt_id": "a", "messages": [{"role": role, "content": text} for role, text in turns]}
    old = {"id": "b", "data": [f"{text} Again." for _, text in turns]}
    records = convert("ultrachat", [new, old], tmp_path)
    assert said(records[0]) == turns
    assert said(records[1]) == [(role, f"{text} Again.") for role, text in turns]


def message(name: str, role: str, text: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    return {"message_id": name, "role": role, "text": text, "lang": "en", "rank": rank, "replies": [], **more}


def oasst_tree() -> dict[str, Any]:
    """A question with a deleted, a second-best, a best and an unranked answer; the best one goes on, to a question without answer."""
    root = message("q", "prompter", "Why?")
    best = message("b", "assistant", "Because.", 0)
    best["replies"] = [message("r", "prompter", "And then?")]
    worse = [message("d", "assistant", "Deleted.", 0, deleted=True), message("s", "assistant", "Perhaps.", 1)]
    root["replies"] = [message("u", "assistant", "Unranked."), *worse, best]
    return root


def flat(root: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    """A tree as the hub's rows."""
    row = {key: value for key, value in root.items() if key != "replies"} | {"parent_id": parent}
    return [row] + [below for reply in root["replies"] for below in flat(reply, root["message_id"])]


def test_oasst_best_path_from_trees_and_from_rows(tmp_path: Path) -> None:
    tree = {"message_tree_id": "q", "tree_state": "ready_for_export", "prompt": oasst_tree()}
    expected = [("user", "Why?"), ("assistant", "Because.")]
    assert [said(record) for record in convert("oasst1", [tree], tmp_path)] == [expected]
    assert [said(record) for record in convert("oasst1", flat(oasst_tree()), tmp_path)] == [expected]


def test_oasst_rejects(tmp_path: Path) -> None:
    german = message("g", "prompter", "Warum?", lang="de")
    lonely, gone = message("l", "prompter", "Anyone?"), message("x", "prompter", "No.", deleted=True)
    assert convert("oasst1", [{"prompt": german}, {"prompt": lonely}, {"prompt": gone}, {"other": 1}], tmp_path) == []
    assert reasons(tmp_path) == ["language", "no-answer", "deleted", "bad-row"]


def pair(number: int, good: str, bad: str) -> dict[str, Any]:
    site = ["https://math.stackexchange.com/questions/7", "https://math.stackexchange.com"]
    return {
        "qid": number,
        "question": f"Question {number}?",
        "response_j": good,
        "response_k": bad,
        "date": "2011/03/15",
        "metadata": site,
    }


def test_paired_stackexchange_takes_the_unbeaten_answer(tmp_path: Path) -> None:
    rows = [pair(1, "B", "C"), pair(1, "A", "B"), pair(1, "A", "C"), pair(2, "D", "E")]
    records = convert("stackexchange", rows, tmp_path)
    assert [said(record) for record in records] == [
        [("user", "Question 1?"), ("assistant", "A")],
        [("user", "Question 2?"), ("assistant", "D")],
    ]
    assert [(record["id"], record["year"]) for record in records] == [
        (f"math.stackexchange.com/{n}", 2011) for n in (1, 2)
    ]
    texts = [training_text(record) for record in convert("stackexchange", rows, tmp_path, "--as", "text")]
    assert texts[0] == "Question 1?\n\nAnswer:\n\nA\n\nAnswer:\n\nB"


POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="9" PostTypeId="2" ParentId="1" Score="1" Body="&lt;p&gt;Good: $x&amp;lt;1$.&lt;/p&gt;" />
  <row Id="1" PostTypeId="1" AcceptedAnswerId="4" CreationDate="2012-01-02T00:00:00" Title="What is $x$?" Tags="&lt;algebra&gt;"
    Body="&lt;p&gt;I see $x$.&lt;/p&gt;" ContentLicense="CC BY-SA 3.0" />
  <row Id="2" PostTypeId="2" ParentId="1" Score="9" Body="&lt;p&gt;Best.&lt;/p&gt;" />
  <row Id="3" PostTypeId="2" ParentId="1" Score="-2" Body="&lt;p&gt;Bad.&lt;/p&gt;" />
  <row Id="4" PostTypeId="2" ParentId="1" Score="0" Body="&lt;p&gt;Accepted.&lt;/p&gt;" />
  <row Id="5" PostTypeId="1" Title="Alone" Body="&lt;p&gt;?&lt;/p&gt;" />
  <row Id="6" PostTypeId="4" Body="a wiki page" />
  <row Id="7" PostTypeId="1" Title="Poorly answered" Body="&lt;p&gt;?&lt;/p&gt;" />
  <row Id="8" PostTypeId="2" ParentId="7" Score="0" Body="&lt;p&gt;No votes.&lt;/p&gt;" />
</posts>"""


def test_stackexchange_dump(tmp_path: Path) -> None:
    posts = tmp_path / "math.stackexchange.com" / "Posts.xml"
    posts.parent.mkdir()
    posts.write_text(POSTS, encoding="utf-8-sig")
    [record] = convert("stackexchange-dump", posts, tmp_path)
    assert said(record) == [("user", "What is $x$?\n\nI see $x$."), ("assistant", "Accepted.")]
    assert (record["id"], record["year"], record["licence"]) == ("math.stackexchange.com/1", 2012, "CC BY-SA 3.0")
    assert reasons(tmp_path) == ["no-answer", "no-answer"]
    [record] = convert("stackexchange-dump", posts, tmp_path, "--as", "text")
    answers = ["Accepted.", "Best.", "Good: $x<1$."]
    assert training_text(record) == "\n\n".join(
        ["What is $x$?", "I see $x$.", *(f"Answer:\n\n{answer}" for answer in answers)]
    )
    assert record["categories"] == ["algebra"]


# --- reasons, files, mistakes ---


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    benchmark = tmp_path / "test.jsonl"
    question = "A farmer has seven red hens, five white ducks and three old geese; how many birds are there in all?"
    benchmark.write_text(json.dumps({"question": question}) + "\n")
    rows: list[Any] = [
        {"question": "One?", "answer": "Two."},
        {"question": "ONE ?", "answer": "two"},
        {"question": question, "answer": "15"},
        {"question": "", "answer": "What?"},
        {"question": "A bad \ud800 half?", "answer": "Yes."},
        {"question": 3, "answer": "x"},
        {"query": "?"},
        "{broken",
        "[1, 2]",
    ]
    records = convert("gsm8k", rows, tmp_path, "--decontaminate", benchmark)
    assert [said(record)[0][1] for record in records] == ["One?"]
    assert reasons(tmp_path) == ["exact-duplicate", "contaminated", "too-short"] + ["bad-row"] * 5
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["items"] == {"in": 9, "train": 1, "val": 0, "rejected": 8}
    assert sum(manifest["reasons"].values()) == 8
    assert [row["detail"] for row in lines(tmp_path / "out" / "rejects.jsonl")][
        4
    ] == "question is int, a string is needed"


def test_the_same_id_twice(tmp_path: Path) -> None:
    pages = [{"url": "u", "text": text} for text in ("one text", "another text")]
    assert len(convert("openwebmath", pages, tmp_path)) == 1
    assert reasons(tmp_path) == ["duplicate-id"]


@pytest.mark.parametrize("form", ["lines", "array", "lines.gz"])
def test_files_in_every_form(form: str, tmp_path: Path) -> None:
    rows = [{"query": f"{n}?", "response": str(n)} for n in range(20)]
    text = json.dumps(rows, indent=1) if form == "array" else "\n".join(map(json.dumps, rows))
    path = tmp_path / "in" / ("set.json" if form == "array" else "set.jsonl" + form.removeprefix("lines"))
    path.parent.mkdir()
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    (tmp_path / "in" / "state.json").write_text("{}")
    records = convert("metamathqa", tmp_path / "in", tmp_path, "--val-frac", "0.4")
    assert sorted(said(record)[1][1] for record in records) == sorted(map(str, range(20)))
    assert lines(tmp_path / "out" / "val.jsonl") != []
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    convert("metamathqa", tmp_path / "in", tmp_path, "--val-frac", "0.4")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_mistakes_are_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"query": "a", "response": "b"}\n' * 100)[:40])
    (tmp_path / "page.xml").write_text("<html><br></html>")
    for words, sentence in (
        (["openwebmath", "--input", tmp_path / "none"], "input .*none does not exist"),
        (["openwebmath", "--input", tmp_path / "empty"], "holds no file that ends in .jsonl, .json, .xml"),
        (["openwebmath", "--input", tmp_path, "--as", "messages"], "web pages, which are no conversations"),
        (["metamathqa", "--input", tmp_path / "cut.jsonl.gz"], "cannot be read to its end .*; fetch it again"),
        (["stackexchange-dump", "--input", tmp_path / "page.xml"], "is no Posts.xml of a StackExchange dump"),
        (["gsm8k", "--input", tmp_path / "page.xml", "--val-frac", "2"], "--val-frac 2 is no share"),
    ):
        with pytest.raises(UserError, match=sentence):
            external.main([*map(str, words), "--out", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/*"))


def test_as_a_script() -> None:
    result = run_command(ROOT / "data_prep" / "external.py", "--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in external.FORMS)


# --- the real files ---

MARKUP_OUTSIDE_OF_CODE = re.compile(r"</?(?:p|a|em|strong|li|ul|ol|blockquote|pre|code)\b[^>]*>|&(?:lt|gt|amp|quot);")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def test_no_markup_is_left_in_real_posts(tmp_path: Path) -> None:
    posts = need_shared("datasets", "stackexchange", "Posts.xml.gz")
    texts = [
        CODE.sub("", text) for record in convert("stackexchange-dump", posts, tmp_path) for _, text in said(record)
    ]
    assert [found for text in texts for found in MARKUP_OUTSIDE_OF_CODE.findall(text)] == []


REAL = [
    ("stackexchange-dump", "stackexchange/Posts.xml.gz", 130, {"no-answer": 51}),
    ("oasst1", "chat/oasst_trees_100.jsonl.gz", 100, {}),
    ("gsm8k", "gsm8k/test.jsonl.gz", 1319, {}),
    ("dolly", "chat/dolly_4.jsonl", 4, {}),
    ("ultrachat", "chat/ultrachat_messages_2.jsonl", 2, {}),
    ("metamathqa", "chat/metamathqa_1.jsonl", 1, {}),
]


@pytest.mark.parametrize(("name", "path", "kept", "rejected"), REAL, ids=[name for name, *_ in REAL])
def test_real_files(name: str, path: str, kept: int, rejected: dict[str, int], tmp_path: Path) -> None:
    records = convert(name, need_shared("datasets", path), tmp_path)
    assert len(records) == kept
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["reasons"] == rejected
    for record in records:
        roles = [role for role, _ in said(record)]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(text == text.strip() for _, text in said(record))
