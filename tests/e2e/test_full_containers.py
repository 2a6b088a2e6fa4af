"""End-to-end tests of the registry stack in containers: MLflow, MariaDB and the S3 store, by `make up-full`."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from dotenv import dotenv_values

from deploy.rollout.replica_client import request_json
from tests.support.ports import free_port
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stacks.local import clean_environ
from tests.support.stress.chaos import Chaos, report
from tests.support.stress.load import Load
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

_SERVICES = ("database", "object-store", "mlflow")
_LIST_OBJECTS_PROGRAM = """
import boto3, os
from botocore.config import Config
s3 = boto3.client("s3", endpoint_url="http://object-store:7480", region_name="us-east-1",
                  config=Config(s3={"addressing_style": "path"}))
print(*(item["Key"] for item in s3.list_objects_v2(Bucket="mlflow").get("Contents", [])), sep="\\n")
"""
_REGISTER_IN_S3_PROGRAM = """
import mlflow, sys
from deploy.models import registry
client = mlflow.MlflowClient()
experiment = client.create_experiment("rooted", artifact_location="s3://mlflow/rooted")
folder = mlflow.artifacts.download_artifacts("models:/covertype/1", dst_path="/tmp")
with mlflow.start_run(experiment_id=experiment) as run:
    mlflow.log_artifacts(folder, "model")
    mlflow.register_model(f"runs:/{run.info.run_id}/model", "rooted")
client.set_registered_model_alias("rooted", "champion", "1")
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[ContainerStack]:
    """A registry stack that has trained and registered version 1."""
    require_engine()
    folder = tmp_path_factory.mktemp("full")
    environ = {
        "BACKEND": "docker",
        "COMPOSE_PROJECT_NAME": f"forkcast-full-{os.getpid()}",
        "COVERTYPE_PATH": str(covertype_csv),
        "ENV_FILE": str(folder / "settings.env"),
        "MLFLOW_PORT": str(free_port()),
    }
    new_stack = ContainerStack(folder / "var", environ)
    try:
        new_stack.make_ok("up-full")
        yield new_stack
    finally:
        new_stack.make("clean", "YES=1")
        assert new_stack.leftovers() == []


def _secrets(stack: ContainerStack) -> dict[str, str]:
    return {name: value for name, value in dotenv_values(stack.environ["ENV_FILE"]).items() if value}


def _run_client(stack: ContainerStack, program: str, **variables: str) -> str:
    """Run a Python program in the image and the network of MLflow's clients, and return its output."""
    options = [argument for name, value in variables.items() for argument in ("--env", f"{name}={value}")]
    image = f"{stack.project}-model"
    return stack.docker(
        "run", "--rm", "--network", f"{stack.project}_default", *options, image, "python", "-W", "ignore", "-c", program
    )


def _objects(stack: ContainerStack) -> list[str]:
    secrets = _secrets(stack)
    keys = {"AWS_ACCESS_KEY_ID": secrets["S3_ACCESS_KEY_ID"], "AWS_SECRET_ACCESS_KEY": secrets["S3_SECRET_ACCESS_KEY"]}
    return _run_client(stack, _LIST_OBJECTS_PROGRAM, **keys).splitlines()


def _query_database(stack: ContainerStack, sql: str) -> str:
    """Return the output of MariaDB's client for a query."""
    command = f"MYSQL_PWD=$MARIADB_PASSWORD mariadb --user=mlflow --batch --skip-column-names --execute='{sql}' mlflow"
    return stack.docker("exec", f"{stack.project}-database-1", "sh", "-c", command)


def _versions(stack: ContainerStack) -> list[str]:
    sql = 'SELECT version FROM model_versions WHERE name = "covertype" ORDER BY version'
    return _query_database(stack, sql).splitlines()


def _wait_until_healthy(stack: ContainerStack, service: str) -> None:
    def is_healthy() -> bool:
        (container,) = stack.containers(service)
        state = container["State"]
        return bool(state["Status"] == "running" and state["Health"]["Status"] == "healthy")

    def last_lines() -> str:
        return stack.docker("logs", "--tail", "20", f"{stack.project}-{service}-1")

    wait_until(is_healthy, seconds=300, pause=0.2, describe=last_lines)


