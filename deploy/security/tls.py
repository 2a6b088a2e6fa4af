"""The TLS certificate of Nginx: its checks, its copy that Nginx reads, and the pinning of it in Forkcast's own clients.

Nginx reads copies in ``var/tls``, which each `make up` renews, since the user's files may be links, unreadable to
Nginx, or in the middle of being written.
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
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: verbs can inspect a stack whose certificate has expired, and renew it.
_NO_CHECK_TIME = 0x200000
_EXPIRY_NOTICE_SECONDS = 14 * 86400


def pinned(certificate: Path) -> ssl.SSLContext:
    """Return a client context that trusts only the first certificate in a file, for any host name and at any time.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file contains no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags = ssl.VerifyFlags(ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    match = _PEM.search(read_small_file(certificate).decode("latin-1"))
    if match is None:
        raise ValueError("expected a certificate in PEM")
    context.load_verify_locations(cadata=match[0])
    return context


def check(stack: Stack) -> None:
    """Check that Nginx can use TLS_CERT and TLS_KEY, and that a client accepts the certificate today.

    Raises:
        CommandError: a check fails; the message names the variable, its value and the reason.
    """
    if not stack.tls_cert:
        return
    certificate = _read_certificate(Path(stack.tls_cert), _server_context(stack.tls_cert, stack.tls_key))
    now, setting = time.time(), f"TLS_CERT={stack.tls_cert!r}"
    if b"PRIVATE KEY-----" in read_small_file(Path(stack.tls_cert)):
        raise CommandError(f"{setting}: expected only certificates, got a private key, which clients must not see")
    if now < ssl.cert_time_to_seconds(certificate["notBefore"]):
        raise CommandError(f"{setting}: the certificate is not valid before {certificate['notBefore']}")
    if now > ssl.cert_time_to_seconds(certificate["notAfter"]):
        raise CommandError(f"{setting}: the certificate expired on {certificate['notAfter']}")


def install(layout: Layout, stack: Stack, *, mode: int) -> bool:
    """Copy certificate and key to where Nginx reads them; return whether the copies changed."""
    if not stack.tls_cert:
        return False
    layout.tls.mkdir(mode=0o700, exist_ok=True)
    layout.tls.chmod(0o700)
    copies = ((layout.tls_key, stack.tls_key), (layout.tls_cert, stack.tls_cert))
    return sum(_copy(Path(source), target, mode) for target, source in copies) > 0


@contextmanager
def restored_on_failure(*paths: Path) -> Iterator[None]:
    """Restore the contents of the files that exist now if the body of the ``with`` statement fails."""
    contents = {path: path.read_bytes() for path in paths if path.exists()}
    try:
        yield
    except BaseException:
        for path, content in contents.items():
            path.touch(mode=0o600)
            path.write_bytes(content)
        raise


def describe(layout: Layout) -> str:
    """Return a short description of the certificate that Nginx reads, with its expiry date."""
    try:
        certificate = _read_certificate(layout.tls_cert, _server_context(str(layout.tls_cert), str(layout.tls_key)))
    except CommandError as error:
        return f"TLS, but {error}"
    end = certificate["notAfter"]
    left = ssl.cert_time_to_seconds(end) - time.time()
    if left < 0:
        return f"TLS with a certificate that EXPIRED on {end}: renew it, then run make up"
    return f"TLS until {end}" + (": renew the certificate, then run make up" if left < _EXPIRY_NOTICE_SECONDS else "")


def subject_names(layout: Layout) -> list[str]:
    """Return the host names and addresses that the certificate is valid for."""
    certificate = _read_certificate(layout.tls_cert, _server_context(str(layout.tls_cert), str(layout.tls_key)))
    return [name for name_type, name in certificate.get("subjectAltName", ()) if name_type in ("DNS", "IP Address")]


def _copy(source: Path, target: Path, mode: int) -> bool:
    # An existing file is rewritten in place: a container keeps the file that was mounted and would not see a new one.
    content = read_small_file(source)
    if target.exists() and target.read_bytes() == content:
        return False
    target.touch(mode=mode)
    target.chmod(mode)
    with target.open("r+b") as file:
        file.write(content)
        file.truncate()
    return True


def _server_context(cert: str, key: str) -> ssl.SSLContext:
    for name, value in (("TLS_CERT", cert), ("TLS_KEY", key)):
        try:
            text = read_small_file(Path(value))
        except OSError as error:
            raise CommandError(f"{name}={value!r}: cannot read the file: {error.strerror}") from None
        except ValueError as error:
            raise CommandError(f"{name}={value!r}: {error}") from None
        if b"-----BEGIN " not in text:
            raise CommandError(f"{name}={value!r}: expected PEM, which begins with -----BEGIN")

    def password() -> str:
        raise CommandError(f"TLS_KEY={key!r}: expected a key without a passphrase, got an encrypted one")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CommandError(f"TLS_KEY={key!r}: expected the key of TLS_CERT={cert!r}, got another one") from None
        reason = error.reason or error
        raise CommandError(
            f"TLS_CERT={cert!r}, TLS_KEY={key!r}: expected a certificate and its key in PEM; OpenSSL says {reason}"
        ) from None
    return context


def _read_certificate(cert: Path, server: ssl.SSLContext) -> dict[str, Any]:
    """Return the certificate as a client gets it in a handshake, which runs in memory here."""
    try:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = pinned(cert).wrap_bio(to_client, to_server)
        sides = (client, server.wrap_bio(to_server, to_client, server_side=True))
        for side in 3 * sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "verify_message", "") or error
        raise CommandError(f"TLS_CERT={str(cert)!r}: clients would refuse the certificate: {reason}") from None
    return dict(client.getpeercert() or {})
