"""MLflow's scoring protocol. How far it is MLflow's own is tested beside ``mlflow models serve``, in tests/e2e."""

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
SHOWN = [3, 2.5, 1, 1, "a"]
JSON = "application/json"


@pytest.fixture(name="client", scope="module")
def _client() -> Iterator[TestClient]:
    with client_of(Mirror()) as client:
        yield client


def post(client: TestClient, body: Any, kind: str = JSON) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer: httpx.Response = client.post("/invocations", content=content, headers={"Content-Type": kind})
    return answer


def refused(answer: httpx.Response, words: str, code: str = "BAD_REQUEST") -> None:
    assert answer.status_code == 400
    error = answer.json()
    assert (error["error_code"], set(error)) == (code, {"error_code", "message", "sqlstate", "error_class"})
    assert words in error["message"]


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
    """A row is the same row in each of the forms, in whatever order, and whatever stands beside it."""
    answer = post(client, body)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [SHOWN]})
    assert answer.headers["x-model-version"] == "4"


def test_lenient_values_are_coerced_without_range_checks(client: TestClient) -> None:
    """Values become ones of their columns' types, ranges do not count, and an optional column may be left out."""
    rows = [{"n": "99", "x": True, "b": 0, "s": 7}, {"n": 3.9, "x": "1e2", "b": 2.0, "s": "", "o": None}]
    assert post(client, {"inputs": rows}).json() == {"predictions": [[99, 1, 0, None, "7"], [3, 100, 1, None, ""]]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "the body is not JSON"),
        ([ROW], "exactly one of dataframe_split, dataframe_records, instances, inputs, got a list of 1"),
        (3, "got 3"),
        ({}, "got none of them"),
        ({"columns": NAMES, "data": [VALUES]}, "got none of them"),
        ({"inputs": [ROW], "instances": [ROW]}, "got instances and inputs"),
        ({"inputs": [ROW], "params": [1]}, "params must be an object, got a list of 1"),
        ({"dataframe_records": []}, "dataframe_records must be a list of at least one row"),
        ({"dataframe_records": ROW}, "dataframe_records must be a list of at least one row, got an object"),
        ({"dataframe_records": [ROW, 3]}, "dataframe_records.1 must be an object of columns by name, got 3"),
        ({"dataframe_records": [ROW] * 51}, "dataframe_records must have at most 50 rows, got 51"),
        ({"dataframe_records": [ROW, {**ROW, "n": "x"}]}, "dataframe_records.1.n must be a whole number"),
        ({"dataframe_records": [{**ROW, "b": "true"}]}, 'dataframe_records.0.b must be true or false, got "true"'),
        ({"inputs": {name: [value, None] for name, value in ROW.items()}}, "inputs.n.1 must be a whole number"),
        ({"dataframe_split": [VALUES]}, "dataframe_split must be an object of columns, data and, if need be, index"),
        ({"dataframe_split": {"data": [VALUES], "x": 1}}, "dataframe_split must be an object of columns"),
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
def test_invalid_table_is_a_400_in_mlflow_form(client: TestClient, body: Any, words: str) -> None:
    """What is no table of the model's columns is a 400 of MLflow's form, which says what and where."""
    refused(post(client, body), words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"dataframe_records": [{"n": 1}]}, "the model's required columns 'x', 'b', 's' are missing"),
        ({"inputs": {"n": [1]}}, "the model's required columns"),
        ({"dataframe_split": {"data": [VALUES]}}, "the model's required columns"),
        ({"inputs": [VALUES]}, "values without names do not say which column they belong to"),
        ({"instances": 3}, "instances must be a list of records, or lists of values by column, got 3"),
        ({"instances": []}, "instances must be a list of records"),
        ({"inputs": {**ROW, "n": [1, 2]}}, "inputs must have as many values in each column"),
        ({"dataframe_split": {"columns": ["n", "n"], "data": [[1, 2]]}}, 'dataframe_split.columns names "n" twice'),
    ],
)
def test_table_without_columns_is_a_schema_error(client: TestClient, body: Any, words: str) -> None:
    """What does not say which value belongs to which column is an error of the schema, as MLflow tells it apart."""
    refused(post(client, body), words, "INVALID_PARAMETER_VALUE")


