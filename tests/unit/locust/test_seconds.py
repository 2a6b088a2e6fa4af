"""Tests of counting requests by the second, and of merging the counts of processes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from seconds import Book, Meter, rounded


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(0.04, 0.0), (1.26, 1.3), (9.94, 9.9), (9.96, 10.0), (10.4, 10), (999.4, 999), (1004, 1000), (12345.6, 12350)],
)
def test_latency_resolution_decreases_with_size(milliseconds: float, expected: float) -> None:
    """Latencies are rounded to 0.1 ms below 10 ms, to 1 ms below a second, and to 10 ms above."""
    assert rounded(milliseconds) == expected


def test_meter_reports_every_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process reports each request once, in the second in which it ended, with failures included."""
    clock = [100.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    meter = Meter("me")
    meter.count(1.21)
    meter.count(1.24, exception="timeout")
    clock[0] = 101.5
    meter.count(20)
    taken = meter.take()
    assert taken["until"] == 101
    assert taken["seconds"][100] | {"cpu": None} == {
        "requests": 2, "failures": {"timeout": 1}, "latency": {1.2: 2}, "cpu": None,
    }  # fmt: skip
    assert list(taken["seconds"][100]["cpu"]) == ["me"]
    assert taken["seconds"][101] == {"requests": 1, "failures": {}, "latency": {20: 1}, "cpu": {}}
    assert meter.take() == {"until": 101, "seconds": {}}


def report(until: int, second: int, requests: int, name: str) -> dict[str, Any]:
    latency, failures = {1.0: requests}, {"reset": 1}
    part = {"requests": requests, "failures": failures, "latency": latency, "cpu": {name: 0.5}}
    return {"until": until, "seconds": {second: part}}


def test_second_waits_for_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is complete when all processes have reported it, and their counts are added."""
    monkeypatch.setattr(time, "time", lambda: 105.0)
    book = Book()
    book.add("a", report(101, 100, 3, "a"))
    assert book.take(["a", "b"]) == []
    book.add("b", report(102, 100, 4, "b"))
    assert book.take(["a", "b"]) == [
        (100, {"requests": 7, "failures": {"reset": 2}, "latency": {1.0: 7}, "cpu": {"a": 0.5, "b": 0.5}})
    ]
    assert book.take(["a", "b"]) == []


def test_second_is_incomplete_after_10_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 10 s a second is returned without the missing processes, and again with all counts when they report."""
    clock = [105.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    book = Book()
    book.add("a", report(101, 100, 3, "a"))
    assert book.take(["a", "b"]) == []
    clock[0] = 112
    assert [(number, second["requests"]) for number, second in book.take(["a", "b"])] == [(100, 3)]
    book.add("b", report(112, 100, 4, "b"))
    assert [(number, second["requests"]) for number, second in book.take(["a", "b"])] == [(100, 7)]
