"""The scaling lab in containers: real limits of CPU and memory; a starved generator, a slow service, and both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.scaling.results import Results
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from tests.support.stacks.containers import ContainerStack, require_engine

pytestmark = pytest.mark.slow

# One rung, long enough to be judged.
RUNG = {"STEP_SECONDS": "8", "SETTLE_SECONDS": "3"}
SLOW = "1x0.1/256M:1"
STARVED = "0.2"  # half of what so many users cost Locust, which takes 3 s of a CPU to start
GIBIBYTE = 1 << 30


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[ContainerStack]:
    """A stack of one replica with a whole CPU, and a folder of results of its own."""
    require_engine()
    folder = tmp_path_factory.mktemp("lab")
    new_stack = ContainerStack(folder / "var")
    new_stack.environ = new_stack.project_settings("lab", COVERTYPE_PATH=covertype_csv) | {
        "RESULTS_DIR": str(folder / "results")
    }
    try:
        new_stack.make_ok("up")
        yield new_stack
    finally:
        new_stack.make("clean", "YES=1")


def measured(lab: ContainerStack, verb: str, **variables: str) -> Results:
    """What a verb of the lab measured."""
    lab.make_ok(verb, *(f"{name}={value}" for name, value in (RUNG | variables).items()))
    return Results.load(max(Path(lab.environ["RESULTS_DIR"]).iterdir()))


def steps(lab: ContainerStack, topologies: str, users: int, **variables: str) -> list[Step]:
    """The step of so many users on each of these topologies."""
    rung = {"USERS": str(users), "STEP_USERS": str(users), "SPAWN_RATE": str(users)}
    return list(measured(lab, "compare", TOPOLOGIES=topologies, **rung, **variables).steps)


@pytest.fixture(scope="module")
def starved(lab: ContainerStack) -> list[Step]:
    """The steps of a service with a whole CPU and of a slow one, by Locust with a fifth of a CPU."""
    return steps(lab, f"1x1/512M:1 {SLOW}", 4000, LOCUST_CPUS=STARVED)


def test_one_replica_and_two_of_half(lab: ContainerStack) -> None:
    """Each topology had its limits and was judged by the engine's own statistics; then the stack is as it was."""
    before = [one["HostConfig"]["NanoCpus"] for one in lab.containers("server")]
    results = measured(
        lab, "compare", TOPOLOGIES="1x0.5/512M:1 2x0.25/256M:1", USERS="40", STEP_USERS="40", SPAWN_RATE="40"
    )
    one, two = results.steps
    # On a busy machine even so few users may find the generator late; the service itself misses nothing.
    assert {one.verdict, two.verdict} <= {PASS, GENERATOR_BOUND}
    for step, memory in ((one, 512 << 20), (two, 256 << 20)):
        assert step.failures == 0
        assert step.nginx_requests == pytest.approx(step.requests, rel=0.1)
        assert step.cpus is not None
        assert step.cpu_percent is not None
        assert step.memory is not None
        assert step.memory_percent is not None
        # The engine's memory is that of each replica, and judged against one replica's limit.
        assert 0 < step.memory_percent < 100
        assert step.memory < 2 * memory
    assert two.cpus == pytest.approx(0.5 * (two.cpu_percent or 0) / 100, rel=0.5)
    assert [one["HostConfig"]["NanoCpus"] for one in lab.containers("server")] == before
    assert [one["HostConfig"]["Memory"] for one in lab.containers("server")] == [GIBIBYTE]
    assert lab.predict()[0] == 200
    experiment = lab.docker(
        "run", "--rm", "--entrypoint", "python", "--volume", f"{lab.project}_registry:/registry:ro",
        f"{lab.project}-model:latest", "-c",
        "import sqlite3; print(sqlite3.connect('file:/registry/mlflow.db?mode=ro', uri=True).execute("
        "\"select count(*) from runs join experiments using (experiment_id) where experiments.name = 'scaling'\""
        ").fetchone()[0])",
    )  # fmt: skip
    assert int(experiment) == 2


def test_starved_generator_is_caught(starved: list[Step]) -> None:
    """Locust with a fifth of a CPU is the limit, not a service that has a whole one: no verdict on the service."""
    step, _ = starved
    assert step.verdict == GENERATOR_BOUND
    assert step.reason


def test_slow_service_is_not_the_generators_fault(lab: ContainerStack) -> None:
    """A service with a tenth of a CPU misses the objective on both clocks, and Locust is not blamed for it."""
    (step,) = steps(lab, SLOW, 4000, SLO_P95_MS="100")
    assert step.verdict == FAIL
    assert "P95" in step.reason or "CPU" in step.reason


def test_slow_and_starved(starved: list[Step]) -> None:
    """Where both are at their limit, nobody can tell what the service would have done."""
    _, step = starved
    assert step.verdict == GENERATOR_BOUND


def test_least_resources(lab: ContainerStack) -> None:
    """The search starts from the most, goes on with less than what held, and says what it found."""
    quick = {"STEP_SECONDS": "4", "SETTLE_SECONDS": "1"}  # each of some eight runs
    # As many as were calibrated above.
    results = measured(lab, "min-resources", USERS="40", CPUS="0.2", MEMORY="64M", **quick)
    tried = [run.topology for run in results.runs]
    assert (tried[0].cpus, tried[0].memory) == (0.2, 64 << 20)
    assert all(one.cpus <= 0.2 and (one.memory or 0) <= 64 << 20 for one in tried)
    answer = results.conditions["answer"]
    passed = [step.topology for step in results.steps if step.verdict == PASS]
    if passed:
        assert f"40 users are held by {passed[-1]}" in answer
        assert len(tried) > 1
    else:  # a busy machine
        assert "generator-bound" in answer
    assert lab.predict()[0] == 200


def test_generators_are_gone(lab: ContainerStack) -> None:
    """No container of the lab's outlives its command."""
    assert not lab.docker("ps", "--all", "--quiet", "--filter", f"name={lab.project}-lab-")
