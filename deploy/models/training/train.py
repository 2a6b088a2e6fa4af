"""``python -m deploy.models.training.train``: fit a forest on Covertype and make it the champion."""

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
    """Train and register ``forest``, print each step, and return a one-line summary.

    Raises:
        StartError: a setting or the data is invalid, the registry does not answer, or the model failed its check.

    """
    settings = options.settings
    # Imported here because they import MLflow, which reads the variables that main() sets first.
    from deploy.models.registry.versions import open_experiment  # noqa: PLC0415
    from deploy.models.training import registration  # noqa: PLC0415

    experiment = open_experiment(settings, registration.NAME)
    data = load(options.covertype_path, settings.var_dir / "data")
    _print_now(f"training {registration.NAME} on {len(data.y):,} rows ({data.source})")
    fitted = fit(data, forest)
    version = registration.publish(fitted, data, experiment, settings)
    return (
        f"{registration.NAME} version {version.number} is @{registration.ALIAS}: accuracy {fitted.accuracy:.3f},"
        f" macro-F1 {fitted.macro_f1:.3f}, {fitted.nodes:,} nodes, trained on {data.source}"
    )


def main() -> int:
    """Train as this process's environment says; return 0, or 1 after printing the error as one line on stderr."""
    set_mlflow_variables()
    try:
        options = ModelOptions.read(os.environ)
        _print_now(train(options, FORESTS[options.forest]()))
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _print_now(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
