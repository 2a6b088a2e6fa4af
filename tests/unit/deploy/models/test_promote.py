"""Tests of the steps check, accept and undo of ``deploy.models.promote``, on a real registry with tiny models."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.tree import DecisionTreeClassifier

from deploy.errors import CommandError
from deploy.models.promote import accept, check, main, undo
from deploy.options import ModelOptions
from server.errors import RegistryError, StartError
from server.model_store.copies import Copies, Copy
from server.model_store.resolve import resolve
from server.settings import ROOT, Settings
from tests.support.models.registries import IGNORE_MLFLOW_WARNINGS, Registry, moved_away, new_registry
from tests.support.models.tree_folder import write_model
from tests.support.refusals import refusal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow

    from deploy.models import candidate
    from deploy.models.registry.pointer import Pointer, PointerState
    from deploy.models.signature_difference import describe_other_columns
    from deploy.models.weigh import Measurement

pytestmark = IGNORE_MLFLOW_WARNINGS
M = 1 << 20
NAMES = (f"hills{number}" for number in itertools.count(1))
OTHER_COLUMNS = {"inputs": '[{"type": "double", "name": "y", "required": true}]'}
EXAMPLE = {"type": "dataframe", "artifact_path": "example.json", "pandas_orient": "split"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with new_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@dataclass(frozen=True)
class Hills:
    """A registered model of one test, whose version 1 is the champion and is served, and the copies on this host."""

    registry: Registry
    name: str
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **inherited,
            "VAR_DIR": str(self.folder / "var"),
            "MLFLOW_TRACKING_URI": self.registry.tracking_uri,
            "MODEL_URI": f"models:/{self.name}@champion",
        }

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.environ)

    @property
    def models(self) -> Path:
        return self.settings.models_dir

    @property
    def pointer(self) -> Pointer:
        return Pointer(self.name, "champion")

    def register(self, spoil: Callable[[Path], object] | None = None, digest: str | None = None, **changes: Any) -> str:
        """Register another version, after ``spoil`` has damaged its folder, and return its number."""
        folder = write_model(self.folder / f"m{len(list(self.folder.iterdir()))}", metadata=changes.pop("metadata", {}),
                             **changes)  # fmt: skip
        if spoil is not None:
            spoil(folder)
        return self.registry.register(self.name, folder, digest)[0]

    def served(self) -> Copy:
        """Return the copy that a replica would serve if it started now."""
        return resolve(self.settings)

    def check(self, version: str | None, *, force: bool = False) -> dict[str, Any]:
        return check(ModelOptions.read(self.environ), version, served=self.served().digest, force=force)

    def refused_version(self, version: str | None, *, force: bool = False) -> str:
        """Return the message with which a version is refused."""
        return refusal(lambda: self.check(version, force=force), (CommandError, StartError))

    def state(self) -> tuple[object, ...]:
        """Return everything that a promotion may change."""
        current = self.models / "current.json"
        served = replace(self.served(), stamp=None)  # reading the registry changes the time stamp of its file
        return self.pointer.state(), served, current.read_bytes() if current.exists() else None


@pytest.fixture
def hills(registry: Registry, tmp_path: Path) -> Hills:
    hills = Hills(registry, next(NAMES), tmp_path)
    hills.register()
    hills.pointer.move("1")
    hills.served()
    return hills


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the measurement of memory, which takes seconds, by a constant."""
    monkeypatch.setattr(candidate, "measure", lambda _copy, _environ: Measurement(7 * M, 5 * M, 2 * M))


@pytest.fixture
def two(hills: Hills) -> Hills:
    """The model with a version 2 whose files differ and whose signature does not."""
    assert hills.register(metadata={"trained_on": "file: rows.csv"}) == "2"
    return hills


def cannot_predict(folder: Path) -> None:
    """Give the folder a model of two columns, although its signature and its example have one."""
    tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 1.0]], ["low", "high"])
    (folder / "model.pkl").write_bytes(pickle.dumps(tree))
    (folder / "example.json").write_text(json.dumps({"columns": ["x"], "data": [[1.0]]}))


def corrupt(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"no pickle")


