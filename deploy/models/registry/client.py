"""Reaching a registry, and what stands in the way of it in one line without a password."""

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
_CONNECT_TIMEOUT = 5.0
# MLflow puts a whole stack of causes into one line.
_LONGEST = 160


def connect_to_database(uri: str) -> None:
    """MLflow asks a database that is down ten times, for 100 seconds; ask once, before it does."""
    url = urlsplit(uri)
    port = _DATABASE_PORTS.get(url.scheme.split("+")[0])
    if port and url.hostname:
        socket.create_connection((url.hostname, url.port or port), _CONNECT_TIMEOUT).close()


@contextlib.contextmanager
def reported(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database and its artifact store raise into one line that tells no password."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        shown, why = (_without_password(text) for text in (uri, _why(error)))
        short = why if len(why) <= _LONGEST else f"{why[:_LONGEST]}..."
        raise RegistryError(f"the registry at {shown}: {short}") from None


def _why(error: BaseException) -> str:
    """What the network said, where it is the cause, rather than the three libraries above it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
            return first_line(cause)
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def _without_password(text: str) -> str:
    return re.sub(r"://[^/\s]*@", "://", text)
