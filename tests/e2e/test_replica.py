"""End-to-end tests of one replica started by `gunicorn -c gunicorn.conf.py`."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.rollout.replica_client import request_json
from tests.support.models import saved_models
from tests.support.programs.browser import Browser
from tests.support.stacks.local import Replica, StartReplica
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

IRIS = {"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.4, "petal width (cm)": 0.2}
DIABETES = dict.fromkeys(("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"), 0.01)
COVERTYPE = [2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, 1, 29]


def is_class(answer: dict[str, Any]) -> bool:
    return answer["prediction"] in range(1, 8) and 0 < answer["confidence"] <= 1


@pytest.mark.parametrize(
    ("save", "document", "is_expected"),
    [
        (saved_models.histogram_boosting, {"features": COVERTYPE}, is_class),
        (saved_models.iris_regression, IRIS, lambda answer: answer["prediction"] == 0 and answer["confidence"] > 0.9),
        (
            saved_models.diabetes_regressor,
            DIABETES,
            lambda answer: 25 < answer["prediction"] < 346 and answer["confidence"] is None,
        ),
        (saved_models.mixed_columns, {"colour": "red", "size": 35}, lambda answer: answer["prediction"] == "large"),
        (
            lambda path: saved_models.save_pyfunc(path, saved_models.Doubling()),
            {"x": 4.5},
            lambda answer: answer["prediction"] == 9.0,
        ),
    ],
    ids=["openmp", "iris", "regressor", "strings", "pyfunc"],
)
def test_any_model_is_served_by_preloaded_workers(
    start_replica: StartReplica,
    tmp_path: Path,
    save: Callable[[Path], Path],
    document: object,
    is_expected: Callable[[dict[str, Any]], bool],
) -> None:
    """A model of each type is loaded once, in the master, and both workers answer."""
    replica = start_replica(save(tmp_path / "model"), WEB_CONCURRENCY="2")
    with Load(replica.port, connections=16, document=document) as load:
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert len(load.counts.served_by) == 2
    assert replica.log.read_text().count("model loaded") == 1
    status, answer = replica.ask("POST", "/predict", document)
    assert status == 200
    assert is_expected(answer), answer


@pytest.fixture
def sleeping(start_replica: StartReplica, tmp_path: Path) -> Replica:
    """A replica of one worker whose predict calls take a second each."""
    model = saved_models.save_pyfunc(tmp_path / "model", saved_models.Sleeping())
    return start_replica(model, WEB_CONCURRENCY="1", MAX_PENDING="4")


def test_health_answers_while_the_model_computes(sleeping: Replica) -> None:
    """/health answers while a predict call of a second runs."""
    with ThreadPoolExecutor() as pool:
        prediction = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.2)
        assert sleeping.ask("GET", "/health")[0] == 200
        assert not prediction.done()
        assert prediction.result()[0] == 200


def test_full_queue_sheds_requests_and_recovers(sleeping: Replica) -> None:
    """Requests over the limit of waiting rows get 503, and all others get predictions."""
    with Load(sleeping.port, connections=12, max_requests=12, document={"x": 1}) as load:
        wait_until(lambda: sum(load.counts.statuses.values()) >= 12)
    assert load.counts.statuses[503] >= 1
    assert load.counts.statuses[200] >= 4  # those that may wait, and possibly one that was already being predicted
    assert load.counts.statuses[200] + load.counts.statuses[503] == 12
    assert sleeping.ask("POST", "/predict", {"x": 1})[0] == 200


def test_full_queue_names_when_to_try_again(sleeping: Replica) -> None:
    """The 503 of a full queue is a problem document, and its header Retry-After is 1 second."""
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(post, sleeping.port, {"x": 1}) for _ in range(8)]
        shed = [answer for answer in (call.result() for call in calls) if answer[0] == 503]
    assert shed
    for _, headers, document in shed:
        assert headers["retry-after"] == "1"
        assert headers["content-type"] == "application/problem+json"
        assert "rows are waiting" in document["detail"]


def post(port: int, document: object) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/predict", json.dumps(document), {"Content-Type": "application/json"})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(response.read())
    finally:
        connection.close()


def test_waiting_requests_share_a_predict_call(sleeping: Replica) -> None:
    """Requests that arrive during a predict call become one batch of the next call."""
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.3)
        later = [pool.submit(sleeping.ask, "POST", "/predict", {"x": 1}) for _ in range(3)]
        assert first.result()[1]["prediction"] == 1
        assert [call.result()[1]["prediction"] for call in later] == [3, 3, 3]


def test_closed_connection_costs_no_prediction(sleeping: Replica) -> None:
    """The request of a client that closes its connection while it waits is not predicted."""
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.2)
        closing_client = socket.create_connection(("127.0.0.1", sleeping.port))
        body = b'{"x": 1}'
        closing_client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        time.sleep(0.2)
        closing_client.close()
        waiting = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        assert first.result()[0] == 200
        assert waiting.result()[1]["prediction"] == 1
    assert "Traceback" not in sleeping.log.read_text()


def test_sigterm_finishes_accepted_requests(sleeping: Replica) -> None:
    """After SIGTERM, a request in flight is answered, new connections are refused, and the exit status is 0."""
    with ThreadPoolExecutor() as pool:
        call = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.3)
        sleeping.process.send_signal(signal.SIGTERM)
        assert call.result()[0] == 200
    assert sleeping.process.wait(30) == 0
    assert request_json(sleeping.address, "GET", "/health")[0] == 0


def test_draining_worker_is_not_ready(sleeping: Replica) -> None:
    """A draining worker answers /ready on an open connection with 503, Retry-After and Connection: close."""
    connection = http.client.HTTPConnection("127.0.0.1", sleeping.port, timeout=30)
    connection.request("GET", "/ready")
    assert connection.getresponse().read()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.3)
        sleeping.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        assert answer.status == 503
        assert answer.getheader("Connection") == "close"
        assert answer.getheader("Retry-After")
        assert call.result()[0] == 200
    connection.close()


def test_row_that_fails_does_not_fail_its_batch(start_replica: StartReplica, tmp_path: Path) -> None:
    """A row that the model cannot predict gets a 500 without details, and other requests of its batch are answered."""
    model = saved_models.save_pyfunc(tmp_path / "model", saved_models.Refusing())
    replica = start_replica(model, WEB_CONCURRENCY="1")
    with Load(replica.port, connections=16, document={"x": 1}) as load:
        load.wait_for(50)
        answers = [replica.ask("POST", "/predict", {"x": -1}) for _ in range(5)]
        load.wait_for(50)
    assert load.counts.failed == 0, load.counts
    assert {status for status, _ in answers} == {500}
    assert "secret" not in json.dumps([document for _, document in answers])
    assert "secret of the model" in replica.log.read_text()


def test_killed_worker_is_replaced_without_loading(start_replica: StartReplica, tmp_path: Path) -> None:
    """The master forks a new worker for one killed with SIGKILL, without loading the model again."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="1")
    master = psutil.Process(replica.process.pid)
    (worker,) = master.children()
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    replica.wait_ready()
    assert replica.ask("POST", "/predict", IRIS)[0] == 200
    assert master.children()[0].pid != worker.pid
    assert replica.log.read_text().count("model loaded") == 1