def test_check_copies_and_measures_the_candidate(two: Hills) -> None:
    """A version that passes the check is copied to this host and measured, and the alias does not change."""
    old_state = two.state()
    checked = two.check("2")
    copy = Copy.from_json(checked["copy"])
    digest = copy.digest
    assert checked["pointer"] == f"{two.name}@champion"
    assert (copy.name, copy.version, copy.model_folder) == (two.name, "2", two.models / digest / "model")
    assert Copies(two.models).holds(digest)
    assert digest != two.served().digest
    measurement = checked["weight"]
    assert measurement["needs"] == copy.needs
    assert measurement["needs"] > 20 * M
    assert json.loads(json.dumps(checked)) == checked
    assert two.state() == old_state
    assert old_state[0] == PointerState("1", None)


@pytest.mark.usefixtures("unmeasured")
def test_check_accepts_the_served_version(two: Hills) -> None:
    """The version that is already served passes the check."""
    assert two.check("1")["copy"]["version"] == "1"


@pytest.mark.usefixtures("unmeasured")
def test_default_candidate_is_the_previous_version(two: Hills) -> None:
    """Without a version number, the candidate is the version that the alias named previously."""
    two.pointer.move("2")
    assert two.check(None)["copy"]["version"] == "1"


def test_unknown_version_error_lists_existing_versions(two: Hills) -> None:
    """A version that does not exist is refused with a list of the versions that do."""
    for version in ("7", "0", "two", "-1", "latest", "1 ", "01"):
        assert two.refused_version(version) == f"VERSION={version!r}: expected a version of {two.name}: 1, 2"


def test_missing_previous_version_is_refused_with_hint(two: Hills) -> None:
    """A rollback of an alias that was never moved is refused with the command that names a version."""
    assert two.refused_version(None) == (
        f"{two.name}@champion has no previous version to go back to; choose one: make promote VERSION=1 or 2"
    )


def test_deleted_previous_version_error_lists_versions(two: Hills) -> None:
    """A rollback to a version that was deleted is refused with the versions that still exist."""
    two.pointer.move("2")
    mlflow.MlflowClient().delete_model_version(two.name, "1")
    assert two.refused_version(None) == "the previous version 1 was deleted; choose another: make promote VERSION=2"


def test_fixed_version_uri_cannot_be_promoted(two: Hills) -> None:
    """A stack whose MODEL_URI names a fixed version has no alias to move."""
    with pytest.raises(CommandError, match="names no alias that could be moved"):
        check(ModelOptions.read(two.environ | {"MODEL_URI": f"models:/{two.name}/1"}), "2", served=None, force=False)


