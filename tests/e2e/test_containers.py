"""End-to-end tests of the stack in containers: the same verbs, on a real engine, with real limits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from deploy.rollout.replica_client import request_json
from deploy.stack.paths import ROOT
from tests.support.models import saved_models
from tests.support.ports import free_port, port_in_use
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stacks.local import clean_environ
from tests.support.stress.chaos import report
from tests.support.stress.load import LOW_RATE, Load, post_once_each
from tests.support.waiting import wait_until

# The health, the CPU limit (billionths) and the memory limit (bytes) of a replica as the fixture starts it.
INITIAL_STATE = ("healthy", 10**9, 1 << 30)
M = 1 << 20
SPARE_MB = 6  # above the memory in use: enough to start, but too little to load a second model


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[ContainerStack]:
    """A stack of two replicas with one worker each, which built its images and trained its own model."""
    require_engine()
    new_stack = ContainerStack(tmp_path_factory.mktemp("containers") / "var")
    new_stack.environ = new_stack.project_settings("test", COVERTYPE_PATH=covertype_csv)
    try:
        new_stack.make_ok("up", "N=2")
        yield new_stack
    finally:
        new_stack.make("clean", "YES=1")


@pytest.fixture
def two_replicas(stack: ContainerStack) -> ContainerStack:
    """The stack with two replicas and its initial settings, restored if an earlier test changed them."""
    states = [
        (container["State"].get("Health", {}).get("Status"), container["HostConfig"])
        for container in stack.containers("server")
    ]
    record = stack.var / "stack.json"
    is_default = record.exists() and json.loads(record.read_text())["environment"] == {}
    replicas = [(health, host["NanoCpus"], host["Memory"]) for health, host in states]
    if not is_default or replicas != 2 * [INITIAL_STATE]:
        stack.make_ok("up", "N=2", "CPUS=1", "MEMORY=1G")
    return stack


@pytest.fixture
def running(stack: ContainerStack) -> ContainerStack:
    """The stack in any state that answers; if it does not answer, it is started again with one replica."""
    if not (stack.var / "stack.json").exists() or stack.predict()[0] != 200:
        stack.make_ok("down")
        stack.make_ok("up", "N=1", "CPUS=1", "MEMORY=1G")
    return stack


def test_up_answers_in_containers(two_replicas: ContainerStack) -> None:
    """After `make up` on an engine, a container of the project answers a prediction through Nginx."""
    status, answer = two_replicas.predict()
    assert status == 200
    assert answer["prediction"] in range(1, 8)
    assert answer["model_version"] == "1"
    assert two_replicas.get("/health")[1]["replica"] in two_replicas.replicas()
    assert two_replicas.get("/health")[1]["model"]["uri"] == "models:/covertype@champion"


def test_up_again_changes_nothing(two_replicas: ContainerStack) -> None:
    """A second `make up` replaces no container."""
    services = ("server", "nginx", "locust", "locust-worker")
    ids = [[container["Id"] for container in two_replicas.containers(service)] for service in services]
    two_replicas.make_ok("up")
    assert [[container["Id"] for container in two_replicas.containers(service)] for service in services] == ids


def test_up_with_another_backend_is_refused(two_replicas: ContainerStack) -> None:
    """`make up` with another backend is refused while the stack runs."""
    assert "the running stack uses docker" in two_replicas.make_error("up", "BACKEND=local")


def test_nginx_follows_scaling_without_a_reload(two_replicas: ContainerStack) -> None:
    """Nginx spreads requests evenly over three, five and two containers without a restart or reload."""
    nginx_processes = two_replicas.docker("top", two_replicas.containers("nginx")[0]["Id"], "-o", "pid")
    for count in (3, 5, 2):
        two_replicas.make_ok("scale", f"N={count}")
        # After a change, Nginx's first rounds are uneven, so they are not counted.
        assert post_once_each(two_replicas.port, 30).failed == 0
        counts = post_once_each(two_replicas.port, 60 * count)
        assert counts.failed == 0
        assert set(counts.replicas) == set(two_replicas.replicas())
        assert set(counts.replicas.values()) == {60}
    assert two_replicas.docker("top", two_replicas.containers("nginx")[0]["Id"], "-o", "pid") == nginx_processes


def test_containers_have_minimal_privileges(two_replicas: ContainerStack) -> None:
    """Each container runs as an ordinary user without capabilities, on a read-only file system except for /tmp."""
    for service in ("server", "nginx", "locust", "locust-worker"):
        (container, *_) = two_replicas.containers(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["LogConfig"]["Config"]["max-size"] == "10m"
        assert two_replicas.docker("exec", container["Id"], "id", "-u") != "0"
        two_replicas.docker("exec", container["Id"], "sh", "-c", "echo good > /tmp/probe && rm /tmp/probe")
        two_replicas.docker("exec", container["Id"], "sh", "-c", "! touch /etc/probe 2>/dev/null")
        two_replicas.docker("exec", container["Id"], "sh", "-c", "! command -v gcc cc c++ clang tcc")


def test_model_is_read_only_to_replicas(two_replicas: ContainerStack) -> None:
    """A replica cannot write to the model that it serves, and has neither the registry nor the full MLflow package."""
    container = two_replicas.containers("server")[0]["Id"]
    two_replicas.docker("exec", container, "sh", "-c", "! touch /var/lib/forkcast/models/probe 2>/dev/null")
    assert two_replicas.docker("exec", container, "ls", "/var/lib/forkcast") == "models"
    check = "import importlib.util as u; assert not u.find_spec('sqlalchemy')"
    two_replicas.docker("exec", container, "python", "-c", check)


def test_only_nginx_and_locust_publish_ports(two_replicas: ContainerStack) -> None:
    """Only Nginx and Locust's page have published ports."""
    ports = {
        service: two_replicas.containers(service)[0]["NetworkSettings"]["Ports"]
        for service in ("server", "nginx", "locust")
    }
    published = {
        service: [binding for bindings in mapping.values() if bindings for binding in bindings]
        for service, mapping in ports.items()
    }
    assert published == {
        "server": [],
        "nginx": [{"HostIp": "127.0.0.1", "HostPort": str(two_replicas.port)}],
        "locust": [{"HostIp": "127.0.0.1", "HostPort": str(two_replicas.locust_port)}],
    }


