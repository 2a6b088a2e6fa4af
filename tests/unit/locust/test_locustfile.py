"""Tests of the load generator as a program: users, options, and errors at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.programs.locust_process import (
    is_valid,
    locust_process,
    master_port,
    run_locust,
    running_service,
    wait_for_exit,
    worker_options,
)

# Users with short waits.
QUICK = ("--users", "4", "--spawn-rate", "4", "--wait-min", "0.05", "--wait-max", "0.1")


def rows_of(client: str, requests: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    if client != "batch":
        return [document for _, document in requests]
    assert {len(document["instances"]) for _, document in requests} == {5}
    return [row for _, document in requests for row in document["instances"]]


@pytest.mark.parametrize("client", ["light", "fast", "batch"])
def test_users_post_valid_rows_and_check_answers(client: str, tmp_path: Path) -> None:
    """Users of each type post rows within the described features, and count a 200 without a prediction as a failure."""
    options = ("--run-time", "2s", "--client", client, "--batch-rows", "5", "--json-file", str(tmp_path / "stats"))
    with running_service(faulty=True) as service:
        ran = run_locust(service.address, *QUICK, *options, "--exit-code-on-error", "0")
    assert ran.status == 0, ran.stderr
    assert len(service.requests) >= 4
    assert {path for path, _ in service.requests} == {"/predict"}
    assert all(is_valid(row) for row in rows_of(client, service.requests))
    (total,) = json.loads((tmp_path / "stats.json").read_text())
    assert (total["method"], total["name"]) == ("POST", "/predict")
    assert 0 < total["num_failures"] < total["num_requests"]


@pytest.mark.parametrize("client", ["light", "fast"])
def test_failures_have_names(client: str) -> None:
    """Each client reports a status other than 200 by its number."""
    with running_service(busy=True) as service:
        ran = run_locust(service.address, *QUICK, "--run-time", "2s", "--client", client, "--record")
    (failures,) = {tuple(second["failures"]) for second in ran.records_of("second") if second["failures"]}
    assert failures == ("status 503",)


def test_each_worker_draws_its_own_rows() -> None:
    """With two processes, each posts rows that it drew itself, so that few rows repeat."""
    with running_service() as service:
        ran = run_locust(service.address, *QUICK, "--run-time", "3s", *worker_options(2))
    assert ran.status == 0, ran.stderr
    rows = [json.dumps(row) for _, row in service.requests]
    assert len(set(rows)) > len(rows) * 0.9
    assert all(is_valid(row) for _, row in service.requests)


def test_calibration_posts_the_same_batches_to_null() -> None:
    """With /null as the target, batches are posted there, and its constant single prediction is accepted."""
    with running_service() as service:
        options = ("--target", "/null", "--client", "batch", "--batch-rows", "5", "--run-time", "2s")
        ran = run_locust(service.address, *QUICK, *options)
    assert ran.status == 0, ran.stderr
    assert {path for path, _ in service.requests} == {"/null"}
    assert rows_of("batch", service.requests)


def test_options_have_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option can be set by its environment variable, as Locust's own options can."""
    monkeypatch.setenv("LOCUST_TARGET", "/null")
    with running_service() as service:
        ran = run_locust(service.address, *QUICK, "--run-time", "2s")
    assert ran.status == 0, ran.stderr
    assert {path for path, _ in service.requests} == {"/null"}


@pytest.mark.parametrize("count", [0, 2])
def test_unreachable_service_ends_the_test(count: int) -> None:
    """A test of an address where nothing listens ends with status 1 and one line that names the address."""
    address = f"http://127.0.0.1:{free_port()}"
    ran = run_locust(address, *QUICK, *worker_options(count))
    assert ran.status == 1
    assert ran.stdout.count("\n") == 1
    assert ran.stdout.startswith(f"{address} does not describe its model: ")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--data", "/none.csv"], "--data /none.csv: "),
        (["--timeout", "0"], "--timeout 0.0: expected more than 0"),
        (["--wait-max", "0.01"], "--wait-max 0.01: expected at least --wait-min"),
        (["--batch-rows", "0"], "--batch-rows 0: expected from 1 to 100000"),
        (["--step-users", "-1"], "--step-users -1: expected at least 0"),
        (["--users", "99000000"], "99000000 users in one process need 99000200 open files, and it may have "),
        (
            ["--host", "ftp://127.0.0.1"],
            "--host ftp://127.0.0.1: expected http:// or https:// and the balancer's address",
        ),
    ],
)
def test_invalid_option_is_one_line_with_status_1(options: list[str], line: str) -> None:
    """An invalid option ends the test with one line that names the option."""
    with running_service() as service:
        ran = run_locust(service.address, *QUICK, *options)
    assert ran.status == 1
    assert ran.stdout.startswith(line)
    assert ran.stdout.count("\n") == 1
    assert not service.requests


def test_start_error_is_recorded() -> None:
    """With --record, the error is printed as a record, and no line has another form."""
    with running_service() as service:
        ran = run_locust(service.address, *QUICK, "--timeout", "0", "--record")
    assert ran.status == 1
    assert [record["message"] for record in ran.records_of("error")] == ["--timeout 0.0: expected more than 0"]
    assert {record["kind"] for record in ran.records} <= {"error", "second"}


def test_worker_without_the_rows_file_ends_the_test(tmp_path: Path) -> None:
    """If a remote worker lacks the file of rows, all processes end, and the master prints the reason once."""
    (tmp_path / "rows.csv").write_text("small,below,degrees,free,flag,word,perhaps,maybe\n1,-5,0,1,true,a,10,b\n")
    (tmp_path / "elsewhere").mkdir()
    port = master_port()
    with running_service() as service:
        options = ("--headless", "--host", service.address, *QUICK, "--data", "rows.csv", "--expect-workers", "1")
        master_context = locust_process(*options, "--master", "--master-bind-port", port, folder=tmp_path)
        worker_context = locust_process("--worker", "--master-port", port, folder=tmp_path / "elsewhere")
        with master_context as master, worker_context as worker:
            ran = wait_for_exit(master)
            wait_for_exit(worker)
    assert ran.status == 1, ran.stderr
    assert ran.stdout == "--data rows.csv: [Errno 2] No such file or directory: 'rows.csv'\n"
    assert not service.requests
