"""The probabilities of all classes in the answers of the three protocols, for classifiers of every kind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from deploy.models.compile.packing import pack
from server.engines.sklearn import SklearnEngine
from server.inference.signature import schema_from_signature
from server.metrics.counts import INVOCATIONS
from tests.support.models.forests import double_columns, engine_of
from tests.support.models.mirror_app import TestClient, client_of

X = np.random.default_rng(0).normal(size=(60, 2))
CLASSES = np.digitize(X.sum(axis=1), [-0.5, 0.5])
NAMES = np.array(["pine", "fir", "aspen"])[CLASSES]
TWO_OUTPUTS = np.column_stack([CLASSES, CLASSES + 5])
LABELS = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
SCHEMA = double_columns(2)
ROWS = X[:3].tolist()
INFER = "/v2/models/trees/infer"
YES = {"probabilities": "true"}


@contextmanager
def served(engine: Any) -> Iterator[TestClient]:
    with client_of(engine, name="trees", schema=SCHEMA, example={"x0": 0.5, "x1": 1.0}) as client:
        yield client


def estimator(name: str) -> Any:
    forest = RandomForestClassifier(5, random_state=0)
    estimators: dict[str, tuple[Any, Any]] = {
        "forest": (forest, NAMES),
        "logistic": (LogisticRegression(), NAMES),
        "booleans": (GaussianNB(), CLASSES > 0),
        "floats": (GaussianNB(), CLASSES - 1.0),
    }
    unfitted, y = estimators[name]
    return unfitted.fit(X, y)


def tensor(rows: list[list[float]]) -> dict[str, Any]:
    data = [value for row in rows for value in row]
    return {"name": "input-0", "shape": [len(rows), 2], "datatype": "FP64", "data": data}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("forest", ["aspen", "fir", "pine"]),
        ("logistic", ["aspen", "fir", "pine"]),
        ("booleans", ["false", "true"]),
        ("floats", ["-1.0", "0.0", "1.0"]),
    ],
)
def test_probabilities_are_by_class_in_the_order_of_the_model(name: str, keys: list[str]) -> None:
    """An answer of /predict has an object for each row, with the classes in the model's order, as JSON names them."""
    fitted = estimator(name)
    expected = fitted.predict_proba(X[:3])
    with served(SklearnEngine(fitted, SCHEMA)) as client:
        several = client.post("/predict", params=YES, json={"instances": ROWS}).json()
        single = client.post("/predict", params=YES, json={"features": ROWS[0]}).json()
        plain = client.post("/predict", json={"instances": ROWS}).json()
    assert [list(row) for row in several["probabilities"]] == [keys] * 3
    assert [list(row.values()) for row in several["probabilities"]] == expected.tolist()
    assert single["probabilities"] == several["probabilities"][0]
    assert {key: value for key, value in several.items() if key != "probabilities"} == plain
    assert single["confidence"] == max(single["probabilities"].values())


def test_packed_forest_gives_the_same_probabilities() -> None:
    """A compiled forest answers with the bits of scikit-learn's probabilities in all protocols."""
    fitted = estimator("forest")
    answers = []
    for engine in (SklearnEngine(fitted, SCHEMA), engine_of(pack(fitted, SCHEMA), SCHEMA)):
        with served(engine) as client:
            predict = client.post("/predict", params=YES, json={"instances": ROWS}).json()
            body = {"inputs": [tensor(ROWS)], "outputs": [{"name": "probabilities"}, {"name": "predict"}]}
            answers.append((predict, client.post(INFER, json=body).json()))
    assert answers[0] == answers[1]


def test_v2_has_probabilities_only_on_request() -> None:
    """V2 has a tensor of rows times classes, with the classes as its parameter, if a request names it."""
    fitted = estimator("forest")
    with served(SklearnEngine(fitted, SCHEMA)) as client:
        outputs = client.post(INFER, json={"inputs": [tensor(ROWS)], "outputs": [{"name": "probabilities"}]}).json()[
            "outputs"
        ]
        unasked = client.post(INFER, json={"inputs": [tensor(ROWS)]}).json()["outputs"]
        ignored = client.post(INFER, params=YES, json={"inputs": [tensor(ROWS)]}).json()["outputs"]
    assert outputs == [
        {
            "name": "probabilities",
            "shape": [3, 3],
            "datatype": "FP64",
            "data": fitted.predict_proba(X[:3]).ravel().tolist(),
            "parameters": {"classes": ["aspen", "fir", "pine"]},
        }
    ]
    assert [output["name"] for output in unasked] == [output["name"] for output in ignored] == ["predict", "confidence"]


def test_invocations_answers_as_mlflow_does() -> None:
    """/invocations, whose answers are MLflow's, has no probabilities, whatever the query says."""
    with served(SklearnEngine(estimator("forest"), SCHEMA)) as client:
        records = [{"x0": a, "x1": b} for a, b in ROWS]
        answer = client.post(INVOCATIONS, params=YES, json={"dataframe_records": records}).json()
    assert list(answer) == ["predictions"]


@pytest.mark.parametrize("engine", ["sklearn", "forest"])
def test_model_without_probabilities_answers_null(engine: str) -> None:
    """A model without probabilities answers null on /predict, and V2 says that it has no such output."""
    fitted = RandomForestRegressor(3, random_state=0).fit(X, X[:, 0])
    loaded = SklearnEngine(fitted, SCHEMA) if engine == "sklearn" else engine_of(pack(fitted, SCHEMA), SCHEMA)
    with served(loaded) as client:
        assert client.post("/predict", params=YES, json={"features": ROWS[0]}).json()["probabilities"] is None
        assert client.post("/predict", params=YES, json={"instances": ROWS}).json()["probabilities"] == [None] * 3
        refused = client.post(INFER, json={"inputs": [tensor(ROWS)], "outputs": [{"name": "probabilities"}]})
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": "outputs: 'probabilities' is not an output of this model; expected predict"},
    )


