"""The thin client of supervisord, on a real one that runs `sleep`."""

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

NASTY = [
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
    one = Layout(tmp_path.resolve() / "a 'var'")
    one.make()
    monkeypatch.chdir(one.var)
    return one


@pytest.fixture
def supervisord(layout: Layout) -> Iterator[Supervisord]:
    one = Supervisord(layout)
    one.start(os.environ)
    yield one
    if one.pid is not None:  # quicker than to ask it, which one test does
        killed(one)
    one.stop_leftovers()
    assert list(one.processes()) == []


def killed(supervisord: Supervisord) -> None:
    pid = supervisord.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: supervisord.pid is None)


def pid_of(supervisord: Supervisord, name: str = "nap") -> int:
    """The process of a program, once it runs."""
    wait_until(lambda: bool(supervisord.info()[name]["pid"]))
    pid: int = supervisord.info()[name]["pid"]
    wait_until(lambda: psutil.Process(pid).name() not in ("supervisord", "python", "env"))
    return pid


def run(supervisord: Supervisord, *programs: Program) -> None:
    supervisord.write(programs)
    supervisord.add(*supervisord.config_changes()[0])


def read_back(program: Program) -> list[str]:
    """The words of a program's command, as supervisord's own reader finds them in its file."""
    Path("programs/x.conf").write_text(program.render())
    Path("supervisord.conf").write_text("[supervisord]\n[include]\nfiles = programs/*.conf\n")
    options = ServerOptions()
    options.realize(["-c", "supervisord.conf"])
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    assert (process.name, process.stopwaitsecs) == (program.name, program.stop_seconds)
    return shlex.split(process.command)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("value", NASTY)
def test_program_is_read_back(value: str) -> None:
    """Each word and variable of a program is what it was, after supervisord has read the file."""
    program = Program("x", ["echo", value, "end"], {"B": value, "A": "1"}, 7)
    assert read_back(program) == ["env", "A=1", f"B={value}", "echo", value, "end"]


def test_program_receives_exact_arguments_and_environment(supervisord: Supervisord, tmp_path: Path) -> None:
    """A program is run with the very words and variables that were asked for, whatever they hold."""
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done > "$OUT"\nexec sleep 600\n')
    show.chmod(0o755)
    out = tmp_path / "what came"
    asked = {f"V{i}": value for i, value in enumerate(NASTY)}
    run(supervisord, Program("nap", [str(show), *NASTY], {**asked, "OUT": str(out)}, 5))
    pid = pid_of(supervisord)
    # While a process becomes another program, its environment is empty.
    wait_until(lambda: psutil.Process(pid).name() == "sleep" and psutil.Process(pid).environ())
    assert out.read_text().split("\0")[:-1] == NASTY
    environment = psutil.Process(pid).environ()
    assert {name: environment.get(name) for name in asked} == asked


def test_starting_twice_keeps_the_same_process(supervisord: Supervisord, layout: Layout) -> None:
    """It runs in its own folder with no programs, and starting it again does nothing."""
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


def test_pid_file_of_another(layout: Layout) -> None:
    """A process id that is not there, or that belongs to someone else by now, is none of ours."""
    supervisord = Supervisord(layout)
    assert supervisord.pid is None
    for text in (str(os.getpid()), "", "x"):
        (layout.run / "supervisord.pid").write_text(text)
        assert supervisord.pid is None


def test_failed_supervisord_start_is_one_line(layout: Layout) -> None:
    """The reason is told in one line."""
    shutil.rmtree(layout.logs)
    with pytest.raises(CommandError) as caught:
        Supervisord(layout).start(os.environ)
    assert str(caught.value).startswith("supervisord did not start: The directory ")
    assert "log/supervisord.log" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_difference_lists_added_changed_and_removed(supervisord: Supervisord) -> None:
    """What was added, changed and removed is told by name, and nothing where nothing was."""
    supervisord.write([nap("b"), nap("a")])
    assert supervisord.config_changes() == (["a", "b"], [], [])
    supervisord.add("a", "b")
    assert supervisord.config_changes() == ([], [], [])
    supervisord.write([nap("a", X="1"), nap("c")])
    assert supervisord.config_changes() == (["c"], ["a"], ["b"])


