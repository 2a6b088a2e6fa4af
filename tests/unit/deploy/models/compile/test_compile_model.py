"""Tests of compiling an existing model: in a SQLite registry, in a run, or in a folder."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from deploy.errors import CommandError
from deploy.models.compile import compile_model as compiler
from deploy.models.compile.parity import Check
from deploy.models.registry.mlflow_variables import MLFLOW_VARIABLES
from deploy.options import ModelOptions
from server.engines.loading import load_model
from server.errors import ModelError, SettingsError, StartError
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.model_store.mlmodel import MLmodel
from server.model_store.resolve import resolve, resolve_in_child
from server.settings import Settings
from tests.support.models.forests import compile_once, rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import infer_signature

    from deploy.models.compile import companion
    from deploy.models.registry import versions  # noqa: F401  (imported here, where its warnings are ignored)

# MLflow 3.17 uses deprecated forms of SQLAlchemy 2.1 and pandas 3, and advises to annotate `predict`.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*type hint.*:UserWarning"),
]

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "depth": RNG.normal(size=200) * 100,
        "soil": RNG.choice(np.array(["clay", "sand", "loam"], dtype=object), 200),
        "zone": RNG.integers(1, 5, 200).astype(float),
    }
)
LABELS = np.array(["fir", "pine"])[(FRAME["depth"] + (FRAME["soil"] == "clay") * 100 > 0).astype(int)]


def forest(handle_unknown: str = "ignore", seed: int = 0) -> Any:
    one_hot = OneHotEncoder(handle_unknown=handle_unknown, sparse_output=False)
    columns = ColumnTransformer([("codes", one_hot, ["soil"]), ("scaled", StandardScaler(), ["zone", "depth"])])
    return make_pipeline(columns, RandomForestClassifier(4, max_depth=5, random_state=seed)).fit(FRAME, LABELS)


def without_packed_form() -> Any:
    columns = ColumnTransformer([("pca", PCA(1), ["depth", "zone"])])
    return make_pipeline(columns, RandomForestClassifier(2, random_state=0)).fit(FRAME, LABELS)


def save(folder: Path, fitted: Any, example: bool = True, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow advises against pickles
        mlflow.sklearn.save_model(
            fitted,
            str(folder),
            signature=infer_signature(FRAME, LABELS),
            input_example=FRAME[:1] if example else None,
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
            metadata={"trained_on": "file: soil.csv"},
            **options,
        )
    return folder


@dataclass(frozen=True)
class Registry:
    """A SQLite registry, and the settings of programs that use it."""

    folder: Path

    @property
    def client(self) -> Any:
        mlflow.set_tracking_uri(self.environ("x")["MLFLOW_TRACKING_URI"])
        return mlflow.MlflowClient()

    def environ(self, uri: str, **variables: str) -> dict[str, str]:
        database = f"sqlite:///{self.folder}/mlflow.db"
        return {"VAR_DIR": str(self.folder / "var"), "MLFLOW_TRACKING_URI": database, "MODEL_URI": uri, **variables}

    def register(self, name: str, fitted: Any, tags: dict[str, str] | None = None, **options: Any) -> str:
        """Log and register a model without this project's tools, and return the id of its run."""
        with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(experiment_id="1") as run:
            mlflow.log_artifacts(str(save(Path(scratch, "model"), fitted, **options)), "model")
            with contextlib.redirect_stderr(io.StringIO()):
                mlflow.register_model(f"runs:/{run.info.run_id}/model", name, tags=tags)
        return str(run.info.run_id)

    def versions(self, name: str) -> dict[str, dict[str, str]]:
        """Return the tags of each version of the model."""
        return {str(v.version): dict(v.tags) for v in self.client.search_model_versions(f"name = '{name}'")}

    def runs(self) -> int:
        client = self.client
        return sum(len(client.search_runs([e.experiment_id])) for e in client.search_experiments())

    def served(self, uri: str, engine: str = "auto") -> tuple[Any, MLmodel]:
        """Return the model that a replica would serve, and its MLmodel file."""
        copy = resolve(Settings.from_env(self.environ(uri)))
        return load_model(copy, engine), MLmodel.read(copy.model_folder)


