"""`wrk`, the clients: found or installed, told what to post, run, and its words read."""

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

# Each request is written once and sent many times: the clients share the machine with what they measure.
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

# An answer that takes longer counts as an error, and as this long (seconds). Default: 2
_TIMEOUT = 10
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_ERRORS = {
    "connect": r"Socket errors:.* connect (\d+)",
    "read": r"Socket errors:.* read (\d+)",
    "write": r"Socket errors:.* write (\d+)",
    "timeout": r"Socket errors:.* timeout (\d+)",
    "status": r"Non-2xx or 3xx responses: (\d+)",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What the clients saw: latencies in milliseconds, and errors by kind, ``status`` for an answer that is one."""

    count: int
    rate: float
    p50: float
    p99: float
    errors: Mapping[str, int]

    @property
    def good(self) -> int:
        """The answers that were no errors."""
        return self.count - self.errors["status"]


class Wrk:
    """The program, with one thread: more would take the CPU from what they measure."""

    def __init__(self, binary: str) -> None:
        self._binary = binary

    def run(self, address: str, connections: int, seconds: int, script: Path | None = None) -> Answers:
        """Ask for ``address`` as often as it is answered; by POST with what ``script`` has, where there is one.

        Raises:
            CommandError: nothing was answered, in wrk's own words.
        """
        command = self._command(address, connections, seconds, script)
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return read_answers(ran.stdout)

    def warm_up(self, address: str, connections: int, seconds: float, script: Path) -> None:
        """Run, and forget what came of it. It takes whole seconds only, so it is stopped."""
        command = self._command(address, connections, 1 + int(seconds), script)
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, check=False, timeout=seconds)

    def _command(self, address: str, connections: int, seconds: int, script: Path | None) -> list[str]:
        posts = ["-s", str(script)] if script else []
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT}s", "--latency"]
        return [self._binary, *options, *posts, address]


def find_wrk() -> Wrk:
    """The system's wrk; installed first where it is missing and that is allowed.

    Raises:
        CommandError: it is missing, naming the command that installs it.
    """
    if found := shutil.which("wrk"):
        return Wrk(found)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandError("wrk is missing; install it first: sudo apt-get install wrk (or dnf, apk, pacman, ..)")
    print("wrk is missing: installing it with apt-get", flush=True)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "wrk"]):
        subprocess.run(["apt-get", "-qq", *command], env=environ, capture_output=True, check=False)
    if found := shutil.which("wrk"):
        return Wrk(found)
    raise CommandError("wrk is missing, and apt-get could not install it; try: apt-get update && apt-get install wrk")


def write_script(bodies: Path, folder: Path) -> Path:
    """What wrk runs to post the lines of ``bodies`` in turn."""
    script = folder / "post.lua"
    script.write_text(_SCRIPT % bodies)
    return script


def read_answers(output: str) -> Answers:
    """The figures in what wrk printed.

    Raises:
        CommandError: there are none.
    """
    count = int(_found(r"(\d+) requests in", output))
    if not count:
        raise CommandError("not one answer came in the time of a row; give it more with BENCH_SECONDS=")
    counts = {kind: re.search(pattern, output) for kind, pattern in _ERRORS.items()}
    return Answers(
        count=count,
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        p50=_milliseconds(_found(r"\n\s+50%\s+(\S+)", output)),
        p99=_milliseconds(_found(r"\n\s+99%\s+(\S+)", output)),
        errors={kind: int(match[1]) if match else 0 for kind, match in counts.items()},
    )


def _found(pattern: str, output: str) -> str:
    match = re.search(pattern, output)
    if match is None:
        raise CommandError(f"wrk printed no {pattern!r}: {' '.join(output.split())[:200]!r}")
    return match[1]


def _milliseconds(text: str) -> float:
    """A time as wrk writes it: ``850.00us``, ``4.33ms``, ``1.20s``."""
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text)
    if match is None:
        raise CommandError(f"wrk printed the time {text!r}; expected one in us, ms or s")
    return round(float(match[1]) * _MS[match[2]], 6)
