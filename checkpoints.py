"""Checkpoint folders that are whole or absent: written in the background, hashed, renamed when complete, verified before use.

In: what DeepSpeed hands over for saving. Out: CHECKPOINTS/step<N>/ with DeepSpeed's files and a manifest.json of their sizes and
SHA-256, `latest` and `best` with the names of two of them.

It stands beside train.py, not in it, because it knows nothing of training: train.py says when, tests and benchmarks damage and verify.
"""

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from data_prep.cli import atomic_write


class HashingFile:
    """A binary file that is hashed while it is written, so that its checksum costs no second reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder (after a rename, say) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(partial: Path, final: Path) -> None:
    """Give a folder that is whole its name. One that has the name goes first, by way of a name that nobody takes for whole."""
    remove_folder(final)
    partial.rename(final)
    sync_folder(final.parent)


def remove_folder(path: Path) -> None:
    if path.exists():
        doomed = path.with_name(path.name + ".old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def checkpoint_name(step: int) -> str:
    return f"step{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((p for p in folder.glob("step" + "[0-9]" * 8) if p.is_dir()), reverse=True)


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """{"step", "world_size", "frozen", "files"} of a checkpoint; None if it is damaged."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        return dict(manifest) if {"step", "world_size", "frozen", "files"} <= set(manifest) else None
    except (OSError, ValueError, TypeError):
        return None


def checkpoint_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint (its manifest; a file that is absent, short or altered), or None."""
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return "its manifest.json cannot be read"
    for name, wanted in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != wanted["bytes"]:
            return f"{name} is missing or does not have its {wanted['bytes']:,} bytes"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(1 << 24):
                digest.update(data)
        if digest.hexdigest() != wanted["sha256"]:
            return f"{name} does not have the checksum that was written"
    return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole. A damaged one is named on stderr, and the one before it is tried."""
    for path in list_checkpoints(folder):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        print(f"checkpoint {path} is damaged: {fault}; the one before it is tried", file=sys.stderr, flush=True)
    return None


class CheckpointWriter:
    """Writes checkpoints while training goes on. It stands in for DeepSpeed's checkpoint engine, of which it changes `save`.

    `save` copies this rank's state into host memory that is used again, and returns; `finish` starts a thread that writes, hashes
    and syncs it. When each rank has left its `rank<N>.done` in `step<N>.partial`, rank 0 writes manifest.json, renames the folder,
    and writes `latest` last. So a folder without .partial is whole, and a kill at any moment leaves the checkpoint before it as the
    newest. All ranks must see the same file system.
    """

    def __init__(self, folder: Path, rank: int, world: int, keep: int, plain: Any) -> None:
        self.folder, self.rank, self.world, self.keep, self.plain = folder, rank, world, keep, plain
        self.pending: list[tuple[Path, Any]] = []
        self.buffers: list[Any] = []
        self.next_buffer = 0
        self.thread: threading.Thread | None = None
        self.error: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def save(self, state_dict: Any, path: str) -> None:
        """DeepSpeed calls this for each file of this rank."""
        self.pending.append((Path(path), self.to_host(state_dict)))

    def to_host(self, value: Any) -> Any:
        """A copy of nested containers whose tensors lie in host memory, pinned if they come from a GPU."""
        import torch

        if isinstance(value, torch.Tensor):
            number, self.next_buffer = self.next_buffer, self.next_buffer + 1
            if number == len(self.buffers):
                self.buffers.append(None)
            buffer = self.buffers[number]
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self.buffers[number] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            return buffer.copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self.to_host(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.to_host(item) for item in value)
        return value

    def finish(self, step: int, about: Mapping[str, Any], best: bool) -> None:
        """Write in the background what `save` has collected, as the checkpoint of `step`."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        work, self.pending, self.next_buffer = self.pending, [], 0
        self.thread = threading.Thread(
            target=self.write, args=(work, step, about, best), daemon=True, name="checkpoint"
        )
        self.thread.start()

    def wait(self) -> str | None:
        """Wait for the thread; what went wrong since the last call, or None."""
        if self.thread is not None:
            self.thread.join()
        error, self.error = self.error, None
        return error

    def write(self, work: Sequence[tuple[Path, Any]], step: int, about: Mapping[str, Any], best: bool) -> None:
        """The thread. A full disk costs this checkpoint, not the run."""
        partial = self.folder / (checkpoint_name(step) + ".partial")
        try:
            try:
                done: dict[str, Any] = {"files": {path.name: self.write_file(path, state) for path, state in work}}
            except OSError as error:
                done = {"error": str(error.strerror)}
            with atomic_write(partial / f"rank{self.rank}.done") as file:
                json.dump(done, file)
            if self.rank == 0:
                self.complete(partial, step, about, best)
        except OSError as error:
            self.error = str(error.strerror)

    def write_file(self, path: Path, state: Any) -> dict[str, Any]:
        import torch

        with path.open("wb") as file:
            hashing = HashingFile(file)
            torch.save(state, cast(IO[bytes], hashing))
            file.flush()
            os.fsync(file.fileno())
        return {"bytes": hashing.num_bytes, "sha256": hashing.hash.hexdigest()}

    def complete(self, partial: Path, step: int, about: Mapping[str, Any], best: bool) -> None:
        """Rank 0, when all ranks have written: manifest, rename, `latest`, `best`, and old checkpoints go."""
        reports = [partial / f"rank{rank}.done" for rank in range(self.world)]
        while not all(report.exists() for report in reports):
            time.sleep(0.02)
        contents = [json.loads(report.read_text(encoding="utf-8")) for report in reports]
        self.error = next((content["error"] for content in contents if "error" in content), None)
        if self.error is not None:
            remove_folder(partial)
            return
        files = {name: facts for content in contents for name, facts in content["files"].items()}
        with atomic_write(partial / "manifest.json") as file:
            json.dump({**about, "step": step, "world_size": self.world, "files": files}, file, indent=1)
        for report in reports:
            report.unlink()
        sync_folder(partial)
        replace_folder(partial, self.folder / checkpoint_name(step))
        for name in ("latest", "best") if best else ("latest",):
            with atomic_write(self.folder / name) as file:
                file.write(checkpoint_name(step))
        marker = self.folder / "best"
        kept = marker.read_text(encoding="utf-8") if marker.exists() else None
        for path in list_checkpoints(self.folder)[self.keep :]:
            if path.name != kept:
                remove_folder(path)
