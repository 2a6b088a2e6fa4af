"""The ``MLmodel`` file, in which MLflow describes a model in its folder, read without importing MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from server.errors import ModelError
from server.inference.parameters import NO_PARAMETERS, Parameters
from server.inference.schema import InputSchema
from server.inference.signature import schema_from_signature
from server.model_store.copies import LOGGED_MODEL_ID
from server.settings import is_model_name


@dataclass(frozen=True, slots=True)
class MLmodel:
    """The description of a model in its folder.

    ``schema`` is that of the signature, or None if there is no signature. ``example`` is the first row of the input
    example as a JSON value: an object by name, a list, or a single value; None if there is no example. ``parameters``
    are those of the signature, which a request may pass to the model. ``name`` is the one that it was logged with, or
    None.
    """

    folder: Path
    flavors: Mapping[str, Mapping[str, Any]]
    schema: InputSchema | None
    trained_on: str | None
    example: object
    name: str | None = None
    parameters: Parameters = NO_PARAMETERS

    def require_schema(self) -> InputSchema:
        """Return the schema of the signature.

        Raises:
            ModelError: the model has no signature.
        """
        if self.schema is None:
            raise ModelError("the model has no signature")
        return self.schema

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
            schema=_schema(inputs, metadata, type_hint=bool(document.get("is_signature_from_type_hint"))),
            trained_on=metadata.get("trained_on"),
            example=_read_example(folder, document.get("saved_input_example_info") or {}),
            name=_read_name(document),
            parameters=Parameters.from_signature(params),
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


def _schema(inputs: Any, metadata: Mapping[str, Any], *, type_hint: bool) -> InputSchema | None:
    if not inputs:
        return None
    if not isinstance(inputs, list) or not all(isinstance(spec, Mapping) for spec in inputs):
        raise ModelError(f"the model's signature has the inputs {str(inputs)[:100]}; expected a list of columns")
    ranges, observed = metadata.get("ranges") or {}, metadata.get("observed")
    return schema_from_signature(inputs, ranges, observed, type_hint=type_hint)


def _read_example(folder: Path, info: Mapping[str, Any]) -> object:
    """Return the first row of the input example, or None: it is optional, and without it one is made up."""
    if not info or str(info.get("type")).startswith("sparse"):
        return None
    try:
        data = json.loads((folder / str(info["artifact_path"])).read_bytes())
        if info.get("params"):
            data = data["inputs"]
        if info.get("pandas_orient") == "split":
            return dict(zip(data["columns"], data["data"][0], strict=True))
        if info.get("type") not in ("dataframe", "ndarray", "json_object"):
            return None
        if isinstance(data, dict) and info["type"] == "ndarray":
            return {name: values[0] for name, values in data.items()}
        return data[0] if isinstance(data, list) else data
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
