"""``python -m deploy.models.promote check|accept|undo``: the registry's part of moving to another model version.

- ``check VERSION`` tries the candidate and changes nothing. ``--before`` takes the previous version instead;
  ``--served DIGEST`` names the model that answers now; ``--force`` accepts a different signature.
- ``accept`` points the alias or stage of MODEL_URI at the candidate. ``--current`` also writes ``current.json``, which
  replicas without a registry read.
- ``undo`` restores what ``accept`` changed.

Each step prints one JSON document, which the next step reads from its standard input.
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

# main() sets the variables that MLflow reads at its import, so modules that import MLflow are imported in functions.


def check(options: ModelOptions, version: str | None, *, served: str | None, force: bool) -> dict[str, Any]:
    """Return the candidate as JSON, with the pointer that would name it.

    Raises:
        CommandError, StartError: the version cannot take over, for the reason in the message.
    """
    from deploy.models import candidate  # noqa: PLC0415
    from deploy.models.registry.pointer import Pointer  # noqa: PLC0415

    settings = options.settings
    pointer = Pointer.parse(settings.model_uri)
    _connect(settings)
    chosen = candidate.choose_version(pointer, version, settings)
    try:
        examined = candidate.examine(pointer, chosen, options, served=served, force=force)
    except (CommandError, StartError) as error:
        raise CommandError(f"version {chosen} may not be promoted: {error}") from None
    return {"pointer": str(pointer), **examined.to_json()}


def accept(options: ModelOptions, document: Mapping[str, Any], *, current: bool) -> dict[str, Any]:
    """Point alias, record and (if ``current``) current.json at the candidate; return the previous state as JSON.

    ``document`` is the candidate, with ``served_version``, the version that replicas serve until now, if it is known.

    Raises:
        CommandError, StartError: the registry does not answer; nothing was changed.
    """
    from deploy.models.candidate import Candidate  # noqa: PLC0415
    from deploy.models.registry.client import registry_errors  # noqa: PLC0415
    from deploy.models.registry.pointer import Pointer  # noqa: PLC0415

    settings = options.settings
    copies = Copies(settings.models_dir)
    _connect(settings)
    previous_copy = None
    with suppress(StartError):  # the alias may not be set yet, or may name a version that is gone
        previous_copy = resolve(settings).to_json()
    copy = replace(Candidate.from_json(document).copy, uri=settings.model_uri)
    pointer = Pointer.parse(settings.model_uri)
    with registry_errors(settings.tracking_uri):
        previous_state = pointer.move(copy.version, document.get("served_version"))
    try:
        copies.record(copy, settings.tracking_uri)
        if current:
            copies.make_current(copy)
    except BaseException:  # A full disk or Ctrl-C must not leave the registry ahead of the copies.
        with registry_errors(settings.tracking_uri):
            pointer.set_state(previous_state)
        raise
    return {"pointer": asdict(previous_state), "copy": previous_copy, "current": current}


def undo(options: ModelOptions, document: Mapping[str, Any]) -> dict[str, Any]:
    """Restore the state that :func:`accept` returned as ``document``.

    Raises:
        StartError: the registry does not answer; the copies are restored, and its alias or stage is not.
    """
    from deploy.models.registry.client import registry_errors  # noqa: PLC0415
    from deploy.models.registry.pointer import Pointer, PointerState  # noqa: PLC0415

    settings = options.settings
    copies = Copies(settings.models_dir)
    if document["current"]:
        copies.restore_previous()
    if document["copy"] is not None:
        copies.record(Copy.from_json(document["copy"]), settings.tracking_uri)
    _connect(settings)
    with registry_errors(settings.tracking_uri):
        Pointer.parse(settings.model_uri).set_state(PointerState(**document["pointer"]))
    return {}


def _connect(settings: Settings) -> None:
    """Make MLflow's clients use the registry of these settings, after a check that it answers.

    Raises:
        RegistryError: the registry's database is missing, or does not answer.
    """
    import mlflow  # noqa: PLC0415

    from deploy.models.registry.client import connect_to_database, registry_errors  # noqa: PLC0415

    refuse_missing_database(settings.tracking_uri)
    with registry_errors(settings.tracking_uri):
        connect_to_database(settings.tracking_uri)
    mlflow.set_tracking_uri(settings.tracking_uri)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.models.promote")
    steps = parser.add_subparsers(dest="step", required=True)
    check_parser = steps.add_parser("check")
    version_group = check_parser.add_mutually_exclusive_group(required=True)
    version_group.add_argument("version", nargs="?")
    version_group.add_argument("--before", action="store_true")
    check_parser.add_argument("--served")
    check_parser.add_argument("--force", action="store_true")
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
    """Run one step; return 0, or 1 after printing the error as one line on stderr."""
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
