"""Pack the records of train.jsonl and val.jsonl into flat files of tokens, which training reads as memory maps.

In: a dataset folder with train.jsonl and val.jsonl (either may be absent), and a tokenizer's folder.
Out: DATASET/tokens/<split>-<source>@<group>.bin, .idx, .json for each source and group of documents (mixture.py has the groups), and
<split>-<source>.prose.bin for abstracts, introductions and conclusions alone (token_files.py has the form). Each document is
BOS + training_text(record) + EOS; no document is cut, and characters that spell a special token in a text stay text.

The input is cut into shards of whole lines; processes tokenize shards, this process writes them in order and notes after each how far
it is. Killed and started again, it goes on from the last shard that reached the disk; what it wrote before is used if input,
tokenizer and flags are the same, else it begins anew. A file gets its name when it is complete. Memory does not grow with the input.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from argparse import BooleanOptionalAction
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data_prep.cli import EXIT_DONE, EXIT_INTERRUPTED, Parser, Progress, UserError, atomic_write, duration, run
from data_prep.mixture import group_of
from data_prep.token_files import (
    FULL_TEXT,
    HEADER_BYTES,
    INDEX_DTYPE,
    PARTS,
    TOKEN_DTYPE,
    Batch,
    Header,
    TokenFile,
    TokenizerFacts,
    TokenSequences,
    check_tokenizer_fits,
    checked_text,
    open_split,
    open_token_file,
    packing_encoder,
    read_json,
    tokenizer_facts,
    tokenizer_fingerprint,
)

__all__ = [
    "Batch",
    "TokenFile",
    "TokenSequences",
    "check_tokenizer_fits",
    "open_split",
    "pack",
    "tokenizer_fingerprint",
]

SPLITS = ("train", "val")
SHARD_BYTES = 4 << 20  # of JSONL: about 1.5 s of work for one process, and as much is done twice after a kill
BATCH_TEXT_CHARS = 1 << 18  # texts that go to the tokenizer together
DIGEST_STEP_BYTES, DIGEST_SAMPLE_BYTES = 8 << 20, 4 << 10  # an input is known again by 4 KiB of every 8 MiB


class Shard(NamedTuple):
    """A run of whole lines of the input: bytes [start, end)."""

    path: Path
    start: int
    end: int


class Key(NamedTuple):
    """Which output a document goes to: its source, the part of it, and its group (mixture.group_of), "" where all go together."""

    source: str
    part: str
    group: str


class Packed(NamedTuple):
    """The documents of one shard for one output: token bytes (<u4), the number of tokens of each document, bytes of text."""

    tokens: bytes
    lengths: list[int]
    num_text_bytes: int


# --- in the worker ---


def read_shard(shard: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a shard, each with the words that name its place in an error."""
    with shard.path.open("rb") as file:
        file.seek(shard.start)
        place = shard.start
        while place < shard.end:
            line = file.readline()
            where = f"{shard.path}, byte {place:,}"
            place += len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{where}: not JSON ({error}); write the file anew") from None
            if not isinstance(record, dict):
                raise UserError(f"{where}: a JSON object is needed, this is {type(record).__name__}")
            yield where, record


def pack_shard(
    shard: Shard, folder: Path, facts: TokenizerFacts, parts: Sequence[str], grouped: bool
) -> dict[Key, Packed]:
    """Tokenize a shard: its documents by output, in the order of the lines. A record without prose is left out of that part."""
    texts: dict[Key, list[str]] = {}
    for where, record in read_shard(shard):
        for part in parts:
            if text := checked_text(record, where, part):
                group = group_of(record) if grouped and part == FULL_TEXT else ""
                texts.setdefault(Key(source_name(record), part, group), []).append(text)
    return {output: encode_documents(documents, folder, facts) for output, documents in texts.items()}


def source_name(record: Mapping[str, Any]) -> str:
    """The record's source as a part of a file name: 'arXiv bulk' -> 'arXiv_bulk'; without one, 'data'."""
    return re.sub(r"[^A-Za-z0-9_+-]+", "_", str(record.get("source") or "data"))


