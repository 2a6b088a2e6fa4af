"""A model of every kind of column, whose prediction shows what it was given, and an application that serves it."""

from __future__ import annotations

import warnings
from typing import Any

from server.http.app import create_app
from server.inference.model import Model
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.settings import Settings
from tests.support.models.served_models import served_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient

__all__ = ["COLUMNS", "ROW", "SCHEMA", "Mirror", "TestClient", "client_of", "model_of"]

COLUMNS = {"n": "long", "x": "double", "b": "boolean", "s": "string", "o": "double"}
ROW = {"n": 3, "x": 2.5, "b": True, "s": "a", "o": 1.0}
SCHEMA = InputSchema.from_signature(
    [{"name": name, "type": kind, "required": name != "o"} for name, kind in COLUMNS.items()], {"n": [0, 9]}
)


class Mirror:
    """An engine that answers a row as it came: n, x, b, o and then s."""

    name = "mirror"
    frames = True

    def __init__(self, columns: tuple[str, ...] | None = None) -> None:
        self.columns = columns

    def predict(self, rows: Rows) -> Prediction:
        numbers = [[None if value != value else value for value in row] for row in rows.numbers.tolist()]  # noqa: PLR0124
        labels = [[*row, *texts] for row, texts in zip(numbers, rows.objects.tolist(), strict=True)]
        return Prediction(labels, None, self.columns)


def model_of(engine: Any, **other: Any) -> Model:
    """Return version 4 of the model ``mirror``, with the columns of SCHEMA, over an engine and with other fields."""
    fields = {"name": "mirror", "version": "4", "uri": "models:/mirror/4", "trained_on": None}
    return served_model(engine, **{**fields, "schema": SCHEMA, "example": ROW, **other})


def client_of(engine: Any, environ: dict[str, str] | None = None, **other: Any) -> TestClient:
    settings = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": "20000", "MAX_PENDING": "50", **(environ or {})})
    return TestClient(create_app(settings, model_of(engine, **other)))
