"""/metrics of the real app, in one process: the names that dashboards stand on, and what is counted under them."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from server.http.app import create_app
from server.inference.model import Model
from server.inference.rows import Prediction, Rows
from server.inference.schema import InputSchema
from server.metrics.counts import PREDICTIONS, ROUTES
from server.settings import Settings
from server.system import cgroup
from tests.support.models.served_models import served_model
from tests.support.scrapes import request_counts, samples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient

PATIENCE = 20  # seconds until a test that hangs fails instead
SETTINGS = Settings.from_env({"REPLICA": "one", "MAX_PENDING": "6", "MAX_BATCH_ROWS": "4"})
# A contract: others build dashboards on it.
NAMES = {
    "forkcast_requests": ("counter", {"route", "status"}),
    "forkcast_request_seconds": ("histogram", {"route", "le"}),
    "forkcast_wait_seconds": ("histogram", {"le"}),
    "forkcast_predict_seconds": ("histogram", {"le"}),
    "forkcast_batch_rows": ("histogram", {"le"}),
    "forkcast_pending_rows": ("gauge", set()),
    "forkcast_sheds": ("counter", {"reason"}),
    "forkcast_workers": ("gauge", set()),
    "forkcast_model_info": ("gauge", {"name", "version", "engine", "digest"}),
    "forkcast_model_stale": ("gauge", set()),
    "forkcast_memory_shared_bytes": ("gauge", set()),
    "forkcast_memory_private_bytes": ("gauge", set()),
    "forkcast_memory_used_bytes": ("gauge", set()),
    "forkcast_cpu_seconds": ("counter", set()),
    "forkcast_cpu_limit": ("gauge", set()),
    "forkcast_memory_limit_bytes": ("gauge", set()),
}


class Gate:
    """An engine that answers each row's number, refuses 13, and waits while it is shut."""

    name = "fake"
    frames = False

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def predict(self, rows: Rows) -> Prediction:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if 13 in rows.numbers:
            raise LookupError("no such number")
        return Prediction(rows.numbers[:, 0].tolist(), None)


def model_of(gate: Gate, **changes: Any) -> Model:
    fields: dict[str, Any] = {
        "name": "numbers",
        "uri": "models:/numbers@champion",
        "trained_on": None,
        "schema": InputSchema.from_signature([{"name": "x", "type": "double"}], {}),
        "example": {"x": 1.0},
    }
    return served_model(gate, **fields | changes)


@pytest.fixture(autouse=True)
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 512_000_000)
    monkeypatch.setattr(cgroup, "memory_used", lambda: 200_000_000)
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: 0.5)
    monkeypatch.setattr(cgroup, "cpu_seconds", lambda: 12.5)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def client(gate: Gate) -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS, model_of(gate)), raise_server_exceptions=False) as client:
        yield client


def scrape(client: TestClient) -> dict[str, float]:
    return samples(client.get("/metrics").text)


def test_metrics_have_the_documented_names_and_labels(client: TestClient) -> None:
    """The names, kinds and labels are those that were promised, and there are no others."""
    families = list(read_text(client.get("/metrics").text))
    assert {family.name: family.type for family in families} == {name: kind for name, (kind, _) in NAMES.items()}
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels == NAMES[family.name][1], family.name
        assert family.documentation


def test_series_are_there_before_anything_happens(client: TestClient) -> None:
    """Rates can be told from the first scrape on: what was never counted is 0."""
    found = scrape(client)
    for route in ROUTES:
        assert found[f'forkcast_requests_total{{route="{route}",status="200"}}'] == 0
    for route in PREDICTIONS:
        assert found[f'forkcast_request_seconds_count{{route="{route}"}}'] == 0
    for reason in ("full", "draining"):
        assert found[f'forkcast_sheds_total{{reason="{reason}"}}'] == 0
    assert found["forkcast_workers"] == 1


def test_histogram_buckets_cover_latencies_and_batch_sizes(client: TestClient) -> None:
    """Latencies have a bucket for the objective of a second between 0.5 ms and 10 s, and batches one a power of two."""
    found = scrape(client)

    def buckets(name: str, labels: str = "") -> list[str]:
        return [match[1] for key in found if (match := re.match(rf'{name}_bucket{{le="([^"]+)"{labels}}}', key))]

    latencies = buckets("forkcast_request_seconds", ',route="/predict"')
    assert {"0.0005", "1.0", "10.0", "+Inf"} <= set(latencies)
    assert len(latencies) == 15
    assert buckets("forkcast_batch_rows") == [*(f"{2.0**power}" for power in range(13)), "+Inf"]


