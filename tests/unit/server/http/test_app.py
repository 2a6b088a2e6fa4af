"""The routes of a replica: the real app with a real schema and a fake engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.types import Message

from server.errors import Fault, InvalidRows
from server.http.app import create_app
from server.http.middleware import Reload, identity_headers
from server.inference.batcher import Batcher
from server.inference.rows import Prediction, Rows
from server.settings import Settings
from server.system import cgroup
from server.workers.state import WorkerState
from tests.support.models.served_models import ROW, FakeEngine, served_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers httpx2, and warns about httpx.
    from starlette.testclient import TestClient

JSON = {"content-type": "application/json"}
MAX_BODY_BYTES = 2000
MAX_PENDING = 8
TIMEOUT_SECONDS = 20  # A test that hangs fails after this.
SETTINGS = Settings.from_env(
    {"REPLICA": "one", "MAX_BODY_BYTES": str(MAX_BODY_BYTES), "MAX_PENDING": str(MAX_PENDING), "WEB_CONCURRENCY": "3"}
)


def serving(engine: FakeEngine | None = None) -> TestClient:
    return TestClient(create_app(SETTINGS, served_model(engine or FakeEngine())), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as client:
        yield client


def post(client: TestClient, document: object) -> httpx.Response:
    answer: httpx.Response = client.post("/predict", content=json.dumps(document), headers=JSON)
    return answer


def assert_problem(answer: httpx.Response, status: int, title: str) -> dict[str, Any]:
    """Assert that the answer is a problem document of RFC 9457 with this status and title, and return it."""
    document: dict[str, Any] = answer.json()
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
    assert {name: document[name] for name in ("type", "title", "status")} == {
        "type": "about:blank",
        "title": title,
        "status": status,
    }
    assert document["detail"]
    assert set(document) - {"errors"} == {"type", "title", "status", "detail"}
    return document


@pytest.mark.parametrize("document", [ROW, {"features": [2596, 3.5]}, {"slope": 3.5, "elevation": 2596.0}])
def test_single_row_returns_a_single_prediction(client: TestClient, document: object) -> None:
    """One row, by name in any order or as a list, is answered with one prediction; 2596.0 is a valid integer."""
    answer = post(client, document)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"prediction": 25, "confidence": 0.95, "model_version": "7"}


@pytest.mark.parametrize("instances", [[ROW, {**ROW, "elevation": 3000.0}], [[2596, 3.5], [3000, 1]], [ROW, [3000, 1]]])
def test_instances_are_answered_in_order(client: TestClient, instances: object) -> None:
    """Instances, by name or as lists or mixed, are answered in the order of the request."""
    answer = post(client, {"instances": instances})
    assert answer.status_code == 200
    assert answer.json() == {"predictions": [25, 30], "confidences": [0.95, 0.95], "model_version": "7"}


def test_request_may_fill_the_whole_queue(client: TestClient) -> None:
    """A single request with MAX_PENDING rows is answered."""
    answer = post(client, {"instances": [ROW] * MAX_PENDING})
    assert answer.json()["predictions"] == [25] * MAX_PENDING


def test_model_without_probabilities_returns_null_confidences() -> None:
    """A model without probabilities answers null for each confidence."""
    with serving(FakeEngine(lambda rows: Prediction(["pine"] * len(rows), None))) as client:
        assert post(client, ROW).json() == {"prediction": "pine", "confidence": None, "model_version": "7"}
        assert post(client, {"instances": [ROW, ROW]}).json() == {
            "predictions": ["pine", "pine"],
            "confidences": [None, None],
            "model_version": "7",
        }


def test_several_outputs_return_a_list_per_row() -> None:
    """A model with several outputs answers with one list per row."""
    with serving(FakeEngine(lambda rows: Prediction([[1, "a"]] * len(rows), [[0.5, 0.75]] * len(rows)))) as client:
        assert post(client, ROW).json() == {"prediction": [1, "a"], "confidence": [0.5, 0.75], "model_version": "7"}
        assert post(client, {"instances": [ROW, ROW]}).json()["predictions"] == [[1, "a"], [1, "a"]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"elevation=2596",
        b'{"slope": NaN}',
        b'{"slope": Infinity}',
        b'"\xff"',
        '{"slope": 1}'.encode("utf-16"),
    ],
)
def test_invalid_json_is_a_400(client: TestClient, body: bytes) -> None:
    """A body that is not JSON in UTF-8 is a 400; NaN and Infinity are not JSON."""
    problem = assert_problem(client.post("/predict", content=body, headers=JSON), 400, "Bad Request")
    assert problem["detail"].startswith("the body is not JSON: ")


def test_unknown_path_is_a_404(client: TestClient) -> None:
    """An unknown path is a 404 that repeats a limited part of it; a trailing slash makes another path."""
    assert assert_problem(client.get("/nowhere"), 404, "Not Found")["detail"].startswith("there is no path /nowhere;")
    assert len(assert_problem(client.get(f"/{'x' * 5000}"), 404, "Not Found")["detail"]) < 300
    assert_problem(client.post("/predict/", json=ROW), 404, "Not Found")
    assert_problem(client.get("/assets/redoc/../../pages.py"), 404, "Not Found")
    assert_problem(client.get("/assets/swagger/no.js"), 404, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", {"POST"}),
        ("HEAD", "/predict", {"POST"}),
        ("DELETE", "/predict", {"POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("PUT", "/", {"GET", "HEAD"}),
        ("POST", "/assets/redoc/js/redoc.standalone.js", {"GET", "HEAD"}),
    ],
)
def test_wrong_method_is_a_405_with_allow(client: TestClient, method: str, path: str, allowed: set[str]) -> None:
    """A method that a path does not allow is a 405 that names the allowed ones in Allow."""
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    if method != "HEAD":
        assert assert_problem(answer, 405, "Method Not Allowed")["detail"] == f"{path} does not allow {method}"


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/redoc", "/openapi.json"])
def test_head_returns_the_headers_of_get(client: TestClient, path: str) -> None:
    """HEAD is answered with the same headers as GET."""
    head, get = client.head(path), client.get(path)
    assert head.status_code == 200
    assert head.headers == get.headers


def test_content_length_over_limit_is_a_413(client: TestClient) -> None:
    """A Content-Length over the limit is a 413 that names the limit; a body of exactly the limit is accepted."""
    problem = assert_problem(
        client.post("/predict", content=b"{}", headers=JSON | {"content-length": str(MAX_BODY_BYTES + 1)}),
        413,
        "Content Too Large",
    )
    assert problem["detail"] == f"the body is larger than {MAX_BODY_BYTES} bytes"
    fitting = json.dumps(ROW).encode().ljust(MAX_BODY_BYTES)
    assert client.post("/predict", content=fitting, headers=JSON).status_code == 200
    assert client.post("/predict", content=fitting + b" ", headers=JSON).status_code == 413


def test_streamed_body_over_limit_is_a_413() -> None:
    """A body without a declared length is a 413 as soon as it exceeds the limit, and is read no further."""
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 900, "more_body": True}

    assert answer_of([(b"content-type", b"application/json")], receive)[0]["status"] == 413
    assert read == 3


def test_client_disconnecting_while_sending_is_a_499() -> None:
    """A client that disconnects in the middle of its body is a 499 without a body, which nobody reads."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    start, body = answer_of([(b"content-type", b"application/json"), (b"content-length", b"10")], receive)
    assert start["status"] == 499
    assert body["body"] == b""


