"""`python -m deploy.scaling VERB`: what `make compare` and its like run. Arguments come as variables."""

from __future__ import annotations

import sys

from deploy.errors import CommandError
from deploy.options import Options, read_environment
from deploy.scaling.verbs import VERBS, Lab
from deploy.stack.interrupt import Interrupted, listen
from deploy.stack.paths import Layout
from server.errors import StartError


def main(arguments: list[str]) -> int:
    """Run one verb; whatever it measured is reported, also where it ends early: the status is then 1, or 130."""
    if len(arguments) != 1 or arguments[0] not in VERBS:
        print(f"usage: python -m deploy.scaling {{{'|'.join(VERBS)}}}", file=sys.stderr)
        return 2
    status = 0
    listen()
    try:
        environ = read_environment()
        layout = Layout(Options.read_leniently(environ).var_dir.resolve())
        VERBS[arguments[0]](Lab(layout, environ))
    except Interrupted as error:
        status = _failed(str(error), error.status)
    except (CommandError, StartError, OSError) as error:
        status = _failed(str(error), 1)
    return status


def _failed(reason: str, status: int) -> int:
    print(f"error: {reason}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
