"""``python -m deploy.models.training.train``: fit Covertype's forest, register and check it, make it the champion."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from sklearn.base import BaseEstimator

from deploy.models.registry.mlflow_variables import set_mlflow_variables
from deploy.models.training.covertype import load
from deploy.models.training.pipeline import FORESTS, fit
from server.errors import SettingsError, StartError
from server.settings import Settings


def train(environ: Mapping[str, str], forest: BaseEstimator) -> str:
    """Train ``forest`` as ``environ`` says, tell the steps on stdout, and return the line that sums it up.

    Raises:
        StartError: a setting, the data, the registry or the model's check, in one line.

    """
    settings = Settings.from_env(environ)
    # They import MLflow: only after main() has set the variables that MLflow reads at its import.
    from deploy.models.registry.versions import open_experiment  # noqa: PLC0415
    from deploy.models.training import registration  # noqa: PLC0415

    experiment = open_experiment(settings, registration.NAME)
    _say("loading Covertype")
    data = load(environ, settings.var_dir / "data")
    _say(f"fitting on {len(data.y):,} rows ({data.source})")
    fitted = fit(data, forest)
    _say(f"fitted in {fitted.seconds:.0f} s; registering and checking")
    version = registration.publish(fitted, data, experiment, settings)
    return (
        f"{registration.NAME} version {version.number} is @{registration.ALIAS}: accuracy {fitted.accuracy:.3f},"
        f" macro-F1 {fitted.macro_f1:.3f}, {fitted.nodes:,} nodes, trained on {data.source}"
    )


def _forest(environ: Mapping[str, str]) -> BaseEstimator:
    name = environ.get("FOREST") or "default"
    if name not in FORESTS:
        raise SettingsError(f"FOREST={name!r}: expected one of {', '.join(FORESTS)}")
    return FORESTS[name]()


def main() -> int:
    """Run the trainer on this process's environment; 0, or 1 after one line of why on stderr."""
    set_mlflow_variables()
    try:
        _say(train(os.environ, _forest(os.environ)))
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