def answer_of(headers: list[tuple[bytes, bytes]], receive: Callable[[], Any]) -> list[Message]:
    """Return the ASGI messages that the app sends for a POST to /predict."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(lambda _: pytest.fail("predicted"), executor, max_batch_rows=1, max_pending=MAX_PENDING)
            scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
            state = {"worker": WorkerState(batcher, identity_headers("one", "1"))}
            await create_app(SETTINGS, served_model(FakeEngine()))({**scope, "state": state}, receive, send)

    asyncio.run(call())
    assert set(identity_headers("one", "1")) <= set(sent[0]["headers"])
    assert "headers" not in sent[1]
    return sent


@pytest.mark.parametrize(
    "header",
    [
        None,
        "text/plain",
        "application/jsonx",
        "application/problem+json",
        "application/json; charset=latin-1",
        "application/x-www-form-urlencoded",
    ],
)
def test_unsupported_media_type_is_a_415(client: TestClient, header: str | None) -> None:
    """A Content-Type other than JSON in UTF-8 is a 415 that repeats it."""
    headers = {} if header is None else {"content-type": header}
    answer = client.post("/predict", content=json.dumps(ROW).encode(), headers=headers)
    problem = assert_problem(answer, 415, "Unsupported Media Type")
    assert problem["detail"].endswith(f"got {header!r}" if header else "got none")


@pytest.mark.parametrize(
    "header",
    [
        "application/json;charset=utf-8",
        "application/json; charset=UTF-8",
        'application/json; charset="utf-8"',
        "Application/JSON",
        "application/json;",
    ],
)
def test_json_media_type_ignores_case_and_charset(client: TestClient, header: str) -> None:
    """The Content-Type of JSON is accepted in any letter case, with or without charset=utf-8."""
    answer = client.post("/predict", content=json.dumps(ROW).encode(), headers={"content-type": header})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        ({"elevation": 2596}, "#/slope", "is missing; must be a number"),
        ({**ROW, "a/b": 1}, "#/a~1b", "is not a feature of this model"),
        ({**ROW, "slope": "3"}, "#/slope", 'must be a number, got "3"'),
        ({**ROW, "slope": True}, "#/slope", "must be a number"),
        ({**ROW, "slope": None}, "#/slope", "must be a number, got null"),
        ({**ROW, "elevation": 4000}, "#/elevation", "must be a whole number from 1859 to 3858, got 4000"),
        ({**ROW, "elevation": 2596.5}, "#/elevation", "must be a whole number from 1859 to 3858, got 2596.5"),
        ({"features": [2596]}, "#/features", "must be a list of 2 values, got 1 values"),
        ({"features": [2596, []]}, "#/features/1", "must be a number, got a list of 0"),
        ({"instances": []}, "#/instances", "must be a list of at least one row, got a list of 0"),
        ({"instances": [ROW, {**ROW, "slope": {}}]}, "#/instances/1/slope", "must be a number, got an object"),
        ({"instances": [ROW, [1859]]}, "#/instances/1", "must be a list of 2 values or an object of"),
        ({"instances": [[2596, 3]] * 9}, "#/instances", "must have at most 8 rows, got 9"),
        ({"instances": [ROW], "slope": 3}, "#/slope", "is not expected beside 'instances'"),
        ([ROW], "#", "must be an object, got a list of 1"),
        (None, "#", "must be an object, got null"),
    ],
)
def test_invalid_rows_are_a_422_with_location(client: TestClient, document: object, pointer: str, detail: str) -> None:
    """Rows that the model does not accept are a 422 that says what is wrong, and where."""
    problem = assert_problem(post(client, document), 422, "Unprocessable Content")
    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert problem["errors"][0]["detail"].startswith(detail)


def test_up_to_twenty_faults_are_listed(client: TestClient) -> None:
    """All faults are listed, twenty at most, and the detail has the first one and the number of the others."""
    problem = post(client, {"elevation": "high", "depth": 1}).json()
    assert {fault["pointer"] for fault in problem["errors"]} == {"#/elevation", "#/depth", "#/slope"}
    assert problem["detail"].endswith("(and 2 more)")
    assert len(post(client, {f"x{i}": i for i in range(100)}).json()["errors"]) == 20


def test_full_queue_is_a_503_until_it_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request over MAX_PENDING rows is a 503 with Retry-After, at once, until the queue has room again."""
    # All calls run in the thread, as for a slow model.
    monkeypatch.setattr("server.inference.batcher.INLINE_LIMIT_SECONDS", -1.0)
    gate, entered = threading.Event(), threading.Event()
    gate.set()

    def answer(rows: Rows) -> Prediction:
        entered.set()
        assert gate.wait(TIMEOUT_SECONDS)
        return Prediction([1] * len(rows), None)

    with serving(FakeEngine(answer)) as client, ThreadPoolExecutor(2) as executor:
        gate.clear()
        entered.clear()
        held = executor.submit(post, client, ROW)
        assert entered.wait(TIMEOUT_SECONDS)
        waiting = executor.submit(post, client, {"instances": [ROW] * MAX_PENDING})
        while client.get("/health").json()["pending_rows"] < MAX_PENDING:
            assert not waiting.done()
        refused = post(client, ROW)
        gate.set()
        assert held.result(TIMEOUT_SECONDS).status_code == 200
        assert waiting.result(TIMEOUT_SECONDS).status_code == 200
        assert post(client, ROW).status_code == 200
        assert client.get("/health").json()["pending_rows"] == 0
    problem = assert_problem(refused, 503, "Service Unavailable")
    assert problem["detail"] == "8 rows are waiting, and 1 more would exceed the limit of 8; try again"
    assert refused.headers["retry-after"] == "1"


