"""The Open Inference Protocol, version 2. tests/e2e uses it with real clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from server import __version__
from server.http.app import create_app
from server.inference.rows import Prediction, Rows
from server.inference.signature import schema_from_signature
from server.settings import Settings
from tests.support.models.mirror_app import ROW, Mirror, TestClient, client_of, model_of

INFER = "/v2/models/mirror/infer"
TENSORS = [
    {"name": "n", "shape": [2], "datatype": "INT64", "data": [1, 2]},
    {"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [[1.5], [2.5]]},
    {"name": "b", "shape": [2], "datatype": "BOOL", "data": [True, False]},
    {"name": "s", "shape": [2, 1], "datatype": "BYTES", "data": ["a", "b"]},
]


class Sum:
    """An engine that predicts the sum of a row, with a confidence."""

    name = "sum"
    uses_pandas = False

    def predict(self, rows: Rows) -> Prediction:
        totals = rows.numbers.sum(axis=1).tolist()
        return Prediction([int(total) for total in totals], [0.5] * len(totals))


SIGNATURE = [{"name": "a", "type": "long"}, {"name": "b", "type": "double"}]
TWO_COLUMNS: dict[str, Any] = {
    "schema": schema_from_signature(SIGNATURE, {"a": [0, 9]}),
    "example": {"a": 1, "b": 2.0},
    "name": "sum",
}
SUM = "/v2/models/sum/infer"


@pytest.fixture(name="client", scope="module")
def _client() -> Iterator[TestClient]:
    with client_of(Mirror()) as client:
        yield client


@pytest.fixture(name="adder", scope="module")
def _adder() -> Iterator[TestClient]:
    with client_of(Sum(), **TWO_COLUMNS) as client:
        yield client


def matrix(data: list[Any], **keys: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [len(data) // 2, 2], "datatype": "FP64", "data": data}], **keys}


def test_server_metadata_reports_live_and_ready(client: TestClient) -> None:
    """The server answers with its name and version, and reports itself live and ready."""
    assert client.get("/v2").json() == {"name": "forkcast", "version": __version__, "extensions": []}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("path", ["/v2/models/mirror", "/v2/models/mirror/versions/4"])
def test_model_metadata_lists_a_tensor_per_column(client: TestClient, path: str) -> None:
    """The metadata has one input tensor per column, and the output tensors of the example's prediction."""
    document = client.get(path).json()
    assert (document["name"], document["versions"], document["platform"]) == ("mirror", ["4"], "mlflow_mirror")
    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in document["inputs"]] == [
        ("n", "INT64", [-1, 1]),
        ("x", "FP64", [-1, 1]),
        ("b", "BOOL", [-1, 1]),
        ("s", "BYTES", [-1, 1]),
        ("o", "FP64", [-1, 1]),
    ]
    assert document["outputs"] == [{"name": "predict", "datatype": "BYTES", "shape": [-1, 5]}]
    assert client.get(f"{path}/ready").json() == {"name": "mirror", "ready": True}


def test_classifier_has_label_and_confidence_outputs(adder: TestClient) -> None:
    """Labels and confidences are two output tensors, in the metadata and in a response."""
    assert adder.get("/v2/models/sum").json()["outputs"] == [
        {"name": "predict", "datatype": "INT64", "shape": [-1]},
        {"name": "confidence", "datatype": "FP64", "shape": [-1]},
    ]
    assert adder.post(SUM, json=matrix([1, 2, 3, 4], id="seven")).json() == {
        "model_name": "sum",
        "model_version": "4",
        "id": "seven",
        "outputs": [
            {"name": "predict", "shape": [2], "datatype": "INT64", "data": [3, 7]},
            {"name": "confidence", "shape": [2], "datatype": "FP64", "data": [0.5, 0.5]},
        ],
    }


def test_model_failing_its_example_has_no_outputs() -> None:
    """The metadata of a model that cannot predict its own example has no outputs."""

    class Failing(Sum):
        def predict(self, rows: Rows) -> Prediction:
            raise ValueError

    with client_of(Failing(), **TWO_COLUMNS) as client:
        assert client.get("/v2/models/sum").json()["outputs"] == []
        failed = client.post(SUM, json=matrix([1, 2]))
        assert (failed.status_code, failed.json()) == (
            500,
            {"error": "internal server error; the details are in the server log"},
        )


def test_tensor_per_column_forms_a_table(client: TestClient) -> None:
    """One tensor per column, of any datatype, is accepted; optional columns may be absent."""
    answer = client.post(INFER, json={"inputs": TENSORS})
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == ["[1.0, 1.5, 1.0, None, 'a']", "[2.0, 2.5, 0.0, None, 'b']"]
    assert client.post("/v2/models/mirror/versions/4/infer", json={"inputs": TENSORS}).json() == answer.json()


