"""``python -m deploy.models.weigh RECORD``: load a copy as a replica does, predict once, and print what that took.

A process of its own, so that the figures are the model's: what it held in memory, in bytes, while it loaded or with a
worker beside it, without the pages of files, which the kernel gives up before it kills.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from deploy.errors import CommandError
from server.engines.loading import load_model
from server.errors import last_line
from server.inference.model import Model
from server.model_store.copies import Copy
from server.settings import ROOT, Settings

# How long loading and predicting may take, and of that one predict call: as long as a replica gives it (seconds).
_PATIENCE = 300
_LONGEST_CALL = 60
# The event loop of the worker, the health check beside it, and what the kernel keeps for the processes (bytes).
_BESIDES = 12 << 20
# While a replica reloads: the process that resolves, and what the old workers shared with the master until it collected
# its garbage; and the event loop of each new worker. Seen with the default model, in all: 19 MB more than before, and
# at 17 more, with the health checks beside it, the kernel killed.
_RESOLVING, _LOOP = 12 << 20, 6 << 20


@dataclass(frozen=True, slots=True)
class Weight:
    """What a model takes (bytes), and what its own example made it say.

    ``needs`` is all that a replica of one worker needs. ``model`` and ``worker`` are what it takes more to load it
    beside another, and to fork a worker that predicts. ``fault`` tells why the example was not predicted, if so.
    """

    needs: int
    model: int
    worker: int
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, which are the constructor's."""
        return asdict(self)


def weigh(copy: Copy, environment: Mapping[str, str]) -> Weight:
    """Return what a replica needs for this model; ``environment`` is that of the process that loads it.

    Raises:
        CommandError: it cannot be loaded.
    """
    command = [sys.executable, "-m", "deploy.models.weigh", json.dumps(copy.to_json())]
    try:
        ran = subprocess.run(
            command, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"the model cannot be served: it was not loaded in {_PATIENCE} s") from None
    if ran.returncode:
        reason = last_line(ran.stderr, f"status {ran.returncode}")
        raise CommandError(f"the model cannot be served: {reason}")
    try:
        return Weight(**json.loads(ran.stdout))
    except ValueError:
        raise CommandError("the model cannot be served: its process ended without an answer") from None


def main() -> None:
    """Be the replica's master and its worker in one, without a socket."""
    # Imported here: the command that asks for the figures needs none of this.
    import gunicorn.app.wsgiapp  # noqa: F401, PLC0415
    import uvicorn_worker  # noqa: F401, PLC0415

    from server.errors import StartError  # noqa: PLC0415
    from server.http.app import create_app  # noqa: PLC0415

    settings = Settings.from_env(os.environ)
    answer = _own_stdout()
    before = _held(os.getpid())
    try:
        model = load_model(Copy.from_json(json.loads(sys.argv[1])), settings.engine, settings.kernels_dir)
    except StartError as error:
        sys.exit(str(error))
    create_app(settings, model)
    # While it loads, a master may hold more than later with its worker.
    loading = _figure(os.getpid(), "status", "VmHWM") - _figure(os.getpid(), "status", "RssFile")
    alone = _held(os.getpid())
    together, fault = _with_a_worker(model)
    weight = Weight(
        needs=max(loading, together) + _BESIDES,
        model=max(loading, alone) - before + _RESOLVING + _BESIDES,
        worker=together - alone + _LOOP,
        fault=fault,
    )
    print(json.dumps(weight.to_json()), file=answer, flush=True)
    os._exit(0)  # a thread of the model's would be waited for


def _own_stdout() -> TextIO:
    """The standard output, for the answer alone: what a model prints goes to standard error from now on."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answer


def _with_a_worker(model: Model) -> tuple[int, str | None]:
    """What this process and one that is forked from it, and predicts, hold together; shared pages count once."""
    told, tell = os.pipe()
    wait, release = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(told)
        os.close(release)
        with os.fdopen(tell, "w") as file:  # its first line says that the worker has predicted, or why not
            print(_fault(model), file=file, flush=True)
            os.read(wait, 1)
        os._exit(0)
    os.close(tell)
    os.close(wait)
    in_time = select.select([told], [], [], _LONGEST_CALL)[0]
    if not in_time:
        os.kill(worker, signal.SIGKILL)
    with os.fdopen(told) as file:
        line = file.readline()
    held = sum(map(_held, (os.getpid(), worker)))
    os.close(release)
    _, status = os.waitpid(worker, 0)
    if not in_time:
        sys.exit(f"its own example took more than {_LONGEST_CALL} s")
    if not line:
        sys.exit(f"the process that predicted its own example ended with status {os.waitstatus_to_exitcode(status)}")
    return held, line.strip() or None


def _fault(model: Model) -> str:
    """Why the example is not predicted, in one line, or nothing. A replica logs that, and serves all the same."""
    try:
        model.engine.predict(model.schema.rows([model.example_row]))
    except Exception as error:  # whatever a model raises
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def _held(pid: int) -> int:
    """A process's own memory, with its part of what it shares (bytes); nothing of one that has ended."""
    try:
        return _figure(pid, "smaps_rollup", "Pss_Anon")
    except OSError:
        return 0


def _figure(pid: int, file: str, name: str) -> int:
    """A figure of a process (proc(5)), in bytes; 0 where the kernel does not tell it."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


if __name__ == "__main__":
    main()
