"""Tests of the number of answers per worker, read from Nginx's access log."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from deploy.bench import accesslog
from deploy.bench.accesslog import AccessLog, balance


def line(served_by: str, target: str = "/predict?row=3", status: int = 200) -> str:
    """Return a line of the log, with the fields and the order of nginx/nginx.conf."""
    entry = {"time": "2026-01-01T00:00:00+00:00", "uri": target, "status": status, "served_by": served_by}
    return json.dumps(entry, separators=(",", ":")) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = tmp_path / "access.log"
    log.touch()
    return log


def test_only_successful_answers_of_the_run_count(path: Path) -> None:
    """Requests of other runs, and answers with another status than 200, do not count."""
    path.write_text(
        line("bench/1", "/predict?row=2") + line("bench/1", "/predict?row=33") + line("bench/1", "/health?row=3")
        + line("bench/1", status=503) + line("bench/1", status=499) + line("bench/2") * 3 + line("bench/1")
    )  # fmt: skip
    assert AccessLog(path).count_answers("/predict?row=3", 4) == Counter({"bench/2": 3, "bench/1": 1})


def test_each_line_is_read_once(path: Path) -> None:
    """A later run continues to read where the last one ended."""
    log = AccessLog(path)
    path.write_text(line("bench/1", "/predict?row=1"))
    assert log.count_answers("/predict?row=1", 1).total() == 1
    with path.open("a") as file:
        file.write(line("bench/1", "/predict?row=1") + line("bench/2", "/predict?row=2"))
    assert log.count_answers("/predict?row=2", 1) == {"bench/2": 1}


def test_late_log_lines_are_waited_for(path: Path) -> None:
    """The expected number of lines is waited for, and an incomplete line is read after its end is written."""
    complete_line = line("bench/1")
    path.write_text(complete_line + complete_line[:40])

    def write() -> None:
        with path.open("a") as file:
            file.write(complete_line[40:] + complete_line)

    later = threading.Timer(0.3, write)
    later.start()
    assert AccessLog(path).count_answers("/predict?row=3", 3) == {"bench/1": 3}
    later.join()


def test_missing_log_lines_end_the_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If fewer lines than expected are written, the wait ends and those are counted."""
    monkeypatch.setattr(accesslog, "_WAIT_SECONDS", 0.2)
    path.write_text(line("bench/1"))
    assert AccessLog(path).count_answers("/predict?row=3", 1000) == {"bench/1": 1}


@pytest.mark.parametrize(
    ("counts", "workers", "expected"),
    [
        ({"bench/1": 50, "bench/2": 50}, 2, 1.0),
        ({"bench/1": 75, "bench/2": 25}, 2, 1.5),
        ({"bench/1": 100}, 4, 4.0),
        ({}, 2, None),
    ],
)
def test_balance_is_maximum_over_mean(counts: dict[str, int], workers: int, expected: float | None) -> None:
    """The balance is 1 for equal workers, and the number of workers if one of them answered everything."""
    assert balance(counts, workers) == expected
