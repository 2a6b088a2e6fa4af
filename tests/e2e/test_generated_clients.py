"""Clients generated from the OpenAPI document of a replica predict with it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from deploy.models.training import package
from deploy.models.training.package import EXAMPLE
from deploy.models.training.pipeline import fit
from deploy.models.training.synthetic import generate
from tests.support.models import saved_models
from tests.support.programs.typescript import TypeScript
from tests.support.stacks.local import Replica, launch

pytestmark = pytest.mark.slow

# The path, the status, the body and the answer of a request.
Exchange = list[Any]


def save_covertype(path: Path) -> Path:
    """Save a small model in the form of `make train`: numbers, codes and ranges."""
    data = generate(rows=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about pandas
        package.save(fit(data, RandomForestClassifier(n_estimators=5, random_state=0)), data, path)
    return path


def save_tensor(path: Path) -> Path:
    """Save a classifier that was fitted on an array, with the signature of arrays."""
    rows, labels = load_iris(return_X_y=True)
    return saved_models.save_sklearn(path, LogisticRegression(max_iter=1000).fit(rows, labels), rows)


def save_texts(path: Path) -> Path:
    """Save a classifier that takes an array of texts."""
    texts = np.array(["a good film", "a bad film", "good", "bad"])
    classifier = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0])
    return saved_models.save_sklearn(path, classifier, texts)


MODELS: dict[str, Callable[[Path], Path]] = {
    "covertype": save_covertype,
    "tensor": save_tensor,
    "strings": saved_models.mixed_columns,
    "texts": save_texts,
}
# A row as values in the model's order, for each model.
ROWS: dict[str, list[Any]] = {
    "covertype": list(EXAMPLE),
    "tensor": [5.1, 3.5, 1.4, 0.2],
    "strings": ["red", 3.5],
    "texts": ["a good film"],
}


@dataclass(frozen=True)
class Served:
    """A model, the replica that serves it, and a file with the replica's OpenAPI document."""

    name: str
    replica: Replica
    document: Path

    @property
    def schemas(self) -> dict[str, Any]:
        schemas: dict[str, Any] = json.loads(self.document.read_text())["components"]["schemas"]
        return schemas

    def check(self, exchanges: list[Exchange]) -> None:
        """Check that plain HTTP gets the same answer to each body, and that each protocol predicted."""
        for path, status, body, answer in exchanges:
            assert self.replica.ask("POST", path, body) == (status, answer)
        predicted = {re.split("[/?]", path)[1] for path, status, *_ in exchanges if status == 200}
        assert predicted == {"predict", "invocations", "v2"}


@pytest.fixture(scope="module", params=MODELS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    replica = launch(MODELS[request.param](folder / request.param), folder / "replica.log", WEB_CONCURRENCY="2")
    try:
        replica.wait_ready()
        status, document = replica.ask("GET", "/openapi.json")
        assert status == 200
        (folder / "openapi.json").write_text(json.dumps(document))
        yield Served(request.param, replica, folder / "openapi.json")
    finally:
        replica.stop()


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> TypeScript:
    return TypeScript.prepare(tmp_path_factory.mktemp("typescript") / "programs")


def run_tool(name: str, *arguments: str | Path) -> str:
    """Run a program of the virtual environment, and return its output, in which warnings were written to stderr."""
    folder = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        [folder / name, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_typescript_client_predicts(served: Served, typescript: TypeScript) -> None:
    """A program with types of openapi-typescript passes the type checks and predicts with openapi-fetch."""
    served.check(typescript.run(served.name, served.document, served.replica.address))


@pytest.fixture
def python_client(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package that openapi-python-client generates."""
    name = f"{served.name}_client"
    arguments = ("--path", served.document, "--output-path", tmp_path / name, "--meta", "none")
    output = run_tool("openapi-python-client", "generate", *arguments)
    # CSV is the one thing that it leaves out.
    assert re.findall(r"^(?:WARNING|ERROR|Unsupported|Unable).*", output, re.MULTILINE) == [
        "WARNING parsing POST /invocations within mlflow.",
        "Unsupported content type text/csv",
    ]
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


def test_python_client_predicts(served: Served, python_client: ModuleType) -> None:
    """The client that openapi-python-client generates predicts over each protocol, and reads the place of an error."""
    package_name = python_client.__name__
    models = importlib.import_module(f"{package_name}.models")
    values = ROWS[served.name]
    row = dict(zip(served.schemas["Features"]["properties"], values, strict=True))
    exchanges: list[Exchange] = []
    with python_client.Client(served.replica.address) as client:

        def send(operation: str, path: str, body: Any, **query: bool) -> Any:
            module = importlib.import_module(f"{package_name}.api.{operation}")
            answer = module.sync_detailed(client=client, body=body, **query)
            exchanges.append([path, answer.status_code, body.to_dict(), answer.parsed.to_dict()])
            return answer.parsed

        features = models.Features(**row)
        single = send("predict.predict", "/predict", features)
        assert isinstance(single, models.Prediction)
        listed = send("predict.predict", "/predict", models.PredictFeatureList(values))
        assert listed == single
        several = send("predict.predict", "/predict", models.PredictInstances([features, values]))
        assert several.predictions == [single.prediction] * 2
        records = models.InvocationDataframeRecords([models.InvocationRecord(**row)])
        assert send("mlflow.invocations", "/invocations", records).predictions == [single.prediction]
        infer = f"/v2/models/{served.name}/infer"
        tensors = models.V2InferRequest.from_dict(served.schemas["V2InferRequest"]["examples"][0])
        outputs = send("open_inference_protocol.v2_model_infer", infer, tensors).outputs
        assert outputs[0].data == [single.prediction]
        full = send("predict.predict", "/predict?probabilities=true", features, probabilities=True)
        assert max(full.probabilities.to_dict().values()) == full.confidence
        problem = send("predict.predict", "/predict", models.PredictFeatureList([]))
        assert isinstance(problem, models.Problem)
        assert [error.pointer for error in problem.errors] == ["#/features"]
    served.check(exchanges)


def test_generated_types_have_readable_names(served: Served, tmp_path: Path) -> None:
    """datamodel-code-generator makes classes that validate a row, none of which has a number for a name."""
    module = tmp_path / f"{served.name}_types.py"
    run_tool("datamodel-codegen", "--input", served.document, "--output", module)
    classes = re.findall(r"^class (\w+)\(", module.read_text(), re.MULTILINE)
    assert {"PredictRequest", "PredictResponse", "Features", "V2InferRequest"} <= set(classes)
    assert not [name for name in classes if re.search(r"\d$|Model$|AnyOf|OneOf", name)]
    script = f"from {module.stem} import PredictRequest; PredictRequest.model_validate_json(input())"
    rows = json.dumps({"instances": [ROWS[served.name]]})
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, input=rows, text=True, check=True, timeout=60)