def assert_limits(stack: ContainerStack, cpus: str, workers: int) -> str:
    """Set the CPUs of the only replica, assert that the engine and the workers follow, and return its container id."""
    stack.make_ok("resources", f"CPUS={cpus}", "MEMORY=512M")
    (container,) = stack.containers("server")
    assert container["HostConfig"]["NanoCpus"] == float(cpus) * 1e9
    assert container["HostConfig"]["Memory"] == container["HostConfig"]["MemorySwap"] == 512 << 20
    assert stack.replica_health(container["Id"])["workers"] == workers
    return str(container["Id"])


def test_engine_enforces_the_cpu_limit(running: ContainerStack) -> None:
    """A replica gets a worker for each started CPU, and the engine throttles a loaded replica at its limit."""
    running.make_ok("scale", "N=1")
    container = assert_limits(running, "0.2", workers=1)
    assert "0.2   512M" in running.make_ok("status")
    read_statistics = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.stat"

    def throttled() -> int:
        lines = running.docker("exec", container, "sh", "-c", read_statistics).splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("nr_throttled"))

    initial = throttled()
    with Load(running.port) as load:
        load.wait_for(300)
        wait_until(lambda: throttled() != initial)  # on a busy machine the replica may reach its limit late
    assert load.counts.failed == 0
    assert_limits(running, "1.5", workers=2)


def test_too_little_memory_is_refused(running: ContainerStack) -> None:
    """A memory limit too small for the model is refused with figures, and the running replicas stay."""
    replicas = running.replicas()
    line = running.make_error("resources", "MEMORY=36M")
    assert "killed: out of memory at 36M; the model needs about " in line
    assert running.replicas() == replicas
    assert running.predict()[0] == 200
    for verb in ("status", "logs"):
        assert "the last make resources was refused: " in running.make_ok(verb)
    running.make_ok("up")
    assert "was refused" not in running.make_ok("status")


def test_new_version_is_served_after_a_restart(two_replicas: ContainerStack) -> None:
    """`make train` creates the next version, and `make restart` serves it without a failed request."""
    current = int(two_replicas.predict()[1]["model_version"])
    assert f"covertype version {current + 1} is @champion" in two_replicas.make_ok("train")
    assert two_replicas.predict()[1]["model_version"] == str(current)
    with Load(two_replicas.port, **LOW_RATE) as load:
        load.wait_for(200)
        two_replicas.make_ok("restart")
        load.wait_for(200)
    assert load.counts.failed == 0
    assert two_replicas.predict()[1]["model_version"] == str(current + 1)


