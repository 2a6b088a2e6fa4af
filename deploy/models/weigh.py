"""``python -m deploy.models.weigh RECORD``: load a copy as a replica does, predict once, and print the memory it took.

It runs as its own process, so that the figures contain only the model. They count anonymous memory, in bytes; pages of
files are left out, because the kernel frees them before it kills a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from deploy.errors import CommandError
from server.engines.loading import load_model
from server.errors import last_line
from server.model_store.copies import Copy
from server.settings import ROOT, Settings
from server.workers.trial import describe_exit, tried

# Loading and predicting together may take as long as a replica allows; the trial prediction has a shorter limit.
_TIMEOUT_SECONDS = 300
# A running replica also needs memory for its worker's event loop, its health checks and the kernel's own data about it.
_REPLICA_OVERHEAD_BYTES = 12 << 20
# A reload needs more than the two models: the process that resolves the new one, what the old workers shared with the
# master until its garbage collection, and the event loop of each new worker. Measured with the default model: 19 MB in
# total; with 17 MB and running health checks the kernel killed a process.
_RELOAD_OVERHEAD_BYTES = 12 << 20
_EVENT_LOOP_BYTES = 6 << 20


@dataclass(frozen=True, slots=True)
class Measurement:
    """The memory that a model needs (bytes), and the names of its columns.

    ``needs`` is the total of a replica with one worker. ``model`` is the extra memory to load it beside another model,
    ``worker`` that of one forked worker that predicts. ``columns`` are those that the loaded model takes, which a model
    without a signature tells in no other way.
    """

    needs: int
    model: int
    worker: int
    columns: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, which the constructor accepts."""
        return asdict(self)


def measure(copy: Copy, environment: Mapping[str, str]) -> Measurement:
    """Measure the memory that a replica needs for this model; ``environment`` is that of the process that loads it.

    Raises:
        CommandError: the model cannot be loaded, or cannot predict.
    """
    command = [sys.executable, "-m", "deploy.models.weigh", json.dumps(copy.to_json())]
    try:
        completed = subprocess.run(
            command,
            env=dict(environment),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"the model cannot be served: it did not load and predict within {_TIMEOUT_SECONDS} s"
        ) from None
    if completed.returncode:
        reason = f"its process ended with {describe_exit(completed.returncode)}"
        if completed.returncode > 0:
            reason = last_line(completed.stderr, reason)
        raise CommandError(f"the model cannot be served: {reason}")
    try:
        return Measurement(**json.loads(completed.stdout))
    except ValueError:
        raise CommandError("the model cannot be served: its process ended without printing a result") from None


def main() -> None:
    """Act as a replica's master and its worker, without a socket, and print the measurement as JSON."""
    # Imported here, because the command that starts this process needs none of these modules.
    import gunicorn.app.wsgiapp  # noqa: F401, PLC0415
    import uvicorn_worker  # noqa: F401, PLC0415

    from server.errors import StartError  # noqa: PLC0415
    from server.http.app import create_app  # noqa: PLC0415

    settings = Settings.from_env(os.environ)
    output = _reserve_stdout()
    baseline = _anonymous_bytes(os.getpid())
    totals: list[int] = []
    try:
        copy = Copy.from_json(json.loads(sys.argv[1]))
        model = load_model(copy, settings.engine, settings.kernels_dir)
        create_app(settings, model)
        # The peak while loading may exceed what master and worker hold later.
        loading_peak = _proc_bytes(os.getpid(), "status", "VmHWM") - _proc_bytes(os.getpid(), "status", "RssFile")
        master = _anonymous_bytes(os.getpid())
        # The trial's child has the memory of a worker; pages that it shares with this process count once.
        tried(
            model, copy.model_folder, inspect=lambda pid: totals.append(sum(map(_anonymous_bytes, (os.getpid(), pid))))
        )
    except StartError as error:
        sys.exit(str(error))
    (master_and_worker,) = totals
    measurement = Measurement(
        needs=max(loading_peak, master_and_worker) + _REPLICA_OVERHEAD_BYTES,
        model=max(loading_peak, master) - baseline + _RELOAD_OVERHEAD_BYTES + _REPLICA_OVERHEAD_BYTES,
        worker=master_and_worker - master + _EVENT_LOOP_BYTES,
        columns=model.schema.names,
    )
    print(json.dumps(measurement.to_json()), file=output, flush=True)
    os._exit(0)  # A normal exit would wait for threads that the model may have started.


def _reserve_stdout() -> TextIO:
    """Return a file for the original standard output; what the model prints goes to standard error from now on."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def _anonymous_bytes(pid: int) -> int:
    """Return the proportional anonymous memory of a process (``Pss_Anon`` of proc(5)); 0 if it has ended."""
    try:
        return _proc_bytes(pid, "smaps_rollup", "Pss_Anon")
    except OSError:
        return 0


def _proc_bytes(pid: int, file: str, name: str) -> int:
    """Return a field of ``/proc/<pid>/<file>`` (proc(5)), in bytes; 0 if the kernel does not report it."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


if __name__ == "__main__":
    main()