def test_replaced_program_runs_with_its_new_file(supervisord: Supervisord) -> None:
    """An added program runs; a replaced one runs anew, as its file now says."""
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
    """A restarted program is another process, and its neighbour is the same."""
    run(supervisord, nap(), nap("other"))
    before = pid_of(supervisord), pid_of(supervisord, "other")
    supervisord.restart("nap")
    after = pid_of(supervisord), pid_of(supervisord, "other")
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert not psutil.pid_exists(before[0])


def test_revive_starts_only_stopped_programs(supervisord: Supervisord) -> None:
    """A program that was stopped runs again; one that runs is left alone."""
    run(supervisord, nap())
    first = pid_of(supervisord)
    supervisord.revive("nap")
    assert pid_of(supervisord) == first
    supervisord._rpc("stopProcess", "nap", True)
    assert supervisord.info()["nap"]["statename"] == "STOPPED"
    supervisord.revive("nap")
    assert pid_of(supervisord) != first


def test_program_that_dies_is_started_again(supervisord: Supervisord) -> None:
    """A killed program is started anew without anyone's asking."""
    run(supervisord, nap())
    first = pid_of(supervisord)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisord.info()["nap"]["pid"] not in (0, first))


def test_remove_stops_programs_and_ignores_unknown_names(supervisord: Supervisord) -> None:
    """Removed programs are stopped and forgotten, and removing what is not there does no harm."""
    run(supervisord, nap("a"), nap("b"), nap("c"))
    pids = [pid_of(supervisord, name) for name in "abc"]
    supervisord.remove("a", "b", "never there")
    assert list(supervisord.info()) == ["c"]
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False, True]


def test_stubborn_program_is_killed(supervisord: Supervisord) -> None:
    """A program that does not stop when it is asked to is killed after its time, with its children."""
    run(supervisord, Program("nap", ["sh", "-c", "trap '' TERM; touch armed; sleep 600; sleep 600"], {}, 1))
    process = psutil.Process(pid_of(supervisord))
    wait_until(lambda: Path("armed").exists() and bool(process.children()))
    children = process.children()
    supervisord.remove("nap")
    assert not process.is_running()
    wait_until(lambda: not any(child.is_running() for child in children))


def test_shut_down_stops_everything_and_is_idempotent(supervisord: Supervisord, layout: Layout) -> None:
    """Everything stops, and stopping what is stopped does no harm."""
    run(supervisord, nap())
    pids = [supervisord.pid, pid_of(supervisord)]
    for _ in range(2):
        supervisord.shut_down()
        assert supervisord.pid is None
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert not (layout.run / "supervisord.sock").exists()


def test_leftovers_of_a_killed_supervisord(supervisord: Supervisord) -> None:
    """What a killed supervisord left running is found and stopped, and nothing of anyone else."""
    run(supervisord, nap("a"), nap("b"))
    pids = {pid_of(supervisord, name) for name in "ab"}
    killed(supervisord)
    assert {process.pid for process in supervisord.processes()} == pids
    with subprocess.Popen(["sleep", "600"], env={STACK_MARKER: "/another/stack"}) as stranger:
        supervisord.stop_leftovers()
        assert list(supervisord.processes()) == []
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert stranger.poll() is None
        stranger.kill()


def test_start_after_a_kill(supervisord: Supervisord) -> None:
    """After a kill it starts again with no programs: those of the last time are not run as they were then."""
    run(supervisord, nap())
    killed(supervisord)
    supervisord.stop_leftovers()
    supervisord.start(os.environ)
    assert supervisord.info() == {}
    run(supervisord, nap(seconds=601))
    assert psutil.Process(pid_of(supervisord)).cmdline() == ["sleep", "601"]


def test_nginx_is_found_by_its_folder(layout: Layout) -> None:
    """An Nginx that was left behind, with its title over its environment, is stopped as well."""
    binary = nginx.find_nginx()
    nginx.write_config(layout, Stack(http_port=free_port()))
    supervisord = Supervisord(layout)
    with subprocess.Popen(nginx.command(binary, layout)) as process:
        wait_until((layout.run / "nginx.pid").exists)
        assert process.pid in {one.pid for one in supervisord.processes()}
        supervisord.stop_leftovers()
    wait_until(lambda: not list(supervisord.processes()))


