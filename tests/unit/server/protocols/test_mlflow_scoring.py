"""MLflow's scoring protocol. tests/e2e compares it with ``mlflow models serve``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import mlflow
import pandas as pd
import pytest

from server.inference.rows import Prediction, Rows
from tests.support.models.mirror_app import ROW, Mirror, TestClient, client_of

NAMES, VALUES = list(ROW), list(ROW.values())
MIRRORED = [3, 2.5, 1, 1, "a"]
JSON = "application/json"


@pytest.fixture(name="client", scope="module")
def _client() -> Iterator[TestClient]:
    with client_of(Mirror()) as client:
        yield client


def post(client: TestClient, body: Any, content_type: str = JSON) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer: httpx.Response = client.post("/invocations", content=content, headers={"Content-Type": content_type})
    return answer


def assert_error(answer: httpx.Response, reason: str, code: str = "BAD_REQUEST") -> None:
    assert answer.status_code == 400
    error = answer.json()
    assert (error["error_code"], set(error)) == (code, {"error_code", "message", "sqlstate", "error_class"})
    assert reason in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": NAMES, "data": [VALUES]}},
        {"dataframe_split": {"columns": NAMES[::-1], "data": [VALUES[::-1]], "index": [7]}},
        {"dataframe_records": [ROW]},
        {"instances": [ROW]},
        {"instances": {name: [value] for name, value in ROW.items()}},
        {"inputs": {name: [value] for name, value in ROW.items()}},
        {"inputs": ROW},
        {"inputs": [ROW]},
        {"inputs": [ROW], "params": None},
        {"inputs": [ROW], "params": {"unknown": 1}},
        {"inputs": [{**ROW, "extra": [1]}], "else": 1},
    ],
)
def test_every_mlflow_form_parses_to_the_same_row(client: TestClient, body: dict[str, Any]) -> None:
    """Each form of a request is parsed to the same row, in any order of columns, with unknown keys beside it."""
    answer = post(client, body)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [MIRRORED]})
    assert answer.headers["x-model-version"] == "4"


def test_lenient_values_are_coerced_without_range_checks(client: TestClient) -> None:
    """Values are converted to their columns' types, ranges are not checked, and an optional column may be absent."""
    rows = [{"n": "99", "x": True, "b": 0, "s": 7}, {"n": 3.9, "x": "1e2", "b": 2.0, "s": "", "o": None}]
    assert post(client, {"inputs": rows}).json() == {"predictions": [[99, 1, 0, None, "7"], [3, 100, 1, None, ""]]}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "the body is not JSON"),
        ([ROW], "exactly one of dataframe_split, dataframe_records, instances, inputs, got a list of 1"),
        (3, "got 3"),
        ({}, "got none of them"),
        ({"columns": NAMES, "data": [VALUES]}, "got none of them"),
        ({"inputs": [ROW], "instances": [ROW]}, "got instances and inputs"),
        ({"inputs": [ROW], "params": [1]}, "params must be an object of parameters by name, got a list of 1"),
        ({"dataframe_records": []}, "dataframe_records must be a list of at least one row"),
        ({"dataframe_records": ROW}, "dataframe_records must be a list of at least one row, got an object"),
        ({"dataframe_records": [ROW, 3]}, "dataframe_records.1 must be an object of columns by name, got 3"),
        ({"dataframe_records": [ROW] * 51}, "dataframe_records must have at most 50 rows, got 51"),
        ({"dataframe_records": [ROW, {**ROW, "n": "x"}]}, "dataframe_records.1.n must be a whole number"),
        ({"dataframe_records": [{**ROW, "b": "true"}]}, 'dataframe_records.0.b must be true or false, got "true"'),
        ({"inputs": {name: [value, None] for name, value in ROW.items()}}, "inputs.n.1 must be a whole number"),
        (
            {"dataframe_split": [VALUES]},
            "dataframe_split must be an object with data and, optionally, columns and index",
        ),
        ({"dataframe_split": {"data": [VALUES], "x": 1}}, "dataframe_split must be an object with data"),
        ({"dataframe_split": {"columns": NAMES, "data": VALUES}}, "dataframe_split.data must be a list of rows"),
        ({"dataframe_split": {"columns": "n", "data": [VALUES]}}, "dataframe_split.columns must be a list of names"),
        ({"dataframe_split": {"columns": NAMES, "data": [VALUES, [1]]}}, "dataframe_split.data.1 must have 5 values"),
        ({"dataframe_split": {"columns": NAMES, "data": [VALUES], "index": []}}, "index must be a list of 1"),
        (
            {"dataframe_split": {"columns": NAMES, "data": []}},
            "dataframe_split.data must be a list of at least one row",
        ),
    ],
)
def test_invalid_table_is_a_400_in_mlflow_form(client: TestClient, body: Any, reason: str) -> None:
    """An invalid table is a 400 in MLflow's form that says what is wrong, and where."""
    assert_error(post(client, body), reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"dataframe_records": [{"n": 1}]}, "the model's required columns 'x', 'b', 's' are missing"),
        ({"inputs": {"n": [1]}}, "the model's required columns"),
        ({"dataframe_split": {"data": [VALUES]}}, "the model's required columns"),
        ({"inputs": [VALUES]}, "values without names cannot be assigned to columns"),
        ({"instances": 3}, "instances must be a list of records, or lists of values by column, got 3"),
        ({"instances": []}, "instances must be a list of records"),
        ({"inputs": {**ROW, "n": [1, 2]}}, "inputs must have equally many values in each column"),
        ({"dataframe_split": {"columns": ["n", "n"], "data": [[1, 2]]}}, 'dataframe_split.columns names "n" twice'),
    ],
)
def test_table_without_columns_is_a_schema_error(client: TestClient, body: Any, reason: str) -> None:
    """Values that cannot be assigned to the model's columns have MLflow's error code for schema errors."""
    assert_error(post(client, body), reason, "INVALID_PARAMETER_VALUE")


