"""MLflow's own scoring server, one process per model."""

from __future__ import annotations

import shlex
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports emit warnings.
    from mlflow.pyfunc.scoring_server import get_cmd

from tests.peers import scoring, scoring_http, scoring_tables, scoring_values
from tests.peers.exchange import Case, ask
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_PING = Case("ping", "/ping", method="GET")


def cases() -> list[Case]:
    """Return all requests of MLflow's scoring protocol."""
    return [*scoring.cases(), *scoring_http.cases(), *scoring_values.cases(), *scoring_tables.cases()]


@dataclass
class ScoringServer:
    """The process that `mlflow models serve --env-manager local` starts; that command would import MLflow twice."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @classmethod
    def start(cls, folder: Path, log: Path) -> ScoringServer:
        """Start a server of one model, without waiting until it is ready."""
        port = free_port()
        command, environ = get_cmd(str(folder), port=port, host="127.0.0.1")
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *shlex.split(command)],
                env={**environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, stdout=output, stderr=output,
            )  # fmt: skip
        return cls(process, port, log)

    def wait_ready(self) -> None:
        """Wait for a 200 of /ping; fail with the log if the process ends, or after 180 seconds."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(OSError):
                return ask(self.port, _PING).status == 200
            return False

        wait_until(is_ready, seconds=180, pause=0.1, describe=self.log.read_text)

    def stop(self) -> None:
        """Stop the server; no connection is open any more."""
        self.process.terminate()
        self.process.wait(60)
