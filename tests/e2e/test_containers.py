"""The stack in containers as its user meets it: the same verbs, on a real engine, with real limits."""

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
from tests.support.stress.load import GENTLE, Load, post_once_each
from tests.support.waiting import wait_until

# A replica's health, billionths of a CPU, and bytes of memory.
AS_STARTED = ("healthy", 10**9, 1 << 30)
M = 1 << 20
ROOM = 6  # megabytes beside what a replica uses: enough to start in, and not to load another model


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[ContainerStack]:
    """A stack that built its images and trained its own model: two replicas of one worker."""
    require_engine()
    one = ContainerStack(tmp_path_factory.mktemp("containers") / "var")
    one.environ = one.own_settings("test", COVERTYPE_PATH=covertype_csv)
    try:
        one.done("up", "N=2")
        yield one
    finally:
        one.make("clean", "YES=1")


@pytest.fixture
def two(stack: ContainerStack) -> ContainerStack:
    """The stack with its two replicas and its first settings, whatever the test before made of it."""
    found = [(one["State"].get("Health", {}).get("Status"), one["HostConfig"]) for one in stack.containers("server")]
    state = stack.var / "stack.json"
    default = state.exists() and json.loads(state.read_text())["environment"] == {}
    if not default or [(health, limits["NanoCpus"], limits["Memory"]) for health, limits in found] != 2 * [AS_STARTED]:
        stack.done("up", "N=2", "CPUS=1", "MEMORY=1G")
    return stack


@pytest.fixture
def running(stack: ContainerStack) -> ContainerStack:
    """The stack with whatever the test before made of it; one replica with the first settings if it does not answer."""
    if not (stack.var / "stack.json").exists() or stack.predict()[0] != 200:
        stack.done("down")
        stack.done("up", "N=1", "CPUS=1", "MEMORY=1G")
    return stack


def test_up_answers_in_containers(two: ContainerStack) -> None:
    """`make up` on an engine answers a prediction through Nginx, from a container of the project."""
    status, answer = two.predict()
    assert status == 200
    assert answer["prediction"] in range(1, 8)
    assert answer["model_version"] == "1"
    assert two.get("/health")[1]["replica"] in two.replicas()
    assert two.get("/health")[1]["model"]["uri"] == "models:/covertype@champion"


def test_up_again_changes_nothing(two: ContainerStack) -> None:
    """A second `make up` finds everything running and replaces none of it."""
    services = ("server", "nginx", "locust", "locust-worker")
    before = [[one["Id"] for one in two.containers(service)] for service in services]
    two.done("up")
    assert [[one["Id"] for one in two.containers(service)] for service in services] == before


def test_backend_of_a_running_stack_stays(two: ContainerStack) -> None:
    """The backend of a stack that is up is not changed under it."""
    assert "runs on docker; make down first" in two.refused("up", "BACKEND=local")


def test_scaling_is_followed_without_a_reload(two: ContainerStack) -> None:
    """Requests are spread evenly over three containers, and over five, by the same processes of Nginx."""
    before = two.docker("top", two.containers("nginx")[0]["Id"], "-o", "pid")
    for count in (3, 5, 2):
        two.done("scale", f"N={count}")
        # Nginx's first turns after a change make up for those of the replicas that have gone.
        assert post_once_each(two.port, 30).failed == 0
        counts = post_once_each(two.port, 60 * count)
        assert counts.failed == 0
        assert set(counts.replicas) == set(two.replicas())
        assert set(counts.replicas.values()) == {60}
    assert two.docker("top", two.containers("nginx")[0]["Id"], "-o", "pid") == before


