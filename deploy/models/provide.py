"""``python -m deploy.models.provide [--undo]``: bring the model to where replicas without a registry find it, and end.

It resolves ``MODEL_URI``, training the default model first where the registry is empty, weighs it, and makes the copy
current. What replicas serve until then stays what it was, whatever fails here; ``--undo`` takes the last change back.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace

from deploy.errors import CommandError
from deploy.models.ensure import ensure_model
from deploy.models.weigh import weigh
from deploy.options import ModelOptions
from server.errors import StartError
from server.model_store.copies import Copies, Copy
from server.system import memory_sizes


def provide(options: ModelOptions) -> Copy:
    """The copy that is current now.

    Raises:
        CommandError, StartError: there is no such model, or it cannot be served.
    """
    copies = Copies(options.settings.models_dir)
    copy = _kept(copies, ensure_model(options))
    copy = replace(copy, needs=weigh(copy, options.environment).needs)
    copies.make_current(copy)
    return copy


def _kept(copies: Copies, copy: Copy) -> Copy:
    """A model in a folder of this host is copied too: the replicas see no other folder."""
    home = copies.path(copy.digest)
    if copy.model_folder == home:
        return copy
    with copies.lock():
        if not copies.holds(copy.digest):
            with copies.aside() as aside:
                shutil.copytree(copy.model_folder, aside / "model")
                copies.add(aside / "model", copy.digest)
    return replace(copy, model_folder=home)


def main() -> int:
    """Provide what the environment asks for; 0, or 1 after one line of why on stderr."""
    try:
        options = ModelOptions.read(os.environ)
        if sys.argv[1:] == ["--undo"]:
            Copies(options.settings.models_dir).make_previous_current()
            return 0
        copy = provide(options)
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot keep a copy of the model: {error}", file=sys.stderr)
        return 1
    stale = f"; it is the last good copy: {copy.stale}" if copy.stale else ""
    needs = memory_sizes.format_size(copy.needs or 0)
    print(f"{copy.name} version {copy.version} is ready to be served; it needs about {needs} of memory{stale}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
