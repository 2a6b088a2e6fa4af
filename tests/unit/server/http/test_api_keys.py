"""API keys: the file, how it is followed, and what a request without a good one is answered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from server.errors import SettingsError
from server.http import api_keys
from server.http.api_keys import OPEN, Keys, KeysFile, check, parse, sent
from server.http.app import create_app
from server.http.middleware import GuardedReplicaApp, ReplicaApp
from server.http.openapi import openapi_document
from server.settings import Settings
from tests.support.models.served_models import ROW, FakeEngine, served_model
from tests.support.scrapes import request_counts, samples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient

KEY, OTHER_KEY = "a-key-of-16-char", "another-good-key"
MODEL = served_model(FakeEngine())
BARE = 'Bearer realm="forkcast"'
WRONG = f'{BARE}, error="invalid_token"'


def kept(*keys: str) -> Keys:
    """What is kept of a file with these keys."""
    return parse("\n".join(keys).encode())


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def write(path: Path, *lines: str) -> None:
    """Beside it and renamed, and old enough to be taken."""
    aside = path.with_suffix(".new")
    aside.write_text("".join(f"{line}\n" for line in lines))
    aside.rename(path)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at for every request, and taken as soon as it is written."""
    monkeypatch.setattr(api_keys, "_EVERY", 0.0)
    monkeypatch.setattr(api_keys, "_STILL", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    write(path, "# ours", KEY, "", OTHER_KEY)
    return path


@pytest.fixture
def client(path: Path) -> Iterator[TestClient]:
    app = create_app(Settings.from_env({"REPLICA": "one"}), MODEL, keys=KeysFile(path))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (KEY, [KEY]),
        (f"{KEY}\n{OTHER_KEY}\n", [KEY, OTHER_KEY]),
        (f"# a comment\r\n\r\n  {KEY}\t\r\n#{OTHER_KEY}\r\n", [KEY]),
        (f"{KEY}\n{KEY}\n", [KEY]),
        ("!" * 16 + "\n" + "~" * 256, ["!" * 16, "~" * 256]),
        (f"sha256:{digest(KEY).hex()}", [KEY]),
        (f"sha256:{digest(KEY).hex().upper()}\n{OTHER_KEY}", [KEY, OTHER_KEY]),
    ],
)
def test_key_file_is_parsed_without_keeping_keys(text: str, keys: list[str]) -> None:
    """Keys, plain or as digests, are read from one line each, and neither key nor digest is kept."""
    found = parse(text.encode())
    assert len(found) == len({*keys})
    assert not found & {digest(key) for key in keys}
    assert not found & {key.encode() for key in keys}
    assert all(found.good(key.encode()) for key in keys)
    assert not found.good(b"")
    assert not found.good(digest(keys[0]))
    assert not found.good(f"sha256:{digest(keys[0]).hex()}".encode())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "it has no key"),
        (b"\xef\xbb\xbf# a byte order mark and no more", "it has no key"),
        (b"# nothing\n\n", "it has no key"),
        (b"%s\nshort\n", "line 2 is no key"),
        (b"%s\n\n# x\ntwo words in one line\n", "line 4 is no key"),
        (b"%s # with a comment", "line 1 is no key"),
        (b"x" * 257, "line 1 is no key"),
        (b"%s\nsha256:0123456789abcdef", "line 2 is no key"),
        (b"sha256:" + b"g" * 64, "line 1 is no key"),
        ("schlüssel-mit-umlaut".encode(), "line 1 is no key"),
        (b"\x00" * 20, "line 1 is no key"),
    ],
)
def test_invalid_key_file_error_names_line_without_content(text: bytes, words: str, tmp_path: Path) -> None:
    """A file that is no list of keys is refused in one line with the number of the line, and never with its content."""
    path = tmp_path / "keys"
    path.write_bytes(text.replace(b"%s", KEY.encode()))
    with pytest.raises(SettingsError) as caught:
        KeysFile(path)
    message = str(caught.value)
    assert message.startswith(f"API_KEYS_FILE='{path}': {words}")
    assert "\n" not in message
    assert not any(part.decode("latin-1") in message for part in path.read_bytes().split() if len(part) > 7)


