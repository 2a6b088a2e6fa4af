"""Tests of /metrics of the real app in one process: the names that dashboards depend on, and the values under them."""

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
from server.inference.signature import schema_from_signature
from server.metrics.counts import PREDICTION_ROUTES, ROUTES
from server.settings import Settings
from server.system import cgroup
from tests.support.models.served_models import served_model
from tests.support.scrapes import request_counts, samples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient

TIMEOUT_SECONDS = 20  # a test that hangs fails after this time
SETTINGS = Settings.from_env({"REPLICA": "one", "MAX_PENDING": "6", "MAX_BATCH_ROWS": "4"})
# Type and labels of each metric. Users build dashboards on them, so a change here breaks compatibility.
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


class GatedEngine:
    """An engine that returns each row's number, raises for 13, and blocks while ``open`` is not set."""

    name = "fake"
    uses_pandas = False

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def predict(self, rows: Rows) -> Prediction:
        self.entered.set()
        assert self.open.wait(TIMEOUT_SECONDS)
        if 13 in rows.numbers:
            raise LookupError("no such number")
        return Prediction(rows.numbers[:, 0].tolist(), None)


def numbers_model(engine: GatedEngine, **changes: Any) -> Model:
    fields: dict[str, Any] = {
        "name": "numbers",
        "uri": "models:/numbers@champion",
        "trained_on": None,
        "schema": schema_from_signature([{"name": "x", "type": "double"}], {}),
        "example": {"x": 1.0},
    }
    return served_model(engine, **fields | changes)


@pytest.fixture(autouse=True)
def cgroup_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the limits and the use of CPU and memory of the control group."""
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 512_000_000)
    monkeypatch.setattr(cgroup, "memory_used", lambda: 200_000_000)
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: 0.5)
    monkeypatch.setattr(cgroup, "cpu_seconds", lambda: 12.5)


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
def client(engine: GatedEngine) -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS, numbers_model(engine)), raise_server_exceptions=False) as client:
        yield client


def scrape(client: TestClient) -> dict[str, float]:
    return samples(client.get("/metrics").text)


def test_metrics_have_the_documented_names_and_labels(client: TestClient) -> None:
    """Names, types and labels are exactly the documented ones."""
    families = list(read_text(client.get("/metrics").text))
    assert {family.name: family.type for family in families} == {name: type_ for name, (type_, _) in NAMES.items()}
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels == NAMES[family.name][1], family.name
        assert family.documentation


def test_series_exist_before_the_first_request(client: TestClient) -> None:
    """Series exist with the value 0 from the start, so that rates can be computed from the first scrape on."""
    series = scrape(client)
    for route in ROUTES:
        assert series[f'forkcast_requests_total{{route="{route}",status="200"}}'] == 0
    for route in PREDICTION_ROUTES:
        assert series[f'forkcast_request_seconds_count{{route="{route}"}}'] == 0
    for reason in ("full", "draining"):
        assert series[f'forkcast_sheds_total{{reason="{reason}"}}'] == 0
    assert series["forkcast_workers"] == 1


def test_histogram_buckets_cover_latencies_and_batch_sizes(client: TestClient) -> None:
    """Latencies have buckets from 0.5 ms to 10 s, among them 1 s, and batch sizes one for each power of two."""
    series = scrape(client)

    def buckets(name: str, labels: str = "") -> list[str]:
        return [match[1] for key in series if (match := re.match(rf'{name}_bucket{{le="([^"]+)"{labels}}}', key))]

    latencies = buckets("forkcast_request_seconds", ',route="/predict"')
    assert {"0.0005", "1.0", "10.0", "+Inf"} <= set(latencies)
    assert len(latencies) == 15
    assert buckets("forkcast_batch_rows") == [*(f"{2.0**power}" for power in range(13)), "+Inf"]


def test_responses_count_by_route_and_status(client: TestClient) -> None:
    """Each response counts under its route and status, and a scrape is counted only after it is answered."""
    for document in ({"x": 1}, {"x": 2}, {"x": 13}, {"y": 1}):
        client.post("/predict", json=document)
    client.post("/predict", content=b"{", headers={"content-type": "application/json"})
    client.post("/predict", content=b"{}", headers={"content-type": "text/plain"})
    client.get("/predict")
    for path in ("/health", "/health", "/ready", "/", "/docs", "/nowhere"):
        client.get(path)
    client.post("/health")
    series = scrape(client)
    assert request_counts(series) == {
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
    # A request with a wrong method is refused before it reaches the endpoint, which measures the time.
    assert series['forkcast_request_seconds_count{route="/predict"}'] == 6
    assert request_counts(scrape(client))["other", 200] == 3  # the first scrape


def test_unknown_paths_create_no_series(client: TestClient) -> None:
    """Requests with unknown paths or methods are counted in one series, however many there are."""
    client.get("/nowhere")
    initial = set(scrape(client))
    for path in ("/a", "/predict/", "/x//predict", "/health/x", "/v2/infer", "/v3/models/x/infer", '/"}', "/\u00e9"):
        assert client.get(path).status_code == 404
        assert client.request("BREW", path).status_code == 404
    series = scrape(client)
    assert set(series) == initial
    assert request_counts(series)["other", 404] == 17


def test_waits_count_requests_and_calls_count_rows(client: TestClient) -> None:
    """A request counts as one wait however many rows it has; calls count with their rows, except the warm-up's."""
    client.post("/predict", json={"x": 1})
    client.post("/predict", json={"instances": [[1], [2], [3]]})
    client.post("/predict", json={"instances": [[1]] * 6})  # in calls of 4 and of 2
    series = scrape(client)
    assert series["forkcast_wait_seconds_count"] == 3
    assert series["forkcast_predict_seconds_count"] == series["forkcast_batch_rows_count"] == 4
    assert series["forkcast_batch_rows_sum"] == 10
    at_most = {rows: series[f'forkcast_batch_rows_bucket{{le="{rows}"}}'] for rows in ("1.0", "2.0", "4.0")}
    assert at_most == {"1.0": 1, "2.0": 2, "4.0": 4}
    assert 0 < series["forkcast_predict_seconds_sum"] < series['forkcast_request_seconds_sum{route="/predict"}']


