"""Sizes of memory as Docker writes them, and what happens where memory is short, in words."""

from __future__ import annotations

import math
import re

_GIGA, _MEGA = 1 << 30, 1 << 20
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?:B|([KMG])B?)?", re.ASCII)
_UNITS = {None: 1, "K": 1 << 10, "M": _MEGA, "G": _GIGA}


def parse(text: str) -> int:
    """Return the bytes of a size as Docker takes it: ``512M``, ``1.5g``, ``64mb``, ``1000000``.

    Raises:
        ValueError: it is none.
    """
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        raise ValueError("a size, such as 512M or 1.5G")
    return int(float(match[1]) * _UNITS[match[2]])


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