def test_draining_worker_is_not_ready_but_predicts() -> None:
    """While a worker drains, /ready is 503 and predictions are 200; once its queue is closed, predictions are 503."""
    with serving() as client:
        assert client.get("/ready").json() == {"status": "ready"}
        client.app_state["worker"].draining = True
        assert assert_problem(client.get("/ready"), 503, "Service Unavailable")["detail"] == "this worker is draining"
        assert client.get("/ready").headers["retry-after"] == "1"
        assert client.get("/health").json()["status"] == "ok"
        assert post(client, ROW).status_code == 200
        client.app_state["worker"].batcher.close()
        refused = post(client, ROW)
        assert_problem(refused, 503, "Service Unavailable")
        assert refused.headers["retry-after"] == "1"


def broken(_rows: Rows) -> Prediction:
    raise LookupError("secret of the model")


def test_unexpected_error_is_logged_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is a 500 without its details; it is logged once, and the worker stays alive."""
    with TestClient(create_app(SETTINGS, served_model(FakeEngine(broken)))) as client:
        answer = post(client, ROW)
        problem = assert_problem(answer, 500, "Internal Server Error")
        assert problem["detail"] == "internal server error; the details are in the server log"
        assert "secret" not in answer.text
        assert "LookupError" not in answer.text
        assert client.get("/health").status_code == 200
    assert caplog.messages.count("unexpected error, answered with 500: POST /predict") == 1
    assert "the warm-up failed; all predict calls run in a thread" in caplog.messages
    assert "LookupError: secret of the model" in caplog.text


def test_example_that_the_model_refused_is_not_warmed_up(caplog: pytest.LogCaptureFixture) -> None:
    """A worker does not predict an example that the model refused before the fork, and predicts other rows."""

    def answer(rows: Rows) -> Prediction:
        calls.append(len(rows))
        return Prediction([7] * len(rows), None)

    calls: list[int] = []
    with TestClient(create_app(SETTINGS, served_model(FakeEngine(answer), predicts_example=False))) as client:
        assert calls == []
        assert post(client, ROW).json()["prediction"] == 7
    assert caplog.messages == []


def test_rows_rejected_by_the_engine_are_a_422(caplog: pytest.LogCaptureFixture) -> None:
    """Rows that the engine itself rejects are a 422 as other invalid rows are, and nothing is logged."""

    def answer(rows: Rows) -> Prediction:
        if (rows.numbers[:, 1] == 13).any():
            raise InvalidRows("slope must differ", [Fault("slope must differ", "#")])
        return Prediction([1] * len(rows), None)

    with serving(FakeEngine(answer)) as client:
        problem = assert_problem(post(client, {**ROW, "slope": 13}), 422, "Unprocessable Content")
        assert problem["detail"] == "slope must differ"
        assert problem["errors"] == [{"detail": "slope must differ", "pointer": "#"}]
        assert post(client, ROW).status_code == 200
    assert caplog.messages == []


def test_unserializable_label_is_a_500() -> None:
    """A label that cannot be written as JSON is a 500."""
    with serving(FakeEngine(lambda rows: Prediction([object()] * len(rows), None))) as client:
        assert_problem(post(client, ROW), 500, "Internal Server Error")


def test_warm_up_predicts_only_the_example() -> None:
    """Only the model's example is predicted before the first request, and never in the event loop."""
    seen: list[list[list[float]]] = []
    threads: set[str] = set()

    def answer(rows: Rows) -> Prediction:
        seen.append(rows.numbers.tolist())
        threads.add(threading.current_thread().name)
        return Prediction([1] * len(rows), None)

    with serving(FakeEngine(answer)) as client:
        assert seen[0] == [[2596, 3.5]]
        assert all(row == [2596, 3.5] for rows in seen for row in rows)
        assert threads == {"predict_0"}
        warmed_up = len(seen)
        assert client.get("/health").json()["pending_rows"] == 0
        assert post(client, {**ROW, "slope": 4}).status_code == 200
        assert seen[warmed_up:] == [[[2596, 4]]]


