"""A model ready to serve: what it is called, what it takes, and the engine that computes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.engines import Engine, load_engine
from server.errors import InvalidRows
from server.inference.columns import Column
from server.inference.rows import Row
from server.inference.schema import InputSchema
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel


@dataclass(frozen=True, slots=True)
class Model:
    """One loaded model. ``example`` is one row of it, by name; ``stale`` and ``needs`` are those of its copy.

    An example that is made up from the columns may be one that the model does not take: a category it does not know.
    """

    name: str
    version: str
    uri: str
    digest: str
    trained_on: str | None
    stale: str | None
    schema: InputSchema
    engine: Engine
    example: dict[str, object]
    needs: int | None = None
    example_made_up: bool = False
    params: frozenset[str] = frozenset()

    @property
    def source(self) -> str:
        """Where this model came from at the start, in words."""
        if self.stale is not None:
            return "the last good copy"
        return "the registry" if "models:/" in self.uri else "MODEL_URI"

    @property
    def example_row(self) -> Row:
        """The example as a row, for the warm-up."""
        return self.schema.parse(self.example, 1).values[0]


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
        example_made_up=example is None,
        params=mlmodel.params,
    )


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
    middle = (column.low + column.high) / 2 if column.limited else 0.0
    return int(np.floor(middle)) if column.is_whole else middle
