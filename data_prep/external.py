"""Bring public data sets into this project's records.

In: the files of one data set, as `download.py hub` or its home gives them: JSON lines or one JSON array (.jsonl, .json), or a
StackExchange dump (Posts.xml), each plain or .gz; files or folders of them.
Out, in --out: train.jsonl, val.jsonl, rejects.jsonl (each row that is in neither, with its reason) and manifest.json (the account).

    python data_prep/external.py openwebmath --input data/openwebmath --out dataset_train_val/openwebmath
    python data_prep/external.py stackexchange-dump --input math.stackexchange.com/Posts.xml --out dataset_train_val/stackexchange
    python data_prep/external.py gsm8k --input data/gsm8k --decontaminate gsm8k/test.jsonl --out dataset_train_val/gsm8k

Three forms of record come out. `--as text`: a record as of a paper (`data_prep/records.py`), which pack_tokens.py packs. `--as messages`:
a conversation, {"id", "source", "title", "messages": [{"role", "content"}, ...], "year", "licence"}, which post-training reads; the
first message is the user's, the last the assistant's, and they take turns. Where the data set's solutions end in an answer that can be
checked (GSM8K, MATH, MetaMathQA), "answer" has it. `--as preferences`: "prompt" (the messages before the last answer), "chosen" and
"rejected" (that answer and a worse one, each a list of one message) in place of "messages". Web pages are text, UltraFeedback and DPO-En
preferences, all else is messages by default.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import contextlib
import gzip
import hashlib
import json
import re
import sqlite3
import tempfile
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from data_prep.answers import final_answer
from data_prep.cli import EXIT_DONE, Parser, Progress, UserError, atomic_write, need_file, run
from data_prep.html_text import plain_text
from data_prep.records import json_line

# Every row that is not kept has one of these.
ROW_REASONS: dict[str, str] = {
    "bad-row": "not JSON, or without a field that the data set's rows have, or with one of another type",
    "too-short": "less text than --min-chars",
    "no-answer": "a question without an answer that is good enough, or a conversation that does not end with one",
    "no-preference": "no second answer that the data set says is worse than the first",
    "deleted": "deleted or disapproved in its own data set",
    "language": "not in the wanted language, as the data set says",
    "duplicate-id": "the same question was given before",
    "exact-duplicate": "the same words were given before",
    "contaminated": "contains a benchmark's question",
}

SUFFIXES = (".jsonl", ".json", ".xml")  # each plain or .gz
ANSWER_MIN_SCORE = 1  # votes up less votes down; an accepted answer may have none
MAX_ANSWERS = 3  # in a text; a conversation has the best one only
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's notes to a calculator: 48/2 = <<48/2=24>>24
OASST_ROLES = {"prompter": "user", "assistant": "assistant"}
CHAT_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


class Row(NamedTuple):
    """A row of a data set, and where it stands. `fields` is None for a line that is no JSON object."""

    place: str
    fields: dict[str, Any] | None


class Item(NamedTuple):
    """A document or a conversation on its way. A page has no `turns`; a conversation may have a `text` of its own."""

    id: str
    turns: tuple[tuple[str, str], ...] = ()  # (role, content)
    text: str = ""
    title: str = ""
    year: int | None = None
    licence: str | None = None
    tags: tuple[str, ...] = ()
    answer: str = ""  # the final answer of the solution, for a reward that can be verified
    rejected: str = ""  # an answer that is worse than the last turn's


class Reject(NamedTuple):
    """A row that is not kept, and why: a key of ROW_REASONS and a sentence."""

    id: str
    reason: str
    detail: str = ""


Outcome = Item | Reject


class BadRow(Exception):
    """A row that lacks what its kind has."""


def field(fields: Mapping[str, Any], name: str) -> str:
    """A field that must be a string."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadRow(f"{name} is {'absent' if value is None else type(value).__name__}, a string is needed")
    return value


