"""One replica, started by `gunicorn -c gunicorn.conf.py`: any model, slow models, full queues, kills and drains."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.rollout.replica_client import request_json
from tests.support.models import saved_models
from tests.support.stacks.local import Replica, StartReplica
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

IRIS = {"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.4, "petal width (cm)": 0.2}
DIABETES = dict.fromkeys(("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"), 0.01)
COVERTYPE = [2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, 1, 29]


def is_class(answer: dict[str, Any]) -> bool:
    return answer["prediction"] in range(1, 8) and 0 < answer["confidence"] <= 1


@pytest.mark.parametrize(
    ("save", "document", "good"),
    [
        (saved_models.histogram_boosting, {"features": COVERTYPE}, is_class),
        (saved_models.iris_regression, IRIS, lambda a: a["prediction"] == 0 and a["confidence"] > 0.9),
        (saved_models.diabetes_regressor, DIABETES, lambda a: 25 < a["prediction"] < 346 and a["confidence"] is None),
        (saved_models.mixed_columns, {"colour": "red", "size": 35}, lambda a: a["prediction"] == "large"),
        (
            lambda path: saved_models.save_pyfunc(path, saved_models.Doubling()),
            {"x": 4.5},
            lambda a: a["prediction"] == 9.0,
        ),
    ],
    ids=["openmp", "iris", "regressor", "strings", "pyfunc"],
)
def test_any_model_is_served_by_preloaded_workers(
    start_replica: StartReplica,
    tmp_path: Path,
    save: Callable[[Path], Path],
    document: object,
    good: Callable[[dict[str, Any]], bool],
) -> None:
    """A model of any kind, loaded once in the master, answers from both of two workers."""
    replica = start_replica(save(tmp_path / "model"), WEB_CONCURRENCY="2")
    with Load(replica.port, connections=16, document=document) as load:
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert len(load.counts.served_by) == 2
    assert replica.log.read_text().count("model loaded") == 1
    status, answer = replica.ask("POST", "/predict", document)
    assert status == 200
    assert good(answer), answer


@pytest.fixture
def sleeping(start_replica: StartReplica, tmp_path: Path) -> Replica:
    """One worker whose every predict call takes a second."""
    model = saved_models.save_pyfunc(tmp_path / "model", saved_models.Sleeping())
    return start_replica(model, WEB_CONCURRENCY="1", MAX_PENDING="4")


def test_health_answers_while_the_model_computes(sleeping: Replica) -> None:
    """While a predict call of a second runs, /health is answered before it ends."""
    with ThreadPoolExecutor() as pool:
        prediction = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.2)
        assert sleeping.ask("GET", "/health")[0] == 200
        assert not prediction.done()
        assert prediction.result()[0] == 200


def test_full_queue_sheds_and_recovers(sleeping: Replica) -> None:
    """Requests beyond those that may wait get 503 with Retry-After at once, the others their answers."""
    with Load(sleeping.port, connections=12, max_requests=12, document={"x": 1}) as load:
        wait_until(lambda: sum(load.counts.statuses.values()) >= 12)
    assert load.counts.statuses[503] >= 1
    assert load.counts.statuses[200] >= 4  # those that may wait; one more if the first was being predicted by then
    assert load.counts.statuses[200] + load.counts.statuses[503] == 12
    assert sleeping.ask("POST", "/predict", {"x": 1})[0] == 200


def test_full_queue_names_when_to_try_again(sleeping: Replica) -> None:
    """The 503 of a full queue is a problem document with Retry-After."""
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
    """Requests that arrive while a call runs are taken together by the next: the model sees them as one batch."""
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.3)
        rest = [pool.submit(sleeping.ask, "POST", "/predict", {"x": 1}) for _ in range(3)]
        assert first.result()[1]["prediction"] == 1
        assert [call.result()[1]["prediction"] for call in rest] == [3, 3, 3]


def test_caller_that_left_costs_no_prediction(sleeping: Replica) -> None:
    """A client that hangs up while it waits leaves the queue: the next call computes only for those still there."""
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.2)
        impatient = socket.create_connection(("127.0.0.1", sleeping.port))
        body = b'{"x": 1}'
        impatient.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        time.sleep(0.2)
        impatient.close()
        patient = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        assert first.result()[0] == 200
        assert patient.result()[1]["prediction"] == 1
    assert "Traceback" not in sleeping.log.read_text()


def test_stopping_finishes_what_it_took(sleeping: Replica) -> None:
    """A request in flight when SIGTERM comes is answered, new connections are refused, and the exit status is 0."""
    with ThreadPoolExecutor() as pool:
        call = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.3)
        sleeping.process.send_signal(signal.SIGTERM)
        assert call.result()[0] == 200
    assert sleeping.process.wait(30) == 0
    assert request_json(sleeping.address, "GET", "/health")[0] == 0


def test_draining_worker_is_not_ready(sleeping: Replica) -> None:
    """On a connection that it still serves, a draining worker answers /ready with 503 and asks for a new connection."""
    kept = http.client.HTTPConnection("127.0.0.1", sleeping.port, timeout=30)
    kept.request("GET", "/ready")
    assert kept.getresponse().read()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(sleeping.ask, "POST", "/predict", {"x": 1})
        time.sleep(0.3)
        sleeping.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        kept.request("GET", "/ready")
        answer = kept.getresponse()
        assert answer.status == 503
        assert answer.getheader("Connection") == "close"
        assert answer.getheader("Retry-After")
        assert call.result()[0] == 200
    kept.close()


def test_poison_fails_alone(start_replica: StartReplica, tmp_path: Path) -> None:
    """A row that the model cannot compute is a 500 that tells nothing, and what was batched with it is answered."""
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
    """The master forks a new worker for one killed with -9, from the model that it holds."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="1")
    master = psutil.Process(replica.process.pid)
    (worker,) = master.children()
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    replica.wait_ready()
    assert replica.ask("POST", "/predict", IRIS)[0] == 200
    assert master.children()[0].pid != worker.pid
    assert replica.log.read_text().count("model loaded") == 1


