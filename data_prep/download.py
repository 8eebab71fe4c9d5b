"""Fetch what the corpus is made of: arXiv's metadata and sources, single papers, public data sets.

In: a subcommand per kind of data. Out: files under --out, each under its name only when it is whole and its checksum is right.

    python data_prep/download.py arxiv-metadata --out data                      # Kaggle's snapshot: all papers' metadata
    python data_prep/download.py arxiv-sources --from 2014-03 --to 2014-03 --dry-run   # what it would take, in GB and dollars
    python data_prep/download.py arxiv-sources --from 2014-03 --to 2014-03 --out data/src
    python data_prep/download.py arxiv-papers 1706.03762 math/0303002 --contact you@example.org --out data/papers
    python data_prep/download.py hub gsm8k --out data/gsm8k

Each says how much it will fetch, and what that costs, before it starts. Interrupted, throttled (429, 503) or cut short, a transfer
goes on from where it was: by itself after a pause, and after a kill with the same command. What the texts may be used for is
another question: most arXiv papers may be read by programs but not passed on (info.arxiv.org/help/bulk_data.html).
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import argparse
import gzip
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.cli import EXIT_DONE, EXIT_USER, Parser, Progress, UserError, atomic_write, duration, need_file, run
from data_prep.records import NEW_ID, OLD_ID, json_line

USER_AGENT = "arxiv-to-model/0.1"
TIMEOUT_S = 60.0  # of a connection that sends nothing
CHUNK_BYTES = 1 << 20
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that another try may change
LONGEST_WAIT_S = 300.0
GB = 1_000_000_000

KAGGLE_DATASET = "Cornell-University/arxiv"
KAGGLE_FILE = "arxiv-metadata-oai-snapshot.json"
KAGGLE_ZIP_GB, KAGGLE_FILE_GB = 1.7, 5.0  # in 2026, about; the client says it exactly

# info.arxiv.org/help/bulk_data_s3.html: requester pays, region us-east-1. Prices: aws.amazon.com/s3/pricing, to anywhere
# outside that region, first 10 TB a month; within the region only the requests are paid.
S3_BUCKET, S3_REGION = "arxiv", "us-east-1"
S3_MANIFEST = "src/arXiv_src_manifest.xml"
DOLLARS_PER_GB, DOLLARS_PER_1000_REQUESTS = 0.09, 0.0004
MD5_FILE = "MD5SUMS"  # in the form of `md5sum --check`

ARXIV_SERVER = "https://export.arxiv.org"  # the server that arXiv sets aside for programs
ARXIV_WAIT_S = 3.0  # info.arxiv.org/help/api/tou.html: no more than one request every three seconds


class HubSet(NamedTuple):
    """A data set of the Hugging Face hub: what to ask for, and what its card says of it (2026)."""

    repo: str
    config: str | None
    split: str
    gb: float  # to fetch
    licence: str


HUB: dict[str, HubSet] = {
    "openwebmath": HubSet("open-web-math/open-web-math", None, "train", 16.4, "ODC-By 1.0"),
    "stackexchange": HubSet("lvwerra/stack-exchange-paired", None, "train", 23.0, "CC BY-SA 4.0"),
    "mathinstruct": HubSet("TIGER-Lab/MathInstruct", None, "train", 0.2, "MIT"),
    "metamathqa": HubSet("meta-math/MetaMathQA", None, "train", 0.4, "MIT"),
    "gsm8k": HubSet("openai/gsm8k", "main", "train", 0.003, "MIT"),
    "ultrachat": HubSet("HuggingFaceH4/ultrachat_200k", None, "train_sft", 0.8, "MIT"),
    "dolly": HubSet("databricks/databricks-dolly-15k", None, "train", 0.01, "CC BY-SA 3.0"),
    "oasst1": HubSet("OpenAssistant/oasst1", None, "train", 0.04, "Apache 2.0"),
    "slimpajama": HubSet("cerebras/SlimPajama-627B", None, "train", 895.0, "mixed, see its card"),
}
PART_ROWS = 50_000  # rows of a part file: some 100 MB of web pages, and the most that a kill costs


# --- transfers that survive ---


class Busy(Exception):
    """A server or a line that failed in a way that may pass. `wait_s` is what the server asks for."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Missing(Exception):
    """The server says that it has no such thing."""


