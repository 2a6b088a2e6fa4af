"""The worker's connections and its drain, on a real event loop with real sockets."""

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
from server.inference.schema import InputSchema
from server.settings import Settings
from server.workers.balancing import Shares
from server.workers.connection import HttpConnection, JoiningTransport
from server.workers.drain import DrainingServer
from server.workers.state import WorkerState
from server.workers.worker import Worker
from tests.support.models.served_models import served_model
from tests.support.scrapes import request_counts, samples
from tests.support.waiting import wait_until_async

PATIENCE = 20  # seconds until a test that hangs fails instead
QUICK, SLOW = float("inf"), -1.0  # whatever a call takes, it is quick enough for the loop, or is not
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
SCHEMA = InputSchema.from_signature([{"name": "x", "type": "double"}], {})


class Recorder(asyncio.Transport):
    """A transport that keeps what is written to it."""

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
    """A head waits for its body and goes out with it; the next answer on the connection does the same."""
    for _ in range(2):
        transport.write(HEAD)
        transport.write(b"ok")
    assert recorder.written == [HEAD + b"ok"] * 2


def test_only_the_first_body_chunk_joins_the_head(recorder: Recorder, transport: JoiningTransport) -> None:
    """Only the first piece of a body is joined to the head; the others follow as they come."""
    for data in (HEAD, b"o", b"k", b""):
        transport.write(data)
    assert recorder.written == [HEAD + b"o", b"k", b""]


def test_body_resembling_a_head_is_sent_immediately(recorder: Recorder, transport: JoiningTransport) -> None:
    """A body that reads like a head is sent with its own head, not kept."""
    transport.write(HEAD)
    transport.write(HEAD)
    assert recorder.written == [HEAD + HEAD]


def test_flush_sends_a_head_without_body_once(recorder: Recorder, transport: JoiningTransport) -> None:
    """A head without a body is sent by a flush, once."""
    transport.write(HEAD)
    transport.flush()
    transport.flush()
    assert recorder.written == [HEAD]


def test_continue_is_not_held(recorder: Recorder, transport: JoiningTransport) -> None:
    """100 Continue goes out at once: the client sends nothing until it has it."""
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert recorder.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_close_sends_buffered_data_first(recorder: Recorder, transport: JoiningTransport) -> None:
    """Closing sends what is left, first."""
    transport.write(HEAD)
    transport.close()
    assert recorder.written == [HEAD]
    assert recorder.closed


def test_everything_else_is_the_transport_s_own(transport: JoiningTransport) -> None:
    """What the joining transport does not know, it hands on."""
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)


@pytest.mark.parametrize(("graceful", "drain"), [(30, 28), (4, 2), (3, 1.5), (1, 0.5)])
def test_drain_ends_before_the_kill(graceful: int, drain: float) -> None:
    """The drain leaves Gunicorn's deadline a margin, and takes half of one that is short."""
    worker = Worker.__new__(Worker)
    worker.cfg = SimpleNamespace(graceful_timeout=graceful)
    assert worker.drain_seconds == drain


class Gate:
    """A model whose label is its row; while shut, a predict call waits in it."""

    name = "gate"
    frames = False

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.threads = set[int]()
        self.open = threading.Event()
        self.open.set()

    def predict(self, rows: Rows) -> Prediction:
        self.calls.append(rows.numbers[:, 0].tolist())
        self.threads.add(threading.get_ident())
        assert self.open.wait(PATIENCE), "nobody opened the gate"
        if (rows.numbers[:, 0] == 13).any():
            raise LookupError("secret of the model")
        return Prediction(rows.numbers[:, 0].tolist(), None)


@dataclass
class StandIn:
    """What a server needs of its worker."""

    config: Config
    drain_seconds: float = PATIENCE
    notified: int = 0
    shares: Shares = field(default_factory=Shares)
    slot: int = 1
    siblings: int = 1
    longest_call: float = 1e9
    gave_up: float = 0.0

    def give_up(self, seconds: float) -> None:
        self.gave_up = seconds

    def notify(self) -> None:
        self.notified += 1


