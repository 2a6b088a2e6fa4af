"""Tests of moving an alias or a stage to another version, in a real registry."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import pytest

from deploy.errors import CommandError
from tests.support.models.registries import IGNORE_MLFLOW_WARNINGS, Registry, new_registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn, depending on the installed packages
    import mlflow

    from deploy.models.registry.pointer import Pointer, PointerState

pytestmark = IGNORE_MLFLOW_WARNINGS
UNSET = PointerState(None, None)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with new_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def model(registry: Registry) -> str:
    """The name of a registered model of three versions, without aliases or stages."""
    name, client = f"tiny-{next(NUMBERS)}", mlflow.MlflowClient()
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, (registry.folder / "artifacts").as_uri())
    return name


@pytest.fixture(params=["models:/{}@champion", "models:/{}/Production"])
def pointer(model: str, request: pytest.FixtureRequest) -> Pointer:
    """An alias or a stage of the model."""
    return Pointer.parse(request.param.format(model))


@pytest.mark.parametrize(
    ("uri", "pointer", "text"),
    [
        ("models:/covertype@champion", Pointer("covertype", "champion"), "covertype@champion"),
        ("models:/two words@a-b.c", Pointer("two words", "a-b.c"), "two words@a-b.c"),
        ("models:/covertype/Production", Pointer("covertype", "Production", is_stage=True), "covertype/Production"),
        ("models:/covertype/Staging/", Pointer("covertype", "Staging", is_stage=True), "covertype/Staging"),
    ],
)
def test_parse_reads_alias_or_stage_from_uri(uri: str, pointer: Pointer, text: str) -> None:
    """An alias or a stage is parsed from MODEL_URI, and its text is the URI without the scheme."""
    assert Pointer.parse(uri) == pointer
    assert str(pointer) == text


@pytest.mark.parametrize(
    "uri",
    [
        "models:/covertype/7",
        "models:/covertype/latest",
        "models:/covertype",
        "models:/@champion",
        "models:/covertype@",
        "models:/m-0123456789abcdef0123456789abcdef",
        "models:/",
        "runs:/0a/model",
        "runs:/0a/model@champion",
        "s3://bucket/model/Production",
        "/srv/model",
        "/srv/model@home",
        "my/model",
        "file:///srv/model/Production",
    ],
)
def test_parse_rejects_a_uri_without_alias_or_stage(uri: str) -> None:
    """A URI of a version, a run or a folder is rejected with the accepted forms and another way to change the model."""
    with pytest.raises(CommandError) as caught:
        Pointer.parse(uri)
    assert str(caught.value).startswith(f"MODEL_URI={uri!r} names no alias that could be moved; expected models:/")
    assert str(caught.value).endswith("or change the model with: make up MODEL_URI=..")
    assert "\n" not in str(caught.value)


def test_versions_are_sorted_numerically(model: str, registry: Registry) -> None:
    """Versions are sorted as numbers, so that 10 comes after 9."""
    client = mlflow.MlflowClient()
    for _ in range(7):
        client.create_model_version(model, registry.folder.as_uri())
    client.delete_model_version(model, "4")
    assert Pointer(model, "champion").versions() == ["1", "2", "3", "5", "6", "7", "8", "9", "10"]


def test_unset_pointer_names_no_version(pointer: Pointer) -> None:
    """A pointer that was never set names no version and no previous one."""
    assert pointer.state() == UNSET


def test_first_move_remembers_no_version(pointer: Pointer) -> None:
    """After its first move a pointer has no previous version."""
    assert pointer.move("2") == UNSET
    assert pointer.state() == PointerState("2", None)


def test_move_remembers_the_previous_version(pointer: Pointer) -> None:
    """Each move records the version that the pointer named, and returns the state before the move."""
    pointer.move("1")
    assert pointer.move("2") == PointerState("1", None)
    assert pointer.state() == PointerState("2", "1")
    assert pointer.move("3") == PointerState("2", "1")
    assert pointer.state() == PointerState("3", "2")


def test_move_to_the_current_version_keeps_the_previous_one(pointer: Pointer) -> None:
    """A move to the version that the pointer already names changes nothing."""
    pointer.move("1")
    pointer.move("3")
    assert pointer.move("3") == PointerState("3", "1")
    assert pointer.state() == PointerState("3", "1")


def test_move_remembers_the_version_that_replicas_serve(pointer: Pointer) -> None:
    """If replicas serve another version than the pointer names, the served one becomes the previous version."""
    pointer.move("1")
    pointer.move("2")
    assert pointer.move("2", served="1") == PointerState("2", "1")
    pointer.move("3", served="1")
    assert pointer.state() == PointerState("3", "1")
    pointer.move("3", served="2")
    assert pointer.state() == PointerState("3", "2")


def test_previous_version_is_unknown_after_others_moved_the_pointer(pointer: Pointer) -> None:
    """If MLflow's client moved the pointer, the version recorded earlier is not taken for the previous one."""
    pointer.move("1")
    pointer.move("2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated
        if pointer.is_stage:
            mlflow.MlflowClient().transition_model_version_stage(pointer.name, "3", pointer.label)
        else:
            mlflow.MlflowClient().set_registered_model_alias(pointer.name, pointer.label, "3")
    assert pointer.state() == PointerState("3", None)
    pointer.move("3", served="2")
    assert pointer.state() == PointerState("3", "2")


def test_moving_back_twice_returns_to_the_start(pointer: Pointer) -> None:
    """Moving back to the previous version twice restores the first state."""
    pointer.move("1")
    pointer.move("2")
    for version, previous in (("1", "2"), ("2", "1")):
        pointer.move(str(pointer.state().previous))
        assert pointer.state() == PointerState(version, previous)


@pytest.mark.parametrize("moves", [["1"], ["1", "2"], ["3", "2", "1"]])
def test_set_state_undoes_a_move(pointer: Pointer, moves: list[str]) -> None:
    """Setting the state that a move returned restores the version and the previous version."""
    *earlier, last = moves
    for version in earlier:
        pointer.move(version)
    old_state = pointer.state()
    assert pointer.move(last) == old_state
    assert pointer.state() != old_state
    pointer.set_state(old_state)
    assert pointer.state() == old_state


def test_set_state_can_be_repeated(pointer: Pointer) -> None:
    """Setting the same state twice has the effect of setting it once, also if it names no version."""
    pointer.set_state(UNSET)
    assert pointer.state() == UNSET
    for _ in range(2):
        pointer.set_state(PointerState("2", "1"))
        assert pointer.state() == PointerState("2", "1")


def test_alias_and_stage_of_one_model_are_independent(model: str) -> None:
    """An alias and a stage of the same model have separate versions and previous versions."""
    alias, stage = Pointer(model, "champion"), Pointer(model, "Production", is_stage=True)
    for version in ("1", "2"):
        alias.move(version)
    stage.move("3")
    assert (alias.state(), stage.state()) == (PointerState("2", "1"), PointerState("3", None))


def test_externally_moved_alias_is_remembered(model: str) -> None:
    """A version that another tool set is recorded as the previous one by the next move."""
    pointer = Pointer(model, "champion")
    pointer.move("1")
    mlflow.MlflowClient().set_registered_model_alias(model, "champion", "3")
    assert pointer.move("2") == PointerState("3", None)
    assert pointer.state() == PointerState("2", "3")


def test_stage_with_several_versions_names_the_latest(model: str) -> None:
    """A stage with several versions names the latest one, and a move archives the others."""
    client = mlflow.MlflowClient()
    for version in ("1", "2"):
        client.transition_model_version_stage(model, version, "Production")
    pointer = Pointer(model, "Production", is_stage=True)
    assert pointer.move("1") == PointerState("2", None)
    assert pointer.state() == PointerState("1", "2")
    assert client.get_model_version(model, "2").current_stage == "Archived"