@pytest.fixture
def trained_twice(two_replicas: ContainerStack) -> ContainerStack:
    """The stack serving a version later than the first, so that it can be rolled back."""
    if two_replicas.predict()[1]["model_version"] == "1" and two_replicas.make("rollback").returncode:
        two_replicas.make_ok("train")
        two_replicas.make_ok("restart")
    return two_replicas


@pytest.fixture
def promoted(two_replicas: ContainerStack, request: pytest.FixtureRequest) -> ContainerStack:
    """The stack with another version for a rollback: the previous one, or after a rollback the later one."""
    if not json.loads((two_replicas.var / "stack.json").read_text())["promoted"]:
        request.getfixturevalue("trained_twice")
    return two_replicas


def versions(stack: ContainerStack) -> list[str]:
    """Return the version that each replica reports."""
    return [stack.replica_health(name)["model"]["version"] for name in stack.replicas()]


def test_rollback_and_promotion_fail_no_request(trained_twice: ContainerStack) -> None:
    """A rollback and a promotion change the version in the same containers, and no request fails."""
    stack, replicas = trained_twice, trained_twice.replicas()
    newer = stack.predict()[1]["model_version"]
    older = str(int(newer) - 1)
    with Load(stack.port, **LOW_RATE) as load:
        load.wait_for(200)
        for verb, version in ((["rollback"], older), (["promote", f"VERSION={newer}"], newer)):
            assert stack.make_ok(*verb).splitlines()[-1].startswith(f"covertype version {version} is served after ")
            answered = load.counts.versions[version]
            load.wait_for(200)
            assert load.counts.versions[version] - answered >= 100
            assert versions(stack) == 2 * [version]
    assert load.counts.failed == 0, report(load.counts)
    assert set(load.counts.versions) == {older, newer}
    assert stack.replicas() == replicas


@pytest.mark.slow
def test_promoted_version_stays_after_other_verbs(trained_twice: ContainerStack) -> None:
    """After a rollback, `make up` replaces no replica, and added or restarted replicas have the same version."""
    stack = trained_twice
    last_line = stack.make_ok("rollback").splitlines()[-1]
    replicas, version = stack.replicas(), last_line.removeprefix("covertype version ").partition(" ")[0]
    stack.make_ok("up")
    assert stack.replicas() == replicas
    stack.make_ok("scale", "N=3")
    assert set(replicas) < set(stack.replicas())
    assert versions(stack) == 3 * [version]
    stack.make_ok("scale", "N=2")
    assert stack.replicas() == replicas
    stack.docker("restart", replicas[0])
    # The engine's restart policy starts this one again.
    stack.docker("exec", replicas[1], "sh", "-c", "kill -TERM 1")
    wait_until_healthy(stack, restarts=1)
    assert stack.replicas() == replicas
    assert versions(stack) == 2 * [version]


def wait_until_healthy(stack: ContainerStack, restarts: int) -> None:
    """Wait until all replicas are healthy and the engine has restarted one of them ``restarts`` times."""

    def are_healthy() -> bool:
        containers = stack.containers("server")
        health = {container["State"]["Health"]["Status"] for container in containers}
        return health == {"healthy"} and max(container["RestartCount"] for container in containers) == restarts

    def states() -> list[Any]:
        return [container["State"] for container in stack.containers("server")]

    wait_until(are_healthy, seconds=120, pause=0.5, describe=states)


def test_version_that_does_not_fit_is_refused(promoted: ContainerStack) -> None:
    """A version is refused with figures if both models do not fit into memory, and the old version still answers."""
    stack = promoted
    stack.make_ok("scale", "N=1")
    (name,) = stack.replicas()
    used = stack.replica_health(name)["memory"]["used"]
    try:
        stack.make_ok("resources", f"MEMORY={used // M + SPARE_MB}M")
        version = stack.predict()[1]["model_version"]
        with Load(stack.port, **LOW_RATE) as load:
            load.wait_for(100)
            line = stack.make_error("rollback")
            load.wait_for(100)
        figures = rf"-server-\d+: \d+M of {used // M + SPARE_MB}M in use, and \d+M more are needed .* at least \d+M$"
        assert "may not be promoted: not enough memory to reload " in line
        assert re.search(figures, line), line
        assert load.counts.failed == 0, report(load.counts)
        assert set(load.counts.versions) == {version}
        assert versions(stack) == [version]
    finally:  # later tests would fail with so little memory
        stack.make("down")


