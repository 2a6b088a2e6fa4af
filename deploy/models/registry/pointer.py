"""What leads to the version that is served: an alias of a registered model or, as older registries have it, a stage."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from deploy.errors import CommandError

# The tag of the registered model that tells which version a pointer led to before it was moved.
_BEFORE = "forkcast.before."
# What MLflow answers where there is no such name, version or alias.
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pointer leads, and where it led before; None for nowhere."""

    version: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class Pointer:
    """``models:/<name>@<label>``, an alias, or ``models:/<name>/<label>``, a stage. Its methods ask the registry."""

    name: str
    label: str
    is_stage: bool = False

    @classmethod
    def parse(cls, uri: str) -> Pointer:
        """From MODEL_URI.

        Raises:
            CommandError: it names no registered model, or one version of it for ever.
        """
        parts = urlsplit(uri)
        path = parts.path.strip("/")
        name, at, alias = path.rpartition("@")
        if parts.scheme == "models" and at and name and alias:
            return cls(name, alias)
        name, _, stage = path.rpartition("/")
        if parts.scheme != "models" or not name or stage.isdigit() or stage == "latest":
            raise CommandError(
                f"MODEL_URI={uri!r} names no alias that could be moved; expected models:/<name>@<alias> or "
                "models:/<name>/<stage>, or change the model with: make up MODEL_URI=.."
            )
        return cls(name, stage, is_stage=True)

    def __str__(self) -> str:
        return f"{self.name}/{self.label}" if self.is_stage else f"{self.name}@{self.label}"

    def place(self) -> Place:
        """Where it leads now."""
        model = MlflowClient().get_registered_model(self.name)
        return Place(self._version(), model.tags.get(self._tag) or None)

    def versions(self) -> list[str]:
        """The numbers of all versions, in their order."""
        found = MlflowClient().search_model_versions(f"name='{self.name}'")
        return sorted((str(version.version) for version in found), key=int)

    def move(self, version: str) -> Place:
        """Let it lead to another version, and remember the one before; where it led until now."""
        place = self.place()
        if place.version != version:
            self.put(Place(version, place.version))
        return place

    def put(self, place: Place) -> None:
        """Make it lead as it did."""
        client = MlflowClient()
        # First what takes nothing away from anybody: a move that is cut short is made again.
        client.set_registered_model_tag(self.name, self._tag, place.before or "")
        if self.is_stage:
            with _quiet():
                self._set_stage(client, place.version)
        elif place.version is None:
            client.delete_registered_model_alias(self.name, self.label)
        else:
            client.set_registered_model_alias(self.name, self.label, place.version)

    @property
    def _tag(self) -> str:
        return f"{_BEFORE}{self.label}"

    def _version(self) -> str | None:
        client = MlflowClient()
        if self.is_stage:
            with _quiet():
                versions = client.get_latest_versions(self.name, [self.label])
            return max((str(version.version) for version in versions), key=int, default=None)
        try:
            return str(client.get_model_version_by_alias(self.name, self.label).version)
        except MlflowException as error:
            if error.error_code in _NOT_THERE:
                return None
            raise

    def _set_stage(self, client: MlflowClient, version: str | None) -> None:
        if version is not None:
            client.transition_model_version_stage(self.name, version, self.label, archive_existing_versions=True)
        elif (held := self._version()) is not None:
            client.transition_model_version_stage(self.name, held, "None")


@contextmanager
def _quiet() -> Iterator[None]:
    """Stages are deprecated, and still what teams have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