def test_model_name_is_what_every_client_sees(start_replica: StartReplica, tmp_path: Path) -> None:
    """MODEL_NAME is the model's name in V2, /health, the pages, the OpenAPI document and metrics, also after SIGHUP."""
    name, path = "My iris ü", "My%20iris%20%C3%BC"
    folder = saved_models.iris_regression(tmp_path / "model")
    replica = start_replica(folder, WEB_CONCURRENCY="1", MODEL_NAME=name)
    tensors = [{"name": column, "shape": [1], "datatype": "FP64", "data": [value]} for column, value in IRIS.items()]
    for reloads in (0, 1):
        wait_until(lambda: replica.ask("GET", "/health")[1]["reloads"] == reloads)  # noqa: B023
        status, answer = replica.ask("POST", f"/v2/models/{path}/infer", {"inputs": tensors})
        assert (status, answer["model_name"]) == (200, name)
        assert replica.ask("GET", f"/v2/models/{path}")[1]["name"] == name
        model = replica.ask("GET", "/health")[1]["model"]
        assert (model["name"], model["registered_name"], model["uri"]) == (name, None, str(folder))
        assert replica.ask("GET", "/")[1]["serves"].startswith(f"{name} version ")
        document = replica.ask("GET", "/openapi.json")[1]
        assert document["info"]["title"] == f"{name} on Forkcast"
        assert f"/v2/models/{path}/infer" in document["paths"]
        for target in ("/docs", "/metrics"):
            with urllib.request.urlopen(replica.address + target) as page:
                assert name in page.read().decode()
        assert replica.ask("GET", "/v2/models/model")[0] == 404
        replica.process.send_signal(signal.SIGHUP)


