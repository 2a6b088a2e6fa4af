"""Tests of a worker's connections and its drain, on a real event loop with real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config

from server.http.app import create_app
from server.inference.rows import Prediction, Rows
from server.inference.signature import schema_from_signature
from server.settings import Settings
from server.workers.balancing import ConnectionCounts
from server.workers.connection import HttpConnection, JoiningTransport
from server.workers.drain import DrainingServer
from server.workers.state import WorkerState
from server.workers.worker import Worker
from tests.support.models.served_models import served_model
from tests.support.scrapes import request_counts, samples
from tests.support.waiting import wait_until_async

TIMEOUT_SECONDS = 20  # a test that hangs fails after this time
# Values of the batcher's limit (seconds) that make all predict calls run in the event loop, or all in the thread.
INLINE_ALWAYS, INLINE_NEVER = float("inf"), -1.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
SCHEMA = schema_from_signature([{"name": "x", "type": "double"}], {})


class Recorder(asyncio.Transport):
    """A transport that records each write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def transport(recorder: Recorder) -> JoiningTransport:
    return JoiningTransport(recorder)


def test_head_and_body_are_one_write(recorder: Recorder, transport: JoiningTransport) -> None:
    """The head of each answer on a connection is sent in one write with its body."""
    for _ in range(2):
        transport.write(HEAD)
        transport.write(b"ok")
    assert recorder.written == [HEAD + b"ok"] * 2


def test_only_the_first_body_chunk_joins_the_head(recorder: Recorder, transport: JoiningTransport) -> None:
    """Only the first chunk of a body is joined to the head; the others are written as they come."""
    for data in (HEAD, b"o", b"k", b""):
        transport.write(data)
    assert recorder.written == [HEAD + b"o", b"k", b""]


def test_body_resembling_a_head_is_sent_immediately(recorder: Recorder, transport: JoiningTransport) -> None:
    """A body that looks like a head is sent with its own head and not held back."""
    transport.write(HEAD)
    transport.write(HEAD)
    assert recorder.written == [HEAD + HEAD]


def test_flush_sends_a_head_without_body_once(recorder: Recorder, transport: JoiningTransport) -> None:
    """Flushing sends a held head, and a second flush sends nothing."""
    transport.write(HEAD)
    transport.flush()
    transport.flush()
    assert recorder.written == [HEAD]


def test_100_continue_is_sent_immediately(recorder: Recorder, transport: JoiningTransport) -> None:
    """100 Continue is sent at once, because the client waits for it before it sends its body."""
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert recorder.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_close_sends_buffered_data_first(recorder: Recorder, transport: JoiningTransport) -> None:
    """Closing the transport first sends a held head."""
    transport.write(HEAD)
    transport.close()
    assert recorder.written == [HEAD]
    assert recorder.closed


def test_other_methods_are_those_of_the_wrapped_transport(transport: JoiningTransport) -> None:
    """The joining transport delegates methods that it does not define to the wrapped transport."""
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)


@pytest.mark.parametrize(("graceful", "drain"), [(30, 28), (4, 2), (3, 1.5), (1, 0.5)])
def test_drain_ends_before_gunicorn_kills_the_worker(graceful: int, drain: float) -> None:
    """A drain ends 2 s before Gunicorn's graceful timeout, or after half of a short one."""
    worker = Worker.__new__(Worker)
    worker.cfg = SimpleNamespace(graceful_timeout=graceful)
    assert worker.drain_seconds == drain


class GatedEngine:
    """An engine that returns each row's number, raises for 13, and blocks while ``open`` is not set."""

    name = "gate"
    uses_pandas = False

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.threads = set[int]()
        self.open = threading.Event()
        self.open.set()

    def predict(self, rows: Rows) -> Prediction:
        self.calls.append(rows.numbers[:, 0].tolist())
        self.threads.add(threading.get_ident())
        assert self.open.wait(TIMEOUT_SECONDS), "the test did not open the gate in time"
        if (rows.numbers[:, 0] == 13).any():
            raise LookupError("secret of the model")
        return Prediction(rows.numbers[:, 0].tolist(), None)


@dataclass
class FakeWorker:
    """A stand-in for Worker with the attributes that DrainingServer uses."""

    config: Config
    drain_seconds: float = TIMEOUT_SECONDS
    notifications: int = 0
    connection_counts: ConnectionCounts = field(default_factory=ConnectionCounts)
    slot: int = 1
    expected_workers: int = 1
    predict_timeout: float = 1e9
    stuck_seconds: float = 0.0

    def exit_stuck(self, seconds: float) -> None:
        self.stuck_seconds = seconds

    def notify(self) -> None:
        self.notifications += 1


