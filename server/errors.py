"""Everything that can go wrong, in the order a request or a start meets it.

A start: ``environment -> Settings -> resolved folder -> Model``. What fails there is a :class:`StartError`; the
composition root prints it as one line and exits.

A request: ``bytes -> JSON -> Rows -> batch -> answer``. What fails there is a :class:`RequestError`; it carries its
HTTP status, and the protocol that owns the request's path renders it (``render_error`` in ``server/protocols``).
Anything else that is raised was not foreseen: it is logged with its traceback and answered as a bare 500.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class ForkcastError(Exception):
    """The root of what Forkcast raises on purpose."""


class StartError(ForkcastError):
    """The replica cannot start; the message is the one line that the user reads."""


class SettingsError(StartError):
    """A setting has a value that it cannot have."""


class ModelError(StartError):
    """The model cannot be found, or cannot be served."""


class CompanionRefused(ModelError):
    """The model carries a compiled form of itself that must not be used; the model itself may be served."""


class RegistryError(StartError):
    """The registry, or the store of its artifacts, did not give the model. A last good copy may stand in."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a request's body.

    ``pointer`` is its place as a JSON pointer in a URI fragment (RFC 6901, section 6): ``#/instances/3/slope``.
    """

    detail: str
    pointer: str


class RequestError(ForkcastError):
    """A request that is answered with an error, not with a prediction."""

    status: int
    headers: Mapping[str, str] = {}

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class RoutingError(RequestError):
    """HTTP's own refusal: there is no such path, or the path does not take the method."""

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
    """The bytes on the connection are not an HTTP request, or its header has no end."""

    status = 400


class NotJson(RequestError):
    """The body is not JSON in UTF-8."""

    status = 400


class BadForm(RequestError):
    """The body can be read, but has no form that the protocol knows."""

    status = 400


class Unauthorized(RequestError):
    """The request has no API key, where one is asked for (RFC 6750, section 3)."""

    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="forkcast"'}

    def __init__(
        self,
        detail: str = "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY",
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(detail, faults)


class WrongKey(Unauthorized):
    """The request has an API key that is not good, or no longer."""

    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="forkcast", error="invalid_token"'}

    def __init__(self, detail: str = "the API key is not a good one", faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail, faults)


class NoSuchModel(RequestError):
    """The path names a model, or a version of it, that is not the one served here."""

    status = 404


class BodyTooLarge(RequestError):
    """The body is longer than ``MAX_BODY_BYTES``."""

    status = 413


class UnsupportedMedia(RequestError):
    """The body is declared as something that the protocol does not read."""

    status = 415


class UnsupportedEncoding(UnsupportedMedia):
    """The body is compressed (RFC 9110, section 15.5.16)."""

    headers: Mapping[str, str] = {"Accept-Encoding": "identity"}


class InvalidRows(RequestError):
    """The body is JSON, but not rows that this model takes; every fault is named with its place."""

    status = 422


class NoTable(InvalidRows):
    """The rows have not the columns that the model asks for, or none at all; MLflow's protocol tells that apart."""


class Unavailable(RequestError):
    """The worker cannot take more now; another replica, or a later try, may."""

    status = 503
    reason: ClassVar[str]
    headers: Mapping[str, str] = {"Retry-After": "1"}


class QueueFull(Unavailable):
    """``MAX_PENDING`` rows are waiting already."""

    reason = "full"


class Draining(Unavailable):
    """The worker is stopping and will not get to this request."""

    reason = "draining"


class Unforeseen(RequestError):
    """An error that nobody foresaw: the log has it with its traceback, and the client learns nothing of it."""

    status = 500

    def __init__(self, detail: str = "this is our fault, and it is logged", faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail, faults)


class ClientGone(RequestError):
    """The client left before its answer; nobody reads this one (Nginx's status for it)."""

    status = 499


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip()


def last_line(text: str, default: str) -> str:
    """Return the last line of what a program printed that is not empty, or ``default`` where there is none."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else default
