"""Certificates for tests of TLS: a certificate and its key, in PEM files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

NAME = "forkcast.example"


@dataclass(frozen=True)
class KeyPair:
    """The paths of a certificate and its private key."""

    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that make a stack use this pair."""
        return {"TLS_CERT": str(self.cert), "TLS_KEY": str(self.key)}


def issue(
    folder: Path,
    *,
    expires_in: timedelta = timedelta(days=90),
    key_type: trustme.KeyType = trustme.KeyType.ECDSA,
) -> KeyPair:
    """Write a new key and its certificate chain, signed by a new authority, to a folder."""
    end = datetime.now(UTC) + expires_in
    start = min(end, datetime.now(UTC)) - timedelta(days=1)
    issued = trustme.CA(key_type=key_type).issue_cert(NAME, not_before=start, not_after=end, key_type=key_type)
    return _write(folder, issued, b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def issue_not_yet_valid(folder: Path) -> KeyPair:
    """Write a new key and a certificate that becomes valid tomorrow to a folder."""
    start = datetime.now(UTC) + timedelta(days=1)
    issued = trustme.CA().issue_cert(NAME, not_before=start, not_after=start + timedelta(days=1))
    return _write(folder, issued, issued.cert_chain_pems[0].bytes())


def _write(folder: Path, issued: trustme.LeafCert, certificates: bytes) -> KeyPair:
    pair = KeyPair(folder / "tls.crt", folder / "tls.key")
    pair.cert.write_bytes(certificates)
    pair.key.write_bytes(issued.private_key_pem.bytes())
    return pair
