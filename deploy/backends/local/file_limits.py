"""The limit of open files of a process; each connection counts as one."""

from __future__ import annotations

import resource
from contextlib import suppress

# The limit for Nginx, if the machine allows it; docker-compose.yml has the same number.
OPEN_FILES = 65536


def raise_file_limit(wanted: int = OPEN_FILES) -> int:
    """Raise the limit of this process and its children to ``wanted``, or as far as allowed; return the new limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with suppress(ValueError, OSError):  # Only root may raise the hard limit.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
