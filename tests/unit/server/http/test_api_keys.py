"""API keys: reading the file, following its changes, and the answer to a request without a valid key."""

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
from server.http.api_keys import PUBLIC_PATHS, Keys, KeysFile, check, keys_in, parse
from server.http.app import create_app
from server.http.middleware import GuardedReplicaApp, ReplicaApp
from server.http.openapi import openapi_document
from server.settings import Settings
from tests.support.models.served_models import ROW, FakeEngine, served_model
from tests.support.scrapes import request_counts, samples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers httpx2, and warns about httpx.
    from starlette.testclient import TestClient

KEY, OTHER_KEY = "a-key-of-16-char", "another-valid-key"
MODEL = served_model(FakeEngine())
BARE = 'Bearer realm="forkcast"'
WRONG = f'{BARE}, error="invalid_token"'


def keys_of(*keys: str) -> Keys:
    """Return the result of parsing a file with these keys."""
    return parse("\n".join(keys).encode())


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def write(path: Path, *lines: str) -> None:
    """Replace the file atomically, by a rename."""
    draft = path.with_suffix(".new")
    draft.write_text("".join(f"{line}\n" for line in lines))
    draft.rename(path)


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the file at every request, and read it as soon as it has changed."""
    monkeypatch.setattr(api_keys, "_CHECK_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(api_keys, "_SETTLE_SECONDS", 0.0)


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
    """Keys, plain or as digests, are read from one line each, and neither the keys nor their digests stay in memory."""
    parsed = parse(text.encode())
    assert len(parsed) == len({*keys})
    assert not parsed & {digest(key) for key in keys}
    assert not parsed & {key.encode() for key in keys}
    assert all(parsed.accepts(key.encode()) for key in keys)
    assert not parsed.accepts(b"")
    assert not parsed.accepts(digest(keys[0]))
    assert not parsed.accepts(f"sha256:{digest(keys[0]).hex()}".encode())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "expected at least one key, got none"),
        (b"\xef\xbb\xbf# a byte order mark and no more", "expected at least one key, got none"),
        (b"# nothing\n\n", "expected at least one key, got none"),
        (b"%s\nshort\n", "line 2: expected a key"),
        (b"%s\n\n# x\ntwo words in one line\n", "line 4: expected a key"),
        (b"%s # with a comment", "line 1: expected a key"),
        (b"x" * 257, "line 1: expected a key"),
        (b"%s\nsha256:0123456789abcdef", "line 2: expected a key"),
        (b"sha256:" + b"g" * 64, "line 1: expected a key"),
        ("schlüssel-mit-umlaut".encode(), "line 1: expected a key"),
        (b"\x00" * 20, "line 1: expected a key"),
    ],
)
def test_invalid_key_file_error_names_line_without_content(text: bytes, reason: str, tmp_path: Path) -> None:
    """An invalid file is rejected in one line with the number of the invalid line, and never with its content."""
    path = tmp_path / "keys"
    path.write_bytes(text.replace(b"%s", KEY.encode()))
    with pytest.raises(SettingsError) as caught:
        KeysFile(path)
    message = str(caught.value)
    assert message.startswith(f"API_KEYS_FILE='{path}': {reason}")
    assert "\n" not in message
    assert not any(part.decode("latin-1") in message for part in path.read_bytes().split() if len(part) > 7)


def test_unreadable_key_file_is_refused_with_reason(tmp_path: Path) -> None:
    """A path that is missing, a folder or far too large is rejected with the reason."""
    (large := tmp_path / "large").write_text(f"{KEY}\n" * 70_000)
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (large, "at most 1048576")):
        with pytest.raises(SettingsError, match=reason):
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
def test_keys_are_read_from_bearer_and_x_api_key_headers(headers: list[tuple[str, str]], keys: list[str]) -> None:
    """A key follows Bearer, in any letter case, or is in X-API-Key; other schemes and headers have none."""
    assert keys_in((name.encode(), value.encode()) for name, value in headers) == [key.encode() for key in keys]


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
    """A valid key in either header is accepted; otherwise the 401 says whether a key was missing or invalid."""
    answer = client.post("/predict", json=ROW, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == challenge
    assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
    assert answer.headers["x-model-version"] == "7"


def test_key_in_the_query_string_is_ignored(client: TestClient) -> None:
    """A key in the query string is ignored, because it would end up in access logs."""
    for name in ("key", "api_key", "access_token", "X-API-Key"):
        assert client.get("/", params={name: KEY}).status_code == 401


@pytest.mark.parametrize("target", sorted(PUBLIC_PATHS))
def test_probes_and_metrics_need_no_key(client: TestClient, target: str) -> None:
    """The paths of probes and Prometheus need no key, and accept requests with an invalid one."""
    assert client.get(target).status_code == 200
    assert client.get(target, headers={"X-API-Key": "x"}).status_code == 200


@pytest.mark.parametrize(
    "target",
    ["//health", "/health/", "/Health", "/health%2f..", "/health%0a", "/health/../predict", "/health;x", "/ready%00"],
)
def test_paths_resembling_public_paths_need_a_key(client: TestClient, target: str) -> None:
    """A path that differs from a public path in any character needs a key."""
    assert client.get(target).status_code == 401


def test_percent_encoded_path_is_decoded_before_the_check(client: TestClient) -> None:
    """A path with an escaped letter is the same path to the router, and so to the check of keys."""
    assert client.get("/%68ealth").json()["status"] == "ok"
    assert client.get("/%70redict").status_code == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "BREW"])
@pytest.mark.parametrize("target", ["/predict", "/nothing", "/", "/docs", "/openapi.json", "/v2/models/hills"])
def test_existence_of_a_path_is_hidden_without_a_key(client: TestClient, method: str, target: str) -> None:
    """A request without a key gets 401 whether or not its path exists or allows its method."""
    assert client.request(method, target).status_code == 401


def problem(answer: httpx.Response) -> str:
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (document["title"], document["status"]) == ("Unauthorized", 401)
    return str(document["detail"])


def test_refusal_uses_error_form_of_the_protocol(client: TestClient) -> None:
    """A 401 has the form of errors in the path's protocol, and says how to send a key."""
    assert "X-API-Key" in problem(client.post("/predict", json=ROW))
    assert "X-API-Key" in problem(client.post("//predict", json=ROW))
    mlflow = client.post("/invocations", json={"instances": [ROW]})
    assert mlflow.headers["content-type"] == "application/json"
    assert mlflow.json()["error_code"] == "UNAUTHENTICATED"
    assert "X-API-Key" in mlflow.json()["message"]
    infer = client.post("/v2/models/hills/infer", json={})
    assert infer.headers["content-type"] == "application/json"
    assert list(infer.json()) == ["error"]


