"""What moving to another version asks of registry and copies: the program's three steps on a real registry."""

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
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    import mlflow

    from deploy.models import candidate
    from deploy.models.registry.pointer import Place, Pointer
    from deploy.models.weigh import Weight

pytestmark = IGNORE_MLFLOW_WARNINGS
M = 1 << 20
NAMES = (f"hills{number}" for number in itertools.count(1))
OTHER_COLUMNS = {"inputs": '[{"type": "double", "name": "y", "required": true}]'}
EXAMPLE = {"type": "dataframe", "artifact_path": "example.json", "pandas_orient": "split"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with new_registry(tmp_path_factory.mktemp("registry")) as one:
        yield one


@dataclass(frozen=True)
class Hills:
    """A registered model of a test's own, whose version 1 is the champion and answers, and the copies beside it."""

    registry: Registry
    name: str
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
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

    def version(self, spoil: Callable[[Path], object] | None = None, digest: str | None = None, **changes: Any) -> str:
        """Register one more version; ``spoil`` does something to its folder first."""
        folder = write_model(self.folder / f"m{len(list(self.folder.iterdir()))}", metadata=changes.pop("metadata", {}),
                             **changes)  # fmt: skip
        if spoil is not None:
            spoil(folder)
        return self.registry.register(self.name, folder, digest)[0]

    def served(self) -> Copy:
        """What a replica that starts now would serve."""
        return resolve(self.settings)

    def check(self, version: str | None, *, force: bool = False) -> dict[str, Any]:
        return check(ModelOptions.read(self.environ), version, served=self.served().digest, force=force)

    def refused_version(self, version: str | None, *, force: bool = False) -> str:
        """Return why a version may not be promoted."""
        return refusal(lambda: self.check(version, force=force), (CommandError, StartError))

    def state(self) -> tuple[object, ...]:
        """All that a promotion may change."""
        current = self.models / "current.json"
        served = replace(self.served(), stamp=None)  # the registry's file changes with each look at it
        return self.pointer.place(), served, current.read_bytes() if current.exists() else None


@pytest.fixture
def hills(registry: Registry, tmp_path: Path) -> Hills:
    one = Hills(registry, next(NAMES), tmp_path)
    one.version()
    one.pointer.move("1")
    one.served()
    return one


@pytest.fixture
def unweighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds that weighing takes where it tells nothing."""
    monkeypatch.setattr(candidate, "weigh", lambda _copy, _environ: Weight(7 * M, 5 * M, 2 * M))


@pytest.fixture
def two(hills: Hills) -> Hills:
    """The same with a version 2 that differs in its files alone."""
    assert hills.version(metadata={"trained_on": "file: rows.csv"}) == "2"
    return hills


def cannot_predict(folder: Path) -> None:
    """Let a folder have a model of two columns, where its signature has one, and an example."""
    tree = DecisionTreeClassifier().fit([[0.0, 0.0], [1.0, 1.0]], ["low", "high"])
    (folder / "model.pkl").write_bytes(pickle.dumps(tree))
    (folder / "example.json").write_text(json.dumps({"columns": ["x"], "data": [[1.0]]}))


def corrupt(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"no pickle")


def test_accepted_candidate_is_copied_and_measured(two: Hills) -> None:
    """A version that may take over is a copy on this host, which was weighed; nothing leads to it yet."""
    before = two.state()
    found = two.check("2")
    copy = Copy.from_json(found["copy"])
    digest = copy.digest
    assert found["pointer"] == f"{two.name}@champion"
    assert (copy.name, copy.version, copy.model_folder) == (two.name, "2", two.models / digest / "model")
    assert Copies(two.models).holds(digest)
    assert digest != two.served().digest
    weight = found["weight"]
    assert weight["needs"] == copy.needs
    assert weight["needs"] > 20 * M
    assert weight["fault"] is None
    assert json.loads(json.dumps(found)) == found
    assert two.state() == before
    assert before[0] == Place("1", None)


@pytest.mark.usefixtures("unweighed")
def test_check_of_what_is_served(two: Hills) -> None:
    """The version that is served may be promoted again."""
    assert two.check("1")["copy"]["version"] == "1"


@pytest.mark.usefixtures("unweighed")
def test_default_candidate_is_the_previous_version(two: Hills) -> None:
    """Without a number, it is the version that the alias led to before."""
    two.pointer.move("2")
    assert two.check(None)["copy"]["version"] == "1"


def test_unknown_version_error_lists_existing_versions(two: Hills) -> None:
    """A version that there is not is named with those that there are."""
    for asked in ("7", "0", "two", "-1", "latest", "1 ", "01"):
        assert two.refused_version(asked) == f"VERSION={asked!r}: {two.name} has the versions 1, 2"


def test_missing_previous_version_is_refused_with_hint(two: Hills) -> None:
    """Where the alias has led to nothing else, going back is refused with what can be done."""
    told = two.refused_version(None)
    assert told == f"{two.name}@champion has led to no other version; {two.name} has the versions 1, 2"


def test_deleted_previous_version_error_lists_versions(two: Hills) -> None:
    """Going back to a version that somebody has deleted meanwhile says so, and names those that there are."""
    two.pointer.move("2")
    mlflow.MlflowClient().delete_model_version(two.name, "1")
    assert two.refused_version(None) == "the version before, 1, was deleted: make promote VERSION=2"


def test_fixed_version_uri_cannot_be_promoted(two: Hills) -> None:
    """A stack that serves one version for ever is told so."""
    with pytest.raises(CommandError, match="names no alias that could be moved"):
        check(ModelOptions.read(two.environ | {"MODEL_URI": f"models:/{two.name}/1"}), "2", served=None, force=False)


def test_unregistered_model_is_refused_naming_registry(two: Hills) -> None:
    """An alias of a model that the registry does not have is one line with the registry."""
    with pytest.raises(StartError, match=r"^the registry at sqlite://.*: Registered Model with name=nobody not found"):
        check(ModelOptions.read(two.environ | {"MODEL_URI": "models:/nobody@champion"}), None, served=None, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_wrong_digest_is_refused_even_when_forced(hills: Hills, force: bool) -> None:
    """Files of another digest than the version's are refused, whatever is forced."""
    version = hills.version(digest="0" * 64)
    told = hills.refused_version(version, force=force)
    assert told.startswith("version 2 may not be promoted: MODEL_URI=")
    assert "the model's files are not what was registered: digest " in told
    assert told.endswith(", expected 000000000000")


def test_unloadable_model_is_refused_even_when_forced(hills: Hills) -> None:
    """A model that does not load is refused, whatever is forced."""
    told = hills.refused_version(hills.version(corrupt), force=True)
    assert told.startswith("version 2 may not be promoted: the model cannot be served: ")
    assert "the model's file model.pkl does not load" in told


def test_version_with_lost_files_is_refused(registry: Registry, two: Hills) -> None:
    """A version whose files are lost is refused, and is not stood in for by another."""
    run = mlflow.MlflowClient().get_model_version(two.name, "2").run_id
    artifacts = registry.artifacts_of(run)
    artifacts.rename(artifacts.with_name("lost"))
    assert two.refused_version("2").startswith("version 2 may not be promoted: ")


@pytest.mark.usefixtures("unweighed")
def test_changed_columns_are_refused_unless_forced(hills: Hills) -> None:
    """Other columns than those that clients send are refused with their names, unless that is what is wanted."""
    version = hills.version(signature=OTHER_COLUMNS)
    assert hills.refused_version(version) == (
        "version 2 may not be promoted: it has another signature: it has no column x; it has the new column y; "
        "FORCE=1 lets it pass"
    )
    assert hills.check(version, force=True)["copy"]["version"] == version


@pytest.mark.usefixtures("unweighed")
def test_other_columns_where_nothing_answers(hills: Hills) -> None:
    """Where no replica runs, or its copy is gone, there is nothing to compare with."""
    version = hills.version(signature=OTHER_COLUMNS)
    for served in (None, "f" * 64):
        assert (
            check(ModelOptions.read(hills.environ), version, served=served, force=False)["copy"]["version"] == version
        )


def test_model_without_a_signature(hills: Hills) -> None:
    """No replica could serve a model without columns: that is refused, whatever is forced."""
    version = hills.version(signature=None)
    for force in (False, True):
        assert hills.refused_version(version, force=force).startswith("version 2 may not be promoted: ")


def test_failing_example_is_refused_unless_forced(hills: Hills) -> None:
    """A model that raises on its own example is refused with what it raised, unless that is what is wanted."""
    version = hills.version(cannot_predict, saved_input_example_info=EXAMPLE)
    told = hills.refused_version(version)
    assert told.startswith("version 2 may not be promoted: it does not predict its own example: ValueError: ")
    assert "features" in told
    assert "features" in hills.check(version, force=True)["weight"]["fault"]


@pytest.mark.parametrize("force", [False, True])
def test_version_with_failed_check_is_refused_before_download(two: Hills, force: bool) -> None:
    """A version that the trainer itself found wanting is refused with its words, before anything is fetched."""
    mlflow.MlflowClient().set_model_version_tag(two.name, "2", "check", "failed: 3 of 100 rows differ")
    assert two.refused_version("2", force=force) == (
        "version 2 may not be promoted: its check when it was trained failed: 3 of 100 rows differ"
    )
    assert [path.name for path in two.models.iterdir() if path.is_dir()] == [two.served().digest]


@pytest.mark.usefixtures("unweighed")
def test_version_with_passed_check_is_accepted(two: Hills) -> None:
    """A check that was passed stands in nothing's way."""
    mlflow.MlflowClient().set_model_version_tag(two.name, "2", "check", "passed")
    assert two.check("2")["copy"]["version"] == "2"


@pytest.mark.parametrize("force", [False, True])
def test_damaged_companion_is_refused(hills: Hills, force: bool) -> None:
    """A compiled form that a replica would leave aside, with a line in its log, is refused here."""
    flavors = {
        "sklearn": {"pickled_model": "model.pkl", "serialization_format": "pickle"},
        "forkcast_forest": {"data": "forest", "layout": 1, "check": {"passed": True}, "digest": "0" * 64},
    }
    told = hills.refused_version(hills.version(flavors=flavors), force=force)
    assert told == (
        "version 2 may not be promoted: the model's companion for the engine forest is missing or damaged; "
        "`make compile` makes a new one"
    )


@pytest.mark.usefixtures("unweighed")
def test_missing_registry_is_refused_despite_a_copy(two: Hills) -> None:
    """Without a registry nobody knows the versions: also one whose copy is here is refused, and no database is made."""
    two.check("2")
    served = two.served().digest
    with moved_away(two.registry) as database:
        with pytest.raises(StartError, match=f"^the registry's database {database} is not there$"):
            check(ModelOptions.read(two.environ), "2", served=served, force=False)
        assert not database.exists()


@pytest.mark.usefixtures("unweighed")
@pytest.mark.parametrize("force", [False, True])
def test_stale_copy_is_no_candidate(two: Hills, force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last good copy that stands in for a registry that went meanwhile may not take over, whatever is forced."""
    two.check("2")

    def resolve_without_registry(settings: Settings) -> Copy:
        with moved_away(two.registry):
            copy = resolve(settings)
        assert copy.stale is not None
        return copy

    monkeypatch.setattr(candidate, "resolve", resolve_without_registry)
    with pytest.raises(RegistryError, match=r"^the registry's database .* is not there$"):
        candidate.examine(two.pointer, "2", ModelOptions.read(two.environ), served=None, force=force)


@pytest.mark.usefixtures("unweighed")
def test_accept_moves_alias_and_record(two: Hills) -> None:
    """Then the alias, and the record of its copy, lead to the version; current.json only where it is asked for."""
    found = two.check("2")
    served = two.served()
    before = accept(ModelOptions.read(two.environ), found, current=False)
    assert before == {"place": {"version": "1", "before": None}, "copy": served.to_json(), "current": False}
    assert two.pointer.place() == Place("2", "1")
    assert two.served().version == "2"
    with moved_away(two.registry):
        copy = two.served()
    assert (copy.version, copy.uri) == ("2", two.environ["MODEL_URI"])
    assert copy.stale is not None
    assert not (two.models / "current.json").exists()


@pytest.mark.usefixtures("unweighed")
def test_accept_writes_the_copy_for_containers(two: Hills) -> None:
    """Replicas without a registry find it, under the URI that they were started with, and what it needs."""
    Copies(two.models).make_current(two.served())
    found = two.check("2")
    accept(ModelOptions.read(two.environ), found, current=True)
    current = Copy.recorded(two.models / "current.json")
    assert (current.version, current.uri, current.digest) == ("2", two.environ["MODEL_URI"], found["copy"]["digest"])
    assert current.needs == found["weight"]["needs"]


@pytest.mark.usefixtures("unweighed")
@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_interrupted_accept_restores_the_alias(
    two: Hills, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, or nothing: where the copy cannot be recorded, or Ctrl-C comes first, the alias goes back."""
    found, before = two.check("2"), two.pointer.place()
    record, moved = Copies.record, []

    def fail_for_the_second(copies: Copies, copy: Copy, tracking_uri: str) -> None:
        if copy.version == "2":
            moved.append(two.pointer.place())
            raise error
        record(copies, copy, tracking_uri)

    monkeypatch.setattr(Copies, "record", fail_for_the_second)
    with pytest.raises(type(error)):
        accept(ModelOptions.read(two.environ), found, current=True)
    assert moved == [Place("2", "1")]
    assert two.pointer.place() == before
    assert not (two.models / "current.json").exists()


@pytest.mark.usefixtures("unweighed")
def test_accept_without_a_registry(two: Hills) -> None:
    """A registry that went meanwhile is told in one line, and nothing has changed."""
    Copies(two.models).make_current(two.served())
    found, before = two.check("2"), two.state()
    with moved_away(two.registry) as database:
        with pytest.raises(StartError, match=f"^the registry's database {database} is not there$"):
            accept(ModelOptions.read(two.environ), found, current=True)
        assert not database.exists()
    assert two.state() == before


@pytest.mark.usefixtures("unweighed")
@pytest.mark.parametrize("current", [False, True])
def test_undo_restores_alias_record_and_current_copy(two: Hills, current: bool) -> None:
    """All that was accepted is taken back: the alias with its memory, the record, and current.json."""
    Copies(two.models).make_current(two.served())
    before = two.state()
    answer = accept(ModelOptions.read(two.environ), json.loads(json.dumps(two.check("2"))), current=current)
    assert two.state() != before
    assert undo(ModelOptions.read(two.environ), json.loads(json.dumps(answer))) == {}
    assert two.state() == before


@pytest.mark.usefixtures("unweighed")
def test_undo_of_a_rollback(two: Hills) -> None:
    """Where going back was taken back, going back is possible again."""
    two.pointer.move("2")
    before = two.state()
    undo(ModelOptions.read(two.environ), accept(ModelOptions.read(two.environ), two.check(None), current=False))
    assert two.state() == before
    assert before[0] == Place("2", "1")


@pytest.mark.usefixtures("unweighed")
def test_undo_without_a_registry(two: Hills) -> None:
    """Without the registry the copies are taken back all the same: a replica that starts then serves the one before."""
    Copies(two.models).make_current(two.served())
    before = (two.models / "current.json").read_bytes()
    answer = accept(ModelOptions.read(two.environ), two.check("2"), current=True)
    with moved_away(two.registry) as database:
        with pytest.raises(StartError, match=f"^the registry's database {database} is not there$"):
            undo(ModelOptions.read(two.environ), answer)
        assert not database.exists()
        assert two.served().version == "1"
    assert (two.models / "current.json").read_bytes() == before
    assert two.pointer.place() == Place("2", "1")


@pytest.mark.usefixtures("unweighed")
def test_undo_where_nothing_was(two: Hills) -> None:
    """An alias that led nowhere leads nowhere again."""
    environ = two.environ | {"MODEL_URI": f"models:/{two.name}@challenger"}
    answer = accept(
        ModelOptions.read(environ), check(ModelOptions.read(environ), "2", served=None, force=False), current=False
    )
    assert answer["copy"] is None
    assert Pointer(two.name, "challenger").place() == Place("2", None)
    undo(ModelOptions.read(environ), answer)
    assert Pointer(two.name, "challenger").place() == Place(None, None)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(two: Hills, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program with these arguments and this standard input: its status and what it printed."""
    for name, value in two.environ.items():
        monkeypatch.setenv(name, value)

    def one(*arguments: str, document: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["promote", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(document))
        status = main()
        return status, *capsys.readouterr()

    return one


def test_each_step_prints_json_for_the_next(two: Hills, run: Run) -> None:
    """Each step prints one JSON document that the next one reads, and nothing else."""
    Copies(two.models).make_current(two.served())
    before = two.state()
    served = two.served().digest
    printed = ""
    for arguments in (["check", "2", "--served", served], ["accept", "--current"], ["undo"]):
        status, printed, errors = run(*arguments, document=printed)
        assert (status, errors) == (0, "")
        assert printed.count("\n") == 1
    assert json.loads(printed) == {}
    assert two.state() == before


@pytest.mark.usefixtures("unweighed")
def test_program_goes_back(two: Hills, run: Run) -> None:
    """`--before` asks for the version before, and `--force` lets another signature pass."""
    odd = two.version(signature=OTHER_COLUMNS)
    two.pointer.move(odd)
    two.pointer.move("2")
    served = two.served().digest
    status, printed, errors = run("check", "--before", "--served", served)
    assert (status, printed) == (1, "")
    assert errors == (
        "error: version 3 may not be promoted: it has another signature: it has no column x; it has the new column y; "
        "FORCE=1 lets it pass\n"
    )
    status, printed, _ = run("check", "--before", "--served", served, "--force")
    assert (status, json.loads(printed)["copy"]["version"]) == (0, odd)


def test_program_without_a_registry(two: Hills) -> None:
    """A process that has not seen the database before makes no empty one in its place."""
    command = [sys.executable, "-m", "deploy.models.promote", "check", "2"]
    with moved_away(two.registry) as database:
        ran = subprocess.run(command, cwd=ROOT, env=two.environ, capture_output=True, text=True, check=False)
        assert not database.exists()
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: the registry's database {database} is not there\n"


def test_refused_database_connection_fails_immediately(two: Hills) -> None:
    """A database that refuses connections is told at once, and not after MLflow's ten tries."""
    uri = "mysql+pymysql://user:hunter2@127.0.0.1:1/mlflow"
    with pytest.raises(StartError, match=r"^the registry at mysql\+pymysql://127\.0\.0\.1:1/mlflow: .*refused"):
        check(ModelOptions.read(two.environ | {"MLFLOW_TRACKING_URI": uri}), "2", served=None, force=False)


def test_unwritable_copy_folder_exits_with_status_1(two: Hills, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place where no copy can be kept is one line and status 1."""
    monkeypatch.setenv("VAR_DIR", str(two.folder / "file"))
    (two.folder / "file").touch()
    status, printed, errors = run("check", "2")
    assert (status, printed) == (1, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["check"], ["check", "2", "--before"], ["accept", "2"], ["promote"]])
def test_invalid_step_is_a_usage_error(run: Run, arguments: list[str]) -> None:
    """What is no step, or no version, is a usage error."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
