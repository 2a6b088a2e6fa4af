"""End-to-end tests of the local stack: `make up`, `scale`, `restart` and other verbs, and killed processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from deploy.stack.paths import ROOT
from tests.support.models import saved_models
from tests.support.ports import free_port
from tests.support.stacks.local import Stack
from tests.support.stress.load import LOW_RATE, WORKSHOP_ROW, Load, post_once_each
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("stack")


def processes_of(stack: Stack) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(stack.var):  # only the stack's own processes
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def test_prediction_through_nginx_is_a_class(stack: Stack) -> None:
    """WORKSHOP_ROW, posted to Nginx, gets a class from 1 to 7 with a confidence and the version."""
    status, answer = stack.predict()
    assert status == 200
    assert answer["prediction"] in range(1, 8)
    assert 0 < answer["confidence"] <= 1
    assert answer["model_version"] == "1"


def test_up_again_changes_nothing(stack: Stack) -> None:
    """A second `make up` restarts no process."""
    pids = stack.pids()
    stack.make_ok("up", "N=2")
    assert stack.pids() == pids


def test_round_robin_is_exact(stack: Stack) -> None:
    """Each of three replicas answers 100 of 300 requests on new connections, once the new replica has full weight."""
    stack.make_ok("scale", "N=3")
    post_once_each(stack.port, 300)
    assert set(post_once_each(stack.port, 300).replicas.values()) == {100}
    stack.make_ok("scale", "N=2")


def test_every_worker_answers(stack: Stack) -> None:
    """With 64 connections every worker of every replica answers requests."""
    with Load(stack.port) as load:
        load.wait_for(3000)
    assert load.counts.failed == 0, load.counts
    assert len(load.counts.served_by) == 4


def test_scaling_under_load_fails_no_request(stack: Stack) -> None:
    """No request on 64 busy connections fails while the stack scales from 1 replica to 4 and back."""
    stack.make_ok("scale", "N=1")
    with Load(stack.port) as load:
        load.wait_for(500)
        stack.make_ok("scale", "N=4")
        load.wait_for(2000)
        assert len(load.counts.replicas) == 4
        stack.make_ok("scale", "N=1")
        load.wait_for(500)
    stack.make_ok("scale", "N=2")
    assert load.counts.failed == 0, load.counts


def test_restart_under_load_fails_no_request(stack: Stack) -> None:
    """`make restart` replaces all masters without a failed request."""
    pids_before = stack.pids()
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        stack.make_ok("restart")
        load.wait_for(200)
    pids_after = stack.pids()
    assert load.counts.failed == 0, load.counts
    assert all(pids_after[name] != pids_before[name] for name in ("replica-1", "replica-2"))


def test_restart_of_one_replica_fails_no_request(stack: Stack) -> None:
    """A stack of one replica answers all requests during `make restart`."""
    stack.make_ok("scale", "N=1")
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        stack.make_ok("restart")
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert set(stack.pids()) == {"replica-1", "nginx", "locust"}
    stack.make_ok("scale", "N=2")


def test_changed_setting_of_one_replica_fails_no_request(stack: Stack, tmp_path: Path) -> None:
    """A stack of one replica answers all requests while a setting changes, and while an invalid change is refused."""
    stack.make_ok("scale", "N=1")
    folder = saved_models.outdated_pipeline(tmp_path / "model")
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        stack.make_ok("up", "MAX_PENDING=4000")
        assert "the model cannot predict its example: " in stack.make_error("up", f"MODEL_URI={folder}")
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    assert set(stack.pids()) == {"replica-1", "nginx", "locust"}
    stack.make_ok("scale", "N=2")


def test_killed_worker_is_replaced_without_loading(stack: Stack) -> None:
    """A worker killed with SIGKILL is replaced by a fork without loading the model, and no request fails."""
    loads = stack.log(1).count("model loaded")
    master = psutil.Process(stack.pids()["replica-1"])
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        victim = master.children()[0]
        victim.kill()
        wait_until(lambda: len([child for child in master.children() if child.pid != victim.pid]) == 2)
        load.wait_for(500)
    assert load.counts.failed == 0, load.counts
    assert stack.log(1).count("model loaded") == loads


def test_killed_master_is_restarted(stack: Stack) -> None:
    """A master killed with SIGKILL is restarted, its workers exit, and no request fails meanwhile."""
    pid = stack.pids()["replica-2"]
    orphans = psutil.Process(pid).children()
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: load.counts.answered and stack.pids().get("replica-2", pid) != pid)
        assert not psutil.wait_procs(orphans, timeout=40)[1]
        wait_until(lambda: "yes" in stack.make_ok("status").splitlines()[2])
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts


def test_restart_without_the_registry_serves_the_last_good_copy(stack: Stack) -> None:
    """Without the registry's database, a restart serves the last good copy, and /health reports this."""
    database, moved = stack.var / "mlflow.db", stack.var / "moved.db"
    database.rename(moved)
    try:
        stack.make_ok("restart")
        health = stack.health(1)
        assert health["source"] == "the last good copy"
        assert "mlflow.db does not exist" in health["stale"]
        assert stack.predict()[0] == 200
        assert "last good copy" in stack.make_ok("status")
        assert not database.exists()
    finally:
        moved.rename(database)
    stack.make_ok("restart")
    assert stack.health(1)["source"] == "the registry"