class Patience(NamedTuple):
    """How often to try in vain, and how long to wait after the first failure; each further wait is twice as long."""

    tries: int
    first_wait_s: float

    def wait(self, failures: int, error: Busy) -> None:
        """Sleep after the n-th failure in a row; a UserError once that is one too many."""
        if failures >= self.tries:
            raise UserError(f"gave up after {failures} tries: {error}; the same command goes on from here")
        seconds = min(self.first_wait_s * 2 ** (failures - 1), LONGEST_WAIT_S) if error.wait_s is None else error.wait_s
        print(f"{error}; next try in {duration(seconds)}", file=sys.stderr)
        time.sleep(seconds)


class Body(NamedTuple):
    """What a server sends: from which byte on, how many bytes the whole has (if it says so), and the bytes."""

    start: int
    num_bytes: int | None
    chunks: Iterable[bytes]


Opener = Callable[[int], Body]  # asks for an object from a byte on; raises Busy, Missing or UserError


def partial_of(path: Path) -> Path:
    """Where a file is kept until it is whole."""
    return path.with_name(path.name + ".partial")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def md5_of(path: Path) -> str:
    """The MD5 of a file, in hexadecimal. It guards against accidents here, not against enemies."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def receive(body: Body, partial: Path, on_bytes: Callable[[int], None]) -> None:
    """Write a body to its place in the partial file; Busy if it ends before it should."""
    with partial.open("r+b" if body.start else "wb") as file:
        file.seek(body.start)
        file.truncate()
        for chunk in body.chunks:
            file.write(chunk)
            on_bytes(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        num_bytes = file.tell()
    if body.num_bytes is not None and num_bytes != body.num_bytes:
        raise Busy(f"{partial.stem} was cut short at {num_bytes:,} of {body.num_bytes:,} bytes")


def fetch(
    path: Path,
    open_from: Opener,
    patience: Patience,
    md5: str | None = None,
    num_bytes: int | None = None,
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Fetch an object to `path`, going on from what an earlier try left, as long as it takes and `patience` allows.

    Failures are counted in a row: a try that came further than any before begins the count anew. Wrong bytes are thrown away.
    Raises Missing, or UserError when patience ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, failures = partial_of(path), 0
    reached_bytes = size_of(partial)
    while True:
        had_bytes = size_of(partial)
        try:
            if num_bytes is None or had_bytes != num_bytes:
                receive(open_from(had_bytes), partial, on_bytes)
            found = md5 and md5_of(partial)
            if found != md5:
                partial.unlink()
                raise Busy(f"{path.name} came with the MD5 {found} in place of {md5}, and was thrown away")
            partial.replace(path)
            return
        except Busy as error:
            failures = 1 if size_of(partial) > reached_bytes else failures + 1
            reached_bytes = max(reached_bytes, size_of(partial))
            patience.wait(failures, error)


def retry_after_s(headers: Iterable[tuple[str, str]]) -> float | None:
    """Seconds that a Retry-After header asks for; a date in it is taken as no answer."""
    value = next((value for name, value in headers if name.lower() == "retry-after"), "")
    return float(value) if value.isdigit() else None


def refusal(status: int, headers: Iterable[tuple[str, str]], what: str) -> Exception:
    """What an HTTP status other than success means for us."""
    if status in PASSING_STATUS:
        return Busy(f"{what}: the server answers {status}", retry_after_s(headers))
    if status in (404, 410):
        return Missing(what)
    return UserError(f"{what}: the server answers {status} and will not change its mind")


def need_space(folder: Path, num_bytes: float) -> None:
    """A UserError if the disk that holds `folder` cannot take that much more."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    if num_bytes > free_bytes:
        raise UserError(
            f"{num_bytes / GB:,.1f} GB are to come and {free_bytes / GB:,.1f} GB are free at {existing}; make room"
        )


def say(sentence: str) -> None:
    """A line of the plan, or of what came of it."""
    print(sentence, file=sys.stderr, flush=True)


# --- arXiv's metadata, from Kaggle ---


