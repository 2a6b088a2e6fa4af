"""The outermost layer of the application, around fake apps."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.http.middleware import Reload, ReplicaApp
from server.metrics.counts import Metrics
from tests.support.models.served_models import FakeEngine, served_model


@pytest.mark.parametrize("is_answered", [False, True])
def test_error_is_raised_unless_the_answer_is_complete(is_answered: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An error before the end of a body is raised again, to cut off the response; a later one is not."""
    sent: list[Message] = []

    async def fail(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": not is_answered})
        raise LookupError("no more parts")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        app = ReplicaApp(fail, {}, "one", served_model(FakeEngine()), Reload(), metrics=Metrics())
        await app({"type": "http", "method": "GET", "path": "/docs"}, receive, send)

    if is_answered:
        asyncio.run(call())
        assert "LookupError: no more parts" in caplog.text
    else:
        with pytest.raises(LookupError, match="no more parts"):
            asyncio.run(call())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