def test_requested_outputs_are_returned_in_order(adder: TestClient) -> None:
    """The response has only the requested outputs, in the requested order; an empty list requests all."""
    for names in (["confidence"], ["confidence", "predict"]):
        answer = adder.post(SUM, json=matrix([1, 2], outputs=[{"name": name} for name in names])).json()
        assert [output["name"] for output in answer["outputs"]] == names
    assert len(adder.post(SUM, json=matrix([1, 2], outputs=[])).json()["outputs"]) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "the body must be an object, got a list of 0"),
        ({}, "inputs must be a list of at least one tensor, got null"),
        ({"inputs": []}, "inputs must be a list of at least one tensor"),
        ({"inputs": [3]}, "inputs.0 must be an object"),
        (matrix([1, 2], id=7), "id must be a string, got 7"),
        (matrix([1, 2], outputs="predict"), "outputs must be a list of objects, each with a name"),
        (matrix([1, 2], outputs=[{}]), "outputs must be a list of objects"),
        (matrix([1, 2], outputs=[{"name": "predict"}] * 2), "outputs names a tensor twice"),
        (
            matrix([1, 2], outputs=[{"name": "z"}]),
            "'z' is not an output of this model; expected predict or confidence",
        ),
        (matrix([]), "inputs must be a list of at least one row"),
        (matrix([1, 2] * 51), "inputs must have at most 50 rows, got 51"),
        (matrix([1, 2, 10, 4]), "inputs.0.data.1.a must be a whole number from 0 to 9, got 10"),
        (matrix([1.5, 2]), "inputs.0.data.0.a must be a whole number from 0 to 9, got 1.5"),
    ],
)
def test_invalid_tensors_are_a_400_with_location(adder: TestClient, body: Any, reason: str) -> None:
    """Tensors that do not match the model are a 400 that says what is wrong, and where."""
    answer = adder.post(SUM, json=body)
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert reason in answer.json()["error"]


def test_null_is_accepted_only_in_optional_columns(client: TestClient) -> None:
    """An optional column accepts null, and NaN as Triton's client writes it; a required column does not."""
    tensors = [*TENSORS, {"name": "o", "shape": [2], "datatype": "FP64", "data": [None, 2.0]}]
    body = client.build_request("POST", INFER, json={"inputs": tensors}).content
    for content in (body, body.replace(b"null", b"NaN")):
        assert "2.0, 'b'" in client.post(INFER, content=content).json()["outputs"][0]["data"][1]
    wrong = client.post(INFER, json={"inputs": [{**TENSORS[0], "data": [None, 1]}, *TENSORS[1:]]})
    assert "inputs.0.data.0 must be a whole number from 0 to 9, got null" in wrong.json()["error"]


def test_wrong_datatype_or_missing_column_is_refused(client: TestClient) -> None:
    """A tensor of the wrong datatype for its column is rejected, and so is a missing column."""
    wrong = [{**TENSORS[0], "datatype": "BYTES", "data": ["1", "2"]}, *TENSORS[1:]]
    assert (
        "inputs.0.data.0 must be a whole number from 0 to 9"
        in client.post(INFER, json={"inputs": wrong}).json()["error"]
    )
    assert "required columns 's' are missing" in client.post(INFER, json={"inputs": TENSORS[:3]}).json()["error"]


def test_undeclared_json_is_accepted_other_types_refused(adder: TestClient) -> None:
    """A request may omit the Content-Type, as clients of this protocol do; other types than JSON are rejected."""
    body = adder.build_request("POST", SUM, json=matrix([1, 2])).content
    assert adder.post(SUM, content=body).status_code == 200
    assert adder.post(SUM, content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 200
    octets = adder.post(SUM, content=body, headers={"Content-Type": "application/octet-stream"})
    assert (octets.status_code, set(octets.json())) == (415, {"error"})
    binary = adder.post(SUM, content=body, headers={"Inference-Header-Content-Length": "10"})
    assert binary.status_code == 400
    assert "binary_data=False" in binary.json()["error"]
    assert adder.post(SUM, content=b"{").json()["error"].startswith("the body is not JSON")
    assert adder.post(SUM, content=b" " * 20001).status_code == 413


@pytest.mark.parametrize("suffix", ["", "/ready", "/infer"])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v2/models/other", "unknown model 'other'; this server serves 'mirror'"),
        ("/v2/models/other/versions/4", "unknown model 'other'"),
        ("/v2/models/mirror/versions/5", "unknown version '5' of 'mirror'; this server serves version '4'"),
    ],
)
def test_unknown_model_or_version_is_a_404(client: TestClient, path: str, suffix: str, reason: str) -> None:
    """A path with another model or version is a 404 that names the one that is served."""
    answer = client.request("POST" if suffix == "/infer" else "GET", path + suffix)
    assert (answer.status_code, set(answer.json())) == (404, {"error"})
    assert reason in answer.json()["error"]


def test_unknown_paths_use_the_protocol_error_form(client: TestClient) -> None:
    """Unknown paths and methods are errors in the protocol's form, with the identity headers of every response."""
    for method, path, status in (("GET", "/v2/nothing", 404), ("GET", INFER, 405), ("POST", "/v2", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (status, {"error"})
        assert answer.headers["x-model-version"] == "4"


def test_model_name_may_need_percent_encoding() -> None:
    """A model name with a space or an umlaut is found under its percent-encoded path."""
    with client_of(Mirror(), name="My model ü") as client:
        assert client.get("/v2/models/My%20model%20%C3%BC").json()["name"] == "My model ü"
        assert client.post("/v2/models/My%20model%20%C3%BC/infer", json={"inputs": TENSORS}).status_code == 200


def test_draining_worker_is_live_but_not_ready() -> None:
    """A draining worker is live and not ready."""
    app = create_app(Settings.from_env({"REPLICA": "one"}), model_of(Mirror(), example=ROW))
    with TestClient(app) as client:
        client.app_state["worker"].draining = True
        assert client.get("/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/mirror/ready"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"error": "this worker is draining"})
            assert answer.headers["retry-after"] == "1"
