"""A prediction over HTTP, whatever the protocol: bytes -> document -> rows -> batch -> prediction -> bytes.

:class:`Endpoint` is an ASGI application by itself: a request for predictions needs none of what a framework would put
around it. What differs between the protocols is behind :class:`WireProtocol`; the queue and the engine are shared.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from server.errors import ClientDisconnected, InternalError, RequestError, UnsupportedEncoding
from server.inference.rows import Prediction, Row
from server.protocols.request_body import Header, Headers, declared_of, read_body

logger = logging.getLogger(__name__)

_JSON = b"application/json"
_PROBLEM_JSON = b"application/problem+json"


class PredictionRequest(NamedTuple):
    """A parsed request: its valid rows, and the function that writes the answer to it."""

    rows: Sequence[Row]
    write: Callable[[Prediction], bytes]


class ErrorAnswer(NamedTuple):
    """An error as a protocol writes it."""

    status: int
    media_type: bytes
    body: bytes


BodyReader = Callable[[bytes], PredictionRequest]


class WireProtocol(Protocol):
    """A protocol: it parses requests for predictions, writes the answers, and renders every error at its paths."""

    route: str

    def owns(self, path: str) -> bool:
        """Return whether errors at this path are written as this protocol writes them."""
        ...

    def reader(self, media_type: bytes, headers: Headers) -> BodyReader:
        """Return the function that parses a body of this media type; it raises a RequestError for a bad body.

        Raises:
            RequestError: bodies of this media type are not read.
        """
        ...

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return the answer to a request that is not answered with predictions."""
        ...


class Endpoint:
    """The ASGI application that answers requests for predictions in one protocol."""

    def __init__(self, protocol: WireProtocol, max_body_bytes: int) -> None:
        self._protocol = protocol
        self.route = protocol.route
        self._max_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong becomes an error of the protocol."""
        started = time.perf_counter()
        worker = scope["state"]["worker"]
        status, media_type = 200, _JSON
        more: tuple[Header, ...] = ()
        try:
            body = await self._answer(scope, receive)
        except RequestError as error:
            error = _explained(error, scope["headers"])
            status, media_type, body = self._render(error)
            more = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        except Exception:
            logger.exception("unexpected error, answered with 500: POST %s", self.route)
            status, media_type, body = self._render(InternalError())
        headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            *worker.identity_headers,
            *more,
        ]
        # Before it is sent: who has an answer finds it counted, even if this process is killed at once.
        worker.metrics.prediction_answered(self.route, status, time.perf_counter() - started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        headers = scope["headers"]
        media_type, declared = declared_of(headers)
        read = self._protocol.reader(media_type, headers)
        request = read(await read_body(receive, declared, self._max_bytes))
        state = scope["state"]
        # The connection cancels it when the client goes away, so that it leaves the queue.
        answer = state["answer"] = state["worker"].batcher.submit(request.rows)
        return request.write(await _wait(answer))

    def _render(self, error: RequestError) -> ErrorAnswer:
        if isinstance(error, ClientDisconnected):  # nobody reads this answer
            return ErrorAnswer(error.status, _PROBLEM_JSON, b"")
        return self._protocol.render_error(error)


def _explained(error: RequestError, headers: Headers) -> RequestError:
    """Return an error that names the compression, where a body that could not be read was compressed."""
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
        raise ClientDisconnected("the client went away") from None
