"""A corpus from settings: plan, metadata's index, shards, merge, account.

In: Settings. Out: the files of a corpus in its folder. Whatever kills it, the same call goes on: each part that is done lies
in the folder under its final name, and is not done again.
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import langdetect

from data_prep.cli import Progress, UserError, atomic_write
from data_prep.corpus_folder import (
    LOCK,
    MANIFEST,
    SHARDS,
    STAMP,
    TIMINGS,
    TURN,
    Settings,
    check_folder,
    claim_folder,
    held,
    in_turn,
    key_of,
    sha256_file,
    stamp_of,
)
from data_prep.dedup import LEAST_THRESHOLD, BenchmarkIndex
from data_prep.engines import run_shards
from data_prep.merge import Options, merge
from data_prep.metadata import COUNTS, index_metadata
from data_prep.shards import COST, STAGES, Job, Shard, plan_shards, shard_is_done


@dataclass(frozen=True)
class Plan:
    """What a run will do. `stamp` decides the bytes of its output."""

    stamp: dict[str, Any]
    shards: list[Shard]


def make_plan(settings: Settings) -> Plan:
    """The shards of a run, and its stamp. Raises UserError for sources, a similarity or a language that cannot be."""
    if not LEAST_THRESHOLD <= settings.jaccard <= 1:
        raise UserError(
            f"--jaccard is {settings.jaccard}; it must lie between {LEAST_THRESHOLD}, under which pairs are missed, and 1"
        )
    known = sorted(path.name for path in Path(langdetect.PROFILES_DIRECTORY).iterdir())
    if settings.limits.language not in (None, *known):
        raise UserError(f"--language {settings.limits.language} is unknown; known are any, {', '.join(known)}")
    stamp = stamp_of(settings)
    shards = plan_shards(settings.sources, key_of([stamp["metadata"], stamp["papers"]]), settings.limit)
    names, num_bytes = [shard.folder_name for shard in shards], sum(shard.num_bytes for shard in shards)
    stamp["sources"] = {"--sources": f"{len(shards):,} shards of {num_bytes:,} bytes (hash {key_of(names)})"}
    return Plan(stamp, shards)


def make_corpus(settings: Settings, plan: Plan) -> bool:
    """Make the corpus, or a job array's part of it; False if it was there. UserError for a folder that is not this run's."""
    check_folder(settings.out, plan.stamp, settings.force)
    folder = (settings.out / SHARDS).resolve()
    with held(settings.out, shared=settings.is_array_task):
        with in_turn(settings.out):
            claim_folder(settings.out, plan.stamp)
            if is_finished(settings.out):
                return False
            if not settings.is_array_task:
                remove(folder.glob("*.partial"))  # of a run that was killed
            metadata_folder = folder / f"metadata-{key_of(plan.stamp['metadata'])}"
            benchmarks = prepare_benchmarks(settings, folder)
            job = Job(folder, metadata_folder, settings.limits, settings.keep_captions, benchmarks)
            counts = prepare_metadata(settings, job)
        do_shards(settings, job, plan.shards)
        if not settings.is_array_task:
            finish(settings, job, plan, counts)
    return True


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders."""
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def prepare_metadata(settings: Settings, job: Job) -> dict[str, Any]:
    """The metadata's index, made unless it is there, and its counts; odd lines are told on stderr."""
    path = job.metadata_folder / COUNTS
    counts: dict[str, Any]
    counts = (
        json.loads(path.read_text())
        if path.exists()
        else index_metadata(settings.metadata, job.limits, job.metadata_folder)
    )
    for sentence in counts["odd"]:
        print(f"metadata: {sentence}", file=sys.stderr)
    return counts


def prepare_benchmarks(settings: Settings, folder: Path) -> Path | None:
    """The index of the benchmarks' questions, for the workers; None without --decontaminate."""
    if not settings.decontaminate:
        return None
    path = folder / f"benchmarks-{key_of([sha256_file(path) for path in settings.decontaminate])}.npz"
    if not path.exists():
        index = BenchmarkIndex.build(settings.decontaminate)
        print(index.sentence(), file=sys.stderr)
        index.save(path)
    return path


