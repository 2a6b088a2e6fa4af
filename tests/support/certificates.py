"""Certificates for tests of TLS: a pair of files in PEM."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

NAME = "forkcast.example"


@dataclass(frozen=True)
class Pair:
    """Where a certificate and its key are."""

    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """As the verbs are told."""
        return {"TLS_CERT": str(self.cert), "TLS_KEY": str(self.key)}


def pair(folder: Path, *, ends: timedelta = timedelta(days=90), kind: trustme.KeyType = trustme.KeyType.ECDSA) -> Pair:
    """A new pair in this folder, by an authority of its own; its certificate ends so long from now."""
    end = datetime.now(UTC) + ends
    begins = min(end, datetime.now(UTC)) - timedelta(days=1)
    issued = trustme.CA(key_type=kind).issue_cert(NAME, not_before=begins, not_after=end, key_type=kind)
    found = Pair(folder / "tls.crt", folder / "tls.key")
    found.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    found.key.write_bytes(issued.private_key_pem.bytes())
    return found


def future(folder: Path) -> Pair:
    """One whose time has not come."""
    begins = datetime.now(UTC) + timedelta(days=1)
    issued = trustme.CA().issue_cert(NAME, not_before=begins, not_after=begins + timedelta(days=1))
    found = Pair(folder / "tls.crt", folder / "tls.key")
    found.cert.write_bytes(issued.cert_chain_pems[0].bytes())
    found.key.write_bytes(issued.private_key_pem.bytes())
    return found
