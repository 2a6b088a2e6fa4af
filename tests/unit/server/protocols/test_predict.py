"""`POST /predict` as a bare ASGI application: the messages that it receives and sends."""

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
from server.inference.rows import Options, Prediction, Row, Rows
from server.inference.signature import schema_from_signature
from server.protocols.endpoint import Endpoint
from server.protocols.predict import PredictProtocol
from server.protocols.request_body import content_type_and_length, read_body
from server.settings import Settings
from server.workers.state import WorkerState
from tests.support.models.served_models import served_model

TIMEOUT_SECONDS = 20  # A test that hangs fails after this.
LIMIT_BYTES = 60
SETTINGS = Settings.from_env({"REPLICA": "one", "MAX_BODY_BYTES": str(LIMIT_BYTES), "MAX_PENDING": "3"})
IDENTITY_HEADERS = ((b"x-served-by", b"one/77"), (b"x-model-version", b"4"))
JSON = (b"content-type", b"application/json")
BODY = b'{"x": 2.5}'


class Double:
    """An engine that predicts twice the value of a row, or a fixed label, or raises an error."""

    name = "double"
    uses_pandas = False

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
        schema=schema_from_signature([{"name": "x", "type": "double"}], {"x": [-100, 100]}),
        example={"x": 0.0},
    )


def endpoint(engine: Double) -> tuple[Endpoint, Callable[[Sequence[Row]], Prediction]]:
    model = double(engine)
    return Endpoint(PredictProtocol(model, SETTINGS.max_pending), LIMIT_BYTES), lambda values: engine.predict(
        model.schema.to_rows(values)
    )


@dataclass
class Client:
    """A fake client: the ASGI messages that it sends, and those that it receives. It stays connected."""

    parts: list[bytes | Message] = field(default_factory=lambda: [BODY])
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])
    received: list[Message] = field(default_factory=list)
    read: int = 0

    async def receive(self) -> Message:
        if self.read == len(self.parts):
            raise AssertionError("the app receives after the last message")
        part = self.parts[self.read]
        self.read += 1
        if isinstance(part, bytes):
            return {"type": "http.request", "body": part, "more_body": self.read < len(self.parts)}
        return part

    async def send(self, message: Message) -> None:
        self.received.append(message)

    def scope(self, batcher: object) -> Scope:
        state = {"worker": WorkerState(batcher, IDENTITY_HEADERS)}  # type: ignore[arg-type]
        return {"type": "http", "method": "POST", "path": "/predict", "headers": self.headers, "state": state}

    @property
    def answer(self) -> Answer:
        """The answer, after checking that it is one start and one body message, with valid and identity headers."""
        start, body = self.received
        headers = dict(start["headers"])
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        assert not body.get("more_body", False)
        assert len(headers) == len(start["headers"])
        assert all(type(name) is type(value) is bytes and name == name.lower() for name, value in headers.items())
        assert headers.pop(b"content-length") == str(len(body["body"])).encode()
        assert tuple((name, headers.pop(name)) for name, _ in IDENTITY_HEADERS) == IDENTITY_HEADERS
        content_type = headers.pop(b"content-type")
        assert content_type == (b"application/json" if start["status"] == 200 else b"application/problem+json")
        return Answer(start["status"], headers, body["body"])


@dataclass
class Answer:
    """A response; ``headers`` are without those that every response has."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


Scenario = Callable[[Endpoint, Batcher], Awaitable[None]]


def run(scenario: Scenario, engine: Double | None = None) -> None:
    """Run a scenario with the endpoint and a worker's queue on an event loop."""

    async def main() -> None:
        predict, compute = endpoint(engine or Double())
        with ThreadPoolExecutor(max_workers=1) as executor:
            batcher = Batcher(compute, executor, max_batch_rows=2, max_pending=3)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await scenario(predict, batcher)
            assert batcher.pending == 0

    asyncio.run(main())


def answered(client: Client, engine: Double | None = None, batcher: object = None) -> Answer:
    """Return the answer to a client, from ``batcher`` instead of the worker's queue if it is set."""

    async def ask(predict: Endpoint, queue: Batcher) -> None:
        await predict(client.scope(batcher or queue), client.receive, client.send)

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
    """Valid rows are predicted, and the only headers are Content-Type, Content-Length and the identity headers."""
    answer = answered(Client([body]))
    assert (answer.status, answer.headers) == (200, {})
    assert answer.document == document


@given(st.data())
def test_body_may_arrive_in_several_messages(data: st.DataObject) -> None:
    """A body may arrive in any number of messages, some of them empty."""
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
    """As ASGI defines, a message without a body has an empty one, and one without more_body is the last."""
    assert answered(Client(messages)).document["prediction"] == 5