def year_in(date: Any) -> int | None:
    """The year that a date begins with: '2011/03/15' -> 2011."""
    match = re.match(r"(?:19|20)\d\d", str(date))
    return int(match[0]) if match else None


# --- one row, one item ---


def web_page(place: str, fields: Mapping[str, Any]) -> Item:
    """OpenWebMath: url, text, date, metadata."""
    return Item(field(fields, "url"), text=field(fields, "text").strip(), year=year_in(fields.get("date")))


def slimpajama(place: str, fields: Mapping[str, Any]) -> Item:
    """SlimPajama: text, meta with the name of the part."""
    meta = fields.get("meta")
    part = meta.get("redpajama_set_name") if isinstance(meta, dict) else None
    return Item(place, text=field(fields, "text").strip(), tags=(part,) if isinstance(part, str) else ())


def question_answer(question_name: str, answer_name: str, tag_name: str) -> "RowConverter":
    """Data sets whose rows are a question and its answer, under the given names."""

    def convert(place: str, fields: Mapping[str, Any]) -> Item:
        turns = (("user", field(fields, question_name).strip()), ("assistant", field(fields, answer_name).strip()))
        tag = fields.get(tag_name)
        return Item(place, turns, tags=(tag,) if isinstance(tag, str) else ())

    return convert


def with_answer(convert: "RowConverter") -> "RowConverter":
    """A converter that also finds the final answer in the solution."""

    def convert_both(place: str, fields: Mapping[str, Any]) -> Item:
        item = convert(place, fields)
        return item._replace(answer=final_answer(item.turns[-1][1]) or "")

    return convert_both


def math(place: str, fields: Mapping[str, Any]) -> Item:
    """MATH: problem, solution, type; or, as a benchmark's file, context, chain_of_thought, category."""
    names = ("problem", "solution", "type") if "problem" in fields else ("context", "chain_of_thought", "category")
    return question_answer(*names)(place, fields)


def preference(place: str, fields: Mapping[str, Any]) -> Item:
    """UltraFeedback: chosen and rejected are whole conversations that differ in their last message; DPO-En: `conversations` is what
    stands before both, each one message of {"from", "value"}."""
    name = str(fields.get("prompt_id") or place)
    before = chat_turns(fields, "conversations") if "conversations" in fields else []
    chosen, rejected = (chat_turns(fields, side) for side in ("chosen", "rejected"))
    if not chosen or not rejected or chosen[:-1] != rejected[:-1] or rejected[-1][0] != "assistant":
        raise BadRow("chosen and rejected do not answer the same messages")
    return Item(name, (*before, *chosen), rejected=rejected[-1][1])


