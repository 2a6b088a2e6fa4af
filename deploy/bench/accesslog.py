"""Nginx's access log: who answered the requests of one run."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

_PATIENCE = 3.0  # seconds; Nginx writes what it holds back after one


class AccessLog:
    """A log that grows: each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def answered(self, target: str, expected: int) -> Counter[str]:
        """Answers with status 200 to requests for ``target``, by who gave them, once as many as expected are there."""
        counts: Counter[str] = Counter()
        deadline = time.monotonic() + _PATIENCE
        while True:
            counts.update(self._new(target))
            if counts.total() >= expected or time.monotonic() > deadline:
                return counts
            time.sleep(0.1)

    def _new(self, target: str) -> Iterator[str]:
        mark = f'"uri":"{target}"'.encode()  # parsing every line would take longer than it took to write them
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the rest of it comes with the next write
                self._position += len(line)
                if mark in line and (entry := json.loads(line))["status"] == 200:
                    yield entry["served_by"]


def balance(counts: Mapping[str, int], workers: int) -> float | None:
    """The most that one worker answered over the mean of all workers; None where nothing was answered."""
    total = sum(counts.values())
    return max(counts.values()) * workers / total if total else None
