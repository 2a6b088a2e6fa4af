"""Tests of the decision whether a step measured the service or the load generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.calibrate import Calibration, Null, at_limit, generator_bound, key, rungs_to_calibrate
from deploy.scaling.ladder import Ladder
from tests.support.lab_results import MEAN_WAIT_SECONDS, make_step

BOUND = Null(1000, 500.0, 900.0, "Locust used 99 % of the CPU that it may use")


def bound(users: int = 1000, null: Null | None = None, **fields: Any) -> str:
    """Return the reason for which a step, passed except for these figures, is generator-bound, or an empty text."""
    return generator_bound(make_step(users, **fields), MEAN_WAIT_SECONDS, null)


def test_idle_generator_is_not_the_limit() -> None:
    """A step with an idle generator is not generator-bound."""
    assert bound() == ""
    assert bound(null=Null(1000, 571.0, 2.0)) == ""


@pytest.mark.parametrize(
    ("locust", "nginx", "is_bound"),
    [
        (4.0, 1.0, False), (4.1, 1.0, True), (3.0, 0.0, False), (3.1, 0.0, True), (15.0, 12.0, False),
        (15.1, 12.0, True), (125.0, 100.0, False), (125.1, 100.0, True), (1250.0, 1000.0, False),
        (1260.0, 1000.0, True), (100.0, 150.0, False),
    ],
)  # fmt: skip
def test_clock_difference_beyond_tolerance_is_generator_bound(locust: float, nginx: float, is_bound: bool) -> None:
    """The two clocks may differ by 25 % or 3 ms, whichever is more."""
    reason = bound(locust_p95=locust, nginx_p95=nginx)
    assert reason == (f"P95 is {locust:g} ms by Locust and {nginx:g} ms by Nginx" if is_bound else "")


@pytest.mark.parametrize(
    ("seen", "requests", "failures", "is_bound"),
    [
        (900, 1000, 0, False), (899, 1000, 0, True), (0, 1000, 0, True), (810, 1000, 100, False),
        (809, 1000, 100, True), (0, 1000, 1000, False), (2000, 1000, 0, False), (63, 70, 0, False), (9, 10, 0, False),
    ],
)  # fmt: skip
def test_incomplete_nginx_log_is_generator_bound(seen: int, requests: int, failures: int, is_bound: bool) -> None:
    """Nginx's log must contain nine of ten answered requests, but not the failed ones."""
    reason = bound(nginx_requests=seen, requests=requests, failures=failures)
    assert reason == (f"Nginx's log has {seen} of {requests - failures} requests" if is_bound else "")


@pytest.mark.parametrize(
    ("percent", "is_bound"), [(None, False), (0.0, False), (89.9, False), (90.0, True), (100.0, True)]
)
def test_generator_at_90_percent_cpu_is_bound(percent: float | None, is_bound: bool) -> None:
    """A generator that uses 90 % of its CPU limit is the limit; unknown CPU is no reason."""
    reason = bound(locust_cpu_percent=percent)
    assert reason == (f"Locust used {percent:.0f} % of the CPU that it may use" if is_bound else "")


@pytest.mark.parametrize(("rps", "is_bound"), [(450.0, False), (449.9, True), (500.0, False), (0.0, True)])
def test_late_users_below_90_percent_are_generator_bound(rps: float, is_bound: bool) -> None:
    """A step is generator-bound if it has less than 90 % of the expected rate: 500 requests/s of 1,000 users."""
    reason = bound(locust_mean=250.0, rps=rps)
    assert reason == (f"users came late: {rps:.0f} of 500 requests/s" if is_bound else "")


@pytest.mark.parametrize(("mean", "is_bound"), [(2000.0, True), (2001.0, False), (9000.0, False)])
def test_rate_is_not_checked_for_slow_answers(mean: float, is_bound: bool) -> None:
    """The rate is no reason if an answer takes more than a tenth of the measured window."""
    assert bool(bound(locust_mean=mean, rps=1.0, seconds=20.0)) == is_bound