def test_another_model_takes_over_without_a_gap(two_replicas: ContainerStack) -> None:
    """`make up` with another model replaces the replicas but not Nginx, and no request fails."""
    nginx, replicas = two_replicas.containers("nginx")[0]["Id"], two_replicas.replicas()
    with Load(two_replicas.port, **LOW_RATE) as load:
        load.wait_for(200)
        two_replicas.make_ok("up", "MODEL_URI=models:/covertype/1")
        load.wait_for(200)
    assert load.counts.failed == 0
    assert two_replicas.get("/health")[1]["model"]["uri"] == "models:/covertype/1"
    assert two_replicas.containers("nginx")[0]["Id"] == nginx
    assert not set(two_replicas.replicas()) & set(replicas)


def test_out_of_memory_is_reported(stack: ContainerStack) -> None:
    """`make status` and `make logs` report that a stack started by Compose has too little memory."""
    stack.make_ok("down")
    ports = {"HTTP_PORT": str(stack.port), "LOCUST_PORT": str(stack.locust_port)}
    try:
        stack.docker("compose", "up", "--detach", "--no-build", SERVER_MEMORY="64M", ENGINE="sklearn", **ports)
        killed = "killed: out of memory at 64M; the model needs about "
        wait_until(
            lambda: killed in stack.make_ok("status"), seconds=120, pause=1, describe=lambda: stack.make_ok("status")
        )
        logs = stack.make_ok("logs")
        assert killed in logs
        assert "memory is limited to 64M, and the model needs about " in logs
    finally:
        stack.make_ok("down")


def test_model_in_a_folder_of_the_host(stack: ContainerStack, tmp_path: Path) -> None:
    """The engine `pyfunc` serves a model from a folder of this machine, and /health names the folder."""
    folder = saved_models.iris_regression(tmp_path / "iris")
    stack.make_ok("up", f"MODEL_URI={folder}", "ENGINE=pyfunc")
    health = stack.get("/health")[1]
    assert health["model"]["uri"] == str(folder)
    assert health["model"]["engine"] == "pyfunc"
    example = stack.get("/")[1]["example"]["POST /predict"]
    assert stack.predict(example)[0] == 200
    stack.make_ok("down")


@pytest.mark.slow
def test_compiled_model_of_a_folder_is_served(stack: ContainerStack, tmp_path: Path) -> None:
    """`make compile` of a folder writes a compiled model beside it, which belongs to the user and can be served."""
    folder = saved_models.diabetes_regressor(tmp_path / "diabetes")
    stack.make_ok("down")
    uri = stack.make_ok("compile", f"MODEL_URI={folder}").splitlines()[-1]
    assert uri == f"{folder}-compiled"
    assert Path(uri).stat().st_uid == os.getuid()
    stack.make_ok("up", f"MODEL_URI={uri}")
    assert stack.get("/health")[1]["model"]["engine"] == "forest"
    example = stack.get("/")[1]["example"]["POST /predict"]
    assert stack.predict(example)[0] == 200
    stack.make_ok("down")


@pytest.mark.slow
def test_registry_on_the_host_provides_the_model(stack: ContainerStack, tmp_path: Path) -> None:
    """Replicas in containers serve a model from a registry on the Docker host."""
    folder = saved_models.iris_regression(tmp_path / "iris")
    # The address of the engine's bridge: containers reach the host there, and other machines do not.
    (bridge,) = json.loads(stack.docker("network", "inspect", "bridge"))
    host, port = bridge["IPAM"]["Config"][0]["Gateway"], free_port()
    environ = {**clean_environ(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        f"{tmp_path}/artifacts",
    ]
    registry = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1", *store,
            "--allowed-hosts", "*",
        ],
        cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    uri = f"http://host.docker.internal:{port}"
    try:
        register(f"http://{host}:{port}", folder, tmp_path)
        stack.make_ok("up", "MODEL_URI=models:/iris/1", f"MLFLOW_TRACKING_URI={uri}")
        health = stack.get("/health")[1]
        assert (health["model"]["name"], health["model"]["version"], health["source"]) == ("iris", "1", "the registry")
        stack.make_ok("down")
    finally:
        registry.terminate()
        registry.wait(60)