@dataclass
class RunningServer:
    """A running server with its address, its engine, its clients and the writes to its sockets."""

    server: DrainingServer
    worker: FakeWorker
    address: tuple[str, int]
    task: asyncio.Task[None]
    engine: GatedEngine = field(default_factory=GatedEngine)
    writes: list[bytes] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    @property
    def state(self) -> WorkerState:
        state: WorkerState = self.server.lifespan.state["worker"]
        return state

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    async def block_prediction_of(self, number: float) -> Client:
        """Return a client whose request is in a predict call that blocks until the engine is opened."""
        self.engine.open.clear()
        client = await self.connect()
        client.predict(number)
        await wait_until_async(lambda: [number] in self.engine.calls)
        return client

    async def start_drain(self) -> None:
        self.server.should_exit = True
        await wait_until_async(lambda: self.state.draining)

    async def wait_until_stopped(self) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.task


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    """An HTTP client that sends exactly the given bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, text: str) -> None:
        self.writer.write(text.encode())

    def get(self, path: str, method: str = "GET") -> None:
        self.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n")

    def predict(self, number: float, headers: str = "") -> None:
        body = json.dumps({"x": number})
        self.send(f"POST /predict HTTP/1.1\r\ncontent-type: application/json\r\n{headers}")
        self.send(f"content-length: {len(body)}\r\n\r\n{body}")

    async def head(self) -> Answer:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split()[1]), headers, b"")

    async def answer(self) -> Answer:
        answer = await self.head()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
        return answer

    async def read_until_closed(self) -> bytes:
        """Return all bytes received until the server closes the connection."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.reader.read()


def recording_protocol(writes: list[bytes]) -> type[HttpConnection]:
    """Return the connection class, changed to record each write to its socket."""

    class RecordingTransport:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._transport.write(data)

    class RecordingConnection(HttpConnection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(RecordingTransport(transport))

    return RecordingConnection


def create_test_app(engine: GatedEngine) -> ASGIApp:
    model = served_model(
        engine, name="gate", version="1", uri="models:/gate/1", trained_on=None, schema=SCHEMA, example={"x": -1.0}
    )
    return create_app(Settings.from_env({"REPLICA": "one"}), model)


@asynccontextmanager
async def listening(
    *, drain_seconds: float = TIMEOUT_SECONDS, app: ASGIApp | None = None, inline: float = INLINE_NEVER
) -> AsyncIterator[RunningServer]:
    """Run a server with a gated engine. If calls run in the event loop, the engine must stay open, or it blocks it."""
    engine, writes = GatedEngine(), list[bytes]()
    config = Config(app or create_test_app(engine), log_config=None, **Worker.CONFIG_KWARGS)
    worker = FakeWorker(config, drain_seconds)
    server = DrainingServer(worker)  # type: ignore[arg-type]
    with socket.socket() as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.workers.drain.HttpConnection", recording_protocol(writes))
        patch.setattr("server.inference.batcher.INLINE_LIMIT_SECONDS", inline)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        address = listener.getsockname()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until_async(lambda: server.started)
        engine.calls.clear()  # the calls of the warm-up
        engine.threads.clear()
        running = RunningServer(server, worker, address, task, engine, writes)
        try:
            yield running
        finally:
            engine.open.set()
            for client in running.clients:
                client.writer.close()
            server.should_exit = True
            await running.wait_until_stopped()


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [INLINE_ALWAYS, INLINE_NEVER], ids=["loop", "thread"])
async def test_answer_is_one_write(inline: float) -> None:
    """Each answer is one write with the replica's headers, and the connection stays open for the next request."""
    async with listening(inline=inline) as running:
        client = await running.connect()
        for number in (1, 2):
            client.predict(number)
            answer = await client.answer()
            assert answer.status == 200
            assert json.loads(answer.body)["prediction"] == number
            assert "connection" not in answer.headers
            assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
            assert "server" not in answer.headers
        assert len(running.writes) == 2
        assert all(write.startswith(b"HTTP/1.1 200 OK") and write.endswith(b"}") for write in running.writes)


@pytest.mark.anyio
async def test_response_to_head_is_not_delayed() -> None:
    """The answer to HEAD, which has no body, is sent without waiting for one."""
    async with listening() as running:
        client = await running.connect()
        client.get("/health", method="HEAD")
        assert (await client.head()).status == 200
        client.get("/ready")
        assert (await client.answer()).body == b'{"status":"ready"}'
        assert len(running.writes) == 2


