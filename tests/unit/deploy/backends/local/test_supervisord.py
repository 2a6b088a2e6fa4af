"""Tests of the client of supervisord, with a real supervisord that runs `sleep`."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from supervisor.options import ServerOptions

from deploy.backends.local import nginx
from deploy.backends.local.supervisord import NGINX_LAUNCHER, STACK_MARKER, Program, Supervisord
from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from tests.support.fake_supervisord import FakeSupervisord
from tests.support.ports import free_port
from tests.support.waiting import wait_until

SPECIAL_TEXTS = [
    "plain",
    "",
    "100%",
    "%(program_name)s",
    "%%",
    "two words",
    "it's",
    "'quoted'",
    'say "x"',
    "both \"x\" and 'y'",
    "back\\slash",
    "last\\",
    "a #b",
    "a ;b",
    "\t;",
    "a,b=c",
    "$HOME `id` ~",
    "mysql://user:p%40ss@host/db?x=1&y=2",
    "ü",
]


def nap(name: str = "nap", seconds: int = 600, **environment: str) -> Program:
    return Program(name, ["sleep", str(seconds)], environment, stop_seconds=5)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    layout = Layout(tmp_path.resolve() / "a 'var'")
    layout.make()
    monkeypatch.chdir(layout.var)
    return layout


@pytest.fixture
def supervisord(layout: Layout) -> Iterator[Supervisord]:
    running = Supervisord(layout)
    running.start(os.environ)
    yield running
    if running.pid is not None:  # A kill is faster than a shutdown request, which another test covers.
        kill(running)
    running.stop_leftovers()
    assert list(running.processes()) == []


def kill(supervisord: Supervisord) -> None:
    pid = supervisord.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: supervisord.pid is None)


def pid_of(supervisord: Supervisord, name: str = "nap") -> int:
    """Wait until a program runs and return its process id."""
    wait_until(lambda: bool(supervisord.info()[name]["pid"]))
    pid: int = supervisord.info()[name]["pid"]
    wait_until(lambda: psutil.Process(pid).name() not in ("supervisord", "python", "env"))
    return pid


def run(supervisord: Supervisord, *programs: Program) -> None:
    supervisord.write(programs)
    supervisord.add(*supervisord.config_changes()[0])


def read_back(program: Program) -> list[str]:
    """Return the words of a program's command as supervisord itself parses its file."""
    Path("programs/x.conf").write_text(program.render())
    Path("supervisord.conf").write_text("[supervisord]\n[include]\nfiles = programs/*.conf\n")
    options = ServerOptions()
    options.realize(["-c", "supervisord.conf"])
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    assert (process.name, process.stopwaitsecs) == (program.name, program.stop_seconds)
    return shlex.split(process.command)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("value", SPECIAL_TEXTS)
def test_program_file_is_parsed_back(value: str) -> None:
    """Every word and variable of a program is unchanged after supervisord has parsed its file."""
    program = Program("x", ["echo", value, "end"], {"B": value, "A": "1"}, 7)
    assert read_back(program) == ["env", "A=1", f"B={value}", "echo", value, "end"]


def test_program_receives_exact_arguments_and_environment(supervisord: Supervisord, tmp_path: Path) -> None:
    """A program gets exactly its arguments and variables, whatever characters they have."""
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done > "$OUT"\nexec sleep 600\n')
    show.chmod(0o755)
    out = tmp_path / "arguments received"
    variables = {f"V{i}": value for i, value in enumerate(SPECIAL_TEXTS)}
    run(supervisord, Program("nap", [str(show), *SPECIAL_TEXTS], {**variables, "OUT": str(out)}, 5))
    pid = pid_of(supervisord)
    # The environment of a process is empty while it executes a new program.
    wait_until(lambda: psutil.Process(pid).name() == "sleep" and psutil.Process(pid).environ())
    assert out.read_text().split("\0")[:-1] == SPECIAL_TEXTS
    environment = psutil.Process(pid).environ()
    assert {name: environment.get(name) for name in variables} == variables


