"""Tests of what the Docker backend refuses and then leaves unchanged, with a fake `docker` command.

What it starts, replaces and stops is tested end to end on a real engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.backends.docker.backend import DockerBackend
from deploy.backends.docker.convergence import wait_ready
from deploy.backends.docker.engine import Compose
from deploy.backends.docker.topology import DEFAULT
from deploy.errors import CommandError
from deploy.rollout.promotion import Version
from deploy.rollout.replica_client import OPEN_ACCESS
from deploy.stack.code import code_mismatch
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record, Served
from deploy.stack.specification import Stack
from server.errors import SettingsError
from tests.support import macos
from tests.support.fake_docker import FakeDocker, config, container
from tests.support.options import options
from tests.support.ports import free_port, port_in_use
from tests.support.refusals import refusal

Make = Callable[..., DockerBackend]
UP = Stack(2, "127.0.0.1", 8080, 8089, 1, {}, "1G", "docker")
NOTHING_RUNS = "nothing is running here; start it with: make up"
# The commands that change what an engine runs or stores. `compose run` is a one-shot container.
CHANGES = ("up", "down", "run", "build", "stop", "rm", "pull", "create", "bake")


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine that runs nothing of this checkout."""
    docker.start_engine()
    return docker


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "var")


@pytest.fixture
def make(layout: Layout) -> Make:
    """Return a function that builds the backend of a command with these variables."""

    def build(**environ: str) -> DockerBackend:
        return DockerBackend(layout, options(**environ))

    return build


