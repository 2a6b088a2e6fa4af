"""``python -m deploy.models.weigh RECORD``: load a copy as a replica does, predict once, and print the memory it took.

It runs as its own process, so that the figures contain only the model. They count anonymous memory, in bytes; pages of
files are left out, because the kernel frees them before it kills a process.
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

# Loading and predicting together may take as long as a replica allows; the predict call has a shorter limit.
_TRIAL_TIMEOUT_SECONDS = 300
_PREDICT_TIMEOUT_SECONDS = 60
# A running replica also needs memory for its worker's event loop, its health checks and the kernel's own data about it.
_REPLICA_OVERHEAD_BYTES = 12 << 20
# A reload needs more than the two models: the process that resolves the new one, what the old workers shared with the
# master until its garbage collection, and the event loop of each new worker. Measured with the default model: 19 MB in
# total; with 17 MB and running health checks the kernel killed a process.
_RELOAD_OVERHEAD_BYTES = 12 << 20
_EVENT_LOOP_BYTES = 6 << 20


@dataclass(frozen=True, slots=True)
class Measurement:
    """The memory that a model needs (bytes), and the outcome of predicting its own example.

    ``needs`` is the total of a replica with one worker. ``model`` is the extra memory to load it beside another model,
    ``worker`` that of one forked worker that predicts. ``fault`` is the error that the example raised, or None.
    """

    needs: int
    model: int
    worker: int
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, which the constructor accepts."""
        return asdict(self)


def measure(copy: Copy, environment: Mapping[str, str]) -> Measurement:
    """Measure the memory that a replica needs for this model; ``environment`` is that of the process that loads it.

    Raises:
        CommandError: the model cannot be loaded, or crashes or hangs when it predicts.
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
            timeout=_TRIAL_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"the model cannot be served: it did not load and predict within {_TRIAL_TIMEOUT_SECONDS} s"
        ) from None
    if completed.returncode:
        reason = f"its process ended with {_describe_exit(completed.returncode)}"
        if completed.returncode > 0:
            reason = last_line(completed.stderr, reason)
        raise CommandError(f"the model cannot be served: {reason}")
    try:
        return Measurement(**json.loads(completed.stdout))
    except ValueError:
        raise CommandError("the model cannot be served: its process ended without printing a result") from None


def _describe_exit(code: int) -> str:
    """Name the exit status of a process, or the signal that killed it, whose number is then negative."""
    if code >= 0:
        return f"status {code}"
    name = next((number.name for number in signal.Signals if number == -code), str(-code))  # real-time ones have none
    return f"signal {name}"


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
    try:
        model = load_model(Copy.from_json(json.loads(sys.argv[1])), settings.engine, settings.kernels_dir)
    except StartError as error:
        sys.exit(str(error))
    create_app(settings, model)
    # The peak while loading may exceed what master and worker hold later.
    loading_peak = _proc_bytes(os.getpid(), "status", "VmHWM") - _proc_bytes(os.getpid(), "status", "RssFile")
    master = _anonymous_bytes(os.getpid())
    master_and_worker, fault = _predict_in_worker(model)
    measurement = Measurement(
        needs=max(loading_peak, master_and_worker) + _REPLICA_OVERHEAD_BYTES,
        model=max(loading_peak, master) - baseline + _RELOAD_OVERHEAD_BYTES + _REPLICA_OVERHEAD_BYTES,
        worker=master_and_worker - master + _EVENT_LOOP_BYTES,
        fault=fault,
    )
    print(json.dumps(measurement.to_json()), file=output, flush=True)
    os._exit(0)  # A normal exit would wait for threads that the model may have started.


def _reserve_stdout() -> TextIO:
    """Return a file for the original standard output; what the model prints goes to standard error from now on."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def _predict_in_worker(model: Model) -> tuple[int, str | None]:
    """Predict the example in a forked worker.

    Return the anonymous memory of this process and the worker together, shared pages counted once, and the fault.
    """
    result_reader, result_writer = os.pipe()
    release_reader, release_writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(result_reader)
        os.close(release_writer)
        with os.fdopen(result_writer, "w") as file:
            print(_prediction_fault(model), file=file, flush=True)
            os.read(release_reader, 1)  # Stay alive until the parent has read this process's memory.
        os._exit(0)
    os.close(result_writer)
    os.close(release_reader)
    in_time = select.select([result_reader], [], [], _PREDICT_TIMEOUT_SECONDS)[0]
    if not in_time:
        os.kill(worker, signal.SIGKILL)
    with os.fdopen(result_reader) as file:
        line = file.readline()
    total = sum(map(_anonymous_bytes, (os.getpid(), worker)))
    os.close(release_writer)
    _, status = os.waitpid(worker, 0)
    if not in_time:
        sys.exit(f"predicting its own example took more than {_PREDICT_TIMEOUT_SECONDS} s")
    if not line:
        ending = _describe_exit(os.waitstatus_to_exitcode(status))
        sys.exit(f"the process that predicted its own example ended with {ending}")
    return total, line.strip() or None


def _prediction_fault(model: Model) -> str:
    """Return the error that predicting the example raises, in one line, or an empty text.

    A replica logs such an error and serves the model all the same.
    """
    try:
        model.engine.predict(model.schema.to_rows([model.example_row]))
    except Exception as error:  # A model may raise anything.
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


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
