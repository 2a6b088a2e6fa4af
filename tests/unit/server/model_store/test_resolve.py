"""Tests of resolving MODEL_URI, with a real SQLite registry and a small model, also while the registry is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sklearn.tree import DecisionTreeClassifier

from server.errors import ModelError, RegistryError, StartError
from server.model_store import resolve as resolve_module
from server.model_store.copies import Copies, Copy
from server.model_store.digest import DIGEST_TAG, folder_digest
from server.model_store.mlmodel import MLmodel
from server.model_store.resolve import local_folder, resolve, resolve_in_child
from server.settings import ROOT, Settings
from tests.support.models.registries import IGNORE_MLFLOW_WARNINGS, Registry, moved_away, new_registry
from tests.support.ports import refusing_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the other packages that are installed
    import mlflow
    import mlflow.sklearn
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

pytestmark = IGNORE_MLFLOW_WARNINGS

NAME = "tiny"


@dataclass(frozen=True)
class Versions(Registry):
    """A registry with two versions of one model: 1 in the stage Production, 2 with the alias champion."""

    digests: dict[str, str]
    run_of: dict[str, str]

    def register_tree(self, name: str, depth: int, digest: str | None = None) -> tuple[str, str, str]:
        """Log and register a tree as the trainer does, and return its version, its digest and its run."""
        tree = DecisionTreeClassifier(max_depth=depth, random_state=0).fit([[0.0], [1.0], [2.0]], [1, 2, 3])
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            mlflow.sklearn.save_model(
                tree,
                str(folder),
                serialization_format="skops",
                skops_trusted_types=["sklearn.tree._tree.Tree"],
                signature=ModelSignature(inputs=Schema([ColSpec("double", "x")])),
                pip_requirements=["scikit-learn"],
            )
            return self.register(name, folder, digest)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    with new_registry(tmp_path_factory.mktemp("registry")) as empty:
        registry = Versions(empty.folder, {}, {})
        for depth in (1, 2):
            version, digest, run = registry.register_tree(NAME, depth)
            registry.digests[version] = digest
            registry.run_of[version] = run
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(NAME, "champion", "2")
        client.transition_model_version_stage(NAME, "1", "Production")
        yield registry


@pytest.fixture
def missing_database(registry: Versions) -> Iterator[Path]:
    """The path of the registry's database, which is moved away during the test."""
    with moved_away(registry) as database:
        yield database


@pytest.mark.parametrize(
    ("uri", "version"),
    [
        ("models:/tiny@champion", "2"),
        ("models:/tiny/1", "1"),
        ("models:/tiny/2", "2"),
        ("models:/tiny/Production", "1"),
        ("models:/tiny/latest", "2"),
    ],
)
def test_registered_model_resolves_to_a_verified_copy(
    registry: Versions, tmp_path: Path, uri: str, version: str
) -> None:
    """An alias, a number, a stage and `latest` each resolve to a verified copy of the version that they name."""
    copy = replace(resolve(registry.settings(tmp_path, uri)), stamp=None)
    digest = registry.digests[version]
    assert copy == Copy(tmp_path / "models" / digest / "model", NAME, version, uri, digest)
    assert folder_digest(copy.model_folder) == digest
    assert list((tmp_path / "models").glob(".incoming*")) == []


def test_latest_version_is_the_highest_number(registry: Versions, tmp_path: Path) -> None:
    """`latest` is version 10, not version 9, even if they are the newest of different stages."""
    client = mlflow.MlflowClient()
    client.create_registered_model("many")
    run = registry.run_of["1"]
    for _ in range(10):
        client.create_model_version("many", f"runs:/{run}/model", run, tags={DIGEST_TAG: registry.digests["1"]})
    client.transition_model_version_stage("many", "9", "Production")
    assert resolve(registry.settings(tmp_path, "models:/many/latest")).version == "10"


def test_run_model_uses_its_digest_as_version(registry: Versions, tmp_path: Path) -> None:
    """A model of a run, which has no version number, gets its digest as its version."""
    uri = f"runs:/{registry.run_of['1']}/model"
    copy = replace(resolve(registry.settings(tmp_path, uri)), stamp=None)
    digest = registry.digests["1"]
    assert copy == Copy(tmp_path / "models" / digest / "model", "model", digest[:12], uri, digest)