def fetch_metadata(out: Path, patience: Patience) -> None:
    """Fetch Kaggle's snapshot through its own client, which resumes by itself, and unpack it (the zip's CRC is checked)."""
    target = out / KAGGLE_FILE
    if target.exists():
        say(f"{target} is here already; remove it to fetch the newest")
        return
    say(
        f"{KAGGLE_DATASET} on Kaggle: about {KAGGLE_ZIP_GB} GB to fetch, {KAGGLE_FILE_GB} GB when unpacked, free of charge"
    )
    need_space(out, (KAGGLE_ZIP_GB + KAGGLE_FILE_GB) * GB)
    out.mkdir(parents=True, exist_ok=True)
    api = kaggle_api()
    packed = out / f"{KAGGLE_DATASET.split('/')[1]}.zip"
    failures = 0
    while True:
        try:
            kaggle_download(api, out)
            unpack(packed, target)
            return
        except Busy as error:
            failures += 1
            patience.wait(failures, error)


def kaggle_api() -> Any:
    """Kaggle's client, signed in; a UserError that says how to, if it is not."""
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError:
        raise UserError("arxiv-metadata needs Kaggle's client: pip install kaggle") from None
    api = KaggleApi()
    try:
        api.authenticate()
    except SystemExit:
        raise UserError(
            "Kaggle wants to know who asks: create a token at kaggle.com/settings and put it where its client looks, "
            "~/.kaggle/kaggle.json or the variables KAGGLE_USERNAME and KAGGLE_KEY"
        ) from None
    return api


def kaggle_download(api: Any, out: Path) -> None:
    """One go of the client; what may pass becomes Busy."""
    import requests

    try:
        api.dataset_download_files(KAGGLE_DATASET, path=str(out), quiet=not sys.stderr.isatty())
    except requests.HTTPError as error:
        answer = error.response
        if answer is None:
            raise Busy(f"{KAGGLE_DATASET} on Kaggle: {error}") from None
        raise refusal(answer.status_code, answer.headers.items(), f"{KAGGLE_DATASET} on Kaggle") from None
    except (requests.RequestException, ValueError) as error:  # ValueError: its word for a file of the wrong length
        raise Busy(f"{KAGGLE_DATASET} on Kaggle: {error}") from None


def unpack(packed: Path, target: Path) -> None:
    """The snapshot out of its zip; a broken zip is thrown away and Busy raised, so that it is fetched again."""
    try:
        with (
            zipfile.ZipFile(packed) as archive,
            archive.open(KAGGLE_FILE) as source,
            atomic_write(target, "wb") as file,
        ):
            shutil.copyfileobj(source, file, CHUNK_BYTES)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        packed.unlink()
        raise Busy(f"{packed} was broken ({error}) and is thrown away") from None
    packed.unlink()
    say(f"{target}: {size_of(target) / GB:,.2f} GB")


# --- arXiv's sources, from Amazon S3 ---


class Tar(NamedTuple):
    """An entry of arXiv's manifest. `month` is '2014-03'."""

    key: str
    month: str
    num_bytes: int
    num_items: int
    md5: str

    @property
    def name(self) -> str:
        return self.key.rsplit("/", 1)[-1]


def month_of(yymm: str) -> str:
    """'9107' -> '1991-07', '0704' -> '2007-04': arXiv began in 1991."""
    return f"{'19' if yymm >= '91' else '20'}{yymm[:2]}-{yymm[2:]}"


