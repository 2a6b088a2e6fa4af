"""A compiled companion for a model that is already there: in a SQLite registry, in a run, or in a folder."""

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
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    import mlflow
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import infer_signature

    from deploy.models.compile import companion
    from deploy.models.registry import versions  # noqa: F401  (imported here, where their warnings are ignored)

# MLflow 3.17 inside: its tables under SQLAlchemy 2.1, its own advice, and its input examples under pandas 3.
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
    columns = ColumnTransformer([("hot", one_hot, ["soil"]), ("scaled", StandardScaler(), ["zone", "depth"])])
    return make_pipeline(columns, RandomForestClassifier(4, max_depth=5, random_state=seed)).fit(FRAME, LABELS)


def without_packed_form() -> Any:
    columns = ColumnTransformer([("pca", PCA(1), ["depth", "zone"])])
    return make_pipeline(columns, RandomForestClassifier(2, random_state=0)).fit(FRAME, LABELS)


def save(folder: Path, fitted: Any, example: bool = True, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickles: MLflow's advice to trainers
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
    """A registry, and the settings of those who use it."""

    folder: Path

    @property
    def client(self) -> Any:
        mlflow.set_tracking_uri(self.environ("x")["MLFLOW_TRACKING_URI"])
        return mlflow.MlflowClient()

    def environ(self, uri: str, **more: str) -> dict[str, str]:
        database = f"sqlite:///{self.folder}/mlflow.db"
        return {"VAR_DIR": str(self.folder / "var"), "MLFLOW_TRACKING_URI": database, "MODEL_URI": uri, **more}

    def register(self, name: str, fitted: Any, tags: dict[str, str] | None = None, **options: Any) -> str:
        """Log and register a model as anybody may; the run that it is in."""
        with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(experiment_id="1") as run:
            mlflow.log_artifacts(str(save(Path(scratch, "model"), fitted, **options)), "model")
            with contextlib.redirect_stderr(io.StringIO()):
                mlflow.register_model(f"runs:/{run.info.run_id}/model", name, tags=tags)
        return str(run.info.run_id)

    def versions(self, name: str) -> dict[str, dict[str, str]]:
        """The tags of each version."""
        return {str(v.version): dict(v.tags) for v in self.client.search_model_versions(f"name = '{name}'")}

    def runs(self) -> int:
        client = self.client
        return sum(len(client.search_runs([e.experiment_id])) for e in client.search_experiments())

    def served(self, uri: str, engine: str = "auto") -> tuple[Any, MLmodel]:
        """The model that a replica would serve, and its description."""
        copy = resolve(Settings.from_env(self.environ(uri)))
        return load_model(copy, engine), MLmodel.read(copy.model_folder)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Nothing compiled twice, no process for what this one can resolve, and nothing left of MLflow's settings."""
    with pytest.MonkeyPatch.context() as patch:
        more = {"MLFLOW_TRACKING_URI": "", "no_proxy": "127.0.0.1", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        for name, value in (MLFLOW_VARIABLES | more).items():
            patch.setenv(name, value)
        logging.getLogger("mlflow").setLevel("ERROR")
        patch.setattr(compiler, "resolve_in_child", lambda environ: resolve(Settings.from_env(environ)))
        compile_once(patch)
        yield
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    made = Registry(tmp_path_factory.mktemp("registry"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # marks do not reach into fixtures of a module
        made.client.create_experiment("others", artifact_location=(made.folder / "artifacts").as_uri())
    return made


@dataclass(frozen=True)
class Compiled:
    """What compiling a registered model printed and made."""

    registry: Registry
    uri: str
    out: str
    before: dict[str, str]


TAGS = {"team": "soils", "check": "passed", DIGEST_TAG: ""}


@pytest.fixture(scope="module")
def compiled(shared: Registry) -> Compiled:
    """A model with an alias, compiled by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared.register("soil", forest())
        digest = resolve(Settings.from_env(shared.environ("models:/soil/1"))).digest
        for name, value in (TAGS | {DIGEST_TAG: digest}).items():
            shared.client.set_model_version_tag("soil", "1", name, value)
        shared.client.set_registered_model_alias("soil", "champion", "1")
        before = shared.versions("soil")["1"]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            uri = compiler.compile_model(ModelOptions.read(shared.environ("models:/soil@champion")))
    return Compiled(shared, uri, out.getvalue(), before)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return save(tmp_path / "soil", forest())


def flavor_of(folder: Path) -> dict[str, Any]:
    flavor: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["forkcast_forest"]
    return flavor


def environ_of(tmp_path: Path, uri: str | Path, **more: str) -> dict[str, str]:
    return {"VAR_DIR": str(tmp_path / "var"), "MODEL_URI": str(uri), **more}


def test_compiling_registers_a_verified_new_version(compiled: Compiled) -> None:
    """A registered model gets a new version, which is verified by its digest and served by the compiled form."""
    assert compiled.uri == "models:/soil/2"
    model, mlmodel = compiled.registry.served(compiled.uri)
    assert (model.engine.name, model.version, model.trained_on) == ("forest", "2", "file: soil.csv")
    assert compiled.registry.versions("soil")["2"][DIGEST_TAG] == model.digest == folder_digest(mlmodel.folder)
    rows = rows_of(mlmodel.schema, FRAME)
    assert model.engine.predict(rows).labels == forest().predict(FRAME).tolist()
    assert compiled.registry.served(compiled.uri, "forest")[0].engine.name == "forest"


def test_compilation_prints_a_one_line_summary(compiled: Compiled) -> None:
    """What was compiled, for which engine, and what its check found, is one line."""
    assert compiled.out.startswith("compiled soil version 1 for the engine forest; checked on 4,097 rows (")
    assert compiled.out.endswith("): equal labels, values at most 0.0e+00 apart\n")
    assert compiled.out.count("\n") == 1


def test_compiled_version_and_alias_stay_unchanged(compiled: Compiled) -> None:
    """The version that was compiled stays as it was, and so does the alias."""
    client = compiled.registry.client
    assert compiled.registry.versions("soil")["1"] == compiled.before
    assert str(client.get_model_version_by_alias("soil", "champion").version) == "1"
    assert client.get_model_version("soil", "2").aliases == []
    model, mlmodel = compiled.registry.served("models:/soil/1")
    assert model.engine.name == "sklearn"
    assert "forkcast_forest" not in mlmodel.flavors
    assert not (mlmodel.folder / "forest").exists()
    assert folder_digest(mlmodel.folder) == compiled.before[DIGEST_TAG]


def test_new_version_copies_tags_and_records_origin(compiled: Compiled) -> None:
    """The new version has the old one's tags, a digest of its own, and a tag that tells where it comes from."""
    tags = compiled.registry.versions("soil")["2"]
    assert tags == compiled.before | {"forkcast.compiled_from": "1", DIGEST_TAG: tags[DIGEST_TAG]}
    assert tags[DIGEST_TAG] != compiled.before[DIGEST_TAG]


def test_new_version_belongs_to_a_finished_run(compiled: Compiled) -> None:
    """The new version is in a run that has finished, in an experiment of the model's name, beside the database."""
    client = compiled.registry.client
    run = client.get_run(client.get_model_version("soil", "2").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["forkcast.compiled_from"] == "models:/soil@champion"
    assert client.get_experiment(run.info.experiment_id).name == "soil"
    assert run.info.artifact_uri.startswith((compiled.registry.folder / "mlartifacts").as_uri())


def test_parity_check_is_recorded_in_the_model(compiled: Compiled) -> None:
    """The check is recorded in the model itself, and MLflow still loads that."""
    _, mlmodel = compiled.registry.served(compiled.uri)
    check = mlmodel.flavors["forkcast_forest"]["check"]
    assert (check["rows"], check["labels_differ"], check["largest_difference"], check["passed"]) == (4097, 0, 0, True)
    assert check["against"] in compiled.out
    loaded = mlflow.pyfunc.load_model(str(mlmodel.folder))
    assert list(loaded.predict(FRAME)) == forest().predict(FRAME).tolist()


def test_compiling_twice_registers_another_version(compiled: Compiled) -> None:
    """A version that has a companion gets another version with a new one in its place."""
    shared = compiled.registry
    shared.register("again", forest())
    second = compiler.compile_model(ModelOptions.read(shared.environ("models:/again/1")))
    third = compiler.compile_model(ModelOptions.read(shared.environ(second)))
    assert (second, third) == ("models:/again/2", "models:/again/3")
    models = [shared.served(uri) for uri in (second, third)]
    assert [model.engine.name for model, _ in models] == ["forest", "forest"]
    assert shared.versions("again")["3"]["forkcast.compiled_from"] == "2"
    names = [{path.name for path in mlmodel.folder.rglob("*")} for _, mlmodel in models]
    assert names[0] == names[1]
    assert models[0][1].flavors == models[1][1].flavors


def test_refused_companion_is_replaced(shared: Registry, tmp_path: Path) -> None:
    """A companion that is refused is replaced by one that is not."""
    compiler.compile_model(ModelOptions.read(environ_of(tmp_path, save(tmp_path / "soil", forest()))))
    damaged = tmp_path / "soil-compiled"
    (damaged / "forest" / "roots.npy").unlink()
    (damaged / "forest" / "stale.npy").touch()
    again = Path(compiler.compile_model(ModelOptions.read(environ_of(tmp_path, damaged))))
    assert again == tmp_path / "soil-compiled-compiled"
    assert shared.served(str(again), "forest")[0].engine.name == "forest"
    assert not (again / "forest" / "stale.npy").exists()


def test_model_of_a_run(shared: Registry) -> None:
    """A model of a run that was never registered gets a run of its own, and stays unregistered."""
    run = shared.register("from a run", forest())
    before = shared.versions("from a run")
    uri = compiler.compile_model(ModelOptions.read(shared.environ(f"runs:/{run}/model")))
    assert uri.startswith("runs:/")
    assert uri.endswith("/model")
    assert run not in uri
    assert shared.served(uri)[0].engine.name == "forest"
    assert shared.versions("from a run") == before
    assert shared.client.get_run(uri.split("/")[1]).info.status == "FINISHED"


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "relative"])
def test_folder_model_compiles_into_sibling_folder(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A model in a folder is compiled into a folder beside it, and stays as it was."""
    monkeypatch.chdir(tmp_path)
    before = folder_digest(local)
    uri = "soil" if form == "relative" else form.format(local)
    assert compiler.compile_model(ModelOptions.read(environ_of(tmp_path, uri))) == str(tmp_path / "soil-compiled")
    assert folder_digest(local) == before
    copy = resolve(Settings.from_env(environ_of(tmp_path, tmp_path / "soil-compiled")))
    model = load_model(copy, "forest")
    rows = rows_of(model.schema, FRAME)
    assert model.engine.predict(rows).labels == forest().predict(FRAME).tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"soil", "soil-compiled"}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_existing_target_folder_stops_compilation(local: Path, tmp_path: Path, kind: str) -> None:
    """Where something lies in the place of the compiled model, nothing is compiled."""
    target = tmp_path / "soil-compiled"
    target.mkdir() if kind == "folder" else target.touch()
    with pytest.raises(CommandError, match=f"^{target} exists"):
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local)))
    assert kind == "file" or list(target.iterdir()) == []


def test_compiled_model_copies_code_without_mlflow_files(local: Path, tmp_path: Path) -> None:
    """A model's own code comes along; what MLflow added to a download does not."""
    (local / "code").mkdir()
    (local / "code" / "own.py").write_text("x = 1\n")
    (local / "registered_model_meta").touch()
    made = Path(compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local))))
    assert (made / "code" / "own.py").read_text() == "x = 1\n"
    assert not (made / "registered_model_meta").exists()


def test_data_file_rows_are_used_for_the_check(local: Path, tmp_path: Path) -> None:
    """The rows of DATA are what is compared on, and its name is recorded."""
    FRAME[:77].assign(label=LABELS[:77]).to_csv(tmp_path / "held out.csv", index=False)
    made = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA=str(tmp_path / "held out.csv"))))
    check = flavor_of(Path(made))["check"]
    assert (check["against"], check["rows"], check["passed"]) == ("file: held out.csv", 77, True)


