"""A script that calls a Covertype stack with KServe's ``InferenceRESTClient``, run by tests/peers/kserve.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROW = [2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, 1, 29]


def request(model: str, rows: int, *, binary: bool = False) -> Any:
    """Return a request for predictions of the same row several times, as one tensor of shape [n, k]."""
    values = np.tile(np.array(ROW, np.int64), (rows, 1))
    tensor = InferInput(name="input-0", shape=list(values.shape), datatype="INT64")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="42")


async def infer_columns(client: Any, address: str, model: str) -> Any:
    """Return the prediction of the row, sent as one tensor per column with the names of the model's metadata."""
    async with httpx.AsyncClient() as http:
        metadata = (await http.get(f"{address}/v2/models/{model}")).json()
    inputs = [
        InferInput(name=tensor["name"], shape=[1, 1], datatype=tensor["datatype"], data=[value])
        for tensor, value in zip(metadata["inputs"], ROW, strict=True)
    ]
    return await client.infer(address, InferRequest(model_name=model, infer_inputs=inputs), model_name=model)


async def print_error(request_name: str, answer: Any) -> None:
    """Print the HTTP error of a request that must fail."""
    try:
        await answer
    except httpx.HTTPStatusError as error:
        print(f"{request_name}: {error}")
    else:
        sys.exit(f"{request_name}: expected an error, got an answer")


async def main(address: str, model: str) -> None:
    """Call each method of the client and print the results."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        print("server live, ready:", await client.is_server_live(address), await client.is_server_ready(address))
        print("model ready:", await client.is_model_ready(address, model))
        print("another model ready:", await client.is_model_ready(address, "nobody"))
        for rows in (1, 64):
            answer = await client.infer(address, request(model, rows), model_name=model)
            label = next(output for output in answer.outputs if output.name == "predict")
            print(f"{rows} rows: id {answer.id}, shape {label.shape}, first {label.as_numpy()[0]}")
        print("columns:", (await infer_columns(client, address, model)).outputs[0].as_numpy())
        await print_error("another model", client.infer(address, request("nobody", 1), model_name="nobody"))
        await print_error("binary data", client.infer(address, request(model, 1, binary=True), model_name=model))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
