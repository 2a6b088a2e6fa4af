"""`POST /predict` as a bare ASGI application: what it reads, what it sends, and in how many pieces."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from server.errors import (
    BodyTooLarge,
    ClientDisconnected,
    Draining,
    Fault,
    InternalError,
    InvalidApiKey,
    InvalidBody,
    InvalidJson,
    InvalidRows,
    MalformedHttp,
    ModelNotFound,
    QueueFull,
    RequestError,
    RoutingError,
    SchemaMismatch,
    Unauthorized,
    Unavailable,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from server.inference.batcher import Batcher
from server.inference.model import Model
from server.inference.rows import Prediction, Row, Rows
from server.inference.schema import InputSchema
from server.protocols.endpoint import Endpoint
from server.protocols.predict import PredictProtocol
from server.protocols.request_body import declared_of, read_body
from server.settings import Settings
from server.workers.state import WorkerState
from tests.support.models.served_models import served_model

PATIENCE = 20  # seconds until a test that hangs fails instead
LIMIT = 60
SETTINGS = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": str(LIMIT), "MAX_PENDING": "3"})
MARKS = ((b"x-served-by", b"one/77"), (b"x-model-version", b"4"))
JSON = (b"content-type", b"application/json")
BODY = b'{"x": 2.5}'


class Double:
    """An engine that answers twice the row, or one label whatever the row, or fails."""

    name = "double"
    frames = False

    def __init__(self, error: Exception | None = None, label: object = None) -> None:
        self.error = error
        self.label = label
        self.seen: list[float] = []

    def predict(self, rows: Rows) -> Prediction:
        numbers = rows.numbers[:, 0].tolist()
        self.seen += numbers
        if self.error is not None:
            raise self.error
        return Prediction([self.label or 2 * number for number in numbers], [0.5] * len(numbers))


def double(engine: Double) -> Model:
    return served_model(
        engine,
        name="double",
        version="4",
        uri="models:/double/4",
        trained_on=None,
        schema=InputSchema.from_signature([{"name": "x", "type": "double"}], {"x": [-100, 100]}),
        example={"x": 0.0},
    )


def endpoint(engine: Double) -> tuple[Endpoint, Callable[[Sequence[Row]], Prediction]]:
    model = double(engine)
    return Endpoint(PredictProtocol(model, SETTINGS.max_pending), LIMIT), lambda values: engine.predict(
        model.schema.rows(values)
    )


@dataclass
class Client:
    """What a client sends, message by message, and what it gets. Once it has said all, it stays and listens."""

    parts: list[bytes | Message] = field(default_factory=lambda: [BODY])
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])
    got: list[Message] = field(default_factory=list)
    read: int = 0

    async def receive(self) -> Message:
        if self.read == len(self.parts):
            raise AssertionError("there is nothing more to receive")
        part = self.parts[self.read]
        self.read += 1
        if isinstance(part, bytes):
            return {"type": "http.request", "body": part, "more_body": self.read < len(self.parts)}
        return part

    async def send(self, message: Message) -> None:
        self.got.append(message)

    def scope(self, batcher: object) -> Scope:
        state = {"worker": WorkerState(batcher, MARKS)}  # type: ignore[arg-type]
        return {"type": "http", "method": "POST", "path": "/predict", "headers": self.headers, "state": state}

    @property
    def answer(self) -> Answer:
        """The one answer, which must have come whole, in one head and one body, and say who gave it."""
        start, body = self.got
        headers = dict(start["headers"])
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        assert not body.get("more_body", False)
        assert len(headers) == len(start["headers"])
        assert all(type(name) is type(value) is bytes and name == name.lower() for name, value in headers.items())
        assert headers.pop(b"content-length") == str(len(body["body"])).encode()
        assert tuple((name, headers.pop(name)) for name, _ in MARKS) == MARKS
        kind = headers.pop(b"content-type")
        assert kind == (b"application/json" if start["status"] == 200 else b"application/problem+json")
        return Answer(start["status"], headers, body["body"])


@dataclass
class Answer:
    """``headers`` are those that not every answer has."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


Doing = Callable[[Endpoint, Batcher], Awaitable[None]]


