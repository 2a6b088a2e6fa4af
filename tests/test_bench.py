"""The benchmark's parts: the rows that it posts, and what it makes of `wrk`'s words. No benchmark is run."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from deploy import bench
from deploy.errors import CommandError
from server.model import Model
from server.rows import Prediction, Rows
from server.schema import InputSchema

# One that has percentages which are no percentiles: those of the Stdev column.
OUTPUT = """\
Running 8s test @ http://127.0.0.1:8000/predict
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.51ms    1.02ms  20.11ms   94.50%
    Req/Sec    14.20k   512.33    15.01k    81.99%
  Latency Distribution
     50%    4.33ms
     75%    4.80ms
     90%    5.40ms
     99%    8.71ms
  113601 requests in 8.00s, 20.30MB read
Requests/sec:  14199.42
Transfer/sec:      2.54MB
"""
ERRORS = """\
  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 50000
"""

INPUTS: list[dict[str, Any]] = [
    {"name": "small", "type": "integer"},
    {"name": "wide", "type": "long"},
    {"name": "degrees", "type": "double"},
    {"name": "share", "type": "float"},
    {"name": "free", "type": "double"},
    {"name": "count", "type": "integer", "required": False},
    {"name": "flag", "type": "boolean"},
    {"name": "word", "type": "string"},
]
RANGES: dict[str, list[float]] = {"small": [1, 4], "wide": [-5, 5], "degrees": [-0.5, 0.25], "share": [10, 10.5]}


class Constant:
    """An engine whose answer is always 1."""

    name = "constant"

    def predict(self, rows: Rows) -> Prediction:
        return Prediction([1] * len(rows.numbers), None)


@pytest.fixture
def model() -> Model:
    return Model(
        name="made",
        version="1",
        uri="models:/made/1",
        digest="d" * 64,
        trained_on=None,
        stale=None,
        schema=InputSchema.from_signature(INPUTS, RANGES),
        engine=Constant(),
        example={},
    )


def test_rows_are_ones_that_the_model_takes(model: Model) -> None:
    """Every drawn row is valid, within the ranges, and uses the ranges' whole width."""
    documents: list[dict[str, Any]] = bench._documents(model, 500)
    for document in documents:
        model.schema.parse(json.loads(json.dumps(document)), 1)
        assert set(document) == {column["name"] for column in INPUTS}
        assert all(low <= document[name] <= high for name, (low, high) in RANGES.items())
    assert {document["small"] for document in documents} == {1, 2, 3, 4}
    assert {document["wide"] for document in documents} == set(range(-5, 6))
    assert {document["flag"] for document in documents} == {True, False}


def test_rows_are_the_same_each_time(model: Model) -> None:
    """Two runs post the same rows, so that they compare."""
    assert bench._documents(model, 20) == bench._documents(model, 20)


def test_script_reads_the_bodies(model: Model, tmp_path: Path) -> None:
    """Wrk's script names the file of bodies, one JSON document a line, and is free of Python's own marks."""
    script = bench._script(model, tmp_path).read_text()
    found = re.search(r'io\.lines\("(.*)"\)', script)
    assert found is not None
    lines = Path(found[1]).read_text().splitlines()
    assert len(lines) == bench._BODIES
    assert all(set(json.loads(line)) == {column["name"] for column in INPUTS} for line in lines)
    assert "i % #bodies" in script
    assert "%%" not in script


def test_found() -> None:
    """A figure is found in wrk's words, and its absence is told with what wrk said instead."""
    assert bench._found(r"(\d+) requests in", OUTPUT) == "113601"
    with pytest.raises(CommandError) as caught:
        bench._found(r"(\d+) requests in", "unable to connect to 127.0.0.1:8000 Connection refused\n")
    assert "unable to connect to 127.0.0.1:8000 Connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)


def stand_in(folder: Path, output: str) -> str:
    """A program that prints what wrk would, and keeps how it was called."""
    (folder / "output").write_text(output)
    program = folder / "wrk"
    program.write_text(f'#!/bin/sh\necho "$@" > "{folder}/arguments"\ncat "{folder}/output"\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(("more", "errors"), [("", 0), (ERRORS, 54321)])
def test_figures_of_wrk(more: str, errors: int, tmp_path: Path) -> None:
    """Rate, percentiles and all kinds of errors are read from wrk's words."""
    head, tail = OUTPUT.split("Requests/sec:")
    wrk = stand_in(tmp_path, f"{head}{more}Requests/sec:{tail}")
    one = bench._measure(wrk, "http://127.0.0.1:8000", os.getpid(), tmp_path / "post.lua", 64)
    assert (one.connections, one.rate, one.p50, one.p99, one.errors) == (64, 14199.42, "4.33ms", "8.71ms", errors)
    assert one.cpu >= 0
    arguments = (tmp_path / "arguments").read_text().split()
    assert {"-c64", "--latency", f"{tmp_path}/post.lua", "http://127.0.0.1:8000/predict"} <= set(arguments)


def test_wrk_that_fails(tmp_path: Path) -> None:
    """A wrk that could not connect stops the benchmark with its own words."""
    wrk = stand_in(tmp_path, "unable to connect\n")
    with pytest.raises(CommandError, match="unable to connect"):
        bench._measure(wrk, "http://127.0.0.1:8000", os.getpid(), tmp_path / "post.lua", 1)


def test_table() -> None:
    """A row for the bare loop and one a number of connections, each with its share of the bare loop."""
    row = bench.Measurement(64, 5000.4, "4.33ms", "8.71ms", 199.6, 3)
    assert bench._table(10_000.0, [row]).splitlines() == [
        "| connections | predictions/s | against a bare loop | P50 | P99 | CPU us an answer | errors |",
        "|---|---|---|---|---|---|---|",
        "| bare loop | 10000 | 1.00 | | | 100 | |",
        "| 64 | 5000 | 0.50 | 4.33ms | 8.71ms | 200 | 3 |",
    ]


def test_wrk_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without wrk the benchmark ends with status 1 and one line: how to install it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("wrk") is None
    assert bench.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: wrk is missing; install it first: sudo apt-get install wrk\n"
