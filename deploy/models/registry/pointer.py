"""The alias, or in older registries the stage, by which a registered model names the version to serve."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from deploy.errors import CommandError

# A registered model's tag with this prefix and a pointer's label holds the version that the pointer named previously.
_PREVIOUS_TAG_PREFIX = "forkcast.before."
# Another tag holds the version that the pointer was moved to then. If the pointer now names a different one, somebody
# else moved it, and the recorded previous version is out of date.
_MOVED_TO_TAG_PREFIX = "forkcast.moved_to."
# The error codes of MLflow for a model, version or alias that does not exist.
_NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


@dataclass(frozen=True, slots=True)
class PointerState:
    """The version that a pointer names, and its previous version; None where there is no version."""

    version: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class Pointer:
    """An alias (``models:/<name>@<label>``) or a stage (``models:/<name>/<label>``) of a registered model.

    Its methods call the registry that MLflow is configured for.
    """

    name: str
    label: str
    is_stage: bool = False

    @classmethod
    def parse(cls, uri: str) -> Pointer:
        """Return the alias or stage that MODEL_URI names.

        Raises:
            CommandError: the URI names no registered model, or a fixed version of one.
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

    def state(self) -> PointerState:
        """Return the version that the pointer names now, and the previous one."""
        tags = MlflowClient().get_registered_model(self.name).tags
        version = self._version()
        moved_by_others = tags.get(self._moved_to_tag, version or "") != (version or "")
        return PointerState(version, None if moved_by_others else tags.get(self._previous_tag) or None)

    def versions(self) -> list[str]:
        """Return the numbers of all versions of the model, in ascending order."""
        versions = MlflowClient().search_model_versions(f"name='{self.name}'")
        return sorted((str(version.version) for version in versions), key=int)

    def move(self, version: str, served: str | None = None) -> PointerState:
        """Point at ``version`` and record the previous one; return the state before the move.

        The previous version is ``served``, the one that replicas serve until now, or else the one that the pointer
        names.
        """
        state = self.state()
        previous = next((old for old in (served, state.version) if old not in (None, version)), state.previous)
        if (new_state := PointerState(version, previous)) != state:
            self.set_state(new_state)
        return state

    def set_state(self, state: PointerState) -> None:
        """Set the pointer and its previous version to ``state``."""
        client = MlflowClient()
        # The tags are set first: if the process ends after them, no replica is affected and the move can be repeated.
        client.set_registered_model_tag(self.name, self._previous_tag, state.previous or "")
        client.set_registered_model_tag(self.name, self._moved_to_tag, state.version or "")
        if self.is_stage:
            with _deprecation_warnings_ignored():
                self._set_stage(client, state.version)
        elif state.version is None:
            client.delete_registered_model_alias(self.name, self.label)
        else:
            client.set_registered_model_alias(self.name, self.label, state.version)

    @property
    def _previous_tag(self) -> str:
        return f"{_PREVIOUS_TAG_PREFIX}{self.label}"

    @property
    def _moved_to_tag(self) -> str:
        return f"{_MOVED_TO_TAG_PREFIX}{self.label}"

    def _version(self) -> str | None:
        client = MlflowClient()
        if self.is_stage:
            with _deprecation_warnings_ignored():
                versions = client.get_latest_versions(self.name, [self.label])
            return max((str(version.version) for version in versions), key=int, default=None)
        try:
            return str(client.get_model_version_by_alias(self.name, self.label).version)
        except MlflowException as error:
            if error.error_code in _NOT_FOUND_CODES:
                return None
            raise

    def _set_stage(self, client: MlflowClient, version: str | None) -> None:
        if version is not None:
            client.transition_model_version_stage(self.name, version, self.label, archive_existing_versions=True)
        elif (staged := self._version()) is not None:
            client.transition_model_version_stage(self.name, staged, "None")


@contextmanager
def _deprecation_warnings_ignored() -> Iterator[None]:
    """Ignore MLflow's warning that stages are deprecated: teams still use them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
