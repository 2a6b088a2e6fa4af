"""The registry's database: its address, from the environment, and whether it answers."""

from __future__ import annotations

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from deploy.options import RegistryOptions
from server.errors import RegistryError, SettingsError

# What people call their databases, and the driver that is here for each.
_DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
_KNOWN = ("mysql+pymysql", "postgresql+psycopg", "sqlite")
_CONNECT_TIMEOUT = 10


def address(options: RegistryOptions) -> URL:
    """``DATABASE_URL``, else the stack's own database, whose password is all that has to be told.

    Raises:
        SettingsError: it is no address of a database that MLflow can use.
    """
    given = options.database_url
    if not given:
        return _own(options)
    try:
        url = make_url(given)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in _KNOWN:
        # It may hold a password, wherever its mistake is.
        raise SettingsError("DATABASE_URL: expected mysql://user:password@host/name, postgresql://.. or sqlite:///file")
    return url


def _own(options: RegistryOptions) -> URL:
    if not options.database_password:
        raise SettingsError("DATABASE_PASSWORD is missing: make up-full makes one; or name a database by DATABASE_URL")
    return URL.create("mysql+pymysql", "mlflow", options.database_password, options.database_host, 3306, "mlflow")


def check(url: URL) -> None:
    """One connection.

    Raises:
        RegistryError: in a line without its password.
    """
    patience = {} if url.drivername == "sqlite" else {"connect_timeout": _CONNECT_TIMEOUT}
    engine = create_engine(url, connect_args=patience)
    try:
        engine.connect().close()
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        raise RegistryError(f"the database {url.render_as_string()}: {_why(error)}") from None
    finally:
        engine.dispose()


def _why(error: BaseException) -> str:
    """The driver's words, without SQLAlchemy's around them."""
    told = getattr(error, "orig", None) or error
    arguments = told.args
    text = arguments[-1] if len(arguments) > 1 and isinstance(arguments[-1], str) else str(told)
    return (text.strip() or type(told).__name__).splitlines()[0]