def chat_turns(fields: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    """A message or a list of messages, each {"role", "content"} or {"from", "value"}, as turns."""
    found = fields.get(name)
    messages = [found] if isinstance(found, dict) else found
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadRow(f"{name} is no list of messages")
    keys = [("from", "value") if "from" in message else ("role", "content") for message in messages]
    return [
        (CHAT_ROLES.get(str(message.get(role)), "?"), field(message, content).strip())
        for message, (role, content) in zip(messages, keys, strict=True)
    ]


def gsm8k(place: str, fields: Mapping[str, Any]) -> Item:
    """GSM8K: question, answer, without the notes to a calculator; the last line stays '#### 72', as its judges want it."""
    answer = CALCULATOR.sub("", field(fields, "answer")).strip()
    return Item(place, (("user", field(fields, "question").strip()), ("assistant", answer)))


def dolly(place: str, fields: Mapping[str, Any]) -> Item:
    """Dolly: instruction, context (often empty), response, category."""
    asked = "\n\n".join(
        part.strip() for part in (field(fields, "instruction"), fields.get("context") or "") if part.strip()
    )
    turns = (("user", asked), ("assistant", field(fields, "response").strip()))
    return Item(place, turns, tags=tuple(filter(None, [fields.get("category")])))


def ultrachat(place: str, fields: Mapping[str, Any]) -> Item:
    """UltraChat: `messages` with roles, or in its first edition `data`, strings in turn."""
    name = str(fields.get("prompt_id") or fields.get("id") or place)
    if isinstance(fields.get("messages"), list):
        turns = chat_turns(fields, "messages")
    elif isinstance(fields.get("data"), list):
        turns = [
            ("assistant" if number % 2 else "user", str(text).strip()) for number, text in enumerate(fields["data"])
        ]
    else:
        raise BadRow("neither messages nor data is a list")
    return Item(name, tuple(turns))


def each(convert: "RowConverter") -> "Converter":
    """A converter of rows, one by one."""

    def convert_all(rows: Iterable[Row], language: str) -> Iterator[Outcome]:
        for place, fields in rows:
            try:
                yield Reject(place, "bad-row", "not a JSON object") if fields is None else convert(place, fields)
            except BadRow as error:
                yield Reject(place, "bad-row", str(error))

    return convert_all


# --- OASST1: the best path through a tree of replies ---


def oasst(rows: Iterable[Row], language: str) -> Iterator[Outcome]:
    """OASST1, as trees (`prompt` with nested `replies`) or as the hub's flat rows with `parent_id`; one conversation a tree."""
    children: dict[str, list[dict[str, Any]]] = {}
    for place, fields in rows:
        if fields is None:
            yield Reject(place, "bad-row", "not a JSON object")
        elif isinstance(fields.get("prompt"), dict):
            yield tree_item(fields["prompt"], lambda message: message.get("replies") or [], language)
        elif isinstance(fields.get("message_id"), str):
            children.setdefault(str(fields.get("parent_id") or ""), []).append(fields)
        else:
            yield Reject(place, "bad-row", "neither a tree nor a message")
    for root in children.get("", []):
        yield tree_item(root, lambda message: children.get(str(message["message_id"]), []), language)


def tree_item(root: Mapping[str, Any], replies: Callable[[Mapping[str, Any]], Sequence[Any]], language: str) -> Outcome:
    """The conversation that follows the best reply at each turn: not deleted, not disapproved, least `rank`, first given."""
    name = str(root.get("message_id"))
    if root.get("deleted") or root.get("review_result") is False:
        return Reject(name, "deleted")
    if root.get("lang", language) != language:
        return Reject(name, "language", f"lang is {root['lang']}")
    path: list[Mapping[str, Any]] = []
    worst: list[Mapping[str, Any] | None] = []  # beside each message of the path, the last of those ranked below it
    ranked: list[Mapping[str, Any]] = [root]
    while ranked:
        path.append(ranked[0])
        worst.append(ranked[-1] if len(ranked) > 1 and ranked[-1].get("rank") is not None else None)
        kept = [r for r in replies(ranked[0]) if not r.get("deleted") and r.get("review_result") is not False]
        in_order = sorted(kept, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))
        ranked = [reply for reply in in_order if reply.get("rank") is not None] or in_order
    while path and path[-1].get("role") != "assistant":
        path.pop()  # a question that nobody answered
    try:
        turns = tuple(
            (OASST_ROLES.get(str(message.get("role")), "?"), field(message, "text").strip()) for message in path
        )
        beaten = worst[len(path) - 1] if path else None
        rejected = "" if beaten is None else field(beaten, "text").strip()
    except BadRow as error:
        return Reject(name, "bad-row", str(error))
    return Item(name, turns, rejected=rejected) if turns else Reject(name, "no-answer")


# --- StackExchange ---


def paired(rows: Iterable[Row], language: str) -> Iterator[Outcome]:
    """The hub's paired set: each row has a question and two answers, response_j the better one. Rows of a question are neighbours."""
    question, better, worse = Item(""), list[str](), list[str]()
    for place, fields in rows:
        try:
            if fields is None:
                raise BadRow("not a JSON object")
            name = paired_id(fields)
            good, bad = field(fields, "response_j").strip(), field(fields, "response_k").strip()
            asked = field(fields, "question").strip()
        except BadRow as error:
            yield Reject(place, "bad-row", str(error))
            continue
        if name != question.id:
            if question.id:
                yield answered(question, best_of(better, worse), worse)
            question, better, worse = Item(name, text=asked, year=year_in(fields.get("date"))), [], []
        better.append(good)
        worse.append(bad)
    if question.id:
        yield answered(question, best_of(better, worse), worse)


