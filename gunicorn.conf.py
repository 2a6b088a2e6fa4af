"""Gunicorn's configuration of one replica, started with `gunicorn -c gunicorn.conf.py`.

Every value comes from the environment through server.settings, never from GUNICORN_CMD_ARGS, so that there is one
source of settings. Gunicorn applies each global of this file whose name is one of its settings.
"""

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

# One native thread per worker, set before NumPy is imported: a worker has one CPU, and threads do not survive a fork.
for _name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "VECLIB_MAXIMUM"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"
os.environ["LOKY_MAX_CPU_COUNT"] = "1"
# MLflow's telemetry would run a thread in the master and send data to the internet.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

sys.path.insert(0, str(Path(__file__).parent))

from server import main  # noqa: E402
from server.errors import SettingsError  # noqa: E402
from server.metrics.folder import METRICS_FOLDER  # noqa: E402
from server.settings import Settings  # noqa: E402
from server.system import cgroup, memory_sizes  # noqa: E402

try:
    _settings = Settings.from_env(os.environ)
except SettingsError as _error:
    sys.exit(f"forkcast: {_error}")

try:
    METRICS_FOLDER.open()  # The folder must exist before the master creates its metrics.
except OSError as _error:
    sys.exit(f"forkcast: cannot create a folder for metrics in /dev/shm: {_error.strerror}")

wsgi_app = "server.main:create()"
preload_app = True  # The master loads the model once, and its workers share the memory.
worker_class = "server.workers.worker.Worker"

bind = _settings.bind
# Connections that may wait to be accepted, capped by the kernel (somaxconn). A full Unix socket refuses at once.
backlog = 8192
workers = _settings.workers
keepalive = _settings.keep_alive
graceful_timeout = _settings.graceful_timeout
# The master kills a worker whose predict call takes longer, or that has not touched its heartbeat file for so long.
timeout = max(60, _settings.graceful_timeout)
worker_tmp_dir = "/dev/shm"  # noqa: S108  (a heartbeat file on a disk would wait for the disk)
loglevel = _settings.log_level
proc_name = f"forkcast {_settings.replica}"
# The control socket is on by default. It runs a thread in the master, and all replicas of a user share its path.
control_socket_disable = True


def _freeze_memory() -> None:
    """Collect garbage and freeze the rest, so that the collector never writes to pages that workers share."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # Only glibc has malloc_trim.
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


def when_ready(server):  # type: ignore[no-untyped-def]
    """Run after the model is loaded and the socket is bound, before the first fork."""
    server.oom_kills = cgroup.oom_kills()
    _freeze_memory()


def on_reload(server):  # type: ignore[no-untyped-def]
    """Load the current model before the new workers are forked. It must not raise: that would end the master."""
    server.app.callable = main.reload(server.app.callable)
    gc.unfreeze()  # Otherwise the previous model would never be freed.
    _freeze_memory()


def pre_fork(server, worker):  # type: ignore[no-untyped-def]
    """Give the worker a slot in the table that balances connections, and the current API keys."""
    worker.slot = worker.connection_counts.free_slot({other.slot for other in server.WORKERS.values()})
    if keys := server.app.wsgi().keys:
        keys.refresh()


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """Release the slot and the metrics of a worker that ended, and log it if the OOM killer ended it."""
    worker.connection_counts.clear(worker.slot)
    METRICS_FOLDER.leave_slot(worker.slot)
    kills = cgroup.oom_kills()
    if kills > server.oom_kills:
        server.oom_kills = kills
        reason = memory_sizes.oom_message(cgroup.memory_limit(), server.app.wsgi().model.needs)
        server.log.error("worker %d was %s", worker.pid, reason)


def post_fork(_server, worker):  # type: ignore[no-untyped-def]
    """Start this worker's metrics and make the OOM killer prefer it to the master, which takes longer to replace."""
    METRICS_FOLDER.enter_slot(worker.slot)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