def _predictions_during(stack: ContainerStack, work: Callable[[], object]) -> tuple[int, int]:
    """Predict repeatedly while ``work`` runs; return the number of requests and of failures."""
    done = Event()

    def ask() -> tuple[int, int]:
        count = failed = 0
        while not done.is_set():
            count += 1
            failed += stack.predict()[0] != 200
            time.sleep(0.01)
        return count, failed

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            work()
        finally:
            done.set()
        return asking.result()


def test_up_full_serves_from_its_own_registry(stack: ContainerStack) -> None:
    """The stack serves the model of its own registry, whose page answers on this machine."""
    assert stack.predict()[0] == 200
    health = stack.replica_health(stack.containers("server")[0]["Id"])
    assert (health["model"]["name"], health["model"]["version"]) == ("covertype", "1")
    page = f"http://127.0.0.1:{stack.environ['MLFLOW_PORT']}"
    status, answer = request_json(page, "GET", "/api/2.0/mlflow/registered-models/get?name=covertype")
    assert status == 200
    assert answer["registered_model"]["name"] == "covertype"
    output = stack.make_ok("status")
    assert page in output
    assert all(f"{stack.project}-{service}-1" in output for service in _SERVICES)
    assert f"{stack.project}-mlflow-1" in stack.make_ok("stats")
    assert "registered-models" in stack.make_ok("logs", "S=mlflow")


def test_only_mlflow_is_published(stack: ContainerStack) -> None:
    """MLflow can be reached only from this machine, the database and the store only from other containers."""
    published = {service: stack.containers(service)[0]["HostConfig"]["PortBindings"] for service in _SERVICES}
    assert published["mlflow"] == {"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": stack.environ["MLFLOW_PORT"]}]}
    assert not published["database"]
    assert not published["object-store"]


def test_secrets_are_random_and_private(stack: ContainerStack) -> None:
    """The secrets are random, in a private file, and absent from logs, command lines and containers that need none."""
    file = Path(stack.environ["ENV_FILE"])
    secrets = _secrets(stack)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(secrets) == {"DATABASE_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"}
    assert len(set(secrets.values())) == 3
    for service in ("server", "nginx", "locust", "locust-worker"):
        described = json.dumps(stack.containers(service))
        assert not any(value in described for value in secrets.values())
    for service in _SERVICES:
        processes = stack.docker("top", f"{stack.project}-{service}-1", "-eo", "pid,args")
        assert not any(value in processes for value in secrets.values())
    for log in (
        stack.make_ok("logs", "S=mlflow"),
        stack.make_ok("logs", "S=database"),
        stack.make_ok("logs", "S=object-store"),
    ):
        assert not any(value in log for value in secrets.values())
    text = file.read_text()
    stack.make_ok("up")
    assert file.read_text() == text


def test_train_registers_the_next_version(stack: ContainerStack) -> None:
    """`make train` uses the running registry: the rows are in MariaDB and the files in S3."""
    stack.make_ok("train")
    assert _versions(stack) == ["1", "2"]
    assert sum(key.endswith("/MLmodel") for key in _objects(stack)) == 2
    stack.make_ok("restart")
    versions = {stack.replica_health(container["Id"])["model"]["version"] for container in stack.containers("server")}
    assert versions == {"2"}


def test_files_reach_clients_through_mlflow(stack: ContainerStack) -> None:
    """MLflow does not send clients to the store, which they cannot reach and for which they have no key."""
    page = f"http://127.0.0.1:{stack.environ['MLFLOW_PORT']}"
    status, info = request_json(page, "GET", "/api/3.0/mlflow/server-info")
    assert status == 200
    assert not info["multipart_downloads_enabled"]
    assert not info["multipart_uploads_enabled"]