@dataclass
class Site:
    """A server at work: where it listens, what it wrote, and how to stop it."""

    server: DrainingServer
    worker: StandIn
    address: tuple[str, int]
    task: asyncio.Task[None]
    gate: Gate = field(default_factory=Gate)
    writes: list[bytes] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    @property
    def serving(self) -> WorkerState:
        state: WorkerState = self.server.lifespan.state["worker"]
        return state

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    async def shut_gate_behind(self, number: float) -> Client:
        """A client whose request is in its predict call when this returns."""
        self.gate.open.clear()
        client = await self.connect()
        client.predict(number)
        await wait_until_async(lambda: [number] in self.gate.calls)
        return client

    async def start_to_drain(self) -> None:
        self.server.should_exit = True
        await wait_until_async(lambda: self.serving.draining)

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.task


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    """A client that says exactly what it is told to."""

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
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split()[1]), headers, b"")

    async def answer(self) -> Answer:
        answer = await self.head()
        async with asyncio.timeout(PATIENCE):
            answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
        return answer

    async def rest(self) -> bytes:
        """What comes until the server hangs up."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()


def watched(writes: list[bytes]) -> type[HttpConnection]:
    """The protocol, over sockets that record each write."""

    class Watching:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._transport.write(data)

    class Watched(HttpConnection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Watching(transport))

    return Watched


def forkcast(gate: Gate) -> ASGIApp:
    model = served_model(
        gate, name="gate", version="1", uri="models:/gate/1", trained_on=None, schema=SCHEMA, example={"x": -1.0}
    )
    return create_app(Settings.from_env({"REPLICA": "one"}), model)


@asynccontextmanager
async def listening(
    *, drain_seconds: float = PATIENCE, app: ASGIApp | None = None, inline: float = SLOW
) -> AsyncIterator[Site]:
    """A server over a gate. With a model that counts as quick the gate must stay open: it would hold the loop."""
    gate, writes = Gate(), list[bytes]()
    config = Config(app or forkcast(gate), log_config=None, **Worker.CONFIG_KWARGS)
    worker = StandIn(config, drain_seconds)
    server = DrainingServer(worker)  # type: ignore[arg-type]
    with socket.socket() as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.workers.drain.HttpConnection", watched(writes))
        patch.setattr("server.inference.batcher.INLINE", inline)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        address = listener.getsockname()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until_async(lambda: server.started)
        gate.calls.clear()  # those of the warm-up
        gate.threads.clear()
        site = Site(server, worker, address, task, gate, writes)
        try:
            yield site
        finally:
            gate.open.set()
            for client in site.clients:
                client.writer.close()
            server.should_exit = True
            await site.ended()


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [QUICK, SLOW], ids=["loop", "thread"])
async def test_answer_is_one_write(inline: float) -> None:
    """An answer leaves whole in one write, and the connection is kept for the next."""
    async with listening(inline=inline) as site:
        client = await site.connect()
        for number in (1, 2):
            client.predict(number)
            answer = await client.answer()
            assert answer.status == 200
            assert json.loads(answer.body)["prediction"] == number
            assert "connection" not in answer.headers
            assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
            assert "server" not in answer.headers
        assert len(site.writes) == 2
        assert all(write.startswith(b"HTTP/1.1 200 OK") and write.endswith(b"}") for write in site.writes)


@pytest.mark.anyio
async def test_response_to_head_is_not_delayed() -> None:
    """The answer to HEAD, which is a head alone, is not kept back."""
    async with listening() as site:
        client = await site.connect()
        client.get("/health", method="HEAD")
        assert (await client.head()).status == 200
        client.get("/ready")
        assert (await client.answer()).body == b'{"status":"ready"}'
        assert len(site.writes) == 2


@pytest.mark.anyio
async def test_asset_is_whole() -> None:
    """A file of many pieces arrives as it is."""
    async with listening() as site:
        client = await site.connect()
        client.get("/assets/redoc/js/redoc.standalone.js")
        answer = await client.answer()
        assert answer.status == 200
        assert len(answer.body) > 100_000


@pytest.mark.anyio
async def test_expect_continue_is_answered_before_the_response() -> None:
    """A client that waits for 100 Continue gets it, and then its answer."""
    async with listening() as site:
        client = await site.connect()
        client.send("POST /predict HTTP/1.1\r\ncontent-type: application/json\r\n")
        client.send("expect: 100-continue\r\ncontent-length: 7\r\n\r\n")
        assert (await client.head()).status == 100
        client.send('{"x":4}')
        assert json.loads((await client.answer()).body)["prediction"] == 4


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [QUICK, SLOW], ids=["loop", "thread"])
async def test_pipelined_requests_are_answered_in_order(inline: float) -> None:
    """Requests sent without waiting for answers are answered in their order."""
    async with listening(inline=inline) as site:
        client = await site.connect()
        for number in (1, 2, 3):
            client.predict(number)
        assert [json.loads((await client.answer()).body)["prediction"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.anyio
async def test_requests_of_a_quick_model_share_calls() -> None:
    """Many clients of a quick model get their own answers, all of them made in the loop's thread."""
    async with listening(inline=QUICK) as site:
        clients = [await site.connect() for _ in range(8)]
        for _ in range(3):
            for number, client in enumerate(clients):
                client.predict(number)
            for number, client in enumerate(clients):
                assert json.loads((await client.answer()).body)["prediction"] == number
        assert sorted(number for call in site.gate.calls for number in call) == sorted([*range(8)] * 3)
        assert site.gate.threads == {threading.get_ident()}
        assert site.serving.batcher.pending == 0