def test_refusals_count_by_reason(engine: GatedEngine, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused requests count by reason, and waiting rows are a gauge."""
    # All calls run in the thread, as for a slow model.
    monkeypatch.setattr("server.inference.batcher.INLINE_LIMIT_SECONDS", -1.0)
    engine.open.clear()
    engine.entered.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(client.post, "/predict", json={"x": 1})
        assert engine.entered.wait(TIMEOUT_SECONDS)
        waiting = threads.submit(client.post, "/predict", json={"instances": [[1]] * 6})
        while scrape(client)["forkcast_pending_rows"] < 6:
            assert not waiting.done()
        assert client.post("/predict", json={"x": 1}).status_code == 503
        engine.open.set()
        assert (running.result(TIMEOUT_SECONDS).status_code, waiting.result(TIMEOUT_SECONDS).status_code) == (200, 200)
    client.app_state["worker"].batcher.close()
    assert [client.post("/predict", json={"x": 1}).status_code for _ in range(2)] == [503, 503]
    client.app_state["worker"].draining = True
    assert client.get("/ready").status_code == 503
    series = scrape(client)
    assert series['forkcast_sheds_total{reason="full"}'] == 1
    assert series['forkcast_sheds_total{reason="draining"}'] == 2  # /ready is not a refused prediction
    assert request_counts(series)["/predict", 503] == 3
    assert series["forkcast_pending_rows"] == 0


@pytest.mark.parametrize("stale", [None, "the registry does not answer"])
def test_model_info_labels_and_staleness_are_exposed(engine: GatedEngine, stale: str | None) -> None:
    """The model is described by labels, also with quotes in its name, and a last good copy sets the stale gauge."""
    model = numbers_model(engine, name='a "b"\n', version="8", stale=stale)
    with TestClient(create_app(SETTINGS, model)) as client:
        families = {family.name: family.samples for family in read_text(client.get("/metrics").text)}
    (info,) = families["forkcast_model_info"]
    assert info.labels == {"name": 'a "b"\n', "version": "8", "engine": "fake", "digest": "d" * 64}
    assert info.value == 1
    assert families["forkcast_model_stale"][0].value == (stale is not None)


def test_process_and_cgroup_memory_are_exposed(client: TestClient) -> None:
    """Memory of the processes is exposed, and that of the control group equals the figures in /health."""
    series = scrape(client)
    assert series["forkcast_memory_private_bytes"] > 1_000_000
    assert series["forkcast_memory_shared_bytes"] >= 0
    health = client.get("/health").json()["memory"]
    assert {name: series[f"forkcast_memory_{name}_bytes"] for name in health} == health


def test_missing_cgroup_omits_its_series(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without limits or usage of a control group, their series are omitted."""
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)
    monkeypatch.setattr(cgroup, "memory_used", lambda: None)
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: None)
    names = {series for series in scrape(client) if "memory" in series or "cpu" in series}
    assert names == {"forkcast_memory_shared_bytes", "forkcast_memory_private_bytes"}


