"""How many files a process may have open: each connection is one."""

from __future__ import annotations

import resource
from contextlib import suppress

# As many as Nginx is given, where the machine allows it; docker-compose.yml has the same number.
WANTED = 65536


def allow_files(wanted: int = WANTED) -> int:
    """Let this process, and so those that it starts, open so many, or as many as it may; how many that is."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with suppress(ValueError, OSError):  # root may, others may not
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
