"""Tests of counting requests and latencies from Nginx's log."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.scaling.nginxclock import NginxClock
from deploy.stack.paths import ROOT

SECOND = int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc).timestamp())  # noqa: UP017
USUAL = {
    "time_iso8601": "2026-01-02T03:04:05+00:00", "remote_addr": "172.18.0.9", "asked_method": "POST",
    "request_uri": "/predict", "status": "200", "body_bytes_sent": "81", "request_time": "0.012",
    "upstream_response_time": "0.011", "upstream_addr": "172.18.0.3:8000", "upstream_status": "200",
    "upstream_http_x_served_by": "1f2e3d/17",
}  # fmt: skip


def log_format() -> str:
    """Return the log format of nginx/nginx.conf on one line."""
    text = (ROOT / "nginx/nginx.conf").read_text()
    parts = re.search(r"log_format json escape=json\s+((?:'[^']*'\s*)+);", text)
    assert parts
    return "".join(re.findall(r"'([^']*)'", parts[1]))


FORMAT = log_format()


def line(**fields: str) -> bytes:
    """Return a line of the log, as Nginx fills in its format."""
    values = USUAL | fields
    return re.sub(r"\$(\w+)", lambda name: values[name[1]], FORMAT).encode() + b"\n"


def clock(*lines: bytes, target: str = "/predict") -> NginxClock:
    """Return a clock that has read these lines."""
    nginx_clock = NginxClock(target)
    for log_line in lines:
        nginx_clock.take(log_line)
    return nginx_clock


def total(*lines: bytes, target: str = "/predict") -> int:
    """Return the number of requests in these lines."""
    return clock(*lines, target=target).between(0, SECOND + 10**6).total


def test_real_log_line_counts_in_its_second() -> None:
    """A line of the real format counts in its second with its time in milliseconds."""
    latency = clock(line()).between(SECOND, SECOND + 1)
    assert (latency.total, latency.mean) == (1, 12)


@pytest.mark.parametrize(
    ("text", "ms"), [("0.000", 0), ("0.001", 1), ("0.029", 29), ("1.005", 1005), ("60.001", 60001)]
)
def test_request_times_are_exact_milliseconds(text: str, ms: int) -> None:
    """Seconds with three decimals become exact milliseconds."""
    assert clock(line(request_time=text)).between(SECOND, SECOND + 1).quantile(1) == ms


@pytest.mark.parametrize("status", ["200", "400", "413", "499", "500", "502", "503", "504"])
def test_request_counts_whatever_its_status(status: str) -> None:
    """A request counts whatever its status, even if the client closed or no replica accepted it."""
    without = {
        "upstream_response_time": "",
        "upstream_addr": "",
        "upstream_status": "",
        "upstream_http_x_served_by": "",
    }
    assert total(line(status=status), line(status=status, **without)) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"request_uri": "/health"}, {"request_uri": "/predict/"}, {"request_uri": "/predictions"},
        {"request_uri": "/x/predict"}, {"request_uri": "/null"}, {"request_uri": "/"}, {"request_uri": ""},
        {"request_uri": "http://a/predict"}, {"request_uri": "/?u=/predict"}, {"asked_method": "GET"},
        {"asked_method": "OPTIONS"}, {"asked_method": "PUT"}, {"asked_method": ""}, {"asked_method": "POSTS"},
    ],
)  # fmt: skip
def test_other_paths_and_methods_are_not_measured(fields: dict[str, str]) -> None:
    """Requests with other paths or methods are not counted."""
    assert total(line(**fields)) == 0


def test_query_string_does_not_change_the_path() -> None:
    """A query string does not change the path of a request."""
    assert total(line(request_uri="/predict?a=1&b=/null")) == 1


def test_null_requests_are_counted_separately() -> None:
    """Requests to /null, which calibrate the generator, are counted separately."""
    assert total(line(request_uri="/null"), line(), target="/null") == 1


def test_retried_request_counts_once_with_total_time() -> None:
    """A request that Nginx retried at several replicas counts once, with its total time."""
    tried = line(
        upstream_response_time="0.300, 0.004", upstream_addr="172.18.0.3:8000, 172.18.0.4:8000",
        upstream_status="502, 200", request_time="0.304",
    )  # fmt: skip
    latency = clock(tried).between(SECOND, SECOND + 1)
    assert (latency.total, latency.mean) == (1, 304)


@pytest.mark.parametrize(
    "junk",
    [
        b"", b"\n", b"{}\n", b"nginx: [alert] something\n", b"\xff\xfe\n", line()[:90], line()[20:], line()[:30],
        line(request_time=""), line(request_time="abc"), line(status="-"), b'{"time":"\n',
    ],
)  # fmt: skip
def test_unrelated_log_lines_are_ignored(junk: bytes) -> None:
    """Unrelated lines in the log are ignored, and later lines count."""
    assert total(line(), junk, line()) == 2


@pytest.mark.parametrize(
    "torn",
    [
        line()[:20] + line(),
        line()[:9] + line(),
        line(time_iso8601="yesterday"),
        line(time_iso8601="2026-13-02T03:04:05+00:00"),
        line(request_time="0.012.5"),
        line(request_time="."),
        line(time_iso8601="\xe9"),
        line(time_iso8601="\xe9").decode().encode("latin-1"),
    ],
    ids=["torn", "torn at its time", "no time", "no such time", "two points", "a point", "letter", "no text"],
)
def test_interleaved_log_lines_do_not_stop_reading(torn: bytes) -> None:
    """A line into which two Nginx processes wrote does not stop the reading."""
    assert total(line(), torn, line()) in {2, 3}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing(junk: bytes) -> None:
    """No line raises an error."""
    assert total(junk, line()[:60] + junk, line()) >= 1


def test_window_includes_first_second_excludes_last() -> None:
    """A window includes its first second and excludes its last, so that adjacent windows share no request."""
    lines = [line(time_iso8601=f"2026-01-02T03:04:{second:02}+00:00") for second in (4, 5, 5, 6, 7, 8)]
    nginx_clock = clock(*lines)
    assert nginx_clock.between(SECOND, SECOND + 2).total == 3
    assert [nginx_clock.between(SECOND + n, SECOND + n + 1).total for n in range(-1, 4)] == [1, 2, 1, 1, 1]
    assert nginx_clock.between(SECOND, SECOND).total == 0
    assert nginx_clock.between(SECOND + 0.1, SECOND + 2).total == 1


def test_window_ends_within_a_second() -> None:
    """A second that extends beyond the window's end is not counted."""
    assert clock(line()).between(SECOND, SECOND + 0.5).total == 0


@pytest.mark.parametrize("hours", [-11, -3.5, 0, 5.75, 14])
def test_time_zone_offset_is_applied(hours: float) -> None:
    """The offset in Nginx's time stamps is applied, so that equal times are equal seconds."""
    local_time = datetime.fromtimestamp(SECOND, timezone(timedelta(hours=hours)))
    assert clock(line(time_iso8601=local_time.isoformat())).between(SECOND, SECOND + 1).total == 1
