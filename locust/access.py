"""What a service with locks asks of its users: TLS, by a pinned certificate or the system's authorities, and a key."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

from failures import CannotStartError

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def context(scheme: str) -> ssl.SSLContext | None:
    """How to speak TLS; None where the service speaks none.

    With TLS_CERT, that very certificate is trusted, under whatever name: the first of the file.

    Raises:
        CannotStartError: TLS_CERT cannot be read, or is no certificate.
    """
    if scheme != "https":
        return None
    made = ssl.create_default_context()
    if path := os.environ.get("TLS_CERT"):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        made.load_verify_locations(cadata=_first(path))
    made.set_alpn_protocols(["http/1.1"])
    return made


def key() -> str:
    """The API key: what API_KEY_FILE has now, else API_KEY; empty for a service that asks for none."""
    path = os.environ.get("API_KEY_FILE")
    if path and Path(path).exists():
        return Path(path).read_text().strip()
    return os.environ.get("API_KEY", "")


def headers() -> dict[str, str]:
    """Those of every request."""
    return {"Authorization": f"Bearer {key()}"} if key() else {}


def _first(path: str) -> str:
    try:
        found = _PEM.search(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStartError(f"TLS_CERT={path}: {error}") from None
    if found is None:
        raise CannotStartError(f"TLS_CERT={path}: expected a certificate in PEM")
    return found[0]
