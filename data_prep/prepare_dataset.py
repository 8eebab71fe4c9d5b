"""Raw arXiv e-prints and their metadata -> train.jsonl, val.jsonl, and one reason for each paper that is in neither.

In: arXiv's metadata (Kaggle snapshot, JSON lines, plain or .gz) and e-prints: loose archives, folders of them, bulk tars.
Out, in --out: train.jsonl, val.jsonl, rejects.jsonl, manifest.json (the account: stages, reasons, years, categories, hashes)
and timings.json. `dataset_train_val/README.md` describes the files; `report.py` draws the account.

    python data_prep/prepare_dataset.py --metadata arxiv-metadata-oai-snapshot.json --sources bulk/ --out dataset_train_val

Killed at any moment, the same command goes on: archives are done in shards, and a finished shard is never done again. On a
cluster, each task of an array does its part of the shards, then one run without --shard-index merges them:

    python data_prep/prepare_dataset.py ... --shard-index $SLURM_ARRAY_TASK_ID --num-shards 64
    python data_prep/prepare_dataset.py ...

The same sources and flags give the same bytes, whatever the engine, the number of workers, the order, and the kills.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import EXIT_DONE, Parser, Progress, UserError, atomic_write, duration, need_file, run
from data_prep.dedup import THRESHOLD, BenchmarkIndex
from data_prep.engines import ENGINES, available_cores, run_shards
from data_prep.filters import Limits, limit_flags
from data_prep.merge import MANIFEST, REJECTS, TRAIN, VAL, Options, merge
from data_prep.metadata import COUNTS, index_metadata, sha256_file
from data_prep.shards import COST, STAGES, Job, Shard, plan_shards, shard_is_done

DEFAULTS = Limits()
SHARDS, STAMP, LOCK, TIMINGS = "shards", "run.json", "lock", "timings.json"
OUTPUTS = (MANIFEST, TRAIN, VAL, REJECTS, TIMINGS)  # the manifest goes first: without it a corpus is not finished
# Source files that decide the merge, and those that decide nothing here; a change of any other one does all papers again.
MERGE_CODE = ("merge.py", "prepare_dataset.py")
OTHER_CODE = (
    "cli.py",
    "engines.py",
    "report.py",
    "pack_tokens.py",
    "token_files.py",
    "train_tokenizer.py",
    "tokenizer_report.py",
)
PACKAGES = ("numpy", "langdetect")  # whose versions can change a byte of the output
ARXIV_BYTES_PER_ITEM = 5.07e12 / 2_657_110  # the bulk source of February 2025: its manifest's total size and items
EXPECTED_PER_S_PER_CORE = 60.0  # e-prints; the measured figure stands in docs/LOG.md


def parser() -> Parser:
    """The flags; those that decide the output are repeated in `flags_that_decide`."""
    flags = Parser(prog="prepare_dataset.py", description=__doc__)
    flags.add_argument("--metadata", type=Path, required=True, help="arXiv's metadata, JSON lines, plain or .gz")
    flags.add_argument("--sources", type=Path, nargs="+", required=True, help="archives, folders of them, bulk tars")
    flags.add_argument(
        "--out", type=Path, default=Path("dataset_train_val"), help="output folder (default: %(default)s)"
    )
    what = flags.add_argument_group("what is kept")
    limit_flags(what)
    what.add_argument("--min-body-chars", type=int, default=DEFAULTS.min_body_chars, help="default: %(default)s")
    what.add_argument("--language", default=DEFAULTS.language, help="ISO 639-1 code, or 'any' (default: %(default)s)")
    what.add_argument("--keep-captions", action="store_true", help="keep the captions of figures and tables")
    what.add_argument(
        "--jaccard", type=float, default=THRESHOLD, help="similarity of near duplicates (default: %(default)s)"
    )
    what.add_argument(
        "--decontaminate", type=Path, nargs="+", default=[], help="benchmark files whose questions are kept out"
    )
    what.add_argument(
        "--val-frac", type=float, default=0.01, help="share of papers in val.jsonl (default: %(default)s)"
    )
    what.add_argument("--limit", type=int, default=None, help="read the first LIMIT e-prints only")
    what.add_argument(
        "--list-missing", action="store_true", help="a reject for each wanted record without an e-print, too"
    )
    how = flags.add_argument_group("how it runs (none of these changes a byte)")
    how.add_argument(
        "--workers", type=int, default=available_cores(), help="processes, or Ray tasks (default: all cores)"
    )
    how.add_argument("--engine", choices=ENGINES, default="processes")
    how.add_argument(
        "--shard-index", type=int, default=None, help="of a job array: do the shards i with i mod num-shards = this"
    )
    how.add_argument("--num-shards", type=int, default=None, help="size of the job array")
    how.add_argument("--dry-run", action="store_true", help="say what would be read and how long it might take")
    how.add_argument("--force", action="store_true", help="replace what another run, or other flags, left in --out")
    return flags


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError for values that no run can have."""
    need_file(args.metadata, "metadata file")
    for path in args.decontaminate:
        need_file(path, "benchmark file")
    for name, value, low, high in (
        ("--val-frac", args.val_frac, 0.0, 1.0),
        ("--jaccard", args.jaccard, 0.3, 1.0),
        ("--workers", args.workers, 1, 1024),
        ("--limit", 1 if args.limit is None else args.limit, 1, 10**9),
        ("--min-body-chars", args.min_body_chars, 0, 10**9),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} is {value}; it must lie between {low:g} and {high:g}")
    if (args.shard_index is None) != (args.num_shards is None):
        raise UserError("--shard-index and --num-shards go together; give both, or neither")
    if args.num_shards is not None and not 0 <= args.shard_index < args.num_shards:
        raise UserError(
            f"--shard-index is {args.shard_index}; with --num-shards {args.num_shards} it must be 0 to {args.num_shards - 1}"
        )


