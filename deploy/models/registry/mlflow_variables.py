"""The variables that MLflow reads when it is imported, as the programs of this package set them."""

from __future__ import annotations

import os

# A setting of the user's comes first.
MLFLOW_VARIABLES = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A registry that is down is reported at once, not after minutes of patience.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def set_mlflow_variables() -> None:
    """Set those that this process's environment lacks. Call it before MLflow is imported."""
    for name, value in MLFLOW_VARIABLES.items():
        os.environ.setdefault(name, value)
