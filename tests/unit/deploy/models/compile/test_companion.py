"""The compiled form inside a model: made and checked once, used only where it is whole and belongs there."""

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
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import Model, infer_signature

    from deploy.models.compile import companion
    from deploy.models.training import package

# MLflow's advice to annotate `predict`, given when it saves and when it loads; its input examples under pandas 3.
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
    columns = ColumnTransformer([("hot", one_hot, ["soil"]), ("scaled", StandardScaler(), ["zone", "depth"])])
    forest = final or RandomForestClassifier(6, max_depth=5, random_state=seed)
    return make_pipeline(columns, forest).fit(FRAME, LABELS)


def save(folder: Path, fitted: Any, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickles: MLflow's advice to trainers
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


def add(folder: Path, fitted: Any) -> Any:
    schema = MLmodel.read(folder).schema
    rows = rows_of(schema, FRAME)
    return companion.add_forest(folder, SklearnEngine(fitted, schema), schema, lambda _: rows, "its own rows")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel("ERROR")
        compile_once(patch)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as MLflow saves it."""
    return save(tmp_path_factory.mktemp("plain") / "model", estimator())


@pytest.fixture(scope="module")
def compiled(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with its companion."""
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("compiled") / "model")
    add(folder, estimator())
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same columns, with its companion."""
    folder = save(tmp_path_factory.mktemp("other") / "model", estimator(seed=1))
    add(folder, estimator(seed=1))
    return folder


@pytest.fixture
def folder(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the compiled model, to be damaged."""
    return shutil.copytree(compiled, tmp_path / "model")


def flavor_of(folder: Path) -> dict[str, Any]:
    flavor: dict[str, Any] = document_of(folder)["flavors"]["forkcast_forest"]
    return flavor


def document_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())
    return document


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = document_of(folder)
    change(document["flavors"]["forkcast_forest"])
    (folder / "MLmodel").write_text(yaml.safe_dump(document))


def predicted(folder: Path, engine: str = "auto") -> tuple[str, Prediction]:
    mlmodel = MLmodel.read(folder)
    loaded = load_engine(mlmodel, engine)
    return loaded.name, loaded.predict(rows_of(mlmodel.schema, FRAME))


