"""``python -m deploy.models.registry.record``: log measured runs, one JSON document on standard input, to MLflow.

``{"experiment": .., "runs": [{"name": .., "params": {..}, "metrics": [{"step": 500, "rps": ..}, ..], "tags": {..},
"artifacts": {"report.md": "the text", ..}}]}``. Prints the id of each run.
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
class Record:
    """One run: what was measured at which steps, under which conditions, and the files that tell of it."""

    name: str
    params: Mapping[str, Any]
    metrics: Sequence[tuple[int, Mapping[str, float]]]
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Record:
        """From JSON; what was not measured is null there, and left out here."""
        steps = [dict(one) for one in document["metrics"]]
        return cls(
            name=str(document["name"]),
            params=dict(document["params"]),
            metrics=[(int(one.pop("step")), _numbers(one)) for one in steps],
            tags={name: str(value) for name, value in document["tags"].items()},
            artifacts={name: str(text) for name, text in document["artifacts"].items()},
        )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


def read(text: str) -> tuple[str, list[Record]]:
    """The experiment and its runs.

    Raises:
        CommandError: it is no such document.
    """
    try:
        document = json.loads(text)
        return str(document["experiment"]), [Record.parse(one) for one in document["runs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"no document of runs on standard input: {type(error).__name__}: {error}") from None


def record(experiment: str, records: Sequence[Record], settings: Settings) -> list[str]:
    """Log each as a run of its own; their ids.

    Raises:
        RegistryError: the registry does not answer, or not in a way that lets a run be logged.
    """
    # They import MLflow: only after main() has set the variables that MLflow reads at its import.
    import mlflow  # noqa: PLC0415

    from deploy.models.registry import client, versions  # noqa: PLC0415

    found = versions.open_experiment(settings, experiment)
    ids = []
    for one in records:
        with (
            client.reported(settings.tracking_uri),
            mlflow.start_run(experiment_id=found, run_name=one.name, tags=dict(one.tags)) as run,
        ):
            mlflow.log_params(dict(one.params))
            for step, values in one.metrics:
                mlflow.log_metrics(dict(values), step=step)
            for name, text in one.artifacts.items():
                mlflow.log_text(text, name)
        ids.append(str(run.info.run_id))
    return ids


def main() -> int:
    """Record what standard input holds; 0, or 1 after one line of why on stderr."""
    set_mlflow_variables()
    try:
        experiment, records = read(sys.stdin.read())
        ids = record(experiment, records, Settings.from_env(os.environ))
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(ids))
    return 0


if __name__ == "__main__":
    sys.exit(main())
