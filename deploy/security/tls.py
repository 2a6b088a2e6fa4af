"""The certificate that Nginx shows: checked before anything is changed, copied to where Nginx reads it, and pinned.

Nginx reads copies in ``var/tls``, which each `make up` renews: the user's own may be links, or readable to this user
alone, or half written.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deploy.errors import CommandError
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from server.system.files import read_small_file

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: a stack whose certificate has expired can still be looked at, and renewed.
_WHENEVER = 0x200000
_EARLY = 14 * 86400  # seconds before its end in which a certificate's is told


def pinned(certificate: Path) -> ssl.SSLContext:
    """What trusts this very certificate, the first in its file, under whatever name, and nobody else.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags = ssl.VerifyFlags(ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _WHENEVER)
    found = _PEM.search(read_small_file(certificate).decode("latin-1"))
    if found is None:
        raise ValueError("expected a certificate in PEM")
    context.load_verify_locations(cadata=found[0])
    return context


def check(stack: Stack) -> None:
    """The pair of files is one that Nginx can use and that a client would take today.

    Raises:
        CommandError: naming the variable, its value and what is wrong.
    """
    if not stack.tls_cert:
        return
    shown = _certificate(Path(stack.tls_cert), _server(stack.tls_cert, stack.tls_key))
    now, place = time.time(), f"TLS_CERT={stack.tls_cert!r}"
    if b"PRIVATE KEY-----" in read_small_file(Path(stack.tls_cert)):
        raise CommandError(f"{place}: it has a private key in it; expected certificates alone, which clients get too")
    if now < ssl.cert_time_to_seconds(shown["notBefore"]):
        raise CommandError(f"{place}: the certificate is not valid before {shown['notBefore']}")
    if now > ssl.cert_time_to_seconds(shown["notAfter"]):
        raise CommandError(f"{place}: the certificate has expired, on {shown['notAfter']}")


def install(layout: Layout, stack: Stack, *, mode: int) -> bool:
    """Copy the pair to where Nginx reads it; whether it is another than before."""
    if not stack.tls_cert:
        return False
    layout.tls.mkdir(mode=0o700, exist_ok=True)
    layout.tls.chmod(0o700)
    pairs = ((layout.tls_key, stack.tls_key), (layout.tls_cert, stack.tls_cert))
    return sum(_copy(Path(source), path, mode) for path, source in pairs) > 0


@contextmanager
def restored_on_failure(*paths: Path) -> Iterator[None]:
    """Files that are written meanwhile become what they were, if what comes after fails."""
    before = {path: path.read_bytes() for path in paths if path.exists()}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            path.touch(mode=0o600)
            path.write_bytes(content)
        raise


def describe(layout: Layout) -> str:
    """A few words on the certificate that is shown."""
    try:
        shown = _certificate(layout.tls_cert, _server(str(layout.tls_cert), str(layout.tls_key)))
    except CommandError as error:
        return f"TLS, but {error}"
    left = ssl.cert_time_to_seconds(shown["notAfter"]) - time.time()
    if left < 0:
        return f"TLS with a certificate that EXPIRED on {shown['notAfter']}"
    return f"TLS until {shown['notAfter']}" + (": renew it, and make up" if left < _EARLY else "")


def subject_names(layout: Layout) -> list[str]:
    """Whom the certificate is for: host names and addresses."""
    shown = _certificate(layout.tls_cert, _server(str(layout.tls_cert), str(layout.tls_key)))
    return [value for kind, value in shown.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]


def _copy(source: Path, path: Path, mode: int) -> bool:
    """Into the file that is there already: a container sees that one, and not one that takes its place."""
    wanted = read_small_file(source)
    if path.exists() and path.read_bytes() == wanted:
        return False
    path.touch(mode=mode)
    path.chmod(mode)
    with path.open("r+b") as file:
        file.write(wanted)
        file.truncate()
    return True


def _server(cert: str, key: str) -> ssl.SSLContext:
    """What answers with this pair."""
    for name, value in (("TLS_CERT", cert), ("TLS_KEY", key)):
        try:
            text = read_small_file(Path(value))
        except OSError as error:
            raise CommandError(f"{name}={value!r}: it cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise CommandError(f"{name}={value!r}: {error}") from None
        if b"-----BEGIN " not in text:
            raise CommandError(f"{name}={value!r}: expected PEM, which begins with -----BEGIN")

    def password() -> str:
        raise CommandError(f"TLS_KEY={key!r}: it is encrypted; expected one without a passphrase")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CommandError(f"TLS_KEY={key!r}: it is not the key of TLS_CERT={cert!r}") from None
        why = f"OpenSSL says {error.reason or error}"
        raise CommandError(f"TLS_CERT={cert!r}, TLS_KEY={key!r}: expected a pair in PEM; {why}") from None
    return context


def _certificate(cert: Path, server: ssl.SSLContext) -> dict[str, Any]:
    """The certificate as a client sees it: that of a handshake in memory."""
    try:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = pinned(cert).wrap_bio(to_client, to_server)
        sides = (client, server.wrap_bio(to_server, to_client, server_side=True))
        for side in 3 * sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "verify_message", "") or error
        raise CommandError(f"TLS_CERT={str(cert)!r}: no client would take it: {why}") from None
    return dict(client.getpeercert() or {})
