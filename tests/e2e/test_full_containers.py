"""The registry stack in containers: MLflow, MariaDB and the S3 store, by `make up-full` in a project of its own."""

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
_OBJECTS = """
import boto3, os
from botocore.config import Config
s3 = boto3.client("s3", endpoint_url="http://object-store:7480", region_name="us-east-1",
                  config=Config(s3={"addressing_style": "path"}))
print(*(one["Key"] for one in s3.list_objects_v2(Bucket="mlflow").get("Contents", [])), sep="\\n")
"""
_S3_ROOTED = """
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
    """A stack that has trained version 1 into its own registry."""
    require_engine()
    folder = tmp_path_factory.mktemp("full")
    environ = {
        "BACKEND": "docker",
        "COMPOSE_PROJECT_NAME": f"forkcast-full-{os.getpid()}",
        "COVERTYPE_PATH": str(covertype_csv),
        "ENV_FILE": str(folder / "settings.env"),
        "MLFLOW_PORT": str(free_port()),
    }
    one = ContainerStack(folder / "var", environ)
    try:
        one.done("up-full")
        yield one
    finally:
        one.make("clean", "YES=1")
        assert one.leftovers() == []


def _secrets(stack: ContainerStack) -> dict[str, str]:
    return {name: value for name, value in dotenv_values(stack.environ["ENV_FILE"]).items() if value}


def _once(stack: ContainerStack, program: str, **variables: str) -> str:
    """What a program prints in the image and the network of MLflow's clients."""
    options = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
    image = f"{stack.project}-model"
    return stack.docker(
        "run", "--rm", "--network", f"{stack.project}_default", *options, image, "python", "-W", "ignore", "-c", program
    )


def _objects(stack: ContainerStack) -> list[str]:
    made = _secrets(stack)
    keys = {"AWS_ACCESS_KEY_ID": made["S3_ACCESS_KEY_ID"], "AWS_SECRET_ACCESS_KEY": made["S3_SECRET_ACCESS_KEY"]}
    return _once(stack, _OBJECTS, **keys).splitlines()


def _asked(stack: ContainerStack, question: str) -> str:
    """What MariaDB answers, asked by its own client."""
    command = (
        f"MYSQL_PWD=$MARIADB_PASSWORD mariadb --user=mlflow --batch --skip-column-names --execute='{question}' mlflow"
    )
    return stack.docker("exec", f"{stack.project}-database-1", "sh", "-c", command)


def _versions(stack: ContainerStack) -> list[str]:
    return _asked(stack, 'SELECT version FROM model_versions WHERE name = "covertype" ORDER BY version').splitlines()


def _wait_well(stack: ContainerStack, service: str) -> None:
    def is_well() -> bool:
        (container,) = stack.containers(service)
        state = container["State"]
        return bool(state["Status"] == "running" and state["Health"]["Status"] == "healthy")

    def last_lines() -> str:
        return stack.docker("logs", "--tail", "20", f"{stack.project}-{service}-1")

    wait_until(is_well, seconds=300, pause=0.2, describe=last_lines)


def _failures(stack: ContainerStack, work: Callable[[], object]) -> tuple[int, int]:
    """How many predictions were asked for while some work was done, and how many of them failed."""
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


def test_up_answers(stack: ContainerStack) -> None:
    """The stack predicts with the model that was trained into its own registry, whose page answers on this machine."""
    assert stack.predict()[0] == 200
    health = stack.replica_health(stack.containers("server")[0]["Id"])
    assert (health["model"]["name"], health["model"]["version"]) == ("covertype", "1")
    page = f"http://127.0.0.1:{stack.environ['MLFLOW_PORT']}"
    status, answer = request_json(page, "GET", "/api/2.0/mlflow/registered-models/get?name=covertype")
    assert status == 200
    assert answer["registered_model"]["name"] == "covertype"
    told = stack.done("status")
    assert page in told
    assert all(f"{stack.project}-{service}-1" in told for service in _SERVICES)
    assert f"{stack.project}-mlflow-1" in stack.done("stats")
    assert "registered-models" in stack.done("logs", "S=mlflow")


def test_only_mlflow_is_published(stack: ContainerStack) -> None:
    """MLflow is reached from this machine alone, the database and the store from the other containers alone."""
    published = {service: stack.containers(service)[0]["HostConfig"]["PortBindings"] for service in _SERVICES}
    assert published["mlflow"] == {"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": stack.environ["MLFLOW_PORT"]}]}
    assert not published["database"]
    assert not published["object-store"]


def test_secrets_are_random_and_private(stack: ContainerStack) -> None:
    """The secrets are random, in a file that nobody else may read, and known to no process that does not need them."""
    file = Path(stack.environ["ENV_FILE"])
    made = _secrets(stack)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(made) == {"DATABASE_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"}
    assert len(set(made.values())) == 3
    for service in ("server", "nginx", "locust", "locust-worker"):
        described = json.dumps(stack.containers(service))
        assert not any(value in described for value in made.values())
    for service in _SERVICES:
        processes = stack.docker("top", f"{stack.project}-{service}-1", "-eo", "pid,args")
        assert not any(value in processes for value in made.values())
    for text in (
        stack.done("logs", "S=mlflow"),
        stack.done("logs", "S=database"),
        stack.done("logs", "S=object-store"),
    ):
        assert not any(value in text for value in made.values())
    before = file.read_text()
    stack.done("up")
    assert file.read_text() == before