def run(doing: Doing, engine: Double | None = None) -> None:
    """Do something with the endpoint and a worker's queue, on a loop."""

    async def main() -> None:
        predict, compute = endpoint(engine or Double())
        with ThreadPoolExecutor(max_workers=1) as executor:
            batcher = Batcher(compute, executor, max_batch_rows=2, max_pending=3)
            async with asyncio.timeout(PATIENCE):
                await doing(predict, batcher)
            assert batcher.pending == 0

    asyncio.run(main())


def answered(client: Client, engine: Double | None = None, batcher: object = None) -> Answer:
    """The answer that this client gets; from a queue of its own kind, if there is one."""

    async def ask(predict: Endpoint, own: Batcher) -> None:
        await predict(client.scope(batcher or own), client.receive, client.send)

    run(ask, engine)
    return client.answer


def problem(answer: Answer, status: int) -> dict[str, Any]:
    document = answer.document
    assert (answer.status, document["status"], document["type"]) == (status, status, "about:blank")
    assert document["title"]
    return document


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (BODY, {"prediction": 5.0, "confidence": 0.5, "model_version": "4"}),
        (b'{"features": [3]}', {"prediction": 6.0, "confidence": 0.5, "model_version": "4"}),
        (
            b'{"instances": [[1], {"x": 2}, [3]]}',
            {"predictions": [2.0, 4.0, 6.0], "confidences": [0.5] * 3, "model_version": "4"},
        ),
    ],
)
def test_valid_rows_return_predictions_without_extra_headers(body: bytes, document: object) -> None:
    """Valid rows get their predictions, and the answer's head has nothing but its kind, its length and who gave it."""
    answer = answered(Client([body]))
    assert (answer.status, answer.headers) == (200, {})
    assert answer.document == document


@given(st.data())
def test_body_may_arrive_in_several_messages(data: st.DataObject) -> None:
    """A body may come in any number of messages, empty ones among them."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(BODY)), max_size=6)))
    parts = [BODY[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(BODY)], strict=True)]
    client = Client([*parts])
    assert answered(client).document["prediction"] == 5
    assert client.read == len(parts)


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.request", "body": BODY}],
        [{"type": "http.request", "more_body": True}, {"type": "http.request", "body": BODY}],
        [{"type": "http.request", "body": BODY, "more_body": True}, {"type": "http.request"}],
    ],
)
def test_omitted_asgi_fields_have_defaults(messages: list[bytes | Message]) -> None:
    """A message without a body has an empty one, and one that promises no more is the last, as ASGI has it."""
    assert answered(Client(messages)).document["prediction"] == 5


@pytest.mark.parametrize(
    ("sizes", "read"), [([LIMIT + 1], 1), ([LIMIT + 1, 9], 1), ([LIMIT, 1, 9], 2), ([20, 20, 20, 1, 9], 4)]
)
def test_body_above_limit_is_a_413(sizes: list[int], read: int) -> None:
    """A body past the limit, whole or in parts, is a 413 that names it, and is read no further."""
    client = Client([b" " * size for size in sizes])
    detail = problem(answered(client), 413)["detail"]
    assert detail == f"the body is larger than {LIMIT} bytes"
    assert client.read == read


def test_body_declared_too_large() -> None:
    """A body that is declared larger than the limit is a 413 before any of it is read."""
    client = Client(headers=[(b"content-length", str(LIMIT + 1).encode()), JSON])
    problem(answered(client), 413)
    assert client.read == 0


@pytest.mark.parametrize("parts", [[LIMIT], [LIMIT, 0], [1, LIMIT - 1], [20, 20, 20]])
def test_body_at_the_limit(parts: list[int]) -> None:
    """A body of as many bytes as there may be is taken, whole, in parts, and declared."""
    whole = BODY.ljust(LIMIT)
    pieces: list[bytes | Message] = []
    for size in parts:
        pieces.append(whole[:size])
        whole = whole[size:]
    client = Client(pieces, [JSON, (b"content-length", str(LIMIT).encode())])
    assert answered(client).document["prediction"] == 5


@pytest.mark.parametrize(
    ("headers", "body", "status", "said"),
    [
        ([JSON], b"{", 400, "the body is not JSON: "),
        ([JSON], b"", 400, "the body is not JSON: "),
        ([], BODY, 415, "got none"),
        ([(b"content-type", b"text/\xe9")], BODY, 415, "got 'text/é'"),
        ([JSON], b'{"x": 101}', 422, "x must be a number from -100 to 100, got 101"),
        ([JSON], b'{"instances": [[1], [2], [3], [4]]}', 422, "must have at most 3 rows, got 4"),
    ],
)
def test_invalid_request_costs_no_prediction(
    headers: list[tuple[bytes, bytes]], body: bytes, status: int, said: str
) -> None:
    """What is not a valid request is a problem that says why, and costs no prediction."""
    engine = Double()
    assert said in problem(answered(Client([body], headers), engine), status)["detail"]
    assert engine.seen == []


def kinds(root: type[RequestError]) -> list[type[RequestError]]:
    below = root.__subclasses__()
    return below + [kind for one in below for kind in kinds(one)]


class Refusing:
    """A queue that refuses everybody."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def submit(self, _rows: Sequence[Row]) -> asyncio.Future[Prediction]:
        raise self._error


