"""End-to-end tests of the scaling lab in containers, with real limits of CPU and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.scaling.results import Results
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS, Step
from tests.support.stacks.containers import ContainerStack, require_engine

pytestmark = pytest.mark.slow

# A step that is long enough for a verdict.
STEP = {"STEP_SECONDS": "8", "SETTLE_SECONDS": "3"}
SLOW_TOPOLOGY = "1x0.1/256M:1"
STARVED_CPUS = "0.2"  # half of what Locust needs for 4,000 users
GIBIBYTE = 1 << 30


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[ContainerStack]:
    """A stack of one replica with one CPU, and a separate folder of results."""
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


def measure(lab: ContainerStack, verb: str, **variables: str) -> Results:
    """Run a verb of the lab and return its results."""
    lab.make_ok(verb, *(f"{name}={value}" for name, value in (STEP | variables).items()))
    return Results.load(max(Path(lab.environ["RESULTS_DIR"]).iterdir()))


def measure_steps(lab: ContainerStack, topologies: str, users: int, **variables: str) -> list[Step]:
    """Measure one step with a number of users on each topology, and return the steps."""
    ladder = {"USERS": str(users), "STEP_USERS": str(users), "SPAWN_RATE": str(users)}
    return list(measure(lab, "compare", TOPOLOGIES=topologies, **ladder, **variables).steps)


@pytest.fixture(scope="module")
def starved(lab: ContainerStack) -> list[Step]:
    """Steps of a service with one CPU and of a slow service, measured by Locust with a fifth of a CPU."""
    return measure_steps(lab, f"1x1/512M:1 {SLOW_TOPOLOGY}", 4000, LOCUST_CPUS=STARVED_CPUS)


def test_compare_measures_each_topology_with_its_limits(lab: ContainerStack) -> None:
    """Each topology is measured with its limits by the engine's statistics, and the stack is then restored."""
    cpus = [container["HostConfig"]["NanoCpus"] for container in lab.containers("server")]
    results = measure(
        lab, "compare", TOPOLOGIES="1x0.5/512M:1 2x0.25/256M:1", USERS="40", STEP_USERS="40", SPAWN_RATE="40"
    )
    vertical, horizontal = results.steps
    # On a busy machine even 40 users may overload the generator, but no request fails.
    assert {vertical.verdict, horizontal.verdict} <= {PASS, GENERATOR_BOUND}
    for step, memory in ((vertical, 512 << 20), (horizontal, 256 << 20)):
        assert step.failures == 0
        assert step.nginx_requests == pytest.approx(step.requests, rel=0.1)
        assert step.cpus is not None
        assert step.cpu_percent is not None
        assert step.memory is not None
        assert step.memory_percent is not None
        # The engine reports memory per replica, which is compared with the limit of one replica.
        assert 0 < step.memory_percent < 100
        assert step.memory < 2 * memory
    assert horizontal.cpus == pytest.approx(0.5 * (horizontal.cpu_percent or 0) / 100, rel=0.5)
    assert [container["HostConfig"]["NanoCpus"] for container in lab.containers("server")] == cpus
    assert [container["HostConfig"]["Memory"] for container in lab.containers("server")] == [GIBIBYTE]
    assert lab.predict()[0] == 200
    experiment = lab.docker(
        "run", "--rm", "--entrypoint", "python", "--volume", f"{lab.project}_registry:/registry:ro",
        f"{lab.project}-model:latest", "-c",
        "import sqlite3; print(sqlite3.connect('file:/registry/mlflow.db?mode=ro', uri=True).execute("
        "\"select count(*) from runs join experiments using (experiment_id) where experiments.name = 'scaling'\""
        ").fetchone()[0])",
    )  # fmt: skip
    assert int(experiment) == 2


def test_starved_generator_gives_no_verdict_on_the_service(starved: list[Step]) -> None:
    """If Locust has a fifth of a CPU and the service a full one, the verdict is generator-bound."""
    step, _ = starved
    assert step.verdict == GENERATOR_BOUND
    assert step.reason


def test_slow_service_fails_the_objective(lab: ContainerStack) -> None:
    """A service with a tenth of a CPU fails the objective, and the verdict is not generator-bound."""
    (step,) = measure_steps(lab, SLOW_TOPOLOGY, 4000, SLO_P95_MS="100")
    assert step.verdict == FAIL
    assert "P95" in step.reason or "CPU" in step.reason


def test_slow_service_with_starved_generator_is_generator_bound(starved: list[Step]) -> None:
    """If both service and generator are at their limits, the verdict is generator-bound."""
    _, step = starved
    assert step.verdict == GENERATOR_BOUND


def test_min_resources_searches_from_the_maximum(lab: ContainerStack) -> None:
    """The search starts from the maximum resources, continues below those that passed, and reports its answer."""
    quick = {"STEP_SECONDS": "4", "SETTLE_SECONDS": "1"}  # for each of about eight runs
    results = measure(lab, "min-resources", USERS="40", CPUS="0.2", MEMORY="64M", **quick)
    topologies = [run.topology for run in results.runs]
    assert (topologies[0].cpus, topologies[0].memory) == (0.2, 64 << 20)
    assert all(topology.cpus <= 0.2 and (topology.memory or 0) <= 64 << 20 for topology in topologies)
    answer = results.conditions["answer"]
    passed = [step.topology for step in results.steps if step.verdict == PASS]
    if passed:
        assert f"40 users are held by {passed[-1]}" in answer
        assert len(topologies) > 1
    else:  # the machine was busy
        assert "generator-bound" in answer
    assert lab.predict()[0] == 200


def test_no_container_of_the_lab_remains(lab: ContainerStack) -> None:
    """After the lab's commands none of its containers remain."""
    assert not lab.docker("ps", "--all", "--quiet", "--filter", f"name={lab.project}-lab-")
