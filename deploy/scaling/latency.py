"""How many requests took how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


class Latency:
    """Counts by milliseconds, as both clocks give them; sums of these are exact, which percentiles' are not."""

    def __init__(self, counts: Mapping[float, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    @property
    def total(self) -> int:
        """How many requests."""
        return self._counts.total()

    @property
    def mean(self) -> float:
        """Milliseconds; 0 of none."""
        return sum(ms * count for ms, count in self._counts.items()) / self.total if self.total else 0.0

    def quantile(self, part: float) -> float:
        """The least milliseconds within which this part of the requests was answered (nearest rank); 0 of none."""
        wanted, seen, ms = part * self.total, 0, 0.0
        for ms in sorted(self._counts):
            seen += self._counts[ms]
            if seen >= wanted:
                return ms
        return ms

    def add(self, ms: float, count: int = 1) -> None:
        """Count more requests."""
        self._counts[ms] += count

    @classmethod
    def sum(cls, parts: Iterable[Latency]) -> Latency:
        """Of all parts together."""
        total: Counter[float] = Counter()
        for part in parts:
            total.update(part._counts)
        return cls(total)
