"""Out of memory, in words: the kernel kills without any."""

from __future__ import annotations

import math

_GIGA, _MEGA = 1 << 30, 1 << 20


def size(number: int) -> str:
    """Bytes as Docker writes a limit: ``128M``, ``1.5G``."""
    if number >= _GIGA:
        return f"{number / _GIGA:.2f}".rstrip("0").rstrip(".") + "G"
    return f"{math.ceil(number / _MEGA)}M"


def killed(limit: int | None, needs: int | None) -> str:
    """What happened to a process that the kernel killed, and what would have been enough."""
    at = f" at {size(limit)}" if limit else ""
    return f"killed: out of memory{at}" + (f"; the model needs about {size(needs)}" if needs else "")


def shortage(limit: int | None, needs: int | None) -> str | None:
    """A warning where the limit is less than what the model was seen to need."""
    if limit is None or needs is None or limit >= needs:
        return None
    return f"memory is limited to {size(limit)}, and the model needs about {size(needs)}: expect to be killed"
