"""Locust as a program of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import CommandError
from deploy.scaling import generator
from deploy.scaling.generator import CLIENTS, Generator, Load
from deploy.scaling.ladder import Ladder
from deploy.stack.paths import ROOT
from tests.support.waiting import is_gone, wait_until

LADDER = Ladder(1100, 500, 400, 20, 5)


def test_default_mean_wait_is_1_75_seconds() -> None:
    """Users wait 1.75 s on average, if not told otherwise."""
    assert Load().mean_wait == 1.75
    assert Load(wait=(0.5, 1.5)).mean_wait == 1.0


def test_arguments_are_strings_without_repeated_options() -> None:
    """Arguments are words, each option once, and rows only where there are some."""
    arguments = Load().arguments(LADDER, "http://a", "file.py", "/folder", "")
    options = [word for word in arguments if word.startswith("--")]
    assert all(isinstance(word, str) for word in arguments)
    assert len(options) == len(set(options))
    assert "--data" not in options
    assert Load().arguments(LADDER, "http://a", "file.py", "/folder", "rows.csv")[-2:] == ["--data", "rows.csv"]


def test_run_time_does_not_cut_the_ladder_short() -> None:
    """Locust holds each step from when its users are there, so its own end is behind all steps and all their coming."""
    for ladder in (Ladder(), Ladder(10_000, 100, 100), Ladder(100_000, 500), Ladder(2000, 50, 5, 30, 10)):
        arguments = Load().arguments(ladder, "http://a", "file.py", "/folder", "")
        limit = int(arguments[arguments.index("--run-time") + 1].removesuffix("s"))
        come = -(-ladder.step_users // ladder.spawn_rate)
        assert limit > len(ladder.rungs) * (come + ladder.step_seconds)


PARSED = """
import json, sys
sys.path.append("locust")
from locust import argument_parser, events
from options import CLIENTS, TARGETS, add_options, check_options
events.init_command_line_parser.add_listener(add_options)
found = argument_parser.parse_options(sys.argv[1:])
check_options(found)
known = {name: value for name, value in vars(found).items() if isinstance(value, (str, int, float, bool, type(None)))}
print(json.dumps(known | {"clients": CLIENTS, "targets": TARGETS}))
"""


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What Locust itself, with our options, makes of them; in a process of its own, as it patches the one it is in."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    ran = subprocess.run(
        [sys.executable, "-c", PARSED, *arguments],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.e2e
def test_locust_takes_the_arguments() -> None:
    """Locust knows every option, and understands it as it was meant."""
    load = Load("batch", "/null", Path("rows.csv"), 2, (0.5, 1.5))
    found = parsed(load.arguments(LADDER, "http://127.0.0.1:8080", "locust/locustfile.py", "/folder", "/rows.csv"))
    expected = {
        "locustfile": "locust/locustfile.py", "host": "http://127.0.0.1:8080", "num_users": 1100, "spawn_rate": 400,
        "step_users": 500, "step_seconds": 20, "client": "batch", "target": "/null", "data": "/rows.csv",
        "wait_min": 0.5, "wait_max": 1.5, "processes": 2, "csv_prefix": "/folder/locust",
        "html_file": "/folder/locust.html", "exit_code_on_error": 0, "loglevel": "WARNING", "headless": True,
        "record": True,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert tuple(found["clients"]) == CLIENTS
    assert {"/predict", "/null"} == set(found["targets"])


Made = Callable[[str], Generator]


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """A generator that is this Python program; it ends after a minute in any case."""
    head = "import json, os, signal, subprocess, sys, time\nsignal.alarm(60)\n"
    head += "def say(kind, **more): print(json.dumps({'kind': kind, 'time': time.time(), **more}), flush=True)\n"

    def one(text: str) -> Generator:
        command = [sys.executable, "-c", head + text]
        return Generator(command, tmp_path / "locust.log", subprocess.Popen.terminate, os.environ)

    return one


@pytest.mark.e2e
def test_records_are_kept_until_the_program_ends(make: Made) -> None:
    """What it prints is kept, up to its last line before it ended."""
    with make("print('Hello')\nsay('step', users=5)\nsay('stop')") as one:
        wait_until(lambda: one.ended)
        one.check()
    assert [users for _, users in one.records.steps] == [5]
    assert one.records.stopped is not None


@pytest.mark.e2e
def test_group_that_may_not_be_killed(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a test is no error where macOS refuses to signal a group whose processes have all ended."""

    def killpg(_group: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", killpg)
    with make("say('stop')") as one:
        wait_until(lambda: one.ended)


@pytest.mark.e2e
def test_failed_generator_reports_its_last_line(make: Made) -> None:
    """One that ends with an error is told of with the last line that it complained with."""
    with make("say('step', users=5)\nsys.exit('first\\nno such host\\n\\n')") as one:
        wait_until(lambda: one.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: no such host$"):
            one.check()
    assert len(one.records.steps) == 1


@pytest.mark.e2e
def test_refused_start_reports_its_error_record(make: Made) -> None:
    """One that refused to start is told of with what it said of that, and not with the table that it printed after."""
    with make("say('error', message='rows.csv: no rows')\nsys.exit('oops\\n--------|-----')") as one:
        wait_until(lambda: one.ended)
        with pytest.raises(CommandError, match=r"^rows\.csv: no rows$"):
            one.check()


@pytest.mark.e2e
def test_table_is_no_reason(make: Made) -> None:
    """The table of results that Locust prints at its end is not why it ended."""
    with make("sys.exit('oops\\nType | Name\\n-----|-----\\n------')") as one:
        wait_until(lambda: one.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: oops$"):
            one.check()


@pytest.mark.e2e
def test_killed_generator_is_reported_and_children_end(make: Made) -> None:
    """One that is killed has ended, though a process of its own holds on to its output; that one is ended too."""
    with make("child = os.fork()\nif child: say('step', users=child)\ntime.sleep(60)") as one:
        wait_until(lambda: one.records.steps)
        ((_, child),) = one.records.steps
        os.kill(one.pid, signal.SIGKILL)
        wait_until(lambda: one.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: killed by SIGKILL$"):
            one.check()
    wait_until(lambda: is_gone(child))


@pytest.mark.e2e
def test_silent_failure_reports_exit_status(make: Made) -> None:
    """Where it did not complain, its status is told."""
    with make("sys.exit(3)") as one:
        wait_until(lambda: one.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: status 3$"):
            one.check()


@pytest.mark.e2e
def test_undecodable_error_output_is_tolerated(make: Made) -> None:
    """Bytes that are no text are no reason to fail otherwise."""
    with make("os.write(2, b'bad \\xff\\n')\nsys.exit(1)") as one:
        wait_until(lambda: one.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: bad \ufffd$"):
            one.check()


@pytest.mark.e2e
def test_running_generator_has_its_own_process_group(make: Made) -> None:
    """While it runs it has not ended, and nothing is wrong with it; Ctrl-C does not reach it."""
    with make("say('step', users=5)\ntime.sleep(60)") as one:
        wait_until(lambda: one.records.steps)
        assert not one.ended
        one.check()
        assert os.getpgid(one.pid) == one.pid != os.getpgid(0)
    assert is_gone(one.pid)
    assert one.ended


@pytest.mark.e2e
def test_records_after_the_stop_signal_are_kept(make: Made) -> None:
    """It is asked to end, and what it then tells is kept."""
    text = "signal.signal(signal.SIGTERM, lambda *_: (say('stop'), sys.exit()))\nsay('step', users=5)\ntime.sleep(60)"
    with make(text) as one:
        wait_until(lambda: one.records.steps)
    assert one.records.stopped is not None
    one.check()


@pytest.mark.e2e
def test_stopped_in_its_own_way(tmp_path: Path) -> None:
    """How it is asked to end is the backend's; one that has ended is not asked."""
    asked: list[int] = []

    def stop(process: subprocess.Popen[bytes]) -> None:
        asked.append(process.pid)
        process.terminate()

    with Generator(["sleep", "60"], tmp_path / "log", stop, os.environ) as one:
        pass
    assert asked == [one.pid]
    with Generator(["true"], tmp_path / "log", stop, os.environ) as other:
        wait_until(lambda: other.ended)
    assert asked == [one.pid]


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.e2e
def test_generator_ignoring_sigterm_is_killed(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not end when asked is killed."""
    monkeypatch.setattr(generator, "_PATIENCE", 0.3)
    with make(f"{DEAF}say('step', users=5)\ntime.sleep(60)") as one:
        wait_until(lambda: one.records.steps)
    assert is_gone(one.pid)


@pytest.mark.e2e
def test_stubborn_worker_processes_are_killed(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are the processes that it shares its users with: none loads the next run."""
    monkeypatch.setattr(generator, "_PATIENCE", 0.3)
    text = "say('step', users=subprocess.Popen(['sleep', '60']).pid)\ntime.sleep(60)"
    with make(f"{DEAF}{text}") as one:
        wait_until(lambda: one.records.steps)
    worker = one.records.steps[0][1]
    try:
        wait_until(lambda: is_gone(worker), seconds=5)
    except AssertionError:
        os.kill(worker, signal.SIGKILL)
        raise


@pytest.mark.e2e
def test_generator_inherits_environment_in_the_checkout(tmp_path: Path) -> None:
    """It has the environment that it is given, and runs in the checkout."""
    text = (
        "import json, os; print(json.dumps({'kind': 'step', 'time': 1, 'users': [os.getcwd(), os.environ['LEVEL']]}))"
    )
    environ = {**os.environ, "LEVEL": "high"}
    with Generator([sys.executable, "-c", text], tmp_path / "log", subprocess.Popen.terminate, environ) as one:
        wait_until(lambda: one.ended)
    (_, told), *_ = one.records.steps
    assert str(told) == str([str(ROOT), "high"])
