"""Why a container is not well, in words: the kernel and the engine use none."""

from __future__ import annotations

from deploy.backends.docker.engine import Compose, Container, docker, log_lines
from deploy.backends.docker.provider import current
from server.system import memory_sizes

# How our own lines in a replica's log begin, or what they say: server/main.py, server/system/memory_sizes.py and
# gunicorn.conf.py write them.
_OURS, _SHORT, _KILLED = "forkcast: ", "memory is limited to", "killed: out of memory"


def reason(container: Container, compose: Compose) -> str:
    """Why a container that failed did so."""
    lines = log_lines(container.id, 50)
    told = container.oom_killed or _kernel_killed(container) or (lines and _SHORT in lines[-1])
    if told or not lines:
        needs = current(compose).get("needs") if container.service == "server" else None
        needs = needs if isinstance(needs, int) else None
        # Killed in its first moments, before it could say a word, it may not count as killed.
        if told or memory_sizes.shortage_warning(container.memory or None, needs):
            return memory_sizes.oom_message(container.memory or None, needs)
    ours = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
    # Nginx's lines of requests say nothing of itself.
    words = [line for line in lines if not line.startswith('{"time":')]
    return (ours or words or ["it printed nothing"])[-1]


def note(container: Container, compose: Compose) -> str | None:
    """What a user should know of a container that is not well, or that loses workers; None if all is well."""
    if container.failed:
        return f"{container.name} {reason(container, compose)}; started again {container.restarts} time(s)"
    killed = [line for line in log_lines(container.id, 200) if _KILLED in line]
    if killed:
        return f"{container.name} lost {len(killed)} worker(s) of late: {killed[-1][killed[-1].index(_KILLED) :]}"
    return None


def _kernel_killed(container: Container) -> bool:
    """Whether the engine heard of it: its own flag is gone as soon as the container is started again."""
    filters = ["--filter", f"container={container.id}", "--filter", "event=oom"]
    return bool(docker("events", "--since", "1h", "--until", "0s", *filters).strip())
