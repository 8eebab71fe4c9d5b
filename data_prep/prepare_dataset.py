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
import hashlib
import importlib.metadata
import json
import pickle
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import EXIT_DONE, Parser, Progress, UserError, atomic_write, duration, need_file, run
from data_prep.engines import ENGINES, available_cores, run_shards
from data_prep.filters import Limits
from data_prep.merge import MANIFEST, REJECTS, TRAIN, VAL, Options, merge
from data_prep.metadata import COUNTS, index_metadata, sha256_file
from data_prep.shards import SECONDS, STAGES, Job, Shard, is_bulk_tar, plan_shards, shard_is_done

DEFAULTS = Limits()
SHARDS, STAMP, TIMINGS = "shards", "run.json", "timings.json"
OUTPUTS = (MANIFEST, TRAIN, VAL, REJECTS, TIMINGS)  # the manifest goes first: without it a corpus is not finished
NOT_IN_CODE = {"cli.py", "report.py", "pack_tokens.py", "token_files.py", "train_tokenizer.py", "tokenizer_report.py"}
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
    what.add_argument("--categories", nargs="+", default=list(DEFAULTS.categories), help="archives or whole categories")
    what.add_argument("--primary-only", action="store_true", help="look at the first category only (default: at any)")
    what.add_argument("--first-year", type=int, default=DEFAULTS.first_year, help="of the first version (%(default)s)")
    what.add_argument("--licences", nargs="+", default=None, help="keep these licences only (default: all)")
    what.add_argument("--min-body-chars", type=int, default=DEFAULTS.min_body_chars, help="default: %(default)s")
    what.add_argument("--language", default=DEFAULTS.language, help="ISO 639-1 code, or 'any' (default: %(default)s)")
    what.add_argument("--keep-captions", action="store_true", help="keep the captions of figures and tables")
    what.add_argument("--jaccard", type=float, default=0.8, help="similarity of near duplicates (default: %(default)s)")
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


def code_hash() -> str:
    """A hash of the source files that decide the output."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name not in NOT_IN_CODE:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def file_stamp(path: Path) -> str:
    """Name, size and time of change of a file: what tells, without reading it, that it is another one."""
    state = path.stat()
    return f"{path.name}, {state.st_size:,} bytes, changed {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(state.st_mtime))}"


def stamp_of(args: argparse.Namespace) -> dict[str, Any]:
    """All that decides the output but the archives, by the names under which a difference is told to the user."""
    per_paper = {f"--{name.replace('_', '-')}": value for name, value in asdict(limits_of(args)).items()}
    per_paper |= {"--keep-captions": args.keep_captions, "--limit": args.limit}
    per_paper["--decontaminate"] = [sha256_file(path)[:16] for path in args.decontaminate]
    per_paper["the code"] = code_hash()
    per_paper["packages"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    per_paper["--metadata"] = file_stamp(args.metadata)
    merging = {"--jaccard": args.jaccard, "--val-frac": args.val_frac, "--list-missing": args.list_missing}
    stamp: dict[str, Any] = json.loads(json.dumps({"per_paper": per_paper, "merging": merging}))
    return stamp


def key_of(value: object) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two stamps, with both values."""
    before = {**old.get("per_paper", {}), **old.get("merging", {})}
    after = {**new["per_paper"], **new["merging"]}
    found = [
        f"{name} was {before.get(name)} and is {after.get(name)}"
        for name in after | before
        if before.get(name) != after.get(name)
    ]
    if old.get("sources") != new["sources"]:
        found.append(f"--sources was {old.get('sources')} and is {new['sources']}")
    return found


def claim_folder(out: Path, stamp: dict[str, Any], force: bool) -> None:
    """Make `out` this run's, or raise UserError: it holds another run's output, or what this program did not write."""
    path = out / SHARDS / STAMP
    present = [name for name in OUTPUTS if (out / name).exists()]
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    if path.exists():
        changes = differences(json.loads(path.read_text()), stamp)
        if not changes:
            return
        if not force:
            raise UserError(
                f"{out} holds a run with other settings: {'; '.join(changes)}. Choose another --out, or add --force: what "
                "the change does not touch is kept, the rest is done again"
            )
    elif present and not force:
        raise UserError(
            f"{out} holds {present[0]}, which is of another run; choose another --out, or add --force to replace it"
        )
    for name in present:
        (out / name).unlink()
    with atomic_write(path) as file:
        json.dump(stamp, file, indent=1)


# The run ------------------------------------------------------------------------------------------------------------------


def describe_plan(shards: Sequence[Shard], num_done: int, num_workers: int) -> str:
    """--dry-run's answer, with its arithmetic."""
    tars = [shard for shard in shards if is_bulk_tar(shard.sources[0])]
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
    if counts["repeated_ids"]:
        print(f"metadata: {counts['repeated_ids']:,} repeated ids; the later line of each counts", file=sys.stderr)
    return counts


