"""`make bench`, with real clients, a real Nginx and real replicas, as short as it can be."""

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
    """A small model, one engine, and rows of a second; temporary files where a socket's path would be too long."""
    folder = tmp_path_factory.mktemp("bench")
    deep = folder / ("deep" * 25)
    deep.mkdir()
    ours = ("QUICK", "ENGINE", "WORKERS", "CONNECTIONS", "BENCH_")
    return {name: value for name, value in clean_environ().items() if not name.startswith(ours)} | {
        "MODEL_URI": str(saved_models.iris_regression(folder / "model")),
        "VAR_DIR": str(folder / "var"),
        "TMPDIR": str(deep),
        "ENGINE": "sklearn",
        "BENCH_SECONDS": "1",
    }


@pytest.fixture
def written() -> Iterator[list[Path]]:
    """The figures that a test's benchmark has kept in the checkout: removed after it."""
    paths: list[Path] = []
    yield paths
    for path in paths:
        shutil.rmtree(path.parent)


def figures(out: str, written: list[Path]) -> dict[str, Any]:
    """What was kept where the last line says."""
    written.append(Path(out.splitlines()[-1].removeprefix("written to ")))
    document: dict[str, Any] = json.loads(written[-1].read_text())
    return document


def rows(out: str) -> list[list[str]]:
    """The cells of the table."""
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_bench_measures_every_row(environ: dict[str, str], written: list[Path]) -> None:
    """Every row is measured without an error through Nginx, two workers share the work, and nothing is left behind."""
    command = ["make", "-s", "bench", "WORKERS=1 2", "CONNECTIONS=1 16"]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    document = figures(ran.stdout, written)
    assert document["complete"] is True
    assert document["model"]["name"] == "model"
    found = document["rows"]
    expected = [("GET /health", 64), ("POST /predict", 1), ("POST /predict", 16)]
    assert [(row["workers"], row["request"], row["connections"]) for row in found] == [
        (workers, *one) for workers in (1, 2) for one in expected
    ]
    for row in found:
        assert row["engine"] == "sklearn"
        assert sum(row["errors"].values()) == 0, ran.stdout
        assert row["answers"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["server_cpu_us_per_answer"] > 0
        assert len(row["processes"]) == 1 + row["workers"]
        assert row["pss_bytes"] == sum(one["pss"] for one in row["processes"])
    # In a row of a second on a busy machine it may be less than the kernel's tick.
    assert sum(row["nginx_cpu_us_per_answer"] for row in found) > 0
    assert [row["server_cpu_against_health"] for row in found if row["request"] == "GET /health"] == [1, 1]
    assert [row["balance"] is not None for row in found] == [False] * 5 + [True]
    spread = found[-1]["answered_by_worker"]
    assert len(spread) == 2
    assert sum(spread.values()) >= found[-1]["answers"]
    table = rows(ran.stdout)
    assert [row[3] for row in table] == ["64", "1", "16"] * 2
    assert {row[-1] for row in table} == {"0"}
    assert ran.stderr.splitlines()[0].startswith("6 rows of 1 s")
    assert list(Path(environ["TMPDIR"]).iterdir()) == []


def test_interrupt_keeps_what_was_measured(environ: dict[str, str], written: list[Path]) -> None:
    """Ctrl-C in a later row prints and keeps the rows before it, stops everything, and ends with status 130."""
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
    document = figures(out, written)
    assert (document["complete"], document["ended"]) == (False, "interrupted by SIGINT")
    assert 2 <= len(document["rows"]) < 9
    assert len(rows(out)) == len(document["rows"])
    assert len(children) >= 4  # two masters and their workers
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert list(Path(environ["TMPDIR"]).iterdir()) == []


def test_replica_that_does_not_start(environ: dict[str, str]) -> None:
    """A replica that does not start ends the benchmark with its reason in one line, and status 1."""
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.bench"],
        cwd=ROOT, env={**environ, "ENGINE": "forest"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("error: the replica ended: ENGINE='forest': this model carries nothing for it"), ran.stderr
    assert "Traceback" not in ran.stderr