def test_unreadable_key_file_is_refused_with_reason(tmp_path: Path) -> None:
    """A file that is not there, is a folder or far too large, is refused with the reason."""
    (large := tmp_path / "large").write_text(f"{KEY}\n" * 70_000)
    for path, words in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (large, "at most 1048576"),
    ):
        with pytest.raises(SettingsError, match=words):
            KeysFile(path)


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ([], []),
        ([("authorization", "Bearer abc")], ["abc"]),
        ([("authorization", "bEARER   abc ")], ["abc"]),
        ([("authorization", "Bearer")], []),
        ([("authorization", "Bearer  ")], []),
        ([("authorization", "")], []),
        ([("authorization", "Basic YTpi")], []),
        ([("authorization", "abc")], []),
        ([("authorization", "Bearerabc")], []),
        ([("x-api-key", "abc")], ["abc"]),
        ([("x-api-key", "  ")], []),
        ([("x-api-key", "Bearer abc")], ["Bearer abc"]),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], ["a", "b"]),
        ([("authorization", "Basic YTpi"), ("x-api-key", "abc")], ["abc"]),
        ([("authorization", "Bearer a"), ("x-api-key", "b")], ["a", "b"]),
        ([("cookie", "x-api-key=abc"), ("proxy-authorization", "Bearer abc")], []),
    ],
)
def test_where_keys_are_sent(headers: list[tuple[str, str]], keys: list[str]) -> None:
    """A key is what follows Bearer, in any case, or is in X-API-Key; other schemes and headers have none."""
    assert sent((name.encode(), value.encode()) for name, value in headers) == [key.encode() for key in keys]


@pytest.mark.parametrize(
    ("headers", "status", "challenge"),
    [
        ({}, 401, BARE),
        ({"Authorization": "Basic YTpi"}, 401, BARE),
        ({"Authorization": "Bearer"}, 401, BARE),
        ({"X-API-Key": ""}, 401, BARE),
        ({"Authorization": f"Bearer {KEY}x"}, 401, WRONG),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, 401, WRONG),
        ({"Authorization": f"Bearer {KEY.upper()}"}, 401, WRONG),
        ({"Authorization": f"Bearer {KEY} {KEY}"}, 401, WRONG),
        ({"X-API-Key": "x" * 8192}, 401, WRONG),
        ({"X-API-Key": b"\xff\xfe" * 10}, 401, WRONG),
        ({"X-API-Key": f"sha256:{digest(KEY).hex()}"}, 401, WRONG),
        ({"Authorization": f"Bearer {KEY}"}, 200, None),
        ({"Authorization": f"BEARER  {OTHER_KEY}"}, 200, None),
        ({"X-API-Key": KEY}, 200, None),
        ({"Authorization": "Basic YTpi", "X-API-Key": KEY}, 200, None),
        ({"Authorization": "Bearer somebody-elses-token", "X-API-Key": KEY}, 200, None),
    ],
)
def test_valid_key_in_either_header_is_accepted(
    client: TestClient, headers: Any, status: int, challenge: str | None
) -> None:
    """A good key in either header lets a request pass; all else is challenged, and told if its key was wrong."""
    answer = client.post("/predict", json=ROW, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == challenge
    assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
    assert answer.headers["x-model-version"] == "7"


def test_a_key_in_the_query_is_none(client: TestClient) -> None:
    """A key that would be in everybody's logs is not taken."""
    for name in ("key", "api_key", "access_token", "X-API-Key"):
        assert client.get("/", params={name: KEY}).status_code == 401


@pytest.mark.parametrize("target", sorted(OPEN))
def test_probes_and_metrics_need_no_key(client: TestClient, target: str) -> None:
    """What probes and Prometheus ask for needs no key, and a wrong one is no matter."""
    assert client.get(target).status_code == 200
    assert client.get(target, headers={"X-API-Key": "x"}).status_code == 200


@pytest.mark.parametrize(
    "target",
    ["//health", "/health/", "/Health", "/health%2f..", "/health%0a", "/health/../predict", "/health;x", "/ready%00"],
)
def test_paths_resembling_open_paths_need_a_key(client: TestClient, target: str) -> None:
    """A path that is not exactly an open one needs a key."""
    assert client.get(target).status_code == 401


def test_an_open_path_written_otherwise_is_what_the_router_takes(client: TestClient) -> None:
    """An escaped letter is the same path to the router, and so to the guard."""
    assert client.get("/%68ealth").json()["status"] == "ok"
    assert client.get("/%70redict").status_code == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "BREW"])
