"""Comparison of Forkcast's answers with those of a running MLflow server and recorded answers of MLServer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from tests.peers import mlflow, mlflow_differences, mlserver, mlserver_differences, v2
from tests.peers.exchange import Answer, ask
from tests.peers.models import MIXED, SAVE
from tests.peers.outcome import check_differences, scoring_outcome, v2_outcome
from tests.support.stacks.local import Replica, launch

pytestmark = pytest.mark.slow

_ERROR_FIELDS = ("sqlstate", "error_class")
# The other server's answer and Forkcast's, by the name of the request.
Answers = Mapping[str, tuple[Answer, Answer]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model folder for each name in SAVE."""
    path = tmp_path_factory.mktemp("peers")
    for name, save in SAVE.items():
        save(path / name)
    return path


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[Mapping[str, mlflow.ScoringServer]]:
    """A started MLflow server of each model, which may not be ready yet."""
    started = {name: mlflow.ScoringServer.start(folder / name, folder / f"{name}.mlflow.log") for name in SAVE}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(scope="module")
def replicas(folder: Path) -> Iterator[Mapping[str, Replica]]:
    """A ready replica of each model."""
    started = {name: launch(folder / name, folder / f"{name}.log", WEB_CONCURRENCY="1") for name in SAVE}
    try:
        for replica in started.values():
            replica.wait_ready()
        yield started
    finally:
        for replica in started.values():
            replica.stop()


@pytest.fixture(scope="module")
def scoring_answers(servers: Mapping[str, mlflow.ScoringServer], replicas: Mapping[str, Replica]) -> Answers:
    """The answers of both servers to each request of MLflow's protocol, with all models in parallel."""

    def ask_both(model: str) -> dict[str, tuple[Answer, Answer]]:
        servers[model].wait_ready()
        cases = [case for case in mlflow.cases() if case.model == model]
        return {case.name: (ask(servers[model].port, case), ask(replicas[model].port, case)) for case in cases}

    with ThreadPoolExecutor() as pool:
        return {name: pair for answers in pool.map(ask_both, SAVE) for name, pair in answers.items()}


@pytest.fixture(scope="module")
def inference_answers(replicas: Mapping[str, Replica]) -> Answers:
    """MLServer's recorded answer and Forkcast's to each request of the Open Inference Protocol."""
    recorded = json.loads(mlserver.RECORDING.read_text())["answers"]
    versions = {name: replica.ask("GET", f"/v2/models/{name}")[1]["versions"][0] for name, replica in replicas.items()}
    answers = {}
    for case in mlserver.cases():
        name = case.model.removesuffix(v2.SKLEARN)
        ours = ask(replicas[name].port, case, name=name, version=versions[name])
        answers[case.name] = mlserver.recorded_answer(case, recorded), ours
    return answers


def test_scoring_answers_equal_mlflows(scoring_answers: Answers) -> None:
    """Each request gets MLflow's status and predictions or error code, except for the listed differences."""
    outcomes = {
        name: (scoring_outcome(theirs), scoring_outcome(ours)) for name, (theirs, ours) in scoring_answers.items()
    }
    assert len(outcomes) == len(mlflow.cases())
    assert not (problems := check_differences(outcomes, mlflow_differences.DIFFERENCES)), "\n".join(problems)


def test_scoring_errors_have_mlflows_form(scoring_answers: Answers) -> None:
    """Errors have MLflow's media type and keys without the traceback; equal codes have equal states and classes."""
    codes = set()
    for name, (theirs, ours) in scoring_answers.items():
        if theirs.status == ours.status == 415:
            assert ours.content_type == theirs.content_type == "text/plain; charset=utf-8", name
        if theirs.status == ours.status == 400:
            expected, actual = theirs.document, ours.document
            assert ours.content_type == theirs.content_type == "application/json", name
            assert set(actual) == set(expected) - {"stack_trace"}, name
            if actual["error_code"] == expected["error_code"]:
                assert [actual[key] for key in _ERROR_FIELDS] == [expected[key] for key in _ERROR_FIELDS], name
            codes.add(actual["error_code"])
    assert codes == {"BAD_REQUEST", "INVALID_PARAMETER_VALUE"}


def test_missing_values_are_predicted_as_by_mlflow(
    servers: Mapping[str, mlflow.ScoringServer], replicas: Mapping[str, Replica]
) -> None:
    """A missing value of an optional column, or a missing optional column, is predicted equally by both servers."""
    servers["mixed"].wait_ready()
    frame = pd.DataFrame([MIXED, {**MIXED, "age": None}])
    for variant in (frame, frame.astype({"age": object}), frame.drop(columns="age")):
        ports = servers["mixed"].port, replicas["mixed"].port
        expected, actual = (ScoringServerClient("127.0.0.1", port).invoke(variant)["predictions"] for port in ports)
        assert actual == expected
        assert actual[1].endswith("|-")


def test_tensor_answers_equal_mlservers(inference_answers: Answers) -> None:
    """Each request gets MLServer's status and values or columns, except for the listed differences."""
    outcomes = {name: (v2_outcome(theirs), v2_outcome(ours)) for name, (theirs, ours) in inference_answers.items()}
    assert len(outcomes) == len(mlserver.cases())
    assert not (problems := check_differences(outcomes, mlserver_differences.DIFFERENCES)), "\n".join(problems)


def test_tensor_errors_have_the_protocols_form(inference_answers: Answers) -> None:
    """Every error under /v2 is a JSON object with the only key `error`, like MLServer's errors."""
    for name, (theirs, ours) in inference_answers.items():
        if ours.status != 200:
            assert ours.content_type == "application/json", name
            assert list(ours.document) == ["error"], name
            assert ours.document["error"], name
        if theirs.status in (400, 404) and "detail" not in theirs.document:
            assert list(theirs.document) == ["error"], name


def test_systematic_differences_from_mlserver(inference_answers: Answers) -> None:
    """A single value per row has the shape [n], not [n, 1]; confidences follow the labels; no request id is added."""
    for name, (theirs, ours) in inference_answers.items():
        if theirs.status == ours.status == 200 and "model_name" in (ours.document or {}):
            reference, outputs = theirs.document["outputs"][0], ours.document["outputs"]
            assert reference["name"] in ("output-1", "predict"), name
            assert [output["name"] for output in outputs][:1] == ["predict"], name
            shape = outputs[0]["shape"]
            assert reference["shape"] == (shape if len(shape) == 2 else [*shape, 1]), name
            assert ours.document.get("id", "a new one") == theirs.document["id"], name
