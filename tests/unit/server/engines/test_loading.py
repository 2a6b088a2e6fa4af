"""Tests of the engines with real models that MLflow saved: labels and confidences equal the model's own."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from server.engines.loading import load_engine, suitable_engines
from server.engines.sklearn import SklearnEngine
from server.errors import CompanionRefused, InvalidRows, ModelError
from server.inference.model import Engine
from server.inference.rows import Prediction, Rows
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel
from server.protocols.json_codec import decode, encode_predictions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the other packages that are installed
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import ColSpec, Schema

# MLflow recommends type hints for `predict` when it saves and loads a model.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint.*:UserWarning")

IRIS = load_iris(as_frame=True)
X: pd.DataFrame = IRIS.data
Y: npt.NDArray[np.int64] = IRIS.target.to_numpy()
NAMES = IRIS.target_names[Y]
BINARY = (Y == 2).astype(int)
TWO_OUTPUTS = np.column_stack([Y, BINARY])
SOIL = pd.DataFrame(
    {
        "soil": np.array(["clay", "sand", "loam"] * 20),
        "depth": np.arange(60) / 7,
        "stones": np.arange(60) % 5,
        "wet": np.arange(60) % 2 == 0,
    }
)


@pytest.fixture(scope="module", autouse=True)
def quiet_mlflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel("ERROR")
        yield


def save(
    folder: Path, estimator: Any, frame: pd.DataFrame = X, format_name: str = "cloudpickle", **options: Any
) -> MLmodel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about pickles and about integers in a signature
        mlflow.sklearn.save_model(
            estimator,
            str(folder),
            signature=infer_signature(frame),
            serialization_format=format_name,
            pip_requirements=[],
            **options,
        )
    return MLmodel.read(folder)


def rows_of(mlmodel: MLmodel, frame: pd.DataFrame) -> Rows:
    """Return a frame's rows as the server receives them, through JSON and the schema."""
    body = json.dumps({"instances": frame.to_numpy(dtype=object).tolist()}).encode()
    return mlmodel.require_schema().to_rows(mlmodel.require_schema().parse(decode(body), len(frame)).values)


def predict(mlmodel: MLmodel, frame: pd.DataFrame, engine: str = "auto") -> Prediction:
    prediction = load_engine(mlmodel, engine).predict(rows_of(mlmodel, frame))
    answer = decode(encode_predictions(prediction, "1"))
    assert isinstance(answer, dict)
    assert answer["predictions"] == prediction.labels
    assert len(prediction.labels) == len(frame)
    return prediction


def estimator_of(engine: Engine) -> Any:
    assert isinstance(engine, SklearnEngine)
    return engine.estimator


def edit(mlmodel: MLmodel, change: Callable[[dict[str, Any]], None]) -> MLmodel:
    path = mlmodel.folder / "MLmodel"
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    return MLmodel.read(mlmodel.folder)


CLASSIFIERS = {
    "forest": RandomForestClassifier(8, max_depth=3, random_state=0).fit(X, Y),
    "forest of names": RandomForestClassifier(8, max_depth=3, random_state=0).fit(X, NAMES),
    "tree behind a scaler": make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=2)).fit(X, Y),
    "regression": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y),
    "regression of names": LogisticRegression(max_iter=1000).fit(X, NAMES),
    "boosting": HistGradientBoostingClassifier(max_iter=5).fit(X, Y),
    "search": GridSearchCV(LogisticRegression(max_iter=1000), {"C": [0.1, 1]}, cv=2).fit(X, Y),
}


@pytest.fixture(scope="module", params=CLASSIFIERS)
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MLmodel, Any]:
    estimator = CLASSIFIERS[request.param]
    return save(tmp_path_factory.mktemp("classifier") / "model", estimator), estimator


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> MLmodel:
    return save(tmp_path_factory.mktemp("regression") / "model", CLASSIFIERS["regression"])


def test_classifier_confidence_is_the_highest_probability(classifier: tuple[MLmodel, Any]) -> None:
    """Labels are those of predict, and confidences the highest probability, for a single row and for many."""
    mlmodel, estimator = classifier
    prediction = predict(mlmodel, X)
    assert prediction.labels == estimator.predict(X).tolist()
    assert prediction.confidences == pytest.approx(estimator.predict_proba(X).max(axis=1), rel=1e-12)
    single = predict(mlmodel, X[100:101])
    assert single.labels == prediction.labels[100:101]
    assert single.confidences == pytest.approx(estimator.predict_proba(X)[100].max(), rel=1e-12)