def test_logged_model_has_the_name_that_it_was_logged_with(registry: Versions, tmp_path: Path) -> None:
    """A logged model that is not registered has the name that it was logged with, which its MLmodel file lacks."""
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [1, 2])
    with mlflow.start_run(experiment_id="1"):
        logged = mlflow.sklearn.log_model(
            tree,
            name="churn",
            serialization_format="cloudpickle",
            signature=ModelSignature(inputs=Schema([ColSpec("double", "x")])),
            pip_requirements=["scikit-learn"],
        )
    uri = f"models:/{logged.model_id}"
    copy = resolve(registry.settings(tmp_path, uri))
    assert (copy.name, copy.version, copy.registered_name) == ("churn", copy.digest[:12], None)
    assert MLmodel.read(copy.model_folder).name is None
    with pytest.raises(ModelError, match="not found"):
        resolve(registry.settings(tmp_path, f"models:/m-{'0' * 32}"))


def test_version_without_digest_tag_is_served(registry: Versions, tmp_path: Path) -> None:
    """A version without a digest tag, which another trainer registered, gets the digest of its files."""
    version, digest, _ = registry.register_tree("foreign", 1)
    mlflow.MlflowClient().delete_model_version_tag("foreign", version, DIGEST_TAG)
    copy = resolve(registry.settings(tmp_path, "models:/foreign/1"))
    assert copy.digest == digest
    assert copy.version == "1"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_folder_model_is_served_without_a_copy(registry: Versions, tmp_path: Path, form: str) -> None:
    """A model in a folder, given as a path or as an escaped file URI, is served from there without a copy."""
    folder = tmp_path / "a model"
    shutil.copytree(registry.artifacts_of(registry.run_of["1"]), folder)
    uri = form.format(folder if form == "{}" else folder.as_uri().removeprefix("file://"))
    digest = registry.digests["1"]
    assert resolve(registry.settings(tmp_path / "var", uri)) == Copy(folder, "a model", digest[:12], uri, digest)
    assert not (tmp_path / "var").exists()


