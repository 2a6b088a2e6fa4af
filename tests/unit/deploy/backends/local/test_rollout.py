"""Replicas under supervisord as a promotion sees them, and its registrar, a process beside them."""

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

# Stands in for the program: it says what it was started with.
PROGRAM = """
import json, os, sys
if sys.argv[1:] == ["undo"]:
    sys.exit("a traceback\\nerror: the registry is gone")
print("a line of a library")
print(json.dumps({"arguments": sys.argv[1:], "read": json.load(sys.stdin), "uri": os.environ["MODEL_URI"]}))
"""


@pytest.fixture
def supervisord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisord:
    """One that knows of a replica in the second slot, whose master is process 7."""
    one = Supervisord(Layout(tmp_path / "var"))
    monkeypatch.setattr(Supervisord, "info", lambda _self: {"replica-2": {"pid": 7}})
    return one


@pytest.fixture
def registrar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistrar:
    """One whose program is the stand-in."""
    folder = tmp_path / "deploy" / "models"
    folder.mkdir(parents=True)
    (folder / "promote.py").write_text(PROGRAM)
    monkeypatch.setattr("deploy.backends.local.rollout.ROOT", tmp_path)
    return LocalRegistrar({"PATH": os.environ["PATH"], "MODEL_URI": "models:/tree@champion"})


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    # A test run under nohup has children that ignore the signal.
    heed = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(["sleep", "600"], preexec_fn=heed) as process:  # noqa: PLW1509  (no threads here)
        try:
            yield process
        finally:
            process.kill()


def test_replica_name_matches_make_status(supervisord: Supervisord) -> None:
    """A replica is called what `make status` calls it."""
    assert LocalReplica(2, 7, supervisord).name == "replica-2"


@pytest.mark.parametrize(
    ("answer", "told"), [((200, {"reloads": 2}), {"reloads": 2}), ((0, None), {}), ((503, {"detail": "draining"}), {})]
)
def test_health_is_empty_for_invalid_response(
    supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, Any], told: dict[str, Any]
) -> None:
    """It is asked on its own socket; what is no good answer is empty."""
    asked: list[tuple[str, str]] = []

    def ask(path: str, target: str) -> tuple[int, Any]:
        asked.append((path, target))
        return answer

    monkeypatch.setattr(replica_client, "get_json_over_socket", ask)
    assert LocalReplica(2, 7, supervisord).health() == told
    assert asked == [("run/2.sock", "/health")]


def test_reload_sends_sighup_to_the_current_master(supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its master is sent SIGHUP: the one that there is now."""
    with sleeping() as process:
        monkeypatch.setattr(Supervisord, "info", lambda _self: {"replica-2": {"pid": process.pid}})
        LocalReplica(2, 7, supervisord).send_sighup()
        assert process.wait(10) == -signal.SIGHUP


@pytest.mark.parametrize("info", [{}, {"replica-2": {"pid": 0}}, {"replica-2": {"pid": 2**22 + 1}}])
def test_reload_of_dead_master_sends_no_signal(
    supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch, info: dict[str, dict[str, int]]
) -> None:
    """A master that has ended is told, and nobody else is sent a signal."""
    monkeypatch.setattr(Supervisord, "info", lambda _self: info)
    with pytest.raises(CommandError, match=r"^replica-2: its master has ended"):
        LocalReplica(2, 7, supervisord).send_sighup()


@pytest.mark.parametrize(
    ("slot", "pid", "told"), [(2, 7, None), (2, 8, "its master has ended; see make logs"), (3, 7, "its master")]
)
def test_replaced_or_dead_master_is_a_failure(supervisord: Supervisord, slot: int, pid: int, told: str | None) -> None:
    """It has failed when its master is another one, or none."""
    failure = LocalReplica(slot, pid, supervisord).failure()
    assert failure is None if told is None else str(failure).startswith(told)


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
    """The candidate is tried in a process that is thrown away; the last line that it prints counts."""
    told = registrar.check(version, served, force=force)
    assert told == {"arguments": arguments, "read": {}, "uri": "models:/tree@champion"}


def test_accept_passes_candidate_on_standard_input(registrar: LocalRegistrar) -> None:
    """What was tried is read from standard input; there is no current.json here, as replicas ask the registry."""
    told = registrar.accept({"copy": {"version": "2"}})
    assert (told["arguments"], told["read"]) == (["accept"], {"copy": {"version": "2"}})


def test_failed_step_raises_its_last_line(registrar: LocalRegistrar) -> None:
    """The reason of a step that failed is its last line."""
    with pytest.raises(CommandError, match=r"^the registry is gone$"):
        registrar.undo({})


def test_silently_failed_step_reports_its_status(registrar: LocalRegistrar, tmp_path: Path) -> None:
    """A step that ends without a word is told by its status."""
    (tmp_path / "deploy" / "models" / "promote.py").write_text("import os; os._exit(9)")
    with pytest.raises(CommandError, match=r"^status 9$"):
        registrar.check("2", None, force=False)


def test_real_registrar_refuses_unknown_model_in_one_line(tmp_path: Path) -> None:
    """The program that is really asked refuses in one line what there is not."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    registrar = LocalRegistrar(environ | {"VAR_DIR": str(tmp_path), "MODEL_URI": "models:/tree/1"})
    with pytest.raises(CommandError, match=r"^MODEL_URI='models:/tree/1' names no alias that could be moved"):
        registrar.check("2", None, force=False)
