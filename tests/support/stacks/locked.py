"""Stacks with all access controls, for tests: API keys, TLS and limits per client."""

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
    """A stack whose clients connect over TLS."""

    pair: KeyPair
    keys: Path
    https_port: int

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    def secure_settings(self, folder: Path, *, requests_per_second: int) -> dict[str, str]:
        """Write a certificate and an API key to a folder, and return the settings that use them."""
        self.pair, self.https_port = certificates.issue(folder), free_port()
        self.keys = folder / "keys/keys"
        self.keys.parent.mkdir()
        self.keys.parent.chmod(0o755)
        self.rotate(KEY)
        return {
            **self.pair.settings,
            "HTTPS_PORT": str(self.https_port),
            "API_KEYS_FILE": str(self.keys),
            "CLIENT_REQUESTS": str(requests_per_second),
            "CLIENT_CONNECTIONS": "4",
        }

    def rotate(self, key: str) -> None:
        """Replace the valid API keys with this one."""
        draft = self.keys.with_name("draft")
        draft.write_text(f"{key}\n")
        draft.chmod(0o644)
        draft.rename(self.keys)

    def client(self, **options: Any) -> httpx.Client:
        """Return a client with the certificate and a key, which keeps connections open for the time of a `make up`."""
        headers, limits = {"Authorization": f"Bearer {KEY}"}, httpx.Limits(keepalive_expiry=60)
        verify = tls.pinned(self.pair.cert)
        return httpx.Client(base_url=self.address, headers=headers, verify=verify, limits=limits, **options)

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `curl` without checking the certificate."""
        return subprocess.run(
            ["curl", "-sS", "-k", *arguments], capture_output=True, text=True, check=False, timeout=30
        )

    def served_certificate(self) -> str:
        """Return the certificate of a new connection, in PEM."""
        return ssl.get_server_certificate(("127.0.0.1", self.https_port))


def wait_for_status(client: httpx.Client, key: str, status: int) -> None:
    """Wait until requests with an API key get this status."""
    headers = {"Authorization": f"Bearer {key}"}
    wait_until(lambda: client.get("/version", headers=headers).status_code == status, seconds=20, pause=0.2)