def test_data_path_expands_the_home_folder(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATA may be in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    FRAME.to_csv(tmp_path / "rows.csv.gz", index=False)
    made = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA="~/rows.csv.gz")))
    assert flavor_of(Path(made))["check"]["rows"] == 200


def test_empty_data_variable_counts_as_unset(local: Path, tmp_path: Path) -> None:
    """An empty DATA counts as none."""
    made = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA="")))
    assert flavor_of(Path(made))["check"]["rows"] == 4097


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read as CSV: "),
        ("depth,zone\n1,1\n", "there is no column 'soil'; expected depth, soil, zone"),
        ("depth,soil,zone\n1,clay,deep\n", 'must be a number, got "deep"'),
        ("depth,soil,zone\n", "must be a list of at least one row"),
    ],
)
def test_invalid_data_file_is_refused_in_one_line(local: Path, tmp_path: Path, content: str | None, said: str) -> None:
    """DATA that is missing, or holds no rows of the model, is told in one line, and nothing is made."""
    if content is not None:
        (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(CommandError) as caught:
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA=str(tmp_path / "rows.csv"))))
    assert str(caught.value).startswith(f"DATA={tmp_path / 'rows.csv'}: ")
    assert said in str(caught.value)
    assert not (tmp_path / "soil-compiled").exists()