@pytest.fixture(scope="module", autouse=True)
def fast_and_quiet() -> Iterator[None]:
    """Compile the kernel once, resolve models in this process, and restore MLflow's settings after the tests."""
    with pytest.MonkeyPatch.context() as patch:
        variables = {
            "MLFLOW_TRACKING_URI": "",
            "no_proxy": "127.0.0.1",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        for name, value in (MLFLOW_VARIABLES | variables).items():
            patch.setenv(name, value)
        logging.getLogger("mlflow").setLevel("ERROR")
        patch.setattr(compiler, "resolve_in_child", lambda environ: resolve(Settings.from_env(environ)))
        compile_once(patch)
        yield
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytestmark does not apply to fixtures of a module
        registry.client.create_experiment("others", artifact_location=(registry.folder / "artifacts").as_uri())
    return registry


@dataclass(frozen=True)
class Compiled:
    """The result of compiling a registered model: the new version's URI, the output, and the tags of its source."""

    registry: Registry
    uri: str
    out: str
    source_tags: dict[str, str]


TAGS = {"team": "soils", "check": "passed", DIGEST_TAG: ""}


@pytest.fixture(scope="module")
def compiled(registry: Registry) -> Compiled:
    """The result of compiling a model that MODEL_URI names by its alias."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry.register("soil", forest())
        digest = resolve(Settings.from_env(registry.environ("models:/soil/1"))).digest
        for name, value in (TAGS | {DIGEST_TAG: digest}).items():
            registry.client.set_model_version_tag("soil", "1", name, value)
        registry.client.set_registered_model_alias("soil", "champion", "1")
        source_tags = registry.versions("soil")["1"]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            uri = compiler.compile_model(ModelOptions.read(registry.environ("models:/soil@champion")))
    return Compiled(registry, uri, out.getvalue(), source_tags)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return save(tmp_path / "soil", forest())


def flavor_of(folder: Path) -> dict[str, Any]:
    flavor: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["forkcast_forest"]
    return flavor


def environ_of(tmp_path: Path, uri: str | Path, **variables: str) -> dict[str, str]:
    return {"VAR_DIR": str(tmp_path / "var"), "MODEL_URI": str(uri), **variables}


def test_compiling_registers_a_verified_new_version(compiled: Compiled) -> None:
    """Compiling a registered model registers a new version, which has a digest and is served by the forest engine."""
    assert compiled.uri == "models:/soil/2"
    model, mlmodel = compiled.registry.served(compiled.uri)
    assert (model.engine.name, model.version, model.trained_on) == ("forest", "2", "file: soil.csv")
    assert compiled.registry.versions("soil")["2"][DIGEST_TAG] == model.digest == folder_digest(mlmodel.folder)
    rows = rows_of(mlmodel.require_schema(), FRAME)
    assert model.engine.predict(rows).labels == forest().predict(FRAME).tolist()
    assert compiled.registry.served(compiled.uri, "forest")[0].engine.name == "forest"


def test_compilation_prints_a_one_line_summary(compiled: Compiled) -> None:
    """One line names the compiled version, the engine and the result of the check."""
    assert compiled.out.startswith("compiled soil version 1 for the engine forest; checked on 4,097 rows (")
    assert compiled.out.endswith("): equal labels, values at most 0.0e+00 apart\n")
    assert compiled.out.count("\n") == 1


def test_compiled_version_and_alias_stay_unchanged(compiled: Compiled) -> None:
    """The compiled version's source, and the alias that names it, do not change."""
    client = compiled.registry.client
    assert compiled.registry.versions("soil")["1"] == compiled.source_tags
    assert str(client.get_model_version_by_alias("soil", "champion").version) == "1"
    assert client.get_model_version("soil", "2").aliases == []
    model, mlmodel = compiled.registry.served("models:/soil/1")
    assert model.engine.name == "sklearn"
    assert "forkcast_forest" not in mlmodel.flavors
    assert not (mlmodel.folder / "forest").exists()
    assert folder_digest(mlmodel.folder) == compiled.source_tags[DIGEST_TAG]


def test_new_version_copies_tags_and_records_origin(compiled: Compiled) -> None:
    """The new version has the tags of its source, its own digest, and a tag with the source's number."""
    tags = compiled.registry.versions("soil")["2"]
    assert tags == compiled.source_tags | {"forkcast.compiled_from": "1", DIGEST_TAG: tags[DIGEST_TAG]}
    assert tags[DIGEST_TAG] != compiled.source_tags[DIGEST_TAG]


def test_new_version_belongs_to_a_finished_run(compiled: Compiled) -> None:
    """The new version belongs to a finished run in the experiment with the model's name."""
    client = compiled.registry.client
    run = client.get_run(client.get_model_version("soil", "2").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["forkcast.compiled_from"] == "models:/soil@champion"
    assert client.get_experiment(run.info.experiment_id).name == "soil"
    assert run.info.artifact_uri.startswith((compiled.registry.folder / "mlartifacts").as_uri())


def test_parity_check_is_recorded_in_the_model(compiled: Compiled) -> None:
    """The check is recorded in the new version's MLmodel file, which MLflow can still load."""
    _, mlmodel = compiled.registry.served(compiled.uri)
    check = mlmodel.flavors["forkcast_forest"]["check"]
    assert (check["rows"], check["labels_differ"], check["largest_difference"], check["passed"]) == (4097, 0, 0, True)
    assert check["against"] in compiled.out
    loaded = mlflow.pyfunc.load_model(str(mlmodel.folder))
    assert list(loaded.predict(FRAME)) == forest().predict(FRAME).tolist()


def test_compiling_twice_registers_another_version(compiled: Compiled) -> None:
    """Compiling a version that has a companion registers another version with a new companion."""
    registry = compiled.registry
    registry.register("again", forest())
    second = compiler.compile_model(ModelOptions.read(registry.environ("models:/again/1")))
    third = compiler.compile_model(ModelOptions.read(registry.environ(second)))
    assert (second, third) == ("models:/again/2", "models:/again/3")
    models = [registry.served(uri) for uri in (second, third)]
    assert [model.engine.name for model, _ in models] == ["forest", "forest"]
    assert registry.versions("again")["3"]["forkcast.compiled_from"] == "2"
    names = [{path.name for path in mlmodel.folder.rglob("*")} for _, mlmodel in models]
    assert names[0] == names[1]
    assert models[0][1].flavors == models[1][1].flavors


def test_refused_companion_is_replaced(registry: Registry, tmp_path: Path) -> None:
    """Compiling a model with a damaged companion replaces the companion."""
    compiler.compile_model(ModelOptions.read(environ_of(tmp_path, save(tmp_path / "soil", forest()))))
    damaged = tmp_path / "soil-compiled"
    (damaged / "forest" / "roots.npy").unlink()
    (damaged / "forest" / "stale.npy").touch()
    again = Path(compiler.compile_model(ModelOptions.read(environ_of(tmp_path, damaged))))
    assert again == tmp_path / "soil-compiled-compiled"
    assert registry.served(str(again), "forest")[0].engine.name == "forest"
    assert not (again / "forest" / "stale.npy").exists()


def test_model_of_a_run_is_logged_to_a_new_run(registry: Registry) -> None:
    """The compiled form of a model of a run is logged to a new run, and is not registered."""
    run = registry.register("from a run", forest())
    old_versions = registry.versions("from a run")
    uri = compiler.compile_model(ModelOptions.read(registry.environ(f"runs:/{run}/model")))
    assert uri.startswith("runs:/")
    assert uri.endswith("/model")
    assert run not in uri
    assert registry.served(uri)[0].engine.name == "forest"
    assert registry.versions("from a run") == old_versions
    assert registry.client.get_run(uri.split("/")[1]).info.status == "FINISHED"


def test_compiled_model_of_a_run_keeps_its_name(registry: Registry) -> None:
    """Clients call the compiled form of a model of a run, or of a logged model, the same as the original."""
    _ = registry.client  # sets MLflow's registry
    with mlflow.start_run(experiment_id="1") as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logged = mlflow.sklearn.log_model(
            forest(),
            name="soil map",
            signature=infer_signature(FRAME, LABELS),
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    for original in (f"runs:/{run.info.run_id}/soil map", f"models:/{logged.model_id}"):
        uri = compiler.compile_model(ModelOptions.read(registry.environ(original)))
        names = [registry.served(each)[0].name for each in (original, uri)]
        assert names == ["soil map", "soil map"]


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "relative"])
def test_folder_model_compiles_into_sibling_folder(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A model in a folder is compiled into a folder beside it, and does not change."""
    monkeypatch.chdir(tmp_path)
    digest = folder_digest(local)
    uri = "soil" if form == "relative" else form.format(local)
    assert compiler.compile_model(ModelOptions.read(environ_of(tmp_path, uri))) == str(tmp_path / "soil-compiled")
    assert folder_digest(local) == digest
    copy = resolve(Settings.from_env(environ_of(tmp_path, tmp_path / "soil-compiled")))
    model = load_model(copy, "forest")
    rows = rows_of(model.schema, FRAME)
    assert model.engine.predict(rows).labels == forest().predict(FRAME).tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"soil", "soil-compiled"}


@pytest.mark.parametrize("existing", ["folder", "file"])
def test_existing_target_folder_stops_compilation(local: Path, tmp_path: Path, existing: str) -> None:
    """If the target folder exists already, also as a file, nothing is compiled."""
    target = tmp_path / "soil-compiled"
    target.mkdir() if existing == "folder" else target.touch()
    with pytest.raises(CommandError, match=f"^{target} exists"):
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local)))
    assert existing == "file" or list(target.iterdir()) == []


def test_compiled_model_copies_code_without_mlflow_files(local: Path, tmp_path: Path) -> None:
    """The model's own code is copied, and the files that MLflow adds to a download are not."""
    (local / "code").mkdir()
    (local / "code" / "own.py").write_text("x = 1\n")
    (local / "registered_model_meta").touch()
    uri = Path(compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local))))
    assert (uri / "code" / "own.py").read_text() == "x = 1\n"
    assert not (uri / "registered_model_meta").exists()