def test_each_worker_costs_little_memory(stack: Stack) -> None:
    """After a load, no worker has more than 20 MB of unshared memory."""
    with Load(stack.port) as load:
        load.wait_for(3000)
    lines = [line.split() for line in stack.make_ok("stats").splitlines() if line.startswith("replica-")]
    assert len(lines) == 2
    for line in lines:
        largest = float(line[-3])
        assert line[-2] == "MB"
        assert 0 < largest <= 20


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"elevation": NaN}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/json", 422),
        (b" " * 1_048_577, "application/json", 413),
    ],
)
def test_errors_keep_their_form_through_nginx(stack: Stack, body: bytes, content_type: str, status: int) -> None:
    """An invalid request gets its own status and a problem document, from a replica or from Nginx."""
    request = urllib.request.Request(f"{stack.address}/predict", body, {"Content-Type": content_type})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as answer:
        assert answer.status == status
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["X-Served-By"]
        assert f'"status":{status}' in answer.read().decode()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /% HTTP/1.1", 400),
        (b"GET /../../etc/passwd HTTP/1.1", 400),
        (b"GET /predict%00 HTTP/1.1", 400),
        (b"NONSENSE", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1", 414),
        (b"TRACE / HTTP/1.1", 405),
        (b"GET / HTTP/9.9", 505),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: identity", 501),
    ],
)
def test_nginx_answers_malformed_requests_with_problem_documents(
    stack: Stack, request_head: bytes, status: int
) -> None:
    """Nginx refuses malformed requests with their own status and a problem document."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as connection:
        connection.sendall(request_head + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/problem+json" in answer
    assert "X-Served-By: nginx/" in answer
    assert f'"status":{status}' in answer


def test_killed_nginx_is_restarted(stack: Stack) -> None:
    """After Nginx's master was killed with SIGKILL, a new one takes over the port from the orphaned workers."""
    pid = stack.pids()["nginx"]
    orphans = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    assert not psutil.wait_procs(orphans, timeout=60)[1]
    wait_until(lambda: stack.pids().get("nginx", pid) != pid and stack.predict()[0] == 200)


def test_up_restarts_a_replica_without_a_socket(stack: Stack) -> None:
    """`make up` restarts a replica whose socket was deleted."""
    (stack.var / "run/1.sock").unlink()
    stack.make_ok("up", "N=2")
    assert stack.health(1)["status"] == "ok"


def test_nginx_without_a_replica_answers_503(stack: Stack) -> None:
    """While no replica listens, Nginx answers 503 with Retry-After and a problem document."""
    sockets = sorted((stack.var / "run").glob("[0-9].sock"))
    for path in sockets:
        path.rename(path.with_suffix(".moved"))
    try:
        # Reloading Nginx closes its open connections to replicas, which would still be answered.
        os.kill(stack.pids()["nginx"], signal.SIGHUP)
        wait_until(lambda: stack.predict()[0] != 200, pause=0.2)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{stack.address}/health", timeout=10)
        with caught.value as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["Content-Type"] == "application/problem+json"
    finally:
        for path in sockets:
            path.with_suffix(".moved").rename(path)
    wait_until(lambda: stack.predict()[0] == 200)