def test_starting_twice_keeps_the_same_process(supervisord: Supervisord, layout: Layout) -> None:
    """A supervisord starts in its own folder without programs, and a second start does nothing."""
    pid = supervisord.pid
    assert pid is not None
    assert supervisord.info() == {}
    supervisord.start(os.environ)
    assert supervisord.pid == pid
    assert Supervisord(layout).pid == pid
    process = psutil.Process(pid)
    assert process.cwd() == str(layout.var)
    assert process.environ()[STACK_MARKER] == str(layout.var)
    assert [process.pid for process in supervisord.processes()] == [pid]


def test_pid_file_of_another_process_is_ignored(layout: Layout) -> None:
    """A missing process id, or one of another process, does not count as the supervisord of this stack."""
    supervisord = Supervisord(layout)
    assert supervisord.pid is None
    for text in (str(os.getpid()), "", "x"):
        (layout.run / "supervisord.pid").write_text(text)
        assert supervisord.pid is None


def test_failed_supervisord_start_is_one_line(layout: Layout) -> None:
    """The error of a failed start is one line."""
    shutil.rmtree(layout.logs)
    with pytest.raises(CommandError) as caught:
        Supervisord(layout).start(os.environ)
    assert str(caught.value).startswith("supervisord did not start: The directory ")
    assert "log/supervisord.log" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_config_changes_list_added_changed_and_removed(supervisord: Supervisord) -> None:
    """The names of added, changed and removed programs are returned, and no others."""
    supervisord.write([nap("b"), nap("a")])
    assert supervisord.config_changes() == (["a", "b"], [], [])
    supervisord.add("a", "b")
    assert supervisord.config_changes() == ([], [], [])
    supervisord.write([nap("a", X="1"), nap("c")])
    assert supervisord.config_changes() == (["c"], ["a"], ["b"])


def test_replaced_program_runs_with_its_new_file(supervisord: Supervisord) -> None:
    """A replaced program is a new process with the command in its changed file."""
    run(supervisord, nap())
    first = psutil.Process(pid_of(supervisord))
    assert first.cmdline() == ["sleep", "600"]
    supervisord.write([nap(seconds=601)])
    assert supervisord.config_changes() == ([], ["nap"], [])
    supervisord.replace("nap")
    second = psutil.Process(pid_of(supervisord))
    assert second.cmdline() == ["sleep", "601"]
    assert not first.is_running()
    assert supervisord.config_changes() == ([], [], [])


def test_restart_replaces_only_the_named_program(supervisord: Supervisord) -> None:
    """A restarted program is a new process, and other programs keep running."""
    run(supervisord, nap(), nap("other"))
    first_pids = pid_of(supervisord), pid_of(supervisord, "other")
    supervisord.restart("nap")
    second_pids = pid_of(supervisord), pid_of(supervisord, "other")
    assert second_pids[0] != first_pids[0]
    assert second_pids[1] == first_pids[1]
    assert not psutil.pid_exists(first_pids[0])


def test_revive_starts_only_stopped_programs(supervisord: Supervisord) -> None:
    """A stopped program is started again, and a running one is not touched."""
    run(supervisord, nap())
    first = pid_of(supervisord)
    supervisord.revive("nap")
    assert pid_of(supervisord) == first
    supervisord._rpc("stopProcess", "nap", True)
    assert supervisord.info()["nap"]["statename"] == "STOPPED"
    supervisord.revive("nap")
    assert pid_of(supervisord) != first


def test_killed_program_is_restarted(supervisord: Supervisord) -> None:
    """A killed program is restarted by supervisord."""
    run(supervisord, nap())
    first = pid_of(supervisord)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisord.info()["nap"]["pid"] not in (0, first))


