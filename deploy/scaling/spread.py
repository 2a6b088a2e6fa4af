"""From the best to the worst that was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deploy.scaling.figures import span


@dataclass(frozen=True, slots=True)
class Range:
    """Two ends, which may be the same; a product and a sum of two have their ends from those of both."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Range:
        """Of at least one value."""
        found = list(values)
        return cls(min(found), max(found))

    def __mul__(self, other: Range | float) -> Range:
        factor = other if isinstance(other, Range) else Range(other, other)
        return Range(self.low * factor.low, self.high * factor.high)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        return span(self.low, self.high)