@pytest.mark.parametrize("unfitted", [RidgeClassifier(), KMeans(2, random_state=0)], ids=str)
def test_labels_without_probabilities_answer_null(unfitted: Any) -> None:
    """A classifier without probabilities, and a clustering, answer null."""
    with served(SklearnEngine(unfitted.fit(X, CLASSES), SCHEMA)) as client:
        answer = client.post("/predict", params=YES, json={"features": ROWS[0]}).json()
    assert (answer["confidence"], answer["probabilities"]) == (None, None)


MULTI: dict[str, tuple[Any, Any]] = {
    "forest of two outputs": (RandomForestClassifier(5, random_state=0), TWO_OUTPUTS),
    "two classifiers": (MultiOutputClassifier(GaussianNB()), TWO_OUTPUTS),
    "neighbours of two outputs": (KNeighborsClassifier(3), TWO_OUTPUTS),
    "forest of labels": (RandomForestClassifier(5, random_state=0), LABELS),
    "chain of labels": (ClassifierChain(GaussianNB()), LABELS),
}


@pytest.mark.parametrize("name", MULTI)
def test_each_output_has_its_own_probabilities(name: str) -> None:
    """A model of several outputs has a set of probabilities for each, of which the confidences are a part."""
    unfitted, y = MULTI[name]
    fitted = unfitted.fit(X, y)
    with served(SklearnEngine(fitted, SCHEMA)) as client:
        answer = client.post("/predict", params=YES, json={"instances": ROWS}).json()
        single = client.post("/predict", params=YES, json={"features": ROWS[0]}).json()
        outputs = client.post(INFER, json={"inputs": [tensor(ROWS)], "outputs": [{"name": "probabilities"}]}).json()[
            "outputs"
        ]
    assert answer["predictions"] == fitted.predict(X[:3]).astype(int).tolist()
    for i, (labels, confidences, sets) in enumerate(
        zip(answer["predictions"], answer["confidences"], answer["probabilities"], strict=True)
    ):
        assert len(sets) == 2
        for k, (label, confidence, by_class) in enumerate(zip(labels, confidences, sets, strict=True)):
            assert sum(by_class.values()) == pytest.approx(1)
            values = {float(key): value for key, value in by_class.items()}
            assert values[float(label)] == pytest.approx(confidence)
            assert outputs[k]["data"][i * len(by_class) : (i + 1) * len(by_class)] == list(by_class.values())
    assert single["probabilities"] == answer["probabilities"][0]
    assert [output["name"] for output in outputs] == ["probabilities-0", "probabilities-1"]
    assert [output["parameters"]["classes"] for output in outputs] == [
        [float(key) if "." in key else int(key) for key in by_class] for by_class in answer["probabilities"][0]
    ]


@pytest.mark.parametrize("unfitted", [OneVsRestClassifier(GaussianNB()), MLPClassifier(3, random_state=0)], ids=str)
def test_label_set_has_a_probability_for_each_label(unfitted: Any) -> None:
    """A classifier of several labels that gives one probability for each of them has a single set of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network has not converged
        fitted = unfitted.fit(X, LABELS)
    expected = fitted.predict_proba(X[:3])
    with served(SklearnEngine(fitted, SCHEMA)) as client:
        answer = client.post("/predict", params=YES, json={"instances": ROWS}).json()
        (output,) = client.post(INFER, json={"inputs": [tensor(ROWS)], "outputs": [{"name": "probabilities"}]}).json()[
            "outputs"
        ]
    assert answer["predictions"] == fitted.predict(X[:3]).tolist()
    assert answer["probabilities"] == [{"0": a, "1": b} for a, b in expected.tolist()]
    assert (output["shape"], output["data"]) == ([3, 2], expected.ravel().tolist())


@pytest.mark.parametrize(
    ("query", "has_probabilities"),
    [
        ("probabilities=true", True),
        ("probabilities=1", True),
        ("probabilities=false", False),
        ("probabilities=0", False),
        ("other=1", False),
        ("", False),
        ("probabilities=false&probabilities=true", True),
        ("%70robabilities=tru%65", True),
    ],
)
def test_query_asks_for_probabilities(query: str, has_probabilities: bool) -> None:
    """The query parameter is true or false; the last one counts, and others are ignored."""
    with served(SklearnEngine(estimator("forest"), SCHEMA)) as client:
        answer = client.post(f"/predict?{query}", json={"features": ROWS[0]})
    assert answer.status_code == 200
    assert ("probabilities" in answer.json()) is has_probabilities


@pytest.mark.parametrize("value", ["maybe", "", "True", "yes", "%ff", "x" * 1000])
def test_other_query_value_is_a_422(value: str) -> None:
    """Another value of the query parameter is a 422 that names it."""
    with served(SklearnEngine(estimator("forest"), SCHEMA)) as client:
        answer = client.post(f"/predict?probabilities={value}", json={"features": ROWS[0]})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith('the query parameter probabilities must be true or false, got "')
    assert len(answer.content) < 300


def test_probabilities_of_a_signature_without_names() -> None:
    """A model of an unnamed tensor answers with probabilities for rows that are lists."""
    spec = {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}
    fitted = estimator("logistic")
    schema = schema_from_signature([spec], {})
    example = {"x0": 0.5, "x1": 1.0}
    with client_of(SklearnEngine(fitted, schema), name="trees", schema=schema, example=example) as client:
        answer = client.post("/predict", params=YES, json={"features": ROWS[0]}).json()
    assert list(answer["probabilities"].values()) == fitted.predict_proba(X[:1])[0].tolist()