def test_orphaned_workers_exit(start_replica: StartReplica, tmp_path: Path) -> None:
    """The workers of a master killed with SIGKILL exit by themselves and free the port."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="2")
    workers = psutil.Process(replica.process.pid).children()
    os.kill(replica.process.pid, signal.SIGKILL)
    replica.process.wait(10)
    assert not psutil.wait_procs(workers, timeout=30)[1]
    assert request_json(replica.address, "GET", "/health")[0] == 0


def test_workers_share_the_models_memory(start_replica: StartReplica, tmp_path: Path) -> None:
    """After a load spread over eight workers, each has less than 20 MB of unshared memory."""
    replica = start_replica(saved_models.covertype_forest(tmp_path / "model"), WEB_CONCURRENCY="8")
    with Load(replica.port, connections=64, document={"features": COVERTYPE}) as load:
        load.wait_for(10_000)
    assert len(load.counts.served_by) == 8
    assert max(load.counts.served_by.values()) < 3 * min(load.counts.served_by.values())
    for worker in psutil.Process(replica.process.pid).children():
        assert worker.memory_full_info().uss < 20_000_000


def test_master_has_one_thread(start_replica: StartReplica, tmp_path: Path) -> None:
    """The master runs only one Python thread, since a fork copies the locks of other threads but not the threads."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="1")
    names = [path.read_text().strip() for path in Path(f"/proc/{replica.process.pid}/task").glob("*/comm")]
    # PyArrow, which pandas imports, has an allocator with a background thread that is safe with forks.
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1


def test_incomplete_requests_do_not_block_others(start_replica: StartReplica, tmp_path: Path) -> None:
    """Incomplete requests on 50 connections do not keep the worker from answering another."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="1")

    async def hold() -> None:
        pairs = [await asyncio.open_connection("127.0.0.1", replica.port) for _ in range(50)]
        for _, writer in pairs:
            writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n")
        answer = await asyncio.to_thread(replica.ask, "POST", "/predict", IRIS)
        assert answer[0] == 200
        for _, writer in pairs:
            writer.close()

    asyncio.run(hold())
    assert threading.active_count() < 20


def test_docs_page_opens_predict_with_an_example(
    start_replica: StartReplica, covertype_model: Path, tmp_path: Path
) -> None:
    """The page at /docs shows the call of /predict, ready to be sent with the example of the model."""
    browser = Browser.find(tmp_path)
    replica = start_replica(covertype_model)
    page = browser.document(f"{replica.address}/docs", "--virtual-time-budget=10000")
    assert re.search(r'<textarea[^>]*>\{\s*"elevation": \d+', page)
    assert page.count('class="opblock-body"') == 1
