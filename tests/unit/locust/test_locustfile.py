"""The load generator as a program: its users, its options, and what stops a test before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.programs.locust_process import finished, is_valid, locust, master_port, serving, started, workers

# Users that do not wait long.
QUICK = ("--users", "4", "--spawn-rate", "4", "--wait-min", "0.05", "--wait-max", "0.1")


def rows_of(client: str, asked: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    if client != "batch":
        return [document for _, document in asked]
    assert {len(document["instances"]) for _, document in asked} == {5}
    return [row for _, document in asked for row in document["instances"]]


@pytest.mark.parametrize("client", ["light", "fast", "batch"])
def test_users_post_valid_rows_and_check_answers(client: str, tmp_path: Path) -> None:
    """Users of each kind post rows that the service described, and count 200 without a prediction as a failure."""
    options = ("--run-time", "2s", "--client", client, "--batch-rows", "5", "--json-file", str(tmp_path / "stats"))
    with serving(faulty=True) as service:
        ran = locust(service.address, *QUICK, *options, "--exit-code-on-error", "0")
    assert ran.status == 0, ran.stderr
    assert len(service.asked) >= 4
    assert {path for path, _ in service.asked} == {"/predict"}
    assert all(is_valid(row) for row in rows_of(client, service.asked))
    (total,) = json.loads((tmp_path / "stats.json").read_text())
    assert (total["method"], total["name"]) == ("POST", "/predict")
    assert 0 < total["num_failures"] < total["num_requests"]


@pytest.mark.parametrize("client", ["light", "fast"])
def test_failures_have_names(client: str) -> None:
    """A status that is not 200 is told by its number, whichever client saw it."""
    with serving(busy=True) as service:
        ran = locust(service.address, *QUICK, "--run-time", "2s", "--client", client, "--record")
    (failures,) = {tuple(second["failures"]) for second in ran.of("second") if second["failures"]}
    assert failures == ("status 503",)


def test_workers_have_rows_of_their_own() -> None:
    """With two processes, each posts rows that it drew itself."""
    with serving() as service:
        ran = locust(service.address, *QUICK, "--run-time", "3s", *workers(2))
    assert ran.status == 0, ran.stderr
    rows = [json.dumps(row) for _, row in service.asked]
    assert len(set(rows)) > len(rows) * 0.9
    assert all(is_valid(row) for _, row in service.asked)


def test_calibration_sends_the_same_to_another_place() -> None:
    """With /null as the target, batches are posted there, and a single constant prediction is good."""
    with serving() as service:
        options = ("--target", "/null", "--client", "batch", "--batch-rows", "5", "--run-time", "2s")
        ran = locust(service.address, *QUICK, *options)
    assert ran.status == 0, ran.stderr
    assert {path for path, _ in service.asked} == {"/null"}
    assert rows_of("batch", service.asked)


def test_options_have_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option is taken from its variable, as Locust's own are."""
    monkeypatch.setenv("LOCUST_TARGET", "/null")
    with serving() as service:
        ran = locust(service.address, *QUICK, "--run-time", "2s")
    assert ran.status == 0, ran.stderr
    assert {path for path, _ in service.asked} == {"/null"}


@pytest.mark.parametrize("count", [0, 2])
def test_unreachable_service_ends_the_test(count: int) -> None:
    """A test against nobody ends by itself, with one line that says so and a status that is not 0."""
    address = f"http://127.0.0.1:{free_port()}"
    ran = locust(address, *QUICK, *workers(count))
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
    """What no test can be made of is refused with one line that names it."""
    with serving() as service:
        ran = locust(service.address, *QUICK, *options)
    assert ran.status == 1
    assert ran.stdout.startswith(line)
    assert ran.stdout.count("\n") == 1
    assert not service.asked


def test_a_refusal_is_recorded() -> None:
    """With --record the reason is one of the records, and there is no other."""
    with serving() as service:
        ran = locust(service.address, *QUICK, "--timeout", "0", "--record")
    assert ran.status == 1
    assert [record["message"] for record in ran.of("error")] == ["--timeout 0.0: expected more than 0"]
    assert {record["kind"] for record in ran.records} <= {"error", "second"}


def test_incapable_worker_ends_the_test(tmp_path: Path) -> None:
    """A worker elsewhere that lacks the file of rows ends the test for all, with its reason told once by the master."""
    (tmp_path / "rows.csv").write_text("small,below,degrees,free,flag,word,perhaps,maybe\n1,-5,0,1,true,a,10,b\n")
    (tmp_path / "elsewhere").mkdir()
    port = master_port()
    with serving() as service:
        options = ("--headless", "--host", service.address, *QUICK, "--data", "rows.csv", "--expect-workers", "1")
        master_of = started(*options, "--master", "--master-bind-port", port, folder=tmp_path)
        worker_of = started("--worker", "--master-port", port, folder=tmp_path / "elsewhere")
        with master_of as master, worker_of as worker:
            ran = finished(master)
            finished(worker)
    assert ran.status == 1, ran.stderr
    assert ran.stdout == "--data rows.csv: [Errno 2] No such file or directory: 'rows.csv'\n"
    assert not service.asked