@pytest.mark.parametrize("target", ["/predict", "/nothing", "/", "/docs", "/openapi.json", "/v2/models/hills"])
def test_nothing_is_learnt_without_a_key(client: TestClient, method: str, target: str) -> None:
    """Whether a path is there, and what it takes, is told to nobody without a key."""
    assert client.request(method, target).status_code == 401


def problem(answer: httpx.Response) -> str:
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (document["title"], document["status"]) == ("Unauthorized", 401)
    return str(document["detail"])


def test_refusal_uses_error_form_of_the_protocol(client: TestClient) -> None:
    """A refusal is written as the path's protocol writes errors, and tells what would be good."""
    assert "X-API-Key" in problem(client.post("/predict", json=ROW))
    assert "X-API-Key" in problem(client.post("//predict", json=ROW))
    mlflow = client.post("/invocations", json={"instances": [ROW]})
    assert mlflow.headers["content-type"] == "application/json"
    assert mlflow.json()["error_code"] == "UNAUTHENTICATED"
    assert "X-API-Key" in mlflow.json()["message"]
    infer = client.post("/v2/models/hills/infer", json={})
    assert infer.headers["content-type"] == "application/json"
    assert list(infer.json()) == ["error"]


def test_refusals_are_counted(client: TestClient) -> None:
    """Each refusal is counted under its route, and is no prediction's time."""
    for path in ("/predict", "/invocations", "/v2/models/hills/infer", "/nothing"):
        client.post(path)
    text = client.get("/metrics").text
    counted = request_counts(samples(text))
    for route in ("/predict", "/invocations", "/v2/infer", "other"):
        assert counted[route, 401] == 1
    assert 'forkcast_request_seconds_count{route="/predict"} 0.0' in text


def test_without_keys_there_is_no_guard() -> None:
    """Where no file is set, requests meet the edge itself, and nothing of keys is documented."""
    settings = Settings.from_env({})
    app = create_app(settings, MODEL)
    assert type(app) is ReplicaApp
    with TestClient(app) as client:
        assert client.post("/predict", json=ROW).status_code == 200
        document = client.get("/openapi.json").text
    assert "401" not in document
    assert "securitySchemes" not in document


def test_the_document_tells_of_keys(client: TestClient, path: Path) -> None:
    """With keys, each operation but the open ones names both headers and has a 401; the document stays valid."""
    document = client.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    validate(document)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    for name, item in document["paths"].items():
        for operation in item.values():
            assert ("401" in operation["responses"]) == ("security" in operation) == (name not in OPEN)
    assert json.dumps(openapi_document(MODEL, 4096)) == json.dumps(openapi_document(MODEL, 4096, guarded=False))
    assert isinstance(create_app(Settings.from_env({}), MODEL, keys=KeysFile(path)), GuardedReplicaApp)


def statuses(client: TestClient, *keys: str) -> list[int]:
    return [client.get("/", headers={"X-API-Key": key}).status_code for key in keys]


def test_a_change_is_followed(client: TestClient, path: Path) -> None:
    """Keys that come are good and keys that go are not, by rename and by writing in place."""
    new = "a-brand-new-key-of-ours"
    assert statuses(client, KEY, OTHER_KEY, new) == [200, 200, 401]
    write(path, KEY, new)
    assert statuses(client, KEY, OTHER_KEY, new) == [200, 401, 200]
    path.write_text(f"{new}\n")
    assert statuses(client, KEY, OTHER_KEY, new) == [401, 401, 200]


