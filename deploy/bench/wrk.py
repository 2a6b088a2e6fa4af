"""`wrk`, the load generator: how it is found or installed, run, and how its output is parsed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import CommandError

# The script formats each request once, since the clients share the machine with the server under measurement.
_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local requests, turn = {}, 0
init = function()
  for line in io.lines("%s") do requests[#requests + 1] = wrk.format(nil, nil, nil, line) end
  turn = math.random(#requests)
end
request = function() turn = turn %% #requests + 1; return requests[turn] end
"""

# A slower answer counts as an error, with this latency. Default of wrk: 2
_TIMEOUT_SECONDS = 10
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_ERROR_PATTERNS = {
    "connect": r"Socket errors:.* connect (\d+)",
    "read": r"Socket errors:.* read (\d+)",
    "write": r"Socket errors:.* write (\d+)",
    "timeout": r"Socket errors:.* timeout (\d+)",
    "status": r"Non-2xx or 3xx responses: (\d+)",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a run: their number, rate per second, latencies in milliseconds, and errors by type.

    The error type ``status`` counts answers whose status is not 2xx or 3xx.
    """

    count: int
    rate: float
    p50: float
    p99: float
    errors: Mapping[str, int]

    @property
    def successful(self) -> int:
        """The number of answers with a status of 2xx or 3xx."""
        return self.count - self.errors["status"]


class Wrk:
    """The program wrk, run with one thread so that it leaves CPU time to the server."""

    def __init__(self, binary: str) -> None:
        self._binary = binary

    def run(self, address: str, connections: int, seconds: int, script: Path | None = None) -> Answers:
        """Send GET requests to ``address``, each connection one after another, or POST requests from ``script``.

        Raises:
            CommandError: nothing was answered; the message contains the output of wrk.
        """
        command = self._command(address, connections, seconds, script)
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return read_answers(ran.stdout)

    def warm_up(self, address: str, connections: int, seconds: float, script: Path) -> None:
        """Run without reading the figures. wrk only accepts whole seconds, so it is stopped after ``seconds``."""
        command = self._command(address, connections, 1 + int(seconds), script)
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, check=False, timeout=seconds)

    def _command(self, address: str, connections: int, seconds: int, script: Path | None) -> list[str]:
        script_options = ["-s", str(script)] if script else []
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT_SECONDS}s", "--latency"]
        return [self._binary, *options, *script_options, address]


def find_wrk() -> Wrk:
    """Return the installed wrk; if it is missing, root installs it with apt-get.

    Raises:
        CommandError: wrk is missing; the message names the command that installs it.
    """
    if path := shutil.which("wrk"):
        return Wrk(path)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandError("wrk is missing; install it first: sudo apt-get install wrk (or dnf, apk, pacman, ..)")
    print("wrk is missing: installing it with apt-get", flush=True)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "wrk"]):
        subprocess.run(["apt-get", "-qq", *command], env=environ, capture_output=True, check=False)
    if path := shutil.which("wrk"):
        return Wrk(path)
    raise CommandError("wrk is missing, and apt-get could not install it; try: apt-get update && apt-get install wrk")


def write_script(bodies: Path, folder: Path) -> Path:
    """Write the Lua script with which wrk posts the lines of ``bodies`` in turn; return its path."""
    script = folder / "post.lua"
    script.write_text(_SCRIPT % bodies)
    return script


def read_answers(output: str) -> Answers:
    """Parse the output of wrk.

    Raises:
        CommandError: the output has no figures, or nothing was answered.
    """
    count = int(_search(r"(\d+) requests in", output))
    if not count:
        raise CommandError("no answer arrived during a row; set a longer time with BENCH_SECONDS=")
    matches = {error: re.search(pattern, output) for error, pattern in _ERROR_PATTERNS.items()}
    return Answers(
        count=count,
        rate=float(_search(r"Requests/sec:\s+([\d.]+)", output)),
        p50=_milliseconds(_search(r"\n\s+50%\s+(\S+)", output)),
        p99=_milliseconds(_search(r"\n\s+99%\s+(\S+)", output)),
        errors={error: int(match[1]) if match else 0 for error, match in matches.items()},
    )


def _search(pattern: str, output: str) -> str:
    match = re.search(pattern, output)
    if match is None:
        raise CommandError(f"output of wrk: expected {pattern!r}, got {' '.join(output.split())[:200]!r}")
    return match[1]


def _milliseconds(text: str) -> float:
    """Return the milliseconds of a time in the format of wrk, such as ``850.00us``, ``4.33ms`` or ``1.20s``."""
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text)
    if match is None:
        raise CommandError(f"output of wrk: expected a time in us, ms, s, m or h, got {text!r}")
    return round(float(match[1]) * _MILLISECONDS[match[2]], 6)
