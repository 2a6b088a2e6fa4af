"""Forkcast beside the servers whose protocols it speaks: MLflow's, asked now, and MLServer, as it once answered."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own imports warn
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from tests.peers import mlflow, mlflow_differences, mlserver, mlserver_differences, v2
from tests.peers.exchange import Answer, ask
from tests.peers.models import MIXED, SAVE
from tests.peers.outcome import check_differences, scoring_outcome, v2_outcome
from tests.support.stacks.local import Replica, launch

pytestmark = pytest.mark.slow

_CLASSES = ("sqlstate", "error_class")
# By the request's name: the other server's answer, and ours.
Answers = Mapping[str, tuple[Answer, Answer]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder for each name."""
    path = tmp_path_factory.mktemp("peers")
    for name, save in SAVE.items():
        save(path / name)
    return path


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Mapping[str, mlflow.ScoringServer]]:
    """MLflow's server of each model, not waited for."""
    servers = {name: mlflow.ScoringServer.start(folder / name, folder / f"{name}.mlflow.log") for name in SAVE}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="module")
def replicas(folder: Path) -> Iterator[Mapping[str, Replica]]:
    """A replica of each model."""
    started = {name: launch(folder / name, folder / f"{name}.log", WEB_CONCURRENCY="1") for name in SAVE}
    try:
        for replica in started.values():
            replica.wait_ready()
        yield started
    finally:
        for replica in started.values():
            replica.stop()


@pytest.fixture(scope="module")
def scored(served: Mapping[str, mlflow.ScoringServer], replicas: Mapping[str, Replica]) -> Answers:
    """Every request of MLflow's protocol, answered by both; the models side by side."""

    def both(model: str) -> dict[str, tuple[Answer, Answer]]:
        served[model].wait_ready()
        cases = [case for case in mlflow.cases() if case.model == model]
        return {case.name: (ask(served[model].port, case), ask(replicas[model].port, case)) for case in cases}

    with ThreadPoolExecutor() as pool:
        return {name: pair for found in pool.map(both, SAVE) for name, pair in found.items()}


@pytest.fixture(scope="module")
def inferred(replicas: Mapping[str, Replica]) -> Answers:
    """Every request of the Open Inference Protocol, with MLServer's recorded answer."""
    recorded = json.loads(mlserver.RECORDING.read_text())["answers"]
    versions = {name: replica.ask("GET", f"/v2/models/{name}")[1]["versions"][0] for name, replica in replicas.items()}
    found = {}
    for case in mlserver.cases():
        name = case.model.removesuffix(v2.SKLEARN)
        ours = ask(replicas[name].port, case, name=name, version=versions[name])
        found[case.name] = mlserver.recorded_answer(case, recorded), ours
    return found


def test_scoring_requests_are_answered_as_by_mlflow(scored: Answers) -> None:
    """Each request gets MLflow's status and predictions, or its error's code, but for what is listed."""
    outcomes = {name: (scoring_outcome(theirs), scoring_outcome(ours)) for name, (theirs, ours) in scored.items()}
    assert len(outcomes) == len(mlflow.cases())
    assert not (found := check_differences(outcomes, mlflow_differences.DIFFERENCES)), "\n".join(found)


def test_scoring_errors_have_mlflows_form(scored: Answers) -> None:
    """An error has MLflow's type and keys, but no traceback, and of the same code the same state and class."""
    codes = set()
    for name, (theirs, ours) in scored.items():
        if theirs.status == ours.status == 415:
            assert ours.content_type == theirs.content_type == "text/plain; charset=utf-8", name
        if theirs.status == ours.status == 400:
            there, here = theirs.document, ours.document
            assert ours.content_type == theirs.content_type == "application/json", name
            assert set(here) == set(there) - {"stack_trace"}, name
            same = here["error_code"] == there["error_code"]
            assert not same or [here[key] for key in _CLASSES] == [there[key] for key in _CLASSES], name
            codes.add(here["error_code"])
    assert codes == {"BAD_REQUEST", "INVALID_PARAMETER_VALUE"}


def test_mlflows_client_may_leave_values_out(
    served: Mapping[str, mlflow.ScoringServer], replicas: Mapping[str, Replica]
) -> None:
    """A DataFrame with a missing value in an optional column, or without that column, is predicted by both alike."""
    served["mixed"].wait_ready()
    frame = pd.DataFrame([MIXED, {**MIXED, "age": None}])
    for some in (frame, frame.astype({"age": object}), frame.drop(columns="age")):
        ports = served["mixed"].port, replicas["mixed"].port
        there, here = (ScoringServerClient("127.0.0.1", port).invoke(some)["predictions"] for port in ports)
        assert here == there
        assert here[1].endswith("|-")


def test_tensors_are_answered_as_by_mlserver(inferred: Answers) -> None:
    """Each request gets the status and the values, or the columns, that MLServer gave it, but for what is listed."""
    outcomes = {name: (v2_outcome(theirs), v2_outcome(ours)) for name, (theirs, ours) in inferred.items()}
    assert len(outcomes) == len(mlserver.cases())
    assert not (found := check_differences(outcomes, mlserver_differences.DIFFERENCES)), "\n".join(found)


def test_tensor_errors_have_the_protocols_form(inferred: Answers) -> None:
    """Every error under /v2 is a document with nothing but the error's text, as MLServer's own are."""
    for name, (theirs, ours) in inferred.items():
        if ours.status != 200:
            assert ours.content_type == "application/json", name
            assert list(ours.document) == ["error"], name
            assert ours.document["error"], name
        if theirs.status in (400, 404) and "detail" not in theirs.document:
            assert list(theirs.document) == ["error"], name


def test_what_differs_from_mlserver_in_every_answer(inferred: Answers) -> None:
    """One value a row has the shape [n], not [n, 1]; confidences follow the labels; no id is made up."""
    for name, (theirs, ours) in inferred.items():
        if theirs.status == ours.status == 200 and "model_name" in (ours.document or {}):
            there, here = theirs.document["outputs"][0], ours.document["outputs"]
            assert there["name"] in ("output-1", "predict"), name
            assert [one["name"] for one in here][:1] == ["predict"], name
            assert there["shape"] == (here[0]["shape"] if len(here[0]["shape"]) == 2 else [*here[0]["shape"], 1]), name
            assert ours.document.get("id", "a new one") == theirs.document["id"], name
