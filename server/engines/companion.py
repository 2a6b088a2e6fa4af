"""A companion: a compiled form of the model, stored inside the same MLflow model with the check that it agrees.

It is a flavor in the ``MLmodel`` file: ``data`` names its folder, ``digest`` is the digest of that folder,
``model_digest`` that of the model it was compiled from, and ``check`` describes the comparison with that model and its
result. ``inputs`` has the form and the names of the columns if the model has no signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from server.errors import CompanionRefused
from server.inference.schema import Form, InputSchema
from server.inference.signature import schema_of_names, schema_of_width
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel

FLAVORS = {"forest": "forkcast_forest", "onnx": "forkcast_onnx"}
# Changed whenever the format of the companions' files changes; companions of another version are refused.
LAYOUT_VERSION = 1


def find(mlmodel: MLmodel, engine: str) -> Path:
    """Return the folder of the model's companion for ``engine``.

    Raises:
        CompanionRefused: the companion does not belong to this model, is damaged, or failed its check.
    """
    flavor = mlmodel.flavors[FLAVORS[engine]]
    if not isinstance(flavor, Mapping):
        raise _refusal(engine, "is not described by a mapping")
    folder = mlmodel.folder / str(flavor.get("data"))
    check = flavor.get("check")
    if flavor.get("layout") != LAYOUT_VERSION:
        raise _refusal(engine, f"has the layout {flavor.get('layout')!r}, expected {LAYOUT_VERSION}")
    if not isinstance(check, dict) or check.get("passed") is not True:
        raise _refusal(engine, "failed its check against the model")
    if not folder.is_dir() or folder_digest(folder) != flavor.get("digest"):
        raise _refusal(engine, "is missing or damaged")
    if model_digest(mlmodel) != flavor.get("model_digest"):
        raise _refusal(engine, "does not belong to this model")
    return folder


def model_digest(mlmodel: MLmodel) -> str:
    """Return the digest of what a companion is compiled from: the model's files and the columns of its signature."""
    files = folder_digest(mlmodel.folder, excluding={"MLmodel", *FLAVORS})
    signature = mlmodel.schema.columns if mlmodel.schema else ()
    columns = [(column.name, column.type, column.required) for column in signature]
    return hashlib.sha256(f"{files}\n{columns}".encode()).hexdigest()


def input_schema(mlmodel: MLmodel, engine: str) -> InputSchema:
    """Return the schema of the model's signature or, without one, the columns that compiling found in the model.

    Raises:
        CompanionRefused: the companion does not record the columns.
    """
    if mlmodel.schema is not None:
        return mlmodel.schema
    match mlmodel.flavors[FLAVORS[engine]].get("inputs"):
        case {"form": Form.FRAME.value, "columns": list(names)}:
            return schema_of_names(names)
        case {"form": Form.ARRAY.value, "columns": list(names)}:
            return schema_of_width(len(names))
    raise _refusal(engine, "does not record the model's columns, and the model has no signature")


def record_of_inputs(schema: InputSchema) -> dict[str, object]:
    """Return the columns of a model without a signature as plain values, which :func:`input_schema` reads."""
    return {"form": schema.form.value, "columns": list(schema.names)}


def _refusal(engine: str, reason: str) -> CompanionRefused:
    return CompanionRefused(f"the model's companion for the engine {engine} {reason}; `make compile` makes a new one")