def test_training_makes_the_next_version(stack: ContainerStack) -> None:
    """`make train` talks to the registry that is up: its rows are in MariaDB, its files in S3."""
    stack.done("train")
    assert _versions(stack) == ["1", "2"]
    assert sum(key.endswith("/MLmodel") for key in _objects(stack)) == 2
    stack.done("restart")
    versions = {stack.replica_health(one["Id"])["model"]["version"] for one in stack.containers("server")}
    assert versions == {"2"}


def test_files_reach_clients_through_mlflow(stack: ContainerStack) -> None:
    """A client that cannot reach the store, and has no key to it, is not sent there."""
    page = f"http://127.0.0.1:{stack.environ['MLFLOW_PORT']}"
    status, told = request_json(page, "GET", "/api/3.0/mlflow/server-info")
    assert status == 200
    assert not told["multipart_downloads_enabled"]
    assert not told["multipart_uploads_enabled"]


def test_a_model_straight_from_s3(stack: ContainerStack) -> None:
    """A model whose artifacts are at s3:// is trained, and resolved, with keys and the store's address."""
    made = _secrets(stack)
    keys = {
        "MLFLOW_S3_ENDPOINT_URL": "http://object-store:7480",
        "AWS_ACCESS_KEY_ID": made["S3_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": made["S3_SECRET_ACCESS_KEY"],
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }
    _once(stack, _S3_ROOTED, **keys)
    assert "rooted/" in "\n".join(_objects(stack))
    resolve = "import os; from server.model_store.resolve import resolve; from server.settings import Settings; "
    resolve += "print(resolve(Settings.from_env(os.environ)).name)"
    found = _once(stack, resolve, **keys, MODEL_URI="models:/rooted@champion", VAR_DIR="/tmp/var")  # noqa: S108 - in a container of its own
    assert found.splitlines()[-1] == "rooted"


@pytest.mark.parametrize("service", ["object-store", "database", "mlflow"])
def test_serving_goes_on_without_the_registry(stack: ContainerStack, service: str) -> None:
    """With a part of the registry down, `make restart` serves the last good copy, and no request fails."""
    stack.docker("stop", f"{stack.project}-{service}-1")
    try:
        asked, failed = _failures(stack, lambda: stack.done("restart"))
        assert asked > 0
        assert failed == 0
        # Without the store alone, the registry still says which version is the champion.
        assert service == "object-store" or "serves the last good copy" in stack.done("status")
    finally:
        stack.docker("start", f"{stack.project}-{service}-1")
    _wait_well(stack, service)
    _wait_well(stack, "mlflow")


@pytest.mark.parametrize("service", ["database", "object-store"])
def test_data_outlives_a_kill(stack: ContainerStack, service: str) -> None:
    """A database or a store that is killed has all its data when it is started again."""
    versions, objects = _versions(stack), _objects(stack)
    stack.docker("kill", "--signal", "KILL", f"{stack.project}-{service}-1")
    stack.docker("start", f"{stack.project}-{service}-1")
    _wait_well(stack, service)
    assert _versions(stack) == versions
    assert _objects(stack) == objects
    _once(
        stack,
        "import mlflow; mlflow.artifacts.download_artifacts('models:/covertype/1', dst_path='/tmp')",
        MLFLOW_TRACKING_URI="http://mlflow:5000",
    )


def test_data_outlives_down_and_up(stack: ContainerStack) -> None:
    """`make down` stops all of it, and with `make up-full` everything is there again."""
    versions, objects = _versions(stack), _objects(stack)
    stack.done("down")
    assert [line for line in stack.leftovers() if line.startswith(("container", "network"))] == []
    stack.done("up-full", "N=1")
    assert _versions(stack) == versions
    assert _objects(stack) == objects
    assert stack.predict()[0] == 200


def test_compiled_model_of_the_registry(stack: ContainerStack) -> None:
    """`make compile` prints the URI of a new version as its last line; what is served stays what it was."""
    before = stack.predict()[1]["model_version"]
    uri = stack.done("compile", "MODEL_URI=models:/covertype@champion").splitlines()[-1]
    name, _, version = uri.rpartition("/")
    assert (name, version in _versions(stack), version != before) == ("models:/covertype", True, True)
    stack.done("up")
    assert stack.predict()[1]["model_version"] == before
    stack.done("up", f"MODEL_URI={uri}")
    assert stack.predict()[1]["model_version"] == version
    assert stack.get("/health")[1]["model"]["engine"] == "forest"


def test_chaos_under_load_loses_nothing(stack: ContainerStack) -> None:
    """Scaling, a killed container, a restarted one and new limits cost no request under 64 connections."""
    stack.done("scale", "N=2")
    told: list[str] = []
    with Load(stack.port) as load:
        Chaos({**clean_environ(), **stack.environ, "VAR_DIR": str(stack.var)}, told.append).run(load, 300)
    assert load.counts.failed == 0, told + report(load.counts)
    assert len(load.counts.replicas) >= 5


def test_another_registry_is_refused(stack: ContainerStack) -> None:
    """Another registry, and the stack's own one, are not both to be had."""
    told = stack.refused("up-full", "MLFLOW_TRACKING_URI=http://elsewhere:5000")
    assert told.startswith("error: MLFLOW_TRACKING_URI='http://elsewhere:5000' names another registry")
