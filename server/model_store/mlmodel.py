"""The ``MLmodel`` file, in which MLflow describes a model in its folder, read without importing MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from server.errors import ModelError
from server.inference.schema import InputSchema
from server.model_store.copies import LOGGED_MODEL_ID
from server.settings import is_model_name


@dataclass(frozen=True, slots=True)
class MLmodel:
    """The description of a model in its folder.

    ``example`` is the first row of the input example, by name, or None. ``params`` are the names of the signature's
    parameters, which MLflow lets a request pass to the model. ``name`` is the one that it was logged with, or None.
    """

    folder: Path
    flavors: Mapping[str, Mapping[str, Any]]
    schema: InputSchema
    trained_on: str | None
    example: object
    params: frozenset[str] = frozenset()
    name: str | None = None

    @classmethod
    def read(cls, folder: Path) -> MLmodel:
        """Read ``folder/MLmodel`` and the input example beside it.

        Raises:
            ModelError: the file is missing or invalid, or its signature cannot be served.
        """
        document = _read_document(folder / "MLmodel")
        metadata = document.get("metadata") or {}
        signature = document.get("signature") or {}
        try:
            inputs, params = (json.loads(signature.get(part) or "null") for part in ("inputs", "params"))
        except ValueError:
            raise ModelError(f"{folder / 'MLmodel'}: the signature's inputs are not JSON") from None
        return cls(
            folder=folder,
            flavors=document.get("flavors") or {},
            schema=InputSchema.from_signature(inputs, metadata.get("ranges") or {}, metadata.get("observed")),
            trained_on=metadata.get("trained_on"),
            example=_read_example(folder, document.get("saved_input_example_info") or {}),
            params=frozenset(str(param.get("name")) for param in params or ()),
            name=_read_name(document),
        )


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path.parent} is not an MLflow model: it has no file MLmodel") from None
    except yaml.YAMLError:
        raise ModelError(f"{path} is not YAML") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: expected a mapping that describes a model")
    return document


def _read_name(document: Mapping[str, Any]) -> str | None:
    """Return the name that the model was logged with: MLflow 2 writes it as ``artifact_path``.

    MLflow 3 writes the address of the model's files there, and nothing if the model was saved to a folder.
    """
    name = document.get("artifact_path")
    if not isinstance(name, str) or not is_model_name(name) or ":" in name or LOGGED_MODEL_ID.fullmatch(name):
        return None
    return name


def _read_example(folder: Path, info: Mapping[str, Any]) -> object:
    """Return the first row of the input example, by name. Only examples saved as split DataFrames are read."""
    if info.get("pandas_orient") != "split":
        return None
    try:
        frame = json.loads((folder / str(info["artifact_path"])).read_bytes())
        return dict(zip(frame["columns"], frame["data"][0], strict=True))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None  # the example is optional: without it, one is made up from the schema