def test_data_file_rows_are_used_for_the_check(local: Path, tmp_path: Path) -> None:
    """The model is checked on the rows of DATA, and the check records the file's name."""
    FRAME[:77].assign(label=LABELS[:77]).to_csv(tmp_path / "held out.csv", index=False)
    uri = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA=str(tmp_path / "held out.csv"))))
    check = flavor_of(Path(uri))["check"]
    assert (check["against"], check["rows"], check["passed"]) == ("file: held out.csv", 77, True)


def test_data_path_expands_the_home_folder(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DATA path that starts with ~ is found in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    FRAME.to_csv(tmp_path / "rows.csv.gz", index=False)
    uri = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA="~/rows.csv.gz")))
    assert flavor_of(Path(uri))["check"]["rows"] == 200


def test_empty_data_variable_counts_as_unset(local: Path, tmp_path: Path) -> None:
    """If DATA is empty, the model is checked on rows drawn at random."""
    uri = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA="")))
    assert flavor_of(Path(uri))["check"]["rows"] == 4097


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as CSV: "),
        ("depth,zone\n1,1\n", "column 'soil' is missing; expected depth, soil, zone"),
        ("depth,soil,zone\n1,clay,deep\n", 'must be a number, got "deep"'),
        ("depth,soil,zone\n", "must be a list of at least one row"),
    ],
)
def test_invalid_data_file_is_refused_in_one_line(
    local: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    """A DATA file that is missing or has invalid rows is refused in one line, and nothing is written."""
    if content is not None:
        (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(CommandError) as caught:
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA=str(tmp_path / "rows.csv"))))
    assert str(caught.value).startswith(f"DATA={tmp_path / 'rows.csv'}: ")
    assert message in str(caught.value)
    assert not (tmp_path / "soil-compiled").exists()


