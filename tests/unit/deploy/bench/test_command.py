"""Tests of the command of `make bench`: its output, its file and its exit status. No replica is started."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.bench import command
from deploy.bench.plan import Plan
from deploy.bench.table import Row
from deploy.errors import CommandError
from deploy.options import BenchOptions, read_environment
from deploy.stack import interrupt
from server.errors import ModelError
from tests.support.bench_results import make_row, make_subject

VARIABLES = ("QUICK", "WORKERS", "CONNECTIONS", "BENCH_SECONDS", "ENGINE")


class Run:
    """A fake run that measures some rows and then raises a given error."""

    def __init__(self, folder: Path, rows: int, error: BaseException | None) -> None:
        self.plan = Plan.of(BenchOptions.read({}))
        self.subject = make_subject(folder)
        self.replicas = 1
        self._rows = rows
        self._error = error

    def measure(self, keep: Callable[[Row], None]) -> None:
        for connections in (1, 64)[: self._rows]:
            keep(make_row(connections=connections))
        if self._error is not None:
            raise self._error


class Bench:
    """The command in a temporary folder, which has no `.env` and gets the results."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.root = folder
        self.results = folder / "results"
        self.patch = patch
        self._capture = capture
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setenv("ENV_FILE", str(folder / ".env"))
        patch.setattr(command, "RESULTS", self.results)

    def fake_run(self, error: BaseException | None = None, rows: int = 2) -> None:
        """Make the command measure some rows and then raise the error, if there is one."""

        def prepare(_environ: Mapping[str, str]) -> Run:
            return Run(self.root, rows, error)

        self.patch.setattr(command, "_prepare", prepare)

    def main(self) -> tuple[int, str, str]:
        """Run the command; return its exit status, standard output and standard error."""
        status = command.main()
        return status, *self._capture.readouterr()

    def saved_document(self) -> dict[str, Any]:
        """Return the only document in ``results``."""
        (path,) = self.results.glob("*-bench/bench.json")
        document: dict[str, Any] = json.loads(path.read_text())
        return document


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    """The command in a temporary folder; afterwards the signal handlers are restored."""
    handlers = {number: signal.getsignal(number) for number in interrupt._SIGNALS}
    yield Bench(tmp_path, monkeypatch, capsys)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_figures_are_printed_and_saved(bench: Bench) -> None:
    """A successful run prints the model, the machine, the table and the path of its file, with status 0."""
    bench.fake_run()
    status, out, err = bench.main()
    head, blank, names, _, *rows, empty, written = out.splitlines()
    assert status == 0
    assert head.startswith("made version 7, 1,234 nodes; ")
    assert head.endswith("; 6 s per row")
    assert (blank, empty) == ("", "")
    assert names.startswith("| engine")
    assert len(rows) == 2
    assert written.startswith(f"written to {bench.results}/")
    assert "[2/4] constant, 1 worker" in err
    assert "error" not in err
    document = bench.saved_document()
    assert (document["complete"], document["ended"], len(document["rows"])) == (True, None, 2)
    assert document["model"]["name"] == "made"


@pytest.mark.parametrize(
    ("error", "line", "expected"),
    [
        (CommandError("the replica ended: no memory"), "the replica ended: no memory", 1),
        (ModelError("no such model"), "no such model", 1),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", 1),
        (interrupt.Interrupted(signal.SIGINT), "interrupted by SIGINT", 130),
        (interrupt.Interrupted(signal.SIGTERM), "interrupted by SIGTERM", 1),
    ],
)
def test_failed_run_saves_its_rows(error: BaseException, line: str, expected: int, bench: Bench) -> None:
    """A run that ends early prints and saves its rows, and prints the reason in one line."""
    bench.fake_run(error)
    status, out, err = bench.main()
    assert status == expected
    assert out.count("| constant |") == 2
    assert err.splitlines()[-1] == f"error: {line}"
    document = bench.saved_document()
    assert (document["complete"], document["ended"], len(document["rows"])) == (False, line, 2)


def test_failure_before_first_row_saves_nothing(bench: Bench) -> None:
    """A run that fails before its first row prints only the reason and saves nothing."""
    bench.fake_run(CommandError("the replica ended: no memory"), rows=0)
    status, out, err = bench.main()
    assert (status, out, err.splitlines()[-1]) == (1, "", "error: the replica ended: no memory")
    assert not bench.results.exists()


def test_unwritable_results_are_still_printed(bench: Bench) -> None:
    """If the figures cannot be saved, they are printed, and the status is 1."""
    bench.results.write_text("not a folder")
    bench.fake_run()
    status, out, err = bench.main()
    assert status == 1
    assert out.count("| constant |") == 2
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("QUICK", "yes", "expected 0 or 1"),
        ("WORKERS", "x", "expected whole numbers from 1 to 64 separated by spaces"),
        ("ENGINE", "fast", "expected one of auto, "),
        ("WEB_CONCURRENCY", "many", "expected a whole number from 1 to 1024"),
    ],
)
def test_invalid_variable_is_one_line_with_status_1(name: str, value: str, expected: str, bench: Bench) -> None:
    """An invalid variable is an error of one line with its name, its value and what was expected."""
    bench.patch.setenv(name, value)
    status, out, err = bench.main()
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {name}={value!r}: {expected}")
    assert err.count("\n") == 1
    assert not bench.results.exists()


def test_replicas_inherit_environment_and_env_file(bench: Bench) -> None:
    """Replicas get the environment, completed by `.env`, and an absolute VAR_DIR."""
    (bench.root / ".env").write_text("MODEL_URI=models:/other/3\nMAX_BATCH_ROWS=16\nLOG_LEVEL=\n")
    bench.patch.chdir(bench.root)
    for name, value in {"MODEL_URI": "models:/mine/1", "VAR_DIR": "var", "PORT": "80"}.items():
        bench.patch.setenv(name, value)
    variables = command.replica_variables(read_environment())
    assert (variables["MODEL_URI"], variables["MAX_BATCH_ROWS"]) == ("models:/mine/1", "16")
    assert variables["VAR_DIR"] == str(bench.root / "var")
    assert (variables["HOST"], variables["PORT"]) == ("", "")


def test_binary_env_file_is_refused_by_name(bench: Bench) -> None:
    """A `.env` that is not UTF-8 is an error of one line that names the file."""
    (bench.root / ".env").write_bytes(b"MODEL_URI=\xff\n")
    assert bench.main() == (1, "", f"error: {bench.root}/.env is not UTF-8\n")


def test_missing_wrk_exits_with_install_command(bench: Bench) -> None:
    """If wrk is missing and cannot be installed, the error names the command that installs it."""
    bench.patch.setenv("PATH", str(bench.root))
    bench.patch.setattr(os, "geteuid", lambda: 1000)
    assert shutil.which("wrk") is None
    line = "error: wrk is missing; install it first: sudo apt-get install wrk (or dnf, apk, pacman, ..)\n"
    assert bench.main() == (1, "", line)
    assert not bench.results.exists()


@pytest.mark.usefixtures("bench")
def test_closed_terminal_stops_unless_nohup() -> None:
    """SIGHUP interrupts a command, unless nohup has made it ignore the signal."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt.listen()
    with pytest.raises(interrupt.Interrupted, match="SIGHUP"):
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt.listen()
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.usefixtures("bench")
def test_signals_after_the_first_are_ignored() -> None:
    """The first signal interrupts a command, and later ones are ignored."""
    interrupt.listen()
    with pytest.raises(interrupt.Interrupted, match="SIGTERM") as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.status == 1
    for number in interrupt._SIGNALS:
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
