"""From a run's raw figures to what one answer cost."""

from __future__ import annotations

from deploy.bench.wrk import Answers
from tests.support.bench_results import NO_ERRORS, a_row


def test_figures_of_a_row() -> None:
    """CPU is per answer and split in two, the ratio is to the floor's, and memory and errors are sums."""
    row = a_row(answers=Answers(10_000, 99.6, 0.1, 1.0, {**NO_ERRORS, "read": 2, "status": 3}))
    assert (row.server_us, row.nginx_us, row.ratio) == (200.0, 25.0, 5.0)
    assert row.pss == 286_540_000
    assert row.errors == 5


def test_floor_is_its_own_measure() -> None:
    """The floor's ratio is 1; where it took too little CPU to be seen, there are no ratios."""
    floor = a_row(floor=None, server_cpu=0.4)
    assert (floor.server_us, floor.ratio) == (40.0, 1.0)
    assert a_row(floor=None, server_cpu=0.0).ratio is None
    assert a_row(floor=0.0).ratio is None
