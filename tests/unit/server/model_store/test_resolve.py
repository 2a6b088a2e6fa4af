"""MODEL_URI to a folder, from a real SQLite registry with a tiny model, and from what is left when it is away."""

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
from server.model_store.resolve import local_folder, resolve, resolve_in_child
from server.settings import ROOT, Settings
from tests.support.models.registries import IGNORE_MLFLOW_WARNINGS, Registry, moved_away, new_registry
from tests.support.ports import refusing_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
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
        """Log and register as the trainer does; the version, its digest and its run."""
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
def away(registry: Versions) -> Iterator[Path]:
    """The registry's database, moved away."""
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
    """An alias, a number, a stage and `latest` each lead to a verified copy of the version that they mean."""
    copy = replace(resolve(registry.settings(tmp_path, uri)), stamp=None)
    digest = registry.digests[version]
    assert copy == Copy(tmp_path / "models" / digest / "model", NAME, version, uri, digest)
    assert folder_digest(copy.model_folder) == digest
    assert list((tmp_path / "models").glob(".incoming*")) == []


def test_latest_version_is_the_highest_number(registry: Versions, tmp_path: Path) -> None:
    """Version 10 is later than version 9, also where they are the newest of different stages."""
    client = mlflow.MlflowClient()
    client.create_registered_model("many")
    run = registry.run_of["1"]
    for _ in range(10):
        client.create_model_version("many", f"runs:/{run}/model", run, tags={DIGEST_TAG: registry.digests["1"]})
    client.transition_model_version_stage("many", "9", "Production")
    assert resolve(registry.settings(tmp_path, "models:/many/latest")).version == "10"


def test_run_model_uses_its_digest_as_version(registry: Versions, tmp_path: Path) -> None:
    """A model of a run has no version of its own: its digest stands for one."""
    uri = f"runs:/{registry.run_of['1']}/model"
    copy = replace(resolve(registry.settings(tmp_path, uri)), stamp=None)
    digest = registry.digests["1"]
    assert copy == Copy(tmp_path / "models" / digest / "model", "model", digest[:12], uri, digest)


def test_version_without_digest_tag_is_served(registry: Versions, tmp_path: Path) -> None:
    """A version that another trainer registered, without our tag, is served by the digest that it has."""
    version, digest, _ = registry.register_tree("foreign", 1)
    mlflow.MlflowClient().delete_model_version_tag("foreign", version, DIGEST_TAG)
    copy = resolve(registry.settings(tmp_path, "models:/foreign/1"))
    assert copy.digest == digest
    assert copy.version == "1"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_folder_model_is_served_without_a_copy(registry: Versions, tmp_path: Path, form: str) -> None:
    """A model in a folder, its name in the URI escaped or not, is served from where it is, without a copy."""
    folder = tmp_path / "a model"
    shutil.copytree(registry.artifacts_of(registry.run_of["1"]), folder)
    uri = form.format(folder if form == "{}" else folder.as_uri().removeprefix("file://"))
    digest = registry.digests["1"]
    assert resolve(registry.settings(tmp_path / "var", uri)) == Copy(folder, "a model", digest[:12], uri, digest)
    assert not (tmp_path / "var").exists()