def test_nan_is_null_and_infinity_is_invalid(client: TestClient) -> None:
    """NaN is read as null, as MLflow's client writes missing values; Infinity is invalid JSON."""
    body = json.dumps({"inputs": [{**ROW, "o": float("nan")}]}).encode()
    assert b"NaN" in body
    assert post(client, body).json() == {"predictions": [[3, 2.5, 1, None, "a"]]}
    assert_error(post(client, body.replace(b"2.5", b"NaN")), "inputs.0.x must be a number, got null")
    assert_error(post(client, body.replace(b"2.5", b"-Infinity")), "the body is not JSON")
    assert_error(post(client, b'{"inputs": NaN' + b"[" * 5000), "the body is not JSON")


def test_csv_with_header_is_accepted(client: TestClient) -> None:
    """CSV with a header is accepted, and the error for an invalid value names its row and column."""
    assert post(client, b"s,b,x,n\na,true,2.5,3\n", "text/csv; charset=UTF-8").json() == {
        "predictions": [[3, 2.5, 1, None, "a"]]
    }
    assert_error(post(client, b"s,b,x,n\na,true,2.5,3.5\n", "text/csv"), 'row 1.n must be a whole number, got "3.5"')
    assert_error(post(client, b"s,b,x,n\n", "text/csv"), "must be a list of at least one row")


def test_parquet_requires_an_engine_with_pandas(client: TestClient) -> None:
    """Parquet is accepted if the engine uses pandas, and is a 415 otherwise."""
    file = BytesIO()
    pd.DataFrame([ROW]).to_parquet(file)
    media_type = "application/vnd.apache.parquet"
    assert post(client, file.getvalue(), media_type).json() == {"predictions": [MIRRORED]}
    engine = Mirror()
    engine.uses_pandas = False
    with client_of(engine) as client_without_pandas:
        answer = post(client_without_pandas, file.getvalue(), media_type)
        assert answer.status_code == 415
        assert "Parquet is accepted only if the model's engine uses pandas" in answer.text


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("text/plain", "the Content-Type must be one of application/json, text/csv"),
        ("application/json; charset=latin-1", "may have the parameter charset=utf-8 only"),
        ("application/json; format=split", "may have the parameter charset=utf-8 only, got 'format=split'"),
    ],
)
def test_unsupported_content_type_is_a_415(client: TestClient, content_type: str, reason: str) -> None:
    """An unsupported Content-Type is a 415 in plain text, as in MLflow's server."""
    answer = post(client, {"inputs": [ROW]}, content_type)
    assert (answer.status_code, answer.headers["content-type"]) == (415, "text/plain; charset=utf-8")
    assert reason in answer.text


def test_missing_content_type_is_a_415(client: TestClient) -> None:
    """A request without Content-Type is a 415, unlike the 500 of MLflow's server."""
    assert client.post("/invocations", content=b"{}").status_code == 415


def test_named_outputs_are_returned_as_records() -> None:
    """A model that names its output columns is answered with one record per row."""
    with client_of(Mirror(("n", "x", "b", "o", "s"))) as client:
        assert post(client, {"inputs": [ROW]}).json() == {"predictions": [{"n": 3, "x": 2.5, "b": 1, "o": 1, "s": "a"}]}


class Failing:
    """An engine that fails."""

    name = "failing"
    uses_pandas = False

    def predict(self, _rows: Rows) -> Prediction:
        raise ValueError("secret")


def test_server_errors_use_mlflow_form_without_details() -> None:
    """A body that is too large and a failing model are errors in MLflow's form, without details of the exception."""
    with client_of(Failing(), {"MAX_PENDING": "1"}) as client:
        large, failed = post(client, b" " * 20001), post(client, {"inputs": [ROW]})
    assert (large.status_code, large.json()["error_code"]) == (413, "BAD_REQUEST")
    assert (failed.status_code, failed.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in failed.text


def test_ping_and_version_answer_as_mlflow(client: TestClient) -> None:
    """/ping and /version are answered as by MLflow's server."""
    ping = client.get("/ping")
    assert (ping.status_code, ping.content, ping.headers["content-type"]) == (200, b"\n", JSON)
    assert client.get("/version").text == mlflow.__version__
    assert client.get("/invocations").status_code == 405