def test_scale_rejects_more_replicas_than_slots(stack: Stack) -> None:
    """`make scale` with more replicas than slots is refused and changes nothing."""
    pids = stack.pids()
    assert "N='9': " in stack.make_error("scale", "N=9")
    assert stack.pids() == pids


def test_resources_refuses_limits_that_need_docker(stack: Stack) -> None:
    """`make resources` refuses fractions of a CPU and memory limits, which only containers support."""
    assert "fractions of a CPU need Docker" in stack.make_error("resources", "CPUS=0.5")
    assert "needs Docker" in stack.make_error("resources", "CPUS=1", "MEMORY=1G")


def test_resources_hold_each_replica_to_its_cpus(stack: Stack) -> None:
    """`make resources CPUS=1` limits each replica to one CPU without a failed request."""
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        stack.make_ok("resources", "CPUS=1")
        load.wait_for(200)
    assert load.counts.failed == 0, load.counts
    for name, pid in stack.pids().items():
        if name.startswith("replica"):
            assert len(os.sched_getaffinity(pid)) == 1


def test_logs_shows_the_output_of_replicas(stack: Stack) -> None:
    """`make logs` shows the output of the replicas and refuses an unknown service."""
    assert "model loaded" in stack.make_ok("logs")
    assert "expected one of" in stack.make_error("logs", "S=nope")


def test_access_log_has_both_clocks(stack: Stack) -> None:
    """Nginx logs one JSON line for each request, with its own time and the replica's."""
    stack.predict()
    wait_until(lambda: '"uri":"/predict"' in (stack.var / "log/access.log").read_text())
    line = json.loads((stack.var / "log/access.log").read_text().splitlines()[-1])
    assert {"request_time", "upstream_response_time", "upstream_addr", "status"} <= set(line)