def test_relative_path_is_recorded_as_absolute(
    registry: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path counts from the current folder and is recorded as an absolute one."""
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
    """A model that is not there is a ModelError of one line that names MODEL_URI; nothing stands in for it."""
    with pytest.raises(ModelError) as caught:
        resolve(registry.settings(tmp_path, uri))
    assert str(caught.value).startswith(f"MODEL_URI={uri!r}: ")
    assert "\n" not in str(caught.value)


def test_run_without_a_model_names_model_uri(registry: Versions, tmp_path: Path) -> None:
    """A run without a model there, or with something else there, is an error of one line that names MODEL_URI."""
    run = registry.run_of["1"]
    for path in ("none", "model/requirements.txt"):
        with pytest.raises(StartError) as caught:
            resolve(registry.settings(tmp_path, f"runs:/{run}/{path}"))
        assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_folder_without_mlmodel_is_refused(registry: Versions, tmp_path: Path) -> None:
    """A folder without an MLmodel file is not a model."""
    with pytest.raises(ModelError, match="no file MLmodel"):
        resolve(registry.settings(tmp_path, str(tmp_path)))


def test_missing_database_serves_the_last_good_copy(
    registry: Versions, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the database gone the last good copy is served and says why; no empty database is made in its place."""
    settings = registry.settings(tmp_path, "models:/tiny@champion")
    fresh = resolve(settings)
    database = request.getfixturevalue("away")
    stale = resolve(settings)
    assert stale == replace(fresh, stale=f"the registry's database {database} is not there")
    assert not database.exists()


def test_missing_database_without_copy_creates_no_database(registry: Versions, tmp_path: Path, away: Path) -> None:
    """With the database gone and no copy of this very URI there is nothing to serve, and no database is made."""
    for uri in ("models:/tiny@champion", f"runs:/{registry.run_of['1']}/model"):
        with pytest.raises(RegistryError, match=f"the registry's database {away} is not there"):
            resolve(registry.settings(tmp_path, uri))
    assert not away.exists()


def test_copy_of_another_uri(registry: Versions, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A copy stands in only for the URI that led to it."""
    resolve(registry.settings(tmp_path, "models:/tiny/1"))
    request.getfixturevalue("away")
    with pytest.raises(RegistryError):
        resolve(registry.settings(tmp_path, "models:/tiny@champion"))


def test_lost_artifacts_are_served_from_the_copy(registry: Versions, tmp_path: Path) -> None:
    """A registered model whose files are lost is served from its copy; without a copy it is an error of one line."""
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
    """A copy that is no longer what it was is fetched again."""
    settings = registry.settings(tmp_path, "models:/tiny/1")
    copy = resolve(settings)
    (copy.model_folder / "model.skops").write_bytes(b"damaged")
    assert resolve(settings) == copy
    assert folder_digest(copy.model_folder) == copy.digest


def test_damaged_copy_does_not_replace_the_registry(
    registry: Versions, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A damaged copy does not stand in for a registry that is away."""
    settings = registry.settings(tmp_path, "models:/tiny/1")
    (resolve(settings).model_folder / "MLmodel").unlink()
    request.getfixturevalue("away")
    with pytest.raises(RegistryError):
        resolve(settings)


def test_wrong_digest_serves_the_older_copy(registry: Versions, tmp_path: Path) -> None:
    """Files that are not what was registered are refused; the older good copy of the same URI is served instead."""
    registry.register_tree("forged", 1)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("forged", "champion", "1")
    settings = registry.settings(tmp_path, "models:/forged@champion")
    good = resolve(settings)
    registry.register_tree("forged", 2, digest="0" * 64)
    client.set_registered_model_alias("forged", "champion", "2")
    stale = resolve(settings)
    assert replace(stale, stale=None) == good
    assert "are not what was registered" in str(stale.stale)
    assert "expected 000000000000" in str(stale.stale)
    with pytest.raises(RegistryError, match="are not what was registered"):
        resolve(registry.settings(tmp_path, "models:/forged/2"))
    assert {path.name for path in (tmp_path / "models").iterdir()} == {".lock", good.digest}


def environ_of(settings: Settings, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "VAR_DIR": str(settings.var_dir),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MODEL_URI": settings.model_uri,
        "no_proxy": "*",
        **more,
    }


def test_resolving_in_a_child_gives_the_same_copy(registry: Versions, tmp_path: Path) -> None:
    """A process of its own gives the same copy, also the second time, when there is nothing to fetch."""
    settings = registry.settings(tmp_path, "models:/tiny/Production")
    assert resolve_in_child(environ_of(settings)) == resolve(settings)


def test_error_of_the_child_is_raised_unchanged(registry: Versions, tmp_path: Path) -> None:
    """The child's error arrives as it was raised there."""
    with pytest.raises(ModelError, match=r"^MODEL_URI='/no/such': .*no file MLmodel"):
        resolve_in_child(environ_of(registry.settings(tmp_path, "/no/such")))


def test_child_without_an_answer(registry: Versions, tmp_path: Path) -> None:
    """A child that dies is an error of one line with its status."""
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)")
    environ = environ_of(registry.settings(tmp_path, "models:/tiny/1"), PYTHONPATH=str(tmp_path))
    with pytest.raises(ModelError, match="the resolver ended with status 9 and no answer"):
        resolve_in_child(environ)


@pytest.mark.parametrize("uri", ["models:/tiny@champion", "runs:/00000000000000000000000000000000/model"])
def test_refused_registry_connection_fails_in_seconds(registry: Versions, tmp_path: Path, uri: str) -> None:
    """A registry that refuses connections is one line, without its password, in seconds."""
    with refusing_port() as port:
        settings = replace(registry.settings(tmp_path, uri), tracking_uri=f"http://user:hunter2@127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(RegistryError) as caught:
            resolve_in_child(environ_of(settings))
        assert time.monotonic() - started < 30  # MLflow's own patience is some minutes
    assert "did not answer" in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("password", ["hunter2", "hunter2" * 100, "hunter2@home"])
def test_password_of_a_database(registry: Versions, tmp_path: Path, password: str) -> None:
    """An address that MLflow cannot use at all is shown without its password, too, however long that is."""
    uri = f"nosuch+db://me:{password}@host/db"
    settings = replace(registry.settings(tmp_path, "models:/tiny/1"), tracking_uri=uri)
    with pytest.raises(StartError) as caught:
        resolve(settings)
    assert "nosuch+db://me:***@host/db" in str(caught.value)
    assert "hunter" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replicas_at_the_same_time(registry: Versions, tmp_path: Path) -> None:
    """Two replicas that resolve at once end with one good copy, and nothing half fetched beside it."""
    settings = registry.settings(tmp_path, "models:/tiny@champion")
    command = [sys.executable, "-m", "server.model_store.resolve"]
    environ = environ_of(settings)
    both = [subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(child.communicate(timeout=60)[0])["copy"] for child in both]
    digest = registry.digests["2"]
    assert [Copy.from_json(answer).digest for answer in answers] == [digest, digest]
    assert {path.name for path in settings.models_dir.iterdir()} == {".lock", digest}
    assert Copies(settings.models_dir).holds(digest)


def test_mlflow_stays_outside(registry: Versions, tmp_path: Path) -> None:
    """Neither the server's modules nor a model from a folder bring MLflow into memory."""
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
    """A path means itself, a file:// URI what its escapes mean, and everything else no folder of this host."""
    assert local_folder(uri) == (None if folder is None else Path(folder))


def test_folder_with_a_blank(tmp_path: Path) -> None:
    """A model is served from a folder whose name a URI has to escape."""
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    assert "%20" in folder.as_uri()
    settings = Settings.from_env({"VAR_DIR": str(tmp_path / "var"), "MODEL_URI": folder.as_uri()})
    assert resolve(settings).model_folder == folder


@dataclass(frozen=True)
class Volume:
    """What a replica without a registry sees: copies, and a record of which is current."""

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
        """Each file and folder, with when it was last written and how long it is."""
        paths = [self.folder, *self.folder.rglob("*")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    copies = Copies(tmp_path / "volume" / "models")
    with copies.aside() as aside:
        (aside / "model").mkdir()
        (aside / "model" / "MLmodel").write_text("flavors: {}\n")
        digest = folder_digest(aside / "model")
        copies.add(aside / "model", digest)
    copy = Copy(copies.path(digest), NAME, "7", "models:/tiny@champion", digest, stale="it was down", needs=99)
    copies.make_current(copy)
    return Volume(tmp_path / "volume", copy)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_record_path_resolves_to_its_copy(volume: Volume, form: str) -> None:
    """The path of a record leads to the copy that it names, as it was recorded, and nothing is written."""
    before = volume.state
    settings = replace(volume.settings, model_uri=form.format(volume.record))
    assert resolve(settings) == volume.copy
    assert volume.state == before


def test_current_copy_in_child(volume: Volume) -> None:
    """So it does in a process of its own."""
    before = volume.state
    assert resolve_in_child(environ_of(volume.settings)) == volume.copy
    assert volume.state == before


def test_missing_current_copy_creates_no_record(volume: Volume) -> None:
    """Where nobody has made a copy current there is no model, and no record is made."""
    volume.record.unlink()
    before = volume.state
    with pytest.raises(ModelError, match=f"^there is no {volume.record}: nobody has brought a model there yet$"):
        resolve(volume.settings)
    assert volume.state == before


def test_damaged_current_copy_is_refused(volume: Volume) -> None:
    """A current copy that is no longer what it was is refused; it is left for whoever brought it."""
    (volume.copy.model_folder / "MLmodel").write_text("flavors: []\n")
    before = volume.state
    with pytest.raises(ModelError, match=f"{volume.copy.model_folder} is missing or damaged$"):
        resolve(volume.settings)
    assert volume.state == before


def test_invalid_current_record_is_one_line(volume: Volume) -> None:
    """A record that is no JSON is an error of one line, also out of the child."""
    volume.record.write_text("not json\n")
    before = volume.state
    with pytest.raises(ModelError, match=f"^{volume.record} is no record of a model's copy$"):
        resolve_in_child(environ_of(volume.settings))
    assert volume.state == before


def test_unchanged_registry_is_not_asked(registry: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose file is what it was gives its last answer without MLflow; a moved alias is noticed."""
    settings = registry.settings(tmp_path, "models:/tiny@moving")
    client = mlflow.MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.set_registered_model_alias(NAME, "moving", "1")
    first = resolve(settings)
    asked: list[str] = []
    monkeypatch.setattr("server.model_store.resolve._find", lambda uri, _tracking_uri: asked.append(uri))
    assert resolve(settings) == first
    assert asked == []
    monkeypatch.undo()
    client.set_registered_model_alias(NAME, "moving", "2")
    assert resolve(settings).version == "2"


@pytest.mark.parametrize("where", ["runs", "registry"])
def test_registry_that_cannot_tell_is_asked(
    registry: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A run's files change without the registry's, and another registry has its own: both are asked each time."""
    settings = registry.settings(tmp_path, f"runs:/{registry.run_of['1']}/model")
    if where == "registry":
        settings = replace(registry.settings(tmp_path, "models:/tiny/1"), registry_uri="sqlite:///other.db")
    assert resolve(settings).stamp is None
    asked: list[str] = []

    def ask(uri: str, tracking_uri: str) -> object:
        asked.append(uri)
        return find(uri, tracking_uri)

    find = resolve_module._find
    monkeypatch.setattr(resolve_module, "_find", ask)
    resolve(settings)
    assert asked == [settings.model_uri]