def test_containers_may_do_next_to_nothing(two: ContainerStack) -> None:
    """Each runs as an ordinary user without capabilities on a file system that it cannot write, except for /tmp."""
    for service in ("server", "nginx", "locust", "locust-worker"):
        (container, *_) = two.containers(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["LogConfig"]["Config"]["max-size"] == "10m"
        assert two.docker("exec", container["Id"], "id", "-u") != "0"
        two.docker("exec", container["Id"], "sh", "-c", "echo good > /tmp/probe && rm /tmp/probe")
        two.docker("exec", container["Id"], "sh", "-c", "! touch /etc/probe 2>/dev/null")
        two.docker("exec", container["Id"], "sh", "-c", "! command -v gcc cc c++ clang tcc")


def test_model_is_read_only_to_replicas(two: ContainerStack) -> None:
    """A replica cannot change the copy that it serves, and has neither the registry nor all of MLflow."""
    container = two.containers("server")[0]["Id"]
    two.docker("exec", container, "sh", "-c", "! touch /var/lib/forkcast/models/probe 2>/dev/null")
    assert two.docker("exec", container, "ls", "/var/lib/forkcast") == "models"
    two.docker("exec", container, "python", "-c", "import importlib.util as u; assert not u.find_spec('sqlalchemy')")


def test_published_ports(two: ContainerStack) -> None:
    """Only Nginx and Locust's page are reachable from outside, the latter from this machine alone."""
    ports = {
        service: two.containers(service)[0]["NetworkSettings"]["Ports"] for service in ("server", "nginx", "locust")
    }
    published = {
        service: [place for places in found.values() if places for place in places] for service, found in ports.items()
    }
    assert published == {
        "server": [],
        "nginx": [{"HostIp": "127.0.0.1", "HostPort": str(two.port)}],
        "locust": [{"HostIp": "127.0.0.1", "HostPort": str(two.locust_port)}],
    }


def assert_limits(stack: ContainerStack, cpus: str, workers: int) -> str:
    """Give the one replica these CPUs, and assert that the engine and the workers follow; return its container."""
    stack.done("resources", f"CPUS={cpus}", "MEMORY=512M")
    (container,) = stack.containers("server")
    assert container["HostConfig"]["NanoCpus"] == float(cpus) * 1e9
    assert container["HostConfig"]["Memory"] == container["HostConfig"]["MemorySwap"] == 512 << 20
    assert stack.replica_health(container["Id"])["workers"] == workers
    return str(container["Id"])


def test_limits_are_the_engines_own(running: ContainerStack) -> None:
    """The workers are as many as CPUs, part of a CPU gets one, and the engine holds a replica under load to it."""
    running.done("scale", "N=1")
    container = assert_limits(running, "0.2", workers=1)
    assert "0.2   512M" in running.done("status")
    read = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.stat"

    def throttled() -> int:
        lines = running.docker("exec", container, "sh", "-c", read).splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("nr_throttled"))

    before = throttled()
    with Load(running.port) as load:
        load.wait_for(300)
        wait_until(lambda: throttled() != before)  # a busy machine may not let it come to its limit at once
    assert load.counts.failed == 0
    assert_limits(running, "1.5", workers=2)


def test_memory_below_the_need_is_refused(running: ContainerStack) -> None:
    """Too little memory for the model is told with its figures, and what ran before runs on."""
    before = running.replicas()
    line = running.refused("resources", "MEMORY=36M")
    assert "killed: out of memory at 36M; the model needs about " in line
    assert running.replicas() == before
    assert running.predict()[0] == 200
    for verb in ("status", "logs"):
        assert "the last make resources was refused: " in running.done(verb)
    running.done("up")
    assert "was refused" not in running.done("status")


def test_new_version_is_served_after_a_restart(two: ContainerStack) -> None:
    """`make train` gives the next version, and `make restart` serves it without a failed request."""
    current = int(two.predict()[1]["model_version"])
    assert f"covertype version {current + 1} is @champion" in two.done("train")
    assert two.predict()[1]["model_version"] == str(current)
    with Load(two.port, **GENTLE) as load:
        load.wait_for(200)
        two.done("restart")
        load.wait_for(200)
    assert load.counts.failed == 0
    assert two.predict()[1]["model_version"] == str(current + 1)


