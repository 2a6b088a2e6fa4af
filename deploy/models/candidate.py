"""Whether another version may take over from the one that is served: found, loaded, made to predict, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from deploy.errors import CommandError
from deploy.models.registry.client import reported
from deploy.models.registry.pointer import Pointer
from deploy.models.registry.versions import CHECK_TAG
from deploy.models.signature_difference import difference
from deploy.models.weigh import Weight, weigh
from deploy.options import ModelOptions
from server.engines import companion
from server.errors import RegistryError
from server.model_store.copies import Copies, Copy
from server.model_store.mlmodel import MLmodel
from server.model_store.resolve import resolve
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that may be served: its copy on this host, and what it takes."""

    copy: Copy
    weight: Weight

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Candidate:
        """The inverse of :meth:`to_json`."""
        return cls(Copy.from_json(document["copy"]), Weight(**document["weight"]))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"copy": self.copy.to_json(), "weight": self.weight.to_json()}


def version_asked(pointer: Pointer, version: str | None, settings: Settings) -> str:
    """The version that ``version`` names or, without one, the one that the pointer led to before.

    Raises:
        CommandError: there is no such version, or it has led nowhere before.
        RegistryError: the registry does not answer.
    """
    with reported(settings.tracking_uri):
        there = pointer.versions()
        before = pointer.place().before if version is None else None
    if version is None and before is None:
        raise CommandError(f"{pointer} has led to no other version; {pointer.name} has the versions {', '.join(there)}")
    if before is not None and before not in there:
        raise CommandError(f"the version before, {before}, was deleted: make promote VERSION={' or '.join(there)}")
    if (asked := version or str(before)) not in there:
        raise CommandError(f"VERSION={asked!r}: {pointer.name} has the versions {', '.join(there)}")
    return asked


def examine(pointer: Pointer, version: str, options: ModelOptions, *, served: str | None, force: bool) -> Candidate:
    """Bring a version to this host and try it in processes that are thrown away.

    ``served`` is the digest of the model that answers now: another signature than its own is let pass with ``force``
    alone, and so is a model that does not predict its own example.

    Raises:
        CommandError, StartError: it may not take over, for this reason.
    """
    settings = options.settings
    _refuse_failed(pointer, version, settings)
    copy = resolve(replace(settings, model_uri=f"models:/{pointer.name}/{version}"))
    if copy.stale is not None:
        raise RegistryError(copy.stale)
    _refuse_companion(copy)
    before = Copies(settings.models_dir).path(served) if served else None
    if before and before.is_dir() and not force:
        _refuse_signature(before, copy.model_folder)
    weight = weigh(copy, options.environment)
    if weight.fault and not force:
        raise CommandError(f"it does not predict its own example: {weight.fault}")
    return Candidate(replace(copy, needs=weight.needs), weight)


def _refuse_failed(pointer: Pointer, version: str, settings: Settings) -> None:
    with reported(settings.tracking_uri):
        check = MlflowClient().get_model_version(pointer.name, version).tags.get(CHECK_TAG, "")
    if check.startswith("failed"):
        raise CommandError(f"its check when it was trained {check}")


def _refuse_companion(copy: Copy) -> None:
    """A replica would serve without a compiled form that cannot be used; who promotes wants to know."""
    mlmodel = MLmodel.read(copy.model_folder)
    for engine, flavor in companion.FLAVORS.items():
        if flavor in mlmodel.flavors:
            companion.find(mlmodel, engine)


def _refuse_signature(served: Path, candidate: Path) -> None:
    if differs := difference(served, candidate):
        raise CommandError(f"it has another signature: {differs}; FORCE=1 lets it pass")
