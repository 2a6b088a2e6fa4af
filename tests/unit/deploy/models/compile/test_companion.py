"""Tests of the companion inside a model: it is checked when it is made, and served only if complete and matching."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deploy.models.compile.features import NotCompilable
from deploy.models.training.pipeline import fit
from deploy.models.training.synthetic import generate
from server.engines.companion import model_digest
from server.engines.loading import load_engine, suitable_engines
from server.engines.sklearn import SklearnEngine
from server.errors import CompanionRefused, InvalidRows, ModelError
from server.inference.rows import Prediction, Rows
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel
from server.settings import ROOT
from tests.support.models.forests import Floats, compile_once, rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import Model, infer_signature

    from deploy.models.compile import companion
    from deploy.models.training import package

# MLflow advises to annotate `predict`, and reads input examples in a way that pandas 3 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*type hint.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "depth": RNG.normal(size=120) * 100,
        "soil": RNG.choice(np.array(["clay", "sand", "loam"], dtype=object), 120),
        "zone": RNG.normal(size=120),
    }
)
LABELS = np.array(["fir", "pine"])[(FRAME["depth"] + (FRAME["soil"] == "clay") * 100 > FRAME["zone"]).astype(int)]


def estimator(seed: int = 0, final: Any = None) -> Any:
    one_hot = OneHotEncoder(sparse_output=False)
    columns = ColumnTransformer([("codes", one_hot, ["soil"]), ("scaled", StandardScaler(), ["zone", "depth"])])
    forest = final or RandomForestClassifier(6, max_depth=5, random_state=seed)
    return make_pipeline(columns, forest).fit(FRAME, LABELS)


def save(folder: Path, fitted: Any, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow advises against pickles
        mlflow.sklearn.save_model(
            fitted,
            str(folder),
            signature=infer_signature(FRAME, LABELS),
            input_example=FRAME[3:4],
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
            metadata={"trained_on": "file: soil.csv", "ranges": {"depth": [-1000, 1000]}},
            **options,
        )
    return folder


def add_companion(folder: Path, fitted: Any) -> Any:
    schema = MLmodel.read(folder).require_schema()
    rows = rows_of(schema, FRAME)
    return companion.add_forest(folder, SklearnEngine(fitted, schema), schema, lambda _: rows, "its own rows")


@pytest.fixture(scope="module", autouse=True)
def quiet_mlflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel("ERROR")
        compile_once(patch)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as MLflow saves it, without a companion."""
    return save(tmp_path_factory.mktemp("plain") / "model", estimator())


