"""Nginx's access log, which tells how many requests of a run each worker answered."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

# Nginx writes buffered lines after 1 s.
_WAIT_SECONDS = 3.0


class AccessLog:
    """A growing log, of which each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def count_answers(self, target: str, expected: int) -> Counter[str]:
        """Return the number of answers with status 200 to ``target`` by worker, waiting for the expected number."""
        counts: Counter[str] = Counter()
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            counts.update(self._read_new(target))
            if counts.total() >= expected or time.monotonic() > deadline:
                return counts
            time.sleep(0.1)

    def _read_new(self, target: str) -> Iterator[str]:
        needle = f'"uri":"{target}"'.encode()  # parsing every line as JSON would be too slow
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # Nginx writes the end of this line later
                self._position += len(line)
                if needle in line and (entry := json.loads(line))["status"] == 200:
                    yield entry["served_by"]


def balance(counts: Mapping[str, int], workers: int) -> float | None:
    """Return the largest number of answers of a worker divided by the mean of all workers; None without answers.

    1 means that all workers answered equally often, and the number of workers that one of them answered everything.
    """
    total = sum(counts.values())
    return max(counts.values()) * workers / total if total else None
