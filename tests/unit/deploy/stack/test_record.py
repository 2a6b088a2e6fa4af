"""The record of a stack: what is remembered between two verbs, and what is done where it cannot be read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from deploy.errors import CommandError
from deploy.stack.paths import Layout
from deploy.stack.record import Record, Served
from deploy.stack.specification import Stack


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    one = Layout(tmp_path / "var")
    one.make()
    return one


def test_saved_stack_is_loaded_again(layout: Layout) -> None:
    """What is saved comes back the same, and the last one saved counts."""
    assert Record.load(layout) is None
    environment = {"MODEL_URI": "models:/ü 'x' \"y\""}
    for stack in (Stack(), Stack(2, "::", 8080, 8090, 1, environment), Stack(memory="512M", backend="docker")):
        Record(stack).save(layout)
        assert Record.load(layout) == Record(stack)
    assert [path.name for path in layout.var.glob("stack*")] == ["stack.json"]


def test_stack_of_a_release_without_containers(layout: Layout) -> None:
    """A stack that an earlier release saved is a local one without a limit on its memory."""
    document = asdict(Stack(replicas=2, http_port=8080))
    del document["memory"], document["backend"]
    layout.state.write_text(json.dumps(document))
    assert Record.load(layout) == Record(Stack(replicas=2, http_port=8080, memory=None, backend="local"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"replica": 1}',
        '{"backend": "kubernetes"}',
        '{"backend": null}',
        '{"backend": []}',
    ],
)
def test_damaged_stack_file_is_named_with_remedy(text: str, layout: Layout) -> None:
    """A file that holds no stack is named, with the way out."""
    layout.state.write_text(text)
    with pytest.raises(CommandError) as caught:
        Record.load(layout)
    assert str(caught.value) == f"{layout.state} is damaged: make down, then make up"
    Record.forget_damaged(layout)
    assert Record.load(layout) is None
    assert not layout.state.exists()


def test_only_a_damaged_stack_is_forgotten(layout: Layout) -> None:
    """A record that can be read stays, and where there is none nothing happens."""
    Record.forget_damaged(layout)
    assert not layout.state.exists()
    Record(Stack(2)).save(layout)
    Record.forget_damaged(layout)
    assert Record.load(layout) == Record(Stack(2))


@pytest.mark.parametrize(
    "record",
    [
        '{"environment": 3}', '{"replicas": "x"}', '{"cpus": "1"}', '{"http_host": null}', '{"memory": 5}',
        '{"replicas": 2.5}', '{"replicas": 0}', '{"http_port": 99999}', '{"cpus": NaN}', '{"locust_port": -1}',
        '{"environment": {"KEEP_ALIVE": "abc"}}', '{"environment": {"KEEP_ALIVE": 5}}',
        '{"environment": {"LOCUST_WORKERS": "x"}}', '{"environment": {"API_KEYS_FILE": ""}}',
    ],
)  # fmt: skip
def test_record_of_other_types_is_damaged(record: str, layout: Layout) -> None:
    """A record whose values are of other types than a stack's is damaged, and is forgotten by those who stop it."""
    layout.state.write_text(record)
    with pytest.raises(CommandError, match="is damaged"):
        Record.load(layout)
    Record.forget_damaged(layout)
    assert not layout.state.exists()


def test_containers_are_replaced_for_another_model_than_they_serve() -> None:
    """Containers are started anew for another model than theirs, be it the one of their start or a promoted one."""
    started = Served("a-1")
    assert started.after_providing("a-1") is started
    assert started.after_providing("b-2") == Served("b-2")
    promoted = Served("a-1", "b-2")
    assert promoted.after_providing("b-2") is promoted
    assert promoted.after_providing("a-1") == Served("a-1")
    assert promoted.after_providing("c-3") == Served("c-3")
    assert Served().after_providing("a-1") == Served("a-1")


def test_record_keeps_wanted_and_observed_state_apart(layout: Layout) -> None:
    """What replicas serve is remembered beside what the stack was asked to be, under the names of earlier releases."""
    record = Record(Stack(2), Served("a-1", "b-2"))
    record.save(layout)
    assert Record.load(layout) == record
    document = json.loads(layout.state.read_text())
    assert (document["replicas"], document["model"], document["promoted"]) == (2, "a-1", "b-2")
    assert record.with_wanted(Stack(3)) == Record(Stack(3), record.served)
