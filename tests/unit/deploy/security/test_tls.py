"""The certificate that Nginx shows: what is refused before anything is changed, and how our own clients know it."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from deploy.errors import CommandError
from deploy.security import tls
from deploy.stack.paths import Layout
from deploy.stack.specification import Stack
from tests.support import certificates
from tests.support.certificates import NAME, KeyPair
from tests.support.options import options
from tests.support.refusals import refusal


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    one = Layout(tmp_path / "var")
    one.make()
    return one


def stack_of(pair: KeyPair) -> Stack:
    return Stack().changed(options(**pair.settings))


def refused_pair(pair: KeyPair) -> str:
    """Return why a certificate and its key are refused."""
    return refusal(lambda: tls.check(stack_of(pair)))


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_valid_certificate_pair_is_accepted(kind: trustme.KeyType, tmp_path: Path) -> None:
    """A certificate and its key are taken, of either kind; so is a stack with neither."""
    tls.check(stack_of(certificates.issue(tmp_path, key_type=kind)))
    tls.check(Stack())


@pytest.mark.parametrize("name", ["TLS_CERT", "TLS_KEY"])
def test_certificate_without_key_is_refused(name: str) -> None:
    """One without the other is refused, with the name of what is missing."""
    other = {"TLS_CERT": "TLS_KEY", "TLS_KEY": "TLS_CERT"}[name]
    with pytest.raises(CommandError, match=f"^{other} is missing: TLS_CERT and TLS_KEY go together$"):
        Stack().changed(options(**{name: "/file"}))


def test_missing_certificate_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is named with its variable."""
    pair = certificates.issue(tmp_path)
    pair.key.unlink()
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: it cannot be read: No such file or directory"
    pair.cert.unlink()
    assert refused_pair(pair) == f"TLS_CERT={str(pair.cert)!r}: it cannot be read: No such file or directory"


def test_key_of_another_certificate(tmp_path: Path) -> None:
    """A key that does not belong to the certificate is refused."""
    (tmp_path / "other").mkdir()
    pair = KeyPair(certificates.issue(tmp_path).cert, certificates.issue(tmp_path / "other").key)
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: it is not the key of TLS_CERT={str(pair.cert)!r}"


@pytest.mark.parametrize("broken", ["cert", "key"])
def test_files_of_something_else(broken: str, tmp_path: Path) -> None:
    """What is no PEM is refused."""
    pair = certificates.issue(tmp_path)
    getattr(pair, broken).write_text("nonsense")
    name = f"TLS_{broken.upper()}={str(getattr(pair, broken))!r}"
    assert refused_pair(pair) == f"{name}: expected PEM, which begins with -----BEGIN"
    getattr(pair, broken).write_text("-----BEGIN NONSENSE-----")
    assert "expected a pair in PEM; OpenSSL says " in refused_pair(pair)


def test_certificate_with_a_key_in_it(tmp_path: Path) -> None:
    """What clients are given has no private key in it, and what is written above a certificate does not matter."""
    pair = certificates.issue(tmp_path)
    pair.cert.write_bytes("# café\n".encode("latin-1") + pair.cert.read_bytes())
    tls.check(stack_of(pair))
    pair.cert.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    assert "it has a private key in it" in refused_pair(pair)


def test_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    """Nobody waits for a pipe that nobody writes into."""
    pair = certificates.issue(tmp_path)
    pair.key.unlink()
    os.mkfifo(pair.key)
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: expected a regular file"


def test_later_failure_restores_certificate_files(tmp_path: Path) -> None:
    """If what comes after fails, files have what they had before, and their modes."""
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    for path in (kept, gone):
        path.touch(mode=0o600)
        path.write_text("before")
    with suppress(CommandError), tls.restored_on_failure(kept, gone, tmp_path / "never"):
        kept.write_text("after, and longer")
        gone.unlink()
        raise CommandError
    assert (kept.read_text(), gone.read_text(), gone.stat().st_mode & 0o777) == ("before", "before", 0o600)


def test_encrypted_key_is_refused(tmp_path: Path) -> None:
    """A key with a passphrase is refused rather than waited for."""
    pair = certificates.issue(tmp_path)
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"passphrase")
    form = serialization.PrivateFormat.PKCS8
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: it is encrypted; expected one without a passphrase"


def test_time_of_a_certificate(tmp_path: Path) -> None:
    """One that has expired, or whose time has not come, is refused with that time."""
    assert "the certificate has expired, on " in refused_pair(
        certificates.issue(tmp_path, expires_in=timedelta(hours=-1))
    )
    assert "the certificate is not valid before " in refused_pair(certificates.issue_not_yet_valid(tmp_path))


def test_certificate_copies_are_private_and_updated_in_place(tmp_path: Path, layout: Layout) -> None:
    """Nginx reads copies that nobody else finds; another pair is written into the same files, which containers see."""
    stack = stack_of(certificates.issue(tmp_path))
    assert tls.install(layout, stack, mode=0o600)
    before = layout.tls_cert.stat()
    assert (layout.tls.stat().st_mode & 0o777, before.st_mode & 0o777) == (0o700, 0o600)
    assert not tls.install(layout, stack, mode=0o600)
    certificates.issue(tmp_path)
    assert tls.install(layout, stack, mode=0o600)
    assert layout.tls_cert.stat().st_ino == before.st_ino
    assert layout.tls_key.read_bytes() == (tmp_path / "tls.key").read_bytes()
    layout.delete_stack_files()
    assert list(layout.tls.iterdir()) == []
    assert not tls.install(layout, Stack(), mode=0o600)


def test_certificate_expiry_is_reported_with_urgency(tmp_path: Path, layout: Layout) -> None:
    """The end of the certificate is told, and louder the nearer it is."""
    for days, told in (
        (90, r"TLS until [^:]+:\d\d:\d\d \d{4} GMT"),
        (3, ".*: renew it, and make up"),
        (-1, ".* EXPIRED on .*"),
    ):
        tls.install(layout, stack_of(certificates.issue(tmp_path, expires_in=timedelta(days=days))), mode=0o600)
        assert re.fullmatch(told, tls.describe(layout)), days
    assert tls.subject_names(layout) == [NAME]
    layout.delete_stack_files()
    assert "it cannot be read" in tls.describe(layout)


@contextmanager
def answering(pair: KeyPair) -> Iterator[int]:
    """Somebody who shows this certificate once; the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def connect(port: int, pinned: Path) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        tls.pinned(pinned).wrap_socket(connection) as one,
    ):
        one.send(b"x")


def test_client_trusts_only_the_pinned_certificate(tmp_path: Path) -> None:
    """Our own clients trust the very certificate, whatever its name and its end, and no other of the same authority."""
    authority = trustme.CA()
    pairs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        issued = authority.issue_cert(NAME)
        found = KeyPair(tmp_path / name / "tls.crt", tmp_path / name / "tls.key")
        found.cert.write_bytes(issued.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
        found.key.write_bytes(issued.private_key_pem.bytes())
        pairs.append(found)
    with answering(pairs[0]) as port:
        connect(port, pairs[0].cert)
    with answering(pairs[1]) as port, pytest.raises(ssl.SSLCertVerificationError):
        connect(port, pairs[0].cert)
    expired = certificates.issue(tmp_path, expires_in=timedelta(hours=-1))
    with answering(expired) as port:
        connect(port, expired.cert)


def test_invalid_certificate_cannot_be_pinned(tmp_path: Path) -> None:
    """What is no certificate is told as such."""
    (tmp_path / "file").write_text("nonsense")
    with pytest.raises(ValueError, match="expected a certificate in PEM"):
        tls.pinned(tmp_path / "file")