def test_model_without_an_example_is_compiled(tmp_path: Path) -> None:
    """A model that rejects unknown categories and has no example is compiled, although its generated row is invalid."""
    local = save(tmp_path / "soil", forest("error"), example=False)
    uri = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local)))
    check = flavor_of(Path(uri))["check"]
    assert check["passed"] is True
    assert check["rows"] > 4000


def test_data_with_an_unknown_category_is_refused(tmp_path: Path) -> None:
    """A DATA file with a category that the model rejects is refused in one line, and nothing is written."""
    local = save(tmp_path / "soil", forest("error"))
    FRAME.assign(soil="peat").to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises((CommandError, StartError)) as caught:
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA=str(tmp_path / "rows.csv"))))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "soil-compiled").exists()


def assert_nothing_registered(
    registry: Registry, name: str, error: type[Exception], match: str, **environ: str
) -> None:
    old_state = (registry.versions(name), registry.runs())
    with pytest.raises(error, match=match) as caught:
        compiler.compile_model(ModelOptions.read(registry.environ(f"models:/{name}/1", **environ)))
    assert "\n" not in str(caught.value)
    assert (registry.versions(name), registry.runs()) == old_state


def test_model_without_packed_form_is_refused(registry: Registry) -> None:
    """A model without a packed form is refused with the reason, and nothing is registered."""
    registry.register("pca", without_packed_form())
    reason = "pca has no compiled form; forest: the step PCA has no compiled form"
    assert_nothing_registered(registry, "pca", CommandError, reason, ENGINE="forest")


def test_engine_without_compiled_form_is_refused(registry: Registry) -> None:
    """An ENGINE without a compiled form is refused with the engines that have one."""
    registry.register("engine", forest())
    reason = "ENGINE='sklearn': expected auto, forest, onnx"
    assert_nothing_registered(registry, "engine", CommandError, reason, ENGINE="sklearn")
    assert_nothing_registered(registry, "engine", SettingsError, "ENGINE='x': expected one of auto", ENGINE="x")


