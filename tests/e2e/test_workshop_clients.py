"""End-to-end tests of the workshops' clients against one replica of the default model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models import saved_models
from tests.support.programs import locust_process
from tests.support.stacks.local import Replica, StartReplica

WORKSHOP_USERS = Path(locust_process.__file__).with_name("workshop_users.py")


@pytest.fixture
def replica(start_replica: StartReplica, tmp_path: Path) -> Replica:
    """A replica of two workers that serves a small forest, trained and saved as the default model is."""
    return start_replica(saved_models.trained_covertype(tmp_path / "covertype"), WEB_CONCURRENCY="2")


def test_documented_row_of_the_workshop_is_predicted(replica: Replica) -> None:
    """The workshop's documented row is predicted: its measurements are real numbers and its codes unknown."""
    row = [3000.0, 45.0, 10.0, 100.0, 20.0, 200.0, 220.0, 230.0, 180.0, 150.0, 0, 0]
    status, answer = replica.ask("POST", "/predict", {"features": row})
    assert (status, answer["prediction"] in range(1, 8)) == (200, True), answer


def test_plain_users_of_the_workshop_see_no_failure(replica: Replica) -> None:
    """Users of Locust's own HttpUser, which send real numbers, get an answer to every request."""
    options = ("--users", "20", "--spawn-rate", "20", "--run-time", "4s", "--json")
    ran = locust_process.run_locust(replica.address, *options, file=WORKSHOP_USERS)
    assert ran.status == 0, ran.stdout + ran.stderr
    requests = {entry["name"]: (entry["num_requests"], entry["num_failures"]) for entry in json.loads(ran.stdout)}
    assert set(requests) == {"/predict", "/health"}
    assert all(count > 0 and failures == 0 for count, failures in requests.values()), requests