def limits_of(args: argparse.Namespace) -> Limits:
    """The filters' thresholds."""
    return Limits(
        categories=tuple(args.categories),
        primary_only=args.primary_only,
        first_year=args.first_year,
        min_body_chars=args.min_body_chars,
        language=None if args.language == "any" else args.language,
        licences=None if args.licences is None else tuple(args.licences),
    )


# The stamp: what a run's output depends on ----------------------------------------------------------------------------------


def code_hash(names: Sequence[str]) -> str:
    """A hash of source files beside this one."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + (Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def file_stamp(path: Path) -> str:
    """Name, size and time of change of a file: what tells, without reading it, that it is another one."""
    state = path.stat()
    changed = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(state.st_mtime))
    return f"{path.name} ({state.st_size:,} bytes of {changed} UTC)"


def stamp_of(args: argparse.Namespace) -> dict[str, Any]:
    """All that decides the output, by the names under which a difference is told, in three parts.

    "metadata" decides the metadata's index, "papers" (with it) what becomes of a paper alone, "merge" the rest. So a change
    of --val-frac leaves all shards as they are.
    """
    limits = {f"--{name.replace('_', '-')}": value for name, value in asdict(limits_of(args)).items()}
    late = ("--min-body-chars", "--language")
    stage_code = sorted(
        path.name for path in Path(__file__).parent.glob("*.py") if path.name not in OTHER_CODE + MERGE_CODE
    )
    stamp = {
        "metadata": {
            "--metadata": file_stamp(args.metadata),
            **{name: value for name, value in limits.items() if name not in late},
            "metadata code": code_hash(("filters.py", "metadata.py")),
        },
        "papers": {
            **{name: limits[name] for name in late},
            "--keep-captions": args.keep_captions,
            "--limit": args.limit,
            "--decontaminate": [f"{path.name} {sha256_file(path)[:16]}" for path in args.decontaminate],
            "stage code": code_hash(stage_code),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "merge": {
            "--jaccard": args.jaccard,
            "--val-frac": args.val_frac,
            "--list-missing": args.list_missing,
            "merge code": code_hash(MERGE_CODE),
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


def claim_folder(out: Path, stamp: dict[str, Any], force: bool) -> None:
    """Make `out` this run's, or raise UserError: it holds another run's output, or what this program did not write."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    old = read_stamp(out / SHARDS)
    present = [name for name in (*OUTPUTS, SHARDS) if (out / name).exists()]
    if old is not None and not (changes := differences(old, stamp)):
        return
    if old is not None and not force:
        raise UserError(
            f"{out} holds a run with other settings: {'; '.join(changes)}. Choose another --out, or add --force: what the "
            "change does not touch is kept, the rest is done again"
        )
    if present and not force:
        raise UserError(f"{out} holds {present[0]} of another run; choose another --out, or add --force to replace it")
    for name in OUTPUTS:
        (out / name).unlink(missing_ok=True)
    with atomic_write(out / SHARDS / STAMP) as file:
        json.dump(stamp, file, indent=1)


@contextlib.contextmanager
def locked(folder: Path, shared: bool) -> Iterator[None]:
    """Hold the folder against a second run; tasks of a job array share it. The lock goes with the process, however it ends."""
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {folder}; wait for it, or choose another --out") from None
        yield


# The run ------------------------------------------------------------------------------------------------------------------


