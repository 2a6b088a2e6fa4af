"""Real clients of the protocols that Forkcast implements, through Nginx to replicas of the default model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the clients' imports warn
    import tritonclient.http as triton
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException

from tests.support.stacks.local import Stack
from tests.support.stress.load import WORKSHOP_ROW

pytestmark = pytest.mark.xdist_group("stack")

ROWS = [{**WORKSHOP_ROW, "elevation": 1900 + 30 * i, "aspect": 5 * i} for i in range(64)]
MODEL = "covertype"


@pytest.fixture
def frame() -> pd.DataFrame:
    """A batch of 64 rows."""
    return pd.DataFrame(ROWS)


@pytest.fixture
def expected(stack: Stack) -> list[int]:
    """The predictions of /predict for the rows of ``frame``."""
    predictions: list[int] = stack.predict({"instances": ROWS})[1]["predictions"]
    assert len(set(predictions)) > 1
    return predictions


@pytest.fixture
def scoring(stack: Stack) -> ScoringServerClient:
    """A client of MLflow's scoring protocol, from MLflow."""
    return ScoringServerClient("127.0.0.1", stack.port)


@pytest.fixture
def client(stack: Stack) -> Iterator[triton.InferenceServerClient]:
    """A client of the Open Inference Protocol, from Triton."""
    with triton.InferenceServerClient(f"127.0.0.1:{stack.port}") as triton_client:
        yield triton_client


def tensor(name: str, values: npt.NDArray[Any], *, binary: bool = False) -> triton.InferInput:
    """Return an input tensor of the datatype INT64 or FP64."""
    input_tensor = triton.InferInput(name, list(values.shape), {"i": "INT64", "f": "FP64"}[values.dtype.kind])
    input_tensor.set_data_from_numpy(values, binary_data=binary)
    return input_tensor


def test_mlflows_client_gets_predictions(
    scoring: ScoringServerClient, frame: pd.DataFrame, expected: list[int]
) -> None:
    """MLflow's client sees a ready server and its version, and gets predictions with and without params."""
    scoring.wait_server_ready(timeout=5)
    assert scoring.get_version() == version("mlflow")
    assert scoring.invoke(frame)["predictions"] == expected
    assert scoring.invoke(frame, params={"unknown": 1}).get_predictions()[0].to_list() == expected
    assert scoring.invoke(frame[frame.columns[::-1]].assign(more="x"))["predictions"] == expected


def test_mlflows_client_gets_errors(scoring: ScoringServerClient, frame: pd.DataFrame) -> None:
    """Errors of MLflow's client contain the status, MLflow's code and a message that names the column."""
    with pytest.raises(Exception, match=r"error code 400.*INVALID_PARAMETER_VALUE.*'slope'.*KAM01"):
        scoring.invoke(frame.drop(columns="slope"))
    with pytest.raises(Exception, match=r"error code 400.*dataframe_split\.data\.0\.2 .*steep.*KAM00"):
        scoring.invoke(frame.astype({"slope": object}).replace({"slope": {3: "steep"}}).iloc[3:7])


def test_tritons_client_finds_the_model(client: triton.InferenceServerClient) -> None:
    """Triton's client sees a ready server and model, and reads the model's input and output tensors."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready(MODEL, "999")
    assert client.get_server_metadata()["extensions"] == []
    metadata = client.get_model_metadata(MODEL)
    assert metadata["versions"] == ["1"]
    assert [entry["name"] for entry in metadata["inputs"]] == list(WORKSHOP_ROW)
    assert {tuple(entry["shape"]) for entry in metadata["inputs"]} == {(-1, 1)}
    assert [(entry["name"], entry["shape"]) for entry in metadata["outputs"]] == [
        ("predict", [-1]),
        ("confidence", [-1]),
    ]
    assert {entry["datatype"] for entry in metadata["outputs"]} == {"INT64", "FP64"}


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_tritons_client_infers(
    rows: int, dtype: type, client: triton.InferenceServerClient, frame: pd.DataFrame, expected: list[int]
) -> None:
    """Tensors per column of shape [n, 1] or [n], and one of [n, k], get /predict's labels."""
    values = frame.iloc[:rows].astype(dtype)
    columns = [tensor(name, values[name].to_numpy()) for name in WORKSHOP_ROW]
    columns_2d = [tensor(name, values[[name]].to_numpy()) for name in WORKSHOP_ROW]
    for inputs in (columns, columns_2d, [tensor("input-0", values.to_numpy())]):
        result = client.infer(MODEL, inputs, request_id="42", model_version="1" if inputs is columns else "")
        assert result.get_response()["id"] == "42"
        assert result.get_response()["model_version"] == "1"
        assert result.as_numpy("predict").tolist() == expected[:rows]
        assert result.as_numpy("predict").dtype == np.int64
        assert ((result.as_numpy("confidence") > 0) & (result.as_numpy("confidence") <= 1)).all()


def test_tritons_client_chooses_outputs(
    client: triton.InferenceServerClient, frame: pd.DataFrame, expected: list[int]
) -> None:
    """Only the requested output is returned, as JSON, even if the client would accept the binary form."""
    result = client.infer(MODEL, [tensor("x", frame.to_numpy())], outputs=[triton.InferRequestedOutput("predict")])
    assert result.as_numpy("predict").tolist() == expected
    assert result.as_numpy("confidence") is None


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model_name": "nobody"}, "404", "unknown model 'nobody'; this server serves 'covertype'"),
        ({"model_version": "999"}, "404", "unknown version '999' of 'covertype'; this server serves version '1'"),
        ({"outputs": ["nothing"]}, "400", "'nothing' is not an output of this model; expected predict or confidence"),
        ({"inputs": ["slope", "aspect"]}, "400", "one of shape [n, 12] for all columns; got 'x' of shape [64, 2]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_tritons_client_gets_errors(
    changes: dict[str, Any], status: str, message: str, client: triton.InferenceServerClient, frame: pd.DataFrame
) -> None:
    """Triton's client raises its exception with the status and the server's message."""
    inputs = [tensor("x", frame[changes.get("inputs", list(frame))].to_numpy())]
    outputs = [triton.InferRequestedOutput(name) for name in changes.get("outputs", ())]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**{"model_name": MODEL, **changes, "inputs": inputs, "outputs": outputs})
    assert caught.value.status() == status
    assert message in caught.value.message()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritons_compressed_bodies_are_refused(
    algorithm: str, client: triton.InferenceServerClient, frame: pd.DataFrame
) -> None:
    """A compressed request gets 415 and a message that names Content-Encoding."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, [tensor("x", frame.to_numpy())], request_compression_algorithm=algorithm)
    assert caught.value.status() == "415"
    assert "Content-Encoding" in caught.value.message()


def test_tritons_binary_form_is_refused(client: triton.InferenceServerClient, frame: pd.DataFrame) -> None:
    """A request with Triton's default of binary tensors gets 400 and a message that says how to turn them off."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, [tensor("x", frame.to_numpy(), binary=True)])
    assert caught.value.status() == "400"
    assert "binary data extension is not supported" in caught.value.message()
    assert "binary_data=False" in caught.value.message()


def test_tritons_client_gets_errors_of_nginx(client: triton.InferenceServerClient, frame: pd.DataFrame) -> None:
    """An error of Nginx itself, such as a body that is too large, reaches the caller with Nginx's message."""
    rows = pd.concat([frame] * 400).to_numpy()
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, [tensor("x", rows)])
    assert caught.value.status() == "413"
    assert caught.value.message() == "the body is larger than 1048576 bytes"
