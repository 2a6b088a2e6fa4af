"""Inference parameters in the requests of the three protocols."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import httpx
import pytest

from server.inference.parameters import Parameters
from server.metrics.counts import INVOCATIONS
from tests.support.models.echo_app import INFER, MATRIX, served, tensor
from tests.support.models.mirror_app import TestClient

PARAMETERS = Parameters.from_signature(
    [
        {"name": "top", "type": "long", "default": 1, "shape": None},
        {"name": "since", "type": "datetime", "default": "2024-01-01", "shape": None},
        {"name": "stops", "type": "string", "default": [], "shape": [-1]},
    ]
)
PARAMS = {"top": 3, "since": "2024-01-31T12:00:00+02:00", "stops": ["a"]}


def requests(client: TestClient, params: Any) -> list[httpx.Response]:
    """Send a row with parameters over each form of each protocol; the strict ones of /predict come first."""
    matrix = tensor("input-0", "FP32", [1, 2], [1, 2])
    return [
        client.post("/predict", json={"features": [1, 2], "params": params}),
        client.post("/predict", json={"instances": [[1, 2]], "params": params}),
        client.post(INVOCATIONS, json={"inputs": [[1, 2]], "params": params}),
        client.post(INVOCATIONS, json={"dataframe_split": {"data": [[1, 2]]}, "params": params}),
        client.post(INFER, json={"inputs": [matrix], "parameters": params}),
    ]


def test_declared_parameters_are_passed_to_the_model() -> None:
    """Every protocol passes declared parameters in their types; without any, the model's own defaults hold."""
    expected = json.dumps({"top": 3, "since": datetime(2024, 1, 31, 10), "stops": ["a"]}, default=str)
    with served(MATRIX, parameters=PARAMETERS) as client:
        for answer in requests(client, PARAMS):
            assert (answer.status_code, expected in answer.text.replace("\\", "")) == (200, True)
        for params in (None, dict[str, object]()):
            for answer in requests(client, params):
                assert answer.status_code == 200
                assert "top" not in answer.text


@pytest.mark.parametrize(
    ("params", "place", "detail"),
    [
        ({"top": "3"}, "/top", 'must be a whole number, got "3"'),
        ({"top": 2.5}, "/top", "must be a whole number, got 2.5"),
        ({"since": "2024-02-30"}, "/since", "must be a date or time in ISO 8601"),
        ({"stops": "a"}, "/stops", "must be a list, each item a string"),
        ({"stops": ["a", 1]}, "/stops/1", "must be a string, got 1"),
        ([], "", "must be an object of parameters by name, got a list of 0"),
    ],
)
def test_wrong_parameter_is_refused_in_every_protocol(params: Any, place: str, detail: str) -> None:
    """A parameter of a wrong type is a 422 with its place on /predict, and a 400 elsewhere that names it."""
    with served(MATRIX, parameters=PARAMETERS) as client:
        *strict, scoring, split, infer = requests(client, params)
    for answer in strict:
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["pointer"]) == (422, f"#/params{place}")
        assert error["detail"].startswith(detail)
    for answer, key in ((scoring, "message"), (split, "message"), (infer, "error")):
        assert answer.status_code == 400
        assert detail in answer.json()[key]


def test_unknown_parameter_is_refused_only_by_predict() -> None:
    """A parameter that the model does not declare is a 422 on /predict, and ignored by the other protocols."""
    for parameters in (PARAMETERS, Parameters()):
        with served(MATRIX, parameters=parameters) as client:
            *strict, scoring, split, infer = requests(client, {"other": 1})
        for answer in strict:
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/params/other")
        assert {answer.status_code for answer in (scoring, split, infer)} == {200}