def test_pyfunc_returns_equal_labels_without_confidences(classifier: tuple[MLmodel, Any]) -> None:
    """The engine pyfunc gives the same labels, without confidences."""
    mlmodel, estimator = classifier
    prediction = predict(mlmodel, X, "pyfunc")
    assert prediction.labels == estimator.predict(X).tolist()
    assert prediction.confidences is None


def test_model_without_names_raises_no_warning(tmp_path: Path) -> None:
    """A model that was fitted without feature names is called without names, so that scikit-learn does not warn."""
    estimator = RandomForestClassifier(4, random_state=0).fit(X.to_numpy(), Y)
    assert predict(save(tmp_path / "model", estimator), X).labels == estimator.predict(X.to_numpy()).tolist()


def test_tied_probabilities_keep_the_predicted_label(tmp_path: Path) -> None:
    """If classes are equally probable, the label is the one that predict returns."""
    estimator = DecisionTreeClassifier(max_depth=1).fit(X, Y)
    probabilities = np.sort(estimator.predict_proba(X))
    assert (probabilities[:, -1] == probabilities[:, -2]).any()
    assert predict(save(tmp_path / "model", estimator), X).labels == estimator.predict(X).tolist()


def test_thresholded_label_keeps_its_own_probability(tmp_path: Path) -> None:
    """A model with its own decision threshold gives its label and the probability of that label."""
    estimator = FixedThresholdClassifier(LogisticRegression(max_iter=1000), threshold=0.1).fit(X, BINARY)
    labels, probabilities = estimator.predict(X), estimator.predict_proba(X)
    assert (labels != probabilities.argmax(axis=1)).any()
    prediction = predict(save(tmp_path / "model", estimator), X)
    assert prediction.labels == labels.tolist()
    assert prediction.confidences == pytest.approx(probabilities[np.arange(150), labels], rel=1e-12)


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression().fit(X, Y),
        RandomForestRegressor(3, random_state=0).fit(X, Y),
        LinearRegression().fit(X, TWO_OUTPUTS),
    ],
    ids=["line", "forest", "two outputs"],
)
def test_regressor_returns_numbers_without_confidences(tmp_path: Path, estimator: Any) -> None:
    """A regressor gives numbers without confidences, or a list of numbers per row if it has several outputs."""
    prediction = predict(save(tmp_path / "model", estimator), X)
    assert prediction.confidences is None
    assert np.allclose(prediction.labels, estimator.predict(X), rtol=1e-12)


@pytest.mark.parametrize(
    "estimator",
    [LinearSVC().fit(X, NAMES), GaussianMixture(2, random_state=0).fit(X)],
    ids=["classifier", "mixture"],
)
def test_model_without_probabilities_has_no_confidences(tmp_path: Path, estimator: Any) -> None:
    """A model without probabilities of classes gives labels and no confidences."""
    prediction = predict(save(tmp_path / "model", estimator), X)
    assert prediction.confidences is None
    assert prediction.labels == estimator.predict(X).tolist()


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(4, max_depth=2, random_state=0).fit(X, TWO_OUTPUTS),
        DecisionTreeClassifier(max_depth=2).fit(X, np.column_stack([NAMES, NAMES])),
        MultiOutputClassifier(LogisticRegression(max_iter=1000)).fit(X, TWO_OUTPUTS),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_several_outputs_return_lists_per_row(tmp_path: Path, estimator: Any) -> None:
    """A classifier with several outputs gives a list of labels and a list of confidences per row."""
    prediction = predict(save(tmp_path / "model", estimator), X)
    assert prediction.labels == estimator.predict(X).tolist()
    highest = np.column_stack([probabilities.max(axis=1) for probabilities in estimator.predict_proba(X)])
    assert prediction.confidences is not None
    assert np.allclose(prediction.confidences, highest, rtol=1e-12)