@pytest.fixture
def trained_twice(two: ContainerStack) -> ContainerStack:
    """The stack with a version that is served, later than the first, and one before it to go back to."""
    if two.predict()[1]["model_version"] == "1" and two.make("rollback").returncode:
        two.done("train")
        two.done("restart")
    return two


@pytest.fixture
def promoted(two: ContainerStack, request: pytest.FixtureRequest) -> ContainerStack:
    """The stack with a version to go back to: the one before, or after a rollback the one after."""
    if not json.loads((two.var / "stack.json").read_text())["promoted"]:
        request.getfixturevalue("trained_twice")
    return two


def versions(stack: ContainerStack) -> list[str]:
    """The version that each replica serves, as it says itself."""
    return [stack.replica_health(name)["model"]["version"] for name in stack.replicas()]


def test_promotion_in_containers(trained_twice: ContainerStack) -> None:
    """Two replicas go back a version and forth again in the same containers, and no request fails."""
    stack, before = trained_twice, trained_twice.replicas()
    newer = stack.predict()[1]["model_version"]
    older = str(int(newer) - 1)
    with Load(stack.port, **GENTLE) as load:
        load.wait_for(200)
        for verb, version in ((["rollback"], older), (["promote", f"VERSION={newer}"], newer)):
            assert stack.done(*verb).splitlines()[-1].startswith(f"covertype version {version} is served, ")
            answered = load.counts.versions[version]
            load.wait_for(200)
            assert load.counts.versions[version] - answered >= 100
            assert versions(stack) == 2 * [version]
    assert load.counts.failed == 0, report(load.counts)
    assert set(load.counts.versions) == {older, newer}
    assert stack.replicas() == before


@pytest.mark.slow
def test_promoted_version_stays(trained_twice: ContainerStack) -> None:
    """After a promotion no verb replaces a replica for it, and one more, or one started anew, has that version too."""
    stack = trained_twice
    told = stack.done("rollback").splitlines()[-1]
    before, version = stack.replicas(), told.removeprefix("covertype version ").partition(" ")[0]
    stack.done("up")
    assert stack.replicas() == before
    stack.done("scale", "N=3")
    assert set(before) < set(stack.replicas())
    assert versions(stack) == 3 * [version]
    stack.done("scale", "N=2")
    assert stack.replicas() == before
    stack.docker("restart", before[0])
    # The engine starts it again by itself, as it would have before the promotion.
    stack.docker("exec", before[1], "sh", "-c", "kill -TERM 1")
    wait_until_well(stack, restarts=1)
    assert stack.replicas() == before
    assert versions(stack) == 2 * [version]


def wait_until_well(stack: ContainerStack, restarts: int) -> None:
    """Wait for the replicas, one of which is to end and to be started again so often."""

    def are_well() -> bool:
        found = stack.containers("server")
        health = {one["State"]["Health"]["Status"] for one in found}
        return health == {"healthy"} and max(one["RestartCount"] for one in found) == restarts

    def states() -> list[Any]:
        return [one["State"] for one in stack.containers("server")]

    wait_until(are_well, seconds=120, pause=0.5, describe=states)


def test_version_that_does_not_fit_is_refused(promoted: ContainerStack) -> None:
    """Where two models do not fit into a replica's memory, that is told with figures, and the one before answers."""
    stack = promoted
    stack.done("scale", "N=1")
    (name,) = stack.replicas()
    used = stack.replica_health(name)["memory"]["used"]
    try:
        stack.done("resources", f"MEMORY={used // M + ROOM}M")
        version = stack.predict()[1]["model_version"]
        with Load(stack.port, **GENTLE) as load:
            load.wait_for(100)
            line = stack.refused("rollback")
            load.wait_for(100)
        figures = rf"-server-\d+: \d+M of {used // M + ROOM}M in use, and \d+M more are needed .* at least \d+M$"
        assert "may not be promoted: not enough memory to reload " in line
        assert re.search(figures, line), line
        assert load.counts.failed == 0, report(load.counts)
        assert set(load.counts.versions) == {version}
        assert versions(stack) == [version]
    finally:  # with so little memory nothing that follows would hold
        stack.make("down")