@pytest.mark.parametrize("kind", [kind for kind in kinds(RequestError) if kind is not ClientDisconnected])
def test_each_known_error_has_its_status(kind: type[RequestError], caplog: pytest.LogCaptureFixture) -> None:
    """Each error that has a status is answered with it, its headers, its words and its faults, and is not logged."""
    error = kind("what is wrong", [Fault("is wrong", "#/x")])
    answer = answered(Client(), batcher=Refusing(error))
    document = problem(answer, kind.status)
    assert document["detail"] == "what is wrong"
    assert document["errors"] == [{"detail": "is wrong", "pointer": "#/x"}]
    assert answer.headers == {name.lower().encode(): value.encode() for name, value in kind.headers.items()}
    assert caplog.messages == []


def test_all_error_classes_have_a_status() -> None:
    """These are all errors that have a status, and what it is."""
    assert {kind: kind.status for kind in kinds(RequestError)} == {
        RoutingError: 404,
        MalformedHttp: 400,
        InvalidJson: 400,
        InvalidBody: 400,
        Unauthorized: 401,
        InvalidApiKey: 401,
        ModelNotFound: 404,
        SchemaMismatch: 422,
        InternalError: 500,
        BodyTooLarge: 413,
        UnsupportedMediaType: 415,
        UnsupportedEncoding: 415,
        InvalidRows: 422,
        ClientDisconnected: 499,
        Unavailable: 503,
        QueueFull: 503,
        Draining: 503,
    }


