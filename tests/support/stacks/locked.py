"""Stacks behind every lock, for tests: API keys, TLS and limits per client."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx

from deploy.security import tls
from tests.support import certificates
from tests.support.certificates import KeyPair
from tests.support.ports import free_port
from tests.support.stacks.local import Stack
from tests.support.waiting import wait_until

KEY, NEXT = "the-key-of-the-first-client", "the-key-of-the-next-client"


class Edge(Stack):
    """A stack that is asked over TLS."""

    pair: KeyPair
    keys: Path
    https_port: int

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    def locks(self, folder: Path, *, requests: int) -> dict[str, str]:
        """What it is told, once there are a certificate and a key in this folder; so many requests a second."""
        self.pair, self.https_port = certificates.issue(folder), free_port()
        self.keys = folder / "keys/keys"
        self.keys.parent.mkdir()
        self.keys.parent.chmod(0o755)
        self.rotate(KEY)
        return {
            **self.pair.settings,
            "HTTPS_PORT": str(self.https_port),
            "API_KEYS_FILE": str(self.keys),
            "CLIENT_REQUESTS": str(requests),
            "CLIENT_CONNECTIONS": "4",
        }

    def rotate(self, key: str) -> None:
        """From now on this one alone is good."""
        draft = self.keys.with_name("draft")
        draft.write_text(f"{key}\n")
        draft.chmod(0o644)
        draft.rename(self.keys)

    def client(self, **options: Any) -> httpx.Client:
        """One that knows the certificate, has a key, and keeps its connection longer than a `make up` takes."""
        headers, limits = {"Authorization": f"Bearer {KEY}"}, httpx.Limits(keepalive_expiry=60)
        verify = tls.pinned(self.pair.cert)
        return httpx.Client(base_url=self.address, headers=headers, verify=verify, limits=limits, **options)

    def curl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A real client."""
        return subprocess.run(["curl", "-sS", "-k", *words], capture_output=True, text=True, check=False, timeout=30)

    def shown(self) -> str:
        """The certificate that a new connection is shown."""
        return ssl.get_server_certificate(("127.0.0.1", self.https_port))


def wait_for_status(client: httpx.Client, key: str, status: int) -> None:
    """Wait until requests with a key get this status."""
    headers = {"Authorization": f"Bearer {key}"}
    wait_until(lambda: client.get("/version", headers=headers).status_code == status, seconds=20, pause=0.2)
