"""A prediction by HTTP, whatever the protocol: bytes -> object -> rows -> batch -> prediction -> bytes.

An ASGI application by itself. This is where the service spends its time, and a request needs none of what a framework
would put around it. What a protocol has of its own is a :class:`Wire`; the queue and the engine are everybody's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from server.errors import BodyTooLarge, ClientGone, RequestError, Unforeseen, UnsupportedEncoding
from server.inference.rows import Prediction, Row

logger = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

_JSON = b"application/json"
_PROBLEM_JSON = b"application/problem+json"


class Ask(NamedTuple):
    """A parsed request: its valid rows, and how the answer to it is written."""

    values: Sequence[Row]
    write: Callable[[Prediction], bytes]


class Refusal(NamedTuple):
    """An error as a protocol writes it."""

    status: int
    media_type: bytes
    body: bytes


Reader = Callable[[bytes], Ask]


class Wire(Protocol):
    """One protocol: how it writes a request for predictions, the answer and an error."""

    route: str

    def reader(self, media_type: bytes, headers: Headers) -> Reader:
        """What reads a body that is declared so; it raises what is wrong with one.

        Raises:
            RequestError: there is none.
        """
        ...

    def refuse(self, error: RequestError) -> Refusal:
        """The answer to a request that is not answered with predictions."""
        ...


class Endpoint:
    """Where the predictions of one protocol are asked for; answers are JSON."""

    def __init__(self, wire: Wire, max_body_bytes: int) -> None:
        self._wire = wire
        self.route = wire.route
        self._max_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong becomes an error of the protocol."""
        started = time.perf_counter()
        serving = scope["state"]["serving"]
        status, kind = 200, _JSON
        more: tuple[tuple[bytes, bytes], ...] = ()
        try:
            body = await self._answer(scope, receive)
        except RequestError as error:
            error = _explained(error, scope["headers"])
            status, kind, body = self._refuse(error)
            more = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        except Exception:
            logger.exception("unforeseen, answered with 500: POST %s", self._wire.route)
            status, kind, body = self._refuse(Unforeseen())
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            *serving.marks,
            *more,
        ]
        # Before it is sent: who has an answer finds it counted, even if this process is killed at once.
        serving.metrics.answered(self._wire.route, status, time.perf_counter() - started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        headers = scope["headers"]
        media_type, declared = declared_of(headers)
        read = self._wire.reader(media_type, headers)
        ask = read(await read_body(receive, declared, self._max_bytes))
        state = scope["state"]
        # The worker class cancels it when the client goes away, so that it leaves the queue.
        answer = state["answer"] = state["serving"].batcher.submit(ask.values)
        return ask.write(await _wait(answer))

    def _refuse(self, error: RequestError) -> Refusal:
        # Nobody reads the answer to a client that went away.
        return Refusal(error.status, _PROBLEM_JSON, b"") if isinstance(error, ClientGone) else self._wire.refuse(error)


def _explained(error: RequestError, headers: Headers) -> RequestError:
    """A body that could not be read may have been compressed."""
    if error.status == 400:
        for name, value in headers:
            if name == b"content-encoding" and value.lower() != b"identity":
                encoding = value.decode("latin-1")[:100]
                return UnsupportedEncoding(f"the Content-Encoding {encoding!r} is not read; send the body as it is")
    return error


async def _wait(answer: asyncio.Future[Prediction]) -> Prediction:
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClientGone("the client went away") from None


def declared_of(headers: Headers) -> tuple[bytes, int]:
    """What a body says of itself: its media type, and how many bytes it has; 0 where it comes in parts."""
    media_type, length = b"", b"0"
    for name, value in headers:
        if name == b"content-type" and not media_type:
            media_type = value
        elif name == b"content-length":
            length = value
    return media_type, int(length)


async def read_body(receive: Receive, declared: int, limit: int) -> bytes:
    """A body of at most ``limit`` bytes, of which ``declared`` were announced.

    Raises:
        BodyTooLarge, ClientGone: as their names say.
    """
    if declared > limit:
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
