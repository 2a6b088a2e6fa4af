"""Tests of the TLS certificate of Nginx: its checks, its copy, and its pinning in Forkcast's own clients."""

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
    layout = Layout(tmp_path / "var")
    layout.make()
    return layout


def stack_of(pair: KeyPair) -> Stack:
    return Stack().changed(options(**pair.settings))


def refused_pair(pair: KeyPair) -> str:
    """Return why a certificate and its key are refused."""
    return refusal(lambda: tls.check(stack_of(pair)))


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_valid_certificate_pair_is_accepted(key_type: trustme.KeyType, tmp_path: Path) -> None:
    """A certificate with its key is accepted for every key type, and so is a stack without TLS."""
    tls.check(stack_of(certificates.issue(tmp_path, key_type=key_type)))
    tls.check(Stack())


@pytest.mark.parametrize("name", ["TLS_CERT", "TLS_KEY"])
def test_certificate_or_key_alone_is_refused(name: str) -> None:
    """A certificate without a key, or a key without a certificate, is refused with the missing variable."""
    missing = {"TLS_CERT": "TLS_KEY", "TLS_KEY": "TLS_CERT"}[name]
    with pytest.raises(CommandError, match=f"^{missing} is missing: expected both TLS_CERT and TLS_KEY$"):
        Stack().changed(options(**{name: "/file"}))


def test_missing_file_is_named_with_its_variable(tmp_path: Path) -> None:
    """The error for a missing file names the variable and the path."""
    pair = certificates.issue(tmp_path)
    pair.key.unlink()
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: cannot read the file: No such file or directory"
    pair.cert.unlink()
    assert refused_pair(pair) == f"TLS_CERT={str(pair.cert)!r}: cannot read the file: No such file or directory"


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """A key that does not belong to the certificate is refused."""
    (tmp_path / "other").mkdir()
    pair = KeyPair(certificates.issue(tmp_path).cert, certificates.issue(tmp_path / "other").key)
    assert (
        refused_pair(pair)
        == f"TLS_KEY={str(pair.key)!r}: expected the key of TLS_CERT={str(pair.cert)!r}, got another one"
    )


@pytest.mark.parametrize("broken", ["cert", "key"])
def test_file_that_is_not_pem_is_refused(broken: str, tmp_path: Path) -> None:
    """A certificate or key that is not PEM is refused with its variable."""
    pair = certificates.issue(tmp_path)
    getattr(pair, broken).write_text("nonsense")
    name = f"TLS_{broken.upper()}={str(getattr(pair, broken))!r}"
    assert refused_pair(pair) == f"{name}: expected PEM, which begins with -----BEGIN"
    getattr(pair, broken).write_text("-----BEGIN NONSENSE-----")
    assert "expected a certificate and its key in PEM; OpenSSL says " in refused_pair(pair)


def test_certificate_file_with_a_private_key_is_refused(tmp_path: Path) -> None:
    """A certificate file that contains a private key is refused, and a comment in it is accepted."""
    pair = certificates.issue(tmp_path)
    pair.cert.write_bytes("# café\n".encode("latin-1") + pair.cert.read_bytes())
    tls.check(stack_of(pair))
    pair.cert.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    assert "expected only certificates, got a private key" in refused_pair(pair)


def test_named_pipe_is_refused(tmp_path: Path) -> None:
    """A named pipe is refused, in place of waiting for a writer."""
    pair = certificates.issue(tmp_path)
    pair.key.unlink()
    os.mkfifo(pair.key)
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: expected a regular file"


def test_failure_restores_certificate_files(tmp_path: Path) -> None:
    """After a failure the files have their former contents and modes."""
    changed, deleted = tmp_path / "changed", tmp_path / "deleted"
    for path in (changed, deleted):
        path.touch(mode=0o600)
        path.write_text("before")
    with suppress(CommandError), tls.restored_on_failure(changed, deleted, tmp_path / "never-existed"):
        changed.write_text("after, and longer")
        deleted.unlink()
        raise CommandError
    assert (changed.read_text(), deleted.read_text(), deleted.stat().st_mode & 0o777) == ("before", "before", 0o600)