def paired_id(fields: Mapping[str, Any]) -> str:
    """'math.stackexchange.com/123': the site stands in the first address of `metadata`."""
    addresses = fields.get("metadata")
    site = urlsplit(str(addresses[0])).netloc if isinstance(addresses, list) and addresses else ""
    if not isinstance(fields.get("qid"), int | str):
        raise BadRow("qid is absent")
    return f"{site or 'stackexchange'}/{fields['qid']}"


def best_of(better: Sequence[str], worse: Iterable[str]) -> list[str]:
    """The answers of a question from its pairs, those that were never the worse one first."""
    beaten = set(worse)
    return sorted(dict.fromkeys(better), key=lambda answer: answer in beaten)


def answered(question: Item, answers: Sequence[str], beaten: Sequence[str] = ()) -> Outcome:
    """A question with its answers, best first; the conversation has the title in its question and one answer.

    Of the `beaten` ones, the first that is not that answer is the one to reject.
    """
    if not answers:
        return Reject(question.id, "no-answer")
    asked = "\n\n".join(part for part in (question.title, question.text) if part)
    text = "\n\n".join([question.text, *(f"Answer:\n\n{answer}" for answer in answers[:MAX_ANSWERS])])
    rejected = next((answer for answer in beaten if answer != answers[0]), "")
    return question._replace(turns=(("user", asked), ("assistant", answers[0])), text=text, rejected=rejected)


def dump(paths: Sequence[Path], progress: Progress) -> Iterator[Outcome]:
    """Questions of Posts.xml dumps with their accepted answer and the best-scored others.

    Answers come years after their questions, so the posts go through a database on disk: memory does not grow with the dump.
    """
    for path in paths:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.closing(sqlite3.connect(Path(folder, "posts.db"))) as database,
        ):
            database.execute(
                "create table question (id integer primary key, accepted, title, body, year, tags, licence)"
            )
            database.execute("create table answer (question integer, id integer, score integer, body)")
            load_posts(path, database, progress)
            database.execute("create index answers on answer (question, score desc, id)")
            site = path.parent.name or "stackexchange"
            yield from (
                dump_item(site, row, database) for row in database.execute("select * from question order by id")
            )


