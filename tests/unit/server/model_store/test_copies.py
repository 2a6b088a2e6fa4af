"""Tests of the folder of last good copies, which are complete or absent, and are used when the registry is down."""

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
    """Store a model as the resolver stores a verified download, and return its digest."""
    with copies.staging_folder() as staging:
        downloaded = staging / "downloaded"
        downloaded.mkdir()
        (downloaded / "MLmodel").write_text(content)
        digest = folder_digest(downloaded)
        copies.add(downloaded, digest)
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


def last_good_digest(copies: Copies) -> str | None:
    copy = copies.last_good(URI, REGISTRY, "")
    return None if copy is None else copy.digest


def entries(copies: Copies) -> set[str]:
    folder = copies.path("x").parent.parent
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_added_copy_is_stored_under_its_digest(copies: Copies) -> None:
    """A downloaded model is stored unchanged under its digest, and no other file remains."""
    assert not copies.holds("0" * 64)
    digest = fetch(copies, "one")
    assert copies.holds(digest)
    assert [path.name for path in copies.path(digest).iterdir()] == ["MLmodel"]
    assert entries(copies) == {digest}


def test_failed_fetch_leaves_no_files(copies: Copies) -> None:
    """A download that fails leaves no copy and no incomplete one."""

    def fail_halfway() -> None:
        with copies.staging_folder() as staging:
            (staging / "model").mkdir()
            (staging / "model" / "MLmodel").write_text("half")
            raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        fail_halfway()
    assert entries(copies) == set()


def test_staging_folders_are_separate_and_on_the_same_file_system(copies: Copies) -> None:
    """Each writer gets an empty staging folder of its own, which can be renamed into place."""
    with copies.staging_folder() as first, copies.staging_folder() as second:
        assert first != second
        assert {first.name, second.name} == entries(copies)
        assert first.stat().st_dev == first.parent.stat().st_dev
        assert list(first.iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "lost", "added"])
def test_damaged_copy_is_logged_and_unused(copies: Copies, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """A damaged copy is not used, which is logged, and the model can be stored again."""
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
    """The copy that a URI was resolved to is found again and marked with the reason why it is used."""
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
    """The last good copy is the one that the URI was resolved to last, unless it is damaged."""
    older, newer, unrelated = (fetch(copies, content) for content in ("one", "two", "three"))
    remember(copies, newer, age=1)
    remember(copies, older, age=2)
    remember(copies, unrelated, uri="models:/other/1")
    remember(copies, unrelated, registry="http://elsewhere")
    assert last_good_digest(copies) == newer
    (copies.path(newer) / "MLmodel").write_text("broken")
    assert last_good_digest(copies) == older
    (copies.path(older) / "MLmodel").unlink()
    assert copies.last_good(URI, REGISTRY, "") is None


def test_rolled_back_uri_uses_its_earlier_copy(copies: Copies) -> None:
    """The last good copy is an earlier one again after the URI was resolved to it again."""
    first, second = fetch(copies, "one"), fetch(copies, "two")
    remember(copies, first, age=3)
    remember(copies, second, age=2)
    remember(copies, first, age=1)
    assert last_good_digest(copies) == first


def test_copies_are_located_after_the_folder_moved(tmp_path: Path, copies: Copies) -> None:
    """Copies are found in the folder's current place, not in the recorded one."""
    digest = remember(copies, fetch(copies, "one")).digest
    (tmp_path / "var").rename(tmp_path / "moved")
    last_good = Copies(tmp_path / "moved" / "models").last_good(URI, REGISTRY, "down")
    assert last_good is not None
    assert last_good.model_folder == tmp_path / "moved" / "models" / digest / "model"


def test_copy_survives_a_json_round_trip(tmp_path: Path) -> None:
    """A copy that is written as JSON and read again is equal."""
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
def test_only_numbered_registry_versions_count_as_registered(
    tmp_path: Path, uri: str, version: str, registered: bool
) -> None:
    """A copy is of a registered model if its URI names one and its version is the registry's number."""
    assert Copy(tmp_path, "covertype", version, uri, "d" * 64).registered is registered


def test_lock_excludes_a_second_replica(copies: Copies) -> None:
    """A second replica waits for the lock until the first has released it."""
    entered = threading.Event()

    def wait_and_enter() -> None:
        with copies.lock():
            entered.set()

    with copies.lock():
        second = threading.Thread(target=wait_and_enter)
        second.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    second.join()


def test_record_without_memory_needs_is_read(tmp_path: Path) -> None:
    """A record of an older release, which has no memory figure, is read with None for it."""
    document = Copy(tmp_path, "covertype", "1", URI, "0" * 64).to_json()
    del document["needs"]
    assert Copy.from_json(json.loads(json.dumps(document))).needs is None


def test_current_copy_is_read_from_its_record(copies: Copies) -> None:
    """The copy that was made current last is read back from `current.json` with all its fields."""
    for content, needs in (("one", None), ("two", 200_000_000)):
        digest = fetch(copies, content)
        copy = Copy(copies.path(digest), "covertype", "1", URI, digest, stale="down", needs=needs)
        copies.make_current(copy)
        assert Copy.from_record(copies.path("x").parents[1] / "current.json") == copy
    assert len(entries(copies)) == 4
    assert {"current.json", "previous.json"} < entries(copies)


def test_previous_copy_can_be_restored_once(copies: Copies) -> None:
    """The previous copy can be made current again, but only one step back, and the very first one stays current."""
    record = copies.path("x").parents[1] / "current.json"
    copies.restore_previous()
    assert not record.exists()
    current = []
    for content in ("one", "two", "three"):
        digest = fetch(copies, content)
        current.append(Copy(copies.path(digest), "covertype", "1", URI, digest))
        copies.make_current(current[-1])
        if content == "one":
            copies.restore_previous()
            assert Copy.from_record(record) == current[0]
    for _ in range(2):
        copies.restore_previous()
        assert Copy.from_record(record) == current[1]


def test_current_copy_is_not_a_last_good_copy(copies: Copies) -> None:
    """A copy that was made current, but not recorded for a URI, is not the last good copy of that URI."""
    digest = fetch(copies, "one")
    copies.make_current(Copy(copies.path(digest), "covertype", "1", URI, digest))
    assert copies.last_good(URI, REGISTRY, "") is None


def test_missing_record_is_named(tmp_path: Path) -> None:
    """The error for a missing record names its file and says that no model has been stored yet."""
    with pytest.raises(ModelError) as caught:
        Copy.from_record(tmp_path / "current.json")
    assert str(caught.value) == f"{tmp_path / 'current.json'} does not exist: no model has been stored there yet"


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "7", "{}", '{"model_folder": 1}', '{"model_folder": "/"}', "\x00", "\N{SNOWMAN}"]
)
def test_invalid_record_is_named(tmp_path: Path, text: str) -> None:
    """The error for a file that is not a record names it."""
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "current.json").write_text(text, encoding)
        with pytest.raises(ModelError, match=r"current\.json is not a valid record of a model copy$"):
            Copy.from_record(tmp_path / "current.json")