def test_orphaned_workers_leave(start_replica: StartReplica, tmp_path: Path) -> None:
    """When the master is killed with -9, its workers stop by themselves and free the port."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="2")
    workers = psutil.Process(replica.process.pid).children()
    os.kill(replica.process.pid, signal.SIGKILL)
    replica.process.wait(10)
    assert not psutil.wait_procs(workers, timeout=30)[1]
    assert request_json(replica.address, "GET", "/health")[0] == 0


def test_workers_share_the_models_memory(start_replica: StartReplica, tmp_path: Path) -> None:
    """With eight workers that all answered, and about equally, each has at most 20 MB that it does not share."""
    replica = start_replica(saved_models.covertype_forest(tmp_path / "model"), WEB_CONCURRENCY="8")
    with Load(replica.port, connections=64, document={"features": COVERTYPE}) as load:
        load.wait_for(10_000)
    assert len(load.counts.served_by) == 8
    assert max(load.counts.served_by.values()) < 3 * min(load.counts.served_by.values())
    for worker in psutil.Process(replica.process.pid).children():
        assert worker.memory_full_info().uss < 20_000_000


def test_master_has_no_thread_of_ours(start_replica: StartReplica, tmp_path: Path) -> None:
    """The master that forks runs one Python thread: threads do not survive a fork, their locks do."""
    replica = start_replica(saved_models.iris_regression(tmp_path / "model"), WEB_CONCURRENCY="1")
    names = [path.read_text().strip() for path in Path(f"/proc/{replica.process.pid}/task").glob("*/comm")]
    # PyArrow's allocator, which pandas brings, has a thread of its own that is made for forks.
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1


def test_many_slow_connections_do_not_stop_others(start_replica: StartReplica, tmp_path: Path) -> None:
    """Half-sent requests that never go on do not keep the worker from answering."""
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
