"""Memory sizes in Docker's notation, and messages about processes that are short of memory."""

from __future__ import annotations

import math
import re

_GIGA, _MEGA = 1 << 30, 1 << 20
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?:B|([KMG])B?)?", re.ASCII)
_UNITS = {None: 1, "K": 1 << 10, "M": _MEGA, "G": _GIGA}


def parse_size(text: str) -> int:
    """Return the bytes of a size in Docker's notation: ``512M``, ``1.5g``, ``64mb``, ``1000000``.

    Raises:
        ValueError: the text is not a size. The message completes "expected ...".
    """
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        raise ValueError("a size, such as 512M or 1.5G")
    return int(float(match[1]) * _UNITS[match[2]])


def format_size(number: int) -> str:
    """Return a number of bytes as Docker writes a limit: ``128M``, ``1.5G``."""
    if number >= _GIGA:
        return f"{number / _GIGA:.2f}".rstrip("0").rstrip(".") + "G"
    return f"{math.ceil(number / _MEGA)}M"


def oom_message(limit: int | None, needs: int | None) -> str:
    """Describe a process killed for lack of memory: its limit and the memory the model needs (bytes), where known."""
    at = f" at {format_size(limit)}" if limit else ""
    return f"killed: out of memory{at}" + (f"; the model needs about {format_size(needs)}" if needs else "")


def shortage_warning(limit: int | None, needs: int | None) -> str | None:
    """Return a warning if the limit is below the memory that the model was measured to need (bytes), else None."""
    if limit is None or needs is None or limit >= needs:
        return None
    return (
        f"memory is limited to {format_size(limit)}, and the model needs about {format_size(needs)}: expect to be "
        "killed"
    )
