"""``python -m deploy.models.promote check|accept|undo``: what moving to another version asks of registry and copies.

``check VERSION`` (``--before``: the version before this one; ``--served DIGEST``: the model that answers now;
``--force``) tries the candidate and changes nothing. ``accept`` lets the alias or stage of MODEL_URI lead to it
(``--current``: and ``current.json``, which replicas without a registry read). ``undo`` takes that back. Each prints one
JSON document, which is the next one's standard input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from deploy.errors import CommandError
from deploy.models.registry.mlflow_variables import set_mlflow_variables
from deploy.options import ModelOptions
from server.errors import StartError
from server.model_store.copies import Copies, Copy
from server.model_store.resolve import refuse_missing_database, resolve
from server.settings import Settings

# The modules that import MLflow are imported below: only after main() has set the variables that MLflow reads then.


def check(options: ModelOptions, version: str | None, *, served: str | None, force: bool) -> dict[str, Any]:
    """The candidate, as JSON, with the pointer that would lead to it.

    Raises:
        CommandError, StartError: it may not take over, for this reason.
    """
    from deploy.models import candidate  # noqa: PLC0415
    from deploy.models.registry.pointer import Pointer  # noqa: PLC0415

    settings = options.settings
    pointer = Pointer.parse(settings.model_uri)
    _reach(settings)
    asked = candidate.version_asked(pointer, version, settings)
    try:
        found = candidate.examine(pointer, asked, options, served=served, force=force)
    except (CommandError, StartError) as error:
        raise CommandError(f"version {asked} may not be promoted: {error}") from None
    return {"pointer": str(pointer), **found.to_json()}


def accept(options: ModelOptions, document: Mapping[str, Any], *, current: bool) -> dict[str, Any]:
    """Let everything lead to the candidate; how it was before, as JSON.

    Raises:
        CommandError, StartError: the registry does not answer; nothing was changed.
    """
    from deploy.models.candidate import Candidate  # noqa: PLC0415
    from deploy.models.registry.client import reported  # noqa: PLC0415
    from deploy.models.registry.pointer import Pointer  # noqa: PLC0415

    settings = options.settings
    copies = Copies(settings.models_dir)
    _reach(settings)
    before = None
    with suppress(StartError):  # it led nowhere, or to what is gone
        before = resolve(settings).to_json()
    copy = replace(Candidate.from_json(document).copy, uri=settings.model_uri)
    pointer = Pointer.parse(settings.model_uri)
    with reported(settings.tracking_uri):
        place = pointer.move(copy.version)
    try:
        copies.record(copy, settings.tracking_uri)
        if current:
            copies.make_current(copy)
    except BaseException:  # a full disk, or Ctrl-C: all of it, or nothing
        with reported(settings.tracking_uri):
            pointer.put(place)
        raise
    return {"place": asdict(place), "copy": before, "current": current}


def undo(options: ModelOptions, document: Mapping[str, Any]) -> dict[str, Any]:
    """Make everything lead where it led before :func:`accept`, whose answer ``document`` is.

    Raises:
        StartError: the registry does not answer; the copies are as they were, and its alias or stage is not.
    """
    from deploy.models.registry.client import reported  # noqa: PLC0415
    from deploy.models.registry.pointer import Place, Pointer  # noqa: PLC0415

    settings = options.settings
    copies = Copies(settings.models_dir)
    if document["current"]:
        copies.make_previous_current()
    if document["copy"] is not None:
        copies.record(Copy.from_json(document["copy"]), settings.tracking_uri)
    _reach(settings)
    with reported(settings.tracking_uri):
        Pointer.parse(settings.model_uri).put(Place(**document["place"]))
    return {}


def _reach(settings: Settings) -> None:
    """Let MLflow ask this registry, if there is one.

    Raises:
        RegistryError: there is none, or it does not answer.
    """
    import mlflow  # noqa: PLC0415

    from deploy.models.registry.client import connect_to_database, reported  # noqa: PLC0415

    refuse_missing_database(settings.tracking_uri)
    with reported(settings.tracking_uri):
        connect_to_database(settings.tracking_uri)
    mlflow.set_tracking_uri(settings.tracking_uri)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.models.promote")
    steps = parser.add_subparsers(dest="step", required=True)
    checking = steps.add_parser("check")
    which = checking.add_mutually_exclusive_group(required=True)
    which.add_argument("version", nargs="?")
    which.add_argument("--before", action="store_true")
    checking.add_argument("--served")
    checking.add_argument("--force", action="store_true")
    steps.add_parser("accept").add_argument("--current", action="store_true")
    steps.add_parser("undo")
    return parser


def _run(arguments: argparse.Namespace, options: ModelOptions) -> dict[str, Any]:
    if arguments.step == "check":
        return check(options, arguments.version, served=arguments.served, force=arguments.force)
    document = json.load(sys.stdin)
    if arguments.step == "accept":
        return accept(options, document, current=arguments.current)
    return undo(options, document)


def main() -> int:
    """Take one step; 0, or 1 after one line of why on stderr."""
    set_mlflow_variables()
    try:
        print(json.dumps(_run(_parser().parse_args(), ModelOptions.read(os.environ))))
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot keep a copy of the model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
