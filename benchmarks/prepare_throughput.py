"""How many e-prints a second and core prepare_dataset.py takes from archives to train.jsonl, and where the time goes.

In: e-prints and their metadata (default: ../shared/eprints). Out: CPU seconds of the whole program by stage, e-prints/s per
core, and whether a worker's memory stays flat when there are ten times as many shards.

    python benchmarks/prepare_throughput.py --repeat 3 --memory
    python benchmarks/prepare_throughput.py --repeat 0 --merge 270000 --index ../shared/metadata/oai_sample.jsonl.gz

The second line measures what one process does alone: the merge (of made-up shards) and the metadata's index.

CPU seconds are those of the program and all its children, from start to end, so they hold on a busy machine; what lies
between their sum over the stages and the whole is start-up (imports, the language profiles), planning and the metadata's index.
The aim (issue of the corpus at arXiv's scale): 12 e-prints/s per core at least, 60 wished for.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)  # run as a file: import from the repository root

from data_prep.archives import files_below
from data_prep.cli import Parser, UserError, run
from data_prep.dedup import NUM_PERM, SIGNATURE
from data_prep.filters import Limits
from data_prep.merge import Options, merge
from data_prep.metadata import MetadataIndex, index_metadata
from data_prep.records import json_line
from data_prep.shards import INDEX, ITEMS, RECORDS, peak_rss_bytes

NUM_COPIES = 10  # of the sources, for the check of memory
EPRINTS_PER_SHARD = 278  # 2,657,110 items in 9,547 tars
LEAKS_PER_PAPER = 125  # 13-grams sampled of 8,000 words, one in 64


def children_cpu_s() -> float:
    """User and system seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def prepare(
    metadata: Path, sources: Sequence[Path], out: Path, *more: str
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """One run from nothing: its CPU seconds, manifest and timings."""
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, str(ROOT / "data_prep/prepare_dataset.py"), "--metadata", str(metadata), "--sources"]
    before_s = children_cpu_s()
    done = subprocess.run([*words, *map(str, sources), "--out", str(out), *more], capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"prepare_dataset.py ended with {done.returncode}: {done.stderr[-500:]}")
    manifest, timings = (json.loads((out / name).read_text()) for name in ("manifest.json", "timings.json"))
    return children_cpu_s() - before_s, manifest, timings


def throughput(args: argparse.Namespace, folder: Path) -> None:
    """Print the best of `args.repeat` runs with one worker, and the cost of a run that reads one e-print."""
    runs = [prepare(args.metadata, args.sources, folder / "out", "--workers", "1") for _ in range(args.repeat)]
    fixed_s = min(
        prepare(args.metadata, args.sources, folder / "one", "--workers", "1", "--limit", "1")[0] for _ in range(2)
    )
    whole_s, manifest, timings = min(runs, key=lambda result: result[0])
    num_in, num_kept, stages = manifest["papers"]["in"], manifest["papers"]["kept"], timings["cpu_seconds"]
    print(
        f"{num_in} e-prints, {manifest['bytes_in'] / 1e6:.1f} MB of archives, {num_kept} kept, {manifest['chars_out'] / 1e6:.1f} M characters"
    )
    print(f"{'stage':<12} {'CPU s':>8} {'share':>7} {'ms per e-print':>15}")
    for stage, stage_s in [*stages.items(), ("the rest", whole_s - sum(stages.values()))]:
        print(f"{stage:<12} {stage_s:>8.2f} {stage_s / whole_s:>7.1%} {1000 * stage_s / num_in:>15.2f}")
    print(f"{'whole':<12} {whole_s:>8.2f} {1:>7.1%} {1000 * whole_s / num_in:>15.2f}")
    spread = ", ".join(f"{num_in / seconds:.1f}" for seconds, _, _ in runs)
    print(f"{num_in} e-prints / {whole_s:.2f} CPU s = {num_in / whole_s:.1f} e-prints/s per core (all runs: {spread})")
    print(
        f"without the {fixed_s:.2f} s that a run costs before its first paper: ({num_in} - 1) / ({whole_s:.2f} - {fixed_s:.2f}) "
        f"= {(num_in - 1) / (whole_s - fixed_s):.1f} e-prints/s per core"
    )


def memory(args: argparse.Namespace, folder: Path) -> None:
    """Print a worker's peak memory on the sources, and on ten copies of them in ten times as many shards."""
    copies = [folder / f"copy{number}" for number in range(NUM_COPIES)]
    for copy in copies:
        copy.mkdir()
        for path in (path for source in args.sources for path in files_below(source)):
            shutil.copyfile(path, copy / path.name)
    peaks = []
    for sources in (copies[:1], copies):
        _, manifest, timings = prepare(args.metadata, sources, folder / "out", "--workers", "2")
        peaks.append(timings["worker_peak_rss_bytes"] / 2**20)
        print(
            f"{manifest['sources']['shards']} shards, {manifest['papers']['in']:,} e-prints: a worker held at most {peaks[-1]:.0f} MiB"
        )
    print(f"{peaks[1]:.0f} / {peaks[0]:.0f} = {peaks[1] / peaks[0]:.2f} on {NUM_COPIES} times the e-prints")


