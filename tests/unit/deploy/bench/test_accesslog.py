"""Nginx's access log as the measure of balance."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from deploy.bench import accesslog
from deploy.bench.accesslog import AccessLog, balance


def line(served_by: str, target: str = "/predict?row=3", status: int = 200) -> str:
    """One request, in the order and form of nginx/nginx.conf."""
    entry = {"time": "2026-01-01T00:00:00+00:00", "uri": target, "status": status, "served_by": served_by}
    return json.dumps(entry, separators=(",", ":")) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    one = tmp_path / "access.log"
    one.touch()
    return one


def test_only_the_run_s_good_answers_count(path: Path) -> None:
    """Other runs' requests, and answers with another status, do not count."""
    path.write_text(
        line("bench/1", "/predict?row=2") + line("bench/1", "/predict?row=33") + line("bench/1", "/health?row=3")
        + line("bench/1", status=503) + line("bench/1", status=499) + line("bench/2") * 3 + line("bench/1")
    )  # fmt: skip
    assert AccessLog(path).answered("/predict?row=3", 4) == Counter({"bench/2": 3, "bench/1": 1})


def test_each_line_is_read_once(path: Path) -> None:
    """A later run reads on where the last one ended."""
    log = AccessLog(path)
    path.write_text(line("bench/1", "/predict?row=1"))
    assert log.answered("/predict?row=1", 1).total() == 1
    with path.open("a") as file:
        file.write(line("bench/1", "/predict?row=1") + line("bench/2", "/predict?row=2"))
    assert log.answered("/predict?row=2", 1) == {"bench/2": 1}


def test_late_log_lines_are_waited_for(path: Path) -> None:
    """Nginx writes late and in pieces: what was expected is waited for, and half a line is read when it is whole."""
    whole = line("bench/1")
    path.write_text(whole + whole[:40])

    def write() -> None:
        with path.open("a") as file:
            file.write(whole[40:] + whole)

    later = threading.Timer(0.3, write)
    later.start()
    assert AccessLog(path).answered("/predict?row=3", 3) == {"bench/1": 3}
    later.join()


def test_missing_log_lines_end_the_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends: what is there is counted."""
    monkeypatch.setattr(accesslog, "_PATIENCE", 0.2)
    path.write_text(line("bench/1"))
    assert AccessLog(path).answered("/predict?row=3", 1000) == {"bench/1": 1}


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
    """The most over the mean: 1 where all did the same, as many as there are workers where one did everything."""
    assert balance(counts, workers) == expected
