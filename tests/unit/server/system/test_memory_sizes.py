"""Tests of memory sizes in Docker's notation and of messages about lack of memory."""

from __future__ import annotations

import pytest

from server.system.memory_sizes import format_size, oom_message, shortage_warning

M, G = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0M"),
        (1, "1M"),
        (M, "1M"),
        (M + 1, "2M"),
        (128 * M, "128M"),
        (G - 1, "1024M"),
        (G, "1G"),
        (3 * G // 2, "1.5G"),
        (10 * G, "10G"),
        (100 * G, "100G"),
        (100 * G + G // 4, "100.25G"),
        (G + G // 8, "1.12G"),
        (G + 1, "1G"),
        (2 * G - 1, "2G"),
    ],
)
def test_size_is_written_as_a_docker_limit(number: int, text: str) -> None:
    """A size is written in whole megabytes, rounded up, or from 1 GiB in gigabytes with up to two decimals."""
    assert format_size(number) == text


@pytest.mark.parametrize(
    ("limit", "needs", "message"),
    [
        (128 * M, 200 * M, "killed: out of memory at 128M; the model needs about 200M"),
        (128 * M, None, "killed: out of memory at 128M"),
        (None, 200 * M, "killed: out of memory; the model needs about 200M"),
        (None, None, "killed: out of memory"),
    ],
)
def test_oom_message_names_limit_and_required_memory(limit: int | None, needs: int | None, message: str) -> None:
    """The message about an OOM kill names the memory limit and the memory the model needs, where they are known."""
    assert oom_message(limit, needs) == message


def test_limit_below_required_memory_is_a_warning() -> None:
    """A memory limit below what the model was measured to need gives a warning with both figures."""
    assert shortage_warning(128 * M, 200 * M) == (
        "memory is limited to 128M, and the model needs about 200M: expect to be killed"
    )


@pytest.mark.parametrize(
    ("limit", "needs"), [(None, 200 * M), (128 * M, None), (None, None), (200 * M, 200 * M), (G, 200 * M)]
)
def test_sufficient_or_unknown_limit_gives_no_warning(limit: int | None, needs: int | None) -> None:
    """There is no warning if the memory limit is sufficient, or if the limit or the need is not known."""
    assert shortage_warning(limit, needs) is None
