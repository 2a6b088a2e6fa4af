"""A local backend whose supervisord, programs, client and registrar are fakes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from deploy.backends.base import Client
from deploy.backends.local.backend import Dependencies, LocalBackend
from deploy.backends.local.readiness import Readiness, Timings
from deploy.errors import CommandError
from deploy.options import ModelOptions
from deploy.rollout.promotion import Version
from deploy.rollout.replica_client import Access
from deploy.stack.code import code_digest
from deploy.stack.paths import Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from server.errors import SettingsError
from tests.support.fake_supervisord import FakeProbe, FakeSupervisord
from tests.support.options import options
from tests.support.ports import free_ports
from tests.support.refusals import refusal

DIGEST = "0123456789abcdef" * 4
CANDIDATE = {"copy": {"name": "hills", "version": "2", "digest": DIGEST}, "weight": {"model": 5, "worker": 4}}


class FakeClient(Client):
    """A client that records predictions among the events of the supervisord, and waits in ``awaited_versions``."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self.note: str | None = None
        self.error: CommandError | None = None
        self.awaited_versions: list[tuple[Stack, Version, Access]] = []

    def predict_example(self, stack: Stack, access: Access) -> str | None:
        self._events.append("predict")
        if self.error:
            raise self.error
        return self.note

    def wait_for_version(self, stack: Stack, version: Version, access: Access) -> None:
        self.awaited_versions.append((stack, version, access))


class FakeRegistrar:
    """A registrar that accepts version 2 and records its calls."""

    def __init__(self) -> None:
        self.environment: Mapping[str, str] = {}
        self.calls: list[tuple[object, ...]] = []

    def __call__(self, environment: Mapping[str, str]) -> FakeRegistrar:
        self.environment = environment
        return self

    def check(self, version: str | None, served: str | None, *, force: bool) -> dict[str, Any]:
        self.calls.append(("check", version, served, force))
        return CANDIDATE

    def accept(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(("accept", candidate))
        return {}

    def undo(self, previous: Mapping[str, Any]) -> None:
        self.calls.append(("undo", previous))


class Local:
    """The backend of one stack, and the fakes that it uses."""

    def __init__(self, layout: Layout) -> None:
        layout.make()
        self.layout = layout
        self.supervisord = FakeSupervisord(layout)
        self.events = self.supervisord.events
        self.client = FakeClient(self.events)
        self.registrar = FakeRegistrar()
        self.nginx = shutil.which("true") or "true"
        self.models: list[ModelOptions] = []
        self.missing_model = ""
        self.ran: list[tuple[list[str], dict[str, Any]]] = []
        self.answer = subprocess.CompletedProcess[str]([], 0, "", "")
        http, locust, mlflow = map(str, free_ports(3))
        self.ports = {"HTTP_PORT": http, "LOCUST_PORT": locust, "MLFLOW_PORT": mlflow}

    def backend(self, **environ: str) -> LocalBackend:
        """Return the backend as a command with these environment variables would build it."""
        probe, timings = FakeProbe(self.supervisord), Timings(5, 5, 5, warmup_requests=1, pause=0)
        readiness = Readiness(self.layout, self.supervisord, probe, timings)
        dependencies = Dependencies(
            self.supervisord, readiness, self.client, self.find_nginx, self._ensure_model, self.registrar, self._run
        )
        return LocalBackend(self.layout, options(**environ), dependencies)

    def up(self, *, full: bool = False, **environ: str) -> list[str]:
        """Run `make up` and return its events."""
        self.events.clear()
        self.backend(**self.ports, **environ).up(full=full)
        return self.events.copy()

    def refused_up(self, *, full: bool = False, **environ: str) -> str:
        """Run a `make up` that must fail, and return its error message."""
        return self.refused(self.backend(**self.ports, **environ).up, full=full)

    def refused(self, verb: Callable[..., object], **arguments: object) -> str:
        """Run a verb that must fail and return its error message; its events are in ``events``."""
        self.events.clear()
        return refusal(lambda: verb(**arguments), (CommandError, SettingsError))

    def done(self, verb: Callable[..., object], *arguments: object) -> list[str]:
        """Run a verb and return its events."""
        self.events.clear()
        verb(*arguments)
        return self.events.copy()

    def record(self) -> Record:
        """Return the record of the running stack."""
        record = Record.load(self.layout)
        assert record is not None
        return record

    def environments(self, variable: str) -> list[str | None]:
        """Return the value of an environment variable in each replica, in the order of the replicas' names."""
        programs = sorted(self.supervisord.programs.items())
        return [program.environment.get(variable) for _, program in programs if "SOCKET" in program.environment]

    def age(self, *names: str) -> None:
        """Make these replicas look as if another version of the code had started them."""
        for name in names:
            program, path = self.supervisord.programs[name], self.layout.programs / f"{name}.conf"
            program.text = program.text.replace(code_digest(), "0" * 16)
            path.write_text(program.text)

    def find_nginx(self) -> str:
        """Return the path of ``nginx``, by default a program that accepts every configuration."""
        if not self.nginx:
            raise CommandError("nginx is missing")
        return self.nginx

    def _ensure_model(self, options: ModelOptions) -> None:
        self.models.append(options)
        self.events.append("model")
        if self.missing_model:
            raise CommandError(self.missing_model)

    def _run(self, command: list[str], **arguments: Any) -> subprocess.CompletedProcess[str]:
        self.ran.append((command, arguments))
        return self.answer
