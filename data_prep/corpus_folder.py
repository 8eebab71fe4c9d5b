"""The folder of a corpus: what its files are called, and whose run it holds.

In: the settings of a run. Out: a stamp, all that decides the output's bytes. The folder is this run's if it holds the same
stamp or none, and refused with both values if it holds another.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import re
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.cli import UserError, atomic_write
from data_prep.filters import Limits

TRAIN, VAL, REJECTS, MANIFEST, TIMINGS = "train.jsonl", "val.jsonl", "rejects.jsonl", "manifest.json", "timings.json"
OUTPUTS = (MANIFEST, TRAIN, VAL, REJECTS, TIMINGS)  # the manifest goes first: without it a corpus is not finished
SHARDS, STAMP, LOCK, TURN = "shards", "run.json", "lock", "turn"
NO_BYTES = {"cli", "corpus_folder", "engines"}  # modules that decide no byte of the output
HERE = Path(__file__).resolve().parent
IMPORT = re.compile(r"(?m)^ *from data_prep\.(\w+) import ")
PACKAGES = ("numpy", "langdetect")  # whose versions can change a byte of the output


@dataclass(frozen=True)
class Settings:
    """A run, as the flags of prepare_dataset.py say it; from `workers` on nothing changes a byte of the output."""

    metadata: Path
    sources: tuple[Path, ...]
    out: Path
    limits: Limits
    keep_captions: bool
    jaccard: float
    decontaminate: tuple[Path, ...]
    val_frac: float
    limit: int | None
    list_missing: bool
    workers: int | None
    engine: str
    shard_index: int | None
    num_shards: int | None
    force: bool

    @property
    def is_array_task(self) -> bool:
        """Whether this run does a part of the shards only and leaves the merge to another."""
        return self.num_shards is not None


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def code_hash(module: str, but: AbstractSet[str] = frozenset()) -> str:
    """A hash of a module's source file and of all of this package's that it imports, one through the other, `but` some."""
    digest = hashlib.sha256()
    for name in sorted(modules_behind(module) - but):
        digest.update(name.encode() + b"\0" + (HERE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def modules_behind(module: str) -> set[str]:
    """'metadata' -> {'metadata', 'filters', 'records'}: what the module imports of this package, itself included."""
    found, waiting = set[str](), [module]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += IMPORT.findall((HERE / f"{name}.py").read_text(encoding="utf-8"))
    return found - NO_BYTES


def file_stamp(path: Path) -> str:
    """Name, size and time of change of a file: what tells, without reading it, that it is another one."""
    state = path.stat()
    changed = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(state.st_mtime))
    return f"{path.name} ({state.st_size:,} bytes of {changed} UTC)"


def stamp_of(settings: Settings) -> dict[str, Any]:
    """All that decides the output, by the names under which a difference is told, in three parts.

    "metadata" decides the metadata's index, "papers" (with it) what becomes of a paper alone, "merge" the rest. So a change
    of --val-frac leaves all shards as they are.
    """
    limits = {f"--{name.replace('_', '-')}": value for name, value in asdict(settings.limits).items()}
    late = ("--min-body-chars", "--language")
    stamp = {
        "metadata": {
            "--metadata": file_stamp(settings.metadata),
            **{name: value for name, value in limits.items() if name not in late},
            "metadata code": code_hash("metadata"),
        },
        "papers": {
            **{name: limits[name] for name in late},
            "--keep-captions": settings.keep_captions,
            "--limit": settings.limit,
            "--decontaminate": [f"{path.name} {sha256_file(path)[:16]}" for path in settings.decontaminate],
            "stage code": code_hash("shards"),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "merge": {
            "--jaccard": settings.jaccard,
            "--val-frac": settings.val_frac,
            "--list-missing": settings.list_missing,
            "merge code": code_hash("corpus", but=modules_behind("shards")),
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(stamp))
    return plain


def key_of(value: object) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two stamps, with both values."""
    before = {name: value for part in old.values() for name, value in part.items()}
    after = {name: value for part in new.values() for name, value in part.items()}
    return [
        f"{name} was {before.get(name)} and is {after.get(name)}"
        for name in after | before
        if before.get(name) != after.get(name)
    ]


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """The stamp of the run that `folder` holds; None if it holds none of ours."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def check_folder(out: Path, stamp: dict[str, Any], force: bool) -> None:
    """Raise UserError where `out` holds another run's output, or what this program did not write, unless `force` says so."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    old = read_stamp(out / SHARDS)
    if old is not None and not force and (changes := differences(old, stamp)):
        raise UserError(
            f"{out} holds a run with other settings: {'; '.join(changes)}. Choose another --out, or add --force: what the "
            "change does not touch is kept, the rest is done again"
        )
    present = [name for name in OUTPUTS if (out / name).exists()]
    if old is None and present and not force:
        raise UserError(f"{out} holds {present[0]} of another run; choose another --out, or add --force to replace it")


def claim_folder(out: Path, stamp: dict[str, Any]) -> None:
    """Make a folder that was checked this run's: a finished corpus of other settings goes."""
    if read_stamp(out / SHARDS) != stamp:
        for name in OUTPUTS:
            (out / name).unlink(missing_ok=True)
        with atomic_write(out / SHARDS / STAMP) as file:
            json.dump(stamp, file, indent=1)


@contextlib.contextmanager
def held(out: Path, shared: bool) -> Iterator[None]:
    """Hold the folder against a second run; tasks of a job array share it. The hold ends with the process, however that ends."""
    try:
        (out / SHARDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from None
    with (out / SHARDS / LOCK).open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {out}; wait for it, or choose another --out") from None
        yield


@contextlib.contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """Of the tasks of a job array one at a time, so that the first does what all need, and the others find it done."""
    with (out / SHARDS / TURN).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