def read_manifest(data: bytes) -> list[Tar]:
    """The tars that arXiv's manifest lists (XML, plain or gzipped), by month and name; a UserError if it is none."""
    try:
        root = ElementTree.fromstring(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        files = [{field.tag: field.text or "" for field in file} for file in root.iter("file")]
        tars = [
            Tar(f["filename"], month_of(f["yymm"]), int(f["size"]), int(f["num_items"]), f["md5sum"]) for f in files
        ]
    except (ElementTree.ParseError, KeyError, ValueError, OSError, EOFError) as error:
        raise UserError(f"this is no manifest of arXiv's source tars ({error!r})") from None
    return sorted(tars, key=lambda tar: (tar.month, tar.name))


def s3_client() -> Any:
    """A client for arXiv's bucket. Our own loop does the retries and the checksums, so that there is one account of them."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UserError("arxiv-sources needs Amazon's client: pip install boto3") from None
    config = Config(
        retries={"total_max_attempts": 1},
        response_checksum_validation="when_required",
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
    )
    return boto3.session.Session().client("s3", region_name=S3_REGION, config=config)


def s3_opener(client: Any, key: str) -> Opener:
    """How to ask for an object of arXiv's bucket, at our own expense."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    def chunks(stream: Any) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        try:
            yield from stream.iter_chunks(CHUNK_BYTES)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise Busy(f"{key}: the line broke ({error})") from None

    def open_from(start: int) -> Body:
        wanted = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = client.get_object(Bucket=S3_BUCKET, Key=key, RequestPayer="requester", **wanted)
        except (NoCredentialsError, PartialCredentialsError):
            raise UserError(
                "the bucket is requester pays: it needs an AWS account's credentials, see `aws configure`"
            ) from None
        except ClientError as error:
            facts = error.response["ResponseMetadata"]
            if facts["HTTPStatusCode"] == 416:  # more is here than there: the object has changed
                return open_from(0)
            raise refusal(
                facts["HTTPStatusCode"], facts.get("HTTPHeaders", {}).items(), f"s3://{S3_BUCKET}/{key}"
            ) from None
        except BotoCoreError as error:
            raise Busy(f"s3://{S3_BUCKET}/{key}: {error}") from None
        return Body(start, start + answer["ContentLength"], chunks(answer["Body"]))

    return open_from


def read_md5_file(folder: Path) -> dict[str, str]:
    """name -> MD5 of the tars that were verified when they came."""
    path = folder / MD5_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {name: md5 for md5, _, name in (line.partition("  ") for line in lines)}


def is_here(tar: Tar, folder: Path, verified: dict[str, str]) -> bool:
    """Whether the folder holds this very tar; one that was put there by other means is read through once."""
    path = folder / tar.name
    if size_of(path) != tar.num_bytes:
        return False
    if tar.name not in verified and md5_of(path) == tar.md5:
        note_md5(folder, tar, verified)
    return verified.get(tar.name) == tar.md5


def note_md5(folder: Path, tar: Tar, verified: dict[str, str]) -> None:
    """Remember that a tar is right: a line more, or the file anew where arXiv has replaced a tar."""
    replaced = tar.name in verified
    verified[tar.name] = tar.md5
    if not replaced:
        with (folder / MD5_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{tar.md5}  {tar.name}\n")
        return
    with atomic_write(folder / MD5_FILE) as file:
        file.writelines(f"{md5}  {name}\n" for name, md5 in verified.items())


def cost_dollars(num_bytes: int, num_requests: int, in_region: bool) -> float:
    """What Amazon will charge for a transfer out of the bucket."""
    transfer = 0.0 if in_region else num_bytes / GB * DOLLARS_PER_GB
    return transfer + num_requests / 1000 * DOLLARS_PER_1000_REQUESTS


def fetch_sources(args: argparse.Namespace, patience: Patience) -> None:
    """Fetch the source tars of some months, each verified against the manifest; with --dry-run only say what that takes."""
    out: Path = args.out
    client = None if args.dry_run and args.manifest else s3_client()
    tars = [
        tar for tar in read_manifest(manifest_bytes(args, client, patience)) if args.first <= tar.month <= args.last
    ]
    if not tars:
        raise UserError(f"the manifest has no tar from {args.first} to {args.last}; it begins with 1991-07")
    verified = read_md5_file(out)
    todo = [tar for tar in tars if not is_here(tar, out, verified)]
    todo_bytes = sum(max(tar.num_bytes - size_of(partial_of(out / tar.name)), 0) for tar in todo)
    dollars = cost_dollars(todo_bytes, len(todo), args.in_region)
    num_items, all_bytes = sum(tar.num_items for tar in tars), sum(tar.num_bytes for tar in tars)
    if args.dry_run:
        print("".join(f"{tar.name}\t{tar.num_items:>7,} items\t{tar.num_bytes / GB:6.3f} GB\n" for tar in tars), end="")
    say(
        f"{tars[0].month} to {tars[-1].month}: {len(tars):,} tars, {num_items:,} items, {all_bytes / GB:,.1f} GB; {len(tars) - len(todo):,} tars are here"
    )
    price = "requests only, within the region" if args.in_region else f"{todo_bytes / GB:,.1f} GB x ${DOLLARS_PER_GB}"
    say(
        f"to fetch: {len(todo):,} tars, {todo_bytes / GB:,.1f} GB; Amazon will charge you about ${dollars:,.2f} ({price})"
    )
    if args.dry_run:
        return
    if dollars > args.max_dollars:
        raise UserError(
            f"that is more than --max-dollars {args.max_dollars:g}; raise it, choose fewer months, or work in {S3_REGION}"
        )
    need_space(out, todo_bytes)
    with Progress("arxiv-sources", total=todo_bytes, unit="bytes") as progress:
        for tar in todo:
            fetch(out / tar.name, s3_opener(client, tar.key), patience, tar.md5, tar.num_bytes, progress.update)
            note_md5(out, tar, verified)
    say(f"{len(todo):,} tars are in {out}, each with the MD5 of the manifest")


def manifest_bytes(args: argparse.Namespace, client: Any, patience: Patience) -> bytes:
    """The manifest: the file that was given, else the bucket's newest, which is kept beside the tars."""
    if args.manifest is not None:
        return need_file(args.manifest, "manifest").read_bytes()
    path: Path = args.out / S3_MANIFEST.rsplit("/", 1)[-1]
    partial_of(path).unlink(missing_ok=True)  # no checksum tells whether an old half belongs to the newest
    fetch(path, s3_opener(client, S3_MANIFEST), patience)
    return path.read_bytes()


# --- single papers, from arXiv ---

# An e-print's suffix by its first bytes, as in arXiv's own tars. What is none of these is one file of text.
SUFFIXES = ((b"%PDF", ".pdf"), (b"\x1f\x8b", ".gz"), (b"PK\x03\x04", ".zip"), (b"", ".txt"))


def file_stem(name: str) -> str:
    """'math/0303002v2' -> 'math0303002v2', as arXiv names files; a UserError if it is no arXiv id."""
    if not (NEW_ID.fullmatch(name) or OLD_ID.fullmatch(name)):
        raise UserError(f"{name!r} is no arXiv id; they look like 1706.03762, 1706.03762v5 or math/0303002")
    return name.replace("/", "")


def http_opener(url: str, user_agent: str) -> Opener:
    """How to ask a web server for an object. It always begins at the start: e-prints are small, and made on demand."""

    def chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := answer.read(CHUNK_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise Busy(f"{url}: the line broke ({error})") from None

    def open_from(start: int) -> Body:
        try:
            answer = urllib.request.urlopen(
                urllib.request.Request(url, headers={"User-Agent": user_agent}), timeout=TIMEOUT_S
            )
        except urllib.error.HTTPError as error:
            raise refusal(error.code, error.headers.items(), url) from None
        except (OSError, http.client.HTTPException) as error:
            raise Busy(f"{url}: {error}") from None
        length = answer.headers["Content-Length"]
        return Body(0, int(length) if length else None, chunks(answer))

    return open_from


def fetch_papers(args: argparse.Namespace, patience: Patience) -> int:
    """Fetch single e-prints, politely; those that arXiv does not have are named at the end, and the exit code is 2."""
    out: Path = args.out
    stems = {file_stem(name): name for name in args.ids}
    todo = {
        stem: name
        for stem, name in stems.items()
        if not any((out / (stem + suffix)).exists() for _, suffix in SUFFIXES)
    }
    if min(args.wait_s, args.retry_wait_s) < ARXIV_WAIT_S and "arxiv.org" in args.server:
        raise UserError(
            f"{args.server} wants {ARXIV_WAIT_S:g} s between requests; raise --wait-s and --retry-wait-s to that"
        )
    say(
        f"{len(stems):,} papers, {len(todo):,} to fetch from {args.server}, one every {args.wait_s:g} s: at least {duration(args.wait_s * len(todo))}"
    )
    missing = []
    with Progress("arxiv-papers", total=len(todo), unit="papers") as progress:
        for number, (stem, name) in enumerate(todo.items()):
            if number:
                time.sleep(args.wait_s)
            try:
                fetch_paper(
                    out, stem, http_opener(f"{args.server}/e-print/{name}", f"{USER_AGENT} ({args.contact})"), patience
                )
            except Missing:
                missing.append(name)
            progress.update()
    if missing:
        say(f"{len(missing)} of {len(stems)} papers are not to be had: {', '.join(missing)}")
    return EXIT_USER if missing else EXIT_DONE


def fetch_paper(out: Path, stem: str, opener: Opener, patience: Patience) -> None:
    """One e-print, under the suffix that its first bytes ask for."""
    fresh = out / f"{stem}.fresh"
    partial_of(fresh).unlink(missing_ok=True)
    fetch(fresh, opener, patience)
    with fresh.open("rb") as file:
        head = file.read(8)
    fresh.replace(out / (stem + next(suffix for magic, suffix in SUFFIXES if head.startswith(magic))))


# --- public data sets, from the Hugging Face hub ---


def fetch_hub(args: argparse.Namespace, patience: Patience) -> None:
    """Stream a data set into parts of JSON lines; state.json knows where the stream stands, so a kill costs one part."""
    facts, out = HUB[args.name], args.out
    repo = args.repo or facts.repo
    wanted = {"repo": repo, "config": args.config or facts.config, "split": args.split or facts.split}
    state_path: Path = out / "state.json"
    state = read_state(state_path, wanted)
    if state["complete"]:
        say(f"{args.name}: all {num_rows_in(state):,} rows are in {out}")
        return
    size = f"about {facts.gb:g} GB to fetch, " if repo == facts.repo else ""
    say(
        f"{args.name}: {repo}, {wanted['split']}; {size}free of charge, licence {facts.licence}; {num_rows_in(state):,} rows are here"
    )
    if repo == facts.repo and args.max_rows is None:
        need_space(out, facts.gb * GB)
    failures = 0
    with Progress(args.name, unit="rows") as progress:
        while not state["complete"] and (args.max_rows is None or num_rows_in(state) < args.max_rows):
            num_parts = len(state["parts"])
            try:
                add_parts(out, state, args, progress)
            except hub_failures() as error:
                failures = 1 if len(state["parts"]) > num_parts else failures + 1
                patience.wait(failures, passing_failure(repo, error))
    say(f"{args.name}: {num_rows_in(state):,} rows are in {out}")


def num_rows_in(state: Mapping[str, Any]) -> int:
    """Rows that have been written."""
    return sum(part["rows"] for part in state["parts"])


def hub_failures() -> tuple[type[Exception], ...]:
    """What a broken line or an unwilling hub makes `datasets` raise."""
    from huggingface_hub.errors import HfHubHTTPError

    client_error = HfHubHTTPError.__mro__[1]  # of the HTTP client beneath, which the hub's library has changed twice
    return client_error, ConnectionError, TimeoutError


def passing_failure(repo: str, error: Exception) -> Busy:
    """A hub's failure as one that may pass; raises what will not, a UserError or Missing."""
    answer = getattr(error, "response", None)
    failure = Busy(f"{repo}: {error}") if answer is None else refusal(answer.status_code, answer.headers.items(), repo)
    if not isinstance(failure, Busy):
        raise failure from None
    return failure


def revision_of(repo: str) -> str | None:
    """The commit that the hub's main branch is at now, so that a resumed stream reads the same files; None for a folder."""
    from huggingface_hub import dataset_info

    return None if Path(repo).exists() else dataset_info(repo).sha


def read_state(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Where an earlier run of the same command stopped, or the beginning."""
    if not path.exists():
        return {"wanted": dict(wanted), "revision": None, "stream": None, "parts": [], "complete": False}
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state["wanted"] != dict(wanted):
        raise UserError(f"{path.parent} holds {state['wanted']}, not {dict(wanted)}; choose another --out")
    for part in state["parts"]:
        if sha256_of(need_file(path.parent / part["name"], "part")) != part["sha256"]:
            raise UserError(f"{path.parent / part['name']} has changed since it came; remove the folder and begin anew")
    return state


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_parts(out: Path, state: dict[str, Any], args: argparse.Namespace, progress: Progress) -> None:
    """Stream rows from where `state` stands, to the end or to --max-rows, and keep `state` true after each part."""
    from datasets import load_dataset

    repo, config, split = (state["wanted"][key] for key in ("repo", "config", "split"))
    state["revision"] = state["revision"] or revision_of(repo)
    try:
        stream = load_dataset(repo, config, split=split, revision=state["revision"], streaming=True)
    except (
        ValueError,
        FileNotFoundError,
    ) as error:  # its words for an unknown configuration or split, or no data at all
        raise UserError(f"{repo} has no such data ({str(error).splitlines()[0]}); see --config and --split") from None
    if state["stream"] is not None:
        stream.load_state_dict(state["stream"])
    rows: list[dict[str, Any]] = []
    for row in stream:
        rows.append(row)
        enough = args.max_rows is not None and num_rows_in(state) + len(rows) >= args.max_rows
        if enough or len(rows) == args.part_rows:
            write_part(out, state, rows, stream.state_dict())
            progress.update(len(rows))
            rows = []
        if enough:
            return
    state["complete"] = True
    write_part(out, state, rows, stream.state_dict())
    progress.update(len(rows))


def write_part(out: Path, state: dict[str, Any], rows: Sequence[Mapping[str, Any]], stream_state: Any) -> None:
    """A part file (if there are rows) and the state that includes it; the state comes last, so a kill between repeats the part."""
    if rows:
        name = f"part-{len(state['parts']):05d}.jsonl.gz"
        with atomic_write(out / name, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            file.writelines(json_line(row).encode("utf-8", "surrogatepass") for row in rows)
        state["parts"].append({"name": name, "rows": len(rows), "sha256": sha256_of(out / name)})
    state["stream"] = stream_state
    with atomic_write(out / "state.json") as file:
        file.write(json.dumps(state, indent=1) + "\n")


# --- the command line ---


def month(text: str) -> str:
    """A month as 2014-03, for argparse."""
    if not re.fullmatch(r"\d{4}-(?:0[1-9]|1[0-2])", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no month; write 2014-03")
    return text


def build_parser() -> Parser:
    """The parser with its subcommands."""
    parser = Parser(description=__doc__)
    common = Parser(add_help=False)
    common.add_argument(
        "--tries", type=int, default=8, help="failures in a row before giving up (default: %(default)s)"
    )
    common.add_argument(
        "--retry-wait-s",
        type=float,
        default=5.0,
        help="wait after the first failure, then twice as long (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    metadata = commands.add_parser("arxiv-metadata", parents=[common], help="metadata of all papers, from Kaggle")
    metadata.add_argument("--out", type=Path, default=Path("data"), help="folder (default: %(default)s)")

    sources = commands.add_parser(
        "arxiv-sources", parents=[common], help="source tars of some months, from Amazon S3, requester pays"
    )
    sources.add_argument(
        "--from", dest="first", type=month, default="2001-01", help="first month (default: %(default)s)"
    )
    sources.add_argument("--to", dest="last", type=month, default="2999-12", help="last month (default: the newest)")
    sources.add_argument("--out", type=Path, default=Path("data/src"), help="folder (default: %(default)s)")
    sources.add_argument(
        "--manifest", type=Path, help="arXiv_src_manifest.xml, plain or .gz (default: the bucket's newest)"
    )
    sources.add_argument(
        "--in-region", action="store_true", help=f"this machine is in {S3_REGION}, where transfers are free"
    )
    sources.add_argument("--max-dollars", type=float, default=10.0, help="refuse to cost more (default: %(default)s)")
    sources.add_argument("--dry-run", action="store_true", help="list tars, GB and dollars, and fetch none")

    papers = commands.add_parser("arxiv-papers", parents=[common], help="single e-prints, from arXiv itself")
    papers.add_argument("ids", nargs="+", metavar="ID", help="1706.03762, 1706.03762v5, math/0303002")
    papers.add_argument(
        "--contact", required=True, help="your mail address, which arXiv sees as part of the user agent"
    )
    papers.add_argument("--out", type=Path, default=Path("data/papers"), help="folder (default: %(default)s)")
    papers.add_argument("--server", default=ARXIV_SERVER, help="default: %(default)s")
    papers.add_argument(
        "--wait-s", type=float, default=ARXIV_WAIT_S, help="pause between requests (default: %(default)s)"
    )

    hub = commands.add_parser("hub", parents=[common], help="a public data set, streamed from the Hugging Face hub")
    hub.add_argument("name", choices=sorted(HUB), metavar="NAME", help=", ".join(sorted(HUB)))
    hub.add_argument("--out", type=Path, required=True, help="folder for part-NNNNN.jsonl.gz and state.json")
    hub.add_argument("--max-rows", type=int, help="stop after that many rows (default: all)")
    hub.add_argument("--part-rows", type=int, default=PART_ROWS, help="rows of a part (default: %(default)s)")
    hub.add_argument("--repo", help="another repository with the same columns, or a folder of its files")
    hub.add_argument("--config", help="its configuration (default: the data set's own)")
    hub.add_argument("--split", help="its split (default: the data set's training split)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch one kind of data."""
    args = build_parser().parse_args(argv)
    patience = Patience(args.tries, args.retry_wait_s)
    try:
        if args.command == "arxiv-papers":
            return fetch_papers(args, patience)
        if args.command == "arxiv-metadata":
            fetch_metadata(args.out, patience)
        elif args.command == "arxiv-sources":
            fetch_sources(args, patience)
        else:
            fetch_hub(args, patience)
    except Missing as error:
        raise UserError(f"{error} is not there") from None
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
