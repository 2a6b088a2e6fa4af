"""Tests of the objective that a step must meet."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.scaling.slo import Slo
from tests.support.lab_results import make_step

GOOD = make_step(1000, requests=1000, failures=9, locust_p95=999.0, cpu_percent=89.9, memory_percent=89.9)


def test_step_below_all_bounds_misses_nothing() -> None:
    """A step below every bound misses nothing."""
    assert Slo().misses(GOOD) == []


@pytest.mark.parametrize(
    ("fields", "miss"),
    [
        ({"failures": 10}, "failures 1 %"),
        ({"failures": 1000}, "failures 100 %"),
        ({"requests": 0, "failures": 0}, "failures 100 %"),
        ({"locust_p95": 1000.0}, "P95 1,000 ms"),
        ({"cpu_percent": 90.0}, "CPU 90 %"),
        ({"memory_percent": 90.0}, "memory 90 %"),
    ],
)
def test_each_bound_is_missed_when_reached(fields: dict[str, Any], miss: str) -> None:
    """Each bound is missed when its own figure reaches it."""
    step = make_step(1000, **{"requests": 1000, "failures": 9, "cpu_percent": 50.0, "memory_percent": 50.0, **fields})
    assert Slo().misses(step) == [miss]


def test_all_missed_bounds_are_listed_failures_first() -> None:
    """All missed bounds are listed, failures first."""
    step = make_step(1000, requests=100, failures=5, locust_p95=2500.0, cpu_percent=99.0, memory_percent=95.5)
    names = [miss.split()[0] for miss in Slo().misses(step)]
    assert names == ["failures", "P95", "CPU", "memory"]


def test_p95_is_that_of_the_users_clock() -> None:
    """The P95 is that of the users' clock, not Nginx's."""
    assert Slo().misses(make_step(1000, locust_p95=10.0, nginx_p95=5000.0)) == []


def test_unknown_figure_is_not_missed() -> None:
    """A figure that is unknown or has no limit is not missed."""
    assert Slo().misses(make_step(1000, cpu_percent=None, memory_percent=None)) == []


def test_variables_set_bounds_and_empty_means_default() -> None:
    """Each bound has a variable; unset or empty means the default."""
    environ = {"SLO_P95_MS": "250.5", "SLO_FAILURES": "0.1", "SLO_CPU": "100", "SLO_MEMORY": "50"}
    assert Slo.from_env(environ) == Slo(250.5, 0.1, 100, 50)
    assert Slo.from_env({}) == Slo.from_env(dict.fromkeys(environ, "")) == Slo(1000, 1, 90, 90)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "nan", "inf", "1e400", "1,5", " ", "100.1", "0x1"])
@pytest.mark.parametrize("name", ["SLO_FAILURES", "SLO_CPU", "SLO_MEMORY"])
def test_invalid_percentage_is_named_with_expectation(name: str, value: str) -> None:
    """An invalid percentage is refused with its variable, the value and the expectation."""
    with pytest.raises(CommandError) as caught:
        Slo.from_env({name: value})
    assert str(caught.value) == f"{name}={value!r}: expected a number above 0, at most 100"


@pytest.mark.parametrize("value", ["abc", "0", "-1", "nan", "inf", "1e9", "100ms"])
def test_latency_bound_out_of_range_is_refused(value: str) -> None:
    """A latency bound of zero or more than an hour is refused."""
    with pytest.raises(CommandError) as caught:
        Slo.from_env({"SLO_P95_MS": value})
    assert str(caught.value) == f"SLO_P95_MS={value!r}: expected a number above 0, at most 3.6e+06"


def test_slo_description_fits_one_line() -> None:
    """The description of an objective fits one line."""
    assert Slo(250, 0.5).words == "P95 < 250 ms, failures < 0.5 %, CPU < 90 % and memory < 90 % of the limit"