@pytest.mark.parametrize(
    ("sizes", "read"),
    [([LIMIT_BYTES + 1], 1), ([LIMIT_BYTES + 1, 9], 1), ([LIMIT_BYTES, 1, 9], 2), ([20, 20, 20, 1, 9], 4)],
)
def test_body_above_limit_is_a_413(sizes: list[int], read: int) -> None:
    """A body over the limit, in one part or several, is a 413 that names the limit, and is read no further."""
    client = Client([b" " * size for size in sizes])
    detail = problem(answered(client), 413)["detail"]
    assert detail == f"the body is larger than {LIMIT_BYTES} bytes"
    assert client.read == read


def test_content_length_over_limit_is_a_413_before_reading() -> None:
    """A Content-Length over the limit is a 413 before any of the body is read."""
    client = Client(headers=[(b"content-length", str(LIMIT_BYTES + 1).encode()), JSON])
    problem(answered(client), 413)
    assert client.read == 0


@pytest.mark.parametrize("parts", [[LIMIT_BYTES], [LIMIT_BYTES, 0], [1, LIMIT_BYTES - 1], [20, 20, 20]])
def test_body_of_exactly_the_limit_is_accepted(parts: list[int]) -> None:
    """A body of exactly the limit is accepted, in one part or several."""
    remaining = BODY.ljust(LIMIT_BYTES)
    pieces: list[bytes | Message] = []
    for size in parts:
        pieces.append(remaining[:size])
        remaining = remaining[size:]
    client = Client(pieces, [JSON, (b"content-length", str(LIMIT_BYTES).encode())])
    assert answered(client).document["prediction"] == 5


@pytest.mark.parametrize(
    ("headers", "body", "status", "reason"),
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
    headers: list[tuple[bytes, bytes]], body: bytes, status: int, reason: str
) -> None:
    """An invalid request is answered with the reason before anything is predicted."""
    engine = Double()
    assert reason in problem(answered(Client([body], headers), engine), status)["detail"]
    assert engine.seen == []


def descendants(error: type[RequestError]) -> list[type[RequestError]]:
    subclasses = error.__subclasses__()
    return subclasses + [descendant for subclass in subclasses for descendant in descendants(subclass)]


class FailingQueue:
    """A queue that raises an error for every request."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def submit(self, _rows: Sequence[Row], _options: Options | None) -> asyncio.Future[Prediction]:
        raise self._error


@pytest.mark.parametrize("error_type", sorted({*descendants(RequestError)} - {ClientDisconnected}, key=str))
def test_each_known_error_has_its_status(error_type: type[RequestError], caplog: pytest.LogCaptureFixture) -> None:
    """Each known error is answered with its status, headers, detail and faults, and is not logged."""
    error = error_type("what is wrong", [Fault("is wrong", "#/x")])
    answer = answered(Client(), batcher=FailingQueue(error))
    document = problem(answer, error_type.status)
    assert document["detail"] == "what is wrong"
    assert document["errors"] == [{"detail": "is wrong", "pointer": "#/x"}]
    assert answer.headers == {name.lower().encode(): value.encode() for name, value in error_type.headers.items()}
    assert caplog.messages == []


def test_all_error_classes_have_a_status() -> None:
    """The table lists every request error with its status, as the docstring of server/errors.py does."""
    assert {error_type: error_type.status for error_type in descendants(RequestError)} == {
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
    """A full queue, and a closed one of a worker that is stopping, answer 503 with Retry-After."""

    async def ask(predict: Endpoint, batcher: Batcher) -> None:
        waiting = batcher.submit([[1.0], [2.0]])
        for reason in ("2 rows are waiting, and 2 more would exceed the limit of 3", "this worker is stopping"):
            client = Client([b'{"instances": [[1], [2]]}'])
            await predict(client.scope(batcher), client.receive, client.send)
            assert reason in problem(client.answer, 503)["detail"]
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
def test_client_disconnecting_while_sending_is_a_499(
    parts: list[bytes | Message], caplog: pytest.LogCaptureFixture
) -> None:
    """A client that disconnects before the end of its body is a 499 without a body, and nothing is logged."""
    engine = Double()
    answer = answered(Client(parts), engine)
    assert (answer.status, answer.headers, answer.body) == (499, {}, b"")
    assert engine.seen == []
    assert caplog.messages == []


def test_client_disconnecting_while_waiting_is_a_499(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling the future in the request's state, as a disconnect does, ends the request with a 499."""
    engine = Double()

    async def disconnect(predict: Endpoint, batcher: Batcher) -> None:
        client = Client()
        scope = client.scope(batcher)
        request = asyncio.ensure_future(predict(scope, client.receive, client.send))
        while "answer" not in scope["state"]:
            await asyncio.sleep(0)
        assert batcher.pending == 1
        scope["state"]["answer"].cancel()
        await request
        assert (client.answer.status, client.answer.body) == (499, b"")

    run(disconnect, engine)
    assert engine.seen == []
    assert caplog.messages == []