@pytest.mark.parametrize(("rps", "is_bound"), [(540.0, True), (540.1, True), (539.9, False)])
def test_rate_near_calibrated_maximum_is_generator_bound(rps: float, is_bound: bool) -> None:
    """A step at 90 % of the generator's calibrated maximum rate is generator-bound, a slower one is not."""
    null = replace(BOUND, rps=600.0)
    reason = bound(rps=rps, null=null)
    assert reason == (
        f"as many users reach 600 requests/s against a constant answer ({null.bound})" if is_bound else ""
    )


def test_unbound_calibration_is_no_limit() -> None:
    """A calibration that reached its full rate is no limit, however near the step is."""
    assert bound(null=Null(1000, 571.0, 2.0, "")) == ""


def test_first_matching_reason_is_reported() -> None:
    """The first reason that applies is reported: clocks, missing log, CPU, late users, calibration."""
    worst: dict[str, Any] = {"locust_p95": 500.0, "nginx_requests": 5, "locust_cpu_percent": 99.0, "rps": 450.0}
    null = replace(BOUND, rps=451.0)
    cures: list[tuple[str, dict[str, Any]]] = [
        ("P95 is", {"locust_p95": 12.0}), ("Nginx's log", {"nginx_requests": 100_000}),
        ("Locust used", {"locust_cpu_percent": 5.0}), ("users came late", {"rps": 520.0}), ("as many users", {}),
    ]  # fmt: skip
    for reason, cure in cures:
        assert bound(null=null, **worst).startswith(reason)
        worst |= cure
    assert bound(**worst) == ""


def test_missing_nginx_log_is_reported_as_reason() -> None:
    """If Nginx's log has no requests, that is the reason instead of the difference of the clocks."""
    assert bound(nginx_requests=0, nginx_p95=0.0, locust_p95=500.0).startswith("Nginx's log has 0 of")


def closed_loop(users: int, service_rate: float, generator_rate: float) -> dict[str, Any]:
    """Simulate a closed loop with the maximum rates (requests/s) of a service and a generator."""
    wanted = users / MEAN_WAIT_SECONDS
    rps = min(wanted, service_rate, generator_rate)
    service = 5 + max(0.0, 1000 * (users / min(wanted, service_rate) - MEAN_WAIT_SECONDS))
    seen = 5 + max(0.0, 1000 * (users / rps - MEAN_WAIT_SECONDS))
    nginx = service if service_rate <= generator_rate else 5.0
    return {
        "rps": rps, "requests": int(20 * rps), "nginx_requests": int(20 * rps), "locust_mean": seen,
        "locust_p50": seen, "locust_p95": 1.2 * seen, "locust_p99": 1.3 * seen, "nginx_p50": nginx,
        "nginx_p95": 1.2 * nginx, "nginx_p99": 1.3 * nginx,
        "locust_cpu_percent": min(100.0, 100 * rps / generator_rate),
    }  # fmt: skip


@pytest.mark.parametrize("users", [2500, 5000, 10_000])
@pytest.mark.parametrize("service", [100.0, 300.0, 800.0])
def test_slow_service_is_not_generator_bound(users: int, service: float) -> None:
    """A service slower than its users is slow on both clocks, and the generator is not blamed."""
    assert bound(users, Null(users, users / MEAN_WAIT_SECONDS, 2.0), **closed_loop(users, service, 5700.0)) == ""


@pytest.mark.parametrize("users", [6000, 8000, 10_000])
@pytest.mark.parametrize("cpu", [None, 50.0, 100.0])
def test_starved_generator_is_generator_bound(users: int, cpu: float | None) -> None:
    """A generator that cannot send the users' requests is detected with and without its CPU usage."""
    figures = closed_loop(users, 50_000.0, 2700.0) | {"locust_cpu_percent": cpu}
    assert bound(users, None, **figures).startswith("P95 is")


