"""Tests of reading a model's folder without MLflow, and of the model that is loaded from it."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LinearRegression

from server.engines.loading import load_model
from server.errors import ModelError
from server.inference.model import Model
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel
from server.settings import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the other packages that are installed
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import infer_signature

# MLflow 3.17 causes this warning itself when it saves an input example under pandas 3.
pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning")

FRAME = pd.DataFrame({"width": [1.5, 2.5, 4.0], "height": [2.0, 3.0, 5.0]})
INPUTS = [{"type": "long", "name": "rooms"}, {"type": "double", "name": "area", "required": False}]


@pytest.fixture(scope="module", autouse=True)
def quiet_mlflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    mlflow.sklearn.save_model(
        LinearRegression().fit(FRAME, [1.0, 2.0, 3.0]),
        str(folder),
        signature=infer_signature(FRAME),
        input_example=FRAME,
        pip_requirements=[],
        metadata={
            "ranges": {"width": [0, 10]},
            "observed": {"width": [1, 3], "height": [2, 8]},
            "trained_on": "file: rows.csv",
        },
    )
    return folder


def write(folder: Path, **parts: Any) -> Path:
    document = {"flavors": {"sklearn": {}}, "signature": {"inputs": json.dumps(INPUTS)}} | parts
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    return folder


def load(folder: Path) -> Model:
    return load_model(Copy(folder, "homes", "7", "models:/homes/7", "0" * 64), "auto")


def test_mlflow_model_folder_is_read(saved: Path) -> None:
    """Flavors, schema, ranges, metadata and example of a model that MLflow saved are read from its folder."""
    mlmodel = MLmodel.read(saved)
    assert mlmodel.folder == saved
    assert set(mlmodel.flavors) == {"sklearn", "python_function"}
    assert mlmodel.require_schema().names == ("width", "height")
    width = mlmodel.require_schema().columns[0]
    assert (width.has_range, width.low, width.high) == (True, 0, 10)
    assert [column.observed for column in mlmodel.require_schema().columns] == [(1, 3), (2, 8)]
    assert mlmodel.trained_on == "file: rows.csv"
    assert mlmodel.example == {"width": 1.5, "height": 2.0}


def test_reading_a_model_folder_does_not_import_mlflow(saved: Path) -> None:
    """Reading the description of a model imports none of MLflow, pandas and scikit-learn."""
    code = (
        "import sys, pathlib; from server.model_store.mlmodel import MLmodel; MLmodel.read(pathlib.Path(sys.argv[1]));"
        "print({'mlflow', 'pandas', 'sklearn'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code, saved], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "set()\n"


def test_model_without_metadata_and_example_is_read(tmp_path: Path) -> None:
    """A model that has only a signature is read, without ranges and without an example."""
    mlmodel = MLmodel.read(write(tmp_path))
    assert [(column.name, column.required, column.has_range) for column in mlmodel.require_schema().columns] == [
        ("rooms", True, False),
        ("area", False, False),
    ]
    assert (mlmodel.trained_on, mlmodel.example) == (None, None)


@pytest.mark.parametrize("metadata", [None, {}, {"ranges": None, "observed": None}, {"other": 1}])
def test_unrelated_metadata_sets_no_ranges(tmp_path: Path, metadata: object) -> None:
    """Metadata without ranges limit no column."""
    assert not any(
        column.has_range for column in MLmodel.read(write(tmp_path, metadata=metadata)).require_schema().columns
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping"),
        (b"- a list", "expected a mapping"),
        (b"just words", "expected a mapping"),
        (b"a: [1", "is not YAML"),
        (b"\xff\xfe\x00\x00\x01", "is not YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "is not YAML"),
        (b"signature: {inputs: '[{'}", "the signature's inputs are not JSON"),
        (b'signature: {inputs: \'[{"type": "tensor"}]\'}', "has the tensor None; expected a dtype and a shape"),
        (b"signature: {inputs: '{}', params: '[3]'}", "has the parameter 3; expected an object"),
        (b"signature: {inputs: '[3]'}", r"has the inputs \[3\]; expected a list of columns"),
    ],
)
def test_invalid_mlmodel_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """An invalid MLmodel file, or a signature that cannot be served, is refused with a one-line error."""
    (tmp_path / "MLmodel").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        MLmodel.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("artifact_path", "name"),
    [
        ("churn", "churn"),
        ("Churn model ü", "Churn model ü"),
        ("mlflow-artifacts:/1/models/m-0123456789abcdef0123456789abcdef/artifacts", None),
        ("file:///srv/mlruns/1/models/m-0123456789abcdef0123456789abcdef/artifacts", None),
        ("/srv/mlruns/1/models/m-0123456789abcdef0123456789abcdef/artifacts", None),
        ("dbfs:model", None),
        ("m-0123456789abcdef0123456789abcdef", None),
        ("models/churn", None),
        ("..", None),
        ("a\nb", None),
        ("m" * 101, None),
        ("", None),
        (3, None),
        (None, None),
    ],
)
def test_name_is_the_artifact_path_of_mlflow_2(tmp_path: Path, artifact_path: object, name: str | None) -> None:
    """The name of a model is the artifact path that MLflow 2 writes, unless it is an address, an id or unusable."""
    assert MLmodel.read(write(tmp_path, artifact_path=artifact_path)).name == name


def test_saved_model_has_no_name(saved: Path) -> None:
    """MLflow writes no name for a model that was saved to a folder."""
    assert MLmodel.read(saved).name is None


REGISTERED = "models:/homes/7"


@pytest.mark.parametrize(
    ("uri", "artifact_path", "chosen", "name"),
    [
        (REGISTERED, "churn", None, "homes"),
        (REGISTERED, "churn", "prices", "prices"),
        ("runs:/0a/model", "churn", None, "churn"),
        ("/srv/iris", "churn", None, "churn"),
        ("/srv/iris", "s3://bucket/churn", None, "iris"),
        ("/srv/iris", None, "prices", "prices"),
        ("/srv/iris", None, None, "iris"),
        ("/", None, None, "model"),
        ("/srv/a\\b", None, None, "model"),
    ],
)
def test_clients_call_a_model_by_the_first_name_it_has(
    saved: Path, uri: str, artifact_path: str | None, chosen: str | None, name: str
) -> None:
    """Clients call a model what MODEL_NAME says, else its registered name, else that in MLmodel, else its folder's."""
    original = (saved / "MLmodel").read_text()
    (saved / "MLmodel").write_text(yaml.safe_dump({**yaml.safe_load(original), "artifact_path": artifact_path}))
    copy_name, version = ("homes", "7") if uri == REGISTERED else (Path(uri).name, "0" * 12)
    try:
        model = load_model(Copy(saved, copy_name, version, uri, "0" * 64), "auto", name=chosen)
    finally:
        (saved / "MLmodel").write_text(original)
    assert (model.name, model.registered_name) == (name, "homes" if uri == REGISTERED else None)


