"""The folder of last good copies: whole or not at all, and found again when the registry is down."""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from server.errors import ModelError
from server.model_store.copies import Copies, Copy
from server.model_store.digest import folder_digest

URI = "models:/covertype@champion"
REGISTRY = "sqlite:///registry.db"


def fetch(copies: Copies, content: str) -> str:
    """What the resolver does with a download, after it was verified."""
    with copies.aside() as aside:
        fetched = aside / "downloaded"
        fetched.mkdir()
        (fetched / "MLmodel").write_text(content)
        digest = folder_digest(fetched)
        copies.add(fetched, digest)
    return digest


def remember(copies: Copies, digest: str, uri: str = URI, registry: str = REGISTRY, age: int = 0) -> Copy:
    copy = Copy(copies.path(digest), "covertype", "1", uri, digest)
    copies.record(copy, registry)
    for path in copies.path(digest).parent.glob("uris/*.json"):
        if json.loads(path.read_bytes())["uri"] == uri:
            os.utime(path, ns=(10**18 - age, 10**18 - age))
    return copy


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path / "var" / "models")


def entries(copies: Copies) -> set[str]:
    folder = copies.path("x").parent.parent
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_added_copy_is_stored_under_its_digest(copies: Copies) -> None:
    """A fetched model becomes the copy of its digest, exactly as it was fetched, and nothing else is left."""
    assert not copies.holds("0" * 64)
    digest = fetch(copies, "one")
    assert copies.holds(digest)
    assert [path.name for path in copies.path(digest).iterdir()] == ["MLmodel"]
    assert entries(copies) == {digest}


def test_failed_fetch_leaves_no_files(copies: Copies) -> None:
    """A fetch that breaks off leaves neither a copy nor half of one."""

    def break_off() -> None:
        with copies.aside() as aside:
            (aside / "model").mkdir()
            (aside / "model" / "MLmodel").write_text("half")
            raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        break_off()
    assert entries(copies) == set()


def test_aside_is_on_the_same_file_system(copies: Copies) -> None:
    """What is written aside can be renamed into place, and two writers do not meet."""
    with copies.aside() as one, copies.aside() as other:
        assert one != other
        assert {one.name, other.name} == entries(copies)
        assert one.stat().st_dev == one.parent.stat().st_dev
        assert list(one.iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "lost", "added"])
