"""API keys: the file that holds them, read again whenever it changes, and the check of each request.

The file has one key per line, plain or as ``sha256:`` and its hexadecimal digest. Blank lines and lines that begin
with ``#`` are ignored. Only digests are kept in memory.
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

if TYPE_CHECKING:  # The make verbs import this module in an environment without Starlette.
    from starlette.types import Scope

logger = logging.getLogger(__name__)

# Probes and Prometheus need no key. The router compares paths exactly too, so no other spelling of a path gets past.
PUBLIC_PATHS = frozenset({"/health", "/ready", "/ping", "/v2/health/live", "/v2/health/ready", "/metrics"})

_KEY = re.compile(rb"[!-~]{16,256}")
_DIGEST = re.compile(rb"sha256:([0-9a-fA-F]{64})")
_MAX_KEY_BYTES = 256
# A gateway in front may send a key of its own beside the client's. More than these would only cost CPU.
_MAX_KEYS_PER_REQUEST = 4
_SECRET = os.urandom(32)

_CHECK_INTERVAL_SECONDS = 1.0
# A file that changed more recently than this is not read yet, because its writer may not have finished.
_SETTLE_SECONDS = 0.1

# The shared memory begins with a SHA-256 checksum and the number of bytes that follow.
_CHECKSUM_BYTES, _LENGTH_BYTES = 32, 4
_HEADER_BYTES = _CHECKSUM_BYTES + _LENGTH_BYTES
_MAC_BYTES = 32
# A line of the file takes at least 16 bytes and a line break.
_MIN_LINE_BYTES = 17

FileStamp = tuple[int, ...]


class Keys(frozenset[bytes]):
    """The valid keys, each as the MAC of its digest under a secret of this process and its forks.

    A lookup in a set costs the same for any number of keys. Its timing depends only on MACs, which nobody else can
    compute, so it reveals nothing about how much of a guessed key is right ("double HMAC verification").
    """

    def accepts(self, key: bytes) -> bool:
        """Return whether ``key`` is one of the valid keys."""
        return len(key) <= _MAX_KEY_BYTES and _mac(hashlib.sha256(key).digest()) in self


def parse(text: bytes) -> Keys:
    """Return the keys in a file's content.

    Raises:
        ValueError: a line is not a key, or there is no key. The message has the number of the line, never its content.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")  # Editors on Windows write a byte order mark.
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    keys = Keys(_mac(_digest(number, line)) for number, line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise ValueError("expected at least one key, got none")
    return keys


def _mac(digest: bytes) -> bytes:
    return hmac.digest(_SECRET, digest, "sha256")


def _digest(number: int, line: bytes) -> bytes:
    if digest := _DIGEST.fullmatch(line):
        return bytes.fromhex(digest[1].decode())
    # A mistyped digest is an error: taken as a plain key, it would silently lock out the client with the real key.
    if line.startswith(b"sha256:") or not _KEY.fullmatch(line):
        expected = "a key of 16 to 256 printable ASCII characters without spaces, or sha256: and 64 hex digits"
        raise ValueError(f"line {number}: expected {expected}")
    return hashlib.sha256(line).digest()


class SharedKeys:
    """The keys that any process of the replica read last, in memory that the master shares with its workers.

    Without it, a worker forked while the file is invalid would start with the keys that the master read at its start.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _HEADER_BYTES + _MAC_BYTES * (MAX_FILE_BYTES // _MIN_LINE_BYTES + 1))

    def publish(self, keys: Keys) -> None:
        """Write the keys for the other processes. A process that reads meanwhile sees a wrong checksum."""
        body = b"".join(sorted(keys))
        header = hashlib.sha256(body).digest() + len(body).to_bytes(_LENGTH_BYTES, "big")
        self._memory[: _HEADER_BYTES + len(body)] = header + body

    def read(self) -> Keys | None:
        """Return the keys published last, or None while another process is writing them."""
        length = int.from_bytes(self._memory[_CHECKSUM_BYTES:_HEADER_BYTES], "big")
        body = self._memory[_HEADER_BYTES : _HEADER_BYTES + length]
        if hashlib.sha256(body).digest() != self._memory[:_CHECKSUM_BYTES]:
            return None
        return Keys(body[start : start + _MAC_BYTES] for start in range(0, length, _MAC_BYTES))


class KeysFile:
    """The keys that are in the file now, or the last valid ones if the file has become invalid."""

    def __init__(self, path: Path) -> None:
        """Read the file for the first time.

        Raises:
            SettingsError: the file cannot be read, or is not a list of keys.
        """
        self._path = path
        # The stamp stays unset, because the file may be changing now: each process reads it once more.
        self._stamp: FileStamp | None = None
        self._next_check = 0.0
        self._last_error = ""
        try:
            self.keys = _read(path)
        except ValueError as error:
            raise SettingsError(f"API_KEYS_FILE={str(path)!r}: {error}") from None
        self._shared = SharedKeys()
        self._shared.publish(self.keys)

    def current(self) -> Keys:
        """Return the valid keys; the file is checked for changes at most once a second."""
        if (now := time.monotonic()) >= self._next_check:
            self._next_check = now + _CHECK_INTERVAL_SECONDS
            self.refresh()
        return self.keys

    def refresh(self) -> None:
        """Read the file if it changed. An error is not raised; it is logged once, and the last valid keys stay."""
        try:
            changed = self._has_changed()
            keys = _read(self._path) if changed else self.keys
        except (OSError, ValueError) as error:
            self._keep_last_valid(error)
            return
        if changed:
            self._replace(keys)

    def _has_changed(self) -> bool:
        status = os.stat(self._path)  # noqa: PTH116  (faster than Path.stat, and part of every request)
        # The ctime is part of the stamp because a change of permissions alone changes nothing else.
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev, status.st_size)
        if stamp == self._stamp:
            return False
        if 0 <= time.time() - status.st_ctime < _SETTLE_SECONDS:
            self._next_check = time.monotonic() + _SETTLE_SECONDS
            return False
        self._stamp = stamp
        return True

    def _replace(self, keys: Keys) -> None:
        if keys != self.keys or self._last_error:
            logger.info("read %d API keys from %s", len(keys), self._path)
        self.keys, self._last_error = keys, ""
        self._shared.publish(keys)

    def _keep_last_valid(self, error: Exception) -> None:
        reason = _reason(error)
        if reason != self._last_error:
            logger.error("API_KEYS_FILE=%r: %s; the API keys read last stay valid", str(self._path), reason)
        self.keys = self._shared.read() or self.keys
        # The file is read again at the next check: what was wrong may be repaired without a change of its stamp.
        self._last_error, self._stamp = reason, None


def _read(path: Path) -> Keys:
    try:
        return parse(read_small_file(path))
    except OSError as error:
        raise ValueError(_reason(error)) from None


def _reason(error: Exception) -> str:
    return f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def check(file: KeysFile, scope: Scope) -> Unauthorized | None:
    """Return the error for a request without a valid key, or None if it has one or its path needs none."""
    if scope["path"] in PUBLIC_PATHS:
        return None
    sent_keys = keys_in(scope["headers"])
    if not sent_keys:
        return Unauthorized()
    valid_keys = file.current()
    if len(sent_keys) <= _MAX_KEYS_PER_REQUEST and any(valid_keys.accepts(key) for key in sent_keys):
        return None
    return InvalidApiKey()


def keys_in(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the keys in a request's headers. Other schemes of Authorization are left to a proxy in front."""
    keys = []
    for name, value in headers:
        if name == b"x-api-key":
            keys.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.append(key.strip())
    return [key for key in keys if key]