def test_encrypted_key_is_refused(tmp_path: Path) -> None:
    """A key with a passphrase is refused, in place of a prompt for the passphrase."""
    pair = certificates.issue(tmp_path)
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"passphrase")
    form = serialization.PrivateFormat.PKCS8
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))
    assert refused_pair(pair) == f"TLS_KEY={str(pair.key)!r}: expected a key without a passphrase, got an encrypted one"


def test_certificate_out_of_its_validity_period_is_refused(tmp_path: Path) -> None:
    """A certificate that has expired, or is not valid yet, is refused with the date."""
    assert "the certificate expired on " in refused_pair(certificates.issue(tmp_path, expires_in=timedelta(hours=-1)))
    assert "the certificate is not valid before " in refused_pair(certificates.issue_not_yet_valid(tmp_path))


def test_certificate_copies_are_private_and_updated_in_place(tmp_path: Path, layout: Layout) -> None:
    """The copies for Nginx are private, and a new certificate is written into the same files, as containers need it."""
    stack = stack_of(certificates.issue(tmp_path))
    assert tls.install(layout, stack, mode=0o600)
    first = layout.tls_cert.stat()
    assert (layout.tls.stat().st_mode & 0o777, first.st_mode & 0o777) == (0o700, 0o600)
    assert not tls.install(layout, stack, mode=0o600)
    certificates.issue(tmp_path)
    assert tls.install(layout, stack, mode=0o600)
    assert layout.tls_cert.stat().st_ino == first.st_ino
    assert layout.tls_key.read_bytes() == (tmp_path / "tls.key").read_bytes()
    layout.delete_stack_files()
    assert list(layout.tls.iterdir()) == []
    assert not tls.install(layout, Stack(), mode=0o600)


def test_description_names_the_expiry_date(tmp_path: Path, layout: Layout) -> None:
    """The description names the expiry date, and asks for a renewal shortly before it and after it."""
    for days, pattern in (
        (90, r"TLS until [^:]+:\d\d:\d\d \d{4} GMT"),
        (3, ".*: renew the certificate, then run make up"),
        (-1, ".* EXPIRED on .*"),
    ):
        tls.install(layout, stack_of(certificates.issue(tmp_path, expires_in=timedelta(days=days))), mode=0o600)
        assert re.fullmatch(pattern, tls.describe(layout)), days
    assert tls.subject_names(layout) == [NAME]
    layout.delete_stack_files()
    assert "cannot read the file" in tls.describe(layout)


@contextmanager
def answering(pair: KeyPair) -> Iterator[int]:
    """Serve one TLS handshake with this certificate in a thread; yield the port."""
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
        tls.pinned(pinned).wrap_socket(connection) as client,
    ):
        client.send(b"x")


def test_client_trusts_only_the_pinned_certificate(tmp_path: Path) -> None:
    """A client trusts the pinned certificate for any name and after expiry, and no other one of its authority."""
    authority = trustme.CA()
    pairs = []
    for name in ("pinned", "other"):
        (tmp_path / name).mkdir()
        issued = authority.issue_cert(NAME)
        pair = KeyPair(tmp_path / name / "tls.crt", tmp_path / name / "tls.key")
        pair.cert.write_bytes(issued.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
        pair.key.write_bytes(issued.private_key_pem.bytes())
        pairs.append(pair)
    with answering(pairs[0]) as port:
        connect(port, pairs[0].cert)
    with answering(pairs[1]) as port, pytest.raises(ssl.SSLCertVerificationError):
        connect(port, pairs[0].cert)
    expired = certificates.issue(tmp_path, expires_in=timedelta(hours=-1))
    with answering(expired) as port:
        connect(port, expired.cert)


def test_invalid_certificate_cannot_be_pinned(tmp_path: Path) -> None:
    """Pinning a file without a certificate raises ValueError."""
    (tmp_path / "file").write_text("nonsense")
    with pytest.raises(ValueError, match="expected a certificate in PEM"):
        tls.pinned(tmp_path / "file")
