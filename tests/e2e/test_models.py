"""End-to-end tests of a table of models, each served by a replica of two workers as MLflow and its library predict."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # Its types are in a separate package.
from openapi_spec_validator import validate

from tests.support.models.table.case import Case, Library, Params
from tests.support.models.table.catalogue import CASES
from tests.support.models.table.requests import (
    mlflow_answer,
    predict_body,
    same,
    scoring_bodies,
    v2_inputs,
    v2_labels,
)
from tests.support.ports import reserved_port
from tests.support.stacks.local import Replica, launch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    import mlflow.pyfunc
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

# How many replicas start while another one is tested.
_AHEAD = 4


@dataclass(frozen=True)
class Served:
    """A model of the table, its replica and the references of its answers."""

    case: Case
    replica: Replica
    library: Library
    pyfunc: Any

    @property
    def answers(self) -> list[tuple[Params | None, Sequence[Any]]]:
        """The expected predictions of the case's rows without parameters, and with each set of parameters."""
        return [(None, self.case.answers), *self.case.variants]

    def post(self, target: str, document: object) -> tuple[int, Any]:
        return self.replica.ask("POST", target, document)

    def get(self, target: str) -> Any:
        status, document = self.replica.ask("GET", target)
        assert status == 200, document
        return document

    def infer(self, rows: Sequence[Any], **more: object) -> tuple[int, Any]:
        """Send rows in the Open Inference Protocol, as a client that knows the metadata of the model."""
        target = f"/v2/models/{self.get('/health')['model']['name']}"
        inputs = v2_inputs(self.case, self.get(target)["inputs"], rows)
        return self.post(f"{target}/infer", {"inputs": inputs, **more})


class Line:
    """The models of the table in the order of their tests; the next replicas start while one is tested."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._started: dict[str, tuple[Replica, Library]] = {}
        self._ports = ExitStack()

    def serve(self, name: str) -> Served:
        """Return a model once its replica is ready."""
        position = self._names.index(name)
        for started in self._names[position : position + 1 + _AHEAD]:
            if started not in self._started:
                self._started[started] = self._start(started)
        replica, library = self._started[name]
        replica.wait_ready()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow warns about its own code
            return Served(CASES[name], replica, library, mlflow.pyfunc.load_model(str(self._folder / name / "model")))

    def _start(self, name: str) -> tuple[Replica, Library]:
        folder = self._folder / name
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow and scikit-learn advise against pickles, integers and more
            library = CASES[name].save(folder / "model")
        # The var folder is shared, so that the kernel of compiled models is compiled once.
        port = self._ports.enter_context(reserved_port())
        settings = {"PORT": str(port), "WEB_CONCURRENCY": "2", "VAR_DIR": str(self._folder / "var")}
        return launch(folder / "model", folder / "replica.log", **settings), library

    def stop(self) -> None:
        """Stop all replicas."""
        for replica, _ in self._started.values():
            replica.stop()
        self._ports.close()


@pytest.fixture(scope="module")
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The models that this session tests."""
    tested = [item.callspec.params["served"] for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    models = Line(tmp_path_factory.mktemp("table"), list(dict.fromkeys(tested)))
    yield models
    models.stop()


@pytest.fixture(
    scope="module",
    params=[pytest.param(case.name, marks=pytest.mark.slow if case.slow else ()) for case in CASES.values()],
)
def served(request: pytest.FixtureRequest, line: Line) -> Iterator[Served]:
    """Each model of the table."""
    model = line.serve(request.param)
    yield model
    model.replica.stop()


def test_engine_is_the_expected_one(served: Served) -> None:
    """The model is served by the engine that fits it best."""
    assert served.get("/health")["model"]["engine"] == served.case.engine


def test_invocations_answers_as_mlflow(served: Served) -> None:
    """/invocations gives the answers of MLflow's own scoring server to each form of the rows."""
    for params, answers in served.answers:
        for body in scoring_bodies(served.case, served.case.rows, params):
            expected = mlflow_answer(served.pyfunc, body)
            assert isinstance(expected, dict), (body, expected)
            assert same(expected["predictions"], list(answers), 0.1), (body, expected)
            status, document = served.post("/invocations", body)
            assert status == 200, (body, document)
            assert same(document, expected), (body, document, expected)


def test_mlflows_client_gets_predictions(served: Served) -> None:
    """MLflow's client sends a DataFrame, an array or a dict of arrays, and gets the answers of the model."""
    client = ScoringServerClient("127.0.0.1", served.replica.port)
    for params, answers in served.answers:
        response = client.invoke(served.library.input(served.case.rows), params)
        assert same(response["predictions"], list(answers), 0.1), response


def test_predict_answers_as_the_library(served: Served) -> None:
    """/predict gives the library's labels and probabilities, to a list of rows and to each row by itself."""
    rows = served.case.rows
    for params, _ in served.answers:
        more = {} if params is None else {"params": params}
        expected = served.library.labels(rows, params)
        status, document = served.post("/predict", {"instances": rows, **more})
        assert status == 200, document
        assert same(document["predictions"], expected), (document, expected)
        confidences = _confidences(expected, served.library.probabilities(rows))
        assert same(document["confidences"], confidences), (document, confidences)
        for row, label, confidence in zip(rows, expected, confidences, strict=True):
            for body in predict_body(served.case, row):
                if more and "features" not in body:  # a row by name has no place for parameters
                    continue
                status, document = served.post("/predict", {**body, **more})
                assert status == 200, (body, document)
                assert same([document["prediction"], document["confidence"]], [label, confidence]), (body, document)


def test_probabilities_are_those_of_the_library(served: Served) -> None:
    """/predict?probabilities=true and the V2 output of that name give the probability of each label."""
    rows, expected = served.case.rows, served.library.probabilities(served.case.rows)
    status, document = served.post("/predict?probabilities=true", {"instances": rows})
    if expected is None:
        assert status < 500, document
        return
    assert status == 200, document
    assert same(document["probabilities"], expected), (document, expected)
    body = next(predict_body(served.case, rows[1]))
    status, document = served.post("/predict?probabilities=true", body)
    assert status == 200, document
    assert same(document["probabilities"], expected[1]), (document, expected)
    status, document = served.infer(rows, outputs=[{"name": "probabilities"}])
    assert status == 200, document
    outputs = [np.reshape(output["data"], output["shape"]) for output in document["outputs"]]
    if len(outputs) > 1:  # a tensor for each output of the model
        outputs = [np.concatenate(rows) for rows in zip(*outputs, strict=True)]
        assert same([row.tolist() for row in outputs], [_flat(row) for row in expected]), (document, expected)
    else:
        assert same(outputs[0].tolist(), [_flat(row) for row in expected]), (document, expected)


def test_v2_answers_as_the_library(served: Served) -> None:
    """The Open Inference Protocol gives the library's labels and confidences to tensors of the model's metadata."""
    rows = served.case.rows
    for params, _ in served.answers:
        more = {} if params is None else {"parameters": params}
        expected = served.library.labels(rows, params)
        status, document = served.infer(rows, **more)
        assert status == 200, document
        labels = v2_labels(document["outputs"])
        assert same(labels, expected), (document, expected)
        confidences = [output["data"] for output in document["outputs"] if output["name"] == "confidence"]
        probabilities = served.library.probabilities(rows)
        if probabilities is None:
            assert not confidences
        else:
            assert same(confidences, [_flat(_confidences(expected, probabilities))]), document


def test_bad_rows_are_refused(served: Served) -> None:
    """A bad row gets 422 from /predict with its place, and 400 from the other protocols."""
    case = served.case
    good = case.rows[0]
    for row in case.bad:
        for body in ({"instances": [good, row]}, *predict_body(case, row)):
            status, document = served.post("/predict", body)
            assert status == 422, (body, document)
            assert all(error["pointer"].startswith("#") for error in document["errors"]), (body, document)
        for body in scoring_bodies(case, [row]):
            status, document = served.post("/invocations", body)
            assert status == 400, (body, document)
            assert document["error_code"], (body, document)
        status, document = served.infer([row])
        assert status == 400, (row, document)
        assert document["error"], (row, document)
    for row in case.converted:
        assert served.post("/predict", {"instances": [good, row]})[0] == 422, row
        assert served.infer([row])[0] == 400, row
        for body in scoring_bodies(case, [row]):
            assert served.post("/invocations", body) == (200, mlflow_answer(served.pyfunc, body)), body
    assert served.post("/predict", {"instances": [good]})[0] == 200


def test_requests_at_the_same_time_get_their_own_answers(served: Served) -> None:
    """Requests that may share a predict call get the answers that each gets by itself, and bad ones are refused."""
    case = served.case
    requests: list[tuple[dict[str, Any], int, Any]] = [({"instances": [row]}, 422, None) for row in case.bad]
    for params, _ in served.answers:
        more = {} if params is None else {"params": params}
        labels = served.library.labels(case.rows, params)
        requests += [({"instances": [row], **more}, 200, [label]) for row, label in zip(case.rows, labels, strict=True)]
    requests = random.Random(0).sample(requests * 4, len(requests) * 4)
    with ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda request: served.post("/predict", request[0]), requests)
    for (body, expected, labels), (status, document) in zip(requests, answers, strict=True):
        assert status == expected, (body, document)
        assert status != 200 or same(document["predictions"], labels), (body, document, labels)


