"""Short runs of `make bench` with real clients, Nginx and replicas."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.stack.paths import ROOT
from tests.support.models import saved_models
from tests.support.stacks.local import clean_environ

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("wrk") is None and (os.geteuid() != 0 or shutil.which("apt-get") is None),
        reason="wrk is missing, and only root may install it: sudo apt-get install wrk",
    ),
]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment: a small model, one engine, rows of a second, and a deep TMPDIR, too long for socket paths."""
    folder = tmp_path_factory.mktemp("bench")
    deep_folder = folder / ("deep" * 25)
    deep_folder.mkdir()
    prefixes = ("QUICK", "ENGINE", "WORKERS", "CONNECTIONS", "BENCH_")
    return {name: value for name, value in clean_environ().items() if not name.startswith(prefixes)} | {
        "MODEL_URI": str(saved_models.iris_regression(folder / "model")),
        "VAR_DIR": str(folder / "var"),
        "TMPDIR": str(deep_folder),
        "ENGINE": "sklearn",
        "BENCH_SECONDS": "1",
    }


@pytest.fixture
def result_paths() -> Iterator[list[Path]]:
    """The result files that a test wrote in the checkout, which are removed after the test."""
    paths: list[Path] = []
    yield paths
    for path in paths:
        shutil.rmtree(path.parent)


def load_results(out: str, result_paths: list[Path]) -> dict[str, Any]:
    """Return the results in the file that the last line of the output names."""
    result_paths.append(Path(out.splitlines()[-1].removeprefix("written to ")))
    document: dict[str, Any] = json.loads(result_paths[-1].read_text())
    return document


def table_rows(out: str) -> list[list[str]]:
    """Return the cells of the table in the output."""
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_bench_measures_every_row(environ: dict[str, str], result_paths: list[Path]) -> None:
    """Every row is measured through Nginx without an error, two workers share the load, and no files remain."""
    command = ["make", "-s", "bench", "WORKERS=1 2", "CONNECTIONS=1 16"]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    document = load_results(ran.stdout, result_paths)
    assert document["complete"] is True
    assert document["model"]["name"] == "model"
    rows = document["rows"]
    expected = [("GET /health", 64), ("POST /predict", 1), ("POST /predict", 16)]
    assert [(row["workers"], row["request"], row["connections"]) for row in rows] == [
        (workers, *request) for workers in (1, 2) for request in expected
    ]
    for row in rows:
        assert row["engine"] == "sklearn"
        assert sum(row["errors"].values()) == 0, ran.stdout
        assert row["answers"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["server_cpu_us_per_answer"] > 0
        assert len(row["processes"]) == 1 + row["workers"]
        assert row["pss_bytes"] == sum(process["pss"] for process in row["processes"])
    # In one row of a second, Nginx's CPU time may be less than the kernel's tick.
    assert sum(row["nginx_cpu_us_per_answer"] for row in rows) > 0
    assert [row["server_cpu_against_health"] for row in rows if row["request"] == "GET /health"] == [1, 1]
    assert [row["balance"] is not None for row in rows] == [False] * 5 + [True]
    answers_by_worker = rows[-1]["answered_by_worker"]
    assert len(answers_by_worker) == 2
    assert sum(answers_by_worker.values()) >= rows[-1]["answers"]
    table = table_rows(ran.stdout)
    assert [row[3] for row in table] == ["64", "1", "16"] * 2
    assert {row[-1] for row in table} == {"0"}
    assert ran.stderr.splitlines()[0].startswith("6 rows of 1 s")
    assert list(Path(environ["TMPDIR"]).iterdir()) == []


def test_interrupt_keeps_finished_rows(environ: dict[str, str], result_paths: list[Path]) -> None:
    """Ctrl-C prints and keeps the rows measured so far, stops all processes, and ends with status 130."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.bench"],
        cwd=ROOT, env={**environ, "WORKERS": "1", "CONNECTIONS": "4 5 6 7 8 9 10 11"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/9]"):
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert err.splitlines()[-1] == "error: interrupted by SIGINT"
    document = load_results(out, result_paths)
    assert (document["complete"], document["ended"]) == (False, "interrupted by SIGINT")
    assert 2 <= len(document["rows"]) < 9
    assert len(table_rows(out)) == len(document["rows"])
    assert len(children) >= 4  # two masters and their workers
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert list(Path(environ["TMPDIR"]).iterdir()) == []


def test_replica_that_does_not_start_ends_the_benchmark(environ: dict[str, str]) -> None:
    """If a replica does not start, the benchmark ends with status 1 and the reason in one line."""
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.bench"],
        cwd=ROOT, env={**environ, "ENGINE": "forest"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    last_line = ran.stderr.splitlines()[-1]
    assert last_line.startswith("error: the replica ended: ENGINE='forest' is not available for this model"), ran.stderr
    assert "Traceback" not in ran.stderr