def test_folder_as_record_is_named(tmp_path: Path) -> None:
    """The error for a folder in place of a record names it."""
    with pytest.raises(ModelError, match=r"is not a valid record of a model copy$"):
        Copy.from_record(tmp_path)


@pytest.mark.parametrize("damage", ["changed", "lost", "moved"])
def test_record_of_a_damaged_copy_is_refused(copies: Copies, damage: str) -> None:
    """A record whose copy is missing or damaged is refused, and the error names the copy's folder."""
    digest = fetch(copies, "one")
    model = copies.path(digest)
    copies.make_current(Copy(model, "covertype", "1", URI, digest))
    match damage:
        case "changed":
            (model / "MLmodel").write_text("onE")
        case "lost":
            (model / "MLmodel").unlink()
        case "moved":
            model.rename(model.parent / "moved")
    with pytest.raises(ModelError, match=rf"current\.json: the copy {model} is missing or damaged$"):
        Copy.from_record(model.parents[1] / "current.json")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model_folder": 3'])
def test_damaged_record_is_logged_and_ignored(copies: Copies, caplog: pytest.LogCaptureFixture, content: str) -> None:
    """A record that cannot be read is logged, and ignored as if the URI had never been resolved."""
    copy = remember(copies, fetch(copies, "one"))
    (record,) = (copy.model_folder.parent / "uris").iterdir()
    record.write_text(content)
    assert copies.last_good(URI, REGISTRY, "") is None
    assert copies.unchanged(URI, REGISTRY, "a stamp") is None
    assert f"the record {record} is damaged" in caplog.text


def test_copy_is_reused_while_the_registry_is_unchanged(copies: Copies) -> None:
    """A URI's last copy is reused as long as the registry has the same stamp and the copy is undamaged."""
    copy = replace(remember(copies, fetch(copies, "one")), stamp="first")
    copies.record(copy, REGISTRY)
    assert copies.unchanged(URI, REGISTRY, "first") == copy
    assert copies.unchanged(URI, REGISTRY, "second") is None
    assert copies.unchanged("models:/covertype@challenger", REGISTRY, "first") is None
    (copy.model_folder / "MLmodel").write_text("broken")
    assert copies.unchanged(URI, REGISTRY, "first") is None
