"""Rotation of API keys under load, with the file of keys replaced as people and Kubernetes do it.

`python -m tests.support.stress.rotation PORT FOLDER ROUNDS` rotates the keys of a replica on PORT, or of replicas
behind an Nginx on PORT, that run with ``API_KEYS_FILE=FOLDER/keys``. It creates or overwrites that file, uses each of
three ways to replace it, loads the stack with 64 connections, and prints the failures.
"""

from __future__ import annotations

import http.client
import json
import secrets
import sys
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.stress.load import WORKSHOP_ROW, Load


def by_rename(path: Path, text: str) -> None:
    """Write a new file and rename it to ``path``."""
    draft = path.with_name("keys.new")
    draft.write_text(text)
    draft.rename(path)


def in_place(path: Path, text: str) -> None:
    """Overwrite the file as an editor or ``echo >`` does: it is empty for a moment."""
    if path.is_symlink():
        path.unlink()
    path.write_text(text)


def by_symlink(path: Path, text: str) -> None:
    """Replace the file as Kubernetes does: ``keys`` links through ``..data`` to a new folder for each version."""
    version = path.with_name(f"..{secrets.token_hex(4)}")
    version.mkdir()
    (version / "keys").write_text(text)
    draft = path.with_name("..data_tmp")
    draft.symlink_to(version.name)
    draft.rename(path.with_name("..data"))
    if not path.is_symlink():
        link = path.with_name("..keys_tmp")
        link.symlink_to("..data/keys")
        link.rename(path)


WRITERS: tuple[Callable[[Path, str], None], ...] = (by_rename, in_place, by_symlink)


def predict_status(port: int, key: str) -> int:
    """Return the status of a prediction with an API key, on a new connection."""
    return predict(port, key)[0]


def predict(port: int, key: str) -> tuple[int, str]:
    """Return the status of a prediction with an API key, and the worker that answered, on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json", "X-API-Key": key, "Connection": "close"}
    connection.request("POST", "/predict", json.dumps(WORKSHOP_ROW), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers["X-Served-By"]


def seconds_until_status(port: int, key: str, status: int, *, times: int, workers: Set[str] = frozenset()) -> float:
    """Return the seconds until requests with a key get a status on ``times`` connections in a row.

    The answers must include all ``workers``. Fail after 30 seconds.
    """
    started, first_success = time.monotonic(), 0.0
    answered_by: list[str] = []
    while len(answered_by) < times or not workers <= {*answered_by}:
        answer_status, worker = predict(port, key)
        if answer_status == status:
            answered_by, first_success = [*answered_by, worker], first_success or time.monotonic() - started
        else:
            answered_by, first_success = [], 0.0
        assert time.monotonic() - started < 30, f"after 30 s, requests with the key do not all get {status}"
    return first_success


@dataclass
class Rotation:
    """A file of keys, one of which the load uses; ``slowest`` is the longest delay (s) by type of change."""

    port: int
    path: Path
    load: Load
    key: str
    slowest: dict[str, float] = field(default_factory=dict)

    def rotate(self, write: Callable[[Path, str], None], *, times: int = 16) -> None:
        """Add a new key, make the load use it, and remove the old key; measure when the replicas follow."""
        new = secrets.token_urlsafe(24)
        self.load.wait_for(200)
        workers = set(self.load.counts.served_by)  # each checks the file by itself, within a second
        write(self.path, f"{self.key}\n{new}\n")
        added = seconds_until_status(self.port, new, 200, times=times, workers=workers)
        old, self.key = self.key, new
        self.load.set_headers(headers_of(new))
        self.load.wait_for(1000)  # now no request with the old key is in flight
        write(self.path, f"{new}\n")
        removed = seconds_until_status(self.port, old, 401, times=times, workers=workers)
        for name, seconds in (
            (f"{write.__name__}, new key accepted", added),
            (f"{write.__name__}, old key refused", removed),
        ):
            self.slowest[name] = max(seconds, self.slowest.get(name, 0.0))


def headers_of(key: str) -> str:
    """Return the header line that sends an API key."""
    return f"Authorization: Bearer {key}\r\n"


def main() -> None:
    """Run as a command; the exit status is 1 if a request with a valid key failed."""
    if len(sys.argv) != 4:
        sys.exit("usage: python -m tests.support.stress.rotation PORT FOLDER ROUNDS")
    port, path, rounds = int(sys.argv[1]), Path(sys.argv[2]) / "keys", int(sys.argv[3])
    key = secrets.token_urlsafe(24)
    by_rename(path, f"{key}\n")
    seconds_until_status(port, key, 200, times=16)
    with Load(port, max_requests=10_000_000, headers=headers_of(key)) as load:
        rotation = Rotation(port, path, load, key)
        for _ in range(rounds):
            for write in WRITERS:
                rotation.rotate(write)
    print(f"{3 * rounds} rotations: {load.counts.answered} answered, {load.counts.failed} failed")
    print("\n".join(f"  {name} after {seconds:.2f} s at most" for name, seconds in rotation.slowest.items()))
    print("\n".join(f"  broken: {reason}" for reason in load.counts.broken[:10]))
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
