"""The workshop's table, and that of all steps."""

from __future__ import annotations

from deploy.scaling.document import Table
from deploy.scaling.figures import memory, number, percent
from deploy.scaling.held import GENERATOR, Held, held
from deploy.scaling.results import Results
from deploy.scaling.step import PASS, Step

_WORKSHOP = ("topology", "CPU", "RAM", "users", "RPS", "P95 ms", "failures", "result")
_STEPS = (
    "topology", "users", "RPS", "P95 ms, Locust", "P95 ms, Nginx", "failures", "CPU of limit", "memory of limit",
    "Locust's CPU", "verdict",
)  # fmt: skip


def workshop(results: Results) -> Table:
    """A line a topology, at the most users that it held; where it held none, at the first step."""
    return Table(_WORKSHOP, [_workshop_row(run) for run in held(results)])


def all_steps(results: Results) -> Table:
    """A line a step, with what both clocks said."""
    rows = [_step_row(step) for step in results.steps]
    return Table(_STEPS, rows, folded=f"All {len(rows)} steps")


def _workshop_row(run: Held) -> list[str]:
    step, size = run.step or run.missed, run.topology
    figures = [number(step.rps), number(step.locust_p95), percent(step.failure_percent)] if step else [""] * 3
    most = f"{run.users:,}" if run.step else f"none of {step.users:,}" if step else ""
    ram = "no limit" if size.total_memory is None else memory(size.total_memory)
    return [size.name, number(size.total_cpus), ram, most, *figures, _result(run)]


def _result(run: Held) -> str:
    return f"{run.why} ({run.missed.reason})" if run.limit == GENERATOR and run.missed else run.why


def _step_row(step: Step) -> list[str]:
    return [
        step.topology, f"{step.users:,}", number(step.rps), number(step.locust_p95), number(step.nginx_p95),
        percent(step.failure_percent), percent(step.cpu_percent), percent(step.memory_percent),
        percent(step.locust_cpu_percent), _verdict(step),
    ]  # fmt: skip


def _verdict(step: Step) -> str:
    """With its reason, and with how requests failed if any did."""
    text = step.verdict if step.verdict == PASS or not step.reason else f"{step.verdict}: {step.reason}"
    return f"{text}; failed: {step.failure_kinds}" if step.failure_kinds else text
