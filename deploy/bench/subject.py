"""The model that a benchmark measures: its copy on this machine, its engines, and the rows to send."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from deploy.bench.plan import Plan
from deploy.models.ensure import ensure_model
from deploy.options import ModelOptions
from server.engines.companion import FLAVORS
from server.engines.loading import load_model, suitable_engines
from server.inference.columns import Column
from server.inference.schema import InputSchema
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel
from server.settings import Settings

# The number of random rows, and the largest number of rows from a file.
_RANDOM_ROWS = 1000
_MAX_FILE_ROWS = 10_000


@dataclass(frozen=True)
class Subject:
    """A copy of a model, and its MLmodel file."""

    copy: Copy
    mlmodel: MLmodel

    @classmethod
    def find(cls, options: ModelOptions) -> Subject:
        """Resolve MODEL_URI once, so that all replicas serve the same copy; train the default model if it is missing.

        Raises:
            CommandError, ModelError: the model cannot be found, or cannot be served.
        """
        copy = ensure_model(options)
        return cls(copy, MLmodel.read(copy.model_folder))

    def engines(self, settings: Settings, plan: Plan) -> list[str]:
        """Return the engines to measure: the one of ENGINE, otherwise all of the model, or ``auto`` in a quick run.

        Raises:
            ModelError: no engine supports the model.
        """
        if settings.engine != "auto" or plan.quick:
            return [settings.engine]
        return suitable_engines(self.mlmodel)

    @cached_property
    def input(self) -> tuple[InputSchema, Mapping[str, object]]:
        """The model's columns, and an example by name. A model is loaded only if its signature does not tell them."""
        schema, example = self.mlmodel.schema, self.mlmodel.example
        if schema is not None and all(column.is_number or column.is_string for column in schema.columns):
            return schema, example if isinstance(example, dict) else {}
        model = load_model(self.copy, "auto")
        return model.schema, model.example

    @property
    def nodes(self) -> int | None:
        """The number of nodes in the trees of a compiled forest; None for other models."""
        data = self.mlmodel.flavors.get(FLAVORS["forest"], {}).get("data")
        try:
            return len(np.load(self.mlmodel.folder / str(data) / "nodes.npy", mmap_mode="r"))
        except (OSError, ValueError):
            return None

    @property
    def description(self) -> str:
        """The name, version and size of the model, for reports."""
        nodes = f", {self.nodes:,} nodes" if self.nodes is not None else ""
        return f"{self.copy.name} version {self.copy.version}{nodes}"

    def write_record(self, folder: Path) -> Path:
        """Write a file for MODEL_URI, by which replicas serve this copy without a registry; return its path."""
        record = folder / "model.json"
        record.write_text(json.dumps(self.copy.to_json()))
        return record

    def write_bodies(self, folder: Path, data: Path | None = None) -> Path:
        """Write request bodies of one row each, one per line, from ``data`` or at random; return the path.

        Every run writes the same bodies.

        Raises:
            CommandError: ``data`` cannot be read, or its rows do not fit the schema of the model.
        """
        bodies = folder / "bodies.jsonl"
        documents = self.documents(_RANDOM_ROWS) if data is None else self.documents_of(data)
        bodies.write_text("\n".join(json.dumps(document) for document in documents))
        return bodies

    def documents_of(self, data: Path) -> list[dict[str, object]]:
        """Return rows of a CSV file in random order, the same in every run."""
        # Imported here because it imports pandas and scikit-learn.
        from deploy.models.compile import samples  # noqa: PLC0415

        schema, _ = self.input
        rows = samples.read_csv_rows(data, schema)
        chosen = random.Random(0).sample(rows, min(len(rows), _MAX_FILE_ROWS))
        return [dict(zip(schema.names, row, strict=True)) for row in chosen]

    def documents(self, count: int) -> list[dict[str, object]]:
        """Return valid random rows, uniform in the observed range of each feature, the same in every run."""
        generator = random.Random(0)
        schema, example = self.input
        return [{column.name: _draw(column, generator, example) for column in schema.columns} for _ in range(count)]


def _draw(column: Column, generator: random.Random, example: Mapping[str, object]) -> object:
    if not column.is_number:  # other values may be of a type, or categories, that the model does not know
        return example.get(column.name, "string")
    if column.type == "boolean":
        return generator.random() < 0.5
    low, high = column.usual_range or (0, 1)
    return generator.randint(int(low), int(high)) if column.is_integer else generator.uniform(low, high)
