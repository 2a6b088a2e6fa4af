"""``python -m deploy.models.registry.tracking_server``: MLflow's server, on a database and a bucket or a folder.

Database and bucket are checked first, so that an error is one line. If they are not ready the program exits at once;
its supervisor (Docker, Swarm, supervisord) starts it again. Secrets reach MLflow in the environment, because every user
of a host can read the arguments of its processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from deploy.errors import CommandError
from deploy.models.registry import database
from deploy.models.registry.bucket import Bucket
from deploy.options import RegistryOptions
from server.errors import StartError
from server.settings import ROOT

# MLflow refuses requests with any other Host header: these are the names by which the host and the containers reach it.
ALLOWED_HOSTS = "mlflow,mlflow:*,localhost,localhost:*,127.0.0.1,127.0.0.1:*,host.docker.internal:*"
# One process answers many requests concurrently; each further one would take 250 MB.
_WORKER_COUNT = "1"

# MLflow finds deploy/models/registry/proxied_s3.py through the entry point of the package in this folder.
_PLUGINS = Path(__file__).parent / "plugins"

_FIXED_VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Job queues, mostly for scorers of language models, would be three more processes.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def prepare(options: RegistryOptions) -> dict[str, str]:
    """Check the database, create the bucket or the folder, and return the variables that MLflow's server reads.

    Raises:
        SettingsError, RegistryError: in one line, without passwords.
    """
    url = database.database_url(options)
    database.check_connection(url)
    variables = {"MLFLOW_BACKEND_STORE_URI": url.render_as_string(hide_password=False)} | _FIXED_VARIABLES
    if folder := options.artifacts:
        folder.mkdir(parents=True, exist_ok=True)
        uri = folder.as_uri()
        # Runs record this URI as their root, so that clients that read the database without the server find artifacts.
        return variables | {"MLFLOW_ARTIFACTS_DESTINATION": uri, "MLFLOW_DEFAULT_ARTIFACT_ROOT": uri}
    bucket = Bucket.of(options)
    bucket.create()
    return variables | {"MLFLOW_ARTIFACTS_DESTINATION": f"s3://{bucket.name}"} | bucket.environment


def command(options: RegistryOptions) -> list[str]:
    """Return the command line of MLflow's server, with its address and the Host headers that it accepts."""
    hosts = ",".join(filter(None, [ALLOWED_HOSTS, options.allowed_hosts]))
    address = ["--host", options.host, "--port", str(options.port)]
    return [sys.executable, "-m", "mlflow", "server", *address, "--workers", _WORKER_COUNT, "--allowed-hosts", hosts,
            "--serve-artifacts"]  # fmt: skip


def _plugin_variables() -> dict[str, str]:
    path = [str(_PLUGINS), os.environ.get("PYTHONPATH") or str(ROOT)]
    return {"PYTHONPATH": os.pathsep.join(path)}


def _settings_from_file(path: str | None) -> dict[str, str]:
    """Read settings that must not be in the environment of the process that starts this one, such as passwords."""
    return dict(json.loads(Path(path).read_text())) if path else {}


def main() -> int:
    """Replace this process by MLflow's server; return 1 after printing the error as one line on stderr."""
    try:
        options = RegistryOptions.read(dict(os.environ) | _settings_from_file(os.environ.get("SETTINGS_FILE")))
        arguments = command(options)
        environ = dict(os.environ) | prepare(options) | _plugin_variables()
    except (CommandError, StartError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    return os.execve(arguments[0], arguments, environ)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
