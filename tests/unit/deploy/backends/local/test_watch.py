"""Tests of the output of `make status`, `make stats` and `make logs` for a local stack."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest

from deploy.backends.local.supervisord import Program, Supervisord
from deploy.backends.local.watch import _mb, _memory, _process_columns, follow_logs, process_tree, stats, status, usage
from deploy.errors import CommandError
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from tests.support.servers import serving_thread
from tests.support.waiting import wait_until

# A process that forks three children, which share its memory.
FORKING_PROGRAM = "import os, time; data = b'x' * 30_000_000; os.fork(); os.fork(); time.sleep(600)"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    layout = Layout(tmp_path.resolve() / "var")
    layout.make()
    monkeypatch.chdir(layout.var)
    return layout


@pytest.fixture
def supervisord(layout: Layout) -> Iterator[Supervisord]:
    """A supervisord with programs that have the names of a stack's and do nothing."""
    running = Supervisord(layout)
    running.start(os.environ)
    running.write(
        [
            Program("replica-1", [sys.executable, "-c", FORKING_PROGRAM], {}, 5),
            Program("nginx", ["sleep", "600"], {}, 5),
        ]
    )
    running.add(*running.config_changes()[0])
    yield running
    pid = running.pid
    assert pid is not None
    psutil.Process(pid).kill()  # This is faster than a shutdown request.
    running.stop_leftovers()


def test_proportional_memory_includes_private_memory() -> None:
    """The proportional memory of a process is at least its private memory."""
    pss, private = _memory(psutil.Process())
    assert pss >= private > 0


def test_ended_process_uses_nothing() -> None:
    """An ended process has no process tree and uses no memory."""
    with subprocess.Popen(["sleep", "600"]) as process:
        gone = psutil.Process(process.pid)
        process.kill()
    assert process_tree(process.pid) == []
    assert _memory(gone) == (0, 0)


def test_usage_counts_shared_memory_of_children_once(supervisord: Supervisord) -> None:
    """Programs are ordered by name and include their children, whose shared memory counts once."""
    wait_for_children(supervisord)
    balancer, replica = usage(supervisord, 0.05)
    assert (balancer.name, balancer.processes, balancer.largest_worker) == ("nginx", 1, 0)
    assert (replica.name, replica.processes) == ("replica-1", 4)
    for program in (balancer, replica):
        assert program.pss >= program.private > 0
        assert program.cpu_percent >= 0
    assert replica.private >= replica.largest_worker > 0
    assert replica.pss - replica.private > 25_000_000


def wait_for_children(supervisord: Supervisord) -> None:
    """Wait until the program replica-1 has started all of its processes."""

    def is_complete() -> bool:
        pid = supervisord.info()["replica-1"]["pid"]
        return pid and len(process_tree(pid)) == 4

    wait_until(is_complete)


def test_stats_prints_a_line_per_program_and_total(supervisord: Supervisord) -> None:
    """The table has a line per program, and the total is below it."""
    wait_for_children(supervisord)
    lines = stats(Stack(http_port=8080), supervisord, seconds=0.05)
    assert lines[0].split()[0] == "NAME"
    assert [line.split()[0] for line in lines[1:3]] == ["nginx", "replica-1"]
    assert lines[-1].startswith("total ")
    assert "1 replica(s)" in lines[-1]


def test_memory_is_shown_in_decimal_megabytes() -> None:
    """Memory is shown in millions of bytes."""
    assert _mb(1_234_567) == "1.2 MB"


class Health(BaseHTTPRequestHandler):
    """A replica that serves a stale copy of a model trained on synthetic data."""

    def do_GET(self) -> None:
        model = {"name": "covertype", "version": "3", "engine": "sklearn", "trained_on": "synthetic"}
        notes = {"stale": "no registry", "refused": "no signature"}
        body = json.dumps({"status": "ok", "model": model, "workers": 2, **notes}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (http.server's)
        pass


@contextmanager
def replica(path: str) -> Iterator[None]:
    with serving_thread(socketserver.UnixStreamServer(path, Health)):
        yield


def test_status_shows_readiness_missing_programs_and_notes(supervisord: Supervisord) -> None:
    """The status shows which replicas are ready, their models, missing programs, and notes."""
    wait_for_children(supervisord)
    with replica("run/1.sock"):
        lines = status(Stack(replicas=2, http_port=8080, locust_port=8090), supervisord, Layout(Path.cwd()))
    assert lines[0].split() == ["NAME", "STATE", "PID", "UPTIME", "READY", "MODEL", "ENGINE", "WORKERS"]
    replica_columns = lines[1].split()
    assert replica_columns[:3] == ["replica-1", "running", str(supervisord.info()["replica-1"]["pid"])]
    assert replica_columns[-5:] == ["yes", "covertype", "3", "sklearn", "2"]
    assert lines[2].split() == ["replica-2", "missing", "no"]
    assert lines[3].split()[:2] == ["nginx", "running"]
    assert lines[4].split() == ["locust", "missing"]
    assert lines[6] == "service http://127.0.0.1:8080   Locust http://127.0.0.1:8090"
    assert lines[7] == "no API keys, no TLS, no limits per client"
    assert lines[8:] == [
        "replica-1 serves the last good copy: no registry",
        "replica-1 refused to load another model and still serves the previous one: no signature",
        "replica-1 serves a model trained on SYNTHETIC data: its predictions mean nothing",
    ]


@pytest.mark.parametrize("state", ["STOPPED", "BACKOFF", "FATAL", "EXITED"])
def test_stopped_program_has_no_pid_or_uptime(state: str) -> None:
    """A program that does not run has no process id and no uptime."""
    assert _process_columns("nginx", {"statename": state, "pid": 0, "start": 1, "now": 2}) == (
        "nginx",
        state.lower(),
        "",
        "",
    )


def test_logs_of_an_unknown_service_are_refused(layout: Layout) -> None:
    """The error for an unknown service lists the known ones."""
    with pytest.raises(CommandError) as caught:
        follow_logs(layout, "gunicorn")
    assert str(caught.value) == "S='gunicorn': expected one of server, nginx, locust, mlflow, all"


@pytest.mark.parametrize("service", ["server", "nginx", "locust", "all"])
def test_logs_of_unstarted_service_are_one_line(service: str, layout: Layout) -> None:
    """The error for a service without a log says how to start it."""
    with pytest.raises(CommandError) as caught:
        follow_logs(layout, service)
    assert str(caught.value) == f"{service} has no log yet; start it with: make up"


@pytest.mark.parametrize(
    ("service", "expected"),
    [("server", ["of replica-1", "of replica-2"]), ("nginx", ["of access", "of nginx"]), ("locust", ["of locust"])],
)
def test_logs_without_terminal_print_last_lines(service: str, expected: list[str], layout: Layout) -> None:
    """Without a terminal, the last lines of each log of a service are printed, and the command ends."""
    for name in ("replica-1", "replica-2", "nginx", "access", "locust"):
        layout.log(name).write_text(f"of {name}\n")
    script = (
        "import sys; from pathlib import Path; from deploy.stack.paths import Layout; "
        "from deploy.backends.local.watch import follow_logs; follow_logs(Layout(Path(sys.argv[1])), sys.argv[2])"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script, str(layout.var), service],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert sorted(line for line in completed.stdout.splitlines() if line.startswith("of ")) == expected