def test_multilabel_confidences_cover_each_label(tmp_path: Path) -> None:
    """A multilabel classifier gives, for each label, the probability of the predicted 0 or 1."""
    flags = np.column_stack([label == Y for label in range(3)]).astype(int)
    estimator = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(X, flags)
    prediction = predict(save(tmp_path / "model", estimator), X)
    labels, probabilities_of_1 = estimator.predict(X), estimator.predict_proba(X)
    assert prediction.labels == labels.tolist()
    assert prediction.confidences is not None
    assert np.allclose(prediction.confidences, np.where(labels == 1, probabilities_of_1, 1 - probabilities_of_1))


def test_mixed_columns_reach_pipeline_with_types(tmp_path: Path) -> None:
    """A pipeline gets string, integer, double and boolean columns by name and with their types."""
    columns = ColumnTransformer([("soil", OneHotEncoder(handle_unknown="ignore"), ["soil"])], remainder="passthrough")
    estimator = make_pipeline(columns, RandomForestClassifier(4, random_state=0)).fit(SOIL, SOIL["stones"])
    mlmodel = save(tmp_path / "model", estimator, SOIL)
    assert [column.type for column in mlmodel.require_schema().columns] == ["string", "double", "long", "boolean"]
    for engine in ("sklearn", "pyfunc"):
        assert predict(mlmodel, SOIL, engine).labels == estimator.predict(SOIL).tolist()
    assert predict(mlmodel, SOIL).confidences == pytest.approx(estimator.predict_proba(SOIL).max(axis=1))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # scikit-learn warns before it refuses
@pytest.mark.parametrize("engine", ["sklearn", "pyfunc"])
def test_unknown_category_or_huge_number_is_client_error(tmp_path: Path, engine: str) -> None:
    """An unknown category, or a number that is too large for trees, is refused as an error of the request."""
    soils = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(SOIL[["soil"]], SOIL["stones"])
    with pytest.raises(InvalidRows, match=r'does not accept the value of "soil": Found unknown categories'):
        predict(save(tmp_path / "soil", soils, SOIL[["soil"]]), pd.DataFrame({"soil": ["moon dust"]}), engine)
    trees = save(tmp_path / "trees", DecisionTreeClassifier().fit(X, Y))
    with pytest.raises(InvalidRows, match="Input X contains infinity or a value too large"):
        predict(trees, X.head(1) * 1e40, engine)


def test_missing_optional_number_becomes_nan(tmp_path: Path) -> None:
    """A missing optional number is passed to the model as NaN, in a batch with rows that have a value."""
    estimator = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2).fit(X, Y)
    columns = [ColSpec("double", name, required=i > 0) for i, name in enumerate(X)]
    mlmodel = edit(
        save(tmp_path / "model", estimator),
        lambda document: document["signature"].update(inputs=json.dumps([c.to_dict() for c in columns])),
    )
    frame = X[::30].copy()
    frame.iloc[::2, 0] = math.nan
    rows = rows_of(mlmodel, frame.astype(object).where(frame.notna(), None))
    for engine in ("sklearn", "pyfunc"):
        assert load_engine(mlmodel, engine).predict(rows).labels == estimator.predict(frame).tolist()


@pytest.mark.parametrize("format_name", ["pickle", "cloudpickle", "skops"])
def test_every_sklearn_serialization_format_loads(tmp_path: Path, format_name: str) -> None:
    """Models in each of MLflow's formats for scikit-learn load, including skops with trusted types."""
    estimator = CLASSIFIERS["forest"]
    trusted = ["sklearn.tree._tree.Tree"] if format_name == "skops" else None
    mlmodel = save(tmp_path / "model", estimator, format_name=format_name, skops_trusted_types=trusted)
    assert mlmodel.flavors["sklearn"]["serialization_format"] == format_name
    assert predict(mlmodel, X, "sklearn").labels == estimator.predict(X).tolist()


def test_untrusted_skops_types_are_refused(tmp_path: Path) -> None:
    """A skops file with an untrusted type is refused by both engines with a one-line error."""
    trusted = ["sklearn.tree._tree.Tree"]
    saved = save(tmp_path / "model", CLASSIFIERS["forest"], format_name="skops", skops_trusted_types=trusted)
    mlmodel = edit(saved, lambda document: document["flavors"]["sklearn"].update(skops_trusted_types=None))
    for engine in ("sklearn", "pyfunc"):
        with pytest.raises(ModelError, match=r"does not load.*ntrusted") as caught:
            load_engine(mlmodel, engine)
        assert "\n" not in str(caught.value)


