"""API keys: the file that holds them, followed while it changes, and the guard that asks each request for one.

The file has one key a line, plain or as ``sha256:`` and its digest; blank lines and those that begin with ``#`` count
for nothing. Only digests are kept in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import mmap
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from server.errors import InvalidApiKey, SettingsError, Unauthorized
from server.system.files import MAX_FILE_BYTES, read_small_file

if TYPE_CHECKING:  # the verbs read the file too, where no Starlette is
    from starlette.types import Scope

logger = logging.getLogger(__name__)

# What probes and Prometheus ask for. The router compares paths as they are here, too: no other spelling of one is open.
OPEN = frozenset({"/health", "/ready", "/ping", "/v2/health/live", "/v2/health/ready", "/metrics"})

_KEY = re.compile(rb"[!-~]{16,256}")
_DIGEST = re.compile(rb"sha256:([0-9a-fA-F]{64})")
_LONGEST = 256
# A gateway may have a key of its own beside ours; who sends more than these only makes us work.
_MOST_SENT = 4
_SECRET = os.urandom(32)

# How often the file is looked at (seconds), and how long it must have been left alone: a writer may be halfway.
_EVERY = 1.0
_STILL = 0.1

# Of the memory that processes share: a checksum, and how many bytes follow.
_HEAD = 36

Stamp = tuple[int, ...]


class Keys(frozenset[bytes]):
    """Good keys: of each the MAC of its digest, under a secret of this process and its forks.

    Looked up rather than compared with each in turn, which would cost a request more with every key. The time of that
    tells of MACs alone, which nobody else can compute, and so nothing of how much of a key is right ("double HMAC").
    """

    def good(self, key: bytes) -> bool:
        """Whether it is one of them."""
        return len(key) <= _LONGEST and _mac(hashlib.sha256(key).digest()) in self


def parse(text: bytes) -> Keys:
    """The keys of a file's content.

    Raises:
        ValueError: a line is no key, named by its number and never by what is in it; or there is no key at all.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as Windows' editors write one
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    keys = Keys(_mac(_digest(number, line)) for number, line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise ValueError("it has no key")
    return keys


def _mac(digest: bytes) -> bytes:
    return hmac.digest(_SECRET, digest, "sha256")


def _digest(number: int, line: bytes) -> bytes:
    if digest := _DIGEST.fullmatch(line):
        return bytes.fromhex(digest[1].decode())
    # What looks like a digest is none that is mistyped: nobody would know why the key behind it is refused.
    if line.startswith(b"sha256:") or not _KEY.fullmatch(line):
        wanted = "16 to 256 printable ASCII characters without spaces, or sha256: and 64 hex digits"
        raise ValueError(f"line {number} is no key: expected {wanted}")
    return hashlib.sha256(line).digest()


class Shared:
    """The keys that any process of the replica read last: made in the master, and in the memory of all its forks.

    A worker that is forked while the file is bad would else begin with keys that the master read, perhaps long ago.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _HEAD + 32 * (MAX_FILE_BYTES // 17 + 1))

    def put(self, keys: Keys) -> None:
        """Tell the others, at once: who reads meanwhile finds the checksum wrong."""
        body = b"".join(sorted(keys))
        head = hashlib.sha256(body).digest() + len(body).to_bytes(4, "big")
        self._memory[: _HEAD + len(body)] = head + body

    def get(self) -> Keys | None:
        """What was told last; None while it is being told."""
        length = int.from_bytes(self._memory[_HEAD - 4 : _HEAD], "big")
        body = self._memory[_HEAD : _HEAD + length]
        if hashlib.sha256(body).digest() != self._memory[:32]:
            return None
        return Keys(body[start : start + 32] for start in range(0, length, 32))


class KeysFile:
    """The keys as the file has them now; where it went bad, those that it had last."""

    def __init__(self, path: Path) -> None:
        """Read it for the first time.

        Raises:
            SettingsError: it cannot be read, or is not a list of keys.
        """
        self._path = path
        # Not the file's stamp: it may be changing just now, so each process reads it once more.
        self._stamp: Stamp | None = None
        self._next = 0.0
        self._trouble = ""
        try:
            self.keys = _read(path)
        except ValueError as error:
            raise SettingsError(f"API_KEYS_FILE={str(path)!r}: {error}") from None
        self._shared = Shared()
        self._shared.put(self.keys)

    def now(self) -> Keys:
        """The keys that are good; the file is looked at once a second at most."""
        if (moment := time.monotonic()) >= self._next:
            self._next = moment + _EVERY
            self.follow()
        return self.keys

    def follow(self) -> None:
        """Take what changed in the file; it raises nothing, and what is wrong is logged once."""
        try:
            changed = self._changed()
            keys = _read(self._path) if changed else self.keys
        except (OSError, ValueError) as error:
            self._report(error)
            return
        if changed:
            self._take(keys)

    def _changed(self) -> bool:
        # With the time of its change of state: a file that is given back its permissions has the same content.
        found = os.stat(self._path)  # noqa: PTH116  (as fast as it gets: on a request's way)
        stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size)
        if stamp == self._stamp:
            return False
        if 0 <= time.time() - found.st_ctime < _STILL:
            self._next = time.monotonic() + _STILL
            return False
        self._stamp = stamp
        return True

    def _take(self, keys: Keys) -> None:
        if keys != self.keys or self._trouble:
            logger.info("API keys: %d taken from %s", len(keys), self._path)
        self.keys, self._trouble = keys, ""
        self._shared.put(keys)

    def _report(self, error: Exception) -> None:
        words = _words(error)
        if words != self._trouble:
            logger.error("API keys: those read last stay good, for API_KEYS_FILE=%r: %s", str(self._path), words)
        self.keys = self._shared.get() or self.keys
        self._trouble, self._stamp = words, None  # it is read again: what was wrong may leave no mark on the file


def _read(path: Path) -> Keys:
    try:
        return parse(read_small_file(path))
    except OSError as error:
        raise ValueError(_words(error)) from None


def _words(error: Exception) -> str:
    return f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def check(file: KeysFile, scope: Scope) -> Unauthorized | None:
    """Why a request may not go on: it is not for everybody, and neither header has a good key."""
    if scope["path"] in OPEN:
        return None
    given = sent(scope["headers"])
    if not given:
        return Unauthorized()
    keys = file.now()
    if len(given) <= _MOST_SENT and any(keys.good(key) for key in given):
        return None
    return InvalidApiKey()


def sent(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The keys of a request; another scheme of Authorization is somebody else's business, in front of us."""
    keys = []
    for name, value in headers:
        if name == b"x-api-key":
            keys.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.append(key.strip())
    return [key for key in keys if key]
