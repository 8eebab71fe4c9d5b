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
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep import cleaner_form
from data_prep.cli import EXIT_DONE, Parser, UserError, duration, need_file, run
from data_prep.corpus_folder import MANIFEST, SHARDS, TIMINGS, VAL, Settings
from data_prep.filters import Limits, limit_flags
from data_prep.records import CHARS_PER_TOKEN

if TYPE_CHECKING:
    from data_prep.corpus import Plan

DEFAULTS = Limits()
JACCARD = 0.8  # as data_prep/dedup.py's THRESHOLD, which is not imported here so that --help answers at once
ENGINES = ("processes", "ray")
NUM_CATEGORIES = 12  # told of on the terminal; the report and the manifest have all
ARXIV_BYTES_PER_ITEM = 5.07e12 / 2_657_110  # the bulk source of February 2025: its manifest's total size and items
COMPILING_PAYS_BYTES = 20e9  # of sources, about 10,000 e-prints: from here on a minute of compiling is won back
EXPECTED_PER_S_PER_CORE = 50.0  # e-prints: 51 to 77 in docs/LOG.md, Corpus, of 2026-11-21


def parser() -> Parser:
    """The flags, grouped by whether they decide the output."""
    flags = Parser(prog="prepare_dataset.py", description=__doc__)
    flags.add_argument(
        "--metadata", type=Path, required=True, metavar="FILE", help="arXiv's metadata, JSON lines, plain or .gz"
    )
    flags.add_argument(
        "--sources", type=Path, nargs="+", required=True, metavar="PATH", help="archives, folders of them, bulk tars"
    )
    flags.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        default=Path("dataset_train_val"),
        help="output folder (default: %(default)s)",
    )
    what = flags.add_argument_group("what is kept")
    limit_flags(what)
    what.add_argument(
        "--min-body-chars",
        metavar="NUM",
        type=int,
        default=DEFAULTS.min_body_chars,
        help="of the text (default: %(default)s)",
    )
    what.add_argument(
        "--language", default=DEFAULTS.language, metavar="CODE", help="ISO 639-1 code, or 'any' (default: %(default)s)"
    )
    what.add_argument("--keep-captions", action="store_true", help="keep the captions of figures and tables")
    what.add_argument(
        "--jaccard",
        metavar="SIMILARITY",
        type=float,
        default=JACCARD,
        help="similarity of near duplicates (default: %(default)s)",
    )
    what.add_argument(
        "--decontaminate",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="benchmark files whose questions are kept out",
    )
    what.add_argument(
        "--val-frac",
        metavar="FRAC",
        type=float,
        default=0.01,
        help="share of papers in val.jsonl (default: %(default)s)",
    )
    what.add_argument("--limit", metavar="NUM", type=int, default=None, help="read the first LIMIT e-prints only")
    what.add_argument(
        "--list-missing", action="store_true", help="a reject for each wanted record without an e-print, too"
    )
    how = flags.add_argument_group("how it runs (none of these changes a byte)")
    how.add_argument(
        "--workers",
        metavar="NUM",
        type=int,
        default=None,
        help="processes, or Ray tasks (default: all cores, of the machine or the cluster)",
    )
    how.add_argument(
        "--engine",
        choices=ENGINES,
        default="processes",
        help="of this machine, or tasks of a Ray cluster (or a local one)",
    )
    how.add_argument(
        "--shard-index",
        metavar="NUM",
        type=int,
        default=None,
        help="of a job array: do the shards i with i mod num-shards = this",
    )
    how.add_argument("--num-shards", metavar="NUM", type=int, default=None, help="size of the job array")
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
        ("--workers", 1 if args.workers is None else args.workers, 1, 1024),
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


def settings_of(args: argparse.Namespace) -> Settings:
    """The flags, checked, as the settings of a run."""
    check_flags(args)
    limits = Limits(
        categories=tuple(args.categories),
        primary_only=args.primary_only,
        first_year=args.first_year,
        min_body_chars=args.min_body_chars,
        language=None if args.language == "any" else args.language,
        licences=None if args.licences is None else tuple(args.licences),
    )
    return Settings(
        metadata=args.metadata,
        sources=tuple(args.sources),
        out=args.out,
        limits=limits,
        keep_captions=args.keep_captions,
        jaccard=args.jaccard,
        decontaminate=tuple(args.decontaminate),
        val_frac=args.val_frac,
        limit=args.limit,
        list_missing=args.list_missing,
        workers=args.workers,
        engine=args.engine,
        shard_index=args.shard_index,
        num_shards=args.num_shards,
        force=args.force,
    )


def describe_plan(settings: Settings, plan: "Plan") -> str:
    """--dry-run's answer, with its arithmetic."""
    from data_prep.engines import available_cores

    num_workers = settings.workers or available_cores()
    tars = [shard for shard in plan.shards if shard.is_bulk]
    loose = sum(len(shard.sources) for shard in plan.shards if not shard.is_bulk)
    num_bytes, tar_bytes = sum(shard.num_bytes for shard in plan.shards), sum(shard.num_bytes for shard in tars)
    num_done = sum((settings.out / SHARDS / shard.folder_name).is_dir() for shard in plan.shards)
    items = loose + round(tar_bytes / ARXIV_BYTES_PER_ITEM)
    seconds = items / (EXPECTED_PER_S_PER_CORE * num_workers)
    return (
        f"{len(tars):,} bulk tars and {loose:,} loose archives, {num_bytes / 1e9:,.2f} GB, in {len(plan.shards):,} shards, "
        f"of which {num_done:,} are done\n"
        f"about {loose:,} + {tar_bytes / 1e9:,.2f} GB / {ARXIV_BYTES_PER_ITEM / 1e6:.2f} MB = {items:,} e-prints\n"
        f"{items:,} e-prints / ({num_workers} workers x {EXPECTED_PER_S_PER_CORE:g} e-prints/s) = {duration(seconds)}"
    )