def test_disagreeing_compiled_form_is_not_registered(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled form that does not agree is refused with the differences, and nothing is registered."""
    registry.register("failed", forest())
    monkeypatch.setattr(companion, "compare", lambda *_: Check("some rows", 10, 2, 0, 0.25))
    reason = r"10 rows \(some rows\): 2 different labels, values at most 2.5e-01 apart"
    assert_nothing_registered(registry, "failed", ModelError, reason)


def test_model_with_other_predict_function_is_refused(registry: Registry) -> None:
    """A model whose predict_fn is not predict is refused, and nothing is registered."""
    registry.register("wrapped", forest(), pyfunc_predict_fn="predict_proba")
    reason = "wrapped has no compiled form: it has no scikit-learn flavor, or its predict_fn is not predict"
    assert_nothing_registered(registry, "wrapped", CommandError, reason)


def test_missing_model_is_refused_as_in_a_replica(registry: Registry, tmp_path: Path) -> None:
    """A model that does not exist is refused with the message that a replica gives."""
    assert_nothing_registered(registry, "nobody", StartError, "MODEL_URI='models:/nobody/1'")
    with pytest.raises(StartError, match="no file MLmodel"):
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, tmp_path / "none")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fitted", [DecisionTreeRegressor(max_depth=3), LogisticRegression()])
def test_only_tree_models_can_be_compiled(tmp_path: Path, fitted: Any) -> None:
    """A regression tree is compiled, and a model without trees is refused."""
    columns = ColumnTransformer([("scaled", StandardScaler(), ["zone", "depth"])])
    local = save(tmp_path / "other", make_pipeline(columns, fitted).fit(FRAME, np.arange(200) % 2))
    if isinstance(fitted, DecisionTreeRegressor):
        assert compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local))) == str(
            tmp_path / "other-compiled"
        )
    else:
        with pytest.raises(CommandError, match="LogisticRegression is not a forest"):
            compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, ENGINE="forest")))


def run_main(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> int:
    for name in ("DATA", "ENGINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return compiler.main()


def test_main_prints_the_new_uri_last(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The program prints how to serve the compiled model, and its URI as the last line, and exits with status 0."""
    registry.register("main", forest())
    registry.client.set_registered_model_alias("main", "best", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, but still in use
        registry.client.transition_model_version_stage("main", "1", "Production")
    monkeypatch.setattr(compiler, "resolve_in_child", resolve_in_child)
    capfd.readouterr()
    assert run_main(monkeypatch, registry.environ("models:/main/1")) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-2:] == ["to serve it: make up MODEL_URI=models:/main/2", "models:/main/2"]
    assert err == ""
    for version, pointer in (("3", "models:/main@best"), ("4", "models:/main/Production")):
        assert run_main(monkeypatch, registry.environ(pointer)) == 0
        assert capfd.readouterr().out.splitlines()[-2] == (
            f"to serve it: make promote VERSION={version}, where {pointer} is served; "
            f"elsewhere make up MODEL_URI=models:/main/{version}"
        )
    assert run_main(monkeypatch, environ_of(tmp_path, save(tmp_path / "soil", forest()))) == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "soil-compiled")


def test_failed_main_exits_with_one_line_and_status_1(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If compiling fails, the program prints one line on stderr and no URI, and exits with status 1."""
    (tmp_path / "soil-compiled").mkdir()
    assert run_main(monkeypatch, environ_of(tmp_path, local)) == 1
    assert run_main(monkeypatch, environ_of(tmp_path, tmp_path / "none")) == 1
    assert run_main(monkeypatch, environ_of(tmp_path, local, ENGINE="x")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["error"] * 3


def test_full_disk_leaves_no_partial_model(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the disk is full, the error is one line on stderr, and no partial model is left in the target folder."""
    copytree = shutil.copytree

    def copy_to_full_disk(source: Path, target: Path, **options: Any) -> Path:
        if Path(target).name == "model":  # the temporary copy that is compiled
            return copytree(source, target, **options)
        Path(target).mkdir()
        Path(target, "MLmodel").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", copy_to_full_disk)
    assert run_main(monkeypatch, environ_of(tmp_path, local)) == 1
    assert capsys.readouterr().err == "error: cannot keep the compiled model: [Errno 28] No space left on device\n"
    assert not (tmp_path / "soil-compiled").exists()
