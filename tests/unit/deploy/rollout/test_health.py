"""What is told of replicas by what they say of themselves."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.rollout.health import disagreement, notes


def serving(version: str, **more: Any) -> dict[str, Any]:
    return {"model": {"name": "hills", "version": version, "trained_on": "file"}, **more}


@pytest.mark.parametrize(
    ("health", "told"),
    [
        ({}, []),
        (serving("1"), []),
        (serving("1", stale="it is down"), ["r serves the last good copy: it is down"]),
        (serving("1", refused="too bad"), ["r was to load another model, and serves the one before: too bad"]),
        (
            {"model": {"trained_on": "synthetic"}},
            ["r serves a model trained on SYNTHETIC data: its predictions mean nothing"],
        ),
    ],
)
def test_unexpected_replica_health_is_noted(health: dict[str, Any], told: list[str]) -> None:
    """What is not as one would expect of a replica is a line that names it; a replica that is well has none."""
    assert notes("r", health) == told


def test_replicas_serving_different_models_are_reported() -> None:
    """Replicas that serve different models are told with a way out; one that does not answer disagrees with nobody."""
    assert disagreement([serving("1"), serving("1"), {}]) == []
    (line,) = disagreement([serving("2"), {}, serving("1")])
    assert line == "the replicas serve different models, hills 1 and hills 2: make promote VERSION=, or make restart"
