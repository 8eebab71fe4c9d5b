"""What share of a packed corpus is lost when each document is cut at its first N tokens, as the published training code did.

In: a dataset with packed tokens. Out: one line for each N. The tokenizer counts little: what matters is how much longer a paper is than N.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from collections.abc import Sequence

import numpy as np

from data_prep.cli import EXIT_DONE, Parser, run
from data_prep.token_files import open_split


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        epilog="example: python benchmarks/truncation.py --dataset dataset_train_val --tokens 768 4096",
    )
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder with tokens/")
    parser.add_argument("--tokens", type=int, nargs="+", default=[768], help="where documents are cut (default: 768)")
    options = parser.parse_args(argv)
    lengths = np.concatenate([np.diff(file.starts.astype(np.int64)) for file in open_split(options.dataset, "train")])
    print(
        f"{len(lengths):,} documents, {lengths.sum():,} tokens, median {int(np.median(lengths)):,}, longest {lengths.max():,}"
    )
    for cut in options.tokens:
        kept = np.minimum(lengths, cut)
        rows = len(lengths) * cut
        print(
            f"cut at {cut:,}: {100 * (1 - kept.sum() / lengths.sum()):.1f}% of the tokens are thrown away, "
            f"{100 * (lengths > cut).mean():.1f}% of the documents are cut, {100 * (1 - kept.sum() / rows):.1f}% of the rows is padding"
        )
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
