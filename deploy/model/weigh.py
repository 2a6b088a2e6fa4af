"""``python -m deploy.model.weigh RECORD``: load a copy as a replica does, predict once, and print the memory it took.

A process of its own, so that the figure is the model's: the most that it held in memory, in bytes, while it loaded or
with a worker beside it, without the pages of files, which the kernel gives up before it kills.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import CommandError
from server.copies import Copy
from server.model import Model, load_model
from server.settings import ROOT, Settings

# The event loop of the worker, the health check beside it, and what the kernel keeps for the processes (bytes).
_BESIDES = 12 << 20


def weigh(copy: Copy, environ: Mapping[str, str]) -> int:
    """The bytes that a replica of one worker needs for this model.

    Raises:
        CommandError: it cannot be loaded.
    """
    command = [sys.executable, "-m", "deploy.model.weigh", json.dumps(copy.to_json())]
    ran = subprocess.run(command, env=dict(environ), cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"status {ran.returncode}"]
        raise CommandError(f"the model cannot be served: {lines[-1]}")
    return int(ran.stdout.split()[-1])


def main() -> None:
    """Be the replica's master and its worker in one, without a socket."""
    # Imported here: the command that asks for the figure needs none of this.
    import gunicorn.app.wsgiapp  # noqa: F401, PLC0415
    import uvicorn_worker  # noqa: F401, PLC0415

    from server.app import create_app  # noqa: PLC0415
    from server.errors import StartError  # noqa: PLC0415

    settings = Settings.from_env(os.environ)
    try:
        model = load_model(Copy.from_json(json.loads(sys.argv[1])), settings.engine, settings.kernels_dir)
    except StartError as error:
        sys.exit(str(error))
    create_app(settings, model)
    # While it loads, a master may hold more than later with its worker.
    loading = _figure(os.getpid(), "status", "VmHWM") - _figure(os.getpid(), "status", "RssFile")
    print(max(loading, _with_a_worker(model)) + _BESIDES)


def _with_a_worker(model: Model) -> int:
    """What this process and one that is forked from it, and predicts, hold together; shared pages count once."""
    ready, tell = os.pipe()
    wait, release = os.pipe()
    worker = os.fork()
    if worker == 0:
        # A replica tells of it in its log, and serves all the same.
        with contextlib.suppress(Exception):
            model.engine.predict(model.schema.rows([model.example_row]))
        os.write(tell, b"1")
        os.close(release)
        os.read(wait, 1)
        os._exit(0)
    os.close(tell)
    os.read(ready, 1)
    held = sum(_figure(pid, "smaps_rollup", "Pss_Anon") for pid in (os.getpid(), worker))
    os.close(release)
    os.waitpid(worker, 0)
    return held


def _figure(pid: int, file: str, name: str) -> int:
    """A figure of a process (proc(5)), in bytes; 0 where the kernel does not tell it."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


if __name__ == "__main__":
    main()