def encode_documents(texts: Sequence[str], folder: Path, facts: TokenizerFacts) -> Packed:
    """BOS + text + EOS of each text."""
    encoder, replacements = packing_encoder(folder, facts.fingerprint)
    bos, eos = (np.array([number], TOKEN_DTYPE) for number in (facts.bos_id, facts.eos_id))
    pieces: list[bytes] = []
    lengths = []
    for batch in batches(texts):
        for old, new in replacements:
            batch = [text.replace(old, new) for text in batch]
        for encoding in encoder.encode_batch_fast(batch, add_special_tokens=False):
            ids = np.array(encoding.ids, TOKEN_DTYPE)
            pieces += (bos.tobytes(), ids.tobytes(), eos.tobytes())
            lengths.append(len(ids) + 2)
    return Packed(b"".join(pieces), lengths, sum(len(text.encode()) for text in texts))


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts until a group holds BATCH_TEXT_CHARS characters."""
    group: list[str] = []
    room = BATCH_TEXT_CHARS
    for text in texts:
        group.append(text)
        room -= len(text)
        if room <= 0:
            yield group
            group, room = [], BATCH_TEXT_CHARS
    if group:
        yield group


# --- the plan ---


def cut_shards(path: Path, start: int = 0) -> Iterator[Shard]:
    """Cut the lines of a file from byte `start` on into shards of about SHARD_BYTES."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while start < size:
            file.seek(min(start + SHARD_BYTES, size) - 1)
            file.readline()
            end = file.tell()
            yield Shard(path, start, end)
            start = end


