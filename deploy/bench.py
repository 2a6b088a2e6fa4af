"""`make bench`: the cost of one prediction, on one worker, against a bare loop of predict calls on the same model.

Everything runs here and stops with the command: one replica on a free port of 127.0.0.1, and `wrk` as the clients.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.errors import CommandError
from deploy.probe import ask_address
from server.errors import StartError
from server.model import Model, load_model
from server.resolve import resolve_in_child
from server.schema import Column
from server.settings import ROOT, Settings

CONNECTIONS = (1, 64, 256)
_SECONDS = 8
_BODIES = 1000

_SCRIPT = """\
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local i = math.random(#bodies)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function() i = i %% #bodies + 1; return wrk.format(nil, "/predict", nil, bodies[i]) end
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table. Rates per second, latencies as `wrk` prints them, CPU in microseconds an answer."""

    connections: int
    rate: float
    p50: str
    p99: str
    cpu: float
    errors: int


def main() -> int:
    """Print the table; status 1 with one line where something it needs is missing."""
    try:
        wrk = _find_wrk()
        environ = {**os.environ, "WEB_CONCURRENCY": "1", "HOST": "", "SOCKET": ""}
        settings = Settings.from_env(environ)
        model = load_model(resolve_in_child(environ), settings.engine)
        print(f"{model.name} version {model.version}, engine {model.engine.name}, one worker; {_SECONDS} s a row")
        with tempfile.TemporaryDirectory() as folder, _replica(environ, Path(folder)) as (address, pid):
            script = _script(model, Path(folder))
            before = _bare_loop(model)
            rows = [_measure(wrk, address, pid, script, count) for count in CONNECTIONS]
            bare = (before + _bare_loop(model)) / 2  # a shared machine's speed drifts
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_table(bare, rows))
    return 0


def _find_wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise CommandError("wrk is missing; install it first: sudo apt-get install wrk")
    return found


def _bare_loop(model: Model) -> float:
    """Predict calls of one row a second, with nothing around them, in a process of their own kind: this one."""
    rows = [model.schema.parse(document, 1).rows for document in _documents(model, 100)]
    model.engine.predict(rows[0])
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _SECONDS:
        model.engine.predict(rows[calls % len(rows)])
        calls += 1
    return calls / elapsed


def _documents(model: Model, count: int) -> list[dict[str, object]]:
    draw = random.Random(0)
    return [{column.name: _draw(column, draw) for column in model.schema.columns} for _ in range(count)]


def _draw(column: Column, draw: random.Random) -> object:
    if column.is_string or column.type == "boolean":
        return "string" if column.is_string else draw.random() < 0.5
    low, high = (column.low, column.high) if column.limited else (0, 1)
    return draw.randint(int(low), int(high)) if column.is_whole else draw.uniform(low, high)


def _script(model: Model, folder: Path) -> Path:
    bodies, script = folder / "bodies.jsonl", folder / "post.lua"
    bodies.write_text("\n".join(json.dumps(document) for document in _documents(model, _BODIES)))
    script.write_text(_SCRIPT % bodies)
    return script


@contextmanager
def _replica(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "gunicorn"), "-c", "gunicorn.conf.py"]
    log = (folder / "replica.log").open("w+")
    process = subprocess.Popen(
        command, cwd=ROOT, env={**environ, "PORT": str(port)}, stdout=log, stderr=subprocess.STDOUT
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while ask_address(address, "GET", "/ready")[0] != 200:
            if process.poll() is not None:
                log.seek(0)
                raise CommandError(f"the replica did not start: {(log.read().strip().splitlines() or ['?'])[-1]}")
            time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _measure(wrk: str, address: str, pid: int, script: Path, connections: int) -> Measurement:
    before = _cpu_seconds(pid)
    command = [wrk, "-t1", f"-c{connections}", f"-d{_SECONDS}", "--latency", "-s", str(script), f"{address}/predict"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    spent = _cpu_seconds(pid) - before
    answers = int(_found(r"(\d+) requests in", output))
    errors = sum(int(number) for number in re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", output))
    return Measurement(
        connections=connections,
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        p50=_found(r"\n\s+50%\s+(\S+)", output),
        p99=_found(r"\n\s+99%\s+(\S+)", output),
        cpu=1e6 * spent / max(answers, 1),
        errors=errors,
    )


def _found(pattern: str, output: str) -> str:
    match = re.search(pattern, output)
    if match is None:
        raise CommandError(f"wrk printed no {pattern!r}: {output.strip()[:200]!r}")
    return match[1]


def _cpu_seconds(pid: int) -> float:
    """The CPU that a master and its workers have used so far."""
    master = psutil.Process(pid)
    times = [process.cpu_times() for process in [master, *master.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def _table(bare: float, rows: Sequence[Measurement]) -> str:
    lines = [
        "| connections | predictions/s | against a bare loop | P50 | P99 | CPU us an answer | errors |",
        "|---|---|---|---|---|---|---|",
        f"| bare loop | {bare:.0f} | 1.00 | | | {1e6 / bare:.0f} | |",
    ]
    lines += [
        f"| {row.connections} | {row.rate:.0f} | {row.rate / bare:.2f} | {row.p50} | {row.p99} | {row.cpu:.0f} "
        f"| {row.errors} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