def register(address: str, folder: Path, scratch: Path) -> None:
    """Wait for the registry and register a model's folder as version 1 of iris."""
    search = "/api/2.0/mlflow/registered-models/search"
    wait_until(lambda: request_json(address, "GET", search)[0] == 200, seconds=120, pause=0.2)
    script = scratch / "register.py"
    script.write_text(
        "import mlflow, sys\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "with mlflow.start_run() as run: mlflow.log_artifacts(sys.argv[2], 'model')\n"
        "mlflow.register_model(f'runs:/{run.info.run_id}/model', 'iris')\n"
    )
    environ: dict[str, Any] = {**clean_environ(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, str(script), address, str(folder)], env=environ, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["MODEL_URI=models:/nobody@champion"], "Registered Model with name=nobody not found"),
        (["CPUS=1000"], "CPUS='1000': expected a number of CPUs from 0.01 to "),
    ],
)
def test_invalid_change_is_refused(running: ContainerStack, changes: list[str], reason: str) -> None:
    """An invalid change is refused with the reason, and the stack still answers."""
    assert reason in running.make_error("up", *changes)
    assert running.predict()[0] == 200


def test_port_in_use_is_refused(running: ContainerStack) -> None:
    """A port on which another program listens is refused by its number, and the stack still answers."""
    with port_in_use() as port:
        assert f"port {port} is in use by another program" in running.make_error("up", f"LOCUST_PORT={port}")
    assert running.predict()[0] == 200


def test_locust_loads_the_service(running: ContainerStack) -> None:
    """Locust in its container reaches Nginx by name, and its users' requests are answered."""
    locust = ["python", "-m", "locust", "-f", "locust/locustfile.py", "--host", "http://nginx:8080", "--headless"]
    options = ["--users", "5", "--run-time", "6s", "--json", "--loglevel", "ERROR"]
    ran = running.docker("exec", running.containers("locust")[0]["Id"], *locust, *options)
    (row,) = json.loads(ran[ran.index("[") :])
    assert row["num_requests"] > 0
    assert row["num_failures"] == 0


def locust_page(stack: ContainerStack, target: str, **form: str) -> Any:
    """Return the JSON answer of Locust's page to a GET, or to a POST of a form."""
    data = urlencode(form).encode() if form else None
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.locust_port}{target}", data, timeout=10) as answer:
        return json.load(answer)


def wait_for_workers(stack: ContainerStack, count: int) -> None:
    def are_ready() -> bool:
        with suppress(OSError):  # the page may not answer yet
            workers = locust_page(stack, "/stats/requests").get("workers", [])
            return [worker["state"] for worker in workers] == ["ready"] * count
        return False

    wait_until(are_ready, pause=1)


@pytest.mark.slow
def test_locust_workers_reconnect_to_a_restarted_master(running: ContainerStack) -> None:
    """The requested number of Locust workers start, find a restarted master, and load the service."""
    running.make_ok("up", "LOCUST_WORKERS=2")
    assert len(running.containers("locust-worker")) == 2
    wait_for_workers(running, 2)
    running.docker("restart", running.containers("locust")[0]["Id"])
    wait_for_workers(running, 2)
    locust_page(
        running, "/swarm", user_count="10", spawn_rate="10", host="http://nginx:8080", run_time="6s", wait_max="1.5"
    )

    def final_statistics() -> Any:
        statistics = locust_page(running, "/stats/requests")
        return statistics if statistics["state"] == "stopped" else None

    stats = wait_until(final_statistics, pause=1)
    assert stats["stats"][0]["num_requests"] > 0
    assert stats["errors"] == []
    running.make_ok("up", "LOCUST_WORKERS=1")
    assert len(running.containers("locust-worker")) == 1


def test_logs_and_stats_show_each_service(running: ContainerStack) -> None:
    """`make logs` shows a service's lines and refuses an unknown one; `make stats` shows the engine's figures."""
    assert "model loaded: covertype version" in running.make_ok("logs")
    assert '"upstream_response_time"' in running.make_ok("logs", "S=nginx")
    assert "expected one of server, nginx, locust, locust-worker, database, " in running.make_error(
        "logs", "S=gunicorn"
    )
    assert f"{running.project}-nginx-1" in running.make_ok("stats")


def test_down_and_clean_leave_nothing(running: ContainerStack) -> None:
    """`make down` keeps the registry and the models; after `make clean` the engine has nothing of the project."""
    version = running.predict()[1]["model_version"]
    running.make_ok("down")
    assert {line.split()[0] for line in running.leftovers()} == {"volume", "image"}
    running.make_ok("up", "N=1")
    assert running.predict()[1]["model_version"] == version
    running.make_ok("clean", "YES=1")
    assert running.leftovers() == []
    assert (ROOT / "docker-compose.yml").exists()
