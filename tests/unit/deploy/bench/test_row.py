"""From a run's raw figures to what one answer cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deploy.bench.processes import Memory
from deploy.bench.row import Row
from deploy.bench.wrk import Answers

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "timeout": 0, "status": 0}

_ROW = Row(
    engine="constant",
    workers=1,
    request="POST /predict",
    connections=64,
    answers=Answers(count=10_000, rate=5000.4, p50=4.333, p99=8.71, errors=NO_ERRORS),
    server_cpu=2.0,
    nginx_cpu=0.25,
    memory=[Memory(10, True, 200_000_000, 90_000_000), Memory(11, False, 86_540_000, 18_000_000)],
    floor=40.0,
)


def a_row(**changes: Any) -> Row:
    """10,000 answers in two seconds: 200 us of the server's CPU each, 25 us of Nginx's."""
    return replace(_ROW, **changes)


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