def test_responses_count_by_route_and_status(client: TestClient) -> None:
    """Each answer counts under its route and its status, whatever it was; the first scrape sees those before it."""
    for document in ({"x": 1}, {"x": 2}, {"x": 13}, {"y": 1}):
        client.post("/predict", json=document)
    client.post("/predict", content=b"{", headers={"content-type": "application/json"})
    client.post("/predict", content=b"{}", headers={"content-type": "text/plain"})
    client.get("/predict")
    for path in ("/health", "/health", "/ready", "/", "/docs", "/nowhere"):
        client.get(path)
    client.post("/health")
    found = scrape(client)
    assert request_counts(found) == {
        ("/predict", 200): 2,
        ("/predict", 500): 1,
        ("/predict", 422): 1,
        ("/predict", 400): 1,
        ("/predict", 415): 1,
        ("/predict", 405): 1,
        ("/health", 200): 2,
        ("/health", 405): 1,
        ("/ready", 200): 1,
        ("other", 200): 2,
        ("other", 404): 1,
    }
    # A wrong method never got to the endpoint.
    assert found['forkcast_request_seconds_count{route="/predict"}'] == 6
    assert request_counts(scrape(client))["other", 200] == 3  # the first scrape


def test_unknown_paths_make_no_series(client: TestClient) -> None:
    """However many paths a client makes up, they are one series; so are methods."""
    client.get("/nowhere")
    before = set(scrape(client))
    for path in ("/a", "/predict/", "/x//predict", "/health/x", "/v2/infer", "/v3/models/x/infer", '/"}', "/\u00e9"):
        assert client.get(path).status_code == 404
        assert client.request("BREW", path).status_code == 404
    found = scrape(client)
    assert set(found) == before
    assert request_counts(found)["other", 404] == 17


def test_waits_count_requests_and_calls_count_rows(client: TestClient) -> None:
    """A request waits once, whatever rows it has; calls are counted with their rows, and not those of the warm-up."""
    client.post("/predict", json={"x": 1})
    client.post("/predict", json={"instances": [[1], [2], [3]]})
    client.post("/predict", json={"instances": [[1]] * 6})  # in calls of 4 and of 2
    found = scrape(client)
    assert found["forkcast_wait_seconds_count"] == 3
    assert found["forkcast_predict_seconds_count"] == found["forkcast_batch_rows_count"] == 4
    assert found["forkcast_batch_rows_sum"] == 10
    at_most = {rows: found[f'forkcast_batch_rows_bucket{{le="{rows}"}}'] for rows in ("1.0", "2.0", "4.0")}
    assert at_most == {"1.0": 1, "2.0": 2, "4.0": 4}
    assert 0 < found["forkcast_predict_seconds_sum"] < found['forkcast_request_seconds_sum{route="/predict"}']