def test_full_or_closed_queue_is_a_503() -> None:
    """More rows than may wait, and rows for a worker that is stopping, are a 503 with Retry-After."""

    async def ask(predict: Endpoint, batcher: Batcher) -> None:
        waiting = batcher.submit([[1.0], [2.0]])
        for words in ("2 rows are waiting, at most 3 may", "this worker is stopping"):
            client = Client([b'{"instances": [[1], [2]]}'])
            await predict(client.scope(batcher), client.receive, client.send)
            assert words in problem(client.answer, 503)["detail"]
            assert client.answer.headers == {b"retry-after": b"1"}
            batcher.close()
        assert isinstance(waiting.exception(), Draining)

    run(ask)


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "http.disconnect"}],
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}],
    ],
)
def test_client_leaving_while_sending_is_a_499(parts: list[bytes | Message], caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes away before its body has come is a 499 without words, which nobody reads or logs."""
    engine = Double()
    answer = answered(Client(parts), engine)
    assert (answer.status, answer.headers, answer.body) == (499, {}, b"")
    assert engine.seen == []
    assert caplog.messages == []


def test_client_leaving_while_waiting_is_a_499(caplog: pytest.LogCaptureFixture) -> None:
    """The answer that is waited for stands in the request's state: cancelled there, it ends the request with a 499."""
    engine = Double()

    async def leave(predict: Endpoint, batcher: Batcher) -> None:
        client = Client()
        scope = client.scope(batcher)
        request = asyncio.ensure_future(predict(scope, client.receive, client.send))
        while "answer" not in scope["state"]:
            await asyncio.sleep(0)
        assert batcher.pending == 1
        scope["state"]["answer"].cancel()
        await request
        assert (client.answer.status, client.answer.body) == (499, b"")

    run(leave, engine)
    assert engine.seen == []
    assert caplog.messages == []


def test_cancelled_request_ends_without_response(caplog: pytest.LogCaptureFixture) -> None:
    """A request whose own task is cancelled, as at the end of a drain, ends at once and answers nothing."""

    async def cancel(predict: Endpoint, batcher: Batcher) -> None:
        client = Client()
        scope = client.scope(batcher)
        request = asyncio.ensure_future(predict(scope, client.receive, client.send))
        while "answer" not in scope["state"]:
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert client.got == []
        assert scope["state"]["answer"].cancelled()
        await asyncio.sleep(0)

    run(cancel)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("engine", "batcher", "named"),
    [
        (Double(LookupError("secret")), None, "LookupError: secret"),
        (Double(label=object()), None, "TypeError: Type is not JSON serializable: object"),
        (None, Refusing(ZeroDivisionError("secret")), "ZeroDivisionError: secret"),
    ],
)
def test_unexpected_error_is_logged_500_without_details(
    engine: Double | None, batcher: object, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw, in the model, after it or before, is a 500 that echoes none of it, and is logged."""
    answer = answered(Client(), engine, batcher)
    document = problem(answer, 500)
    assert document["detail"] == "internal server error; the details are in the server log"
    assert answer.headers == {}
    assert b"secret" not in answer.body
    assert caplog.record_tuples == [
        ("server.protocols.endpoint", logging.ERROR, "unexpected error, answered with 500: POST /predict")
    ]
    assert "Traceback" in caplog.text
    assert named in caplog.text


def test_requests_at_the_same_time() -> None:
    """Requests that come together each get their own answer, with the state of none in another's."""
    engine = Double()

    async def ask(predict: Endpoint, batcher: Batcher) -> None:
        clients = [Client([b'{"x": %d}' % number]) for number in (1, 2, 3)]
        calls = [predict(client.scope(batcher), client.receive, client.send) for client in clients]
        await asyncio.gather(*calls)
        assert [client.answer.document["prediction"] for client in clients] == [2, 4, 6]

    run(ask, engine)
    assert engine.seen == [1, 2, 3]


def test_compressed_body_is_a_415() -> None:
    """A body that is compressed is a 415 that says so; one that is declared to be as it is, is read."""
    for encoding, status in ((b"gzip", 415), (b"identity", 200)):
        body = b"\x1f\x8b\x08" if status == 415 else BODY
        answer = answered(Client([body], [JSON, (b"content-encoding", encoding)]))
        if status == 415:
            assert "the Content-Encoding 'gzip' is not read" in problem(answer, status)["detail"]
            assert answer.headers == {b"accept-encoding": b"identity"}
        else:
            assert answer.document["prediction"] == 5


def read(headers: list[tuple[bytes, bytes]], parts: list[bytes | Message]) -> bytes:
    return asyncio.run(_read(headers, parts))


async def _read(headers: list[tuple[bytes, bytes]], parts: list[bytes | Message]) -> bytes:
    media_type, declared = declared_of(headers)
    PredictProtocol(double(Double()), 3).reader(media_type, headers)
    return await read_body(Client(parts).receive, declared, LIMIT)


@given(st.lists(st.binary(max_size=LIMIT // 2), min_size=1, max_size=6))
def test_body_parts_are_joined_up_to_the_limit(parts: list[bytes]) -> None:
    """A body is its parts, joined, where they are not larger than the limit together."""
    whole = b"".join(parts)
    if len(whole) <= LIMIT:
        assert read([JSON], [*parts]) == whole
    else:
        with pytest.raises(BodyTooLarge):
            read([JSON], [*parts])


def test_headers_in_any_order() -> None:
    """Other headers, wherever they stand, are none of its business."""
    others = [(b"host", b"x"), (b"accept", b"*/*"), (b"content-encoding-of-mine", b"x")]
    length = (b"content-length", str(len(BODY)).encode())
    for headers in ([*others, JSON, length], [length, *others, JSON], [JSON, *others, length]):
        assert read(headers, [BODY]) == BODY
