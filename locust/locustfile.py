"""Users that wait 1 to 2.5 s and then post one random row, drawn within the ranges of the served model.

Run by `make up` with its UI, or by hand: `locust -f locust/locustfile.py --host http://127.0.0.1`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser, between, events, task
from locust.env import Environment

# Where the model states no range for a number.
_UNLIMITED = (0, 1000)

# One for each feature of the served model, by name; filled when a test starts.
_draws: dict[str, Callable[[], Any]] = {}


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def read_features(environment: Environment, **_kwargs: object) -> None:
    """Learn the features and their ranges from the service's own OpenAPI document.

    A service that does not answer stops the test with one line, rather than with a failure for each request.
    """
    import requests  # noqa: PLC0415  (Locust has patched the sockets by now)

    try:
        answer = requests.get(f"{environment.host}/openapi.json", timeout=10)
        answer.raise_for_status()
        features = answer.json()["components"]["schemas"]["Features"]["properties"]
    except (requests.RequestException, ValueError, KeyError) as error:
        message = f"{environment.host} does not describe its model: {error}"
        print(message)
        environment.process_exit_code = 1
        runner = environment.runner
        if runner is not None:
            # Not from here: this greenlet is one of those that are stopped, and would end before the rest.
            gevent.spawn(runner.quit if environment.web_ui is None else runner.stop)
        return
    _draws.clear()
    _draws.update({name: _draw(feature) for name, feature in features.items()})


def _draw(feature: dict[str, Any]) -> Callable[[], Any]:
    kind = feature["type"][0] if isinstance(feature["type"], list) else feature["type"]
    low, high = feature.get("minimum", _UNLIMITED[0]), feature.get("maximum", _UNLIMITED[1])
    if kind == "integer":
        return lambda: random.randint(int(low), int(high))
    if kind == "number":
        return lambda: random.uniform(low, high)
    if kind == "boolean":
        return lambda: random.random() < 0.5
    return lambda: "string"


class PredictUser(FastHttpUser):
    """A client of the service, as the workshop's: a row, a pause, a row."""

    wait_time = between(1, 2.5)

    @task
    def predict(self) -> None:
        """Post one row and check that a prediction comes back."""
        row = {name: draw() for name, draw in _draws.items()}
        with self.client.post("/predict", json=row, catch_response=True) as response:
            if response.status_code == 200 and "prediction" not in json.loads(response.text):
                response.failure("200 without a prediction")