def prepare_benchmarks(args: argparse.Namespace, folder: Path) -> Path | None:
    """The pickled index of the benchmarks' questions, for the workers; None without --decontaminate."""
    if not args.decontaminate:
        return None
    from data_prep.dedup import BenchmarkIndex

    path = folder / f"benchmarks-{key_of([sha256_file(path) for path in args.decontaminate])}.pickle"
    if not path.exists():
        with atomic_write(path, "wb") as file:
            pickle.dump(BenchmarkIndex.build(args.decontaminate), file)
    return path


def stage_seconds(folders: Sequence[Path]) -> dict[str, float]:
    """CPU seconds by stage, over all shards."""
    totals = dict.fromkeys(STAGES, 0.0)
    for folder in folders:
        for stage, seconds in json.loads((folder / SECONDS).read_text()).items():
            totals[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in totals.items()}


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
    cpu = timings["cpu_seconds"]
    lines.append(
        f"{papers['in']:,} e-prints = {papers['kept']:,} kept + {papers['rejected']:,} rejected; "
        f"train {papers['train']:,}, val {papers['val']:,}"
    )
    lines.append(
        f"{manifest['bytes_in'] / 1e6:,.1f} MB in, {manifest['chars_out'] / 1e6:,.1f} M characters out, about "
        f"{manifest['tokens_out_estimated'] / 1e6:,.1f} M tokens"
    )
    lines.append("CPU seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in cpu.items()))
    lines.append(manifest["leak_check"])
    return "\n".join(lines)


def metadata_account(counts: dict[str, Any], num_ids_with_eprint: int) -> dict[str, Any]:
    """What the manifest says of the metadata: its funnel, and records without an e-print."""
    num_ids = counts["kept"] + sum(counts["rejected"].values())
    return counts | {"ids": num_ids, "ids_without_eprint": num_ids - num_ids_with_eprint}


def finish(
    args: argparse.Namespace, job: Job, shards: Sequence[Shard], stamp: dict[str, Any], counts: dict[str, Any]
) -> None:
    """Merge the shards, write the manifest last, clear away what no shard of this run needs, and print the table."""
    (args.out / MANIFEST).unlink(missing_ok=True)
    folders = [job.shards_folder / shard.folder_name for shard in shards]
    started_s = time.process_time()
    options = Options(args.val_frac, args.jaccard, args.list_missing)
    figures = merge(args.out, folders, job.metadata_folder, options)
    timings = {
        "cpu_seconds": stage_seconds(folders) | {"merge": round(time.process_time() - started_s, 3)},
        "engine": args.engine,
        "workers": args.workers,
    }
    facts = {key: value for key, value in stamp["per_paper"].items() if key != "--metadata"}
    num_ids_with_eprint = figures.pop("num_ids_with_eprint")
    manifest = {
        **figures,
        "metadata": metadata_account(counts, num_ids_with_eprint),
        "sources": {"shards": len(shards), "bytes": sum(shard.num_bytes for shard in shards)},
        "settings": facts | stamp["merging"],
    }
    for name, content in ((TIMINGS, timings), (MANIFEST, manifest)):
        with atomic_write(args.out / name) as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")
    needed = {STAMP, job.metadata_folder.name, *(folder.name for folder in folders)}
    needed |= {job.benchmarks.name} if job.benchmarks else set()
    for path in job.shards_folder.iterdir():
        if path.name not in needed:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(funnel_table(manifest, timings))


def main(argv: Sequence[str] | None = None) -> int:
    """Plan, index the metadata, do the shards, merge."""
    args = parser().parse_args(argv)
    check_flags(args)
    stamp = stamp_of(args)
    shards = plan_shards(args.sources, key_of(stamp["per_paper"]), args.limit)
    stamp["sources"] = f"{len(shards)} shards {key_of([shard.folder_name for shard in shards])}"
    folder = args.out / SHARDS
    metadata_folder = folder / f"metadata-{key_of(stamp['per_paper'])}"
    if args.dry_run:
        num_done = sum((folder / shard.folder_name).is_dir() for shard in shards)
        print(describe_plan(shards, num_done, args.workers))
        return EXIT_DONE
    claim_folder(args.out, stamp, args.force)
    job = Job(
        folder.resolve(),
        metadata_folder.resolve(),
        limits_of(args),
        args.keep_captions,
        prepare_benchmarks(args, folder.resolve()),
    )
    counts = prepare_metadata(args, job)
    do_shards(args, job, shards)
    if args.num_shards is not None:
        print(
            f"part {args.shard_index} of {args.num_shards} is done; when all are, the same command without --shard-index merges them"
        )
        return EXIT_DONE
    finish(args, job, shards, stamp, counts)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