def load_posts(path: Path, database: sqlite3.Connection, progress: Progress) -> None:
    """Read a Posts.xml, row by row, into the tables."""
    try:
        with open_text(path, binary=True) as file:
            for _, row in ElementTree.iterparse(file):
                post = row.attrib
                if post.get("PostTypeId") == "1":
                    facts = (
                        post.get("AcceptedAnswerId"),
                        post.get("Title", ""),
                        post.get("Body", ""),
                        year_in(post.get("CreationDate")),
                    )
                    values = (int(post["Id"]), *facts, post.get("Tags", ""), post.get("ContentLicense"))
                    database.execute("insert or replace into question values (?, ?, ?, ?, ?, ?, ?)", values)
                elif post.get("PostTypeId") == "2":
                    numbers = (int(post["ParentId"]), int(post["Id"]), int(post.get("Score", 0)))
                    database.execute("insert into answer values (?, ?, ?, ?)", (*numbers, post.get("Body", "")))
                row.clear()
                progress.update()
    except (ElementTree.ParseError, KeyError, ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no Posts.xml of a StackExchange dump ({error!r})") from None


def dump_item(site: str, row: Sequence[Any], database: sqlite3.Connection) -> Outcome:
    """A question of the tables with its answers: the accepted one, then those with enough votes, best first."""
    number, accepted, title, body, year, tags, licence = row
    found = database.execute("select id, score, body from answer where question = ? order by score desc, id", (number,))
    answers = [
        (str(name) != str(accepted), text)
        for name, score, text in found
        if str(name) == str(accepted) or score >= ANSWER_MIN_SCORE
    ]
    texts = [plain_text(text) for _, text in sorted(answers, key=lambda answer: answer[0])]
    names = tuple(re.findall(r"[^<>|]+", tags))  # <a><b> in older dumps, |a|b| in newer ones
    question = Item(
        f"{site}/{number}", text=plain_text(body), title=title.strip(), year=year, licence=licence, tags=names
    )
    return answered(question, [text for text in texts if text])


# --- the data sets ---

RowConverter = Callable[[str, Mapping[str, Any]], Item]
Converter = Callable[[Iterable[Row], str], Iterator[Outcome]]


class Form(NamedTuple):
    """How a data set is read. `licence` is that of its rows where these do not say."""

    convert: Converter | None  # None: a dump, which is not made of JSON rows
    source: str
    licence: str
    record_form: str = "messages"
    ranked: bool = False  # whether it says which of two answers is better


FORMS: dict[str, Form] = {
    "openwebmath": Form(each(web_page), "openwebmath", "ODC-By 1.0", "text"),
    "slimpajama": Form(each(slimpajama), "slimpajama", "mixed", "text"),
    "stackexchange": Form(paired, "stackexchange", "CC BY-SA 4.0", ranked=True),
    "stackexchange-dump": Form(None, "stackexchange", "CC BY-SA 4.0"),
    "mathinstruct": Form(each(question_answer("instruction", "output", "source")), "mathinstruct", "MIT"),
    "metamathqa": Form(each(with_answer(question_answer("query", "response", "type"))), "metamathqa", "MIT"),
    "gsm8k": Form(each(with_answer(gsm8k)), "gsm8k", "MIT"),
    "math": Form(each(with_answer(math)), "math", "MIT"),
    "ultrachat": Form(each(ultrachat), "ultrachat", "MIT"),
    "dolly": Form(each(dolly), "dolly", "CC BY-SA 3.0"),
    "oasst1": Form(oasst, "oasst1", "Apache 2.0", ranked=True),
    "ultrafeedback": Form(each(preference), "ultrafeedback", "MIT", "preferences", ranked=True),
    "dpo-en": Form(each(preference), "dpo-en", "mixed", "preferences", ranked=True),
}


# --- reading ---


def find_files(inputs: Sequence[Path]) -> list[Path]:
    """The data files that were named or lie in the folders that were named, sorted within each."""
    found: list[Path] = []
    for path in inputs:
        if need_file(path, "input").is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.name.removesuffix(".gz").endswith(SUFFIXES) and p.name not in OUR_FILES
            )
            if not inside:
                raise UserError(f"{path} holds no file that ends in {', '.join(SUFFIXES)} (or these with .gz)")
            found += inside
        else:
            found.append(path)
    return found


OUR_FILES = {"state.json", "manifest.json", "rejects.jsonl"}  # of download.py and of this script