@pytest.fixture(autouse=True, params=["linux", "macos"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test also as on macOS, where the host's part of the Docker backend works too."""
    if request.param == "macos":
        macos.pretend(monkeypatch)


@pytest.fixture
def up(engine: FakeDocker, layout: Layout) -> None:
    """A running stack of two replicas."""
    layout.make()
    Record(UP).save(layout)
    services = (("server", 1), ("server", 2), ("nginx", 1), ("locust", 1))
    engine.containers(*(container(service, number, folder=str(ROOT)) for service, number in services))


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port that another program listens on."""
    with port_in_use() as port:
        yield port


@pytest.fixture
def unused_port(used_port: int) -> int:
    """A port that no program listens on."""
    port = free_port()
    assert port != used_port
    return port


@pytest.fixture
def ports(unused_port: int) -> dict[str, str]:
    """Unused addresses for a stack."""
    return {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(unused_port), "LOCUST_PORT": str(free_port())}


def refused_verb(verb: Callable[[], object]) -> str:
    """Return why a verb is refused."""
    return refusal(verb, (CommandError, SettingsError))


def changes(engine: FakeDocker) -> list[list[str]]:
    """Return every command that changed something."""
    return [call.arguments for call in engine.calls if set(CHANGES) & set(call.arguments)]


@pytest.mark.parametrize("verb", ["scale", "resources", "restart", "status", "stats"])
def test_verbs_without_a_running_stack_suggest_make_up(
    verb: str, make: Make, engine: FakeDocker, layout: Layout
) -> None:
    """Without a running stack, the verbs that need one say how to start it and change nothing."""
    assert refused_verb(getattr(make(N="2", CPUS="1"), verb)) == NOTHING_RUNS
    assert changes(engine) == []
    assert not layout.state.exists()


def test_containers_of_another_checkout_are_not_ours(make: Make, engine: FakeDocker) -> None:
    """Containers of a project with the same name but another folder do not belong to this stack."""
    engine.containers(container(folder="/elsewhere"))
    assert not make().has_containers
    assert refused_verb(make().status) == NOTHING_RUNS
    engine.containers(container(folder=str(ROOT)))
    assert make().has_containers


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({}, "N is missing: make scale N=3 (a whole number from 1 to 16)"),
        ({"N": ""}, "N is missing: make scale N=3 (a whole number from 1 to 16)"),
        ({"N": "0"}, "N='0': expected a whole number from 1 to 16"),
        ({"N": "17"}, "N='17': expected a whole number from 1 to 16"),
    ],
)
@pytest.mark.usefixtures("up")
def test_scale_refuses_an_invalid_number_of_replicas(
    environ: dict[str, str], error: str, make: Make, engine: FakeDocker, layout: Layout
) -> None:
    """A missing or invalid number of replicas is refused and changes nothing."""
    assert refused_verb(lambda: make(**environ).scale()) == error
    assert changes(engine) == []
    assert Record.load(layout) == Record(UP)


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({}, "CPUS and MEMORY are missing; expected at least one of them: make resources CPUS=0.5 MEMORY=512M"),
        ({"CPUS": "9"}, "CPUS='9': expected a number of CPUs from 0.01 to 8, such as 0.5"),
        ({"MEMORY": "1M"}, "MEMORY='1M': expected a size of at least 6M, such as 512M or 1.5G"),
        ({"CPUS": "1", "MEMORY": "lots"}, "MEMORY='lots': expected a size, such as 512M or 1.5G"),
    ],
)
@pytest.mark.usefixtures("up")
def test_resources_refuses_invalid_limits(
    environ: dict[str, str], error: str, make: Make, engine: FakeDocker, layout: Layout
) -> None:
    """Missing or invalid limits are refused and change nothing."""
    assert refused_verb(lambda: make(**environ).resources()) == error
    assert changes(engine) == []
    assert Record.load(layout) == Record(UP)


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"N": "0"}, "N='0': expected"),
        ({"HTTP_PORT": "http"}, "HTTP_PORT='http': expected"),
        ({"SERVER_CPUS": "0"}, "SERVER_CPUS='0': expected"),
        ({"MEMORY": "1"}, "MEMORY='1': expected"),
        ({"WEB_CONCURRENCY": "many"}, "WEB_CONCURRENCY='many': expected"),
        ({"COVERTYPE_PATH": "/no/such.csv"}, "COVERTYPE_PATH='/no/such.csv': there is no such file"),
        ({"MODEL_URI": "/no/such"}, "MODEL_URI='/no/such': there is no MLflow model"),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:port"}, "MLFLOW_TRACKING_URI='http://mlflow:port': "),
        (
            {"MLFLOW_TRACKING_URI": "http://localhost:5000"},
            "MLFLOW_TRACKING_URI='http://localhost:5000': inside a container",
        ),
        (
            {"MLFLOW_TRACKING_URI": "sqlite:////srv/mlflow.db"},
            "MLFLOW_TRACKING_URI='sqlite:////srv/mlflow.db': containers cannot",
        ),
    ],
)
def test_invalid_value_stops_before_building(
    environ: dict[str, str], error: str, make: Make, engine: FakeDocker, layout: Layout
) -> None:
    """An invalid value is refused before anything is built or started."""
    assert refused_verb(lambda: make(**environ).up()).startswith(error)
    assert changes(engine) == []
    assert not layout.state.exists()


@pytest.mark.parametrize("verb", ["up", "train", "down", "delete"])
def test_verbs_refuse_the_project_of_another_checkout(
    verb: str, make: Make, engine: FakeDocker, layout: Layout
) -> None:
    """A verb that would change the stack of another checkout is refused; the error names its folder and a remedy."""
    engine.containers(container(folder="/home/me/forkcast"))
    assert refused_verb(getattr(make(HTTP_PORT="8080"), verb)) == (
        "a stack of /home/me/forkcast runs as the Compose project 'forkcast'; "
        "choose another name with COMPOSE_PROJECT_NAME="
    )
    assert changes(engine) == []
    assert not layout.project.exists()


@pytest.mark.parametrize("verb", ["up", "train", "down", "delete"])
def test_project_name_is_saved_before_use(
    verb: str, make: Make, engine: FakeDocker, layout: Layout, used_port: int
) -> None:
    """The name of the Compose project is saved before anything is created in it."""
    for command in ("build", "down", "run"):
        engine.answer("compose", command)
    engine.answer("compose", "config", out=config() | {"name": "mine"})
    backend = make(HTTP_HOST="127.0.0.1", HTTP_PORT=str(used_port))
    if verb == "up":
        assert refused_verb(backend.up).startswith(f"port {used_port} is in use")
    else:
        getattr(backend, verb)()
    assert layout.project.read_text() == "mine\n"


@pytest.mark.parametrize("verb", ["status", "stats", "logs", "scale"])
def test_reading_verbs_save_no_project(verb: str, make: Make, layout: Layout) -> None:
    """A verb that only reads, or finds no stack, does not save a project name."""
    refused_verb(getattr(make(N="2"), verb))
    assert not layout.project.exists()


def test_equal_nginx_and_locust_ports_are_refused(make: Make, engine: FakeDocker, unused_port: int) -> None:
    """Nginx and Locust cannot share a port."""
    error = refused_verb(make(HTTP_PORT=str(unused_port), LOCUST_PORT=str(unused_port)).up)
    assert error == f"LOCUST_PORT={unused_port}: expected another port, since HTTP_PORT is {unused_port} too"
    assert changes(engine) == []


def test_used_port_is_refused_before_building(make: Make, engine: FakeDocker, used_port: int, unused_port: int) -> None:
    """A port that another program uses is refused before anything is built; the error names the variable."""
    for environ, variable in (
        ({"HTTP_PORT": str(used_port), "LOCUST_PORT": str(unused_port)}, "HTTP_PORT"),
        ({"HTTP_PORT": str(unused_port), "LOCUST_PORT": str(used_port)}, "LOCUST_PORT"),
    ):
        error = refused_verb(make(**environ, HTTP_HOST="127.0.0.1").up)
        assert error == f"port {used_port} is in use by another program; choose another with {variable}="
    assert changes(engine) == []


def test_ports_are_not_checked_for_a_remote_engine(
    make: Make, engine: FakeDocker, used_port: int, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the engine runs on another machine, the ports of this machine are not checked."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    engine.answer("compose", "build", err="no builder\n", status=1)
    assert refused_verb(make(HTTP_PORT=str(used_port), LOCUST_PORT=str(unused_port)).up).endswith("no builder")


def test_ports_of_the_running_stack_are_accepted(
    make: Make, engine: FakeDocker, used_port: int, unused_port: int, layout: Layout
) -> None:
    """A stack may keep the ports that its own Nginx and Locust listen on."""
    layout.make()
    Record(Stack(1, "127.0.0.1", used_port, unused_port, 1, {}, "1G", "docker")).save(layout)
    engine.answer("compose", "build", err="no builder\n", status=1)
    assert refused_verb(make(HTTP_PORT=str(used_port)).up).endswith("no builder")


def test_failed_build_starts_and_stops_nothing(
    make: Make, engine: FakeDocker, ports: dict[str, str], layout: Layout
) -> None:
    """A failed build ends the start; nothing was started and nothing is stopped."""
    engine.answer("compose", "build", err="failed to solve\n", status=1)
    assert refused_verb(make(**ports).up).endswith("failed to solve")
    assert [arguments[5:] for arguments in changes(engine)] == [["build"]]
    assert not layout.state.exists()


def test_failed_pull_builds_no_replacement(make: Make, engine: FakeDocker, ports: dict[str, str]) -> None:
    """If IMAGE names published images that cannot be pulled, no images are built instead."""
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="manifest unknown\n", status=1)
    error = refused_verb(make(**ports, IMAGE="registry.example.com/forkcast", TAG="v1").up)
    assert error == "docker pull --quiet: manifest unknown"
    assert [arguments[0] for arguments in changes(engine)] == ["pull"]


def test_missing_model_starts_nothing(make: Make, engine: FakeDocker, ports: dict[str, str], layout: Layout) -> None:
    """Without a model nothing starts, and the error is that of the model's container."""
    engine.answer("compose", "build")
    engine.answer("compose", "run", "model", err="error: there is no such model\n", status=1)
    engine.answer("compose", "down")
    error = refused_verb(make(**ports).up)
    assert error == "there is no such model"
    assert [arguments[5] for arguments in changes(engine)] == ["build", "run", "down"]
    assert engine.ran("up") == engine.ran("--undo") == []
    assert not layout.state.exists()


def test_failed_start_restores_the_previous_model(
    make: Make, engine: FakeDocker, ports: dict[str, str], layout: Layout
) -> None:
    """If replicas do not start, the previous model is current again and they are stopped."""
    for command in ("build", "run", "down"):
        engine.answer("compose", command)
    engine.answer("compose", "up", err="no room\n", status=1)
    assert refused_verb(make(**ports).up).endswith("no room")
    assert [arguments[5] for arguments in changes(engine)] == ["build", "run", "run", "up", "run", "down"]
    assert len(engine.ran("run", "--undo")) == 1
    assert not layout.state.exists()


@pytest.mark.usefixtures("up")
def test_failed_restart_restores_the_model(make: Make, engine: FakeDocker, layout: Layout) -> None:
    """A failed restart restores the previous model, ignores a failure of that, and keeps the old replicas."""
    engine.answer("compose", "run")
    engine.answer("compose", "run", "--undo", err="error: disk full\n", status=1)
    engine.answer("compose", "up", err="no room\n", status=1)
    assert refused_verb(make().restart).endswith("no room")
    assert len(engine.ran("run", "--undo")) == 1
    assert engine.ran("stop") == engine.ran("rm") == []
    assert Record.load(layout) == Record(UP)


@pytest.mark.usefixtures("up")
def test_restart_without_a_model_keeps_the_replicas(make: Make, engine: FakeDocker, layout: Layout) -> None:
    """A restart whose model is not available leaves the replicas running."""
    engine.answer("compose", "up")
    engine.answer("compose", "run", "model", err="error: there is no such model\n", status=1)
    assert refused_verb(make().restart) == "there is no such model"
    assert [arguments[5] for arguments in changes(engine)] == ["run"]
    assert Record.load(layout) == Record(UP)


def test_removed_container_ends_the_wait(engine: FakeDocker) -> None:
    """The wait for containers ends if one of them is removed."""
    engine.containers(container())
    error = refused_verb(lambda: wait_ready(Compose({}), [container()["Id"], "gone"]))
    assert error == "a container was removed by another process before it was ready"


def test_failed_container_is_reported_with_its_reason(engine: FakeDocker) -> None:
    """A failed container is reported with its reason, before any missing one."""
    engine.answer("logs", out="forkcast: the model has no signature\n")
    engine.answer("events")
    engine.containers(container(Status="exited"))
    error = refused_verb(lambda: wait_ready(Compose({}), [container()["Id"], "gone"]))
    assert error == "forkcast-server-1 did not start: the model has no signature"


def test_failed_training_is_one_line_and_leaves_nothing(make: Make, engine: FakeDocker) -> None:
    """A failed training is reported in one line and leaves no container."""
    engine.answer("compose", "build")
    engine.answer("compose", "run", "deploy.models.training.train", err="error: the disk is full\n", status=1)
    assert refused_verb(make().train) == "the disk is full"
    (command,) = engine.ran("run")
    assert command[5:] == [
        "run",
        "--rm",
        "--no-TTY",
        "--no-deps",
        "model",
        "python",
        "-m",
        "deploy.models.training.train",
    ]


def test_build_without_base_images_is_refused(make: Make, engine: FakeDocker) -> None:
    """A build whose base images cannot be pulled is refused before it starts."""
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="no such host\n", status=1)
    assert refused_verb(make().build).endswith("cannot be pulled: docker pull --quiet: no such host")
    assert engine.ran("build") == []


def test_build_prints_each_image_with_its_size(
    make: Make, engine: FakeDocker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build ends with one line per image, with its size."""
    engine.answer("compose", "build")
    engine.answer("image", "inspect", "{{.Size}}", out="123456789\n")
    make().build()
    names = ["server", "model", "nginx", "locust"]
    assert capsys.readouterr().out.splitlines() == [f"forkcast-{name}  123 MB" for name in names]


def test_publish_without_a_name_is_refused(make: Make, engine: FakeDocker) -> None:
    """Images are not published without a name."""
    assert refused_verb(make(TAG="v1").publish).startswith("IMAGE is missing: ")
    assert changes(engine) == []


DIGEST = "0123456789abcdef" * 4
CANDIDATE = {
    "copy": {"name": "hills", "version": "2", "digest": DIGEST},
    "weight": {"needs": 9, "model": 5, "worker": 4},
}
HEALTH = {
    "model": {"name": "hills", "version": "2", "digest": DIGEST},
    "reloads": 1, "workers": 1, "memory": {"used": 1, "limit": 2},
}  # fmt: skip


@pytest.fixture
def registered(engine: FakeDocker) -> FakeDocker:
    """A model container that accepts version 2, and replicas that serve it already."""
    engine.answer("compose", "run", out=CANDIDATE)
    engine.answer("exec", out=HEALTH)
    return engine


@pytest.mark.usefixtures("up")
def test_promoted_model_is_recorded(
    make: Make, registered: FakeDocker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promoted version is recorded beside the version that replicas started with; no container is replaced."""
    waits: list[object] = []
    monkeypatch.setattr("deploy.backends.base.wait_for_version", lambda *arguments: waits.append(arguments))
    assert make().promote("2", force=False) == Version("hills", "2", DIGEST)
    assert Record.load(layout) == Record(UP, Served(reloaded_to="0123456789ab-2"))
    assert [arguments[5] for arguments in changes(registered)] == ["run", "run"]
    assert waits == [(UP.address, Version("hills", "2", DIGEST), 2, OPEN_ACCESS)]


@pytest.mark.usefixtures("up")
def test_refused_promotion_changes_no_record(make: Make, registered: FakeDocker, layout: Layout) -> None:
    """A refused version is reported with the reason of the registrar, and the record does not change."""
    registered.answer("compose", "run", "check", err="error: version 2 may not be promoted: why\n", status=1)
    assert refused_verb(lambda: make().promote("2", force=False)) == "version 2 may not be promoted: why"
    assert Record.load(layout) == Record(UP)


@pytest.mark.usefixtures("up")
def test_promotion_without_enough_memory_is_refused(make: Make, registered: FakeDocker, layout: Layout) -> None:
    """A version that needs more memory than the limit while replicas reload is refused before anything changes."""
    health = {**HEALTH, "model": None, "memory": {"used": 200 << 20, "limit": 200 << 20}}
    registered.answer("exec", out=health)
    error = refused_verb(lambda: make().promote("2", force=False))
    assert "not enough memory to reload forkcast-server-1: 200M of 200M in use, and 1M more are needed" in error
    assert registered.ran("accept") == []
    assert Record.load(layout) == Record(UP)


@pytest.mark.usefixtures("up")
def test_promotion_refuses_replicas_of_other_code(make: Make, registered: FakeDocker) -> None:
    """A replica whose image was built from other code than the checkout is not reloaded."""
    registered.containers(container(folder=str(ROOT), code="0123456789abcdef"))
    assert refused_verb(lambda: make().promote("2", force=False)) == code_mismatch("forkcast-server-1")
    assert changes(registered) == []


@pytest.mark.usefixtures("up")
def test_promotion_accepts_published_images_of_any_code(make: Make, registered: FakeDocker, layout: Layout) -> None:
    """Replicas of published images reload whatever code this checkout has, since the images belong together."""
    Record(replace(UP, environment={**UP.environment, "IMAGE": "registry/forkcast"})).save(layout)
    registered.containers(container(folder=str(ROOT), code=""))
    registered.answer("compose", "run", "check", err="error: version 2 may not be promoted: why\n", status=1)
    assert refused_verb(lambda: make().promote("2", force=False)) == "version 2 may not be promoted: why"


def test_promotion_without_a_stack_moves_the_alias(make: Make, registered: FakeDocker, layout: Layout) -> None:
    """Without a running stack the alias moves for the next one; images are built, and nothing starts."""
    registered.answer("compose", "build")
    assert make().promote(None, force=True) == Version("hills", "2", DIGEST)
    assert [arguments[5] for arguments in changes(registered)] == ["build", "run", "run"]
    (checked,) = registered.ran("check")
    assert checked[-3:] == ["check", "--force", "--before"]
    assert not layout.state.exists()


@pytest.mark.usefixtures("up")
def test_status_shows_the_addresses_of_the_record(make: Make, engine: FakeDocker) -> None:
    """The status shows the addresses that the stack was started with."""
    for command in ("exec", "logs", "events"):
        engine.answer(command)
    assert "service http://127.0.0.1:8080   Locust http://127.0.0.1:8089" in make().status()
    assert changes(engine) == []


def test_containers_started_by_compose_count_as_stack(make: Make, engine: FakeDocker, layout: Layout) -> None:
    """Containers of this checkout that `docker compose` started count as a stack with that many replicas."""
    for command in ("exec", "logs", "events"):
        engine.answer(command)
    engine.containers(*(container(number=number, folder=str(ROOT)) for number in (1, 2, 3)))
    backend = make(HTTP_PORT="8080")
    assert "service http://127.0.0.1:8080   Locust http://127.0.0.1:8089" in backend.status()
    record = backend._running()
    assert record is not None
    assert (record.wanted.replicas, record.wanted.memory) == (3, DEFAULT.memory)
    assert not layout.state.exists()


@pytest.mark.usefixtures("up")
def test_logs_without_a_service_show_the_replicas(make: Make, engine: FakeDocker) -> None:
    """An unknown service is refused, and without S the logs of the replicas are shown."""
    engine.answer("logs")
    assert refused_verb(make(S="gunicorn").logs).startswith("S='gunicorn': expected one of ")
    make().logs()
    assert "label=com.docker.compose.service=server" in engine.ran("ps")[-1]


@pytest.mark.usefixtures("up")
def test_down_keeps_the_data(make: Make, engine: FakeDocker, layout: Layout) -> None:
    """Stopping removes the containers and the record; volumes and images stay."""
    engine.answer("compose", "down")
    make().down()
    assert [arguments[5:] for arguments in changes(engine)] == [["down", "--remove-orphans"]]
    assert not layout.state.exists()


def test_delete_removes_volumes_and_then_images(make: Make, engine: FakeDocker) -> None:
    """Deleting removes the volumes with the containers, and then the images."""
    engine.answer("compose", "down")
    engine.answer("image", "ls", out="sha256:1\n")
    engine.answer("image", "rm")
    make().delete()
    down, removed = changes(engine)
    assert down[5:] == ["down", "--remove-orphans", "--volumes"]
    assert removed == ["image", "rm", "--force", "sha256:1"]


def test_project_name_reaches_every_compose_command(make: Make, engine: FakeDocker) -> None:
    """COMPOSE_PROJECT_NAME reaches every Compose command."""
    engine.answer("compose", "down")
    make(COMPOSE_PROJECT_NAME="other").down()
    composed = [call for call in engine.calls if call.arguments[0] == "compose"]
    assert {call.environ.get("COMPOSE_PROJECT_NAME") for call in composed} == {"other"}


@pytest.mark.parametrize("model", ["", "0123456789ab-3"])
def test_compose_gets_the_digest_of_configuration_and_model(
    model: str, make: Make, engine: FakeDocker, layout: Layout
) -> None:
    """Compose gets a label with the digest of the replicas' configuration and the id of their model."""
    engine.answer("compose", "down")
    layout.make()
    Record(UP, Served(model)).save(layout)
    make().down()
    assert re.fullmatch(f"[0-9a-f]{{16}}-{model}", engine.calls[-1].environ["CONFIG_DIGEST"])


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("verb", ["restart", "down", "train"])
def test_compose_parses_its_configuration_once_per_verb(verb: str, make: Make, registered: FakeDocker) -> None:
    """Each verb makes Compose parse its configuration only once, since that takes about 0.2 s."""
    for command in ("build", "down", "up"):
        registered.answer("compose", command)
    for command in ("logs", "events", "stop", "rm"):
        registered.answer(command)
    backend = make()
    with suppress(CommandError):  # The fake engine does not start the new replicas of a restart.
        getattr(backend, verb)()
    assert len(registered.ran("compose", "config")) == 1