def describe_plan(shards: Sequence[Shard], num_done: int, num_workers: int) -> str:
    """--dry-run's answer, with its arithmetic."""
    tars = [shard for shard in shards if shard.is_bulk]
    loose = sum(len(shard.sources) for shard in shards) - len(tars)
    num_bytes, tar_bytes = sum(shard.num_bytes for shard in shards), sum(shard.num_bytes for shard in tars)
    items = loose + round(tar_bytes / ARXIV_BYTES_PER_ITEM)
    seconds = items / (EXPECTED_PER_S_PER_CORE * num_workers)
    return (
        f"{len(tars):,} bulk tars and {loose:,} loose archives, {num_bytes / 1e9:,.2f} GB, in {len(shards):,} shards, of which "
        f"{num_done:,} are done\n"
        f"about {loose:,} + {tar_bytes / 1e9:,.2f} GB / {ARXIV_BYTES_PER_ITEM / 1e6:.2f} MB = {items:,} e-prints\n"
        f"{items:,} e-prints / ({num_workers} workers x {EXPECTED_PER_S_PER_CORE:g} e-prints/s) = {duration(seconds)}"
    )


def do_shards(args: argparse.Namespace, job: Job, shards: Sequence[Shard]) -> None:
    """Do the shards of this run that are not done, with progress."""
    mine = [
        shard
        for number, shard in enumerate(shards)
        if args.num_shards is None or number % args.num_shards == args.shard_index
    ]
    waiting = [shard for shard in mine if not shard_is_done(job, shard)]
    if len(waiting) < len(mine):
        print(f"{len(mine) - len(waiting):,} of {len(mine):,} shards are done already", file=sys.stderr)
    num_items = num_kept = 0
    started_s = time.monotonic()
    results = run_shards(args.engine, args.workers, job, waiting)
    with contextlib.closing(results), Progress("prepare", total=len(waiting), unit="shards") as progress:
        for done in results:
            num_items += done.num_items
            num_kept += done.num_kept
            rate = num_items / max(time.monotonic() - started_s, 1e-9)
            progress.update(eprints=f"{num_items:,} ({rate:,.1f}/s)", kept=f"{num_kept / max(num_items, 1):.1%}")


def prepare_metadata(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """The metadata's index, made unless it is there, and its counts; odd lines are told on stderr."""
    path = job.metadata_folder / COUNTS
    counts: dict[str, Any]
    counts = (
        json.loads(path.read_text())
        if path.exists()
        else index_metadata(args.metadata, job.limits, job.metadata_folder)
    )
    for sentence in counts["odd"]:
        print(f"metadata: {sentence}", file=sys.stderr)
    return counts


def prepare_benchmarks(args: argparse.Namespace, folder: Path) -> Path | None:
    """The index of the benchmarks' questions, for the workers; None without --decontaminate."""
    if not args.decontaminate:
        return None
    path = folder / f"benchmarks-{key_of([sha256_file(path) for path in args.decontaminate])}.npz"
    if not path.exists():
        BenchmarkIndex.build(args.decontaminate).save(path)
    return path


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


def funnel_table(manifest: dict[str, Any], timings: dict[str, Any]) -> str:
    """The account as a table for a terminal."""
    papers = manifest["papers"]
    lines = [f"{'stage':<12} {'in':>10} {'dropped':>10} {'left':>10} {'GB left':>9}  why"]
    for row in manifest["funnel"]:
        why = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items())
        dropped = row["in"] - row["left"]
        lines.append(
            f"{row['stage']:<12} {row['in']:>10,} {dropped:>10,} {row['left']:>10,} {row['bytes_left'] / 1e9:>9,.3f}  {why}"
        )
    lines.append(
        f"{papers['in']:,} e-prints = {papers['kept']:,} kept + {papers['rejected']:,} rejected; "
        f"train {papers['train']:,}, val {papers['val']:,}"
    )
    lines.append(
        f"{manifest['bytes_in'] / 1e6:,.1f} MB in, {manifest['chars_out'] / 1e6:,.1f} M characters out, about "
        f"{manifest['tokens_out_estimated'] / 1e6:,.1f} M tokens"
    )
    lines.append(
        "CPU seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in timings["cpu_seconds"].items())
    )
    lines.append(manifest["leak_check"])
    return "\n".join(lines)