def test_remove_stops_programs_and_ignores_unknown_names(supervisord: Supervisord) -> None:
    """Removed programs are stopped and unknown afterwards, and unknown names are ignored."""
    run(supervisord, nap("a"), nap("b"), nap("c"))
    pids = [pid_of(supervisord, name) for name in "abc"]
    supervisord.remove("a", "b", "never there")
    assert list(supervisord.info()) == ["c"]
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False, True]


def test_program_that_ignores_sigterm_is_killed(supervisord: Supervisord) -> None:
    """A program that does not stop in time is killed together with its children."""
    run(supervisord, Program("nap", ["sh", "-c", "trap '' TERM; touch armed; sleep 600; sleep 600"], {}, 1))
    process = psutil.Process(pid_of(supervisord))
    wait_until(lambda: Path("armed").exists() and bool(process.children()))
    children = process.children()
    supervisord.remove("nap")
    assert not process.is_running()
    wait_until(lambda: not any(child.is_running() for child in children))


def test_shut_down_stops_everything_and_is_idempotent(supervisord: Supervisord, layout: Layout) -> None:
    """Everything stops, and a second shutdown does nothing."""
    run(supervisord, nap())
    pids = [supervisord.pid, pid_of(supervisord)]
    for _ in range(2):
        supervisord.shut_down()
        assert supervisord.pid is None
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert not (layout.run / "supervisord.sock").exists()


def test_leftovers_of_a_killed_supervisord_are_stopped(supervisord: Supervisord) -> None:
    """The programs of a killed supervisord are stopped, but no process of another stack."""
    run(supervisord, nap("a"), nap("b"))
    pids = {pid_of(supervisord, name) for name in "ab"}
    kill(supervisord)
    assert {process.pid for process in supervisord.processes()} == pids
    with subprocess.Popen(["sleep", "600"], env={STACK_MARKER: "/another/stack"}) as stranger:
        supervisord.stop_leftovers()
        assert list(supervisord.processes()) == []
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert stranger.poll() is None
        stranger.kill()


def test_start_after_a_kill_runs_no_old_programs(supervisord: Supervisord) -> None:
    """After a kill, supervisord starts without the programs of the earlier run."""
    run(supervisord, nap())
    kill(supervisord)
    supervisord.stop_leftovers()
    supervisord.start(os.environ)
    assert supervisord.info() == {}
    run(supervisord, nap(seconds=601))
    assert psutil.Process(pid_of(supervisord)).cmdline() == ["sleep", "601"]


def test_leftover_nginx_is_found_by_its_folder(layout: Layout) -> None:
    """A leftover Nginx, whose title overwrites its environment, is stopped as well."""
    binary = nginx.find_nginx()
    nginx.write_config(layout, Stack(http_port=free_port()))
    supervisord = Supervisord(layout)
    with subprocess.Popen(nginx.command(binary, layout)) as process:
        wait_until((layout.run / "nginx.pid").exists)
        assert process.pid in {leftover.pid for leftover in supervisord.processes()}
        supervisord.stop_leftovers()
    wait_until(lambda: not list(supervisord.processes()))


