"""A model ready to serve: its name and version, its input schema, and the engine that computes predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from server.inference.rows import Prediction, Row, Rows
from server.inference.schema import InputSchema


class Engine(Protocol):
    """A loaded model that predicts. Made in the master, called only in workers, by one thread at a time.

    ``frames`` is whether it computes on DataFrames, and so has pandas in memory.
    """

    name: str
    frames: bool

    def predict(self, rows: Rows) -> Prediction:
        """Return a label, and a confidence where there are probabilities, for each row."""
        ...


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

    def predict(self, rows: Sequence[Row]) -> Prediction:
        """Return the prediction for valid rows: their block of numbers is made once, then the engine is called."""
        return self.engine.predict(self.schema.rows(rows))
