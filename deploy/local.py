"""The name by which a running stack that older code started starts Nginx again: ``deploy.local.takeover``.

supervisord keeps the command of a running program. ``make up`` does not replace such a stack's Nginx, which would cost
requests; the next change of its configuration does, and so do ``make down`` and ``make up``.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent / "backends" / "local")]
