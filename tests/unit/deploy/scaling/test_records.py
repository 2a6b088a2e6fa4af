"""Tests of the generator's records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.records import Records


def second(time: int, **fields: Any) -> bytes:
    """Return the record of a second in the form of locust/recorder.py."""
    usual: dict[str, Any] = {
        "kind": "second", "time": time, "users": 10, "requests": 2, "failures": {}, "latency": {"1.2": 1, "4": 1},
        "cpu": {"host/7": 0.25},
    }  # fmt: skip
    return json.dumps(usual | fields).encode() + b"\n"


def records_of(*lines: bytes) -> Records:
    """Return the records of these lines."""
    records = Records()
    for line in lines:
        records.take(line)
    return records


def test_step_full_and_stop_events_are_timestamped() -> None:
    """The times of steps, of full user counts and of the end are kept."""
    records = records_of(
        b'{"kind": "step", "time": 10.5, "users": 5}\n',
        b'{"kind": "full", "time": 11.25, "users": 5}\n',
        b'{"kind": "step", "time": 20.5, "users": 10}\n',
        b'{"kind": "full", "time": 22.0, "users": 10}\n',
        b'{"kind": "full", "time": 23.0, "users": 10}\n',
        b'{"kind": "stop", "time": 30.75}\n',
    )
    assert records.steps == [(10.5, 5), (20.5, 10)]
    assert records.full == {5: 11.25, 10: 22.0}
    assert records.stopped == 30.75


def test_empty_records_have_no_last_second() -> None:
    """Without lines there are no steps and no last second."""
    records = Records()
    assert (records.steps, records.stopped, records.last) == ([], None, 0)
    window = records.between(100, 110)
    assert (window.seconds, window.requests, window.failed, window.latency.total, window.cpu) == (10, 0, 0, 0, {})


def test_window_sums_requests_failures_and_latencies() -> None:
    """The requests, failures by name, and latencies of a window's seconds are summed."""
    records = records_of(
        second(99, requests=50),
        second(100, requests=3, failures={"timeout": 1}, latency={"1.2": 2, "10000": 1}),
        second(101, requests=2, failures={"timeout": 1, "status 503": 1}, latency={"1.2": 1, "3": 1}),
        second(102, requests=50),
    )
    window = records.between(100, 102)
    assert (window.seconds, window.requests, window.failed) == (2, 5, 3)
    assert window.failures == {"timeout": 2, "status 503": 1}
    assert (window.latency.total, window.latency.quantile(0.5), window.latency.quantile(1)) == (5, 1.2, 10000)
    assert records.last == 102


def test_process_cpu_is_averaged_over_the_window() -> None:
    """The CPU of each process is its mean over the window."""
    records = records_of(second(100, cpu={"a/1": 0.5, "a/2": 1.0}), second(101, cpu={"a/1": 0.7, "a/2": 0.8}))
    cpu = records.between(100, 102).cpu
    assert cpu == {"a/1": pytest.approx(0.6), "a/2": pytest.approx(0.9)}


def test_seconds_without_records_still_count() -> None:
    """A second without answers has no record but still counts."""
    window = records_of(second(100), second(104)).between(100, 105)
    assert (window.seconds, window.requests) == (5, 4)


@pytest.mark.parametrize(
    ("start", "end", "seconds", "requests"),
    [
        (100, 103, 3, 6),
        (100.5, 103, 2, 4),
        (100, 100, 0, 0),
        (101, 100, 0, 0),
        (100.2, 100.9, 0, 0),
        (100.01, 102, 1, 2),
    ],
)
def test_only_complete_seconds_count(start: float, end: float, seconds: int, requests: int) -> None:
    """Only complete seconds of a window count, so that the rate is correct."""
    window = records_of(*(second(time) for time in range(98, 106))).between(start, end)
    assert (window.seconds, window.requests) == (seconds, requests)


def test_window_ends_within_a_second() -> None:
    """A second that extends beyond the window's end is not counted."""
    window = records_of(second(100), second(101)).between(100, 101.5)
    assert (window.seconds, window.requests) == (1, 2)


def test_repeated_second_replaces_the_earlier_record() -> None:
    """A repeated record of a second, which a late process changed, replaces the earlier one."""
    records = records_of(second(100, requests=2), second(100, requests=7, latency={"1": 7}))
    window = records.between(100, 101)
    assert (window.requests, window.latency.total) == (7, 7)


@pytest.mark.parametrize(
    "junk",
    [
        b"", b"\n", b"Type     Name\n", b"{", b"{}\n", b"[]\n", b"null\n", b"3\n", b'"second"\n', b"\xff\xfe\n",
        b'{"kind": "hello", "time": 1}\n', b'{"kind": 7}\n', b'{"kind": ["second"]}\n', b'["kind"]\n',
    ],
)  # fmt: skip
def test_unrelated_output_is_ignored(junk: bytes) -> None:
    """Other output of the program is ignored."""
    assert records_of(junk, second(100), junk).last == 100
    assert not records_of(junk).seconds


@pytest.mark.parametrize(
    "cut", [b'{"kind": "second"}\n', b'{"kind": "step", "time": 3}\n', b'{"kind": "full"}\n', b'{"kind": "stop"}\n']
)
def test_incomplete_records_are_ignored(cut: bytes) -> None:
    """A record with missing fields is ignored, and reading continues."""
    assert records_of(cut, second(100)).last == 100


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing(line: bytes) -> None:
    """No line raises an error."""
    assert records_of(line, second(100)).last >= 100