def write_made_up_shard(folder: Path, generator: np.random.Generator, first: int) -> None:
    """A shard of EPRINTS_PER_SHARD e-prints, 57 in 100 of them kept, with random signatures and 100 characters of text each."""
    folder.mkdir(parents=True)
    items, records, offsets = [], [], [0]
    for number in range(first, first + EPRINTS_PER_SHARD):
        paper_id = f"{number // 20_000 % 100 + 2400:04d}.{number % 20_000:05d}"
        item = {
            "id": paper_id,
            "version": None,
            "name": f"tar/2401/{paper_id}.gz",
            "bytes": 1_900_000,
            "year": 2015,
            "category": "math.AG",
        }
        item["num_versions"] = 1
        if number % 100 < 57:
            records.append(json_line({"id": paper_id, "text": "x" * 100}))
            offsets.append(offsets[-1] + len(records[-1]))
            items.append(json_line(item | {"chars": 100}))
        else:
            items.append(json_line(item | {"reason": "category", "detail": "astro-ph.GA"}))
    (folder / ITEMS).write_text("".join(items))
    (folder / RECORDS).write_text("".join(records))
    signatures = np.zeros(len(records), SIGNATURE)
    signatures["slots"] = generator.integers(0, 2**16, (len(records), NUM_PERM))
    signatures["digest"] = generator.integers(0, 2**63, (len(records), 2))
    signatures["num_shingles"] = signatures["num_words"] = 8_000
    leaks = generator.integers(0, 2**63, len(records) * LEAKS_PER_PAPER).astype(np.uint64)
    np.savez(
        folder / INDEX,
        offsets=np.array(offsets),
        signatures=signatures,
        leaks=leaks,
        leak_offsets=np.arange(len(records) + 1) * LEAKS_PER_PAPER,
    )


def index_cost(metadata: Path, folder: Path) -> None:
    """Print what the index of a metadata file costs to make and to look into."""
    started_s, before_bytes = time.process_time(), peak_rss_bytes()
    counts = index_metadata(metadata, Limits(), folder / "index")
    made_s, grown = time.process_time() - started_s, peak_rss_bytes() - before_bytes
    index = MetadataIndex(folder / "index")
    ids = list(index.kept_ids())[:: max(counts["kept"] // 5000, 1)]
    random.Random(0).shuffle(ids)
    started_s = time.process_time()
    found = sum(index.find(paper_id) is not None for paper_id in ids)
    look_s = (time.process_time() - started_s) / len(ids)
    print(
        f"index of {counts['lines']:,} metadata lines: {made_s:.1f} CPU s = {1e6 * made_s / counts['lines']:.0f} microseconds each, "
        f"memory grew by {grown / 2**20:.0f} MiB; {found:,} of {len(ids):,} ids found, {1e6 * look_s:.0f} microseconds each"
    )
    print(f"kept {counts['kept']:,}, rejected {counts['rejected']}")


def merge_scale(num_eprints: int, folder: Path) -> None:
    """Print time and memory of the merge alone, which one process does, on made-up shards of the real number of papers each."""
    generator = np.random.default_rng(0)
    folders = [folder / f"shard{number}" for number in range(num_eprints // EPRINTS_PER_SHARD)]
    for number, shard in enumerate(folders):
        write_made_up_shard(shard, generator, number * EPRINTS_PER_SHARD)
    before_bytes, started_s = peak_rss_bytes(), time.process_time()
    figures = merge(folder / "merged", folders, folder, Options(val_frac=0.01, jaccard=0.8, list_missing=False))
    papers, seconds = figures["papers"], time.process_time() - started_s
    grown = peak_rss_bytes() - before_bytes
    print(
        f"merge of {papers['in']:,} e-prints in {len(folders):,} shards, {papers['kept']:,} kept: {seconds:.1f} CPU s = "
        f"{1e6 * seconds / papers['in']:.0f} microseconds an e-print; memory grew by {grown / 2**20:,.0f} MiB = "
        f"{grown / papers['kept']:,.0f} bytes a kept paper"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = Parser(prog="prepare_throughput.py", description=__doc__)
    parser.add_argument("--sources", type=Path, nargs="+", default=[SHARED / "eprints/src"])
    parser.add_argument("--metadata", type=Path, default=SHARED / "eprints/metadata.jsonl")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the one with the least CPU time counts")
    parser.add_argument("--memory", action="store_true", help="check a worker's memory on ten times the shards, too")
    parser.add_argument(
        "--merge", type=int, default=0, metavar="EPRINTS", help="measure the merge of so many made-up e-prints"
    )
    parser.add_argument(
        "--index", type=Path, default=None, metavar="METADATA", help="measure the index of this metadata file"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        if args.repeat:
            throughput(args, Path(name))
        if args.index:
            index_cost(args.index, Path(name))
        if args.merge:
            merge_scale(args.merge, Path(name))
        if args.memory:
            memory(args, Path(name))
    return 0


if __name__ == "__main__":
    run(main)
