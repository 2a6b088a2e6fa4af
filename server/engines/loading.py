"""Loading a model with the engine that ``ENGINE`` names.

``ENGINE=auto`` takes the first engine that the model can be served with, in the order of :data:`ORDER`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

import numpy as np

from server.engines.companion import FLAVORS
from server.errors import CompanionRefused, InvalidRows, ModelError
from server.inference.columns import Column
from server.inference.model import Engine, Model
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel

logger = logging.getLogger(__name__)

# An engine's name is its module here and, in ORDER, stands beside the MLflow flavor that it reads. Compiled engines
# read companions stored inside the model, and come first.
ORDER = (
    ("forest", FLAVORS["forest"]),
    ("onnx", FLAVORS["onnx"]),
    ("sklearn", "sklearn"),
    ("pyfunc", "python_function"),
)


def load_model(copy: Copy, engine: str, kernels: Path | None = None) -> Model:
    """Read the MLmodel file of ``copy`` and the engine's files, and nothing else; ``kernels`` keeps compiled code.

    Raises:
        ModelError: it cannot be served, with the reason.
    """
    mlmodel = MLmodel.read(copy.model_folder)
    example = _own_example(mlmodel)
    return Model(
        name=copy.name,
        version=copy.version,
        uri=copy.uri,
        digest=copy.digest,
        trained_on=mlmodel.trained_on,
        stale=copy.stale,
        schema=mlmodel.schema,
        engine=load_engine(mlmodel, engine, kernels),
        example=example or {column.name: _typical(column) for column in mlmodel.schema.columns},
        needs=copy.needs,
        example_is_synthetic=example is None,
        params=mlmodel.params,
    )


def load_engine(mlmodel: MLmodel, choice: str, kernels: Path | None = None) -> Engine:
    """The engine that ``ENGINE`` names, or the first that suits the model; ``kernels``, if given, keeps compiled code.

    Raises:
        ModelError: the model has not what the engine reads, or it does not load.
    """
    if choice != "auto":
        return _load(_chosen(choice, mlmodel), mlmodel, kernels)
    *compiled, last = suitable_engines(mlmodel)
    for name in compiled:
        try:
            return _load(name, mlmodel, kernels)
        except CompanionRefused as error:
            logger.warning("%s; serving without it", error)
    return _load(last, mlmodel, kernels)


def suitable_engines(mlmodel: MLmodel) -> list[str]:
    """The engines that give the model's own answers, the first choice first.

    Raises:
        ModelError: there is none.
    """
    # A model logged with another predict_fn answers by it, which only MLflow's own wrapper does.
    if mlmodel.flavors.get("python_function", {}).get("predict_fn", "predict") != "predict":
        return ["pyfunc"]
    return _carried(mlmodel)


def _carried(mlmodel: MLmodel) -> list[str]:
    carried = [name for name, flavor in ORDER if flavor in mlmodel.flavors]
    if not carried:
        raise ModelError(f"the model has no flavor that is served, only {', '.join(mlmodel.flavors) or 'none'}")
    return carried


def _chosen(choice: str, mlmodel: MLmodel) -> str:
    carried = _carried(mlmodel)
    if choice in carried:
        return choice
    how = "; `make compile` adds it where the model has such a form" if choice in FLAVORS else ""
    expected = ", ".join(["auto", *carried])
    raise ModelError(f"ENGINE={choice!r}: this model carries nothing for it; expected {expected}{how}")


def _load(name: str, mlmodel: MLmodel, kernels: Path | None) -> Engine:
    # Imported here so that no other engine's libraries come into memory.
    engine: Engine = import_module(f"server.engines.{name}").load(mlmodel, kernels)
    return engine


def _own_example(mlmodel: MLmodel) -> dict[str, object] | None:
    """The example that the model was logged with, where it is a valid row."""
    if not isinstance(mlmodel.example, dict):
        return None
    try:
        mlmodel.schema.parse(mlmodel.example, 1)
    except InvalidRows:
        return None
    return mlmodel.example


def _typical(column: Column) -> object:
    if column.is_string:
        return "string"
    if column.type == "boolean":
        return False
    middle = (column.low + column.high) / 2 if column.has_range else 0.0
    return int(np.floor(middle)) if column.is_integer else middle