def test_relative_path_is_recorded_as_absolute(
    registry: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is resolved from the working directory and recorded as an absolute path."""
    shutil.copytree(registry.artifacts_of(registry.run_of["1"]), tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert resolve(registry.settings(tmp_path, "here")).model_folder == tmp_path / "here"


@pytest.mark.parametrize(
    "uri",
    [
        "models:/none/1",
        "models:/none@champion",
        "models:/none/latest",
        "models:/none/Production",
        "models:/tiny/99",
        "models:/tiny@nobody",
        "models:/tiny/Staging",
        "models:/tiny/Nonsense",
        "models:/tiny",
        "models:/",
        "runs:/00000000000000000000000000000000/model",
        "/no/such/folder",
        "file:///no/such/folder",
        "no-such-folder",
    ],
)
def test_missing_model_error_names_model_uri(registry: Versions, tmp_path: Path, uri: str) -> None:
    """A model that does not exist raises a one-line ModelError that names MODEL_URI."""
    with pytest.raises(ModelError) as caught:
        resolve(registry.settings(tmp_path, uri))
    assert str(caught.value).startswith(f"MODEL_URI={uri!r}: ")
    assert "\n" not in str(caught.value)


def test_run_without_a_model_names_model_uri(registry: Versions, tmp_path: Path) -> None:
    """A run without a model at the path, or with another file there, raises a one-line error and leaves no files."""
    run = registry.run_of["1"]
    for path in ("none", "model/requirements.txt"):
        with pytest.raises(StartError) as caught:
            resolve(registry.settings(tmp_path, f"runs:/{run}/{path}"))
        assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_folder_without_mlmodel_is_refused(registry: Versions, tmp_path: Path) -> None:
    """A folder without an MLmodel file is refused as a model."""
    with pytest.raises(ModelError, match="no file MLmodel"):
        resolve(registry.settings(tmp_path, str(tmp_path)))


def test_missing_database_serves_the_last_good_copy(
    registry: Versions, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The last good copy is served with the reason if the database is missing, and no empty database is created."""
    settings = registry.settings(tmp_path, "models:/tiny@champion")
    fresh = resolve(settings)
    database = request.getfixturevalue("missing_database")
    stale = resolve(settings)
    assert stale == replace(fresh, stale=f"the registry's database {database} does not exist")
    assert not database.exists()


def test_missing_database_without_copy_is_an_error(registry: Versions, tmp_path: Path, missing_database: Path) -> None:
    """Resolving fails if the database is missing and the URI has no copy, and no empty database is created."""
    for uri in ("models:/tiny@champion", f"runs:/{registry.run_of['1']}/model"):
        with pytest.raises(RegistryError, match=f"the registry's database {missing_database} does not exist"):
            resolve(registry.settings(tmp_path, uri))
    assert not missing_database.exists()


def test_copy_of_another_uri_is_not_served(registry: Versions, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A last good copy is served only for the URI that was resolved to it."""
    resolve(registry.settings(tmp_path, "models:/tiny/1"))
    request.getfixturevalue("missing_database")
    with pytest.raises(RegistryError):
        resolve(registry.settings(tmp_path, "models:/tiny@champion"))


def test_lost_artifacts_are_served_from_the_copy(registry: Versions, tmp_path: Path) -> None:
    """A registered model whose files are lost is served from its copy; without a copy, it is a one-line error."""
    _, digest, run = registry.register_tree("lost", 1)
    settings = registry.settings(tmp_path, "models:/lost/1")
    fresh = resolve(settings)
    shutil.rmtree(registry.artifacts_of(run))
    assert resolve(settings) == fresh
    assert fresh.digest == digest
    with pytest.raises(StartError) as caught:
        resolve(registry.settings(tmp_path / "other", "models:/lost/1"))
    assert "\n" not in str(caught.value)


def test_damaged_copy_is_fetched_again(registry: Versions, tmp_path: Path) -> None:
    """A damaged copy is downloaded again."""
    settings = registry.settings(tmp_path, "models:/tiny/1")
    copy = resolve(settings)
    (copy.model_folder / "model.skops").write_bytes(b"damaged")
    assert resolve(settings) == copy
    assert folder_digest(copy.model_folder) == copy.digest


def test_damaged_copy_does_not_replace_the_registry(
    registry: Versions, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A damaged copy is not served while the registry is missing."""
    settings = registry.settings(tmp_path, "models:/tiny/1")
    (resolve(settings).model_folder / "MLmodel").unlink()
    request.getfixturevalue("missing_database")
    with pytest.raises(RegistryError):
        resolve(settings)


def test_wrong_digest_serves_the_older_copy(registry: Versions, tmp_path: Path) -> None:
    """Files with another digest than the registered one are refused, and the URI's older copy is served instead."""
    registry.register_tree("forged", 1)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("forged", "champion", "1")
    settings = registry.settings(tmp_path, "models:/forged@champion")
    older = resolve(settings)
    registry.register_tree("forged", 2, digest="0" * 64)
    client.set_registered_model_alias("forged", "champion", "2")
    stale = resolve(settings)
    assert replace(stale, stale=None) == older
    assert "differ from those registered: expected digest 000000000000" in str(stale.stale)
    with pytest.raises(RegistryError, match="differ from those registered"):
        resolve(registry.settings(tmp_path, "models:/forged/2"))
    assert {path.name for path in (tmp_path / "models").iterdir()} == {".lock", older.digest}


def environ_of(settings: Settings, **additional: str) -> dict[str, str]:
    return {
        **os.environ,
        "VAR_DIR": str(settings.var_dir),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MODEL_URI": settings.model_uri,
        "no_proxy": "*",
        **additional,
    }


def test_resolving_in_a_child_gives_the_same_copy(registry: Versions, tmp_path: Path) -> None:
    """Resolving in a child process gives the same copy as in this one."""
    settings = registry.settings(tmp_path, "models:/tiny/Production")
    assert resolve_in_child(environ_of(settings)) == resolve(settings)


def test_error_of_the_child_is_raised_unchanged(registry: Versions, tmp_path: Path) -> None:
    """An error in the child process is raised in this one with the same type and message."""
    with pytest.raises(ModelError, match=r"^MODEL_URI='/no/such': .*no file MLmodel"):
        resolve_in_child(environ_of(registry.settings(tmp_path, "/no/such")))


def test_child_without_a_result_is_an_error(registry: Versions, tmp_path: Path) -> None:
    """A child process that ends without a result raises a one-line error with its exit status."""
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)")
    environ = environ_of(registry.settings(tmp_path, "models:/tiny/1"), PYTHONPATH=str(tmp_path))
    with pytest.raises(ModelError, match="the process that resolves MODEL_URI ended with status 9 and no result"):
        resolve_in_child(environ)


@pytest.mark.parametrize("uri", ["models:/tiny@champion", "runs:/00000000000000000000000000000000/model"])
def test_refused_registry_connection_fails_in_seconds(registry: Versions, tmp_path: Path, uri: str) -> None:
    """A registry that refuses connections gives a one-line error without its password within seconds."""
    with refusing_port() as port:
        settings = replace(registry.settings(tmp_path, uri), tracking_uri=f"http://user:hunter2@127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(RegistryError) as caught:
            resolve_in_child(environ_of(settings))
        assert time.monotonic() - started < 30  # with MLflow's defaults it takes minutes
    assert "did not answer" in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("password", ["hunter2", "hunter2" * 100, "hunter2@home"])
def test_password_is_hidden_in_an_error_about_the_address(registry: Versions, tmp_path: Path, password: str) -> None:
    """An error about an address that MLflow does not support hides the password, however long it is."""
    uri = f"nosuch+db://me:{password}@host/db"
    settings = replace(registry.settings(tmp_path, "models:/tiny/1"), tracking_uri=uri)
    with pytest.raises(StartError) as caught:
        resolve(settings)
    assert "nosuch+db://me:***@host/db" in str(caught.value)
    assert "hunter" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replicas_that_resolve_at_once_share_one_copy(registry: Versions, tmp_path: Path) -> None:
    """Two replicas that resolve at the same time get one complete copy, and no temporary folder remains."""
    settings = registry.settings(tmp_path, "models:/tiny@champion")
    command = [sys.executable, "-m", "server.model_store.resolve"]
    environ = environ_of(settings)
    children = [subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE) for _ in range(2)]
    results = [json.loads(child.communicate(timeout=60)[0])["copy"] for child in children]
    digest = registry.digests["2"]
    assert [Copy.from_json(result).digest for result in results] == [digest, digest]
    assert {path.name for path in settings.models_dir.iterdir()} == {".lock", digest}
    assert Copies(settings.models_dir).holds(digest)


def test_server_does_not_import_mlflow(registry: Versions, tmp_path: Path) -> None:
    """MLflow is imported neither by the server's modules nor for a model from a folder."""
    folder = registry.artifacts_of(registry.run_of["1"])
    program = (
        "import os, sys, server.main, server.http.app, server.model_store.resolve, server.workers.worker\n"
        "from server.settings import Settings\n"
        "server.model_store.resolve.resolve(Settings.from_env(os.environ))\n"
        "server.main.create()\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'mlflow'])"
    )
    environ = environ_of(registry.settings(tmp_path, str(folder)))
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert child.stdout == "[]\n"


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/my/model", "/my/model"),
        ("my model", "my model"),
        ("/my%20model", "/my%20model"),
        ("file:///my/model", "/my/model"),
        ("file:///my%20model/%C3%BC%3A", "/my model/ü:"),
        ("file://localhost/my/model", "/my/model"),
        ("models:/tiny/1", None),
        ("runs:/0a/model", None),
        ("s3://bucket/model", None),
    ],
)
def test_only_paths_and_file_uris_are_local(uri: str, folder: str | None) -> None:
    """Paths and file URIs, whose escapes are decoded, name a local folder, and all other URIs name none."""
    assert local_folder(uri) == (None if folder is None else Path(folder))


