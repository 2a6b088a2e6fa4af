"""``python -m deploy.model.weigh RECORD``: load a copy as a replica does, predict once, and print the memory it took.

A process of its own, so that the figure is the model's: the peak of what it held in memory, in bytes, without the pages
of files, which the kernel gives up before it kills.
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
from server.settings import ROOT, Settings


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
    from server.model import load_model  # noqa: PLC0415

    settings = Settings.from_env(os.environ)
    try:
        model = load_model(Copy.from_json(json.loads(sys.argv[1])), settings.engine)
    except StartError as error:
        sys.exit(str(error))
    create_app(settings, model)
    # A replica tells of it in its log, and serves all the same.
    with contextlib.suppress(Exception):
        model.engine.predict(model.example_rows)
    # The peak of all pages, and those of files now (proc(5), status).
    print(_status("VmHWM") - _status("RssFile"))


def _status(name: str) -> int:
    """A figure of this process, in bytes. Unlike getrusage's, none of it is the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
