"""Access to an MLflow registry: a check that its database answers, and its errors in one line without passwords."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from server.errors import RegistryError, first_line

_DATABASE_PORTS = {"mysql": 3306, "postgresql": 5432, "mssql": 1433}
_CONNECT_TIMEOUT_SECONDS = 5.0
# MLflow's messages contain those of all their causes (characters).
_MAX_REASON_LENGTH = 160


def connect_to_database(uri: str) -> None:
    """Open and close one connection to the registry's database, if the URI names a database server.

    MLflow itself retries a database that is down ten times, for 100 seconds in total.

    Raises:
        OSError: the database does not accept connections.
    """
    url = urlsplit(uri)
    port = _DATABASE_PORTS.get(url.scheme.split("+")[0])
    if port and url.hostname:
        socket.create_connection((url.hostname, url.port or port), _CONNECT_TIMEOUT_SECONDS).close()


@contextlib.contextmanager
def registry_errors(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database and its artifact store into a one-line RegistryError without passwords."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        shown_uri, reason = (_without_password(text) for text in (uri, _reason(error)))
        short_reason = reason if len(reason) <= _MAX_REASON_LENGTH else f"{reason[:_MAX_REASON_LENGTH]}..."
        raise RegistryError(f"the registry at {shown_uri}: {short_reason}") from None


def _reason(error: BaseException) -> str:
    """Return the first line of the network error that caused this one, else of the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
            return first_line(cause)
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def _without_password(text: str) -> str:
    return re.sub(r"://[^/\s]*@", "://", text)