def test_another_model_takes_over_without_a_gap(two: ContainerStack) -> None:
    """Another model by `make up` replaces the replicas and not Nginx, and no request fails."""
    before = two.containers("nginx")[0]["Id"], two.replicas()
    with Load(two.port, **GENTLE) as load:
        load.wait_for(200)
        two.done("up", "MODEL_URI=models:/covertype/1")
        load.wait_for(200)
    assert load.counts.failed == 0
    assert two.get("/health")[1]["model"]["uri"] == "models:/covertype/1"
    assert two.containers("nginx")[0]["Id"] == before[0]
    assert not set(two.replicas()) & set(before[1])


def test_out_of_memory_is_no_silent_loop(stack: ContainerStack) -> None:
    """A stack that Compose itself started with too little memory says so in `make status` and `make logs`."""
    stack.done("down")
    ports = {"HTTP_PORT": str(stack.port), "LOCUST_PORT": str(stack.locust_port)}
    try:
        stack.docker("compose", "up", "--detach", "--no-build", SERVER_MEMORY="64M", ENGINE="sklearn", **ports)
        killed = "killed: out of memory at 64M; the model needs about "
        wait_until(lambda: killed in stack.done("status"), seconds=120, pause=1, describe=lambda: stack.done("status"))
        logs = stack.done("logs")
        assert killed in logs
        assert "memory is limited to 64M, and the model needs about " in logs
    finally:
        stack.done("down")


def test_model_in_a_folder_of_the_host(stack: ContainerStack, tmp_path: Path) -> None:
    """A model's folder of this machine is served, by an engine that needs MLflow too, and says where it came from."""
    folder = saved_models.iris_regression(tmp_path / "iris")
    stack.done("up", f"MODEL_URI={folder}", "ENGINE=pyfunc")
    health = stack.get("/health")[1]
    assert health["model"]["uri"] == str(folder)
    assert health["model"]["engine"] == "pyfunc"
    example = stack.get("/")[1]["example"]["POST /predict"]
    assert stack.predict(example)[0] == 200
    stack.done("down")


@pytest.mark.slow
def test_compiled_model_of_a_folder(stack: ContainerStack, tmp_path: Path) -> None:
    """A model's folder of this machine gets a compiled one beside it, which is the user's own and is served."""
    folder = saved_models.diabetes_regressor(tmp_path / "diabetes")
    stack.done("down")
    uri = stack.done("compile", f"MODEL_URI={folder}").splitlines()[-1]
    assert uri == f"{folder}-compiled"
    assert Path(uri).stat().st_uid == os.getuid()
    stack.done("up", f"MODEL_URI={uri}")
    assert stack.get("/health")[1]["model"]["engine"] == "forest"
    example = stack.get("/")[1]["example"]["POST /predict"]
    assert stack.predict(example)[0] == 200
    stack.done("down")


@pytest.mark.slow
def test_registry_on_the_host(stack: ContainerStack, tmp_path: Path) -> None:
    """A registry served on the Docker host gives the model."""
    folder = saved_models.iris_regression(tmp_path / "iris")
    # The host as containers see it: the address of the engine's bridge, on which nobody else can reach it.
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
        stack.done("up", "MODEL_URI=models:/iris/1", f"MLFLOW_TRACKING_URI={uri}")
        health = stack.get("/health")[1]
        assert (health["model"]["name"], health["model"]["version"], health["source"]) == ("iris", "1", "the registry")
        stack.done("down")
    finally:
        registry.terminate()
        registry.wait(60)