def test_model_with_artifacts_in_s3_is_resolved(stack: ContainerStack) -> None:
    """A model with artifacts at an s3:// address is registered and resolved with keys and the store's address."""
    secrets = _secrets(stack)
    keys = {
        "MLFLOW_S3_ENDPOINT_URL": "http://object-store:7480",
        "AWS_ACCESS_KEY_ID": secrets["S3_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": secrets["S3_SECRET_ACCESS_KEY"],
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }
    _run_client(stack, _REGISTER_IN_S3_PROGRAM, **keys)
    assert "rooted/" in "\n".join(_objects(stack))
    resolve = "import os; from server.model_store.resolve import resolve; from server.settings import Settings; "
    resolve += "print(resolve(Settings.from_env(os.environ)).name)"
    output = _run_client(stack, resolve, **keys, MODEL_URI="models:/rooted@champion", VAR_DIR="/tmp/var")  # noqa: S108 - in a container
    assert output.splitlines()[-1] == "rooted"


@pytest.mark.parametrize("service", ["object-store", "database", "mlflow"])
def test_serving_goes_on_without_the_registry(stack: ContainerStack, service: str) -> None:
    """With a service of the registry down, `make restart` serves the last good copy, and no request fails."""
    stack.docker("stop", f"{stack.project}-{service}-1")
    try:
        requests, failed = _predictions_during(stack, lambda: stack.make_ok("restart"))
        assert requests > 0
        assert failed == 0
        # Without the object store, the registry still names the champion, so no last good copy is needed.
        assert service == "object-store" or "serves the last good copy" in stack.make_ok("status")
    finally:
        stack.docker("start", f"{stack.project}-{service}-1")
    _wait_until_healthy(stack, service)
    _wait_until_healthy(stack, "mlflow")


@pytest.mark.parametrize("service", ["database", "object-store"])
def test_data_survives_a_kill(stack: ContainerStack, service: str) -> None:
    """A database or a store that is killed and started again has all its data."""
    versions, objects = _versions(stack), _objects(stack)
    stack.docker("kill", "--signal", "KILL", f"{stack.project}-{service}-1")
    stack.docker("start", f"{stack.project}-{service}-1")
    _wait_until_healthy(stack, service)
    assert _versions(stack) == versions
    assert _objects(stack) == objects
    _run_client(
        stack,
        "import mlflow; mlflow.artifacts.download_artifacts('models:/covertype/1', dst_path='/tmp')",
        MLFLOW_TRACKING_URI="http://mlflow:5000",
    )


def test_data_survives_down_and_up(stack: ContainerStack) -> None:
    """`make down` stops all containers, and after `make up-full` all data are available again."""
    versions, objects = _versions(stack), _objects(stack)
    stack.make_ok("down")
    assert [line for line in stack.leftovers() if line.startswith(("container", "network"))] == []
    stack.make_ok("up-full", "N=1")
    assert _versions(stack) == versions
    assert _objects(stack) == objects
    assert stack.predict()[0] == 200


def test_compile_registers_a_version_without_serving_it(stack: ContainerStack) -> None:
    """`make compile` prints the URI of a new version as its last line, and the served version stays."""
    served = stack.predict()[1]["model_version"]
    uri = stack.make_ok("compile", "MODEL_URI=models:/covertype@champion").splitlines()[-1]
    name, _, version = uri.rpartition("/")
    assert (name, version in _versions(stack), version != served) == ("models:/covertype", True, True)
    stack.make_ok("up")
    assert stack.predict()[1]["model_version"] == served
    stack.make_ok("up", f"MODEL_URI={uri}")
    assert stack.predict()[1]["model_version"] == version
    assert stack.get("/health")[1]["model"]["engine"] == "forest"


def test_disturbances_under_load_fail_no_request(stack: ContainerStack) -> None:
    """Scaling, a killed and a restarted container, and new limits fail no request under 64 connections."""
    stack.make_ok("scale", "N=2")
    lines: list[str] = []
    with Load(stack.port) as load:
        Chaos({**clean_environ(), **stack.environ, "VAR_DIR": str(stack.var)}, lines.append).run(load, 300)
    assert load.counts.failed == 0, lines + report(load.counts)
    assert len(load.counts.replicas) >= 5


def test_up_full_with_another_registry_is_refused(stack: ContainerStack) -> None:
    """`make up-full` with the address of another registry is refused."""
    line = stack.make_error("up-full", "MLFLOW_TRACKING_URI=http://elsewhere:5000")
    assert line.startswith("error: MLFLOW_TRACKING_URI='http://elsewhere:5000' names another registry")