@contextlib.contextmanager
def open_text(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A file for reading, through gzip if its first bytes say so."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    opener: Callable[..., IO[Any]] = gzip.open if packed else open
    with opener(path, "rb") if binary else opener(path, "rt", encoding="utf-8-sig") as file:
        yield file


def read_rows(path: Path, source: str) -> Iterator[Row]:
    """The rows of a file of JSON lines (streaming) or of one JSON array (at once)."""
    try:
        with open_text(path) as file:
            first = file.read(1)
            while first.isspace():
                first = file.read(1)
            if first == "[":
                for number, fields in enumerate(json.loads(first + file.read()), 1):
                    yield Row(f"{source}/{path.name}#{number}", fields if isinstance(fields, dict) else None)
                return
            for number, line in enumerate(file, 1):
                if (first + line).strip():
                    yield Row(f"{source}/{path.name}#{number}", parsed(first + line))
                first = ""
    except (UnicodeDecodeError, OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} cannot be read to its end ({error}); fetch it again") from None


def parsed(line: str) -> dict[str, Any] | None:
    """The JSON object on a line, or None."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


# --- deciding ---


def conversation_fault(turns: Sequence[tuple[str, str]]) -> str:
    """Why turns are no conversation that starts with the user, ends with the assistant and alternates, and has
    words in each turn; '' if they are."""
    roles = [role for role, _ in turns]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if roles != [("user", "assistant")[number % 2] for number in range(len(roles))]:
        return "bad-row"
    if not roles or roles[-1] != "assistant":
        return "no-answer"
    return "" if all(text for _, text in turns) else "too-short"


class Judge:
    """Decides on items one after another, and remembers what it has seen: two hashes an item, some 130 bytes of memory."""

    def __init__(self, record_form: str, min_chars: int, benchmarks: Sequence[Path]) -> None:
        from data_prep.dedup import BenchmarkIndex

        self.record_form, self.min_chars = record_form, min_chars
        self.index = BenchmarkIndex.build(benchmarks) if benchmarks else None
        self.ids: set[int] = set()
        self.contents: set[int] = set()

    def check(self, item: Item) -> Reject | None:
        """None for an item to keep."""
        from data_prep.words import normalised_text

        content = content_of(item, self.record_form)
        if self.record_form != "text" and (reason := conversation_fault(item.turns)):
            return Reject(item.id, reason)
        if self.record_form == "preferences" and item.rejected in ("", item.turns[-1][1]):
            return Reject(item.id, "no-preference")
        try:
            content.encode("utf-8")
        except UnicodeEncodeError as error:
            return Reject(item.id, "bad-row", f"a lone surrogate at character {error.start}")
        if len(content) < self.min_chars:
            return Reject(item.id, "too-short", f"{len(content)} characters")
        if seen(self.ids, item.id):
            return Reject(item.id, "duplicate-id")
        if seen(self.contents, normalised_text(content)):
            return Reject(item.id, "exact-duplicate")
        if self.index is not None and (rejection := self.index.check(content)) is not None:
            return Reject(item.id, "contaminated", rejection.detail)
        return None


def seen(hashes: set[int], text: str) -> bool:
    """Whether a text was given before; it is from now on."""
    digest = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    before = digest in hashes
    hashes.add(digest)
    return before


def content_of(item: Item, record_form: str) -> str:
    """All words of an item, in the form in which it will be written."""
    if record_form == "text" and item.text:
        return "\n\n".join(part for part in (item.title, item.text) if part)
    texts = [text for _, text in item.turns]
    return "\n\n".join([*texts, item.rejected] if record_form == "preferences" else texts)


def record_of(item: Item, form: Form, record_form: str) -> dict[str, Any]:
    """An item as a line of train.jsonl or val.jsonl."""
    licence = item.licence or form.licence
    if record_form != "text":
        messages = [{"role": role, "content": text} for role, text in item.turns]
        facts = {"id": item.id, "source": form.source, "title": item.title}
        if record_form == "messages":
            said: dict[str, Any] = {"messages": messages, **({"answer": item.answer} if item.answer else {})}
        else:
            worse = {"role": "assistant", "content": item.rejected}
            said = {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": [worse]}
        return {**facts, **said, "year": item.year, "licence": licence}
    return {
        "id": item.id,
        "version": None,
        "source": form.source,
        "title": item.title,
        "abstract": "",
        "text": item.text or content_of(item, "text"),
        "categories": list(item.tags),
        "year": item.year,
        "licence": licence,
        "doi": None,
        "journal_ref": None,
        "parts": {},
        "warnings": [],
    }


# --- the run ---


def outcomes(name: str, files: Sequence[Path], language: str, progress: Progress) -> Iterator[Outcome]:
    """What becomes of the rows of all files, before the judge."""
    convert = FORMS[name].convert
    if convert is None:
        yield from dump(files, progress)
        return

    def rows() -> Iterator[Row]:
        for path in files:
            for row in read_rows(path, FORMS[name].source):
                progress.update()
                yield row

    yield from convert(rows(), language)


def convert_set(
    name: str, files: Sequence[Path], out: Path, judge: Judge, language: str, val_frac: float
) -> dict[str, Any]:
    """Write the records, the rejects and the manifest; returns the manifest."""
    from data_prep.dedup import split_of

    form = FORMS[name]
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        sinks = {
            split: stack.enter_context(atomic_write(out / f"{split}.jsonl")) for split in ("train", "val", "rejects")
        }
        progress = stack.enter_context(Progress(name, unit="rows"))
        for outcome in outcomes(name, files, language, progress):
            counts["in"] += 1
            reject = outcome if isinstance(outcome, Reject) else judge.check(outcome)
            if reject is not None:
                counts[reject.reason] += 1
                sinks["rejects"].write(
                    json_line({**reject._asdict(), "id": reject.id.encode("utf-8", "replace").decode()})
                )
            elif isinstance(outcome, Item):
                split = split_of(outcome.id, val_frac)
                counts[split] += 1
                sinks[split].write(json_line(record_of(outcome, form, judge.record_form)))
    rejected = {reason: counts[reason] for reason in ROW_REASONS if counts[reason]}
    if counts["in"] != counts["train"] + counts["val"] + sum(rejected.values()):
        raise AssertionError(f"items were lost: {counts}")
    manifest = {
        "source": form.source,
        "form": judge.record_form,
        "items": {
            "in": counts["in"],
            "train": counts["train"],
            "val": counts["val"],
            "rejected": sum(rejected.values()),
        },
        "reasons": rejected,
        "settings": {"set": name, "language": language, "val_frac": val_frac, "min_chars": judge.min_chars},
        "inputs": [path.name for path in files],
    }
    with atomic_write(out / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def funnel(manifest: Mapping[str, Any]) -> str:
    """The account in one line."""
    items = manifest["items"]
    why = ", ".join(f"{reason} {count:,}" for reason, count in manifest["reasons"].items())
    return f"{items['in']:,} in = {items['train']:,} train + {items['val']:,} val + {items['rejected']:,} rejected ({why or 'none'})"


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one data set."""
    parser = Parser(description=__doc__)
    parser.add_argument("name", choices=sorted(FORMS), metavar="SET", help=", ".join(sorted(FORMS)))
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="files of the set, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--as",
        dest="record_form",
        choices=("text", "messages", "preferences"),
        help="form of the records (default: the set's own)",
    )
    parser.add_argument("--language", default="en", help="of OASST1's conversations (default: %(default)s)")
    parser.add_argument("--min-chars", type=int, default=1, help="shortest text (default: %(default)s)")
    parser.add_argument("--val-frac", type=float, default=0.01, help="share of val.jsonl (default: %(default)s)")
    parser.add_argument(
        "--decontaminate", type=Path, nargs="+", default=[], help="benchmark files whose questions are kept out"
    )
    args = parser.parse_args(argv)
    form = FORMS[args.name]
    record_form = args.record_form or form.record_form
    if record_form != "text" and form.record_form == "text":
        raise UserError(f"{args.name} holds web pages, which are no conversations; leave out --as {record_form}")
    if record_form == "preferences" and not form.ranked:
        ranked = ", ".join(sorted(name for name, one in FORMS.items() if one.ranked))
        raise UserError(f"{args.name} does not say which answers are worse; --as preferences is for {ranked}")
    if not 0 <= args.val_frac <= 1:
        raise UserError(f"--val-frac {args.val_frac:g} is no share; choose from 0 to 1")
    files = find_files(args.input)
    judge = Judge(record_form, args.min_chars, args.decontaminate)
    manifest = convert_set(args.name, files, args.out, judge, args.language, args.val_frac)
    print(f"{args.name}: {funnel(manifest)}", file=sys.stderr)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
