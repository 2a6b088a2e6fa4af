"""Tests of running Locust as a separate program."""

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
    """Users wait 1.75 s on average by default."""
    assert Load().mean_wait == 1.75
    assert Load(wait=(0.5, 1.5)).mean_wait == 1.0


def test_arguments_are_strings_without_repeated_options() -> None:
    """Arguments are strings, each option occurs once, and a file of rows is passed only if there is one."""
    arguments = Load().arguments(LADDER, "http://a", "file.py", "/folder", "")
    options = [word for word in arguments if word.startswith("--")]
    assert all(isinstance(word, str) for word in arguments)
    assert len(options) == len(set(options))
    assert "--data" not in options
    assert Load().arguments(LADDER, "http://a", "file.py", "/folder", "rows.csv")[-2:] == ["--data", "rows.csv"]


def test_run_time_does_not_cut_the_ladder_short() -> None:
    """Locust's run time exceeds all steps and all spawning, since each step is held after its users have arrived."""
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
    """Return the options as Locust parses them, in another process, since importing Locust patches a process."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    ran = subprocess.run(
        [sys.executable, "-c", PARSED, *arguments],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    options: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return options


@pytest.mark.e2e
def test_locust_parses_the_arguments() -> None:
    """Locust parses every option as intended."""
    load = Load("batch", "/null", Path("rows.csv"), 2, (0.5, 1.5))
    options = parsed(load.arguments(LADDER, "http://127.0.0.1:8080", "locust/locustfile.py", "/folder", "/rows.csv"))
    expected = {
        "locustfile": "locust/locustfile.py", "host": "http://127.0.0.1:8080", "num_users": 1100, "spawn_rate": 400,
        "step_users": 500, "step_seconds": 20, "client": "batch", "target": "/null", "data": "/rows.csv",
        "wait_min": 0.5, "wait_max": 1.5, "processes": 2, "csv_prefix": "/folder/locust",
        "html_file": "/folder/locust.html", "exit_code_on_error": 0, "loglevel": "WARNING", "headless": True,
        "record": True,
    }  # fmt: skip
    assert {name: options[name] for name in expected} == expected
    assert tuple(options["clients"]) == CLIENTS
    assert {"/predict", "/null"} == set(options["targets"])


MakeGenerator = Callable[[str], Generator]


@pytest.fixture
def make(tmp_path: Path) -> MakeGenerator:
    """A function that makes a generator of a Python program, which ends after a minute at most."""
    head = "import json, os, signal, subprocess, sys, time\nsignal.alarm(60)\n"
    head += "def say(kind, **more): print(json.dumps({'kind': kind, 'time': time.time(), **more}), flush=True)\n"

    def make_generator(text: str) -> Generator:
        command = [sys.executable, "-c", head + text]
        return Generator(command, tmp_path / "locust.log", subprocess.Popen.terminate, os.environ)

    return make_generator


@pytest.mark.e2e
def test_records_are_kept_until_the_program_ends(make: MakeGenerator) -> None:
    """All records are kept, including the last line before the program ended."""
    with make("print('Hello')\nsay('step', users=5)\nsay('stop')") as running:
        wait_until(lambda: running.ended)
        running.check()
    assert [users for _, users in running.records.steps] == [5]
    assert running.records.stopped is not None


@pytest.mark.e2e
def test_refused_kill_of_an_ended_group_is_no_error(make: MakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a test is no error if macOS refuses to signal a group whose processes have all ended."""

    def killpg(_group: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", killpg)
    with make("say('stop')") as running:
        wait_until(lambda: running.ended)


@pytest.mark.e2e
def test_failed_generator_reports_its_last_line(make: MakeGenerator) -> None:
    """A generator that ends with an error is reported with its last line on stderr."""
    with make("say('step', users=5)\nsys.exit('first\\nno such host\\n\\n')") as running:
        wait_until(lambda: running.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: no such host$"):
            running.check()
    assert len(running.records.steps) == 1


@pytest.mark.e2e
def test_refused_start_reports_its_error_record(make: MakeGenerator) -> None:
    """A generator that refuses to start is reported with its error record, not with the table printed after it."""
    with make("say('error', message='rows.csv: no rows')\nsys.exit('oops\\n--------|-----')") as running:
        wait_until(lambda: running.ended)
        with pytest.raises(CommandError, match=r"^rows\.csv: no rows$"):
            running.check()


@pytest.mark.e2e
def test_table_of_results_is_not_the_reason(make: MakeGenerator) -> None:
    """The table of results that Locust prints at its end is not reported as the reason."""
    with make("sys.exit('oops\\nType | Name\\n-----|-----\\n------')") as running:
        wait_until(lambda: running.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: oops$"):
            running.check()


@pytest.mark.e2e
def test_killed_generator_is_reported_and_children_end(make: MakeGenerator) -> None:
    """A killed generator is reported even if a child holds its output open, and the child is ended."""
    with make("child = os.fork()\nif child: say('step', users=child)\ntime.sleep(60)") as running:
        wait_until(lambda: running.records.steps)
        ((_, child),) = running.records.steps
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: running.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: killed by SIGKILL$"):
            running.check()
    wait_until(lambda: is_gone(child))


@pytest.mark.e2e
def test_silent_failure_reports_exit_status(make: MakeGenerator) -> None:
    """A failure without output is reported with its exit status."""
    with make("sys.exit(3)") as running:
        wait_until(lambda: running.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: status 3$"):
            running.check()


@pytest.mark.e2e
def test_undecodable_error_output_is_tolerated(make: MakeGenerator) -> None:
    """Output on stderr that is not text does not cause another failure."""
    with make("os.write(2, b'bad \\xff\\n')\nsys.exit(1)") as running:
        wait_until(lambda: running.ended)
        with pytest.raises(CommandError, match=r"^Locust ended: bad \ufffd$"):
            running.check()


@pytest.mark.e2e
def test_running_generator_has_its_own_process_group(make: MakeGenerator) -> None:
    """A running generator has no fault and does not get Ctrl-C of the terminal."""
    with make("say('step', users=5)\ntime.sleep(60)") as running:
        wait_until(lambda: running.records.steps)
        assert not running.ended
        running.check()
        assert os.getpgid(running.pid) == running.pid != os.getpgid(0)
    assert is_gone(running.pid)
    assert running.ended


@pytest.mark.e2e
def test_records_after_the_stop_signal_are_kept(make: MakeGenerator) -> None:
    """Records that a generator prints after the stop signal are kept."""
    text = "signal.signal(signal.SIGTERM, lambda *_: (say('stop'), sys.exit()))\nsay('step', users=5)\ntime.sleep(60)"
    with make(text) as running:
        wait_until(lambda: running.records.steps)
    assert running.records.stopped is not None
    running.check()


@pytest.mark.e2e
def test_backend_decides_how_to_stop(tmp_path: Path) -> None:
    """The backend decides how to stop a generator, and a generator that has ended is not stopped again."""
    stopped_pids: list[int] = []

    def stop(process: subprocess.Popen[bytes]) -> None:
        stopped_pids.append(process.pid)
        process.terminate()

    with Generator(["sleep", "60"], tmp_path / "log", stop, os.environ) as running:
        pass
    assert stopped_pids == [running.pid]
    with Generator(["true"], tmp_path / "log", stop, os.environ) as ended_generator:
        wait_until(lambda: ended_generator.ended)
    assert stopped_pids == [running.pid]


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.e2e
def test_generator_ignoring_sigterm_is_killed(make: MakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that ignores the stop signal is killed."""
    monkeypatch.setattr(generator, "_PATIENCE", 0.3)
    with make(f"{DEAF}say('step', users=5)\ntime.sleep(60)") as running:
        wait_until(lambda: running.records.steps)
    assert is_gone(running.pid)


@pytest.mark.e2e
def test_stubborn_worker_processes_are_killed(make: MakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes that ignore the stop signal are killed, so that they do not load the next run."""
    monkeypatch.setattr(generator, "_PATIENCE", 0.3)
    text = "say('step', users=subprocess.Popen(['sleep', '60']).pid)\ntime.sleep(60)"
    with make(f"{DEAF}{text}") as running:
        wait_until(lambda: running.records.steps)
    worker = running.records.steps[0][1]
    try:
        wait_until(lambda: is_gone(worker), seconds=5)
    except AssertionError:
        os.kill(worker, signal.SIGKILL)
        raise


@pytest.mark.e2e
def test_generator_inherits_environment_in_the_checkout(tmp_path: Path) -> None:
    """The generator gets the given environment and runs in the checkout."""
    text = (
        "import json, os; print(json.dumps({'kind': 'step', 'time': 1, 'users': [os.getcwd(), os.environ['LEVEL']]}))"
    )
    environ = {**os.environ, "LEVEL": "high"}
    with Generator([sys.executable, "-c", text], tmp_path / "log", subprocess.Popen.terminate, environ) as running:
        wait_until(lambda: running.ended)
    (_, recorded), *_ = running.records.steps
    assert str(recorded) == str([str(ROOT), "high"])