def test_unknown_serialization_format_is_refused(tmp_path: Path) -> None:
    """A serialization format that is not supported is refused with a list of the supported ones."""
    saved = save(tmp_path / "model", CLASSIFIERS["regression"])
    mlmodel = edit(saved, lambda document: document["flavors"]["sklearn"].update(serialization_format="joblib"))
    with pytest.raises(ModelError, match="'joblib'; expected one of skops, cloudpickle, pickle"):
        load_engine(mlmodel, "auto")


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"<html>\nplease log in\n</html>", None])
@pytest.mark.parametrize("format_name", ["pickle", "cloudpickle", "skops"])
def test_broken_model_file_is_refused_in_one_line(tmp_path: Path, format_name: str, content: bytes | None) -> None:
    """A damaged or missing model file is refused with a one-line error by both engines."""
    mlmodel = save(tmp_path / "model", CLASSIFIERS["regression"], format_name=format_name)
    path = mlmodel.folder / mlmodel.flavors["sklearn"]["pickled_model"]
    path.unlink() if content is None else path.write_bytes(content)
    for engine, message in (("sklearn", f"the model's file {path.name} does not load"), ("pyfunc", "as a pyfunc: ")):
        with pytest.raises(ModelError, match=message) as caught:
            load_engine(mlmodel, engine)
        assert "\n" not in str(caught.value)


def test_loaded_models_use_a_single_thread(tmp_path: Path) -> None:
    """Every n_jobs of a loaded model is 1, also of nested estimators, except those that were never set."""
    forests = [(str(i), RandomForestClassifier(2, n_jobs=-1, random_state=i)) for i in range(2)]
    voting = VotingClassifier([*forests, ("line", LogisticRegression(max_iter=1000))], voting="soft")
    columns = ColumnTransformer([("all", StandardScaler(), list(X))])
    estimator = make_pipeline(columns, voting).fit(X, Y)
    labels = estimator.predict(X).tolist()
    estimator.set_params(
        columntransformer__n_jobs=2, votingclassifier__n_jobs=4
    )  # set after fitting, which would start processes
    mlmodel = save(tmp_path / "model", estimator)
    loaded = estimator_of(load_engine(mlmodel, "sklearn"))
    fitted = loaded.steps[1][1]
    assert (loaded.steps[0][1].n_jobs, fitted.n_jobs) == (1, 1)
    assert [nested.n_jobs for nested in fitted.estimators_] == [1, 1, None]
    assert {nested.n_jobs for _, nested in fitted.estimators} == {1, None}
    assert {fitted.named_estimators_[name].n_jobs for name in ("0", "1")} == {1}
    assert predict(mlmodel, X).labels == labels


def test_model_without_predict_is_refused(tmp_path: Path) -> None:
    """A model that has no method predict is refused."""
    with pytest.raises(ModelError, match="the model is a StandardScaler, which has no method predict"):
        load_engine(save(tmp_path / "model", StandardScaler().fit(X)), "auto")


@pytest.mark.parametrize("choice", ["forest", "onnx"])
def test_engine_without_companion_error_lists_available(regression: MLmodel, choice: str) -> None:
    """An engine whose companion the model does not have is refused with a list of the available engines."""
    message = f"ENGINE='{choice}' is not available for this model; available: auto, sklearn, pyfunc"
    with pytest.raises(ModelError, match=message):
        load_engine(regression, choice)


@pytest.mark.parametrize(
    ("flavors", "choice", "message"),
    [
        ({"spark": {}}, "auto", "none of the flavors that can be served: expected one of .*, got spark$"),
        ({}, "auto", "none of the flavors that can be served: expected one of .*, got none$"),
        ({"spark": {}}, "sklearn", "none of the flavors that can be served: expected one of .*, got spark$"),
        ({"python_function": {}}, "sklearn", "ENGINE='sklearn' is not available .*; available: auto, pyfunc$"),
    ],
)
def test_unsupported_flavors_are_named(regression: MLmodel, flavors: dict[str, Any], choice: str, message: str) -> None:
    """A model without a supported flavor is refused with an error that names its flavors or the available engines."""
    mlmodel = MLmodel(regression.folder, flavors, regression.schema, None, None)
    with pytest.raises(ModelError, match=message):
        load_engine(mlmodel, choice)