def test_missing_mlmodel_file_is_named(tmp_path: Path) -> None:
    """The error for a folder without an MLmodel file, or for a missing folder, names the folder."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match=f"{folder} is not an MLflow model"):
            MLmodel.read(folder)


@pytest.mark.parametrize(
    ("info", "content"),
    [
        ({"pandas_orient": "records", "artifact_path": "example.json"}, '[{"rooms": 1}]'),
        ({"type": "ndarray", "artifact_path": "example.json"}, "[]"),
        ({"type": "ndarray", "artifact_path": "example.json"}, '{"a": []}'),
        ({"type": "sparse_matrix_csr", "artifact_path": "example.json"}, '{"data": [1]}'),
        ({"type": "other", "artifact_path": "example.json"}, "[1]"),
        ({"pandas_orient": "split", "artifact_path": "none.json"}, ""),
        ({"pandas_orient": "split"}, ""),
        ({"pandas_orient": "split", "artifact_path": "example.json"}, "{"),
        ({"pandas_orient": "split", "artifact_path": "example.json"}, "[]"),
        ({"pandas_orient": "split", "artifact_path": "example.json"}, '{"columns": ["rooms"], "data": []}'),
        ({"pandas_orient": "split", "artifact_path": "example.json"}, '{"columns": ["rooms"], "data": [[1, 2]]}'),
        ({"pandas_orient": "split", "artifact_path": "example.json"}, '{"columns": 3, "data": [[1]]}'),
    ],
)
def test_unreadable_example_is_ignored(tmp_path: Path, info: dict[str, str], content: str) -> None:
    """A model whose example has another format or cannot be read is read without an example."""
    (tmp_path / "example.json").write_text(content)
    assert MLmodel.read(write(tmp_path, saved_input_example_info=info)).example is None


def test_loaded_model_predicts_its_own_example(saved: Path) -> None:
    """A loaded model has the copy's name and version, the folder's schema and example, and predicts the example."""
    model = load(saved)
    assert (model.name, model.version, model.uri, model.trained_on) == (
        *("homes", "7", "models:/homes/7"),
        "file: rows.csv",
    )
    assert model.example == {"width": 1.5, "height": 2.0}
    assert model.example_row == [1.5, 2.0]
    assert model.engine.predict(model.schema.to_rows([model.example_row])).labels == pytest.approx([1.0], abs=0.5)


@pytest.mark.parametrize(
    ("data", "example"),
    [
        ([[1.5, 2.0]], {"width": 1.5, "height": 2.0}),
        ([[11.5, 2.0]], {"width": 2.0, "height": 5.0}),
        ([[None, 2.0]], {"width": 2.0, "height": 5.0}),
    ],
)
def test_invalid_example_is_replaced_by_schema_example(saved: Path, data: object, example: object) -> None:
    """An example outside the model's own ranges is replaced by one within what was observed in training."""
    path = saved / "input_example.json"
    original = path.read_text()
    path.write_text(json.dumps({"columns": ["width", "height"], "data": data}))
    try:
        model = load(saved)
    finally:
        path.write_text(original)
    assert model.example == example
    assert model.example_row == list(model.example.values())


@pytest.mark.parametrize(
    ("uri", "stale", "source"),
    [
        ("models:/homes@champion", None, "the registry"),
        ("models:/homes@champion", "it is down", "the last good copy"),
        ("/models/homes", None, "MODEL_URI"),
    ],
)
def test_model_describes_its_source(saved: Path, uri: str, stale: str | None, source: str) -> None:
    """The source of a model is the registry, the last good copy, or MODEL_URI."""
    assert load_model(Copy(saved, "homes", "7", uri, "0" * 64, stale), "auto").source == source
