"""The users: each waits, sends a prepared request and checks the answer, on and on."""

from __future__ import annotations

from random import choice, uniform
from ssl import SSLContext
from time import perf_counter
from typing import ClassVar

from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from locust import FastHttpUser, User, task
from locust.env import Environment
from locust.exception import StopUser

from answers import check
from connection import Connection
from failures import Failure, name_of
from workload import Workload

_JSON = {"Content-Type": "application/json"}


class _Working:
    """What all users share: the workload of their process, and the pause between two requests."""

    work: ClassVar[Workload]

    def wait_time(self) -> float:
        """A pause, as Locust asks for it."""
        return uniform(*self.work.wait)

    def on_start(self) -> None:
        """Wait before the first request too, so that users who were spawned together do not connect together."""
        if not hasattr(self, "work"):
            raise StopUser
        self.wait()  # type: ignore[attr-defined]


class LightUser(_Working, User):
    """Writes whole requests to one kept-alive connection, at a third of what FastHttpUser costs."""

    def on_start(self) -> None:
        """Connect at the first request."""
        if hasattr(self, "work"):  # before the pause, in which a user may be stopped
            self._connection = Connection(self.work.address, self.work.timeout)
        super().on_start()

    def on_stop(self) -> None:
        """Hang up."""
        if hasattr(self, "work"):
            self._connection.close()

    @task
    def predict(self) -> None:
        """Send one request, and tell Locust how it went."""
        work, failure, body = self.work, None, b""
        started = perf_counter()
        try:
            status, body = self._connection.exchange(choice(work.requests))
            check(status, body, work.rows)
        except Failure as error:
            failure = error
        self.environment.events.request.fire(
            request_type="POST",
            name=work.target,
            response_time=(perf_counter() - started) * 1000,
            response_length=len(body),
            exception=failure,
            context={},
        )


class BatchUser(LightUser):
    """A light user of the client `batch`: its process prepared requests of many rows."""


class FastUser(_Working, FastHttpUser):
    """Locust's ordinary user for HTTP, which also keeps cookies, follows redirects and decompresses."""

    def __init__(self, environment: Environment) -> None:
        self.network_timeout = self.connection_timeout = self.work.timeout
        self.ssl_context_factory = self._tls
        tls = self.work.address.tls
        # What the context checks is left as it is: its own rule for names.
        self.insecure = tls is None or not tls.check_hostname
        super().__init__(environment)

    def _tls(self, **_kwargs: object) -> SSLContext | None:
        return self.work.address.tls

    @task
    def predict(self) -> None:
        """Send one request; the session tells Locust."""
        work = self.work
        with self.client.post(
            work.target,
            data=choice(work.texts),
            headers={**_JSON, **work.headers},
            name=work.target,
            catch_response=True,
        ) as response:
            try:
                if not response.status_code:
                    raise Failure(_name_of(response.error))
                check(response.status_code, response.content, work.rows)
            except Failure as error:
                response.failure(str(error))


def _name_of(error: BaseException) -> str:
    """As :func:`failures.name_of`, for what the session's own library raises."""
    if isinstance(error, HTTPConnectionClosed):
        return "closed"
    return "malformed" if isinstance(error, HTTPParseError) else name_of(error)


CLASSES: dict[str, type[User]] = {"light": LightUser, "batch": BatchUser, "fast": FastUser}