def test_damaged_copy_is_logged_and_unused(copies: Copies, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """A copy that is no longer what it was is not used, which is logged, and can be replaced."""
    digest = fetch(copies, "one")
    model = copies.path(digest)
    match damage:
        case "changed":
            (model / "MLmodel").write_text("onE")
        case "lost":
            (model / "MLmodel").unlink()
        case "added":
            (model / "other").touch()
    with caplog.at_level(logging.WARNING):
        assert not copies.holds(digest)
    assert f"the copy {model} is damaged" in caplog.text
    assert fetch(copies, "one") == digest
    assert copies.holds(digest)


def test_last_good_copy_is_marked_stale(copies: Copies) -> None:
    """What a URI was resolved to is found again, marked with the reason why the registry was not asked."""
    copy = remember(copies, fetch(copies, "one"))
    assert copies.last_good(URI, REGISTRY, "it is down") == Copy(
        copy.model_folder, "covertype", "1", URI, copy.digest, stale="it is down"
    )
    names = [path.name for path in (copy.model_folder.parent / "uris").iterdir()]
    assert len(names) == 1
    assert names[0].endswith(".json")


def test_unrecorded_uri_has_no_last_good_copy(copies: Copies) -> None:
    """Without a record of this URI at this registry there is no last good copy."""
    assert copies.last_good(URI, REGISTRY, "") is None
    digest = fetch(copies, "one")
    assert copies.last_good(URI, REGISTRY, "") is None
    remember(copies, digest)
    assert copies.last_good("models:/covertype@challenger", REGISTRY, "") is None
    assert copies.last_good(URI, "sqlite:///other.db", "") is None


def test_newest_undamaged_copy_is_chosen(copies: Copies) -> None:
    """Of the copies that a URI led to, the one resolved last is taken, unless it is damaged."""
    older, newer, other = (fetch(copies, content) for content in ("one", "two", "three"))
    remember(copies, newer, age=1)
    remember(copies, older, age=2)
    remember(copies, other, uri="models:/other/1")
    remember(copies, other, registry="http://elsewhere")
    assert [found.digest for found in [copies.last_good(URI, REGISTRY, "")] if found] == [newer]
    (copies.path(newer) / "MLmodel").write_text("broken")
    assert [found.digest for found in [copies.last_good(URI, REGISTRY, "")] if found] == [older]
    (copies.path(older) / "MLmodel").unlink()
    assert copies.last_good(URI, REGISTRY, "") is None


def test_rolled_back_uri_uses_its_earlier_copy(copies: Copies) -> None:
    """A URI that was led back to an earlier copy has that one as its last good copy again."""
    one, two = fetch(copies, "one"), fetch(copies, "two")
    remember(copies, one, age=3)
    remember(copies, two, age=2)
    remember(copies, one, age=1)
    assert [found.digest for found in [copies.last_good(URI, REGISTRY, "")] if found] == [one]


def test_copies_are_located_after_the_folder_moved(tmp_path: Path, copies: Copies) -> None:
    """Copies are found where they are now, not where they were recorded."""
    digest = remember(copies, fetch(copies, "one")).digest
    (tmp_path / "var").rename(tmp_path / "moved")
    found = Copies(tmp_path / "moved" / "models").last_good(URI, REGISTRY, "down")
    assert found is not None
    assert found.model_folder == tmp_path / "moved" / "models" / digest / "model"


def test_copy_survives_a_json_round_trip(tmp_path: Path) -> None:
    """A copy is the same after it went through JSON."""
    copy = Copy(tmp_path, "covertype", "1", URI, "0" * 64, stale="down", needs=200_000_000)
    assert Copy.from_json(json.loads(json.dumps(copy.to_json()))) == copy


@pytest.mark.parametrize(
    ("uri", "version", "registered"),
    [
        (URI, "3", True),
        ("models:/covertype/3", "3", True),
        ("models:/m-0123456789abcdef", "m-0123456789abcdef", False),
        ("runs:/0123456789abcdef/model", "3", False),
        ("/srv/models/3", "3", False),
        ("file:///srv/models/3", "3", False),
    ],
)
def test_copy_of_a_registered_model(tmp_path: Path, uri: str, version: str, registered: bool) -> None:
    """A copy is one of a registered model where the registry was asked for a version, and answered with its number."""
    assert Copy(tmp_path, "covertype", version, uri, "d" * 64).registered is registered


def test_lock_excludes_a_second_replica(copies: Copies) -> None:
    """While one replica holds the lock another waits, and gets it when the first is done."""
    entered = threading.Event()

    def wait_and_enter() -> None:
        with copies.lock():
            entered.set()

    with copies.lock():
        other = threading.Thread(target=wait_and_enter)
        other.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    other.join()


def test_record_without_memory_needs_is_read(tmp_path: Path) -> None:
    """A record of a release that weighed no model is read, and says nothing of memory."""
    document = Copy(tmp_path, "covertype", "1", URI, "0" * 64).to_json()
    del document["needs"]
    assert Copy.from_json(json.loads(json.dumps(document))).needs is None


def test_current_copy_is_read_from_its_record(copies: Copies) -> None:
    """The copy that was made current is read back from its record, all of it, and the last one made so counts."""
    for content, needs in (("one", None), ("two", 200_000_000)):
        digest = fetch(copies, content)
        copy = Copy(copies.path(digest), "covertype", "1", URI, digest, stale="down", needs=needs)
        copies.make_current(copy)
        assert Copy.recorded(copies.path("x").parents[1] / "current.json") == copy
    assert len(entries(copies)) == 4
    assert {"current.json", "previous.json"} < entries(copies)


def test_current_copy_is_taken_back(copies: Copies) -> None:
    """The copy that was current before the last one can be made current again, once; the first one stays."""
    record = copies.path("x").parents[1] / "current.json"
    copies.make_previous_current()
    assert not record.exists()
    made = []
    for content in ("one", "two", "three"):
        digest = fetch(copies, content)
        made.append(Copy(copies.path(digest), "covertype", "1", URI, digest))
        copies.make_current(made[-1])
        if content == "one":
            copies.make_previous_current()
            assert Copy.recorded(record) == made[0]
    for _ in range(2):
        copies.make_previous_current()
        assert Copy.recorded(record) == made[1]


def test_current_copy_is_no_last_good_one(copies: Copies) -> None:
    """What is current says nothing of what a URI led to."""
    digest = fetch(copies, "one")
    copies.make_current(Copy(copies.path(digest), "covertype", "1", URI, digest))
    assert copies.last_good(URI, REGISTRY, "") is None


def test_missing_record_is_named(tmp_path: Path) -> None:
    """A record that is not there is named, with what that means."""
    with pytest.raises(ModelError) as caught:
        Copy.recorded(tmp_path / "current.json")
    assert str(caught.value) == f"there is no {tmp_path / 'current.json'}: nobody has brought a model there yet"


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "7", "{}", '{"model_folder": 1}', '{"model_folder": "/"}', "\x00", "\N{SNOWMAN}"]
)
def test_invalid_record_is_named(tmp_path: Path, text: str) -> None:
    """A file that holds something else than a record is named."""
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "current.json").write_text(text, encoding)
        with pytest.raises(ModelError, match=r"current\.json is no record of a model's copy$"):
            Copy.recorded(tmp_path / "current.json")


