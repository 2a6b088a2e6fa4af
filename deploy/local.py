"""The name under which a stack that was started before version 0.2 starts Nginx again: ``deploy.local.takeover``.

supervisord keeps the command of a running program. Such a stack's Nginx is not replaced by ``make up``, which would
cost requests, but by the next change of its configuration or ``make down``.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent / "backends" / "local")]
