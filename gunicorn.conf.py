"""Settings to Gunicorn's names, and fork hygiene. `gunicorn -c gunicorn.conf.py` starts a replica.

Everything else comes from the environment, by server.settings; GUNICORN_CMD_ARGS stays unused, so that there is one
channel. A name in this file that is also a Gunicorn setting is applied as one.
"""

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

# One native thread a worker, told before NumPy is imported: a worker is one CPU, and threads do not survive a fork.
for _name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "VECLIB_MAXIMUM"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"
os.environ["LOKY_MAX_CPU_COUNT"] = "1"
# MLflow's telemetry is a thread in the master, and a call to the outside.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

sys.path.insert(0, str(Path(__file__).parent))

from server import main  # noqa: E402
from server.errors import SettingsError  # noqa: E402
from server.metrics.folder import FOLDER  # noqa: E402
from server.settings import Settings  # noqa: E402
from server.system import cgroup, memory_sizes  # noqa: E402

try:
    _settings = Settings.from_env(os.environ)
except SettingsError as _error:
    sys.exit(f"forkcast: {_error}")

try:
    FOLDER.open()  # before the master makes its metrics
except OSError as _error:
    sys.exit(f"forkcast: no folder for metrics can be made in /dev/shm: {_error.strerror}")

wsgi_app = "server.main:create()"
preload_app = True  # the model is loaded once, here in the master
worker_class = "server.workers.worker.Worker"

bind = _settings.bind
# Connections that wait to be accepted; a full queue refuses at once on a Unix socket. The kernel caps it (somaxconn).
backlog = 8192
workers = _settings.workers
keepalive = _settings.keep_alive
graceful_timeout = _settings.graceful_timeout
# A worker is replaced whose predict call runs for longer, or that has not touched its heartbeat file for as long.
timeout = max(60, _settings.graceful_timeout)
worker_tmp_dir = "/dev/shm"  # noqa: S108  (a heartbeat on a disk waits for the disk)
loglevel = _settings.log_level
proc_name = f"forkcast {_settings.replica}"
# On by default, at one path for every replica of a user, and a thread in the master.
control_socket_disable = True


def _settle() -> None:
    """Leave the master's memory as the workers should share it: no garbage, nothing that the collector touches."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another libc than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


def when_ready(server):  # type: ignore[no-untyped-def]
    """Run after the model is loaded and the socket is bound, before the first fork."""
    server.oom_kills = cgroup.oom_kills()
    _settle()


def on_reload(server):  # type: ignore[no-untyped-def]
    """Run before the forks of a reload: they get the model that MODEL_URI means now. It may not raise."""
    server.app.callable = main.reload(server.app.callable)
    gc.unfreeze()  # or the model before would stay
    _settle()


def pre_fork(server, worker):  # type: ignore[no-untyped-def]
    """Give the worker its place in the shares by which connections are spread, and the API keys of this moment."""
    worker.slot = worker.shares.free_slot({other.slot for other in server.WORKERS.values()})
    if keys := server.app.wsgi().keys:
        keys.follow()


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """A worker that was killed takes no more connections and has no rows; if that was for its memory, say so."""
    worker.shares.clear(worker.slot)
    FOLDER.leave(worker.slot)
    kills = cgroup.oom_kills()
    if kills > server.oom_kills:
        server.oom_kills = kills
        words = memory_sizes.oom_message(cgroup.memory_limit(), server.app.wsgi().model.needs)
        server.log.error("worker %d was %s", worker.pid, words)


def post_fork(_server, worker):  # type: ignore[no-untyped-def]
    """It counts; and the kernel, out of memory, is to choose a worker, replaced in milliseconds, and not the master."""
    FOLDER.enter(worker.slot)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