def observe(supervisord: Supervisord) -> list[object]:
    """Return what each call of a long sequence returns or raises, and which programs run after it."""
    results: list[object] = []
    pids: dict[str, int] = {}

    def record(call: Callable[[], object]) -> None:
        try:
            results.append(call())
        except (CommandError, OSError) as error:
            results.append((type(error), str(error) if isinstance(error, CommandError) else ""))
        for name, process in sorted(supervisord.info().items() if supervisord.pid else ()):
            pid, state = process["pid"], process["statename"]
            state = "up" if state in ("STARTING", "RUNNING") else state
            results.append((name, state, bool(pid), pid != pids.get(name, 0), process["now"] >= process["start"]))
            pids[name] = pid

    record(supervisord.info)
    record(lambda: supervisord.start(os.environ))
    record(lambda: supervisord.start(os.environ))
    supervisord.write([nap("a"), nap("b"), nap("replica-1", SOCKET="run/1.sock")])
    record(lambda: supervisord.add("a"))
    record(supervisord.config_changes)
    record(lambda: supervisord.add("a", "b", "replica-1"))
    record(lambda: supervisord.add("a"))
    record(lambda: supervisord.add("unknown"))
    record(supervisord.config_changes)
    supervisord.write_program(nap("a", CODE_DIGEST="0123"))
    record(lambda: supervisord.has_variable("a", "CODE_DIGEST", "0123"))
    record(supervisord.config_changes)
    record(lambda: supervisord.replace("a"))
    record(supervisord.config_changes)
    record(lambda: supervisord.restart("b"))
    record(lambda: supervisord.restart("unknown"))
    record(lambda: supervisord.revive("b"))
    record(lambda: supervisord.revive("unknown"))
    record(lambda: supervisord._rpc("removeProcessGroup", "b"))
    record(lambda: supervisord._call_unless_done("stopProcess", "b", True))
    record(lambda: supervisord._call_unless_done("stopProcess", "b", True))
    record(lambda: supervisord.revive("b"))
    supervisord.write([nap("a"), nap("b"), Program("broken", ["false"], {}, 5)])
    record(supervisord.config_changes)
    supervisord.remove("replica-1", "unknown")
    supervisord.add("broken")
    wait_until(lambda: supervisord.info()["broken"]["statename"] == "BACKOFF")
    supervisord._call_unless_done("stopProcess", "broken", True)
    record(lambda: supervisord.remove("broken"))
    record(supervisord.config_changes)
    record(supervisord.shut_down)
    record(lambda: supervisord.pid)
    record(lambda: list(supervisord.processes()))
    record(supervisord.config_changes)
    return results


def test_fake_supervisord_acts_as_the_real_one(layout: Layout) -> None:
    """A real supervisord and the fake of other tests return, raise and change the same in a sequence of calls."""
    real = observe(Supervisord(layout))
    fake = FakeSupervisord(layout)
    fake.fail("broken")
    assert observe(fake) == real
    assert fake.events == [
        "start supervisord", "add a", "add b", "add replica-1", "remove a", "add a", "stop b", "start b", "stop b",
        "start b", "remove replica-1", "add broken", "stop broken", "remove broken", "shut down",
    ]  # fmt: skip


def test_has_variable_compares_name_and_value(layout: Layout) -> None:
    """A variable of a program's file is found by its complete name and value; a missing file has none."""
    supervisord = Supervisord(layout)
    assert not supervisord.has_variable("nap", "CODE_DIGEST", "0123")
    supervisord.write([nap(CODE_DIGEST="0123", ANOTHER="value")])
    assert supervisord.has_variable("nap", "CODE_DIGEST", "0123")
    assert not supervisord.has_variable("nap", "CODE_DIGEST", "012")
    assert not supervisord.has_variable("nap", "DIGEST", "0123")


def test_nginx_started_by_an_older_launcher_is_kept(layout: Layout) -> None:
    """A program file that differs only in the old name of the launcher stays, so that Nginx is not replaced."""
    supervisord = Supervisord(layout)
    old = Program("nginx", ["python", "-m", "deploy.local.takeover", "nginx"], {"CONFIG_DIGEST": "1"}, stop_seconds=10)
    new = replace(old, command=["python", "-m", NGINX_LAUNCHER, "nginx"])
    supervisord.write([old])
    supervisord.write([new])
    assert (layout.programs / "nginx.conf").read_text() == old.render()
    supervisord.write([replace(new, environment={"CONFIG_DIGEST": "2"})])
    assert NGINX_LAUNCHER in (layout.programs / "nginx.conf").read_text()


def test_old_launcher_name_still_works() -> None:
    """A stack that an older version started can start Nginx by the launcher's old module name."""
    completed = subprocess.run(
        [sys.executable, "-m", "deploy.local.takeover", "/bin/echo", "in its place"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed.stdout == "in its place\n"
