"""A model with a column of each type, which predicts its input, and an application that serves it."""

from __future__ import annotations

import warnings
from typing import Any

from server.http.app import create_app
from server.inference.model import Model
from server.inference.rows import Prediction, Rows
from server.inference.signature import schema_from_signature
from server.settings import Settings
from tests.support.models.served_models import served_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette deprecates httpx in favour of httpx2
    from starlette.testclient import TestClient

__all__ = ["COLUMNS", "ROW", "SCHEMA", "Mirror", "TestClient", "client_of", "model_of"]

COLUMNS = {"n": "long", "x": "double", "b": "boolean", "s": "string", "o": "double"}
ROW = {"n": 3, "x": 2.5, "b": True, "s": "a", "o": 1.0}
SCHEMA = schema_from_signature(
    [{"name": name, "type": column_type, "required": name != "o"} for name, column_type in COLUMNS.items()],
    {"n": [0, 9]},
)


class Mirror:
    """An engine whose label of a row is the row itself, in the order n, x, b, o, s."""

    name = "mirror"
    uses_pandas = True

    def __init__(self, columns: tuple[str, ...] | None = None) -> None:
        self.columns = columns

    def predict(self, rows: Rows) -> Prediction:
        numbers = [[None if value != value else value for value in row] for row in rows.numbers.tolist()]  # noqa: PLR0124
        labels = [[*row, *texts] for row, texts in zip(numbers, rows.objects.tolist(), strict=True)]
        return Prediction(labels, None, self.columns)


def model_of(engine: Any, **changes: Any) -> Model:
    """Return version 4 of the model ``mirror`` with an engine, the columns of SCHEMA and changed fields."""
    fields = {"name": "mirror", "version": "4", "uri": "models:/mirror/4", "trained_on": None}
    return served_model(engine, **{**fields, "schema": SCHEMA, "example": ROW, **changes})


def client_of(engine: Any, environ: dict[str, str] | None = None, **changes: Any) -> TestClient:
    """Return a client of an application that serves ``model_of(engine, **changes)``."""
    settings = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": "20000", "MAX_PENDING": "50", **(environ or {})})
    return TestClient(create_app(settings, model_of(engine, **changes)))