def test_a_symlink_is_followed(tmp_path: Path) -> None:
    """Where a folder's symlink moves, as Kubernetes moves it, the keys are those of where it leads now."""
    for name, key in (("..1", KEY), ("..2", OTHER_KEY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(key)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    file = KeysFile(tmp_path / "keys")
    assert file.now() == kept(KEY)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert file.now() == kept(OTHER_KEY)


def test_invalid_new_file_keeps_the_last_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last good keys stay, which is logged in one line and once; a good file is then taken again."""
    caplog.set_level(logging.INFO)
    file = KeysFile(path)
    good = file.now()
    assert not caplog.records
    write(path, KEY, "secret but bad")
    assert [file.now() for _ in range(3)] == [good] * 3
    path.unlink()
    assert [file.now() for _ in range(3)] == [good] * 3
    write(path, KEY)
    assert file.now() == file.now() == kept(KEY)
    bad, gone, taken = [record.getMessage() for record in caplog.records]
    assert "line 2 is no key" in bad
    assert "secret" not in bad
    assert "No such file" in gone
    assert taken == f"API keys: 1 taken from {path}"


def test_workers_that_are_forked_while_the_file_is_bad(path: Path) -> None:
    """A process begins with the keys that another one of the replica read last, though it never read them itself."""
    master = KeysFile(path)
    worker = copy(master)  # as a fork has it: with the memory that both share
    write(path, KEY)
    assert worker.now() == kept(KEY)
    write(path, "bad")
    assert worker.now() == kept(KEY)
    assert copy(master).now() == kept(KEY)


def test_partially_shared_keys_are_not_used() -> None:
    """What one process is halfway through telling the others, they do not take."""
    shared = api_keys.Shared()
    shared.put(kept(KEY, OTHER_KEY))
    assert shared.get() == kept(KEY, OTHER_KEY)
    shared._memory[40] ^= 1
    assert shared.get() is None


def test_a_file_is_left_alone_while_it_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed a moment ago is not taken yet: its writer may be halfway."""
    file = KeysFile(path)
    file.now()
    monkeypatch.setattr(api_keys, "_STILL", 60.0)
    path.write_text(f"{KEY}\n")
    assert len(file.now()) == 2
    monkeypatch.setattr(api_keys, "_STILL", 0.0)
    file.follow()
    assert len(file.now()) == 1


def test_the_file_is_looked_at_once_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests come, the file is looked at again only when its time has come."""
    monkeypatch.setattr(api_keys, "_EVERY", 3600.0)
    file = KeysFile(path)
    file.now()
    path.unlink()
    looked: list[object] = []
    monkeypatch.setattr(os, "stat", looked.append)
    for _ in range(100):
        assert len(file.now()) == 2
    assert not looked


def test_special_file_keeps_the_last_keys(tmp_path: Path) -> None:
    """A pipe, a device, a folder or a huge file in its place is told at once, and the last good keys stay."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    file = KeysFile(path)
    path.unlink()
    os.mkfifo(path)
    file.follow()
    assert file.keys == kept(KEY)
    for place, words in (
        (path, "expected a regular file"),
        (Path("/dev/zero"), "expected a regular file"),
        (tmp_path, "it cannot be read: Is a directory"),
    ):
        with pytest.raises(SettingsError, match=words):
            KeysFile(place)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 32)
    with pytest.raises(SettingsError, match="at most 1048576 bytes"):
        KeysFile(tmp_path / "huge")


def test_more_keys_than_anybody_needs(tmp_path: Path) -> None:
    """A request with more keys than four is refused without a look at them, be a good one among them or not."""
    (tmp_path / "keys").write_text(KEY)
    file = KeysFile(tmp_path / "keys")
    for count, status in ((3, None), (4, 401), (985, 401)):
        headers = [(b"x-api-key", b"1")] * count + [(b"x-api-key", KEY.encode())]
        refused = check(file, {"path": "/docs", "headers": headers})
        assert (refused.status if refused else None) == status