def input_digest(path: Path) -> str:
    """SHA-256 of the file's size and of a sample in every 8 MiB, so that a repeated run knows its input without reading all."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in [*range(0, size, DIGEST_STEP_BYTES), max(size - DIGEST_SAMPLE_BYTES, 0)]:
            file.seek(start)
            digest.update(file.read(DIGEST_SAMPLE_BYTES))
    return digest.hexdigest()


# --- the writer ---

COUNTS = ("num_tokens", "num_documents", "num_text_bytes")


class Output:
    """One packed source while it is written: `<name>.bin.partial` and `.idx.partial`, of which `commit`ted bytes survive a kill."""

    def __init__(self, folder: Path, name: str, counts: Mapping[str, int]) -> None:
        self.folder, self.name = folder, name
        self.num_tokens, self.num_documents, self.num_text_bytes = (counts.get(key, 0) for key in COUNTS)
        self.tokens, self.starts = (self.reopen(*file) for file in self.committed(folder, name, counts))

    @staticmethod
    def committed(folder: Path, name: str, counts: Mapping[str, int]) -> list[tuple[Path, int]]:
        """The two partial files, each with the number of bytes that `counts` vouch for."""
        return [
            (folder / f"{name}.bin.partial", counts.get("num_tokens", 0) * TOKEN_DTYPE.itemsize),
            (folder / f"{name}.idx.partial", counts.get("num_documents", 0) * INDEX_DTYPE.itemsize),
        ]

    @classmethod
    def holds(cls, folder: Path, name: str, counts: Mapping[str, int]) -> bool:
        """Whether the partial files have all bytes that `counts` vouch for."""
        files = cls.committed(folder, name, counts)
        return all(path.exists() and path.stat().st_size >= HEADER_BYTES + size for path, size in files)

    @staticmethod
    def reopen(path: Path, num_bytes: int) -> BinaryIO:
        """A partial file cut to its committed bytes, open at its end; a fresh one has room for the header."""
        file = path.open("r+b" if num_bytes else "wb")
        file.truncate(HEADER_BYTES + num_bytes)
        file.seek(0, os.SEEK_END)
        return file

    def append(self, packed: Packed) -> None:
        """Add the documents of a shard."""
        lengths = np.array(packed.lengths, INDEX_DTYPE)
        starts = self.num_tokens + np.cumsum(lengths, dtype=INDEX_DTYPE) - lengths
        self.tokens.write(packed.tokens)
        self.starts.write(starts.astype(INDEX_DTYPE).tobytes())
        self.num_tokens += int(lengths.sum())
        self.num_documents += len(lengths)
        self.num_text_bytes += packed.num_text_bytes

    def counts(self) -> dict[str, int]:
        """What the journal keeps."""
        return dict(zip(COUNTS, (self.num_tokens, self.num_documents, self.num_text_bytes), strict=True))

    def commit(self) -> None:
        """Bring what was appended to the disk."""
        for file in (self.tokens, self.starts):
            file.flush()
            os.fsync(file.fileno())

    def finish(self, facts: TokenizerFacts, description: Mapping[str, Any]) -> Path:
        """Write the headers and give the three files their names, the .bin last; return its path."""
        self.starts.write(np.array([self.num_tokens], INDEX_DTYPE).tobytes())
        sizes = (self.num_tokens, self.num_documents, self.num_text_bytes)
        for packed, dtype in ((self.tokens, TOKEN_DTYPE), (self.starts, INDEX_DTYPE)):
            header = Header(dtype.str, *sizes, facts.num_ids, facts.bos_id, facts.eos_id, facts.fingerprint)
            packed.seek(0)
            packed.write(header.to_bytes())
        self.commit()
        self.close()
        with atomic_write(self.folder / f"{self.name}.json") as file:
            file.write(json.dumps(description, indent=2) + "\n")
        for suffix in (".idx", ".bin"):
            path = self.folder / f"{self.name}{suffix}"
            path.with_name(path.name + ".partial").replace(path)
        return path

    def close(self) -> None:
        """Close both files; what is not committed is not counted."""
        self.tokens.close()
        self.starts.close()


# --- the driver ---

COMMIT_INTERVAL_S = 2.0  # a kill loses at most this much work


class Job(NamedTuple):
    """One split to pack."""

    dataset: Path
    split: str
    tokenizer: Path
    parts: tuple[str, ...]
    grouped: bool

    @property
    def input(self) -> Path:
        return self.dataset / f"{self.split}.jsonl"

    @property
    def folder(self) -> Path:
        return self.dataset / "tokens"

    @property
    def journal(self) -> Path:
        return self.folder / f"{self.split}.journal"

    def identity(self) -> dict[str, Any]:
        """What must be the same for earlier work to be used again."""
        return {
            "input": self.input.name,
            "input_digest": input_digest(self.input),
            "tokenizer_fingerprint": tokenizer_fingerprint(self.tokenizer),
            "parts": list(self.parts),
            "grouped": self.grouped,
        }


def output_name(split: str, key: Key) -> str:
    """'train-arxiv' for the full text of a source, 'train-arxiv.prose' for a part, 'train-arxiv@gold-words' for a group."""
    part = "" if key.part == FULL_TEXT else f".{key.part}"
    return f"{split}-{key.source}{part}" + (f"@{key.group}" if key.group else "")


def finished(job: Job, identity: Mapping[str, Any]) -> list[TokenFile]:
    """The outputs of an earlier run of exactly this job, if all of them are there and whole; else none."""
    if job.journal.exists():
        return []
    try:
        files = [open_token_file(path) for path in sorted(job.folder.glob(f"{job.split}-*.bin"))]
        jobs = [read_json(file.path.with_suffix(".json"), "description").get("job") for file in files]
    except UserError:  # damaged: packed anew
        return []
    return files if all(earlier == identity for earlier in jobs) else []


def packed_shards(job: Job, start: int, processes: int) -> Iterator[tuple[Shard, dict[Key, Packed]]]:
    """The shards from byte `start` on with their tokens, in the order of the input; at most 2 a process are under way."""
    shards, facts = cut_shards(job.input, start), tokenizer_facts(job.tokenizer)
    if processes == 1:
        yield from ((shard, pack_shard(shard, job.tokenizer, facts, job.parts, job.grouped)) for shard in shards)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start_worker, (os.getpid(),)) as pool:
        waiting: list[tuple[Shard, Future[dict[Key, Packed]]]] = []
        try:
            for shard in shards:
                waiting.append((shard, pool.submit(pack_shard, shard, job.tokenizer, facts, job.parts, job.grouped)))
                if len(waiting) >= 2 * processes:
                    done, future = waiting.pop(0)
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        except BrokenProcessPool:
            raise UserError(
                f"a worker process was killed, likely for memory; start again with --processes {max(1, processes // 2)}, it goes on"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def start_worker(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, keeps to one thread, and ends when the parent is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def remove_outputs(folder: Path, split: str, keep: Collection[str]) -> None:
    """Remove what earlier inputs left of a split, but not the outputs whose names are in `keep`."""
    for path in folder.glob(f"{split}-*"):
        if not any(path.name.startswith((f"{name}.bin", f"{name}.idx", f"{name}.json")) for name in keep):
            path.unlink()


class SplitWriter:
    """All outputs of one job, and the journal that says how far they are on the disk.

    The journal exists from the first byte until every output has its name; while it does, nobody reads the split (open_split).
    """

    def __init__(self, job: Job, identity: Mapping[str, Any]) -> None:
        self.job, self.identity = job, identity
        self.end, counts = self.resume()
        self.outputs = {key: Output(job.folder, output_name(job.split, key), counts[key]) for key in counts}
        self.committed_s = 0.0
        self.commit()

    def resume(self) -> tuple[int, dict[Key, dict[str, int]]]:
        """The input byte that an earlier run of the same job reached, and the counts of its outputs; (0, {}) without one."""
        if not self.job.journal.exists():
            return 0, {}
        state = json.loads(self.job.journal.read_text(encoding="utf-8"))
        counts = {Key(*row["key"]): row["counts"] for row in state["outputs"]}
        names = {key: output_name(self.job.split, key) for key in counts}
        if state["job"] != self.identity or not all(
            Output.holds(self.job.folder, names[key], counts[key]) for key in counts
        ):
            return 0, {}
        print(f"{self.job.split}: going on at byte {state['end']:,} of {self.job.input}", file=sys.stderr)
        return state["end"], counts

    def add(self, shard: Shard, packed: Mapping[Key, Packed]) -> None:
        """Append a shard's documents to their outputs; bring them to the disk every COMMIT_INTERVAL_S."""
        for key, documents in packed.items():
            if key not in self.outputs:
                self.outputs[key] = Output(self.job.folder, output_name(self.job.split, key), {})
            self.outputs[key].append(documents)
        self.end = shard.end
        if time.monotonic() - self.committed_s > COMMIT_INTERVAL_S:
            self.commit()

    def commit(self) -> None:
        """Bring the outputs to the disk, then say so in the journal."""
        for output in self.outputs.values():
            output.commit()
        rows = [{"key": key, "counts": output.counts()} for key, output in self.outputs.items()]
        with atomic_write(self.job.journal) as file:
            file.write(json.dumps({"job": self.identity, "end": self.end, "outputs": rows}))
        self.committed_s = time.monotonic()

    def finish(self) -> list[TokenFile]:
        """Complete the outputs, remove those of an earlier input, and the journal last."""
        self.commit()
        facts = tokenizer_facts(self.job.tokenizer)
        remove_outputs(self.job.folder, self.job.split, keep=[output.name for output in self.outputs.values()])
        paths = []
        for key, output in self.outputs.items():
            description = {
                "split": self.job.split,
                **key._asdict(),
                **output.counts(),
                "job": self.identity,
            }
            paths.append(output.finish(facts, description))
        self.job.journal.unlink()
        return [open_token_file(path) for path in sorted(paths)]

    def close(self) -> None:
        """Let go of the files; the next run goes on from the last commit."""
        for output in self.outputs.values():
            output.close()


