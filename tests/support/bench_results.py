"""Made-up benchmark results and a model to measure, for tests of the benchmark's reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.processes import Memory
from deploy.bench.subject import Subject
from deploy.bench.table import Row
from deploy.bench.wrk import Answers
from server.engines.companion import FLAVORS
from server.inference.signature import schema_from_signature
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "timeout": 0, "status": 0}
INPUTS: list[dict[str, Any]] = [
    {"name": "small", "type": "integer"},
    {"name": "wide", "type": "long"},
    {"name": "degrees", "type": "double"},
    {"name": "share", "type": "float"},
    {"name": "free", "type": "double"},
    {"name": "count", "type": "integer", "required": False},
    {"name": "flag", "type": "boolean"},
    {"name": "word", "type": "string"},
]
RANGES: dict[str, list[float]] = {"small": [1, 4], "wide": [-5, 5], "degrees": [-0.5, 0.25], "share": [10, 10.5]}

_ROW = Row(
    engine="constant",
    workers=1,
    request="POST /predict",
    connections=64,
    answers=Answers(count=10_000, rate=5000.4, p50=4.333, p99=8.71, errors=NO_ERRORS),
    server_cpu=2.0,
    nginx_cpu=0.25,
    memory=[Memory(10, True, 200_000_000, 90_000_000), Memory(11, False, 86_540_000, 18_000_000)],
    floor=40.0,
)


def make_row(**changes: Any) -> Row:
    """Return a row with changed fields; by default 10,000 answers in two seconds.

    Each answer costs 200 us of the server's CPU and 25 us of Nginx's.
    """
    return replace(_ROW, **changes)


def make_subject(folder: Path, **flavors: dict[str, Any]) -> Subject:
    """Return a model with one column of each type; its default flavors include trees of 1,234 nodes."""
    (folder / "trees").mkdir(exist_ok=True)
    np.save(folder / "trees/nodes.npy", np.zeros((1234, 2), np.uint32))
    mlmodel = MLmodel(
        folder=folder,
        flavors=flavors or {"python_function": {}, FLAVORS["forest"]: {"data": "trees"}},
        schema=schema_from_signature(INPUTS, RANGES),
        trained_on=None,
        example={"word": "red"},
    )
    return Subject(Copy(folder, "made", "7", "models:/made@champion", "d" * 64), mlmodel)
