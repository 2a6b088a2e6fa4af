"""A companion: a compiled form of the model, stored inside the same MLflow model with the check that it agrees.

It is a flavor of the ``MLmodel`` file: ``data`` names its folder, ``digest`` is that folder's, ``model_digest`` that of
the model it was made from, and ``check`` tells how it was compared with that model, and whether it passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from server.errors import CompanionRefused
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel

FLAVORS = {"forest": "forkcast_forest", "onnx": "forkcast_onnx"}
# What a change of their files' meaning changes; a companion of another layout is compiled anew.
LAYOUT = 1


def find(mlmodel: MLmodel, engine: str) -> Path:
    """The folder of the model's companion for ``engine``.

    Raises:
        CompanionRefused: it does not belong to this model, is damaged, or failed its check.
    """
    flavor = mlmodel.flavors[FLAVORS[engine]]
    if not isinstance(flavor, Mapping):
        raise _refused(engine, "is described by no mapping")
    folder = mlmodel.folder / str(flavor.get("data"))
    check = flavor.get("check")
    if flavor.get("layout") != LAYOUT:
        raise _refused(engine, f"has the layout {flavor.get('layout')!r}, expected {LAYOUT}")
    if not isinstance(check, dict) or check.get("passed") is not True:
        raise _refused(engine, "failed its check against the model")
    if not folder.is_dir() or folder_digest(folder) != flavor.get("digest"):
        raise _refused(engine, "is missing or damaged")
    if model_digest(mlmodel) != flavor.get("model_digest"):
        raise _refused(engine, "does not belong to this model")
    return folder


def model_digest(mlmodel: MLmodel) -> str:
    """What a companion was made from: the model's files without companions, and the columns of its signature."""
    files = folder_digest(mlmodel.folder, excluding={"MLmodel", *FLAVORS})
    columns = [(column.name, column.type, column.required) for column in mlmodel.schema.columns]
    return hashlib.sha256(f"{files}\n{columns}".encode()).hexdigest()


def _refused(engine: str, why: str) -> CompanionRefused:
    return CompanionRefused(f"the model's companion for the engine {engine} {why}; `make compile` makes a new one")