@pytest.mark.anyio
async def test_disconnected_client_is_not_predicted() -> None:
    """A client that hangs up while it waits leaves the queue: its rows are never predicted."""
    async with listening() as site:
        held = await site.shut_gate_behind(1)
        gone, stays = await site.connect(), await site.connect()
        gone.predict(2)
        await wait_until_async(lambda: site.serving.batcher.pending == 1)
        stays.predict(3)
        await wait_until_async(lambda: site.serving.batcher.pending == 2)
        assert len(site.server.server_state.tasks) == 3
        gone.writer.close()
        await wait_until_async(lambda: len(site.server.server_state.tasks) == 2)
        site.gate.open.set()
        for client, number in ((held, 1), (stays, 3)):
            assert json.loads((await client.answer()).body)["prediction"] == number
        assert site.gate.calls == [[1], [3]]
        assert site.serving.batcher.pending == 0


@pytest.mark.anyio
async def test_disconnect_during_prediction_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client that hangs up while its rows are predicted disturbs nobody, and nothing is logged as an error."""
    async with listening() as site:
        gone = await site.shut_gate_behind(1)
        gone.writer.close()
        await wait_until_async(lambda: not site.server.server_state.tasks)
        site.gate.open.set()
        client = await site.connect()
        client.predict(2)
        assert (await client.answer()).status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.anyio
async def test_disconnect_while_sending_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client that hangs up in the middle of its body costs no prediction and no error in the log."""
    async with listening() as site:
        client = await site.connect()
        client.send("POST /predict HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        await wait_until_async(lambda: len(site.server.server_state.tasks) == 1)
        client.writer.close()
        await wait_until_async(lambda: not site.server.server_state.tasks)
        assert site.gate.calls == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text", ["NONSENSE\r\n\r\n", "GET / HTTP/1.1\r\ncontent-length: abc\r\n\r\n", "\x16\x03\x01 hi"]
)
async def test_malformed_http_gets_a_problem_document(text: str) -> None:
    """What is no HTTP gets a problem document, and is hung up on."""
    async with listening() as site:
        client = await site.connect()
        client.send(text)
        answer = await client.answer()
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-served-by"] == f"one/{os.getpid()}"
        assert answer.headers["x-model-version"] == "1"
        assert json.loads(answer.body)["title"] == "Bad Request"
        assert await client.rest() == b""
        client = await site.connect()
        client.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        told = samples((await client.answer()).body.decode())
        assert request_counts(told) == {("other", 400): 1}


