"""One request of a battery, and what a server answers to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Case:
    """A request to the server of one model; ``{name}`` in its path is what that server calls the model."""

    name: str
    path: str
    body: bytes | None = None
    content_type: str | None = None
    model: str = "covertype"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body, as JSON where it is JSON."""

    status: int
    content_type: str
    body: bytes

    @property
    def document(self) -> Any:
        """The body's JSON value; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(port: int, case: Case, **names: str) -> Answer:
    """Send it on a connection of its own, with no header that the case does not have."""
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