def test_cpu_time_and_limit_come_from_the_cgroup(client: TestClient) -> None:
    """If the control group has a CPU limit, its CPU time and the limit are exposed."""
    series = scrape(client)
    assert (series["forkcast_cpu_seconds_total"], series["forkcast_cpu_limit"]) == (12.5, 0.5)


@pytest.mark.parametrize(
    ("accept", "content_type"),
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
def test_scrape_format_follows_the_accept_header(client: TestClient, accept: str | None, content_type: str) -> None:
    """The Accept header selects the format, which Content-Type names, and the body can be parsed as such."""
    answer = client.get("/metrics", headers={} if accept is None else {"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    read = read_openmetrics if content_type.startswith("application/openmetrics-text") else read_text
    assert {family.name for family in read(answer.text)} == set(NAMES)


def test_only_get_and_head_are_allowed(client: TestClient) -> None:
    """/metrics answers HEAD with 200 and POST with 405."""
    assert client.head("/metrics").status_code == 200
    assert client.post("/metrics").status_code == 405


def test_default_process_metrics_are_not_exposed(client: TestClient) -> None:
    """The process metrics of prometheus_client are not exposed, because they would be those of an arbitrary worker."""
    assert {family.name for family in REGISTRY.collect()} & {"python_info", "process_open_fds"}
    assert all(series.startswith("forkcast_") for series in scrape(client))


def test_apps_count_separately_unless_they_share_metrics(engine: GatedEngine, client: TestClient) -> None:
    """An app without a given Metrics object creates its own; one with another app's object continues its counts."""
    client.post("/predict", json={"x": 1})
    app: Any = client.app
    with TestClient(create_app(SETTINGS, numbers_model(engine))) as separate:
        assert request_counts(scrape(separate)) == {}
    with TestClient(create_app(SETTINGS, numbers_model(engine, version="8"), metrics=app.metrics)) as successor:
        series = scrape(successor)
    assert request_counts(series)["/predict", 200] == 1
    assert any("model_info" in key and 'version="8"' in key for key in series)


def test_disconnected_client_counts_as_499(client: TestClient) -> None:
    """A request whose client disconnects before the answer counts with status 499."""

    async def send(_message: object) -> None:
        return None

    async def receive_disconnect() -> dict[str, str]:
        return {"type": "http.disconnect"}

    app: Any = client.app
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [(b"content-type", b"application/json")],
        "state": client.app_state,
    }
    assert client.portal is not None
    client.portal.call(app, scope, receive_disconnect, send)
    assert request_counts(scrape(client)) == {("/predict", 499): 1}


def test_unexpected_error_of_health_counts_as_500(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception in /health counts as a response with status 500."""
    monkeypatch.setattr(cgroup, "memory_used", SimpleNamespace)  # not serializable as JSON
    assert client.get("/health").status_code == 500
    monkeypatch.undo()
    assert request_counts(scrape(client)) == {("/health", 500): 1}
