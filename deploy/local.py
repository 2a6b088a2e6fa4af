"""An alias of ``deploy.backends.local``, for stacks that an older release started and that are still running.

Their supervisord restarts Nginx by its old command, ``python -m deploy.local.takeover``. ``make up`` does not replace
the Nginx of such a stack, since that would fail requests. The next change of its configuration replaces it, and so do
``make down`` and ``make up``.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent / "backends" / "local")]
