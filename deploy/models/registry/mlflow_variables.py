"""The environment variables that MLflow reads when it is imported, with this project's defaults."""

from __future__ import annotations

import os

# Variables that the user has set take precedence over these.
MLFLOW_VARIABLES = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By default MLflow retries a registry that is down for minutes before it reports an error.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def set_mlflow_variables() -> None:
    """Set the variables that this process's environment lacks. Call it before MLflow is imported."""
    for name, value in MLFLOW_VARIABLES.items():
        os.environ.setdefault(name, value)