def test_unregistered_model_is_refused_naming_registry(two: Hills) -> None:
    """The error for an alias of an unknown model is one line that names the registry."""
    with pytest.raises(StartError, match=r"^the registry at sqlite://.*: Registered Model with name=nobody not found"):
        check(ModelOptions.read(two.environ | {"MODEL_URI": "models:/nobody@champion"}), None, served=None, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_wrong_digest_is_refused_even_when_forced(hills: Hills, force: bool) -> None:
    """A version whose files do not have the registered digest is refused, even with force."""
    version = hills.register(digest="0" * 64)
    message = hills.refused_version(version, force=force)
    assert message.startswith("version 2 may not be promoted: MODEL_URI=")
    assert "the model's files differ from those registered: expected digest 000000000000, got " in message


def test_unloadable_model_is_refused_even_when_forced(hills: Hills) -> None:
    """A model that does not load is refused, even with force."""
    message = hills.refused_version(hills.register(corrupt), force=True)
    assert message.startswith("version 2 may not be promoted: the model cannot be served: ")
    assert "the model's file model.pkl does not load" in message


def test_version_with_lost_files_is_refused(registry: Registry, two: Hills) -> None:
    """A version whose files are lost is refused, although another version has a copy on this host."""
    run = mlflow.MlflowClient().get_model_version(two.name, "2").run_id
    artifacts = registry.artifacts_of(run)
    artifacts.rename(artifacts.with_name("lost"))
    assert two.refused_version("2").startswith("version 2 may not be promoted: ")


@pytest.mark.usefixtures("unmeasured")
def test_changed_columns_are_refused_unless_forced(hills: Hills) -> None:
    """A version with other columns than the served model is refused with their names, unless forced."""
    version = hills.register(signature=OTHER_COLUMNS)
    assert hills.refused_version(version) == (
        "version 2 may not be promoted: its signature differs from the served model's: column x is missing; "
        "column y is new; FORCE=1 accepts it"
    )
    assert hills.check(version, force=True)["copy"]["version"] == version


@pytest.mark.usefixtures("unmeasured")
def test_changed_columns_are_accepted_if_no_model_is_served(hills: Hills) -> None:
    """A version with other columns passes if no replica runs, or the copy of its model is gone."""
    version = hills.register(signature=OTHER_COLUMNS)
    for served in (None, "f" * 64):
        assert (
            check(ModelOptions.read(hills.environ), version, served=served, force=False)["copy"]["version"] == version
        )


def test_model_without_a_signature_is_promoted_only_with_force(hills: Hills) -> None:
    """After a model with a signature, one without is refused, because clients may depend on it; force accepts it."""
    version = hills.register(signature=None)
    assert "the new model has no signature; FORCE=1 accepts it" in hills.refused_version(version)
    assert hills.check(version, force=True)["weight"]["columns"] == ["x0"]


def test_models_without_signatures_are_compared_by_their_columns(hills: Hills) -> None:
    """Two models without a signature differ if the loaded models take other columns."""
    unsigned = hills.register(signature=None)
    hills.pointer.move(unsigned)
    assert hills.check(hills.register(signature=None))
    assert describe_other_columns(["x0"], ["x0"]) is None
    assert describe_other_columns(["x0"], ["x0", "x1"]) == "column x1 is new"
    assert describe_other_columns(["a", "b"], ["b", "a"]) == "its columns are in a different order"


@pytest.mark.parametrize("force", [False, True])
def test_failing_example_is_refused_even_when_forced(hills: Hills, force: bool) -> None:
    """A model that cannot predict its example is refused with its error, because no replica would serve it."""
    version = hills.register(cannot_predict, saved_input_example_info=EXAMPLE)
    assert hills.refused_version(version, force=force).startswith(
        "version 2 may not be promoted: the model cannot be served: the model cannot predict its example: ValueError: "
    )


@pytest.mark.parametrize("force", [False, True])
def test_version_with_failed_check_is_refused_before_download(two: Hills, force: bool) -> None:
    """A version that failed the check after its training is refused with the reason, without a download."""
    mlflow.MlflowClient().set_model_version_tag(two.name, "2", "check", "failed: 3 of 100 rows differ")
    assert two.refused_version("2", force=force) == (
        "version 2 may not be promoted: the check after its training failed: 3 of 100 rows differ"
    )
    assert [path.name for path in two.models.iterdir() if path.is_dir()] == [two.served().digest]


@pytest.mark.usefixtures("unmeasured")
def test_version_with_passed_check_is_accepted(two: Hills) -> None:
    """A version that passed the check after its training passes this check too."""
    mlflow.MlflowClient().set_model_version_tag(two.name, "2", "check", "passed")
    assert two.check("2")["copy"]["version"] == "2"


@pytest.mark.parametrize("force", [False, True])
def test_damaged_companion_is_refused(hills: Hills, force: bool) -> None:
    """A damaged companion is refused, although a replica would only log a warning and serve without it."""
    flavors = {
        "sklearn": {"pickled_model": "model.pkl", "serialization_format": "pickle"},
        "forkcast_forest": {"data": "forest", "layout": 1, "check": {"passed": True}, "digest": "0" * 64},
    }
    assert hills.refused_version(hills.register(flavors=flavors), force=force) == (
        "version 2 may not be promoted: the model's companion for the engine forest is missing or damaged; "
        "`make compile` makes a new one"
    )


@pytest.mark.usefixtures("unmeasured")
def test_missing_registry_is_refused_despite_a_copy(two: Hills) -> None:
    """If the registry is missing, even a version with a copy on this host is refused, and no database is created."""
    two.check("2")
    served = two.served().digest
    with moved_away(two.registry) as database:
        with pytest.raises(StartError, match=f"^the registry's database {database} does not exist$"):
            check(ModelOptions.read(two.environ), "2", served=served, force=False)
        assert not database.exists()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("force", [False, True])
def test_stale_copy_is_refused_even_when_forced(two: Hills, force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good copy, used because the registry went down during the check, is refused even with force."""
    two.check("2")

    def resolve_without_registry(settings: Settings) -> Copy:
        with moved_away(two.registry):
            copy = resolve(settings)
        assert copy.stale is not None
        return copy

    monkeypatch.setattr(candidate, "resolve", resolve_without_registry)
    with pytest.raises(RegistryError, match=r"^the registry's database .* does not exist$"):
        candidate.examine(two.pointer, "2", ModelOptions.read(two.environ), served=None, force=force)


@pytest.mark.usefixtures("unmeasured")
def test_accept_moves_alias_and_record(two: Hills) -> None:
    """Accepting moves the alias and the record of the copy, and writes no current.json unless requested."""
    checked = two.check("2")
    served = two.served()
    previous = accept(ModelOptions.read(two.environ), checked, current=False)
    assert previous == {"pointer": {"version": "1", "previous": None}, "copy": served.to_json(), "current": False}
    assert two.pointer.state() == PointerState("2", "1")
    assert two.served().version == "2"
    with moved_away(two.registry):
        copy = two.served()
    assert (copy.version, copy.uri) == ("2", two.environ["MODEL_URI"])
    assert copy.stale is not None
    assert not (two.models / "current.json").exists()


@pytest.mark.usefixtures("unmeasured")
def test_accept_with_current_writes_current_json(two: Hills) -> None:
    """With ``current``, current.json names the new copy, the URI that replicas were started with, and its memory."""
    Copies(two.models).make_current(two.served())
    checked = two.check("2")
    accept(ModelOptions.read(two.environ), checked, current=True)
    current = Copy.from_record(two.models / "current.json")
    assert (current.version, current.uri, current.digest) == ("2", two.environ["MODEL_URI"], checked["copy"]["digest"])
    assert current.needs == checked["weight"]["needs"]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_interrupted_accept_restores_the_alias(
    two: Hills, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the copy cannot be recorded, or Ctrl-C is pressed, accept moves the alias back."""
    checked, old_state = two.check("2"), two.pointer.state()
    record, moved = Copies.record, []

    def fail_for_the_second(copies: Copies, copy: Copy, tracking_uri: str) -> None:
        if copy.version == "2":
            moved.append(two.pointer.state())
            raise error
        record(copies, copy, tracking_uri)

    monkeypatch.setattr(Copies, "record", fail_for_the_second)
    with pytest.raises(type(error)):
        accept(ModelOptions.read(two.environ), checked, current=True)
    assert moved == [PointerState("2", "1")]
    assert two.pointer.state() == old_state
    assert not (two.models / "current.json").exists()


@pytest.mark.usefixtures("unmeasured")
def test_accept_without_a_registry_changes_nothing(two: Hills) -> None:
    """If the registry went down after the check, accept raises a one-line error and changes nothing."""
    Copies(two.models).make_current(two.served())
    checked, old_state = two.check("2"), two.state()
    with moved_away(two.registry) as database:
        with pytest.raises(StartError, match=f"^the registry's database {database} does not exist$"):
            accept(ModelOptions.read(two.environ), checked, current=True)
        assert not database.exists()
    assert two.state() == old_state


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("current", [False, True])
def test_undo_restores_alias_record_and_current_copy(two: Hills, current: bool) -> None:
    """Undo restores the alias with its previous version, the record of the copy, and current.json."""
    Copies(two.models).make_current(two.served())
    old_state = two.state()
    accepted = accept(ModelOptions.read(two.environ), json.loads(json.dumps(two.check("2"))), current=current)
    assert two.state() != old_state
    assert undo(ModelOptions.read(two.environ), json.loads(json.dumps(accepted))) == {}
    assert two.state() == old_state


@pytest.mark.usefixtures("unmeasured")
def test_undone_rollback_can_be_repeated(two: Hills) -> None:
    """Undoing a rollback restores the previous version, so that the rollback can be repeated."""
    two.pointer.move("2")
    old_state = two.state()
    undo(ModelOptions.read(two.environ), accept(ModelOptions.read(two.environ), two.check(None), current=False))
    assert two.state() == old_state
    assert old_state[0] == PointerState("2", "1")


@pytest.mark.usefixtures("unmeasured")
def test_undo_without_a_registry_restores_the_copies(two: Hills) -> None:
    """If the registry is down, undo still restores the copies, so that new replicas serve the previous version."""
    Copies(two.models).make_current(two.served())
    old_record = (two.models / "current.json").read_bytes()
    accepted = accept(ModelOptions.read(two.environ), two.check("2"), current=True)
    with moved_away(two.registry) as database:
        with pytest.raises(StartError, match=f"^the registry's database {database} does not exist$"):
            undo(ModelOptions.read(two.environ), accepted)
        assert not database.exists()
        assert two.served().version == "1"
    assert (two.models / "current.json").read_bytes() == old_record
    assert two.pointer.state() == PointerState("2", "1")


@pytest.mark.usefixtures("unmeasured")
def test_undo_removes_an_alias_that_was_not_set(two: Hills) -> None:
    """Undo removes the alias if accept was the first to set it."""
    environ = two.environ | {"MODEL_URI": f"models:/{two.name}@challenger"}
    accepted = accept(
        ModelOptions.read(environ), check(ModelOptions.read(environ), "2", served=None, force=False), current=False
    )
    assert accepted["copy"] is None
    assert Pointer(two.name, "challenger").state() == PointerState("2", None)
    undo(ModelOptions.read(environ), accepted)
    assert Pointer(two.name, "challenger").state() == PointerState(None, None)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(two: Hills, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the program with arguments and a standard input, and returns status, stdout and stderr."""
    for name, value in two.environ.items():
        monkeypatch.setenv(name, value)

    def run_program(*arguments: str, document: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["promote", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(document))
        status = main()
        return status, *capsys.readouterr()

    return run_program


def test_each_step_prints_json_for_the_next(two: Hills, run: Run) -> None:
    """Each step prints one JSON document that the next one reads, and nothing else."""
    Copies(two.models).make_current(two.served())
    old_state = two.state()
    served = two.served().digest
    printed = ""
    for arguments in (["check", "2", "--served", served], ["accept", "--current"], ["undo"]):
        status, printed, errors = run(*arguments, document=printed)
        assert (status, errors) == (0, "")
        assert printed.count("\n") == 1
    assert json.loads(printed) == {}
    assert two.state() == old_state


@pytest.mark.usefixtures("unmeasured")
def test_before_and_force_check_the_previous_version(two: Hills, run: Run) -> None:
    """``--before`` checks the previous version, and ``--force`` accepts its different signature."""
    version = two.register(signature=OTHER_COLUMNS)
    two.pointer.move(version)
    two.pointer.move("2")
    served = two.served().digest
    status, printed, errors = run("check", "--before", "--served", served)
    assert (status, printed) == (1, "")
    assert errors == (
        "error: version 3 may not be promoted: its signature differs from the served model's: column x is missing; "
        "column y is new; FORCE=1 accepts it\n"
    )
    status, printed, _ = run("check", "--before", "--served", served, "--force")
    assert (status, json.loads(printed)["copy"]["version"]) == (0, version)


def test_new_process_creates_no_missing_database(two: Hills) -> None:
    """A new process does not create an empty database if the registry's is missing."""
    command = [sys.executable, "-m", "deploy.models.promote", "check", "2"]
    with moved_away(two.registry) as database:
        completed = subprocess.run(command, cwd=ROOT, env=two.environ, capture_output=True, text=True, check=False)
        assert not database.exists()
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr == f"error: the registry's database {database} does not exist\n"


def test_refused_database_connection_fails_immediately(two: Hills) -> None:
    """A database that refuses connections is reported at once, without MLflow's ten retries."""
    uri = "mysql+pymysql://user:hunter2@127.0.0.1:1/mlflow"
    with pytest.raises(StartError, match=r"^the registry at mysql\+pymysql://127\.0\.0\.1:1/mlflow: .*refused"):
        check(ModelOptions.read(two.environ | {"MLFLOW_TRACKING_URI": uri}), "2", served=None, force=False)


def test_unwritable_copy_folder_exits_with_status_1(two: Hills, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """If VAR_DIR cannot hold a copy, the program prints one line and exits with status 1."""
    monkeypatch.setenv("VAR_DIR", str(two.folder / "file"))
    (two.folder / "file").touch()
    status, printed, errors = run("check", "2")
    assert (status, printed) == (1, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["check"], ["check", "2", "--before"], ["accept", "2"], ["promote"]])
def test_invalid_step_is_a_usage_error(run: Run, arguments: list[str]) -> None:
    """Arguments that name no step, or no version for check, are a usage error (status 2)."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