def do_shards(settings: Settings, job: Job, shards: Sequence[Shard]) -> None:
    """Do the shards of this run that are not done, with progress."""
    mine = [
        shard
        for number, shard in enumerate(shards)
        if settings.num_shards is None or number % settings.num_shards == settings.shard_index
    ]
    waiting = [shard for shard in mine if not shard_is_done(job, shard)]
    if len(waiting) < len(mine):
        print(f"{len(mine) - len(waiting):,} of {len(mine):,} shards are done already", file=sys.stderr)
    num_items = num_kept = 0
    started_s = time.monotonic()
    results = run_shards(settings.engine, settings.workers, job, waiting)
    with contextlib.closing(results), Progress("prepare", total=len(waiting), unit="shards") as progress:
        for done in results:
            num_items += done.num_items
            num_kept += done.num_kept
            rate = num_items / max(time.monotonic() - started_s, 1e-9)
            progress.update(eprints=f"{num_items:,} ({rate:,.1f}/s)", kept=f"{num_kept / max(num_items, 1):.1%}")


def costs(folders: Sequence[Path]) -> dict[str, Any]:
    """CPU seconds by stage over all shards, and the most memory that a worker held."""
    seconds, peak_bytes = dict.fromkeys(STAGES, 0.0), 0
    for folder in folders:
        cost = json.loads((folder / COST).read_text())
        peak_bytes = max(peak_bytes, cost["peak_rss_bytes"])
        for stage, stage_s in cost["cpu_seconds"].items():
            seconds[stage] += stage_s
    return {
        "cpu_seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "worker_peak_rss_bytes": peak_bytes,
    }


def metadata_account(counts: dict[str, Any], num_ids_with_eprint: int) -> dict[str, Any]:
    """What the manifest says of the metadata: its funnel, and the records without an e-print."""
    return counts | {"ids_without_eprint": counts["ids"] - num_ids_with_eprint}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file for people and programs, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def finish(settings: Settings, job: Job, plan: Plan, counts: dict[str, Any]) -> None:
    """Merge the shards, write the manifest last, and clear away what no shard of this run needs."""
    (settings.out / MANIFEST).unlink(missing_ok=True)
    folders = [job.shards_folder / shard.folder_name for shard in plan.shards]
    started_s = time.process_time()
    options = Options(settings.val_frac, settings.jaccard, settings.list_missing)
    figures = merge(settings.out, folders, job.metadata_folder, options)
    timings = costs(folders)
    timings["cpu_seconds"]["merge"] = round(time.process_time() - started_s, 3)
    write_json(settings.out / TIMINGS, timings | {"engine": settings.engine, "workers": settings.workers})
    metadata = metadata_account(counts, figures.pop("num_ids_with_eprint"))
    sources = {"shards": len(plan.shards), "bytes": sum(shard.num_bytes for shard in plan.shards)}
    flags = {name: value for part in plan.stamp.values() for name, value in part.items()}
    del flags["--metadata"], flags["--sources"]  # they hold times of change; hashes and sizes stand elsewhere
    write_json(settings.out / MANIFEST, {**figures, "metadata": metadata, "sources": sources, "settings": flags})
    needed = {STAMP, LOCK, TURN, job.metadata_folder.name, *(folder.name for folder in folders)}
    needed |= {job.benchmarks.name} if job.benchmarks else set()
    remove(path for path in job.shards_folder.iterdir() if path.name not in needed)


def is_finished(out: Path) -> bool:
    """Whether the corpus is there: the manifest, which is written last, and the files with the sizes that it tells."""
    if not (out / MANIFEST).exists() or not (out / TIMINGS).exists():
        return False
    files = json.loads((out / MANIFEST).read_text())["files"]
    return all((out / name).exists() and (out / name).stat().st_size == file["bytes"] for name, file in files.items())