def test_locust_finds_the_service(stack: Stack, tmp_path: Path) -> None:
    """Locust's page answers, and all random rows of its users get predictions."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.locust_port}/", timeout=10) as page:
        text = page.read().decode()
    assert "Locust" in text
    assert re.search(r'"num_users": ?100\b', text)
    assert re.search(r'"spawn_rate": ?10\b', text)
    ran = subprocess.run(
        [
            str(Path(sys.executable).parent / "locust"), "-f", str(ROOT / "locust/locustfile.py"), "--headless",
            "--host", stack.address, "-u", "20", "-r", "20", "-t", "5s", "--csv", str(tmp_path / "out"),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    header, row = ((tmp_path / "out_stats.csv").read_text().splitlines())[:2]
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert int(values["Request Count"]) >= 20
    assert int(values["Failure Count"]) == 0


def test_two_stacks_do_not_disturb_each_other(stack: Stack, tmp_path: Path) -> None:
    """A second stack with a deep var folder starts and stops without affecting the first one."""
    deep_folder = tmp_path / ("deep" * 20) / ("er" * 30) / "var"
    model = next((stack.var / "models").glob("*/model"))
    shutil.copytree(model, tmp_path / "model")
    second_stack = Stack(deep_folder, {"MODEL_URI": str(tmp_path / "model"), "WEB_CONCURRENCY": "1"})
    pids = stack.pids()
    try:
        second_stack.make_ok("up")
        assert second_stack.predict()[0] == 200
        third_stack = Stack(tmp_path / "third", second_stack.environ, port=stack.port)
        assert f"port {stack.port} is in use" in third_stack.make_error("up")
    finally:
        second_stack.make_ok("down")
    assert processes_of(second_stack) == []
    assert stack.pids() == pids
    assert stack.predict()[0] == 200


def test_up_recovers_from_a_killed_supervisord(stack: Stack) -> None:
    """After supervisord was killed with SIGKILL, `make up` stops its leftover processes and the service answers."""
    os.kill(int((stack.var / "run/supervisord.pid").read_text()), signal.SIGKILL)
    stack.make_ok("up", "N=2")
    assert stack.predict()[0] == 200
    names = [process.name() for process in processes_of(stack)]
    assert names.count("supervisord") == 1


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"MODEL_URI": "models:/nobody/1"}, "the registry's database"),
        ({"MODEL_URI": "/nowhere/model"}, "there is no MLflow model in that folder"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "the registry http://127.0.0.1:9 did not answer"),
        ({"ENGINE": "turbo"}, "ENGINE='turbo': expected one of"),
    ],
)
def test_failed_up_gives_the_reason_and_leaves_no_process(tmp_path: Path, environ: dict[str, str], reason: str) -> None:
    """A `make up` that cannot succeed ends with one line that has the reason, and no process remains."""
    new_stack = Stack(tmp_path / "var", environ)
    assert reason in new_stack.make_error("up")
    assert processes_of(new_stack) == []


def test_model_that_cannot_predict_is_refused(tmp_path: Path) -> None:
    """A model that cannot predict ends `make up` with one line that has its error, and no process remains."""
    folder = saved_models.outdated_pipeline(tmp_path / "model")
    new_stack = Stack(tmp_path / "var", {"MODEL_URI": str(folder)})
    line = new_stack.make_error("up")
    assert "replica-1 did not start: the model cannot predict its example: AttributeError: " in line
    assert "it was logged with scikit-learn 1.3.2, and this server has " in line
    assert processes_of(new_stack) == []


def test_compiled_model_is_served(stack: Stack) -> None:
    """`make compile` prints the URI of a new version as its last line, and the compiled engine serves it."""
    uri = stack.make_ok("compile", "MODEL_URI=models:/covertype@champion").splitlines()[-1]
    assert uri.startswith("models:/covertype/")
    stack.make_ok("up", f"MODEL_URI={uri}")
    assert stack.health(1)["model"]["engine"] == "forest"
    assert stack.health(1)["model"]["uri"] == uri
    assert stack.predict()[0] == 200


def test_compile_does_not_replace_a_compiled_folder(stack: Stack, tmp_path: Path) -> None:
    """`make compile` of a folder writes a new folder beside it, and refuses to replace it later."""
    folder = saved_models.diabetes_regressor(tmp_path / "diabetes")
    assert stack.make_ok("compile", f"MODEL_URI={folder}").splitlines()[-1] == f"{folder}-compiled"
    assert "diabetes-compiled exists" in stack.make_error("compile", f"MODEL_URI={folder}")


def test_compile_refuses_an_unsupported_model(stack: Stack, tmp_path: Path) -> None:
    """A model that cannot be compiled is refused with the reason, and no folder is written."""
    folder = saved_models.histogram_boosting(tmp_path / "boosting")
    line = stack.make_error("compile", f"MODEL_URI={folder}", "ENGINE=forest")
    assert "HistGradientBoostingClassifier is not a forest, extra trees or decision tree of scikit-learn" in line
    assert [path.name for path in tmp_path.iterdir()] == ["boosting"]


def test_failed_change_keeps_the_running_stack(stack: Stack) -> None:
    """`make up` with an unknown model fails, and the running stack is unchanged."""
    pids = stack.pids()
    assert "nobody" in Stack(stack.var, {"MODEL_URI": "models:/nobody/1"}, stack.port, stack.locust_port).make_error(
        "up"
    )
    assert stack.pids() == pids
    assert stack.predict(WORKSHOP_ROW)[0] == 200


def test_down_leaves_no_process_or_socket(stack: Stack) -> None:
    """After `make down` no process or socket of the stack remains, and a second `make down` succeeds."""
    stack.make_ok("down")
    assert processes_of(stack) == []
    assert not list((stack.var / "run").glob("*.sock"))
    assert "nothing is running" in stack.make_error("scale", "N=2")
    stack.make_ok("down")
    stack.port = free_port()
    stack.make_ok("up", "N=2")
    assert stack.predict()[0] == 200