def test_unauthorized_requests_are_counted(client: TestClient) -> None:
    """Each 401 is counted under its route, and does not count as the duration of a prediction."""
    for path in ("/predict", "/invocations", "/v2/models/hills/infer", "/nothing"):
        client.post(path)
    text = client.get("/metrics").text
    counted = request_counts(samples(text))
    for route in ("/predict", "/invocations", "/v2/infer", "other"):
        assert counted[route, 401] == 1
    assert 'forkcast_request_seconds_count{route="/predict"} 0.0' in text


def test_without_key_file_no_key_is_required() -> None:
    """Without a key file, requests need no key, and the OpenAPI document does not mention keys."""
    settings = Settings.from_env({})
    app = create_app(settings, MODEL)
    assert type(app) is ReplicaApp
    with TestClient(app) as client:
        assert client.post("/predict", json=ROW).status_code == 200
        document = client.get("/openapi.json").text
    assert "401" not in document
    assert "securitySchemes" not in document


def test_openapi_document_describes_keys(client: TestClient, path: Path) -> None:
    """Each operation of a path that is not public names both headers and has a 401, in a valid document."""
    document = client.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    validate(document)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    for name, item in document["paths"].items():
        for operation in item.values():
            assert ("401" in operation["responses"]) == ("security" in operation) == (name not in PUBLIC_PATHS)
    assert json.dumps(openapi_document(MODEL, 4096)) == json.dumps(openapi_document(MODEL, 4096, guarded=False))
    assert isinstance(create_app(Settings.from_env({}), MODEL, keys=KeysFile(path)), GuardedReplicaApp)


def statuses(client: TestClient, *keys: str) -> list[int]:
    return [client.get("/", headers={"X-API-Key": key}).status_code for key in keys]


def test_changed_key_file_is_followed(client: TestClient, path: Path) -> None:
    """Added keys become valid and removed keys invalid, whether the file is replaced or written in place."""
    new = "a-brand-new-key-of-ours"
    assert statuses(client, KEY, OTHER_KEY, new) == [200, 200, 401]
    write(path, KEY, new)
    assert statuses(client, KEY, OTHER_KEY, new) == [200, 401, 200]
    path.write_text(f"{new}\n")
    assert statuses(client, KEY, OTHER_KEY, new) == [401, 401, 200]