def test_auto_prefers_sklearn_over_pyfunc(regression: MLmodel) -> None:
    """ENGINE=auto selects sklearn rather than pyfunc, and both can be chosen by name."""
    assert load_engine(regression, "auto").name == "sklearn"
    assert load_engine(regression, "sklearn").name == "sklearn"
    assert load_engine(regression, "pyfunc").name == "pyfunc"


def test_probability_model_returns_lists_through_pyfunc(tmp_path: Path) -> None:
    """A model that was logged with predict_proba gives a list of probabilities per row, by the engine pyfunc."""
    estimator = CLASSIFIERS["regression"]
    mlmodel = save(tmp_path / "model", estimator, pyfunc_predict_fn="predict_proba")
    assert load_engine(mlmodel, "auto").name == "pyfunc"
    prediction = predict(mlmodel, X)
    assert np.allclose(prediction.labels, estimator.predict_proba(X))
    assert prediction.confidences is None


def test_sklearn_engine_calls_predict_of_a_predict_proba_model(tmp_path: Path) -> None:
    """With ENGINE=sklearn, a model that was logged with predict_proba gives the labels of predict."""
    estimator = CLASSIFIERS["regression"]
    mlmodel = save(tmp_path / "model", estimator, pyfunc_predict_fn="predict_proba")
    assert predict(mlmodel, X, "sklearn").labels == estimator.predict(X).tolist()


# A companion with an unknown layout version. Other reasons for a refusal are tested in test_companion.py.
REFUSED_COMPANION = {"forkcast_forest": {"layout": 0}}


def test_refused_companion_is_logged_and_skipped(regression: MLmodel, caplog: pytest.LogCaptureFixture) -> None:
    """ENGINE=auto logs a refused companion once and selects the next engine, and ENGINE=forest raises the error."""
    mlmodel = replace(regression, flavors={**REFUSED_COMPANION, **regression.flavors})
    assert suitable_engines(mlmodel) == ["forest", "sklearn", "pyfunc"]
    assert load_engine(mlmodel, "auto").name == "sklearn"
    (warning,) = caplog.messages
    assert "the model's companion for the engine forest has the layout 0, expected 1" in warning
    assert warning.endswith("; serving without it")
    for name in ("sklearn", "pyfunc"):
        assert load_engine(mlmodel, name).name == name
    with pytest.raises(CompanionRefused, match="has the layout 0") as caught:
        load_engine(mlmodel, "forest")
    assert "\n" not in str(caught.value)
    assert len(caplog.messages) == 1


def test_refused_companion_without_alternative_stops_loading(
    regression: MLmodel, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that has only a refused companion is refused without a warning in the log."""
    with pytest.raises(CompanionRefused, match="has the layout 0"):
        load_engine(replace(regression, flavors=REFUSED_COMPANION), "auto")
    assert caplog.messages == []


def test_companion_is_not_used_with_another_predict_function(
    regression: MLmodel, caplog: pytest.LogCaptureFixture
) -> None:
    """A companion, which computes predict, is not used for a model that was logged with another function."""
    wrapper = {**regression.flavors["python_function"], "predict_fn": "predict_proba"}
    mlmodel = replace(regression, flavors={**REFUSED_COMPANION, **regression.flavors, "python_function": wrapper})
    assert load_engine(mlmodel, "auto").name == "pyfunc"
    assert caplog.messages == []


class CustomModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A user-defined pyfunc model that returns ``answer(frame)``."""

    def __init__(self, answer: Callable[[pd.DataFrame], Any]) -> None:
        self._answer = answer

    def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
        return self._answer(model_input)


def custom_model(folder: Path, answer: Callable[[pd.DataFrame], Any], signature: Any = None) -> MLmodel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=CustomModel(answer),
            signature=signature or infer_signature(X),
            pip_requirements=[],
        )
    return MLmodel.read(folder)