def metadata_account(counts: dict[str, Any], num_ids_with_eprint: int) -> dict[str, Any]:
    """What the manifest says of the metadata: its funnel, and the records without an e-print."""
    return counts | {"ids_without_eprint": counts["ids"] - num_ids_with_eprint}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file for people and programs, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def finish(
    args: argparse.Namespace, job: Job, shards: Sequence[Shard], stamp: dict[str, Any], counts: dict[str, Any]
) -> None:
    """Merge the shards, write the manifest last, and clear away what no shard of this run needs."""
    (args.out / MANIFEST).unlink(missing_ok=True)
    folders = [job.shards_folder / shard.folder_name for shard in shards]
    started_s = time.process_time()
    figures = merge(args.out, folders, job.metadata_folder, Options(args.val_frac, args.jaccard, args.list_missing))
    timings = costs(folders)
    timings["cpu_seconds"]["merge"] = round(time.process_time() - started_s, 3)
    write_json(args.out / TIMINGS, timings | {"engine": args.engine, "workers": args.workers})
    metadata = metadata_account(counts, figures.pop("num_ids_with_eprint"))
    settings = {
        name: value
        for part in stamp.values()
        for name, value in part.items()
        if name not in ("--metadata", "--sources")
    }
    sources = {"shards": len(shards), "bytes": sum(shard.num_bytes for shard in shards)}
    write_json(args.out / MANIFEST, {**figures, "metadata": metadata, "sources": sources, "settings": settings})
    remove_all_but({STAMP, LOCK, job.metadata_folder.name, *(folder.name for folder in folders)}, job)


def remove_all_but(needed: set[str], job: Job) -> None:
    """Clear the shards' folder of what other flags, other sources and kills left there."""
    for path in job.shards_folder.iterdir():
        if path.name not in needed and path != job.benchmarks:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def tell(manifest: dict[str, Any], timings: dict[str, Any]) -> None:
    """The table on stdout; bugs of ours on stderr, since nobody reads the rejects of a run that seems well."""
    print(funnel_table(manifest, timings))
    if manifest["papers"]["kept"] and not manifest["papers"]["val"]:
        print(f"{VAL} is empty: none of so few papers fell to it; raise --val-frac to evaluate", file=sys.stderr)
    if bugs := manifest["reasons"].get("internal-error"):
        sample = manifest["samples"]["internal-error"][0]
        print(f"{bugs:,} e-prints met a bug of ours, for example {sample['id']}: {sample['detail']}", file=sys.stderr)


def is_finished(out: Path) -> bool:
    """Whether the corpus is there: the manifest, which is written last, and the files with the sizes that it tells."""
    if not (out / MANIFEST).exists() or not (out / TIMINGS).exists():
        return False
    files = json.loads((out / MANIFEST).read_text())["files"]
    return all((out / name).exists() and (out / name).stat().st_size == file["bytes"] for name, file in files.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Plan, index the metadata, do the shards, merge."""
    args = parser().parse_args(argv)
    check_flags(args)
    stamp = stamp_of(args)
    shards = plan_shards(args.sources, key_of([stamp["metadata"], stamp["papers"]]), args.limit)
    num_bytes, names = sum(shard.num_bytes for shard in shards), [shard.folder_name for shard in shards]
    stamp["sources"] = {"--sources": f"{len(shards):,} shards of {num_bytes:,} bytes (hash {key_of(names)})"}
    folder = args.out / SHARDS
    if args.dry_run:
        print(describe_plan(shards, sum((folder / name).is_dir() for name in names), args.workers))
        return EXIT_DONE
    claim_folder(args.out, stamp, args.force)
    with locked(folder, shared=args.num_shards is not None):
        if not is_finished(args.out):
            prepare(args, folder.resolve(), shards, stamp)
        elif args.num_shards is None:
            print(f"{args.out} is finished already; nothing was to be done", file=sys.stderr)
    if args.num_shards is None:
        tell(*(json.loads((args.out / name).read_text()) for name in (MANIFEST, TIMINGS)))
    return EXIT_DONE


def prepare(args: argparse.Namespace, folder: Path, shards: Sequence[Shard], stamp: dict[str, Any]) -> None:
    """The work of a run, or of one task of a job array."""
    if args.num_shards is None:
        for leftover in folder.glob("*.partial"):  # of a run that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    metadata_folder = folder / f"metadata-{key_of(stamp['metadata'])}"
    job = Job(folder, metadata_folder, limits_of(args), args.keep_captions, prepare_benchmarks(args, folder))
    counts = prepare_metadata(args, job)
    do_shards(args, job, shards)
    if args.num_shards is None:
        finish(args, job, shards, stamp, counts)
    else:
        print(
            f"part {args.shard_index} of {args.num_shards} is done; when all are, the same command without --shard-index and "
            "--num-shards merges them"
        )


if __name__ == "__main__":
    run(main)