@pytest.mark.anyio
async def test_large_asset_is_sent_completely() -> None:
    """A file that is sent in many chunks arrives completely."""
    async with listening() as running:
        client = await running.connect()
        client.get("/assets/redoc/js/redoc.standalone.js")
        answer = await client.answer()
        assert answer.status == 200
        assert len(answer.body) > 100_000


@pytest.mark.anyio
async def test_expect_continue_is_answered_before_the_response() -> None:
    """A client that sends Expect: 100-continue gets 100 Continue before it sends its body, then the answer."""
    async with listening() as running:
        client = await running.connect()
        client.send("POST /predict HTTP/1.1\r\ncontent-type: application/json\r\n")
        client.send("expect: 100-continue\r\ncontent-length: 7\r\n\r\n")
        assert (await client.head()).status == 100
        client.send('{"x":4}')
        assert json.loads((await client.answer()).body)["prediction"] == 4


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [INLINE_ALWAYS, INLINE_NEVER], ids=["loop", "thread"])
async def test_pipelined_requests_are_answered_in_order(inline: float) -> None:
    """Requests sent without waiting for answers are answered in their order."""
    async with listening(inline=inline) as running:
        client = await running.connect()
        for number in (1, 2, 3):
            client.predict(number)
        assert [json.loads((await client.answer()).body)["prediction"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.anyio
async def test_fast_model_predicts_in_the_event_loop() -> None:
    """Concurrent clients of a fast model each get their own answer, computed in the event loop's thread."""
    async with listening(inline=INLINE_ALWAYS) as running:
        clients = [await running.connect() for _ in range(8)]
        for _ in range(3):
            for number, client in enumerate(clients):
                client.predict(number)
            for number, client in enumerate(clients):
                assert json.loads((await client.answer()).body)["prediction"] == number
        assert sorted(number for call in running.engine.calls for number in call) == sorted([*range(8)] * 3)
        assert running.engine.threads == {threading.get_ident()}
        assert running.state.batcher.pending == 0


@pytest.mark.anyio
async def test_disconnected_client_is_not_predicted() -> None:
    """A client that disconnects while its rows wait is removed from the queue, and they are never predicted."""
    async with listening() as running:
        blocked = await running.block_prediction_of(1)
        leaver, stayer = await running.connect(), await running.connect()
        leaver.predict(2)
        await wait_until_async(lambda: running.state.batcher.pending == 1)
        stayer.predict(3)
        await wait_until_async(lambda: running.state.batcher.pending == 2)
        assert len(running.server.server_state.tasks) == 3
        leaver.writer.close()
        await wait_until_async(lambda: len(running.server.server_state.tasks) == 2)
        running.engine.open.set()
        for client, number in ((blocked, 1), (stayer, 3)):
            assert json.loads((await client.answer()).body)["prediction"] == number
        assert running.engine.calls == [[1], [3]]
        assert running.state.batcher.pending == 0


@pytest.mark.anyio
async def test_disconnect_during_prediction_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client that disconnects while its rows are predicted causes no error, and the next request is answered."""
    async with listening() as running:
        leaver = await running.block_prediction_of(1)
        leaver.writer.close()
        await wait_until_async(lambda: not running.server.server_state.tasks)
        running.engine.open.set()
        client = await running.connect()
        client.predict(2)
        assert (await client.answer()).status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.anyio
async def test_disconnect_while_sending_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client that disconnects in the middle of its body causes no prediction and no error in the log."""
    async with listening() as running:
        client = await running.connect()
        client.send("POST /predict HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        await wait_until_async(lambda: len(running.server.server_state.tasks) == 1)
        client.writer.close()
        await wait_until_async(lambda: not running.server.server_state.tasks)
        assert running.engine.calls == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text", ["NONSENSE\r\n\r\n", "GET / HTTP/1.1\r\ncontent-length: abc\r\n\r\n", "\x16\x03\x01 hi"]
)
async def test_malformed_http_gets_a_problem_document(text: str) -> None:
    """Malformed HTTP gets a problem document with status 400, and the connection is closed."""
    async with listening() as running:
        client = await running.connect()
        client.send(text)
        answer = await client.answer()
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
        assert answer.headers["x-model-version"] == "1"
        assert json.loads(answer.body)["title"] == "Bad Request"
        assert await client.read_until_closed() == b""
        client = await running.connect()
        client.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        series = samples((await client.answer()).body.decode())
        assert request_counts(series) == {("other", 400): 1}


@pytest.mark.anyio
@pytest.mark.parametrize("part", ["x" * 1000, "x: y\r\n" * 100], ids=["one", "many"])
async def test_header_above_64_kib_is_refused(part: str) -> None:
    """A header of more than 64 KiB, in one line or in many, gets 400, and a shorter one is read."""
    async with listening() as running:
        client = await running.connect()
        client.send("GET /ready HTTP/1.1\r\nx: " + part)
        await asyncio.sleep(0.05)
        client.send(part.removesuffix("\r\n") + "\r\n\r\n")
        assert (await client.answer()).status == 200
        start = "GET /ready HTTP/1.1\r\nx: "
        client.send(start)
        # One byte too many, not more: bytes that the server does not read would make it reset the connection.
        client.send((part * 200)[: 65_537 - len(start)])
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["detail"]) == (400, "the header is too large")


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [INLINE_ALWAYS, INLINE_NEVER], ids=["loop", "thread"])
async def test_model_error_is_logged_but_not_sent(inline: float, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of the model is logged with its traceback, and the client gets 500 without its text."""
    async with listening(inline=inline) as running:
        client = await running.connect()
        client.predict(13)
        answer = await client.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "LookupError: secret of the model" in caplog.text
        client.predict(1)  # the connection stays usable
        assert (await client.answer()).status == 200


@pytest.mark.anyio
async def test_drain_refuses_connections_and_closes_open_ones() -> None:
    """A stopping server refuses new connections and answers on open ones with Connection: close."""
    async with listening() as running:
        idle = await running.connect()
        idle.get("/ready")
        assert (await idle.answer()).status == 200
        blocked = await running.block_prediction_of(1)
        await running.start_drain()
        with pytest.raises(ConnectionRefusedError):
            await running.connect()
        idle.get("/ready")
        refused = await idle.answer()
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        assert await idle.read_until_closed() == b""
        assert not running.task.done()
        running.engine.open.set()
        answer = await blocked.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await blocked.read_until_closed() == b""
        await running.wait_until_stopped()
        assert running.worker.notifications > 0


@pytest.mark.anyio
async def test_drain_answers_requests_on_open_connections() -> None:
    """A prediction request that arrives on an open connection during the drain is answered, not refused."""
    async with listening() as running:
        late = await running.connect()
        late.get("/ready")
        await late.answer()
        blocked = await running.block_prediction_of(1)
        await running.start_drain()
        late.predict(2)
        await wait_until_async(lambda: running.state.batcher.pending == 1)
        running.engine.open.set()
        for client, number in ((blocked, 1), (late, 2)):
            answer = await client.answer()
            assert json.loads(answer.body)["prediction"] == number
            assert answer.headers["connection"] == "close"
        await running.wait_until_stopped()


@pytest.mark.anyio
async def test_drain_closes_quiet_connections() -> None:
    """A drain closes connections that send no more requests, and ends before its deadline."""
    async with listening() as running:
        quiet = await running.connect()
        quiet.get("/ready")
        await quiet.answer()
        running.server.should_exit = True
        assert await quiet.read_until_closed() == b""
        await running.wait_until_stopped()


@pytest.mark.anyio
async def test_stuck_predict_call_ends_the_worker() -> None:
    """A worker exits if a predict call runs longer than its timeout, but not after the call has returned."""
    async with listening() as running:
        client = await running.connect()
        client.predict(1)
        assert (await client.answer()).status == 200
        running.worker.predict_timeout = 0.05
        await asyncio.sleep(0.3)
        assert running.worker.stuck_seconds == 0
        blocked = await running.block_prediction_of(2)
        await wait_until_async(lambda: running.worker.stuck_seconds > 0.05)
        running.engine.open.set()
        assert (await blocked.answer()).status == 200


@pytest.mark.anyio
async def test_drain_deadline_answers_waiting_requests_503() -> None:
    """Requests that wait at the drain's deadline get 503, and the running predict call may still finish."""
    async with listening(drain_seconds=0.2) as running:
        blocked = await running.block_prediction_of(1)
        waiting = await running.connect()
        waiting.predict(2)
        await wait_until_async(lambda: running.state.batcher.pending == 1)
        running.server.should_exit = True
        refused = await waiting.answer()
        assert refused.status == 503
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"] == "1"
        running.engine.open.set()
        assert (await blocked.answer()).status == 200
        await running.wait_until_stopped()
        assert running.engine.calls == [[1]]


@pytest.mark.anyio
async def test_worker_stops_when_its_master_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker stops if its master has died."""
    async with listening() as running:
        monkeypatch.setattr(os, "getppid", lambda: -1)
        await running.wait_until_stopped()


@pytest.mark.anyio
async def test_app_without_a_worker_state_is_served_and_drained() -> None:
    """The server also runs and drains an ASGI app that has no WorkerState."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with listening(app=app) as running:
        client = await running.connect()
        client.get("/")
        assert (await client.head()).status == 204