def observe(supervisord: Supervisord) -> list[object]:
    """What each call of a long sequence returns or raises, and which programs run after it."""
    seen: list[object] = []
    pids: dict[str, int] = {}

    def look(call: Callable[[], object]) -> None:
        try:
            seen.append(call())
        except (CommandError, OSError) as error:
            seen.append((type(error), str(error) if isinstance(error, CommandError) else ""))
        for name, process in sorted(supervisord.info().items() if supervisord.pid else ()):
            pid, state = process["pid"], process["statename"]
            state = "up" if state in ("STARTING", "RUNNING") else state
            seen.append((name, state, bool(pid), pid != pids.get(name, 0), process["now"] >= process["start"]))
            pids[name] = pid

    look(supervisord.info)
    look(lambda: supervisord.start(os.environ))
    look(lambda: supervisord.start(os.environ))
    supervisord.write([nap("a"), nap("b"), nap("replica-1", SOCKET="run/1.sock")])
    look(lambda: supervisord.add("a"))
    look(supervisord.config_changes)
    look(lambda: supervisord.add("a", "b", "replica-1"))
    look(lambda: supervisord.add("a"))
    look(lambda: supervisord.add("nobody"))
    look(supervisord.config_changes)
    supervisord.write_program(nap("a", CODE_DIGEST="0123"))
    look(lambda: supervisord.has_variable("a", "CODE_DIGEST", "0123"))
    look(supervisord.config_changes)
    look(lambda: supervisord.replace("a"))
    look(supervisord.config_changes)
    look(lambda: supervisord.restart("b"))
    look(lambda: supervisord.restart("nobody"))
    look(lambda: supervisord.revive("b"))
    look(lambda: supervisord.revive("nobody"))
    look(lambda: supervisord._rpc("removeProcessGroup", "b"))
    look(lambda: supervisord._call_unless_done("stopProcess", "b", True))
    look(lambda: supervisord._call_unless_done("stopProcess", "b", True))
    look(lambda: supervisord.revive("b"))
    supervisord.write([nap("a"), nap("b"), Program("broken", ["false"], {}, 5)])
    look(supervisord.config_changes)
    supervisord.remove("replica-1", "nobody")
    supervisord.add("broken")
    wait_until(lambda: supervisord.info()["broken"]["statename"] == "BACKOFF")
    supervisord._call_unless_done("stopProcess", "broken", True)
    look(lambda: supervisord.remove("broken"))
    look(supervisord.config_changes)
    look(supervisord.shut_down)
    look(lambda: supervisord.pid)
    look(lambda: list(supervisord.processes()))
    look(supervisord.config_changes)
    return seen


def test_fake_supervisord_acts_as_the_real_one(layout: Layout) -> None:
    """The same calls return, raise and change the same on a real supervisord and on the fake of other tests."""
    real = observe(Supervisord(layout))
    fake = FakeSupervisord(layout)
    fake.fail("broken")
    assert observe(fake) == real
    assert fake.events == [
        "start supervisord", "add a", "add b", "add replica-1", "remove a", "add a", "stop b", "start b", "stop b",
        "start b", "remove replica-1", "add broken", "stop broken", "remove broken", "shut down",
    ]  # fmt: skip


def test_file_of_a_program_tells_what_it_sets(layout: Layout) -> None:
    """A variable that a program's file sets is known by name and value; no file sets none."""
    supervisord = Supervisord(layout)
    assert not supervisord.has_variable("nap", "CODE_DIGEST", "0123")
    supervisord.write([nap(CODE_DIGEST="0123", ANOTHER="value")])
    assert supervisord.has_variable("nap", "CODE_DIGEST", "0123")
    assert not supervisord.has_variable("nap", "CODE_DIGEST", "012")
    assert not supervisord.has_variable("nap", "DIGEST", "0123")


def test_nginx_that_was_started_by_an_older_launcher_is_kept(layout: Layout) -> None:
    """A program file that differs in the launcher's old module alone stays: to replace Nginx would cost requests."""
    supervisord = Supervisord(layout)
    old = Program("nginx", ["python", "-m", "deploy.local.takeover", "nginx"], {"CONFIG_DIGEST": "1"}, stop_seconds=10)
    new = replace(old, command=["python", "-m", NGINX_LAUNCHER, "nginx"])
    supervisord.write([old])
    supervisord.write([new])
    assert (layout.programs / "nginx.conf").read_text() == old.render()
    supervisord.write([replace(new, environment={"CONFIG_DIGEST": "2"})])
    assert NGINX_LAUNCHER in (layout.programs / "nginx.conf").read_text()


def test_old_name_of_the_launcher_is_still_known() -> None:
    """A stack that older code started starts Nginx again by the module's old name."""
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.local.takeover", "/bin/echo", "in its place"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "in its place\n"