def test_example_of_an_unknown_category(tmp_path: Path) -> None:
    """A model that refuses unknown categories, and has no example of its own, is compiled all the same."""
    local = save(tmp_path / "soil", forest("error"), example=False)
    made = compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local)))
    check = flavor_of(Path(made))["check"]
    assert check["passed"] is True
    assert check["rows"] > 4000


def test_data_of_an_unknown_category(tmp_path: Path) -> None:
    """DATA with a category that the model refuses is told in one line, and nothing is made."""
    local = save(tmp_path / "soil", forest("error"))
    FRAME.assign(soil="peat").to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises((CommandError, StartError)) as caught:
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, DATA=str(tmp_path / "rows.csv"))))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "soil-compiled").exists()


def assert_nothing_made(shared: Registry, name: str, error: type[Exception], match: str, **environ: str) -> None:
    before = (shared.versions(name), shared.runs())
    with pytest.raises(error, match=match) as caught:
        compiler.compile_model(ModelOptions.read(shared.environ(f"models:/{name}/1", **environ)))
    assert "\n" not in str(caught.value)
    assert (shared.versions(name), shared.runs()) == before


def test_model_without_packed_form_is_refused(shared: Registry) -> None:
    """A model without a packed form is refused with the reason, and nothing is registered."""
    shared.register("pca", without_packed_form())
    reason = "pca has no compiled form; forest: the step PCA has no compiled form"
    assert_nothing_made(shared, "pca", CommandError, reason, ENGINE="forest")


