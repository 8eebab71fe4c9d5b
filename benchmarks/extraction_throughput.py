"""How fast extraction alone is: e-prints and raw TeX a second on one core, the slowest e-prints, zlib against isal.

In: e-prints (default: ../shared/eprints). Out: a line for each inflating library, then the slowest e-prints.

    python benchmarks/extraction_throughput.py --repeat 5

CPU seconds of this process, archive in memory to flattened source in memory; of the repeats, the fastest of each e-print.
The aim is that extraction takes a small part of the 6.7 ms that the issue of fidelity allows an e-print, cleaning included.
"""

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)  # run as a file: import from the repository root

from data_prep import archives
from data_prep.cli import Parser, run
from data_prep.extraction import Eprint, Extracted, extract_source, iter_eprints

LIBRARIES = ("zlib", "isal.isal_zlib")
NUM_SLOWEST = 5


def fastest_s(eprints: Sequence[Eprint], repeat: int) -> list[float]:
    """CPU seconds of each e-print, the smallest of `repeat` runs over all."""
    runs = []
    for _ in range(repeat):
        seconds = []
        for eprint in eprints:
            started_s = time.process_time()
            extract_source(eprint.data, eprint.name)
            seconds.append(time.process_time() - started_s)
        runs.append(seconds)
    return [min(times) for times in zip(*runs, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="extraction_throughput.py", description=__doc__)
    parser.add_argument("--sources", nargs="+", type=Path, default=[ROOT.parent / "shared" / "eprints"])
    parser.add_argument("--repeat", type=int, default=3, help="runs over all e-prints")
    options = parser.parse_args(argv)
    eprints = [item for item in iter_eprints(options.sources) if isinstance(item, Eprint)]
    results = [extract_source(eprint.data, eprint.name) for eprint in eprints]
    tex_bytes = sum(result.num_source_bytes for result in results if isinstance(result, Extracted))
    print(
        f"{len(eprints)} e-prints, {sum(len(e.data) for e in eprints) / 1e6:.1f} MB, {tex_bytes / 1e6:.1f} MB of TeX used"
    )
    for library in LIBRARIES:
        if importlib.util.find_spec(library.partition(".")[0]) is None:
            print(f"{library}: not installed")
            continue
        archives.inflating = importlib.import_module(library)
        times = sorted(zip(fastest_s(eprints, options.repeat), (eprint.id for eprint in eprints), strict=True))
        seconds = [second for second, _ in times]
        p99_ms = 1000 * seconds[int(0.99 * len(seconds))]
        print(
            f"{library}: {sum(seconds):.3f} s, {len(eprints) / sum(seconds):,.0f} e-prints/s, {tex_bytes / 1e6 / sum(seconds):.1f} MB/s of TeX;"
            f" median {1000 * statistics.median(seconds):.2f} ms, p99 {p99_ms:.1f} ms"
        )
        print(
            "  slowest: "
            + ", ".join(f"{name} {1000 * second:.0f} ms" for second, name in times[: -NUM_SLOWEST - 1 : -1])
        )
    return 0


if __name__ == "__main__":
    run(main)
