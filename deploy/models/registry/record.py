"""``python -m deploy.models.registry.record``: log measured runs, one JSON document on standard input, to MLflow.

``{"experiment": .., "runs": [{"name": .., "params": {..}, "metrics": [{"step": 500, "rps": ..}, ..], "tags": {..},
"artifacts": {"report.md": "the text", ..}}]}``. It prints the id of each run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.errors import CommandError
from deploy.models.registry.mlflow_variables import set_mlflow_variables
from server.errors import StartError
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Run:
    """A measured run: its conditions, its metrics as (step, values by name), and its files as texts by file name."""

    name: str
    params: Mapping[str, Any]
    metrics: Sequence[tuple[int, Mapping[str, float]]]
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Run:
        """Return the run that a JSON document describes; metrics that are null were not measured and are left out."""
        steps = [dict(step) for step in document["metrics"]]
        return cls(
            name=str(document["name"]),
            params=dict(document["params"]),
            metrics=[(int(step.pop("step")), _numbers(step)) for step in steps],
            tags={name: str(value) for name, value in document["tags"].items()},
            artifacts={name: str(text) for name, text in document["artifacts"].items()},
        )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


def read(text: str) -> tuple[str, list[Run]]:
    """Return the name of the experiment, and its runs.

    Raises:
        CommandError: the text is not a JSON document in the form above.
    """
    try:
        document = json.loads(text)
        return str(document["experiment"]), [Run.parse(run) for run in document["runs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"standard input: expected a JSON document of runs, got an invalid one: {type(error).__name__}: {error}"
        ) from None


def record(experiment: str, runs: Sequence[Run], settings: Settings) -> list[str]:
    """Log each run to the experiment, and return the ids that MLflow gave them.

    Raises:
        RegistryError: the registry does not answer, or refuses to log a run.
    """
    # Imported here because they import MLflow, which reads the variables that main() sets first.
    import mlflow  # noqa: PLC0415

    from deploy.models.registry import client, versions  # noqa: PLC0415

    experiment_id = versions.open_experiment(settings, experiment)
    ids = []
    for run in runs:
        with (
            client.registry_errors(settings.tracking_uri),
            mlflow.start_run(experiment_id=experiment_id, run_name=run.name, tags=dict(run.tags)) as active,
        ):
            mlflow.log_params(dict(run.params))
            for step, values in run.metrics:
                mlflow.log_metrics(dict(values), step=step)
            for name, text in run.artifacts.items():
                mlflow.log_text(text, name)
        ids.append(str(active.info.run_id))
    return ids


def main() -> int:
    """Log the runs on standard input; return 0, or 1 after printing the error as one line on stderr."""
    set_mlflow_variables()
    try:
        experiment, runs = read(sys.stdin.read())
        ids = record(experiment, runs, Settings.from_env(os.environ))
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(ids))
    return 0


if __name__ == "__main__":
    sys.exit(main())