@pytest.mark.parametrize(("inline", "in_loop"), [(float("inf"), True), (-1.0, False)])
def test_fast_calls_run_in_the_event_loop(monkeypatch: pytest.MonkeyPatch, inline: float, in_loop: bool) -> None:
    """A fast predict call runs in the event loop and a slow one in the thread; the answers are the same."""
    monkeypatch.setattr("server.inference.batcher.INLINE_LIMIT_SECONDS", inline)
    threads: list[str] = []

    def answer(rows: Rows) -> Prediction:
        threads.append(threading.current_thread().name)
        return Prediction(rows.numbers[:, 1].tolist(), None)

    with serving(FakeEngine(answer)) as client:
        threads.clear()
        assert post(client, ROW).json()["prediction"] == 3.5
        assert post(client, {"instances": [[2000, 1], [3000, 2]]}).json()["predictions"] == [1, 2]
    assert [thread != "predict_0" for thread in threads] == [in_loop] * 2


def test_creating_the_app_starts_no_thread_and_predicts_nothing() -> None:
    """Creating the app predicts nothing and starts no thread, because the worker is forked afterwards."""
    threads = threading.active_count()
    create_app(SETTINGS, served_model(FakeEngine(lambda _: pytest.fail("predicted"))))
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/health", 200),
        ("GET", "/docs", 200),
        ("GET", "/assets/swagger/css/swagger-ui.css", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/predict", 405),
        ("POST", "/predict", 415),
    ],
)
def test_every_response_names_replica_worker_and_version(
    client: TestClient, method: str, path: str, status: int
) -> None:
    """Every response, also errors, pages and files, names replica, worker and model version once."""
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers.get_list("x-served-by") == [f"one/{os.getpid()}"]
    assert answer.headers.get_list("x-model-version") == ["7"]