def assert_refused(folder: Path, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """ENGINE=forest is a refusal; otherwise scikit-learn serves, after one warning with the same reason."""
    with pytest.raises(ModelError) as caught:
        predicted(folder, "forest")
    assert isinstance(caught.value, CompanionRefused)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    caplog.clear()
    assert predicted(folder)[0] == "sklearn"
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", f"{caught.value}; serving without it")


def test_companion_predictions_equal_scikit_learn(compiled: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model with a companion is served by it, and answers exactly as scikit-learn."""
    assert suitable_engines(MLmodel.read(compiled)) == ["forest", "sklearn", "pyfunc"]
    name, prediction = predicted(compiled)
    assert (name, caplog.records) == ("forest", [])
    assert ("sklearn", prediction) == predicted(compiled, "sklearn")
    assert prediction.labels == estimator().predict(FRAME).tolist()
    assert predicted(compiled, "forest") == (name, prediction)


def test_flavor_records_folder_digests_and_check(compiled: Path) -> None:
    """The flavor names the folder, the digests and the check that was passed."""
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


def test_model_stays_what_it_was(plain: Path, compiled: Path) -> None:
    """Nothing of the model is changed: its files, and in its description the flavor is all that is new."""
    before, after = document_of(plain), document_of(compiled)
    del after["flavors"]["forkcast_forest"]
    assert after == before
    files = {path.relative_to(plain) for path in plain.rglob("*") if path.is_file()}
    assert {path.relative_to(compiled) for path in compiled.rglob("*") if path.is_file()} - files == {
        path.relative_to(compiled) for path in (compiled / "forest").iterdir()
    }
    for name in files - {Path("MLmodel")}:
        assert (compiled / name).read_bytes() == (plain / name).read_bytes()


def test_mlflow_loads_it(plain: Path, compiled: Path) -> None:
    """MLflow loads a model with a companion as it does without: both flavors, signature, metadata and example."""
    labels = estimator().predict(FRAME).tolist()
    assert mlflow.sklearn.load_model(str(compiled)).predict(FRAME).tolist() == labels
    loaded = mlflow.pyfunc.load_model(str(compiled))
    assert list(loaded.predict(FRAME)) == labels
    assert loaded.metadata.signature == Model.load(str(plain)).signature
    assert loaded.metadata.metadata == {"trained_on": "file: soil.csv", "ranges": {"depth": [-1000, 1000]}}
    example = Model.load(str(compiled)).load_input_example(str(compiled))
    assert example.to_dict("records") == FRAME[3:4].to_dict("records")
    assert MLmodel.read(compiled).example == FRAME.iloc[3].to_dict()


def test_serving_needs_no_library(compiled: Path, tmp_path: Path) -> None:
    """A process that serves a compiled model imports no scikit-learn, Numba, pandas or MLflow, nor reads a pickle."""
    script = """
import json, sys
from pathlib import Path
from server.engines.loading import load_engine
from server.model_store.mlmodel import MLmodel
mlmodel = MLmodel.read(Path(sys.argv[1]))
engine = load_engine(mlmodel, "auto", Path(sys.argv[2]))
rows = mlmodel.schema.to_rows(mlmodel.schema.parse(json.loads(sys.argv[3]), 1000).values)
answer = engine.predict(rows)
print(json.dumps([engine.name, answer.labels, answer.confidences, sorted({m.split(".")[0] for m in sys.modules})]))
"""
    rows = json.dumps({"instances": FRAME.to_dict("records")})
    ran = subprocess.run(
        [sys.executable, "-c", script, str(compiled), str(tmp_path), rows],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    name, labels, confidences, modules = json.loads(ran.stdout)
    expected = estimator().predict_proba(FRAME).max(axis=1).tolist()
    assert (name, labels, confidences) == ("forest", estimator().predict(FRAME).tolist(), expected)
    heavy = {"sklearn", "numba", "pandas", "mlflow", "scipy", "joblib", "skops", "cloudpickle", "onnxruntime"}
    assert heavy.isdisjoint(modules)
    assert len(list(tmp_path.glob("*.o"))) == 1


def test_unknown_category_is_a_client_error(compiled: Path) -> None:
    """Rows that the model cannot answer are the client's error, not the server's."""
    mlmodel = MLmodel.read(compiled)
    with pytest.raises(InvalidRows, match=r"^soil must be one of the values .* \(3 in all\), got peat$"):
        load_engine(mlmodel, "forest").predict(rows_of(mlmodel.schema, FRAME[:3].assign(soil="peat")))


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
    """A companion whose record is not that of a passed check of these files is refused."""
    edit(folder, change)
    assert_refused(folder, reason, caplog)


FILES = ("forest.json", "nodes.npy", "leaves.npy", "roots.npy")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["one byte", "cut short", "gone"])
def test_companion_with_damaged_files_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    """A companion with a file that has changed, or is gone, is refused."""
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
    """A companion whose folder is gone, or has a file more, is refused."""
    (folder / "forest" / "more").touch()
    assert_refused(folder, "is missing or damaged", caplog)
    shutil.rmtree(folder / "forest")
    assert_refused(folder, "is missing or damaged", caplog)


def test_other_model_in_its_place(folder: Path, other: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the estimator beside it is replaced, the companion is refused, and the new estimator answers."""
    shutil.copy(other / "model.pkl", folder / "model.pkl")
    assert_refused(folder, "does not belong to this model", caplog)
    assert predicted(folder)[1].labels == estimator(seed=1).predict(FRAME).tolist()


def test_companion_of_another_model(folder: Path, other: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The companion of another model, copied with its record, is refused."""
    shutil.rmtree(folder / "forest")
    shutil.copytree(other / "forest", folder / "forest")
    assert_refused(folder, "is missing or damaged", caplog)
    edit(folder, lambda flavor: flavor.update(flavor_of(other)))
    assert_refused(folder, "does not belong to this model", caplog)
    assert predicted(folder)[1].labels == estimator().predict(FRAME).tolist()


def test_signature_in_another_order(folder: Path) -> None:
    """When the columns of the signature are put in another order, the companion is refused, or answers as the model."""
    document = document_of(folder)
    columns = json.loads(document["signature"]["inputs"])
    document["signature"]["inputs"] = json.dumps(columns[::-1])
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    mlmodel = MLmodel.read(folder)
    rows = rows_of(mlmodel.schema, FRAME[list(mlmodel.schema.names)])
    assert load_engine(mlmodel, "auto").predict(rows).labels == estimator().predict(FRAME).tolist()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [Path.unlink, emptied, lambda path: path.write_text("{"), lambda path: path.write_text("[]")],
    ids=["gone", "empty", "{", "[]"],
)
def test_unloadable_companion_files_are_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    """Files that never were a forest are refused, though the record agrees with them."""
    damage(folder / "forest" / name)
    edit(folder, lambda flavor: flavor.update(digest=folder_digest(folder / "forest")))
    assert_refused(folder, "the model's companion for the engine forest does not load: ", caplog)


@pytest.mark.parametrize("change", [{"features": None}, {"features": [[1]]}, {"bits": "x"}, {"codes": None}])
def test_invalid_companion_description_is_refused(
    folder: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    """A description with a part that is missing or of another kind is refused, though the record agrees with it."""
    path = folder / "forest" / "forest.json"
    rest = json.loads(path.read_text())
    for content in (rest | change, {key: value for key, value in rest.items() if key not in change}):
        path.write_text(json.dumps(content))
        edit(folder, lambda flavor: flavor.update(digest=folder_digest(folder / "forest")))
        assert_refused(folder, "does not load: ", caplog)


def test_bytecode_is_no_damage(folder: Path) -> None:
    """What Python and MLflow add to a folder takes nothing from the companion."""
    (folder / "code" / "__pycache__").mkdir(parents=True)
    (folder / "code" / "__pycache__" / "own.cpython-311.pyc").touch()
    (folder / "registered_model_meta").touch()
    assert predicted(folder)[0] == "forest"


def test_without_the_other_flavors(folder: Path) -> None:
    """A companion without the model's own flavors is served; when it is refused, nothing is left to serve."""
    document = document_of(folder)
    document["flavors"] = {"forkcast_forest": document["flavors"]["forkcast_forest"]}
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    assert predicted(folder)[0] == "forest"
    (folder / "forest" / "roots.npy").unlink()
    with pytest.raises(ModelError, match="is missing or damaged"):
        predicted(folder)


def test_another_engine_is_asked_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks for another engine gets it, whatever the companion is worth."""
    shutil.rmtree(folder / "forest")
    for engine in ("sklearn", "pyfunc"):
        assert predicted(folder, engine)[0] == engine
    assert caplog.records == []


def test_probability_model_is_served_by_pyfunc(tmp_path: Path) -> None:
    """A model that is logged to answer probabilities is answered by MLflow's wrapper, companion or not."""
    folder = save(tmp_path / "model", estimator(), pyfunc_predict_fn="predict_proba")
    add(folder, estimator())
    assert suitable_engines(MLmodel.read(folder)) == ["pyfunc"]


def test_new_companion_replaces_the_old_companion(folder: Path) -> None:
    """A companion that is made anew takes the place of the older one, whatever was left of that."""
    fresh = document_of(folder)
    (folder / "forest" / "stale.npy").touch()
    (folder / "forest" / "roots.npy").unlink()
    edit(folder, lambda flavor: flavor.update(layout=0, check=None, onlooker="?"))
    assert add(folder, estimator()).passed
    assert document_of(folder) == fresh
    assert predicted(folder)[0] == "forest"
    assert {path.name for path in (folder / "forest").iterdir()} == set(FILES)


class Liar(SklearnEngine):
    """An estimator that is a little off what its trees say."""

    def totals(self, rows: Rows) -> Floats:
        """Not quite."""
        totals = super().totals(rows)
        totals[-1] += [1e-5, -1e-5]
        return totals


@pytest.mark.parametrize("source", ["plain", "compiled"])
def test_disagreeing_companion_is_refused_without_writing(
    request: pytest.FixtureRequest, tmp_path: Path, source: str
) -> None:
    """A compiled form that does not agree with the model is refused with what was found, and nothing is written."""
    folder = shutil.copytree(request.getfixturevalue(source), tmp_path / "model")
    before = folder_digest(folder)
    schema = MLmodel.read(folder).schema
    rows = rows_of(schema, FRAME)
    with pytest.raises(ModelError) as caught:
        companion.add_forest(folder, Liar(estimator(), schema), schema, lambda _: rows, "its own rows")
    assert "120 rows (its own rows): equal labels, values at most 1.0e-05 apart" in str(caught.value)
    assert folder_digest(folder) == before


class Doubled(StandardScaler):  # type: ignore[misc]
    """A step of the user's own, which is more than what it derives from."""

    def transform(self, X: Any, copy: Any = None) -> Any:  # noqa: N803
        return super().transform(X, copy) * 2


def test_step_of_ones_own(plain: Path, tmp_path: Path) -> None:
    """A step that only derives from one with a formula never comes to a companion."""
    folder = shutil.copytree(plain, tmp_path / "model")
    columns = ColumnTransformer([("own", Doubled(), ["depth", "zone"])])
    fitted = make_pipeline(columns, RandomForestClassifier(3, random_state=0)).fit(FRAME, LABELS)
    before = folder_digest(folder)
    with pytest.raises((NotCompilable, ModelError)):
        add(folder, fitted)
    assert folder_digest(folder) == before


def test_model_without_compiled_form_stays_unchanged(plain: Path, tmp_path: Path) -> None:
    """A model without a compiled form is left as it is."""
    folder = shutil.copytree(plain, tmp_path / "model")
    columns = ColumnTransformer([("pca", PCA(1), ["depth", "zone"])])
    fitted = make_pipeline(columns, RandomForestClassifier(3)).fit(FRAME, LABELS)
    before = folder_digest(folder)
    with pytest.raises(NotCompilable, match="PCA"):
        add(folder, fitted)
    assert folder_digest(folder) == before


def test_companion_requires_rows_to_compare(plain: Path, tmp_path: Path) -> None:
    """Without a row to compare on there is no companion."""
    folder = shutil.copytree(plain, tmp_path / "model")
    schema = MLmodel.read(folder).schema
    none = Rows(np.empty((0, 2)), np.empty((0, 1), dtype=np.object_))
    with pytest.raises(ModelError, match="0 rows"):
        companion.add_forest(folder, SklearnEngine(estimator(), schema), schema, lambda _: none, "nothing")


def test_trained_model_has_one(tmp_path: Path) -> None:
    """The trainer's model is saved with its companion, checked on the rows that were held out."""
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
    assert package.fault_of(tmp_path / "model", folder_digest(tmp_path / "model"), fitted) is None


@pytest.mark.parametrize("flavor", [None, [], "forest"])
def test_non_mapping_flavor_is_refused(folder: Path, caplog: pytest.LogCaptureFixture, flavor: object) -> None:
    """A companion that is described by anything but a mapping is refused."""
    document = document_of(folder)
    document["flavors"]["forkcast_forest"] = flavor
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    assert_refused(folder, "is described by no mapping", caplog)


def test_failed_kernel_compilation_uses_the_next_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the kernel cannot be compiled, the next engine serves."""

    def fail(*_arguments: object) -> bytes:
        raise ModelError("server.engines.kernel does not compile: no such processor")

    monkeypatch.setattr("server.engines.native.object_file", fail)
    assert_refused(folder, "does not load: server.engines.kernel does not compile: no such processor", caplog)