def account(manifest: dict[str, Any], timings: dict[str, Any]) -> str:
    """The account as tables for a terminal: by stage and reason, by year, by category, then the sums in sentences."""
    columns = f"{'in':>10} {'kept':>10} {'':>7} {'MB in':>11} {'M chars out':>12} {'M tokens':>9}"
    lines = [f"{'stage':<12} {'in':>10} {'dropped':>10} {'left':>10} {'GB left':>9}  why"]
    lines += map(stage_line, manifest["funnel"])
    lines += ["", f"{'year':<20} {columns}"]
    lines += [yield_line(year, tally) for year, tally in manifest["years"].items()]
    lines += ["", f"{'primary category':<20} {columns}"]
    lines += [yield_line(name, tally) for name, tally in largest(manifest["categories"])]
    return "\n".join([*lines, "", *sums(manifest, timings)])


def sums(manifest: dict[str, Any], timings: dict[str, Any]) -> list[str]:
    """The account in a few sentences."""
    papers, metadata = manifest["papers"], manifest["metadata"]
    in_and_out = f"{papers['in']:,} e-prints = {papers['kept']:,} kept + {papers['rejected']:,} rejected"
    mega_bytes, mega_chars = manifest["bytes_in"] / 1e6, manifest["chars_out"] / 1e6
    return [
        f"{in_and_out}; train {papers['train']:,}, val {papers['val']:,}",
        f"metadata: {metadata['ids']:,} ids, {metadata['kept']:,} kept by the filter, {metadata['ids_without_eprint']:,} without e-print",
        f"{mega_bytes:,.1f} MB in, {mega_chars:,.1f} M characters out, about {mega_chars / CHARS_PER_TOKEN:,.1f} M tokens",
        "CPU seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in timings["cpu_seconds"].items()),
        manifest["leak_check"],
    ]


def stage_line(row: dict[str, Any]) -> str:
    """A stage of the funnel and the reasons that it gave."""
    why = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items())
    numbers = f"{row['in']:>10,} {row['in'] - row['left']:>10,} {row['left']:>10,} {row['bytes_left'] / 1e9:>9,.3f}"
    return f"{row['stage']:<12} {numbers}  {why}".rstrip()


def yield_line(name: str, tally: dict[str, int]) -> str:
    """What came of a year or a category."""
    chars = tally["chars_out"] / 1e6
    share = f"{tally['kept'] / max(tally['in'], 1):>7.1%}"
    sizes = f"{tally['bytes_in'] / 1e6:>11,.1f} {chars:>12,.1f} {chars / CHARS_PER_TOKEN:>9,.1f}"
    return f"{name:<20} {tally['in']:>10,} {tally['kept']:>10,} {share} {sizes}"


def largest(categories: dict[str, dict[str, int]]) -> list[tuple[str, dict[str, int]]]:
    """The NUM_CATEGORIES categories with the most e-prints, and the sum of the others."""
    ordered = sorted(categories.items(), key=lambda pair: (-pair[1]["in"], pair[0]))
    shown, others = ordered[:NUM_CATEGORIES], [tally for _, tally in ordered[NUM_CATEGORIES:]]
    if others:
        shown.append((f"{len(others)} others", {key: sum(tally[key] for tally in others) for key in others[0]}))
    return shown


def tell(manifest: dict[str, Any], timings: dict[str, Any]) -> None:
    """The tables on stdout; bugs of ours on stderr, since nobody reads the rejects of a run that seems well."""
    print(account(manifest, timings))
    if manifest["papers"]["kept"] and not manifest["papers"]["val"]:
        print(f"{VAL} is empty: none of so few papers fell to it; raise --val-frac to evaluate", file=sys.stderr)
    if bugs := manifest["reasons"].get("internal-error"):
        sample = manifest["samples"]["internal-error"][0]
        print(f"{bugs:,} e-prints met a bug of ours, for example {sample['id']}: {sample['detail']}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Make a corpus and print its account; or a part of it, or what would be done."""
    settings = settings_of(args := parser().parse_args(argv))
    from data_prep.corpus import make_corpus, make_plan

    plan = make_plan(settings)
    if args.dry_run:
        print(describe_plan(settings, plan))
        return EXIT_DONE
    if cleaner_form != "compiled" and sum(shard.num_bytes for shard in plan.shards) > COMPILING_PAYS_BYTES:
        print(
            f"the cleaner is {cleaner_form}; python data_prep/compile_cleaner.py (a minute, with mypy and a C compiler) makes it twice as fast",
            file=sys.stderr,
        )
    if not make_corpus(settings, plan):
        print(f"{settings.out} is finished already; nothing was to be done", file=sys.stderr)
    if settings.is_array_task:
        print(
            f"part {settings.shard_index} of {settings.num_shards} is done; when all are, the same command without --shard-index and "
            "--num-shards merges them"
        )
    else:
        print(f"the cleaner is {cleaner_form}")
        tell(*(json.loads((settings.out / name).read_text()) for name in (MANIFEST, TIMINGS)))
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