def register(address: str, folder: Path, scratch: Path) -> None:
    """Register a model's folder as iris version 1, as soon as the registry answers."""
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
        (["MODEL_URI=models:/nobody@champion"], "there is no model to serve"),
        (["CPUS=1000"], "CPUS='1000': expected a number of CPUs from 0.01 to "),
    ],
)
def test_what_cannot_be_is_refused(running: ContainerStack, changes: list[str], reason: str) -> None:
    """A change that cannot be is refused in words, and what ran before runs on."""
    ran = running.make("up", *changes)
    assert ran.returncode != 0
    assert reason in ran.stderr
    assert "Traceback" not in ran.stderr
    assert running.predict()[0] == 200


def test_port_in_use(running: ContainerStack) -> None:
    """A port that another program listens on is named before anything is changed."""
    with port_in_use() as port:
        assert f"port {port} is in use by another program" in running.refused("up", f"LOCUST_PORT={port}")
    assert running.predict()[0] == 200


def test_locust_loads_the_service(running: ContainerStack) -> None:
    """Locust in its container reaches Nginx by name, and its users' requests are answered."""
    locust = ["python", "-m", "locust", "-f", "locust/locustfile.py", "--host", "http://nginx:8080", "--headless"]
    options = ["--users", "5", "--run-time", "6s", "--json", "--loglevel", "ERROR"]
    ran = running.docker("exec", running.containers("locust")[0]["Id"], *locust, *options)
    (row,) = json.loads(ran[ran.index("[") :])
    assert row["num_requests"] > 0
    assert row["num_failures"] == 0


def locust_page(two: ContainerStack, target: str, **form: str) -> Any:
    """What Locust's page answers: to a form, or without one."""
    data = urlencode(form).encode() if form else None
    with urllib.request.urlopen(f"http://127.0.0.1:{two.locust_port}{target}", data, timeout=10) as answer:
        return json.load(answer)


def wait_for_workers(two: ContainerStack, count: int) -> None:
    def are_ready() -> bool:
        with suppress(OSError):  # the page may be on its way
            found = locust_page(two, "/stats/requests").get("workers", [])
            return [worker["state"] for worker in found] == ["ready"] * count
        return False

    wait_until(are_ready, pause=1)


@pytest.mark.slow
def test_workers_of_locust(running: ContainerStack) -> None:
    """Locust's workers are as many as asked for, find a master that was started anew, and load the service."""
    running.done("up", "LOCUST_WORKERS=2")
    assert len(running.containers("locust-worker")) == 2
    wait_for_workers(running, 2)
    running.docker("restart", running.containers("locust")[0]["Id"])
    wait_for_workers(running, 2)
    locust_page(
        running, "/swarm", user_count="10", spawn_rate="10", host="http://nginx:8080", run_time="6s", wait_max="1.5"
    )

    def final_statistics() -> Any:
        found = locust_page(running, "/stats/requests")
        return found if found["state"] == "stopped" else None

    stats = wait_until(final_statistics, pause=1)
    assert stats["stats"][0]["num_requests"] > 0
    assert stats["errors"] == []
    running.done("up", "LOCUST_WORKERS=1")
    assert len(running.containers("locust-worker")) == 1


def test_logs_and_stats(running: ContainerStack) -> None:
    """`make logs` shows a service's lines, `make stats` the engine's own figures, and an unknown service is refused."""
    assert "model loaded: covertype version" in running.done("logs")
    assert '"upstream_response_time"' in running.done("logs", "S=nginx")
    assert "expected one of server, nginx, locust, locust-worker, database, " in running.refused("logs", "S=gunicorn")
    assert f"{running.project}-nginx-1" in running.done("stats")


def test_down_and_clean_leave_nothing(running: ContainerStack) -> None:
    """`make down` keeps the registry and the models, and `make clean` leaves nothing with the engine."""
    version = running.predict()[1]["model_version"]
    running.done("down")
    assert {line.split()[0] for line in running.leftovers()} == {"volume", "image"}
    running.done("up", "N=1")
    assert running.predict()[1]["model_version"] == version
    running.done("clean", "YES=1")
    assert running.leftovers() == []
    assert (ROOT / "docker-compose.yml").exists()
