"""A prediction over HTTP in any protocol: bytes -> document -> rows -> batch -> prediction -> bytes.

:class:`Endpoint` is an ASGI application without a framework around it, because a prediction needs none. The protocols
differ in their :class:`WireProtocol`; they share the queue and the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from server.errors import ClientDisconnected, Fault, InternalError, InvalidRows, RequestError, UnsupportedEncoding
from server.inference.rows import Options, Prediction, Row
from server.protocols.request_body import Header, Headers, content_type_and_length, read_body

logger = logging.getLogger(__name__)

_JSON = b"application/json"
_PROBLEM_JSON = b"application/problem+json"


class PredictionRequest(NamedTuple):
    """A parsed request: its valid rows, the function that writes the response body, and the options of the call.

    ``rows_pointer`` is the JSON pointer of the list that contains the rows, or None if the body is a single row.
    """

    rows: Sequence[Row]
    write: Callable[[Prediction], bytes]
    options: Options | None = None
    rows_pointer: str | None = None


class ErrorAnswer(NamedTuple):
    """The response to a failed request, in the form of its protocol."""

    status: int
    media_type: bytes
    body: bytes


BodyReader = Callable[[bytes], PredictionRequest]


class WireProtocol(Protocol):
    """A wire protocol, which parses requests for predictions, writes responses and renders the errors at its paths."""

    route: str

    def owns(self, path: str) -> bool:
        """Return whether this protocol renders the errors at ``path``."""
        ...

    def reader(self, content_type: bytes, headers: Headers, query: bytes) -> BodyReader:
        """Return the function that parses a body of this Content-Type, or raises a RequestError if it is invalid.

        ``query`` is the query string of the URL.

        Raises:
            RequestError: this Content-Type, or the query, is not supported.
        """
        ...

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return the response for an error."""
        ...


class Endpoint:
    """An ASGI application that answers requests for predictions in one protocol."""

    def __init__(self, protocol: WireProtocol, max_body_bytes: int) -> None:
        self._protocol = protocol
        self.route = protocol.route
        self._max_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with a prediction or with an error in the form of the protocol."""
        started = time.perf_counter()
        worker = scope["state"]["worker"]
        status, media_type = 200, _JSON
        error_headers: tuple[Header, ...] = ()
        try:
            body = await self._answer(scope, receive)
        except RequestError as error:
            error = _with_content_encoding(error, scope["headers"])
            status, media_type, body = self._render(error)
            error_headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        except Exception:
            logger.exception("unexpected error, answered with 500: POST %s", self.route)
            status, media_type, body = self._render(InternalError())
        headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            *worker.identity_headers,
            *error_headers,
        ]
        # Count before sending, so that every response that a client has is counted even if this process is killed.
        worker.metrics.prediction_answered(self.route, status, time.perf_counter() - started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        headers = scope["headers"]
        content_type, content_length = content_type_and_length(headers)
        read = self._protocol.reader(content_type, headers, scope.get("query_string", b""))
        request = read(await read_body(receive, content_length, self._max_bytes))
        state = scope["state"]
        # The connection cancels this future when the client disconnects, which removes the rows from the queue.
        answer = state["answer"] = state["worker"].batcher.submit(request.rows, request.options)
        try:
            prediction = await _wait(answer)
        except InvalidRows as error:
            raise _at_row(error, request) from None
        return request.write(prediction)

    def _render(self, error: RequestError) -> ErrorAnswer:
        if isinstance(error, ClientDisconnected):  # Nobody reads this response.
            return ErrorAnswer(error.status, _PROBLEM_JSON, b"")
        return self._protocol.render_error(error)


def _with_content_encoding(error: RequestError, headers: Headers) -> RequestError:
    """Return an error that names the Content-Encoding if an unreadable body was compressed, else ``error``."""
    if error.status == 400:
        for name, value in headers:
            if name == b"content-encoding" and value.lower() != b"identity":
                encoding = value.decode("latin-1")[:100]
                return UnsupportedEncoding(
                    f"Content-Encoding {encoding!r} is not supported; send the body uncompressed"
                )
    return error


def _at_row(error: InvalidRows, request: PredictionRequest) -> InvalidRows:
    """Return an error of the model about a row with the place of that row in the request."""
    if error.row is None:
        return error
    detail, faults = error.detail, error.faults
    if len(request.rows) > 1:
        detail = f"{detail} (row {error.row + 1} of {len(request.rows)})"
    if request.rows_pointer is not None:
        faults = tuple(Fault(fault.detail, f"{request.rows_pointer}/{error.row}") for fault in faults)
    return type(error)(detail, faults)


async def _wait(answer: asyncio.Future[Prediction]) -> Prediction:
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClientDisconnected("the client disconnected") from None
