"""Out of memory, in words."""

from __future__ import annotations

import pytest

from server.system.memory_sizes import killed, shortage, size

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
    """A size is written as Docker writes a limit: whole megabytes, rounded up, or gigabytes with up to two decimals."""
    assert size(number) == text


@pytest.mark.parametrize(
    ("limit", "needs", "words"),
    [
        (128 * M, 200 * M, "killed: out of memory at 128M; the model needs about 200M"),
        (128 * M, None, "killed: out of memory at 128M"),
        (None, 200 * M, "killed: out of memory; the model needs about 200M"),
        (None, None, "killed: out of memory"),
    ],
)
def test_oom_message_names_limit_and_required_memory(limit: int | None, needs: int | None, words: str) -> None:
    """A kill is told with the limit that it met and with what would have been enough, as far as they are known."""
    assert killed(limit, needs) == words


def test_limit_below_required_memory_is_a_warning() -> None:
    """A limit below what the model was seen to need is a warning with both figures."""
    assert shortage(128 * M, 200 * M) == (
        "memory is limited to 128M, and the model needs about 200M: expect to be killed"
    )


@pytest.mark.parametrize(
    ("limit", "needs"), [(None, 200 * M), (128 * M, None), (None, None), (200 * M, 200 * M), (G, 200 * M)]
)
def test_sufficient_or_unknown_limit_gives_no_warning(limit: int | None, needs: int | None) -> None:
    """Where the limit is enough, or one of the two is not known, there is nothing to warn of."""
    assert shortage(limit, needs) is None
