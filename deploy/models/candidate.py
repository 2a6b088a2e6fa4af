"""A model version that is to replace the served one, and the checks that it must pass first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow.tracking import MlflowClient

from deploy.errors import CommandError
from deploy.models.registry.client import registry_errors
from deploy.models.registry.pointer import Pointer
from deploy.models.registry.versions import CHECK_TAG
from deploy.models.signature_difference import describe_difference, describe_other_columns
from deploy.models.weigh import Measurement, measure
from deploy.options import ModelOptions
from server.engines import companion
from server.errors import RegistryError
from server.model_store.copies import Copies, Copy
from server.model_store.mlmodel import MLmodel
from server.model_store.resolve import resolve
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that passed the checks: its copy on this host, and the memory that it needs."""

    copy: Copy
    measurement: Measurement

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Candidate:
        """Return the candidate that :meth:`to_json` described."""
        return cls(Copy.from_json(document["copy"]), Measurement(**document["weight"]))

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as plain JSON values."""
        return {"copy": self.copy.to_json(), "weight": self.measurement.to_json()}


def choose_version(pointer: Pointer, version: str | None, settings: Settings) -> str:
    """Return ``version`` if the registry has it or, without one, the version that the pointer named previously.

    Raises:
        CommandError: the version does not exist, or there is no previous one.
        RegistryError: the registry does not answer.
    """
    with registry_errors(settings.tracking_uri):
        existing = pointer.versions()
        previous = pointer.state().previous if version is None else None
    if version is None and previous is None:
        raise CommandError(
            f"{pointer} has no previous version to go back to; choose one: make promote VERSION={' or '.join(existing)}"
        )
    if previous is not None and previous not in existing:
        raise CommandError(
            f"the previous version {previous} was deleted; choose another: make promote VERSION={' or '.join(existing)}"
        )
    if (chosen := version or str(previous)) not in existing:
        raise CommandError(f"VERSION={chosen!r}: expected a version of {pointer.name}: {', '.join(existing)}")
    return chosen


def examine(pointer: Pointer, version: str, options: ModelOptions, *, served: str | None, force: bool) -> Candidate:
    """Download a version to this host and try it in child processes.

    ``served`` is the digest of the model that answers now. ``force`` accepts a signature that differs from that of
    the served model.

    Raises:
        CommandError, StartError: the version failed one of the checks.
    """
    settings = options.settings
    _refuse_failed(pointer, version, settings)
    copy = resolve(replace(settings, model_uri=f"models:/{pointer.name}/{version}"))
    if copy.stale is not None:
        raise RegistryError(copy.stale)
    _refuse_companion(copy)
    served_folder = Copies(settings.models_dir).path(served) if served else None
    if force or served_folder is None or not served_folder.is_dir():
        served_folder = None  # nothing to compare with
    if served_folder:
        _refuse_difference(describe_difference(served_folder, copy.model_folder))
    measurement = measure(copy, options.environment)
    if served_folder and MLmodel.read(copy.model_folder).schema is None:
        served_columns = measure(replace(copy, model_folder=served_folder), options.environment).columns
        _refuse_difference(describe_other_columns(served_columns, measurement.columns))
    return Candidate(replace(copy, needs=measurement.needs), measurement)


def _refuse_failed(pointer: Pointer, version: str, settings: Settings) -> None:
    with registry_errors(settings.tracking_uri):
        check = MlflowClient().get_model_version(pointer.name, version).tags.get(CHECK_TAG, "")
    if check.startswith("failed"):
        raise CommandError(f"the check after its training {check}")


def _refuse_companion(copy: Copy) -> None:
    """Refuse a companion that replicas could not use: they would serve without it, and only log a warning.

    Raises:
        CompanionRefused: the companion is damaged, failed its check or belongs to another model.
    """
    mlmodel = MLmodel.read(copy.model_folder)
    for engine, flavor in companion.FLAVORS.items():
        if flavor in mlmodel.flavors:
            companion.find(mlmodel, engine)


def _refuse_difference(difference: str | None) -> None:
    if difference:
        raise CommandError(f"its signature differs from the served model's: {difference}; FORCE=1 accepts it")
