"""The registry's database: its URL, and a check that it answers."""

from __future__ import annotations

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from deploy.options import RegistryOptions
from server.errors import RegistryError, SettingsError

# The installed driver for each scheme that users write.
_DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
_SUPPORTED_DRIVERS = ("mysql+pymysql", "postgresql+psycopg", "sqlite")
_CONNECT_TIMEOUT_SECONDS = 10


def database_url(options: RegistryOptions) -> URL:
    """Return ``DATABASE_URL`` or, without it, the URL of the stack's own database.

    Raises:
        SettingsError: the URL is invalid or of an unsupported database, or the own database's password is missing.
    """
    if not options.database_url:
        return _own_database_url(options)
    try:
        url = make_url(options.database_url)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in _SUPPORTED_DRIVERS:
        # The message does not repeat the value, which may hold a password.
        raise SettingsError("DATABASE_URL: expected mysql://user:password@host/name, postgresql://.. or sqlite:///file")
    return url


def _own_database_url(options: RegistryOptions) -> URL:
    if not options.database_password:
        raise SettingsError(
            "DATABASE_PASSWORD is missing: let make up-full create one, or name your own database with DATABASE_URL"
        )
    return URL.create("mysql+pymysql", "mlflow", options.database_password, options.database_host, 3306, "mlflow")


def check_connection(url: URL) -> None:
    """Open and close one connection to the database.

    Raises:
        RegistryError: the database does not answer or refuses the login; the message hides the password.
    """
    arguments = {} if url.drivername == "sqlite" else {"connect_timeout": _CONNECT_TIMEOUT_SECONDS}
    engine = create_engine(url, connect_args=arguments)
    try:
        engine.connect().close()
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        raise RegistryError(f"the database {url.render_as_string()}: {_reason(error)}") from None
    finally:
        engine.dispose()


def _reason(error: BaseException) -> str:
    """Return the first line of the driver's own message, without the text that SQLAlchemy adds."""
    driver_error = getattr(error, "orig", None) or error
    arguments = driver_error.args
    text = arguments[-1] if len(arguments) > 1 and isinstance(arguments[-1], str) else str(driver_error)
    return (text.strip() or type(driver_error).__name__).splitlines()[0]
