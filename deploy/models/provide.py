"""``python -m deploy.models.provide [--undo]``: copy the model to where replicas without a registry read it, and exit.

It resolves ``MODEL_URI`` (training the default model first if the registry is empty), measures the memory that the
model needs, and makes the copy current. If any step fails, the current model stays as it was. ``--undo`` makes the
previously current model current again.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace

from deploy.errors import CommandError
from deploy.models.ensure import ensure_model
from deploy.models.weigh import measure
from deploy.options import ModelOptions
from server.errors import StartError
from server.model_store.copies import Copies, Copy
from server.system import memory_sizes


def provide(options: ModelOptions) -> Copy:
    """Make the model of these options current, and return its copy.

    Raises:
        CommandError, StartError: the model cannot be found, or cannot be served.
    """
    copies = Copies(options.settings.models_dir)
    copy = _stored(copies, ensure_model(options))
    copy = replace(copy, needs=measure(copy, options.environment).needs)
    copies.make_current(copy)
    return copy


def _stored(copies: Copies, copy: Copy) -> Copy:
    """Return the model's copy inside the model store, the only folder that replicas see."""
    stored_folder = copies.path(copy.digest)
    if copy.model_folder == stored_folder:
        return copy
    with copies.lock():
        if not copies.holds(copy.digest):
            with copies.staging_folder() as staging:
                shutil.copytree(copy.model_folder, staging / "model")
                copies.add(staging / "model", copy.digest)
    return replace(copy, model_folder=stored_folder)


def main() -> int:
    """Provide the model that the environment names; return 0, or 1 after printing the error as one line on stderr."""
    try:
        options = ModelOptions.read(os.environ)
        if sys.argv[1:] == ["--undo"]:
            Copies(options.settings.models_dir).restore_previous()
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
