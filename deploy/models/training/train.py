"""``python -m deploy.models.training.train``: fit Covertype's forest, register and check it, make it the champion."""

from __future__ import annotations

import os
import sys

from sklearn.base import BaseEstimator

from deploy.errors import CommandError
from deploy.models.registry.mlflow_variables import set_mlflow_variables
from deploy.models.training.covertype import load
from deploy.models.training.pipeline import FORESTS, fit
from deploy.options import ModelOptions
from server.errors import StartError


def train(options: ModelOptions, forest: BaseEstimator) -> str:
    """Train ``forest`` as the options say, tell the steps on stdout, and return the line that sums it up.

    Raises:
        StartError: a setting, the data, the registry or the model's check, in one line.

    """
    settings = options.settings
    # They import MLflow: only after main() has set the variables that MLflow reads at its import.
    from deploy.models.registry.versions import open_experiment  # noqa: PLC0415
    from deploy.models.training import registration  # noqa: PLC0415

    experiment = open_experiment(settings, registration.NAME)
    data = load(options.covertype_path, settings.var_dir / "data")
    _say(f"training {registration.NAME} on {len(data.y):,} rows ({data.source})")
    fitted = fit(data, forest)
    version = registration.publish(fitted, data, experiment, settings)
    return (
        f"{registration.NAME} version {version.number} is @{registration.ALIAS}: accuracy {fitted.accuracy:.3f},"
        f" macro-F1 {fitted.macro_f1:.3f}, {fitted.nodes:,} nodes, trained on {data.source}"
    )


def main() -> int:
    """Run the trainer on this process's environment; 0, or 1 after one line of why on stderr."""
    set_mlflow_variables()
    try:
        options = ModelOptions.read(os.environ)
        _say(train(options, FORESTS[options.forest]()))
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
