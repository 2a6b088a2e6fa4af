"""The exceptions that Forkcast raises on purpose, and the HTTP status of each.

How an error travels:

* **Start.** ``environment -> Settings -> verified model folder -> Model``. A failure here is a :class:`StartError`.
  ``server.main.create`` prints its message as one line and exits with status 1. During a reload the same error is
  logged, reported by ``/health``, and the previous model stays in service.
* **Request.** ``bytes -> JSON -> rows -> batch -> prediction -> bytes``. A failure here is a :class:`RequestError`,
  whose class has the status. The protocol that owns the request's path renders it (``render_error`` in
  ``server/protocols``): a problem document (RFC 9457) for Forkcast's own paths, and the error objects of MLflow and of
  the Open Inference Protocol (V2) for theirs. MLflow and V2 answer 400 where Forkcast answers 422.
* **Anything else** is a defect. It is logged with its traceback, and answered with :class:`InternalError`, which
  repeats nothing of it.

======  =======================================================================================
Status  Error
======  =======================================================================================
400     MalformedHttp, InvalidJson, InvalidBody
401     Unauthorized (no API key), InvalidApiKey
404     ModelNotFound, RoutingError (no such path)
405     RoutingError (the path exists, but not for this method)
413     BodyTooLarge
415     UnsupportedMediaType, UnsupportedEncoding
422     InvalidRows, SchemaMismatch
499     ClientDisconnected (Nginx's own code; no client ever reads it)
500     InternalError
503     QueueFull, Draining, with ``Retry-After``
======  =======================================================================================

Requests over the rate limit get 429 from Nginx and never reach this code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class ForkcastError(Exception):
    """The root of the exceptions that Forkcast raises on purpose."""


class StartError(ForkcastError):
    """A failed start of the replica; the message is the one line that the user reads."""


class SettingsError(StartError):
    """A setting with an invalid value."""


class ModelError(StartError):
    """A model that cannot be found or cannot be served."""


class LoadError(ModelError):
    """A model whose file does not load with this server's packages."""


class CompanionRefused(ModelError):
    """A compiled form of the model that must not be used; the model itself may still be served."""


class RegistryError(StartError):
    """A registry or artifact store that did not deliver the model. The last good copy may be served instead."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A single error in a request's body.

    ``pointer`` is its place as a JSON pointer in a URI fragment (RFC 6901, section 6): ``#/instances/3/slope``.
    """

    detail: str
    pointer: str


class RequestError(ForkcastError):
    """A request that is answered with an error instead of a prediction."""

    status: int
    headers: Mapping[str, str] = {}

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class RoutingError(RequestError):
    """A path that does not exist (404), or that does not allow the method (405)."""

    status = 404

    def __init__(
        self,
        detail: str,
        faults: Sequence[Fault] = (),
        *,
        status: int = 404,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, faults)
        self.status = status
        self.headers = headers or {}


class MalformedHttp(RequestError):
    """Bytes on the connection that are not an HTTP request, or a header section without an end."""

    status = 400


class InvalidJson(RequestError):
    """A body that is not JSON in UTF-8."""

    status = 400


class InvalidBody(RequestError):
    """A body that can be decoded, but whose structure is not one that the protocol defines."""

    status = 400


class Unauthorized(RequestError):
    """A request without an API key, where one is required (RFC 6750, section 3)."""

    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="forkcast"'}

    def __init__(
        self,
        detail: str = "an API key is required: send Authorization: Bearer KEY, or X-API-Key: KEY",
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(detail, faults)


class InvalidApiKey(Unauthorized):
    """A request with an API key that is unknown or revoked."""

    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="forkcast", error="invalid_token"'}

    def __init__(self, detail: str = "the API key is unknown or was revoked", faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail, faults)


class ModelNotFound(RequestError):
    """A path that names a model, or a version of it, other than the one served here."""

    status = 404


class BodyTooLarge(RequestError):
    """A body of more than ``MAX_BODY_BYTES`` bytes."""

    status = 413


class UnsupportedMediaType(RequestError):
    """A Content-Type that the protocol does not accept."""

    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    """A compressed body (RFC 9110, section 15.5.16)."""

    headers: Mapping[str, str] = {"Accept-Encoding": "identity"}


class InvalidRows(RequestError):
    """JSON that does not contain valid rows for this model; ``faults`` names the place of each error.

    ``row`` is the index of the row that the model itself did not accept, if it is known; its fault has no place yet.
    """

    status = 422

    def __init__(self, detail: str, faults: Sequence[Fault] = (), row: int | None = None) -> None:
        super().__init__(detail, faults)
        self.row = row

    def moved(self, rows: int) -> InvalidRows:
        """Return this error for a request in which ``rows`` rows precede those of the predict call."""
        return self if self.row is None or not rows else type(self)(self.detail, self.faults, self.row + rows)


class SchemaMismatch(InvalidRows):
    """Rows that lack a required column, or do not form a table. MLflow has an error code of its own for these."""


class Unavailable(RequestError):
    """A request that this worker cannot take now. Another replica, or a later attempt, may succeed."""

    status = 503
    reason: ClassVar[str]
    headers: Mapping[str, str] = {"Retry-After": "1"}


class QueueFull(Unavailable):
    """A request that would make more than ``MAX_PENDING`` rows wait."""

    reason = "full"


class Draining(Unavailable):
    """A request to a worker that is stopping."""

    reason = "draining"


class InternalError(RequestError):
    """An unexpected exception: the log has its traceback, and the client learns nothing about it."""

    status = 500

    def __init__(
        self,
        detail: str = "internal server error; the details are in the server log",
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(detail, faults)


class ClientDisconnected(RequestError):
    """A client that closed the connection before its answer was sent; 499 is Nginx's status for it."""

    status = 499


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip()


def last_line(text: str, default: str) -> str:
    """Return the last non-empty line of a program's output, or ``default`` if there is none."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else default
