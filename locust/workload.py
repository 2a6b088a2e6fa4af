"""What the users of one process send: whole requests, prepared before the first, so that sending one costs nothing."""

from __future__ import annotations

import json
import random
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from urllib.parse import SplitResult, urlsplit

import access
import rows
from connection import Address
from failures import CannotStartError, name_of

# How many different rows, and requests of one row, a process has; and how many rows all its requests have at most.
_VARIETY = 2000
_MOST_ROWS = 64_000


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests to choose from, and how to send them.

    ``rows`` is how many predictions an answer must have: None where it is a single one, with a name of its own.
    """

    target: str
    address: Address
    texts: Sequence[str]
    requests: Sequence[bytes]
    rows: int | None
    headers: Mapping[str, str]
    timeout: float
    wait: tuple[float, float]

    @classmethod
    def prepare(cls, host: str, options: Namespace) -> Workload:
        """Learn the features, and make the requests.

        Raises:
            CannotStartError: the service or the file of rows is not there, or not what is expected.
        """
        place = _place(host)
        tls, key = access.context(place.scheme), access.headers()
        bodies = _bodies(_encoded_rows(place, tls, key, options), options)
        address = _find(place, options.timeout, tls)
        head = _head(place, options.target, key)
        return cls(
            target=options.target,
            address=address,
            texts=[body.decode() for body in bodies],
            requests=[head % len(body) + body for body in bodies],
            rows=options.batch_rows if options.client == "batch" and options.target == "/predict" else None,
            headers=key,
            timeout=options.timeout,
            wait=(options.wait_min, options.wait_max),
        )


def _place(host: str) -> SplitResult:
    place = urlsplit(host)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise CannotStartError(f"--host {host}: expected http:// or https:// and the balancer's address")
    return place


def _find(place: SplitResult, timeout: float, tls: SSLContext | None) -> Address:
    port = place.port or (443 if tls else 80)
    try:
        return Address.find(place.hostname or "", port, timeout, tls)
    except OSError as error:
        raise CannotStartError(f"{place.netloc} takes no connection: {name_of(error)}") from None


def _encoded_rows(
    place: SplitResult, tls: SSLContext | None, headers: Mapping[str, str], options: Namespace
) -> list[bytes]:
    features = rows.describe(place, tls, headers)
    chosen = rows.read(Path(options.data), features, _VARIETY) if options.data else rows.drawn(features, _VARIETY)
    return [json.dumps(row).encode() for row in chosen]


def _bodies(encoded: list[bytes], options: Namespace) -> list[bytes]:
    if options.client != "batch":
        return encoded
    count = max(1, min(len(encoded), _MOST_ROWS // options.batch_rows))
    batches = (random.choices(encoded, k=options.batch_rows) for _ in range(count))
    return [b'{"instances": [' + b", ".join(batch) + b"]}" for batch in batches]


def _head(place: SplitResult, target: str, headers: Mapping[str, str]) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {place.path.rstrip('/')}{target} HTTP/1.1\r\nHost: {place.netloc}\r\nUser-Agent: forkcast\r\n{more}"
        "Content-Type: application/json\r\nContent-Length: "
    ).replace("%", "%%").encode() + b"%d\r\n\r\n"