def test_refusals_count_by_reason(gate: Gate, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused requests count by reason, and what waits is told while it does."""
    monkeypatch.setattr("server.inference.batcher.INLINE", -1.0)  # as for a slow model: its calls run in the thread
    gate.open.clear()
    gate.entered.clear()
    with ThreadPoolExecutor(2) as others:
        held = others.submit(client.post, "/predict", json={"x": 1})
        assert gate.entered.wait(PATIENCE)
        waiting = others.submit(client.post, "/predict", json={"instances": [[1]] * 6})
        while scrape(client)["forkcast_pending_rows"] < 6:
            assert not waiting.done()
        assert client.post("/predict", json={"x": 1}).status_code == 503
        gate.open.set()
        assert (held.result(PATIENCE).status_code, waiting.result(PATIENCE).status_code) == (200, 200)
    client.app_state["worker"].batcher.close()
    assert [client.post("/predict", json={"x": 1}).status_code for _ in range(2)] == [503, 503]
    client.app_state["worker"].draining = True
    assert client.get("/ready").status_code == 503
    found = scrape(client)
    assert found['forkcast_sheds_total{reason="full"}'] == 1
    assert found['forkcast_sheds_total{reason="draining"}'] == 2  # /ready asks for nothing
    assert request_counts(found)["/predict", 503] == 3
    assert found["forkcast_pending_rows"] == 0


@pytest.mark.parametrize("stale", [None, "the registry does not answer"])
def test_model_info_labels_and_staleness_are_exposed(gate: Gate, stale: str | None) -> None:
    """The model is told by its labels, whatever it is called, and whether it is a last good copy."""
    model = model_of(gate, name='a "b"\n', version="8", stale=stale)
    with TestClient(create_app(SETTINGS, model)) as client:
        families = {family.name: family.samples for family in read_text(client.get("/metrics").text)}
    (info,) = families["forkcast_model_info"]
    assert info.labels == {"name": 'a "b"\n', "version": "8", "engine": "fake", "digest": "d" * 64}
    assert info.value == 1
    assert families["forkcast_model_stale"][0].value == (stale is not None)


def test_process_and_cgroup_memory_are_exposed(client: TestClient) -> None:
    """The processes' memory is told, and that of the control group as /health has it."""
    found = scrape(client)
    assert found["forkcast_memory_private_bytes"] > 1_000_000
    assert found["forkcast_memory_shared_bytes"] >= 0
    health = client.get("/health").json()["memory"]
    assert {name: found[f"forkcast_memory_{name}_bytes"] for name in health} == health


def test_missing_cgroup_omits_its_series(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no limit, or nothing tells what is used, there is no such series."""
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)
    monkeypatch.setattr(cgroup, "memory_used", lambda: None)
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: None)
    names = {series for series in scrape(client) if "memory" in series or "cpu" in series}
    assert names == {"forkcast_memory_shared_bytes", "forkcast_memory_private_bytes"}


def test_cpu_time_and_limit_come_from_the_cgroup(client: TestClient) -> None:
    """CPU time and its limit are the control group's, where it has a limit: without one it is the machine's."""
    found = scrape(client)
    assert (found["forkcast_cpu_seconds_total"], found["forkcast_cpu_limit"]) == (12.5, 0.5)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=x", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=a.b", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0;q=0.5", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0",
        ),
    ],
)
def test_scrape_format_follows_the_accept_header(client: TestClient, accept: str | None, kind: str) -> None:
    """The form is the one that the client asks for, named, and it can be read as that."""
    answer = client.get("/metrics", headers={} if accept is None else {"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    read = read_openmetrics if kind.startswith("application/openmetrics-text") else read_text
    assert {family.name for family in read(answer.text)} == set(NAMES)


def test_only_get_and_head_are_allowed(client: TestClient) -> None:
    """HEAD gets the head of an answer, and nothing can be posted."""
    assert client.head("/metrics").status_code == 200
    assert client.post("/metrics").status_code == 405


def test_default_process_metrics_are_not_exposed(client: TestClient) -> None:
    """What prometheus_client tells of a process by itself is not told: it would be that of any one worker."""
    assert {family.name for family in REGISTRY.collect()} & {"python_info", "process_open_fds"}
    assert all(series.startswith("forkcast_") for series in scrape(client))


def test_two_apps_count_apart(gate: Gate, client: TestClient) -> None:
    """An app that is given no metrics has its own; one that is given another's goes on with them."""
    client.post("/predict", json={"x": 1})
    edge: Any = client.app
    with TestClient(create_app(SETTINGS, model_of(gate))) as other:
        assert request_counts(scrape(other)) == {}
    with TestClient(create_app(SETTINGS, model_of(gate, version="8"), metrics=edge.metrics)) as after:
        found = scrape(after)
    assert request_counts(found)["/predict", 200] == 1
    assert [series for series in found if "model_info" in series and 'version="8"' in series]


def test_disconnected_client_counts_as_499(client: TestClient) -> None:
    """A client that went away before its answer counts with status 499."""

    async def leave(_sent: object) -> None:
        return None

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    edge: Any = client.app
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [(b"content-type", b"application/json")],
        "state": client.app_state,
    }
    assert client.portal is not None
    client.portal.call(edge, scope, gone, leave)
    assert request_counts(scrape(client)) == {("/predict", 499): 1}


def test_unforeseen_outside_of_predictions(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 500 of another route counts as one."""
    monkeypatch.setattr(cgroup, "memory_used", SimpleNamespace)  # no JSON
    assert client.get("/health").status_code == 500
    monkeypatch.undo()
    assert request_counts(scrape(client)) == {("/health", 500): 1}