def test_nan_is_null_and_infinity_is_invalid(client: TestClient) -> None:
    """NaN is null, as MLflow's client writes a value that a DataFrame has not; Infinity is no JSON."""
    body = json.dumps({"inputs": [{**ROW, "o": float("nan")}]}).encode()
    assert b"NaN" in body
    assert post(client, body).json() == {"predictions": [[3, 2.5, 1, None, "a"]]}
    refused(post(client, body.replace(b"2.5", b"NaN")), "inputs.0.x must be a number, got null")
    refused(post(client, body.replace(b"2.5", b"-Infinity")), "the body is not JSON")
    refused(post(client, b'{"inputs": NaN' + b"[" * 5000), "the body is not JSON")


def test_unsupported_parameter_is_refused() -> None:
    """A parameter that the model would heed is refused, rather than left out of its answer."""
    with client_of(Mirror(), params=frozenset(["threshold"])) as client:
        refused(post(client, {"inputs": [ROW], "params": {"threshold": 1}}), "'threshold'")


def test_csv_with_header_is_accepted(client: TestClient) -> None:
    """CSV with a header is a table; a value that is none of its column's names its row and column."""
    assert post(client, b"s,b,x,n\na,true,2.5,3\n", "text/csv; charset=UTF-8").json() == {
        "predictions": [[3, 2.5, 1, None, "a"]]
    }
    refused(post(client, b"s,b,x,n\na,true,2.5,3.5\n", "text/csv"), 'row 1.n must be a whole number, got "3.5"')
    refused(post(client, b"s,b,x,n\n", "text/csv"), "must be a list of at least one row")


def test_parquet_requires_an_engine_with_pandas(client: TestClient) -> None:
    """Parquet is a table where the engine has pandas in memory anyway."""
    file = BytesIO()
    pd.DataFrame([ROW]).to_parquet(file)
    kind = "application/vnd.apache.parquet"
    assert post(client, file.getvalue(), kind).json() == {"predictions": [SHOWN]}
    engine = Mirror()
    engine.frames = False
    with client_of(engine) as lean:
        answer = post(lean, file.getvalue(), kind)
        assert answer.status_code == 415
        assert "Parquet is read where the engine has pandas in memory anyway" in answer.text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text/plain", "the Content-Type must be one of application/json, text/csv"),
        ("application/json; charset=latin-1", "may have charset=utf-8 beside it"),
        ("application/json; format=split", "may have charset=utf-8 beside it, got 'format=split'"),
    ],
)
def test_unsupported_content_type_is_a_415(client: TestClient, kind: str, words: str) -> None:
    """Other content types are a 415 in plain text, as MLflow answers them."""
    answer = post(client, {"inputs": [ROW]}, kind)
    assert (answer.status_code, answer.headers["content-type"]) == (415, "text/plain; charset=utf-8")
    assert words in answer.text


def test_missing_content_type_is_a_415(client: TestClient) -> None:
    """No content type is a 415, and not MLflow's 500."""
    assert client.post("/invocations", content=b"{}").status_code == 415


def test_named_outputs_are_returned_as_records() -> None:
    """A model that names its outputs answers records, as its DataFrame is one."""
    with client_of(Mirror(("n", "x", "b", "o", "s"))) as client:
        assert post(client, {"inputs": [ROW]}).json() == {"predictions": [{"n": 3, "x": 2.5, "b": 1, "o": 1, "s": "a"}]}


class Failing:
    """An engine that fails."""

    name = "failing"
    frames = False

    def predict(self, _rows: Rows) -> Prediction:
        raise ValueError("secret")


def test_server_errors_use_mlflow_form_without_details() -> None:
    """A full queue, a body that is too large and a failing model have MLflow's form too, and tell no secret."""
    with client_of(Failing(), {"MAX_PENDING": "1"}) as client:
        large, failed = post(client, b" " * 20001), post(client, {"inputs": [ROW]})
    assert (large.status_code, large.json()["error_code"]) == (413, "BAD_REQUEST")
    assert (failed.status_code, failed.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in failed.text


def test_ping_and_version_answer_as_mlflow(client: TestClient) -> None:
    """MLflow's two questions are answered as it answers them."""
    ping = client.get("/ping")
    assert (ping.status_code, ping.content, ping.headers["content-type"]) == (200, b"\n", JSON)
    assert client.get("/version").text == mlflow.__version__
    assert client.get("/invocations").status_code == 405
