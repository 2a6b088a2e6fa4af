"""`python -m tests.peers.mlserver`: ask a real MLServer the whole battery, and keep what it answers in mlserver.json.

MLServer needs an older Starlette than Forkcast does, so it lives in a virtual environment of its own under var/, which
the command makes; the test compares Forkcast with the kept answers. To be run again when the battery changes, or when
a new version of scikit-learn changes what the models predict.
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

KEPT = Path(__file__).with_suffix(".json")

_HOME = ROOT / "var/peers/mlserver"
_SERVERS = {"mlserver": "1.7.1", "mlserver-mlflow": "1.7.1", "mlserver-sklearn": "1.7.1"}
# A model's file is read by the versions that wrote it.
_SAME = ("mlflow", "scikit-learn", "numpy", "pandas", "cloudpickle")
# By the end of a case's model: what loads the model, and which of its files.
_RUNTIMES = {"": ("mlserver_mlflow.MLflowRuntime", ""), v2.SKLEARN: ("mlserver_sklearn.SKLearnModel", "model.pkl")}
_READY = Case("ready", "/v2/health/ready", method="GET")
_MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def cases() -> list[Case]:
    """The battery."""
    return [*v2.cases(), *v2_tensors.cases()]


def digest(case: Case) -> str:
    """What tells a request from another one of the same name."""
    parts = (case.method, case.path, case.content_type, sorted(case.headers.items()), case.body, case.model)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def kept(case: Case, answers: Mapping[str, Any]) -> Answer:
    """MLServer's answer, as it was kept; it must be that to this very request."""
    one = answers.get(case.name, {})
    if one.get("request") != digest(case):
        raise LookupError(f"{case.name}: the request is new, or has changed; run python -m tests.peers.mlserver")
    return Answer(one["status"], "", json.dumps(one["document"]).encode())


def _python() -> Path:
    python = _HOME / "bin/python"
    if not python.exists():
        venv.create(_HOME, with_pip=True)
    wanted = {**_SERVERS, **{name: version(name) for name in _SAME}}
    pins = [f"{name}=={number}" for name, number in wanted.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    return python


@contextmanager
def _serving(python: Path, folder: Path) -> Iterator[int]:
    port = free_port()
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **settings}))
    for end, (implementation, file) in _RUNTIMES.items():
        for name, save in SAVE.items():
            home = folder / f"{name}{end}"
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
    if isinstance(document, dict) and _MADE_UP.fullmatch(str(document.get("id"))):
        document["id"] = "a new one"
    if isinstance(document, dict) and isinstance(document.get("detail"), list):
        # It quotes the whole request.
        document["detail"] = [{key: one.get(key) for key in ("type", "loc", "msg")} for one in document["detail"]]
    return {"request": digest(case), "status": answer.status, "document": document}


def _versions(python: Path) -> dict[str, str]:
    command = [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    installed = {one["name"]: one["version"] for one in json.loads(ran.stdout)}
    return {"python": sys.version.split()[0], **{name: installed[name] for name in (*_SERVERS, *_SAME)}}


def main() -> None:
    """Ask everything and write the file, a line a request."""
    python = _python()
    with tempfile.TemporaryDirectory() as folder, _serving(python, Path(folder)) as port:
        lines = [f"{json.dumps(case.name)}: {json.dumps(_record(case, port))}" for case in cases()]
    versions = json.dumps(_versions(python))
    KEPT.write_text(f'{{"versions": {versions},\n"answers": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