WIDTHS = X.iloc[:, 0].tolist()
PAIRS = X.iloc[:, :2].to_numpy().tolist()


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        (lambda frame: frame.iloc[:, 0].to_numpy(), WIDTHS),
        (lambda frame: frame.iloc[:, :2].to_numpy(), PAIRS),
        (lambda frame: frame.iloc[:, 0].tolist(), WIDTHS),
        (lambda frame: list(frame.iloc[:, 0].to_numpy()), WIDTHS),
        (lambda frame: {"width": frame.iloc[:, 0].tolist()}, WIDTHS),
        (lambda frame: {"a": frame.iloc[:, 0].tolist(), "b": frame.iloc[:, 1].to_numpy()}, PAIRS),
        (lambda frame: list(frame.iloc[:, :2].to_numpy()), PAIRS),
        (lambda frame: frame.iloc[:, 0], WIDTHS),
        (lambda frame: frame.iloc[:, [0]], WIDTHS),
        (lambda frame: frame.iloc[:, :2], PAIRS),
        (lambda frame: ["short" if width < 6 else "long" for width in frame.iloc[:, 0]], None),
        (lambda frame: frame.iloc[:, [0]].assign(kind="iris"), [[width, "iris"] for width in WIDTHS]),
    ],
)
def test_custom_model_results_become_json_values(
    tmp_path: Path, answer: Callable[[pd.DataFrame], Any], labels: list[Any] | None
) -> None:
    """Arrays, lists, series and frames that a custom model returns become one JSON value or one list per row."""
    prediction = predict(custom_model(tmp_path / "model", answer), X)
    assert prediction.labels == (labels or ["short" if width < 6 else "long" for width in WIDTHS])
    assert prediction.confidences is None


def test_custom_model_gets_columns_in_order_and_types_of_its_signature(tmp_path: Path) -> None:
    """A custom model gets a frame with the columns in the order and with the types of its signature."""
    types = {"s": "string", "b": "boolean", "i": "integer", "n": "long", "f": "float", "d": "double"}
    signature = ModelSignature(inputs=Schema([ColSpec(type_name, name) for name, type_name in types.items()]))
    mlmodel = custom_model(
        tmp_path / "model",
        lambda frame: [[str(dtype) for dtype in frame.dtypes[1:]], frame.iloc[0].tolist()],
        signature,
    )
    request = mlmodel.require_schema().parse({"d": 0.5, "f": 1.5, "n": 2**53, "i": -1, "b": True, "s": "é"}, 1)
    assert load_engine(mlmodel, "auto").predict(mlmodel.require_schema().to_rows(request.values)).labels == [
        ["bool", "int32", "int64", "float32", "float64"],
        ["é", True, -1, 2**53, 1.5, 0.5],
    ]


def test_missing_optional_string_is_a_missing_value(tmp_path: Path) -> None:
    """A missing optional string is a missing value in the frame."""
    signature = ModelSignature(inputs=Schema([ColSpec("string", "s", required=False), ColSpec("double", "d")]))
    mlmodel = custom_model(tmp_path / "model", lambda frame: frame["s"].isna().tolist(), signature)
    request = mlmodel.require_schema().parse({"instances": [{"d": 1}, {"s": "a", "d": 1}]}, 2)
    assert load_engine(mlmodel, "auto").predict(mlmodel.require_schema().to_rows(request.values)).labels == [
        True,
        False,
    ]


OWN_CODE = """
from sklearn.ensemble import RandomForestClassifier

class Shy(RandomForestClassifier):
    def predict(self, X):
        return super().predict(X).clip(max=1)
"""


@pytest.mark.parametrize("engine", ["sklearn", "pyfunc"])
def test_model_code_is_imported_without_changing_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """A model's own code is imported, and the bytecode that this writes does not change the digest of its folder."""
    module = f"own_code_{engine}"
    source = tmp_path / f"{module}.py"
    source.write_text(OWN_CODE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    shy = __import__(module).Shy(4, random_state=0).fit(X, Y)
    mlmodel = save(tmp_path / "model", shy, code_paths=[str(source)])
    monkeypatch.setattr(sys, "path", sys.path[1:])
    monkeypatch.delitem(sys.modules, module)
    source.unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    digest = folder_digest(mlmodel.folder)
    try:
        assert set(predict(mlmodel, X, engine).labels) == {0, 1}
        assert list(mlmodel.folder.rglob("*.pyc"))
        assert folder_digest(mlmodel.folder) == digest
        assert str(mlmodel.folder) in str(sys.modules[module].__file__)
    finally:
        sys.modules.pop(module, None)
