"""API keys that change under load: the keys' file as people and Kubernetes change it, and who is let in meanwhile.

`python -m tests.support.stress.rotation PORT FOLDER ROUNDS` rotates the keys of a replica that runs on PORT (or of an
Nginx before some) with ``API_KEYS_FILE=FOLDER/keys``, which this makes or takes over, in three ways in turn, under 64
connections, and prints what failed.
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
    """Beside it, and renamed over it."""
    aside = path.with_name("keys.new")
    aside.write_text(text)
    aside.rename(path)


def in_place(path: Path, text: str) -> None:
    """As an editor or ``echo >`` writes it: for a moment it is empty."""
    if path.is_symlink():
        path.unlink()
    path.write_text(text)


def by_symlink(path: Path, text: str) -> None:
    """As Kubernetes does it: ``keys`` leads through ``..data`` to a folder of its own for each version."""
    version = path.with_name(f"..{secrets.token_hex(4)}")
    version.mkdir()
    (version / "keys").write_text(text)
    aside = path.with_name("..data_tmp")
    aside.symlink_to(version.name)
    aside.rename(path.with_name("..data"))
    if not path.is_symlink():
        link = path.with_name("..keys_tmp")
        link.symlink_to("..data/keys")
        link.rename(path)


WAYS: tuple[Callable[[Path, str], None], ...] = (by_rename, in_place, by_symlink)


def status(port: int, key: str) -> int:
    """What a prediction with a key is answered, on a connection of its own."""
    return asked(port, key)[0]


def asked(port: int, key: str) -> tuple[int, str]:
    """That, and which worker answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json", "X-API-Key": key, "Connection": "close"}
    connection.request("POST", "/predict", json.dumps(WORKSHOP_ROW), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers["X-Served-By"]


def seconds_until(port: int, key: str, wanted: int, *, times: int, workers: Set[str] = frozenset()) -> float:
    """How long it takes until a key is answered so on so many connections in a row, by all these workers too."""
    started, since = time.monotonic(), 0.0
    seen: list[str] = []
    while len(seen) < times or not workers <= {*seen}:
        found, worker = asked(port, key)
        if found == wanted:
            seen, since = [*seen, worker], since or time.monotonic() - started
        else:
            seen, since = [], 0.0
        assert time.monotonic() - started < 30, f"after 30 s a key is not answered with {wanted}"
    return since


@dataclass
class Rotation:
    """A file of keys, one of which the load uses: a second one comes, the load moves to it, the first one goes."""

    port: int
    path: Path
    load: Load
    key: str
    slowest: dict[str, float] = field(default_factory=dict)

    def turn(self, write: Callable[[Path, str], None], *, times: int = 16) -> None:
        """One rotation."""
        new = secrets.token_urlsafe(24)
        self.load.wait_for(200)
        workers = set(self.load.counts.served_by)  # each looks at the file by itself, within a second
        write(self.path, f"{self.key}\n{new}\n")
        came = seconds_until(self.port, new, 200, times=times, workers=workers)
        old, self.key = self.key, new
        self.load.use(headers_of(new))
        self.load.wait_for(1000)  # no connection has the old one on the wire any more
        write(self.path, f"{new}\n")
        went = seconds_until(self.port, old, 401, times=times, workers=workers)
        for name, seconds in ((f"{write.__name__}, new one taken", came), (f"{write.__name__}, old one refused", went)):
            self.slowest[name] = max(seconds, self.slowest.get(name, 0.0))


def headers_of(key: str) -> str:
    """A key as a line of a request's head."""
    return f"Authorization: Bearer {key}\r\n"


def main() -> None:
    """From the command line; the status is 1 if a request with a good key failed."""
    if len(sys.argv) != 4:
        sys.exit("usage: python -m tests.support.stress.rotation PORT FOLDER ROUNDS")
    port, path, rounds = int(sys.argv[1]), Path(sys.argv[2]) / "keys", int(sys.argv[3])
    key = secrets.token_urlsafe(24)
    by_rename(path, f"{key}\n")
    seconds_until(port, key, 200, times=16)
    with Load(port, most=10_000_000, headers=headers_of(key)) as load:
        rotation = Rotation(port, path, load, key)
        for _ in range(rounds):
            for write in WAYS:
                rotation.turn(write)
    print(f"{3 * rounds} rotations: {load.counts.answered} answered, {load.counts.failed} failed")
    print("\n".join(f"  {name} after {seconds:.2f} s at most" for name, seconds in rotation.slowest.items()))
    print("\n".join(f"  broken: {reason}" for reason in load.counts.broken[:10]))
    sys.exit(load.counts.failed > 0)


if __name__ == "__main__":
    main()
