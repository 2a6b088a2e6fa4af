"""``python -m deploy.models.registry.tracking_server``: MLflow's server, on a database and a bucket or a folder.

It waits for nothing: whoever starts it does so again. The database and the bucket are looked at before, so that what is
wrong is one line, and reach MLflow by the environment: everybody may see the arguments of a process.
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

# By which names clients of this machine and of the containers reach it; MLflow refuses any other.
ALLOWED_HOSTS = "mlflow,mlflow:*,localhost,localhost:*,127.0.0.1,127.0.0.1:*,host.docker.internal:*"
# One process answers many requests at a time; each more would take 250 MB.
_WORKERS = "1"

# By which MLflow finds deploy/models/registry/proxied_s3.py.
_PLUGINS = Path(__file__).parent / "plugins"

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Queues of jobs (scorers of language models, mostly) would be three more processes.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def prepare(options: RegistryOptions) -> dict[str, str]:
    """Look at the database, make the bucket or the folder, and tell what MLflow's server is to read.

    Raises:
        SettingsError, RegistryError: in one line, with no password in it.
    """
    url = database.address(options)
    database.check(url)
    told = {"MLFLOW_BACKEND_STORE_URI": url.render_as_string(hide_password=False)} | _QUIET
    if folder := options.artifacts:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.as_uri()
        # By their own place, too, which those who read the database without the server understand.
        return told | {"MLFLOW_ARTIFACTS_DESTINATION": place, "MLFLOW_DEFAULT_ARTIFACT_ROOT": place}
    bucket = Bucket.of(options)
    bucket.make()
    return told | {"MLFLOW_ARTIFACTS_DESTINATION": f"s3://{bucket.name}"} | bucket.environment


def command(options: RegistryOptions) -> list[str]:
    """Return the command line of MLflow's server: where it listens, and for whom."""
    hosts = ",".join(filter(None, [ALLOWED_HOSTS, options.allowed_hosts]))
    where = ["--host", options.host, "--port", str(options.port)]
    return [sys.executable, "-m", "mlflow", "server", *where, "--workers", _WORKERS, "--allowed-hosts", hosts,
            "--serve-artifacts"]  # fmt: skip


def _plugins() -> dict[str, str]:
    path = [str(_PLUGINS), os.environ.get("PYTHONPATH") or str(ROOT)]
    return {"PYTHONPATH": os.pathsep.join(path)}


def _from_file(path: str | None) -> dict[str, str]:
    """Settings that are not to be in the environment of whoever starts this."""
    return dict(json.loads(Path(path).read_text())) if path else {}


def main() -> int:
    """Become MLflow's server; 1 after one line of why not on stderr."""
    try:
        options = RegistryOptions.read(dict(os.environ) | _from_file(os.environ.get("SETTINGS_FILE")))
        line = command(options)
        environ = dict(os.environ) | prepare(options) | _plugins()
    except (CommandError, StartError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    return os.execve(line[0], line, environ)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
