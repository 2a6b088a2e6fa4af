"""Readable reasons why a container failed or loses workers."""

from __future__ import annotations

from deploy.backends.docker.engine import Compose, Container, docker, log_lines
from deploy.backends.docker.provider import current_record
from server.system import memory_sizes

# Texts in a replica's log: the prefix of the server's errors (server/main.py), a memory limit that is too low
# (server/system/memory_sizes.py) and a killed worker (gunicorn.conf.py).
_ERROR_PREFIX, _LIMIT_TOO_LOW, _KILLED = "forkcast: ", "memory is limited to", "killed: out of memory"


def reason(container: Container, compose: Compose) -> str:
    """Return why a failed container ended: out of memory, or the last error that it printed."""
    lines = log_lines(container.id, 50)
    out_of_memory = container.oom_killed or _kernel_killed(container) or (lines and _LIMIT_TOO_LOW in lines[-1])
    if out_of_memory or not lines:
        needs = current_record(compose).get("needs") if container.service == "server" else None
        needs = needs if isinstance(needs, int) else None
        # Neither the engine nor the log reports a container that is killed right after its start.
        if out_of_memory or memory_sizes.shortage_warning(container.memory or None, needs):
            return memory_sizes.oom_message(container.memory or None, needs)
    errors = [line.removeprefix(_ERROR_PREFIX) for line in lines if line.startswith(_ERROR_PREFIX)]
    # The JSON lines are Nginx's access log, which has no reason for a failure.
    messages = [line for line in lines if not line.startswith('{"time":')]
    return (errors or messages or ["it printed nothing"])[-1]


def container_note(container: Container, compose: Compose) -> str | None:
    """Return a line for the user if a container failed or lost workers, or None."""
    if container.failed:
        return f"{container.name}: {reason(container, compose)}; restarted {container.restarts} time(s)"
    killed = [line for line in log_lines(container.id, 200) if _KILLED in line]
    if killed:
        return f"{container.name} lost {len(killed)} worker(s) recently: {killed[-1][killed[-1].index(_KILLED) :]}"
    return None


def _kernel_killed(container: Container) -> bool:
    """Return whether the engine has an out-of-memory event: its OOMKilled flag is reset by a restart."""
    filters = ["--filter", f"container={container.id}", "--filter", "event=oom"]
    return bool(docker("events", "--since", "1h", "--until", "0s", *filters).strip())
