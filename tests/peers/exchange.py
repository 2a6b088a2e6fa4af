"""A request of a comparison, and a server's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Case:
    """A request to the server of one model; its ``path`` may contain the placeholders ``{name}`` and ``{version}``."""

    name: str
    path: str
    body: bytes | None = None
    content_type: str | None = None
    model: str = "covertype"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to a request."""

    status: int
    content_type: str
    body: bytes

    @property
    def document(self) -> Any:
        """The body's JSON value, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(port: int, case: Case, **names: str) -> Answer:
    """Send a request on a new connection, with the headers of the case only, and return the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    headers = dict(case.headers)
    if case.content_type is not None:
        headers["Content-Type"] = case.content_type
    try:
        connection.request(case.method, case.path.format(**names), case.body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.getheader("Content-Type", ""), response.read())
    finally:
        connection.close()
