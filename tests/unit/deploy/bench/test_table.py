"""Tests of the figures and the layout of the table."""

from __future__ import annotations

from deploy.bench.table import table
from deploy.bench.wrk import Answers
from tests.support.bench_results import NO_ERRORS, make_row

FLOOR = make_row(request="GET /health", floor=None, server_cpu=0.4)
SPREAD = make_row(
    workers=2,
    answers=Answers(1000, 99.6, 0.123, 1234.5, {**NO_ERRORS, "read": 2, "status": 3}),
    answered={"bench/1": 600, "bench/2": 395},
    balance=1.206,
)


def test_table_aligns_columns_and_leaves_unknown_cells_blank() -> None:
    """Each row is a line, columns are aligned, and unknown figures are blank."""
    assert table([FLOOR, make_row(), SPREAD]).splitlines() == [
        "| engine   | workers | request       | connections | answers/s | P50 ms |  P99 ms | server CPU us | x /health "
        "| Nginx CPU us | balance | PSS MB | errors |",
        "| -------- | ------: | ------------- | ----------: | --------: | -----: | ------: | ------------: | --------: "
        "| -----------: | ------: | -----: | -----: |",
        "| constant |       1 | GET /health   |          64 |      5000 |   4.33 |    8.71 |            40 |      1.00 "
        "|           25 |         |  286.5 |      0 |",
        "| constant |       1 | POST /predict |          64 |      5000 |   4.33 |    8.71 |           200 |      5.00 "
        "|           25 |         |  286.5 |      0 |",
        "| constant |       2 | POST /predict |          64 |       100 |   0.12 | 1234.50 |          2000 |     50.00 "
        "|          250 |    1.21 |  286.5 |      5 |",
    ]


def test_row_computes_cpu_per_answer_and_sums() -> None:
    """CPU times are per answer, the ratio is relative to the floor, and memory and errors are sums."""
    row = make_row(answers=Answers(10_000, 99.6, 0.1, 1.0, {**NO_ERRORS, "read": 2, "status": 3}))
    assert (row.server_us, row.nginx_us, row.ratio) == (200.0, 25.0, 5.0)
    assert row.pss == 286_540_000
    assert row.errors == 5


def test_ratio_of_the_floor_is_1() -> None:
    """The ratio of the floor is 1, and a floor without measurable CPU time gives no ratios."""
    floor = make_row(floor=None, server_cpu=0.4)
    assert (floor.server_us, floor.ratio) == (40.0, 1.0)
    assert make_row(floor=None, server_cpu=0.0).ratio is None
    assert make_row(floor=0.0).ratio is None