@pytest.mark.anyio
@pytest.mark.parametrize("part", ["x" * 1000, "x: y\r\n" * 100], ids=["one", "many"])
async def test_header_without_an_end(part: str) -> None:
    """A header that does not end, of one line or of many, is hung up on; one that is long and ends is read."""
    async with listening() as site:
        client = await site.connect()
        client.send("GET /ready HTTP/1.1\r\nx: " + part)
        await asyncio.sleep(0.05)
        client.send(part.removesuffix("\r\n") + "\r\n\r\n")
        assert (await client.answer()).status == 200
        start = "GET /ready HTTP/1.1\r\nx: "
        client.send(start)
        client.send((part * 200)[: 65_537 - len(start)])  # no more, or what nobody reads would reset the connection
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["detail"]) == (400, "the header is too large")


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [QUICK, SLOW], ids=["loop", "thread"])
async def test_unforeseen_is_logged(inline: float, caplog: pytest.LogCaptureFixture) -> None:
    """A model that breaks is a bare 500 on a connection that stays, and a traceback in the server's log."""
    async with listening(inline=inline) as site:
        client = await site.connect()
        client.predict(13)
        answer = await client.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "LookupError: secret of the model" in caplog.text
        client.predict(1)  # the connection is as good as before
        assert (await client.answer()).status == 200


@pytest.mark.anyio
async def test_drain_refuses_connections_and_closes_open_ones() -> None:
    """At a stop the door closes first; who is inside gets an answer, each with Connection: close."""
    async with listening() as site:
        idle = await site.connect()
        idle.get("/ready")
        assert (await idle.answer()).status == 200
        held = await site.shut_gate_behind(1)
        await site.start_to_drain()
        with pytest.raises(ConnectionRefusedError):
            await site.connect()
        idle.get("/ready")
        refused = await idle.answer()
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        assert await idle.rest() == b""
        assert not site.task.done()
        site.gate.open.set()
        answer = await held.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await held.rest() == b""
        await site.ended()
        assert site.worker.notified > 0


@pytest.mark.anyio
async def test_request_on_a_kept_connection_during_the_drain() -> None:
    """A prediction that arrives on a kept connection while the worker drains is made, not refused."""
    async with listening() as site:
        late = await site.connect()
        late.get("/ready")
        await late.answer()
        held = await site.shut_gate_behind(1)
        await site.start_to_drain()
        late.predict(2)
        await wait_until_async(lambda: site.serving.batcher.pending == 1)
        site.gate.open.set()
        for client, number in ((held, 1), (late, 2)):
            answer = await client.answer()
            assert json.loads(answer.body)["prediction"] == number
            assert answer.headers["connection"] == "close"
        await site.ended()


@pytest.mark.anyio
async def test_quiet_connections_do_not_hold_the_drain() -> None:
    """Kept connections that say nothing any more are closed, and the worker ends before its deadline."""
    async with listening() as site:
        quiet = await site.connect()
        quiet.get("/ready")
        await quiet.answer()
        site.server.should_exit = True
        assert await quiet.rest() == b""
        await site.ended()


@pytest.mark.anyio
async def test_stuck_call_is_given_up() -> None:
    """A predict call that runs for longer than the worker allows is noticed, and one that returned is not."""
    async with listening() as site:
        answered = await site.connect()
        answered.predict(1)
        assert (await answered.answer()).status == 200
        site.worker.longest_call = 0.05
        await asyncio.sleep(0.3)
        assert site.worker.gave_up == 0
        held = await site.shut_gate_behind(2)
        await wait_until_async(lambda: site.worker.gave_up > 0.05)
        site.gate.open.set()
        assert (await held.answer()).status == 200


@pytest.mark.anyio
async def test_drain_deadline_answers_waiting_requests_503() -> None:
    """At the deadline those who still wait get 503, and the call that runs may still answer."""
    async with listening(drain_seconds=0.2) as site:
        held = await site.shut_gate_behind(1)
        waiting = await site.connect()
        waiting.predict(2)
        await wait_until_async(lambda: site.serving.batcher.pending == 1)
        site.server.should_exit = True
        refused = await waiting.answer()
        assert refused.status == 503
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"] == "1"
        site.gate.open.set()
        assert (await held.answer()).status == 200
        await site.ended()
        assert site.gate.calls == [[1]]


@pytest.mark.anyio
async def test_worker_stops_when_its_master_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose master is gone stops by itself."""
    async with listening() as site:
        monkeypatch.setattr(os, "getppid", lambda: -1)
        await site.ended()


@pytest.mark.anyio
async def test_app_without_a_batcher() -> None:
    """The server drains an app that is not ours, too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with listening(app=app) as site:
        client = await site.connect()
        client.get("/")
        assert (await client.head()).status == 204