def test_latency_unseen_by_nginx_is_generator_bound() -> None:
    """A P95 of 4.5 s that Nginx did not see makes a step generator-bound."""
    assert bound(10_000, rps=2700.0, locust_p95=4500.0, locust_mean=1950.0, nginx_p95=1.0).startswith("P95 is 4500 ms")


def test_saved_calibration_is_read_by_its_key(tmp_path: Path) -> None:
    """A saved calibration is read by the next command under the same key only."""
    path = tmp_path / "calibration.json"
    Calibration(path, "a machine").keep(Null(500, 285.0, 2.0))
    Calibration(path, "a machine").keep(BOUND)
    Calibration(path, "another machine").keep(Null(500, 100.0, 9.0))
    assert Calibration(path, "a machine").of(500, 1000) == Null(500, 285.0, 2.0)
    assert Calibration(path, "a machine").of(1000, 1000) == BOUND
    assert Calibration(path, "another machine").of(500, 1000) == Null(500, 100.0, 9.0)
    assert Calibration(path, "another machine").of(1000, 1000) is None
    assert Calibration(path, "a third").missing([500])
    assert [path] == list(tmp_path.iterdir())


def test_newer_calibration_replaces_the_older(tmp_path: Path) -> None:
    """A new calibration of a key and step replaces the old one."""
    calibration = Calibration(tmp_path / "calibration.json", "a machine")
    calibration.keep(Null(500, 285.0, 2.0))
    calibration.keep(Null(500, 280.0, 3.0))
    again = Calibration(tmp_path / "calibration.json", "a machine")
    assert again.of(500, 1000) == calibration.of(500, 1000) == Null(500, 280.0, 3.0)


def test_missing_rung_uses_a_near_higher_rung(tmp_path: Path) -> None:
    """A number of users without a calibration uses the next higher one if it is near, and never a lower one."""
    calibration = Calibration(tmp_path / "calibration.json", "a machine")
    for users in (1000, 2000, 10_000):
        calibration.keep(Null(users, users / MEAN_WAIT_SECONDS, 2.0))
    calibrations = {
        users: calibration.of(users, 10_000) for users in (500, 1000, 1001, 2000, 2001, 8999, 9000, 10_000, 10_001)
    }
    assert {users: null and null.users for users, null in calibrations.items()} == {
        500: 1000, 1000: 1000, 1001: 2000, 2000: 2000, 2001: None, 8999: None, 9000: 10_000, 10_000: 10_000,
        10_001: None,
    }  # fmt: skip
    assert calibration.missing([1000, 3000])
    assert not calibration.missing([1000, 2000, 9500, 10_000])


def test_small_ladder_after_a_large_one_is_calibrated(tmp_path: Path) -> None:
    """A few users are not compared with the calibration of a thousand after a large ladder."""
    calibration = Calibration(tmp_path / "calibration.json", "a machine")
    for users in range(1000, 10_001, 1000):
        calibration.keep(Null(users, users / MEAN_WAIT_SECONDS, 2.0))
    assert calibration.missing([10, 20, 30])


def test_generator_bound_calibrations_are_repeated(tmp_path: Path) -> None:
    """A number of users whose calibration was generator-bound is calibrated again by the next command."""
    calibration = Calibration(tmp_path / "calibration.json", "a machine")
    calibration.keep(BOUND)
    assert calibration.missing([1000])
    calibration.keep(Null(1000, 570.0, 1.0))
    assert not calibration.missing([1000])


def test_calibration_without_answers_is_no_limit() -> None:
    """A calibration without answers is no limit."""
    assert bound(null=Null(1000, 0.0, 0.0, "users came late")) == ""