def pack_split(job: Job, processes: int) -> list[TokenFile]:
    """Pack one split, going on from where an earlier run of the same job was stopped; return its files."""
    identity = job.identity()
    if files := finished(job, identity):
        print(f"{job.split}: packed before, nothing to do", file=sys.stderr)
        return files
    writer = SplitWriter(job, identity)
    try:
        with Progress(f"pack {job.split}", job.input.stat().st_size, "bytes") as progress:
            progress.update(writer.end)
            for shard, packed in packed_shards(job, writer.end, processes):
                writer.add(shard, packed)
                progress.update(shard.end - shard.start)
        if job.split == "train" and not any(output.num_documents for output in writer.outputs.values()):
            raise UserError(f"{job.input} holds no record; prepare_dataset.py writes them")
        return writer.finish()
    finally:
        writer.close()


def pack(
    dataset: Path,
    tokenizer: Path,
    *,
    parts: Sequence[str] = (FULL_TEXT,),
    grouped: bool = False,
    processes: int = 1,
) -> list[TokenFile]:
    """Pack train.jsonl and val.jsonl of `dataset` into `dataset`/tokens; what is packed already is left as it is.

    `grouped` gives each group of a source's training documents (mixture.group_of) a file of its own, so that a run can draw them
    with weights of their own; all groups together are the full text.
    """
    inputs = [split for split in SPLITS if (dataset / f"{split}.jsonl").exists()]
    if "train" not in inputs:
        raise UserError(f"{dataset} holds no train.jsonl; run data_prep/prepare_dataset.py --out {dataset}")
    tokenizer_facts(tokenizer)  # say what is wrong with it before any work
    (dataset / "tokens").mkdir(exist_ok=True)
    with (dataset / "tokens" / ".lock").open("w") as lock:  # a second packer waits, then finds the work done
        fcntl.flock(lock, fcntl.LOCK_EX)
        for split in set(SPLITS) - set(inputs):
            remove_outputs(dataset / "tokens", split, keep=())
        return [
            file
            for split in inputs
            for file in pack_split(
                Job(dataset, split, tokenizer, tuple(parts), grouped and split == "train"), processes
            )
        ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python data_prep/pack_tokens.py --dataset dataset_train_val --tokenizer tokenizer",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        default=Path("dataset_train_val"),
        help="folder with train.jsonl and val.jsonl (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path("tokenizer"),
        help="folder with tokenizer.json and tokenizer_config.json (default: %(default)s)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        help="what to pack of each record (default: all, because the curriculum begins with prose)",
    )
    parser.add_argument(
        "--groups",
        action=BooleanOptionalAction,
        default=True,
        help="a file for each group of training documents, gold or not, formula-heavy or not (default: yes)",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="worker processes (default: one a core, %(default)s)"
    )
    options = parser.parse_args(argv)
    if options.processes < 1:
        parser.error(f"--processes {options.processes}; at least 1 is needed")
    started_s = time.monotonic()
    for file in pack(
        options.dataset,
        options.tokenizer,
        parts=options.parts,
        grouped=options.groups,
        processes=options.processes,
    ):
        counts = file.header
        print(
            f"{file.path}: {counts.num_documents:,} documents, {counts.num_tokens:,} tokens, "
            f"{counts.num_text_bytes / max(counts.num_tokens, 1):.2f} bytes per token"
        )
    print(f"done in {duration(time.monotonic() - started_s)}", file=sys.stderr)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