def test_health_reports_model_replica_and_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health reports the model and its source, the replica, and the memory in use and its limit."""
    monkeypatch.setattr(cgroup, "memory_used", lambda: 7)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 9)
    assert client.get("/health").json() == {
        "status": "ok",
        "model": {
            "name": "hills",
            "registered_name": "hills",
            "version": "7",
            "uri": "models:/hills@champion",
            "engine": "fake",
            "trained_on": "synthetic",
            "digest": "d" * 64,
        },
        "source": "the registry",
        "replica": "one",
        "worker": os.getpid(),
        "workers": 3,
        "reloads": 0,
        "memory": {"used": 7, "limit": 9},
        "pending_rows": 0,
    }


@pytest.mark.parametrize("refused", [None, "the model has no signature"])
def test_health_reports_number_and_error_of_last_reload(refused: str | None) -> None:
    """/health reports the number of the last reload and, if it kept the previous model, the reason."""
    with TestClient(create_app(SETTINGS, served_model(FakeEngine()), Reload(3, refused))) as client:
        health = client.get("/health").json()
    assert (health["status"], health["reloads"], health.get("refused")) == ("ok", 3, refused)
    assert ("refused" in health) is (refused is not None)


def test_health_reports_a_stale_copy_as_alive() -> None:
    """/health of a replica that serves the last good copy is 200, and reports that and the reason."""
    model = replace(served_model(FakeEngine()), stale="the registry is down")
    with TestClient(create_app(SETTINGS, model)) as client:
        health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["source"] == "the last good copy"
    assert health["stale"] == "the registry is down"


def test_health_names_model_uri_as_source_of_a_folder(tmp_path: Path) -> None:
    """/health of a model from a folder names MODEL_URI as its source, not a registry."""
    model = replace(served_model(FakeEngine()), uri=str(tmp_path), trained_on=None)
    with TestClient(create_app(SETTINGS, model)) as client:
        health = client.get("/health").json()
    assert health["source"] == "MODEL_URI"
    assert health["model"]["trained_on"] is None


POST_LINKS = ("predict", "invocations")


def test_index_links_and_example_work(client: TestClient) -> None:
    """The index names the service and the model; its links work, and its example can be predicted."""
    index = client.get("/").json()
    assert index["name"] == "Forkcast"
    assert index["serves"] == "hills version 7"
    assert {client.get(link).status_code for name, link in index["links"].items() if name not in POST_LINKS} == {200}
    assert client.post(index["links"]["predict"], json=index["example"]["POST /predict"]).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_need_no_internet(client: TestClient, path: str) -> None:
    """The pages load only files of this server, by relative URLs, and each file exists."""
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "hills" in page.text
    assert "//" not in page.text
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) >= 2
    for name in [*files, "openapi.json"]:
        assert name in page.text
        assert client.get(f"/{name}").status_code == 200


def test_index_needs_no_internet(client: TestClient) -> None:
    """The index and the OpenAPI document contain no absolute URLs."""
    assert "//" not in client.get("/").text
    assert "//" not in client.get("/openapi.json").text


def test_model_name_is_escaped_in_pages() -> None:
    """A model name with HTML in it is escaped in the pages."""
    with TestClient(create_app(SETTINGS, replace(served_model(FakeEngine()), name="</title><script>{x}"))) as client:
        for path in ("/docs", "/redoc"):
            assert "<title>&lt;/title>&lt;script>{x}</title>" in client.get(path).text


NUMBERS = st.floats() | st.integers() | st.sampled_from([2596, 3.5, 1e308, -0.0, 2**64, 10**400])
VALUES = st.none() | st.booleans() | NUMBERS | st.text(max_size=10)
NAMES = st.sampled_from(["elevation", "slope", "features", "instances"]) | st.text(max_size=5)
DOCUMENTS = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=20)


@hypothesis_settings(max_examples=200, deadline=None)
@given(body=st.binary())
def test_arbitrary_bytes_never_cause_a_500(client: TestClient, body: bytes) -> None:
    """A body of arbitrary bytes is a 400 or a 422."""
    assert client.post("/predict", content=body, headers=JSON).status_code in (400, 422)


@hypothesis_settings(max_examples=200, deadline=None)
@given(document=DOCUMENTS)
def test_arbitrary_json_never_causes_a_500(client: TestClient, document: object) -> None:
    """An arbitrary JSON document, including Python's NaN and Infinity, never causes a 500."""
    body = json.dumps(document)
    assert client.post("/predict", content=body, headers=JSON).status_code in (200, 400, 413, 422)


@hypothesis_settings(max_examples=100, deadline=None)
@given(header=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_arbitrary_content_type_never_causes_a_500(client: TestClient, header: str) -> None:
    """An arbitrary Content-Type never causes a 500."""
    answer = client.post("/predict", content=b"{}", headers={"content-type": header})
    assert answer.status_code in (415, 422)