def test_engine_without_compiled_form_is_refused(shared: Registry) -> None:
    """ENGINE may name only an engine that there are compiled forms for."""
    shared.register("engine", forest())
    reason = "ENGINE='sklearn': expected auto, forest, onnx"
    assert_nothing_made(shared, "engine", CommandError, reason, ENGINE="sklearn")
    assert_nothing_made(shared, "engine", SettingsError, "ENGINE='x': expected one of auto", ENGINE="x")


def test_disagreeing_compiled_form_is_not_registered(shared: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled form that does not agree is told with what was found, and nothing is registered."""
    shared.register("failed", forest())
    monkeypatch.setattr(companion, "compare", lambda *_: Check("some rows", 10, 2, 0, 0.25))
    reason = r"10 rows \(some rows\): 2 other labels, values at most 2.5e-01 apart"
    assert_nothing_made(shared, "failed", ModelError, reason)


def test_model_with_other_predict_function_is_refused(shared: Registry) -> None:
    """A model that was logged to answer by another function than predict is refused, and nothing is registered."""
    shared.register("wrapped", forest(), pyfunc_predict_fn="predict_proba")
    reason = "wrapped has no compiled form: it has no scikit-learn flavor, or another predict_fn"
    assert_nothing_made(shared, "wrapped", CommandError, reason)


def test_missing_model_is_refused_as_in_a_replica(shared: Registry, tmp_path: Path) -> None:
    """A model that is not there is told as by a replica."""
    assert_nothing_made(shared, "nobody", StartError, "MODEL_URI='models:/nobody/1'")
    with pytest.raises(StartError, match="no file MLmodel"):
        compiler.compile_model(ModelOptions.read(environ_of(tmp_path, tmp_path / "none")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fitted", [DecisionTreeRegressor(max_depth=3), LogisticRegression()])
def test_only_tree_models_can_be_compiled(tmp_path: Path, fitted: Any) -> None:
    """A tree that is no classifier is compiled as well; a model of no trees has no packed form."""
    columns = ColumnTransformer([("scaled", StandardScaler(), ["zone", "depth"])])
    local = save(tmp_path / "other", make_pipeline(columns, fitted).fit(FRAME, np.arange(200) % 2))
    if isinstance(fitted, DecisionTreeRegressor):
        assert compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local))) == str(
            tmp_path / "other-compiled"
        )
    else:
        with pytest.raises(CommandError, match="LogisticRegression is no forest"):
            compiler.compile_model(ModelOptions.read(environ_of(tmp_path, local, ENGINE="forest")))


def run_main(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> int:
    for name in ("DATA", "ENGINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return compiler.main()


def test_main_prints_the_new_uri_last(
    shared: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The program ends with the URI of what it made as its last line, and with status 0."""
    shared.register("main", forest())
    monkeypatch.setattr(compiler, "resolve_in_child", resolve_in_child)
    capfd.readouterr()
    assert run_main(monkeypatch, shared.environ("models:/main/1")) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "models:/main/2"
    assert err == ""
    assert run_main(monkeypatch, environ_of(tmp_path, save(tmp_path / "soil", forest()))) == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "soil-compiled")


def test_failed_main_exits_with_one_line_and_status_1(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program tells what is wrong in one line on stderr, prints no URI, and ends with status 1."""
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
    """A compiled model that cannot be kept is one line on stderr, and nothing half written is left in its place."""
    copytree = shutil.copytree

    def full(source: Path, target: Path, **options: Any) -> Path:
        if Path(target).name == "model":  # the scratch copy
            return copytree(source, target, **options)
        Path(target).mkdir()
        Path(target, "MLmodel").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    assert run_main(monkeypatch, environ_of(tmp_path, local)) == 1
    assert capsys.readouterr().err == "error: cannot keep the compiled model: [Errno 28] No space left on device\n"
    assert not (tmp_path / "soil-compiled").exists()