def test_folder_with_a_space_in_its_name_is_served(tmp_path: Path) -> None:
    """A model is served from a folder whose name is escaped in the URI."""
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    assert "%20" in folder.as_uri()
    settings = Settings.from_env({"VAR_DIR": str(tmp_path / "var"), "MODEL_URI": folder.as_uri()})
    assert resolve(settings).model_folder == folder


@dataclass(frozen=True)
class Volume:
    """The files that a replica without a registry reads: copies, and the record of the current one."""

    folder: Path
    copy: Copy

    @property
    def record(self) -> Path:
        return self.folder / "models" / "current.json"

    @property
    def settings(self) -> Settings:
        return Settings.from_env({"VAR_DIR": str(self.folder), "MODEL_URI": str(self.record)})

    @property
    def state(self) -> dict[str, tuple[int, int]]:
        """The modification time and the size of each file and folder."""
        paths = [self.folder, *self.folder.rglob("*")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    copies = Copies(tmp_path / "volume" / "models")
    with copies.staging_folder() as staging:
        (staging / "model").mkdir()
        (staging / "model" / "MLmodel").write_text("flavors: {}\n")
        digest = folder_digest(staging / "model")
        copies.add(staging / "model", digest)
    copy = Copy(copies.path(digest), NAME, "7", "models:/tiny@champion", digest, stale="it was down", needs=99)
    copies.make_current(copy)
    return Volume(tmp_path / "volume", copy)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_record_path_resolves_to_its_copy(volume: Volume, form: str) -> None:
    """The path of a record resolves to the copy that it names, and no file is written."""
    initial = volume.state
    settings = replace(volume.settings, model_uri=form.format(volume.record))
    assert resolve(settings) == volume.copy
    assert volume.state == initial


def test_record_path_resolves_in_a_child_process(volume: Volume) -> None:
    """The path of a record resolves in a child process to the copy that it names, and no file is written."""
    initial = volume.state
    assert resolve_in_child(environ_of(volume.settings)) == volume.copy
    assert volume.state == initial


def test_missing_record_is_refused_and_not_created(volume: Volume) -> None:
    """Resolving fails if no copy was made current, and no record is created."""
    volume.record.unlink()
    initial = volume.state
    with pytest.raises(ModelError, match=f"^{volume.record} does not exist: no model has been stored there yet$"):
        resolve(volume.settings)
    assert volume.state == initial


def test_damaged_current_copy_is_refused(volume: Volume) -> None:
    """A damaged current copy is refused and left unchanged."""
    (volume.copy.model_folder / "MLmodel").write_text("flavors: []\n")
    initial = volume.state
    with pytest.raises(ModelError, match=f"{volume.copy.model_folder} is missing or damaged$"):
        resolve(volume.settings)
    assert volume.state == initial


def test_invalid_current_record_is_a_one_line_error(volume: Volume) -> None:
    """A record that is not JSON raises a one-line error, also from the child process."""
    volume.record.write_text("not json\n")
    initial = volume.state
    with pytest.raises(ModelError, match=f"^{volume.record} is not a valid record of a model copy$"):
        resolve_in_child(environ_of(volume.settings))
    assert volume.state == initial


def test_unchanged_registry_is_not_read(registry: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI is not resolved again while the registry's file is unchanged, and a moved alias is noticed."""
    settings = registry.settings(tmp_path, "models:/tiny@moving")
    client = mlflow.MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.set_registered_model_alias(NAME, "moving", "1")
    first = resolve(settings)
    located: list[str] = []
    monkeypatch.setattr("server.model_store.resolve._locate", lambda uri, _tracking_uri: located.append(uri))
    assert resolve(settings) == first
    assert located == []
    monkeypatch.undo()
    client.set_registered_model_alias(NAME, "moving", "2")
    assert resolve(settings).version == "2"


@pytest.mark.parametrize("source", ["run", "separate registry"])
def test_model_without_a_registry_stamp_is_resolved_each_time(
    registry: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """A run's model, and one in a separate registry, may change without the tracking database, so both are read."""
    settings = registry.settings(tmp_path, f"runs:/{registry.run_of['1']}/model")
    if source == "separate registry":
        settings = replace(registry.settings(tmp_path, "models:/tiny/1"), registry_uri="sqlite:///other.db")
    assert resolve(settings).stamp is None
    located: list[str] = []

    def record_and_locate(uri: str, tracking_uri: str) -> object:
        located.append(uri)
        return locate(uri, tracking_uri)

    locate = resolve_module._locate
    monkeypatch.setattr(resolve_module, "_locate", record_and_locate)
    resolve(settings)
    assert located == [settings.model_uri]
