"""How many connections one process may have open."""

from __future__ import annotations

import resource

from failures import CannotStartError

# What Locust itself has open: its libraries, its logs, its master or its workers, its page.
_OWN = 200


def raise_limit() -> None:
    """As many as this user may have: the soft limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_limit(users: int) -> None:
    """Refuse more users than a process may have connections.

    Raises:
        CannotStartError: with what raises the limit.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = users + _OWN
    if soft != resource.RLIM_INFINITY and wanted > soft:
        raise CannotStartError(
            f"{users} users in one process need {wanted} open files, and it may have {soft}: run `ulimit -n {wanted}` "
            f"before (in Docker: `ulimits: {{nofile: {wanted}}}`), or use more workers"
        )
