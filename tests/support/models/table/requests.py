"""The requests for a model of the table, in each of the three protocols, and their reference answers."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.support.models.table.case import Case, Params, Row

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server


def scoring_bodies(case: Case, rows: Sequence[Row], params: Params | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows in each form of MLflow's scoring protocol that the case names."""
    for form in case.forms:
        more = {} if params is None else {"params": params}
        yield {form: _in_form(form, rows)} | more


def _in_form(form: str, rows: Sequence[Row]) -> object:
    if not all(isinstance(row, dict) for row in rows):
        return list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if form == "dataframe_split":
        return {"columns": names, "data": [[row.get(name) for name in names] for row in rows]}
    if form == "inputs":
        return {name: [row.get(name) for row in rows] for name in names}
    return list(rows)


def mlflow_answer(model: Any, body: Mapping[str, Any]) -> Any:
    """Return the JSON document that ``mlflow models serve`` answers, or the text of its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answer = scoring_server.invocations(
                json.dumps(body), "application/json", model, model.metadata.get_input_schema()
            )
        except MlflowException as error:
            return str(error)
    return json.loads(answer.response)


def predict_body(case: Case, row: Row) -> Iterator[dict[str, Any]]:
    """Yield the bodies of `/predict` for a single row: by name, and as a list of values if the row is one."""
    if isinstance(row, dict):
        yield row
        return
    yield {"features": row if isinstance(row, list) else [row]}
    values = row if isinstance(row, list) else [row]
    if case.names and len(case.names) == len(values):
        yield dict(zip(case.names, values, strict=True))


def v2_inputs(case: Case, inputs: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the tensors of the rows, as the metadata ``inputs`` of the model describe them."""
    if not all(isinstance(row, dict) for row in rows):
        name = inputs[0]["name"] if len(inputs) == 1 else "all"
        return [_tensor(name, inputs[0]["datatype"], list(rows), len(inputs[0]["shape"]))]
    tensors = []
    described = {description["name"]: description for description in inputs}
    for name in dict.fromkeys(name for row in rows for name in row):
        # A model that says nothing about its input describes no columns.
        description = described.get(name, {"datatype": "FP64", "shape": [-1, 1]})
        values = [row.get(name) for row in rows]
        if name in case.json_columns:
            values = [json.dumps(value) for value in values]
        tensors.append(_tensor(name, description["datatype"], values, len(description["shape"])))
    return tensors


def _tensor(name: str, datatype: str, values: list[Any], rank: int) -> dict[str, Any]:
    """Return a tensor of the shape that the values have; values without inner lists get the shape [n, 1] or [n]."""
    try:
        array = np.array(values, dtype=object)
    except ValueError:  # of unequal lengths
        array = np.array([None] * len(values))
    shape = list(array.shape)
    if any(isinstance(value, str) for value in array.ravel()):
        datatype = "BYTES"  # a column without a type takes texts and numbers
    if len(shape) == 1 and rank > 1:
        shape.append(1)
    return {"name": name, "datatype": datatype, "shape": shape, "data": values}


def v2_labels(outputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the predictions in the form of `/predict`: from the tensor ``predict``, or from one tensor per output."""
    tensors = {output["name"]: np.reshape(np.array(output["data"], object), output["shape"]) for output in outputs}
    if "predict" in tensors:
        labels: list[Any] = tensors["predict"].tolist()
        return labels
    return [list(row) for row in zip(*tensors.values(), strict=True)]


def same(actual: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """Return whether two JSON values have the same types and values, but for rounding of numbers with a fraction."""
    if type(actual) is not type(expected):
        return False
    if isinstance(actual, list):
        return len(actual) == len(expected) and all(
            same(a, b, tolerance) for a, b in zip(actual, expected, strict=True)
        )
    if isinstance(actual, dict):
        return list(actual) == list(expected) and all(same(actual[key], expected[key], tolerance) for key in actual)
    if isinstance(actual, float):
        return math.isclose(actual, expected, rel_tol=tolerance, abs_tol=1e-9)
    return bool(actual == expected)