def test_calibration_at_its_cpu_or_rate_is_a_limit() -> None:
    """A calibration is a limit if the CPU or the rate is at its limit, but not if the clocks differ by some ms."""
    assert at_limit(make_step(1000, locust_cpu_percent=95.0), MEAN_WAIT_SECONDS)
    assert at_limit(make_step(1000, rps=100.0), MEAN_WAIT_SECONDS)
    assert at_limit(make_step(1000, locust_p95=9.0, nginx_p95=1.0), MEAN_WAIT_SECONDS) == ""


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "3", '{"a machine": null}', '{"a machine": 3}', '{"a machine": [null]}',
        '{"a machine": ["x"]}', '{"a machine": [{}]}', '{"a machine": {"users": 3}}', '{"a machine": [{"users": 3}]}',
        '{"a machine": [{"users": 500, "rps": 1, "p95": 1, "bound": "", "more": 1}]}',
        '{"a machine": [{"users": null, "rps": 1, "p95": 1}]}', '{"a machine": [{"users": "500", "rps": 1, "p95": 1}]}',
        '{"a machine": [{"users": [], "rps": 1, "p95": 1}]}', '{"a machine": [{"users": 500, "rps": "1", "p95": 1}]}',
    ],
)  # fmt: skip
def test_damaged_calibration_file_is_replaced(tmp_path: Path, text: str) -> None:
    """A damaged file, or one of another version, is ignored and replaced."""
    path = tmp_path / "calibration.json"
    path.write_text(text)
    calibration = Calibration(path, "a machine")
    assert calibration.missing([500])
    calibration.keep(BOUND)
    assert Calibration(path, "a machine").of(1000, 1000) == BOUND


def test_binary_calibration_file_is_replaced(tmp_path: Path) -> None:
    """A calibration file that is not text is ignored and replaced."""
    path = tmp_path / "calibration.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert Calibration(path, "a machine").missing([500])


def test_entries_of_other_keys_are_kept(tmp_path: Path) -> None:
    """Entries of other keys are kept, even if they are damaged."""
    path = tmp_path / "calibration.json"
    path.write_text('{"another": 3}')
    Calibration(path, "a machine").keep(BOUND)
    assert json.loads(path.read_text())["another"] == 3


@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_calibration_ladder_has_at_most_eleven_rungs(users: int, step: int) -> None:
    """A ladder of any height is calibrated in at most eleven steps up to the same maximum."""
    rungs = Ladder(users, min(step, users)).rungs if users > step else [users]
    step_users, top = rungs_to_calibrate(rungs)
    short = Ladder(top, step_users).rungs
    assert short[-1] == rungs[-1]
    assert short[0] >= rungs[0]
    assert len(short) <= 11


@given(users=st.integers(1, 20_000), step=st.integers(1, 2000))
def test_calibrated_ladder_has_a_figure_for_each_rung(
    users: int, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a calibration, every step of the ladder has a calibration for comparison."""
    step = max(min(step, users), -(-users // 200))
    rungs = Ladder(users, step).rungs
    calibration = Calibration(tmp_path_factory.mktemp("kept") / "calibration.json", "a machine")
    step_users, top = rungs_to_calibrate(rungs)
    for rung in Ladder(top, step_users).rungs:
        calibration.keep(Null(rung, rung / MEAN_WAIT_SECONDS, 2.0))
    assert not calibration.missing(rungs)


@pytest.mark.parametrize(
    ("rungs", "expected"),
    [([500], (500, 500)), ([10_000], (10_000, 10_000)), (Ladder().rungs, (1000, 10_000)), ([3, 6, 7], (3, 7))],
)
def test_long_ladders_are_calibrated_by_thousands(rungs: list[int], expected: tuple[int, int]) -> None:
    """The default ladder is calibrated in steps of a thousand users, a short one at each step."""
    assert rungs_to_calibrate(rungs) == expected


def test_calibration_key_lists_conditions_in_order() -> None:
    """The key of a calibration lists its conditions in a fixed order."""
    assert key({"on": "a CPU x 4", "processes": 2}) == "on a CPU x 4, processes 2"