@pytest.fixture(scope="module")
def compiled(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``plain`` with its companion."""
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("compiled") / "model")
    add_companion(folder, estimator())
    return folder


@pytest.fixture(scope="module")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same columns, with its companion."""
    folder = save(tmp_path_factory.mktemp("other") / "model", estimator(seed=1))
    add_companion(folder, estimator(seed=1))
    return folder


@pytest.fixture
def folder(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the compiled model that a test may change."""
    return shutil.copytree(compiled, tmp_path / "model")


def flavor_of(folder: Path) -> dict[str, Any]:
    flavor: dict[str, Any] = document_of(folder)["flavors"]["forkcast_forest"]
    return flavor


def document_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())
    return document


def edit_flavor(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = document_of(folder)
    change(document["flavors"]["forkcast_forest"])
    (folder / "MLmodel").write_text(yaml.safe_dump(document))


def predict(folder: Path, engine: str = "auto") -> tuple[str, Prediction]:
    """Load the model, and return the name of its engine and the predictions of all rows."""
    mlmodel = MLmodel.read(folder)
    loaded = load_engine(mlmodel, engine)
    return loaded.name, loaded.predict(rows_of(mlmodel.require_schema(), FRAME))


def assert_refused(folder: Path, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that ENGINE=forest raises the reason, and that otherwise scikit-learn serves after one such warning."""
    with pytest.raises(ModelError) as caught:
        predict(folder, "forest")
    assert isinstance(caught.value, CompanionRefused)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    caplog.clear()
    assert predict(folder)[0] == "sklearn"
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", f"{caught.value}; serving without it")


def test_companion_predictions_equal_scikit_learn(compiled: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model with a companion is served by it, with exactly the predictions of scikit-learn."""
    assert suitable_engines(MLmodel.read(compiled)) == ["forest", "sklearn", "pyfunc"]
    name, prediction = predict(compiled)
    assert (name, caplog.records) == ("forest", [])
    assert ("sklearn", prediction) == predict(compiled, "sklearn")
    assert prediction.labels == estimator().predict(FRAME).tolist()
    assert predict(compiled, "forest") == (name, prediction)


def test_flavor_records_folder_digests_and_check(compiled: Path) -> None:
    """The flavor records the folder, the digests and the check that passed."""
    flavor = flavor_of(compiled)
    assert flavor == {
        "layout": 1,
        "data": "forest",
        "digest": folder_digest(compiled / "forest"),
        "model_digest": model_digest(MLmodel.read(compiled)),
        "check": {
            "against": "its own rows",
            "rows": 120,
            "labels_differ": 0,
            "ties": flavor["check"]["ties"],
            "largest_difference": 0.0,
            "tolerance": 1e-6,
            "passed": True,
        },
    }
    files = {path.name for path in (compiled / "forest").iterdir()}
    assert files == {"forest.json", "nodes.npy", "leaves.npy", "roots.npy"}


def test_companion_changes_nothing_else_in_the_model(plain: Path, compiled: Path) -> None:
    """A companion adds its files and its flavor, and changes no other file and no other part of MLmodel."""
    plain_document, compiled_document = document_of(plain), document_of(compiled)
    del compiled_document["flavors"]["forkcast_forest"]
    assert compiled_document == plain_document
    files = {path.relative_to(plain) for path in plain.rglob("*") if path.is_file()}
    assert {path.relative_to(compiled) for path in compiled.rglob("*") if path.is_file()} - files == {
        path.relative_to(compiled) for path in (compiled / "forest").iterdir()
    }
    for name in files - {Path("MLmodel")}:
        assert (compiled / name).read_bytes() == (plain / name).read_bytes()


def test_mlflow_loads_a_model_with_a_companion(plain: Path, compiled: Path) -> None:
    """MLflow loads both flavors, the signature, the metadata and the example of a model with a companion."""
    labels = estimator().predict(FRAME).tolist()
    assert mlflow.sklearn.load_model(str(compiled)).predict(FRAME).tolist() == labels
    loaded = mlflow.pyfunc.load_model(str(compiled))
    assert list(loaded.predict(FRAME)) == labels
    assert loaded.metadata.signature == Model.load(str(plain)).signature
    assert loaded.metadata.metadata == {"trained_on": "file: soil.csv", "ranges": {"depth": [-1000, 1000]}}
    example = Model.load(str(compiled)).load_input_example(str(compiled))
    assert example.to_dict("records") == FRAME[3:4].to_dict("records")
    assert MLmodel.read(compiled).example == FRAME.iloc[3].to_dict()


def test_serving_a_companion_imports_no_heavy_library(compiled: Path, tmp_path: Path) -> None:
    """A process that serves a companion does not import scikit-learn, Numba, pandas, MLflow or a pickle reader."""
    script = """
import json, sys
from pathlib import Path
from server.engines.loading import load_engine
from server.model_store.mlmodel import MLmodel
mlmodel = MLmodel.read(Path(sys.argv[1]))
engine = load_engine(mlmodel, "auto", Path(sys.argv[2]))
rows = mlmodel.require_schema().to_rows(mlmodel.require_schema().parse(json.loads(sys.argv[3]), 1000).values)
answer = engine.predict(rows)
print(json.dumps([engine.name, answer.labels, answer.confidences, sorted({m.split(".")[0] for m in sys.modules})]))
"""
    rows = json.dumps({"instances": FRAME.to_dict("records")})
    completed = subprocess.run(
        [sys.executable, "-c", script, str(compiled), str(tmp_path), rows],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    name, labels, confidences, modules = json.loads(completed.stdout)
    expected = estimator().predict_proba(FRAME).max(axis=1).tolist()
    assert (name, labels, confidences) == ("forest", estimator().predict(FRAME).tolist(), expected)
    heavy = {"sklearn", "numba", "pandas", "mlflow", "scipy", "joblib", "skops", "cloudpickle", "onnxruntime"}
    assert heavy.isdisjoint(modules)
    assert len(list(tmp_path.glob("*.o"))) == 1


def test_unknown_category_is_a_client_error(compiled: Path) -> None:
    """A category that the model rejects is reported as the client's error."""
    mlmodel = MLmodel.read(compiled)
    with pytest.raises(InvalidRows, match=r"^soil must be one of the 3 values .*, got peat$"):
        load_engine(mlmodel, "forest").predict(rows_of(mlmodel.require_schema(), FRAME[:3].assign(soil="peat")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda flavor: flavor["check"].update(passed=False), "failed its check against the model"),
        (lambda flavor: flavor["check"].update(passed="true"), "failed its check against the model"),
        (lambda flavor: flavor["check"].update(passed=1), "failed its check against the model"),
        (lambda flavor: flavor["check"].pop("passed"), "failed its check against the model"),
        (lambda flavor: flavor.pop("check"), "failed its check against the model"),
        (lambda flavor: flavor.update(check=None), "failed its check against the model"),
        (lambda flavor: flavor.update(check="passed"), "failed its check against the model"),
        (lambda flavor: flavor.update(layout=2), "has the layout 2, expected 1"),
        (lambda flavor: flavor.update(layout="1"), "has the layout '1', expected 1"),
        (lambda flavor: flavor.pop("layout"), "has the layout None, expected 1"),
        (lambda flavor: flavor.update(data="elsewhere"), "is missing or damaged"),
        (lambda flavor: flavor.update(data=""), "is missing or damaged"),
        (lambda flavor: flavor.update(data="model.pkl"), "is missing or damaged"),
        (lambda flavor: flavor.pop("data"), "is missing or damaged"),
        (lambda flavor: flavor.update(digest="0" * 64), "is missing or damaged"),
        (lambda flavor: flavor.pop("digest"), "is missing or damaged"),
        (lambda flavor: flavor.update(model_digest="0" * 64), "does not belong to this model"),
        (lambda flavor: flavor.pop("model_digest"), "does not belong to this model"),
    ],
)
def test_companion_with_invalid_record_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """A companion is refused if its flavor does not record a passed check of these files."""
    edit_flavor(folder, change)
    assert_refused(folder, reason, caplog)


FILES = ("forest.json", "nodes.npy", "leaves.npy", "roots.npy")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["one byte", "cut short", "gone"])
def test_companion_with_damaged_files_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    """A companion with a file that is changed, truncated or missing is refused."""
    path = folder / "forest" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(content[:-1])
    else:
        content[-3] ^= 1
        path.write_bytes(content)
    assert_refused(folder, "is missing or damaged; `make compile` makes a new one", caplog)


def test_missing_or_extra_companion_files_are_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A companion with an extra file, or without its folder, is refused."""
    (folder / "forest" / "extra").touch()
    assert_refused(folder, "is missing or damaged", caplog)
    shutil.rmtree(folder / "forest")
    assert_refused(folder, "is missing or damaged", caplog)


def test_companion_is_refused_after_the_estimator_is_replaced(
    folder: Path, second_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the estimator's file is replaced, the companion is refused, and the new estimator is served."""
    shutil.copy(second_model / "model.pkl", folder / "model.pkl")
    assert_refused(folder, "does not belong to this model", caplog)
    assert predict(folder)[1].labels == estimator(seed=1).predict(FRAME).tolist()


def test_companion_of_another_model_is_refused(
    folder: Path, second_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The companion of another model is refused, even if it is copied with its flavor."""
    shutil.rmtree(folder / "forest")
    shutil.copytree(second_model / "forest", folder / "forest")
    assert_refused(folder, "is missing or damaged", caplog)
    edit_flavor(folder, lambda flavor: flavor.update(flavor_of(second_model)))
    assert_refused(folder, "does not belong to this model", caplog)
    assert predict(folder)[1].labels == estimator().predict(FRAME).tolist()


def test_reordered_signature_keeps_the_predictions(folder: Path) -> None:
    """If the columns of the signature are reordered, the predictions stay the same, with or without the companion."""
    document = document_of(folder)
    columns = json.loads(document["signature"]["inputs"])
    document["signature"]["inputs"] = json.dumps(columns[::-1])
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    mlmodel = MLmodel.read(folder)
    rows = rows_of(mlmodel.require_schema(), FRAME[list(mlmodel.require_schema().names)])
    assert load_engine(mlmodel, "auto").predict(rows).labels == estimator().predict(FRAME).tolist()


def truncate(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [Path.unlink, truncate, lambda path: path.write_text("{"), lambda path: path.write_text("[]")],
    ids=["gone", "empty", "{", "[]"],
)
def test_unloadable_companion_files_are_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    """Files that do not load as a forest are refused, although their digest is the recorded one."""
    damage(folder / "forest" / name)
    edit_flavor(folder, lambda flavor: flavor.update(digest=folder_digest(folder / "forest")))
    assert_refused(folder, "the model's companion for the engine forest does not load: ", caplog)


@pytest.mark.parametrize("change", [{"features": None}, {"features": [[1]]}, {"bits": "x"}, {"codes": None}])
def test_invalid_companion_description_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    """A forest.json with a missing or invalid field is refused, although its digest is the recorded one."""
    path = folder / "forest" / "forest.json"
    description = json.loads(path.read_text())
    for content in (description | change, {key: value for key, value in description.items() if key not in change}):
        path.write_text(json.dumps(content))
        edit_flavor(folder, lambda flavor: flavor.update(digest=folder_digest(folder / "forest")))
        assert_refused(folder, "does not load: ", caplog)


def test_files_added_by_python_and_mlflow_are_ignored(folder: Path) -> None:
    """Bytecode of Python and files that MLflow adds to a download do not invalidate the companion."""
    (folder / "code" / "__pycache__").mkdir(parents=True)
    (folder / "code" / "__pycache__" / "own.cpython-311.pyc").touch()
    (folder / "registered_model_meta").touch()
    assert predict(folder)[0] == "forest"


def test_companion_without_other_flavors_is_served(folder: Path) -> None:
    """A model with only the companion's flavor is served, and fails to load if the companion is refused."""
    document = document_of(folder)
    document["flavors"] = {"forkcast_forest": document["flavors"]["forkcast_forest"]}
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    assert predict(folder)[0] == "forest"
    (folder / "forest" / "roots.npy").unlink()
    with pytest.raises(ModelError, match="is missing or damaged"):
        predict(folder)


def test_other_engines_ignore_a_damaged_companion(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If ENGINE names another engine, it serves without a warning about the damaged companion."""
    shutil.rmtree(folder / "forest")
    for engine in ("sklearn", "pyfunc"):
        assert predict(folder, engine)[0] == engine
    assert caplog.records == []


def test_probability_model_is_served_by_pyfunc(tmp_path: Path) -> None:
    """A model whose predict_fn is predict_proba is served by the pyfunc engine, even with a companion."""
    folder = save(tmp_path / "model", estimator(), pyfunc_predict_fn="predict_proba")
    add_companion(folder, estimator())
    assert suitable_engines(MLmodel.read(folder)) == ["pyfunc"]


def test_new_companion_replaces_the_old_companion(folder: Path) -> None:
    """A new companion replaces an old one completely, even if the old one is damaged."""
    expected = document_of(folder)
    (folder / "forest" / "stale.npy").touch()
    (folder / "forest" / "roots.npy").unlink()
    edit_flavor(folder, lambda flavor: flavor.update(layout=0, check=None, onlooker="?"))
    assert add_companion(folder, estimator()).passed
    assert document_of(folder) == expected
    assert predict(folder)[0] == "forest"
    assert {path.name for path in (folder / "forest").iterdir()} == set(FILES)


class InexactEngine(SklearnEngine):
    """An engine whose probabilities of the last row differ slightly from those of its estimator."""

    def outputs(self, rows: Rows) -> Floats:
        totals = super().outputs(rows)
        totals[-1] += [1e-5, -1e-5]
        return totals


@pytest.mark.parametrize("source", ["plain", "compiled"])
def test_disagreeing_companion_is_refused_without_writing(
    request: pytest.FixtureRequest, tmp_path: Path, source: str
) -> None:
    """A compiled form that does not agree with the model is refused with the differences, and nothing is written."""
    folder = shutil.copytree(request.getfixturevalue(source), tmp_path / "model")
    digest = folder_digest(folder)
    schema = MLmodel.read(folder).require_schema()
    rows = rows_of(schema, FRAME)
    with pytest.raises(ModelError) as caught:
        companion.add_forest(folder, InexactEngine(estimator(), schema), schema, lambda _: rows, "its own rows")
    assert "120 rows (its own rows): equal labels, values at most 1.0e-05 apart" in str(caught.value)
    assert folder_digest(folder) == digest


class DoublingScaler(StandardScaler):  # type: ignore[misc]
    """A user's subclass of a scaler, which also doubles the values."""

    def transform(self, X: Any, copy: Any = None) -> Any:  # noqa: N803
        return super().transform(X, copy) * 2


def test_subclass_of_a_supported_step_gets_no_companion(plain: Path, tmp_path: Path) -> None:
    """A model with a user's subclass of a supported step gets no companion."""
    folder = shutil.copytree(plain, tmp_path / "model")
    columns = ColumnTransformer([("own", DoublingScaler(), ["depth", "zone"])])
    fitted = make_pipeline(columns, RandomForestClassifier(3, random_state=0)).fit(FRAME, LABELS)
    digest = folder_digest(folder)
    with pytest.raises((NotCompilable, ModelError)):
        add_companion(folder, fitted)
    assert folder_digest(folder) == digest


def test_model_without_compiled_form_stays_unchanged(plain: Path, tmp_path: Path) -> None:
    """A model that has no compiled form is refused and stays unchanged."""
    folder = shutil.copytree(plain, tmp_path / "model")
    columns = ColumnTransformer([("pca", PCA(1), ["depth", "zone"])])
    fitted = make_pipeline(columns, RandomForestClassifier(3)).fit(FRAME, LABELS)
    digest = folder_digest(folder)
    with pytest.raises(NotCompilable, match="PCA"):
        add_companion(folder, fitted)
    assert folder_digest(folder) == digest


def test_companion_requires_rows_to_compare(plain: Path, tmp_path: Path) -> None:
    """A companion that was compared on no rows is refused."""
    folder = shutil.copytree(plain, tmp_path / "model")
    schema = MLmodel.read(folder).require_schema()
    no_rows = Rows(np.empty((0, 2)), np.empty((0, 1), dtype=np.object_))
    with pytest.raises(ModelError, match="0 rows"):
        companion.add_forest(folder, SklearnEngine(estimator(), schema), schema, lambda _: no_rows, "no rows")


def test_trained_model_has_a_companion(tmp_path: Path) -> None:
    """The trainer saves its model with a companion that was checked on the held-out rows."""
    data = generate(rows=700, seed=1)
    fitted = fit(data, RandomForestClassifier(3, max_leaf_nodes=50, random_state=0))
    package.save(fitted, data, tmp_path / "model")
    check = flavor_of(tmp_path / "model")["check"]
    assert (check["against"], check["rows"], check["passed"]) == ("held-out rows", 140, True)
    mlmodel = MLmodel.read(tmp_path / "model")
    engine = load_engine(mlmodel, "auto")
    rows = Rows(fitted.x_held, np.empty((140, 0), dtype=np.object_))
    assert engine.name == "forest"
    assert engine.predict(rows).labels == fitted.pipeline.predict(fitted.x_held).tolist()
    assert load_engine(mlmodel, "sklearn").predict(rows) == engine.predict(rows)
    assert package.find_fault(tmp_path / "model", folder_digest(tmp_path / "model"), fitted) is None


@pytest.mark.parametrize("flavor", [None, [], "forest"])
def test_non_mapping_flavor_is_refused(folder: Path, caplog: pytest.LogCaptureFixture, flavor: object) -> None:
    """A companion whose flavor in MLmodel is not a mapping is refused."""
    document = document_of(folder)
    document["flavors"]["forkcast_forest"] = flavor
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    assert_refused(folder, "is not described by a mapping", caplog)


def test_failed_kernel_compilation_uses_the_next_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the kernel cannot be compiled on this machine, the next engine serves."""

    def fail(*_arguments: object) -> bytes:
        raise ModelError("server.engines.kernel does not compile: no such processor")

    monkeypatch.setattr("server.engines.native.object_file", fail)
    assert_refused(folder, "does not load: server.engines.kernel does not compile: no such processor", caplog)
