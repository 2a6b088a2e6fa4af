"""Tests of the record of a stack: saving, loading, and what happens if it is damaged."""

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
    layout = Layout(tmp_path / "var")
    layout.make()
    return layout


def test_load_returns_the_last_saved_record(layout: Layout) -> None:
    """Loading returns the record that was saved last, with equal values."""
    assert Record.load(layout) is None
    environment = {"MODEL_URI": "models:/ü 'x' \"y\""}
    for stack in (Stack(), Stack(2, "::", 8080, 8090, 1, environment), Stack(memory="512M", backend="docker")):
        Record(stack).save(layout)
        assert Record.load(layout) == Record(stack)
    assert [path.name for path in layout.var.glob("stack*")] == ["stack.json"]


def test_record_of_a_release_without_containers_is_local(layout: Layout) -> None:
    """A record of an old release, without backend and memory limit, is that of a local stack without a limit."""
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
def test_damaged_record_is_named_with_remedy(text: str, layout: Layout) -> None:
    """The error for a damaged record names its file and the commands that help."""
    layout.state.write_text(text)
    with pytest.raises(CommandError) as caught:
        Record.load(layout)
    assert str(caught.value) == f"{layout.state} is damaged: run make down, then make up"
    Record.forget_damaged(layout)
    assert Record.load(layout) is None
    assert not layout.state.exists()


def test_forget_damaged_keeps_valid_records(layout: Layout) -> None:
    """forget_damaged keeps a valid record and does nothing if there is no record."""
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
def test_record_with_invalid_values_is_damaged(record: str, layout: Layout) -> None:
    """A record with values of wrong types or out of range counts as damaged and can be deleted."""
    layout.state.write_text(record)
    with pytest.raises(CommandError, match="is damaged"):
        Record.load(layout)
    Record.forget_damaged(layout)
    assert not layout.state.exists()


def test_containers_keep_the_model_copy_that_they_serve() -> None:
    """Containers are replaced only for another copy than they serve, from their start or since a promotion."""
    started = Served("a-1")
    assert started.after_providing("a-1") is started
    assert started.after_providing("b-2") == Served("b-2")
    promoted = Served("a-1", "b-2")
    assert promoted.after_providing("b-2") is promoted
    assert promoted.after_providing("a-1") == Served("a-1")
    assert promoted.after_providing("c-3") == Served("c-3")
    assert Served().after_providing("a-1") == Served("a-1")


def test_record_stores_wanted_and_observed_state(layout: Layout) -> None:
    """The file has the served models beside the wanted state, under the names of earlier releases."""
    record = Record(Stack(2), Served("a-1", "b-2"))
    record.save(layout)
    assert Record.load(layout) == record
    document = json.loads(layout.state.read_text())
    assert (document["replicas"], document["model"], document["promoted"]) == (2, "a-1", "b-2")
    assert record.with_wanted(Stack(3)) == Record(Stack(3), record.served)
