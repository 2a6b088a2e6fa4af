"""Tests of replicas under supervisord during a promotion, and of the registrar, which is a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy.backends.local.rollout import LocalRegistrar, LocalReplica
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError
from deploy.rollout import replica_client
from deploy.stack.paths import Layout

# A fake program that prints its arguments and input.
PROGRAM = """
import json, os, sys
if sys.argv[1:] == ["undo"]:
    sys.exit("a traceback\\nerror: the registry is gone")
print("a line of a library")
print(json.dumps({"arguments": sys.argv[1:], "read": json.load(sys.stdin), "uri": os.environ["MODEL_URI"]}))
"""


@pytest.fixture
def supervisord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisord:
    """A supervisord with a replica in slot 2 whose master is process 7."""
    fake = Supervisord(Layout(tmp_path / "var"))
    monkeypatch.setattr(Supervisord, "info", lambda _self: {"replica-2": {"pid": 7}})
    return fake


@pytest.fixture
def registrar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistrar:
    """A registrar whose program is the fake one."""
    folder = tmp_path / "deploy" / "models"
    folder.mkdir(parents=True)
    (folder / "promote.py").write_text(PROGRAM)
    monkeypatch.setattr("deploy.backends.local.rollout.ROOT", tmp_path)
    return LocalRegistrar({"PATH": os.environ["PATH"], "MODEL_URI": "models:/tree@champion"})


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    # Children of a test run under nohup would ignore the signal.
    reset_sighup = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(["sleep", "600"], preexec_fn=reset_sighup) as process:  # noqa: PLW1509  (no threads here)
        try:
            yield process
        finally:
            process.kill()


def test_replica_name_matches_make_status(supervisord: Supervisord) -> None:
    """A replica has the name that `make status` shows."""
    assert LocalReplica(2, 7, supervisord).name == "replica-2"


@pytest.mark.parametrize(
    ("answer", "health"),
    [((200, {"reloads": 2}), {"reloads": 2}), ((0, None), {}), ((503, {"detail": "draining"}), {})],
)
def test_health_is_empty_for_invalid_response(
    supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, Any], health: dict[str, Any]
) -> None:
    """A replica is queried on its own socket, and an invalid response counts as empty."""
    requests: list[tuple[str, str]] = []

    def get(path: str, target: str) -> tuple[int, Any]:
        requests.append((path, target))
        return answer

    monkeypatch.setattr(replica_client, "get_json_over_socket", get)
    assert LocalReplica(2, 7, supervisord).health() == health
    assert requests == [("run/2.sock", "/health")]


def test_reload_sends_sighup_to_the_current_master(supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP is sent to the current master of the replica, not to the process id of an earlier one."""
    with sleeping() as process:
        monkeypatch.setattr(Supervisord, "info", lambda _self: {"replica-2": {"pid": process.pid}})
        LocalReplica(2, 7, supervisord).send_sighup()
        assert process.wait(10) == -signal.SIGHUP


@pytest.mark.parametrize("info", [{}, {"replica-2": {"pid": 0}}, {"replica-2": {"pid": 2**22 + 1}}])
def test_reload_of_dead_master_sends_no_signal(
    supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch, info: dict[str, dict[str, int]]
) -> None:
    """A master that has ended is reported, and no process gets a signal."""
    monkeypatch.setattr(Supervisord, "info", lambda _self: info)
    with pytest.raises(CommandError, match=r"^replica-2: its master has ended"):
        LocalReplica(2, 7, supervisord).send_sighup()


@pytest.mark.parametrize(
    ("slot", "pid", "reason"), [(2, 7, None), (2, 8, "its master has ended; see make logs"), (3, 7, "its master")]
)
def test_replaced_or_dead_master_is_a_failure(
    supervisord: Supervisord, slot: int, pid: int, reason: str | None
) -> None:
    """A replica has failed if its master ended or is another process."""
    failure = LocalReplica(slot, pid, supervisord).failure()
    assert failure is None if reason is None else str(failure).startswith(reason)


@pytest.mark.parametrize(
    ("version", "served", "force", "arguments"),
    [
        ("2", None, False, ["check", "--", "2"]),
        ("-h", None, False, ["check", "--", "-h"]),
        (None, "abc", True, ["check", "--served", "abc", "--force", "--before"]),
    ],
)
def test_check_runs_candidate_in_temporary_process(
    registrar: LocalRegistrar, version: str | None, served: str | None, force: bool, arguments: list[str]
) -> None:
    """The candidate is tested in a temporary process, whose last line of output is the result."""
    candidate = registrar.check(version, served, force=force)
    assert candidate == {"arguments": arguments, "read": {}, "uri": "models:/tree@champion"}


def test_accept_passes_candidate_on_standard_input(registrar: LocalRegistrar) -> None:
    """The candidate is read from standard input; current.json is not written, since replicas ask the registry."""
    result = registrar.accept({"copy": {"version": "2"}})
    assert (result["arguments"], result["read"]) == (["accept"], {"copy": {"version": "2"}})


def test_failed_step_raises_its_last_line(registrar: LocalRegistrar) -> None:
    """The error of a failed step is its last line."""
    with pytest.raises(CommandError, match=r"^the registry is gone$"):
        registrar.undo({})


def test_silently_failed_step_reports_its_status(registrar: LocalRegistrar, tmp_path: Path) -> None:
    """The error of a step without output is its exit status."""
    (tmp_path / "deploy" / "models" / "promote.py").write_text("import os; os._exit(9)")
    with pytest.raises(CommandError, match=r"^status 9$"):
        registrar.check("2", None, force=False)


def test_real_registrar_refuses_a_fixed_version_in_one_line(tmp_path: Path) -> None:
    """The real program refuses a URI without an alias in one line."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    registrar = LocalRegistrar(environ | {"VAR_DIR": str(tmp_path), "MODEL_URI": "models:/tree/1"})
    with pytest.raises(CommandError, match=r"^MODEL_URI='models:/tree/1' names no alias that could be moved"):
        registrar.check("2", None, force=False)