def test_bad_parameters_are_refused(served: Served) -> None:
    """A parameter of the wrong type, or one that the model does not have, gets 422 or 400."""
    rows = served.case.rows
    for params in (*served.case.bad_params, {"forkcast_unknown": 1}):
        status, document = served.post("/predict", {"instances": rows, "params": params})
        assert status == 422, (params, document)
    for params in served.case.bad_params:
        for body in scoring_bodies(served.case, rows, params):
            status, document = served.post("/invocations", body)
            assert status == 400, (body, document)
        status, document = served.infer(rows, parameters=params)
        assert status == 400, (params, document)


def test_openapi_document_has_an_example_that_works(served: Served) -> None:
    """The OpenAPI document is valid, and the replica answers its example of /predict as it says."""
    document = served.get("/openapi.json")
    validate(document)
    operation = document["paths"]["/predict"]["post"]
    schema = {**operation["requestBody"]["content"]["application/json"]["schema"], "components": document["components"]}
    while "examples" not in schema:
        schema = {**_resolved(document, schema["$ref"]), "components": document["components"]}
    for example in schema["examples"]:
        assert Draft202012Validator(schema).is_valid(example), example
        status, answer = served.post("/predict", example)
        assert status == (200 if served.case.has_working_example else 422), (example, answer)


def _resolved(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def _flat(value: Any) -> list[Any]:
    """Return the numbers of nested lists and objects, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [number for item in value for number in _flat(item)] if isinstance(value, list) else [value]


def _confidences(labels: Sequence[Any], probabilities: list[Any] | None) -> list[Any]:
    """Return the probability of each label, or None for each if there are no probabilities."""
    if probabilities is None:
        return [None] * len(labels)
    return [_confidence(*pair) for pair in zip(labels, probabilities, strict=True)]


def _confidence(label: Any, probabilities: Any) -> Any:
    if isinstance(label, list):
        return [_confidence(*pair) for pair in zip(label, probabilities, strict=True)]
    return probabilities[str(label)]
