"""What leads to the version that is served, in a real registry."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import pytest

from deploy.errors import CommandError
from tests.support.models.registries import IGNORE_MLFLOW_WARNINGS, Registry, new_registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports, which differ with what else is installed
    import mlflow

    from deploy.models.registry.pointer import Place, Pointer

pytestmark = IGNORE_MLFLOW_WARNINGS
NOWHERE = Place(None, None)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with new_registry(tmp_path_factory.mktemp("registry")) as one:
        yield one


@pytest.fixture
def model(registry: Registry) -> str:
    """A registered model of three versions that nothing leads to."""
    name, client = f"tiny-{next(NUMBERS)}", mlflow.MlflowClient()
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, (registry.folder / "artifacts").as_uri())
    return name


@pytest.fixture(params=["models:/{}@champion", "models:/{}/Production"])
def pointer(model: str, request: pytest.FixtureRequest) -> Pointer:
    """An alias and, for those who have none, a stage."""
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
    """An alias or a stage of a registered model is read from MODEL_URI, and named as people write it."""
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
def test_parse_what_cannot_be_moved(uri: str) -> None:
    """A version, the latest one, a run or a folder leads to one model for ever, which is told with a way out."""
    with pytest.raises(CommandError) as caught:
        Pointer.parse(uri)
    assert str(caught.value).startswith(f"MODEL_URI={uri!r} names no alias that could be moved; expected models:/")
    assert str(caught.value).endswith("or change the model with: make up MODEL_URI=..")
    assert "\n" not in str(caught.value)


def test_versions_are_sorted_numerically(model: str, registry: Registry) -> None:
    """All versions of this model are listed as numbers count, the tenth after the ninth."""
    client = mlflow.MlflowClient()
    for _ in range(7):
        client.create_model_version(model, registry.folder.as_uri())
    client.delete_model_version(model, "4")
    assert Pointer(model, "champion").versions() == ["1", "2", "3", "5", "6", "7", "8", "9", "10"]


def test_unset_alias_points_nowhere(pointer: Pointer) -> None:
    """One that was never moved leads nowhere, and has led nowhere."""
    assert pointer.place() == NOWHERE


def test_first_move_remembers_no_version(pointer: Pointer) -> None:
    """The first move has nothing to remember."""
    assert pointer.move("2") == NOWHERE
    assert pointer.place() == Place("2", None)


def test_move_remembers_the_previous_version(pointer: Pointer) -> None:
    """Each move remembers the version before, and gives back how it was."""
    pointer.move("1")
    assert pointer.move("2") == Place("1", None)
    assert pointer.place() == Place("2", "1")
    assert pointer.move("3") == Place("2", "1")
    assert pointer.place() == Place("3", "2")


def test_move_to_the_same(pointer: Pointer) -> None:
    """A move to where it leads already keeps what it remembers."""
    pointer.move("1")
    pointer.move("3")
    assert pointer.move("3") == Place("3", "1")
    assert pointer.place() == Place("3", "1")


def test_moving_back_twice_returns_to_the_start(pointer: Pointer) -> None:
    """To go back to the version before, twice, is to be where one was."""
    pointer.move("1")
    pointer.move("2")
    for version, before in (("1", "2"), ("2", "1")):
        pointer.move(str(pointer.place().before))
        assert pointer.place() == Place(version, before)


@pytest.mark.parametrize("moves", [["1"], ["1", "2"], ["3", "2", "1"]])
def test_put_restores_the_previous_place(pointer: Pointer, moves: list[str]) -> None:
    """A move is undone with what it gave back: where it led, and what it remembered."""
    *earlier, last = moves
    for version in earlier:
        pointer.move(version)
    before = pointer.place()
    assert pointer.move(last) == before
    assert pointer.place() != before
    pointer.put(before)
    assert pointer.place() == before


def test_put_is_made_again(pointer: Pointer) -> None:
    """To put it where it is, or nowhere where it leads nowhere, changes nothing."""
    pointer.put(NOWHERE)
    assert pointer.place() == NOWHERE
    for _ in range(2):
        pointer.put(Place("2", "1"))
        assert pointer.place() == Place("2", "1")


def test_two_of_one_model(model: str) -> None:
    """An alias and a stage of the same model lead, and remember, each for itself."""
    alias, stage = Pointer(model, "champion"), Pointer(model, "Production", is_stage=True)
    for version in ("1", "2"):
        alias.move(version)
    stage.move("3")
    assert (alias.place(), stage.place()) == (Place("2", "1"), Place("3", None))


def test_externally_moved_alias_is_remembered(model: str) -> None:
    """A version that another tool let it lead to is remembered like any other."""
    pointer = Pointer(model, "champion")
    pointer.move("1")
    mlflow.MlflowClient().set_registered_model_alias(model, "champion", "3")
    assert pointer.move("2") == Place("3", None)
    assert pointer.place() == Place("2", "3")


def test_stage_leads_to_the_latest(model: str) -> None:
    """Of several versions in a stage the latest is served; after a move there is one."""
    client = mlflow.MlflowClient()
    for version in ("1", "2"):
        client.transition_model_version_stage(model, version, "Production")
    pointer = Pointer(model, "Production", is_stage=True)
    assert pointer.move("1") == Place("2", None)
    assert pointer.place() == Place("1", "2")
    assert client.get_model_version(model, "2").current_stage == "Archived"
