"""``POST /predict``: bytes -> object -> rows -> batch -> prediction -> bytes.

An ASGI application by itself. This is where the service spends its time, and a request needs none of what a framework
would put around it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

from server import protocol
from server.errors import BodyTooLarge, ClientGone, RequestError, UnsupportedMedia
from server.metrics.counts import PREDICT
from server.model import Model
from server.rows import Prediction
from server.settings import Settings

logger = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

_JSON = protocol.JSON.encode()
_PROBLEM_JSON = protocol.PROBLEM_JSON.encode()


class Predict:
    """The endpoint, over the model and the limits of this replica."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self._parse = model.schema.parse
        self._version = model.version
        self._max_rows = settings.max_pending
        self._max_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong becomes a problem document."""
        started = time.perf_counter()
        state = scope["state"]
        status, kind = 200, _JSON
        more: tuple[tuple[bytes, bytes], ...] = ()
        try:
            body = await self._answer(scope, receive)
        except RequestError as error:
            status, kind, body = error.status, _PROBLEM_JSON, _problem(error)
            more = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        except Exception:
            logger.exception("unforeseen, answered with 500: POST /predict")
            status, kind = 500, _PROBLEM_JSON
            body = protocol.encode_problem(500, protocol.UNFORESEEN)
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            *state["serving"].marks,
            *more,
        ]
        # Before it is sent: who has an answer finds it counted, even if this process is killed at once.
        state["serving"].metrics.answered(PREDICT, status, time.perf_counter() - started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        body = await read_json(scope["headers"], receive, self._max_bytes)
        query = self._parse(protocol.decode(body), self._max_rows)
        state = scope["state"]
        # The worker class cancels it when the client goes away, so that it leaves the queue.
        answer = state["answer"] = state["serving"].batcher.submit(query.values)
        prediction = await _wait(answer)
        encode = protocol.encode_many if query.many else protocol.encode_one
        return encode(prediction, self._version)


async def _wait(answer: asyncio.Future[Prediction]) -> Prediction:
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClientGone("the client went away") from None


async def read_json(headers: Headers, receive: Receive, limit: int) -> bytes:
    """A body of at most ``limit`` bytes that is declared as JSON.

    Raises:
        UnsupportedMedia, BodyTooLarge, ClientGone: as their names say.
    """
    declared = b"0"
    media_type = b""
    for name, value in headers:
        if name == b"content-type" and not media_type:
            media_type = value
        elif name == b"content-length":
            declared = value
    if media_type != _JSON:
        _check_media_type(media_type.decode("latin-1"))
    if int(declared) > limit:
        raise _too_large(limit)
    body, more = await _receive(receive)
    if more:
        body = await _rest(body, receive, limit)
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _rest(body: bytes, receive: Receive, limit: int) -> bytes:
    """A body that comes in parts, as far as it matters."""
    parts, more = bytearray(body), True
    while more and len(parts) <= limit:
        body, more = await _receive(receive)
        parts += body
    return bytes(parts)


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether another one follows."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone("the client went away")
    return message.get("body", b""), message.get("more_body", False)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes")


def _check_media_type(header: str) -> None:
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    charsets = [parameter.removeprefix("charset=").strip('"') for parameter in parameters if "charset=" in parameter]
    if media_type != protocol.JSON or not {"utf-8", "utf8"}.issuperset(charsets):
        got = f"got {header[:100]!r}" if header else "got none"
        raise UnsupportedMedia(f"the Content-Type must be {protocol.JSON} in UTF-8, {got}")


def _problem(error: RequestError) -> bytes:
    if isinstance(error, ClientGone):
        return b""
    return protocol.encode_problem(error.status, error.detail, error.faults)
