"""Results as MLflow is to keep them: a run a topology, with the number of users as its steps. Imports no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.scaling.results import Results, Run
from deploy.scaling.step import PASS, Step
from deploy.scaling.topology import size

EXPERIMENT = "scaling"

_CONDITIONS = ("model", "machine", "commit", "user", "ladder", "slo")
_FILES = ("report.md", "report.html", "steps.csv")


def document(results: Results) -> dict[str, Any]:
    """What ``deploy.models.registry.record`` reads; runs that measured nothing are left out."""
    artifacts = {name: path.read_text() for name in _FILES if (path := results.folder / name).is_file()}
    runs = [_run(run, results) | {"artifacts": artifacts} for run in results.runs if run.steps]
    return {"experiment": EXPERIMENT, "runs": runs}


def _run(run: Run, results: Results) -> dict[str, Any]:
    topology, conditions = run.topology, results.conditions
    params = {
        "topology": topology.name,
        "replicas": topology.replicas,
        "workers": topology.workers,
        "cpus": topology.cpus,
        "memory": size(topology.memory) if topology.memory else "",
    }
    ended = run.ended or ("" if run.done else "not done")
    return {
        "name": topology.name,
        "params": params | {name: _words(conditions.get(name)) for name in _CONDITIONS},
        "metrics": [{"step": step.users, **_metrics(step)} for step in run.steps],
        "tags": {"verb": _words(conditions.get("verb")), "ended": ended, "results": results.folder.name},
    }


def _metrics(step: Step) -> dict[str, float | None]:
    return {
        "rps": step.rps,
        "requests": step.requests,
        "failures": step.failures,
        "failure_percent": step.failure_percent,
        "mean_ms": step.locust_mean,
        "p50_ms": step.locust_p50,
        "p95_ms": step.locust_p95,
        "p99_ms": step.locust_p99,
        "nginx_p50_ms": step.nginx_p50,
        "nginx_p95_ms": step.nginx_p95,
        "nginx_p99_ms": step.nginx_p99,
        "null_p95_ms": step.null_p95,
        "null_rps": step.null_rps,
        "cpus": step.cpus,
        "cpu_percent": step.cpu_percent,
        "memory_bytes": step.memory,
        "memory_percent": step.memory_percent,
        "nginx_cpus": step.nginx_cpus,
        "locust_cpus": step.locust_cpus,
        "locust_cpu_percent": step.locust_cpu_percent,
        "holds": float(step.verdict == PASS),
    }


def _words(value: object) -> str:
    """A condition in a line."""
    if isinstance(value, Mapping):
        return " ".join(str(one) for one in value.values())
    return "" if value is None else str(value)
