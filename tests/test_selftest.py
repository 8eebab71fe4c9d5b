"""train.py --selftest can tell a mode that is wrong from one that is right."""

import math
from pathlib import Path

import pytest

from benchmarks import selftest
from benchmarks.ranks import start_ranks, wait_ranks
from benchmarks.selftest import Curve

REFERENCE = Curve([6.0, 5.0, 4.0], 2.0)


@pytest.mark.parametrize(
    ("curve", "agrees"),
    [
        (Curve([6.0001, 5.001, 4.004], 2.001), True),
        (Curve([6.0, 5.0, 4.006], 2.0), False),
        (Curve([6.0, math.nan, 4.0], 2.0), False),
        (Curve([6.0, 5.0, 4.0], 1.0), False),  # a gradient of half the size, which AdamW does not see
    ],
)
def test_what_counts_as_equal(curve: Curve, agrees: bool) -> None:
    assert selftest.agree(curve, REFERENCE) is agrees


def stage_2_reads_rows_twice(rank: int) -> None:
    """Give all ranks the rows of rank 0 under ZeRO-2, as the published run did; few steps, and no third process."""
    right = selftest.engine_curve

    def wrong(ranks: selftest.train.Ranks, *more: object) -> Curve:
        mode = more[-1]
        assert isinstance(mode, selftest.Mode)
        return right(ranks._replace(rank=0) if mode.stage == 2 else ranks, *more)  # type: ignore[arg-type]

    selftest.engine_curve, selftest.STEPS, selftest.STAGES, selftest.alone = wrong, 4, (0, 2), lambda: 0


def test_a_rank_that_is_not_heard_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    codes = wait_ranks(start_ranks(["--selftest"], 2, log, {"PATH": ""}, stage_2_reads_rows_twice), 90)
    said = log.read_text()
    assert codes == [1, 0], said
    rows = [line for line in said.splitlines() if line.startswith("ZeRO-")]
    assert [(row[:6], row.endswith("WRONG")) for row in rows] == 2 * [("ZeRO-0", False)] + 2 * [("ZeRO-2", True)]
    assert "torch.compile was not tried: there is no C++ compiler on PATH." in said
    assert "Do not train on this machine in a mode that is marked WRONG." in said