def test_cancelled_request_ends_without_response(caplog: pytest.LogCaptureFixture) -> None:
    """A request whose task is cancelled, as at the end of a drain, ends at once without a response."""

    async def cancel(predict: Endpoint, batcher: Batcher) -> None:
        client = Client()
        scope = client.scope(batcher)
        request = asyncio.ensure_future(predict(scope, client.receive, client.send))
        while "answer" not in scope["state"]:
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert client.received == []
        assert scope["state"]["answer"].cancelled()
        await asyncio.sleep(0)

    run(cancel)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("engine", "batcher", "logged_error"),
    [
        (Double(LookupError("secret")), None, "LookupError: secret"),
        (Double(label=object()), None, "TypeError: Type is not JSON serializable: object"),
        (None, FailingQueue(ZeroDivisionError("secret")), "ZeroDivisionError: secret"),
    ],
)
def test_unexpected_error_is_logged_500_without_details(
    engine: Double | None, batcher: object, logged_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error, before, in or after the model, is logged and answered with a 500 without its details."""
    answer = answered(Client(), engine, batcher)
    document = problem(answer, 500)
    assert document["detail"] == "internal server error; the details are in the server log"
    assert answer.headers == {}
    assert b"secret" not in answer.body
    assert caplog.record_tuples == [
        ("server.protocols.endpoint", logging.ERROR, "unexpected error, answered with 500: POST /predict")
    ]
    assert "Traceback" in caplog.text
    assert logged_error in caplog.text


def test_concurrent_requests_get_their_own_answers() -> None:
    """Concurrent requests each get the answer to their own row."""
    engine = Double()

    async def ask(predict: Endpoint, batcher: Batcher) -> None:
        clients = [Client([b'{"x": %d}' % number]) for number in (1, 2, 3)]
        calls = [predict(client.scope(batcher), client.receive, client.send) for client in clients]
        await asyncio.gather(*calls)
        assert [client.answer.document["prediction"] for client in clients] == [2, 4, 6]

    run(ask, engine)
    assert engine.seen == [1, 2, 3]


def test_compressed_body_is_a_415() -> None:
    """A compressed body is a 415 that names its encoding; a body with the encoding identity is accepted."""
    for encoding, status in ((b"gzip", 415), (b"identity", 200)):
        body = b"\x1f\x8b\x08" if status == 415 else BODY
        answer = answered(Client([body], [JSON, (b"content-encoding", encoding)]))
        if status == 415:
            assert "Content-Encoding 'gzip' is not supported" in problem(answer, status)["detail"]
            assert answer.headers == {b"accept-encoding": b"identity"}
        else:
            assert answer.document["prediction"] == 5


def read(headers: list[tuple[bytes, bytes]], parts: list[bytes | Message]) -> bytes:
    return asyncio.run(_read(headers, parts))


async def _read(headers: list[tuple[bytes, bytes]], parts: list[bytes | Message]) -> bytes:
    content_type, content_length = content_type_and_length(headers)
    PredictProtocol(double(Double()), 3).reader(content_type, headers, b"")
    return await read_body(Client(parts).receive, content_length, LIMIT_BYTES)


@given(st.lists(st.binary(max_size=LIMIT_BYTES // 2), min_size=1, max_size=6))
def test_body_parts_are_joined_up_to_the_limit(parts: list[bytes]) -> None:
    """The parts of a body are joined, unless their total size is over the limit."""
    body = b"".join(parts)
    if len(body) <= LIMIT_BYTES:
        assert read([JSON], [*parts]) == body
    else:
        with pytest.raises(BodyTooLarge):
            read([JSON], [*parts])


def test_headers_may_be_in_any_order() -> None:
    """Content-Type and Content-Length are found in any order among other headers."""
    unrelated = [(b"host", b"x"), (b"accept", b"*/*"), (b"content-encoding-of-mine", b"x")]
    length = (b"content-length", str(len(BODY)).encode())
    for headers in ([*unrelated, JSON, length], [length, *unrelated, JSON], [JSON, *unrelated, length]):
        assert read(headers, [BODY]) == BODY
