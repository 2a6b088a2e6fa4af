"""Tests of the document with which results are logged to MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from deploy.models.registry.record import read
from deploy.scaling.results import Results, Run
from deploy.scaling.step import FAIL, Step
from deploy.scaling.topology import Topology
from deploy.scaling.tracking import document

CONDITIONS = {
    "verb": "compare", "machine": "2 CPUs, 24 GB", "commit": "abc1234", "backend": "docker",
    "model": {"name": "covertype", "version": "3", "engine": "forest"}, "user": "light", "slo": "P95 < 1000 ms",
    "ladder": "+500 to 1000", "started": "2026-11-21T14:35:13", "options": {}, "notes": [],
}  # fmt: skip
STEP = Step(
    topology="2x0.5/300M:1", users=500, seconds=20, requests=1000, failures=10, rps=50, locust_mean=5, locust_p50=4,
    locust_p95=12.5, locust_p99=20, nginx_requests=1000, nginx_p50=3, nginx_p95=11, nginx_p99=19, cpus=0.75,
    cpu_percent=80.5, memory=1 << 20,
)  # fmt: skip


def results(folder: Path) -> Results:
    """Return results of two topologies, one with two steps and one without steps."""
    up = Run(Topology.parse("2x0.5/300M:1"), [STEP, replace(STEP, users=1000, verdict=FAIL)], True, "two misses")
    return Results(folder, dict(CONDITIONS), [up, Run(Topology.parse("1x1:1"))])


def test_document_has_a_run_per_measured_topology(tmp_path: Path) -> None:
    """Each measured topology is a run with its conditions and its figures by number of users."""
    (run,) = document(results(tmp_path))["runs"]
    assert run["name"] == "2x0.5/300M:1"
    assert run["params"] == {
        "topology": "2x0.5/300M:1", "replicas": 2, "workers": 1, "cpus": 0.5, "memory": "300M",
        "model": "covertype 3 forest", "machine": "2 CPUs, 24 GB", "commit": "abc1234", "user": "light",
        "ladder": "+500 to 1000", "slo": "P95 < 1000 ms",
    }  # fmt: skip
    assert run["tags"] == {"verb": "compare", "ended": "two misses", "results": tmp_path.name}
    first, second = run["metrics"]
    assert (first["step"], second["step"]) == (500, 1000)
    assert (first["rps"], first["p95_ms"], first["nginx_p95_ms"], first["failure_percent"]) == (50, 12.5, 11, 1)
    assert (first["cpus"], first["cpu_percent"], first["memory_bytes"], first["null_rps"]) == (
        0.75,
        80.5,
        1 << 20,
        None,
    )
    assert (first["holds"], second["holds"]) == (1, 0)


def test_existing_reports_become_artifacts(tmp_path: Path) -> None:
    """The existing reports and the file of steps become artifacts."""
    assert document(results(tmp_path))["runs"][0]["artifacts"] == {}
    (tmp_path / "report.md").write_text("# Report\n")
    (tmp_path / "steps.csv").write_text("topology\n")
    (tmp_path / "lab.json").write_text("{}")
    artifacts = document(results(tmp_path))["runs"][0]["artifacts"]
    assert artifacts == {"report.md": "# Report\n", "steps.csv": "topology\n"}


def test_logging_program_reads_the_document(tmp_path: Path) -> None:
    """The logging program reads the document that was written, and skips unknown values."""
    experiment, (run,) = read(json.dumps(document(results(tmp_path))))
    assert (experiment, run.name) == ("scaling", "2x0.5/300M:1")
    users, figures = run.metrics[0]
    assert (users, figures["rps"]) == (500, 50)
    assert "null_rps" not in figures


def test_unknown_conditions_become_empty_parameters(tmp_path: Path) -> None:
    """Unknown conditions become empty parameters, and an interrupted run is marked as such."""
    bare = Results(tmp_path, {}, [Run(Topology.parse("1x1:1"), [STEP])])
    (run,) = document(bare)["runs"]
    assert (run["params"]["commit"], run["params"]["model"], run["params"]["memory"]) == ("", "", "")
    assert (run["tags"]["verb"], run["tags"]["ended"]) == ("", "not done")
