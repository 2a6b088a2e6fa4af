"""Amounts of CPU and memory as Kubernetes writes them: 250m, 1Gi, 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE]i|[numkMGTPE]?)")
_UNITS = {
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("num", -3)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def parsed(text: object) -> Decimal | None:
    """The amount; None for what is none."""
    found = _QUANTITY.fullmatch(str(text))
    return Decimal(found[1]) * _UNITS[found[2]] if found else None


def faults(resources: Mapping[str, Any]) -> Iterator[str]:
    """One line for each amount that is none, nothing (which means without limit), or more than its limit."""
    amounts = {(kind, what): parsed(told) for kind in resources for what, told in _of(resources, kind)}
    yield from (f"{kind}.{what} is no amount above 0" for (kind, what), amount in amounts.items() if not amount)
    for what, _ in _of(resources, "limits"):
        wanted, most = amounts.get(("requests", what)), amounts["limits", what]
        if wanted and most and wanted > most:
            yield f"requests.{what} is above limits.{what}"


def _of(resources: Mapping[str, Any], kind: str) -> list[tuple[str, object]]:
    told = resources[kind] if kind in ("requests", "limits") and kind in resources else {}
    return list(told.items())
