"""`python -m tests.peers.mlserver`: send all requests to a real MLServer, and record its answers in mlserver.json.

MLServer needs an older Starlette than Forkcast does, so this command installs it in a virtual environment under var/.
The test compares Forkcast with the recorded answers. Run the command again after a change of the requests, or when a
new version of scikit-learn changes the predictions of the models.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.rollout.replica_client import listens
from deploy.stack.paths import ROOT
from tests.peers import v2, v2_tensors
from tests.peers.exchange import Answer, Case, ask
from tests.peers.models import SAVE
from tests.support.ports import free_port

RECORDING = Path(__file__).with_suffix(".json")

_VENV = ROOT / "var/peers/mlserver"
_SERVERS = {"mlserver": "1.7.1", "mlserver-mlflow": "1.7.1", "mlserver-sklearn": "1.7.1"}
# A model file must be read by the package versions that wrote it.
_SHARED_PACKAGES = ("mlflow", "scikit-learn", "numpy", "pandas", "cloudpickle")
# The runtime class and the model file, by the suffix of the model's name.
_RUNTIMES = {"": ("mlserver_mlflow.MLflowRuntime", ""), v2.SKLEARN: ("mlserver_sklearn.SKLearnModel", "model.pkl")}
_READY = Case("ready", "/v2/health/ready", method="GET")
_GENERATED_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def cases() -> list[Case]:
    """Return all requests of the Open Inference Protocol."""
    return [*v2.cases(), *v2_tensors.cases()]


def digest(case: Case) -> str:
    """Return a digest of a request, which changes if a request of the same name changes."""
    parts = (case.method, case.path, case.content_type, sorted(case.headers.items()), case.body, case.model)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def recorded_answer(case: Case, answers: Mapping[str, Any]) -> Answer:
    """Return MLServer's recorded answer to a request.

    Raises:
        LookupError: no answer to exactly this request is recorded.
    """
    recorded = answers.get(case.name, {})
    if recorded.get("request") != digest(case):
        raise LookupError(f"{case.name}: no answer to this request is recorded; run python -m tests.peers.mlserver")
    return Answer(recorded["status"], "", json.dumps(recorded["document"]).encode())


def _python() -> Path:
    python = _VENV / "bin/python"
    if not python.exists():
        venv.create(_VENV, with_pip=True)
    packages = {**_SERVERS, **{name: version(name) for name in _SHARED_PACKAGES}}
    pins = [f"{name}=={number}" for name, number in packages.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    return python


@contextmanager
def _serving(python: Path, folder: Path) -> Iterator[int]:
    port = free_port()
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **settings}))
    for suffix, (implementation, file) in _RUNTIMES.items():
        for name, save in SAVE.items():
            home = folder / f"{name}{suffix}"
            home.mkdir()
            parameters = {"uri": str(save(home / "model") / file), "version": "1"}
            document = {"name": home.name, "implementation": implementation, "parameters": parameters}
            (home / "model-settings.json").write_text(json.dumps(document))
    process = subprocess.Popen([python.with_name("mlserver"), "start", folder])
    try:
        while not listens(f"http://127.0.0.1:{port}") or ask(port, _READY).status != 200:
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _record(case: Case, port: int) -> dict[str, Any]:
    answer = ask(port, case, name=case.model, version="1")
    document = answer.document
    if isinstance(document, dict) and _GENERATED_ID.fullmatch(str(document.get("id"))):
        document["id"] = "a new one"
    if isinstance(document, dict) and isinstance(document.get("detail"), list):
        # The other keys quote the whole request.
        document["detail"] = [{key: error.get(key) for key in ("type", "loc", "msg")} for error in document["detail"]]
    return {"request": digest(case), "status": answer.status, "document": document}


def _versions(python: Path) -> dict[str, str]:
    command = [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    installed = {package["name"]: package["version"] for package in json.loads(listing.stdout)}
    return {"python": sys.version.split()[0], **{name: installed[name] for name in (*_SERVERS, *_SHARED_PACKAGES)}}


def main() -> None:
    """Send all requests and write the answers, one line per request."""
    python = _python()
    with tempfile.TemporaryDirectory() as folder, _serving(python, Path(folder)) as port:
        lines = [f"{json.dumps(case.name)}: {json.dumps(_record(case, port))}" for case in cases()]
    versions = json.dumps(_versions(python))
    RECORDING.write_text(f'{{"versions": {versions},\n"answers": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