def test_folder_as_record_is_named(tmp_path: Path) -> None:
    """So is a folder of that name."""
    with pytest.raises(ModelError, match=r"is no record of a model's copy$"):
        Copy.recorded(tmp_path)


@pytest.mark.parametrize("damage", ["changed", "lost", "gone"])
def test_record_of_a_damaged_copy(copies: Copies, damage: str) -> None:
    """A copy that is no longer what its record says is refused, with its folder."""
    digest = fetch(copies, "one")
    model = copies.path(digest)
    copies.make_current(Copy(model, "covertype", "1", URI, digest))
    match damage:
        case "changed":
            (model / "MLmodel").write_text("onE")
        case "lost":
            (model / "MLmodel").unlink()
        case "gone":
            model.rename(model.parent / "moved")
    with pytest.raises(ModelError, match=rf"current\.json: the copy {model} is missing or damaged$"):
        Copy.recorded(model.parents[1] / "current.json")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model_folder": 3'])
def test_damaged_record_is_logged_and_ignored(copies: Copies, caplog: pytest.LogCaptureFixture, content: str) -> None:
    """A record that cannot be read is told of and passed over, as if the registry had never been asked."""
    copy = remember(copies, fetch(copies, "one"))
    (record,) = (copy.model_folder.parent / "uris").iterdir()
    record.write_text(content)
    assert copies.last_good(URI, REGISTRY, "") is None
    assert copies.still(URI, REGISTRY, "a stamp") is None
    assert f"the record {record} is damaged" in caplog.text


def test_copy_of_an_unchanged_registry(copies: Copies) -> None:
    """The last answer of a registry stands as long as its stamp does, and the copy is what it was."""
    copy = replace(remember(copies, fetch(copies, "one")), stamp="first")
    copies.record(copy, REGISTRY)
    assert copies.still(URI, REGISTRY, "first") == copy
    assert copies.still(URI, REGISTRY, "second") is None
    assert copies.still("models:/covertype@challenger", REGISTRY, "first") is None
    (copy.model_folder / "MLmodel").write_text("broken")
    assert copies.still(URI, REGISTRY, "first") is None