def test_moved_symlink_is_followed(tmp_path: Path) -> None:
    """If a symlink in the path moves, as Kubernetes moves it, the keys are those of its new target."""
    for name, key in (("..1", KEY), ("..2", OTHER_KEY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(key)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    file = KeysFile(tmp_path / "keys")
    assert file.current() == keys_of(KEY)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert file.current() == keys_of(OTHER_KEY)


def test_invalid_new_file_keeps_the_last_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An invalid file is logged once in one line and leaves the last keys valid; a later valid file is read again."""
    caplog.set_level(logging.INFO)
    file = KeysFile(path)
    valid = file.current()
    assert not caplog.records
    write(path, KEY, "secret but bad")
    assert [file.current() for _ in range(3)] == [valid] * 3
    path.unlink()
    assert [file.current() for _ in range(3)] == [valid] * 3
    write(path, KEY)
    assert file.current() == file.current() == keys_of(KEY)
    invalid, missing, reloaded = [record.getMessage() for record in caplog.records]
    assert "line 2: expected a key" in invalid
    assert "secret" not in invalid
    assert "No such file" in missing
    assert reloaded == f"read 1 API keys from {path}"


def test_worker_forked_while_file_is_invalid_has_last_keys(path: Path) -> None:
    """A new process starts with the keys that another process of the replica read last."""
    master = KeysFile(path)
    worker = copy(master)  # Like a fork, the copy shares memory with its original.
    write(path, KEY)
    assert worker.current() == keys_of(KEY)
    write(path, "bad")
    assert worker.current() == keys_of(KEY)
    assert copy(master).current() == keys_of(KEY)


def test_partially_shared_keys_are_not_used() -> None:
    """Keys that another process is still writing to the shared memory are not used."""
    shared = api_keys.SharedKeys()
    shared.publish(keys_of(KEY, OTHER_KEY))
    assert shared.read() == keys_of(KEY, OTHER_KEY)
    shared._memory[40] ^= 1
    assert shared.read() is None


def test_file_changed_a_moment_ago_is_not_read_yet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed a moment ago is not read yet, because its writer may not have finished."""
    file = KeysFile(path)
    file.current()
    monkeypatch.setattr(api_keys, "_SETTLE_SECONDS", 60.0)
    path.write_text(f"{KEY}\n")
    assert len(file.current()) == 2
    monkeypatch.setattr(api_keys, "_SETTLE_SECONDS", 0.0)
    file.refresh()
    assert len(file.current()) == 1


def test_file_is_checked_at_most_once_per_interval(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of requests within the interval causes no further check of the file."""
    monkeypatch.setattr(api_keys, "_CHECK_INTERVAL_SECONDS", 3600.0)
    file = KeysFile(path)
    file.current()
    path.unlink()
    checks: list[object] = []
    monkeypatch.setattr(os, "stat", checks.append)
    for _ in range(100):
        assert len(file.current()) == 2
    assert not checks


def test_special_file_keeps_the_last_keys(tmp_path: Path) -> None:
    """A pipe, a device, a folder or a huge file is rejected at once, and the last valid keys stay."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    file = KeysFile(path)
    path.unlink()
    os.mkfifo(path)
    file.refresh()
    assert file.keys == keys_of(KEY)
    for special, reason in (
        (path, "expected a regular file"),
        (Path("/dev/zero"), "expected a regular file"),
        (tmp_path, "it cannot be read: Is a directory"),
    ):
        with pytest.raises(SettingsError, match=reason):
            KeysFile(special)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 32)
    with pytest.raises(SettingsError, match="at most 1048576 bytes"):
        KeysFile(tmp_path / "huge")


def test_request_with_more_than_four_keys_is_rejected(tmp_path: Path) -> None:
    """A request with more than four keys is rejected, even if one of them is valid."""
    (tmp_path / "keys").write_text(KEY)
    file = KeysFile(tmp_path / "keys")
    for count, status in ((3, None), (4, 401), (985, 401)):
        headers = [(b"x-api-key", b"1")] * count + [(b"x-api-key", KEY.encode())]
        error = check(file, {"path": "/docs", "headers": headers})
        assert (error.status if error else None) == status
