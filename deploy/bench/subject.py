"""The model that is measured: one copy of it for all replicas, the engines that it has something for, and its rows."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.bench.plan import Plan
from deploy.models.ensure import ensure_model
from deploy.options import ModelOptions
from server.engines.companion import FLAVORS
from server.engines.loading import suitable_engines
from server.inference.columns import Column
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel
from server.settings import Settings

_BODIES = 1000
_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's copy on this machine, and what its folder says of it."""

    copy: Copy
    mlmodel: MLmodel

    @classmethod
    def find(cls, options: ModelOptions) -> Subject:
        """Resolve MODEL_URI once, so that every replica serves the same; train the default model where there is none.

        Raises:
            CommandError, ModelError: it cannot be had, or cannot be served.
        """
        copy = ensure_model(options)
        return cls(copy, MLmodel.read(copy.model_folder))

    def engines(self, settings: Settings, plan: Plan) -> list[str]:
        """The one that ENGINE names; else all that the model has something for, or in a quick run the first choice.

        Raises:
            ModelError: the model has nothing for any engine.
        """
        if settings.engine != "auto" or plan.quick:
            return [settings.engine]
        return suitable_engines(self.mlmodel)

    @property
    def nodes(self) -> int | None:
        """How many nodes its trees have, where they are packed; None where that is not known."""
        data = self.mlmodel.flavors.get(FLAVORS["forest"], {}).get("data")
        try:
            return len(np.load(self.mlmodel.folder / str(data) / "nodes.npy", mmap_mode="r"))
        except (OSError, ValueError):
            return None

    @property
    def description(self) -> str:
        """What it is, for people."""
        nodes = f", {self.nodes:,} nodes" if self.nodes is not None else ""
        return f"{self.copy.name} version {self.copy.version}{nodes}"

    def write_record(self, folder: Path) -> Path:
        """What ``MODEL_URI`` may name, so that replicas serve this copy without asking a registry."""
        record = folder / "model.json"
        record.write_text(json.dumps(self.copy.to_json()))
        return record

    def write_bodies(self, folder: Path, data: Path | None = None) -> Path:
        """Different requests for one row, a line each, the same ones in every run: rows of ``data``, or made-up ones.

        Raises:
            CommandError: ``data`` has no such rows.
        """
        bodies = folder / "bodies.jsonl"
        documents = self.documents(_BODIES) if data is None else self.documents_of(data)
        bodies.write_text("\n".join(json.dumps(document) for document in documents))
        return bodies

    def documents_of(self, data: Path) -> list[dict[str, object]]:
        """Rows of a CSV, in random order."""
        # It imports pandas and scikit-learn.
        from deploy.models.compile import samples  # noqa: PLC0415

        schema = self.mlmodel.schema
        rows = samples.read_csv_rows(data, schema)
        chosen = random.Random(0).sample(rows, min(len(rows), _ROWS))
        return [dict(zip(schema.names, row, strict=True)) for row in chosen]

    def documents(self, count: int) -> list[dict[str, object]]:
        """Valid rows, drawn from the whole of each feature's range."""
        draw = random.Random(0)
        example = self.mlmodel.example if isinstance(self.mlmodel.example, dict) else {}
        columns = self.mlmodel.schema.columns
        return [{column.name: _draw(column, draw, example) for column in columns} for _ in range(count)]


def _draw(column: Column, draw: random.Random, example: Mapping[str, object]) -> object:
    if column.is_string:
        return example.get(column.name) or "string"  # others might be categories that the model does not know
    if column.type == "boolean":
        return draw.random() < 0.5
    low, high = (column.low, column.high) if column.has_range else (0, 1)
    return draw.randint(int(low), int(high)) if column.is_integer else draw.uniform(low, high)
