"""Tests of the notes on what replicas report in `/health`."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.rollout.health import health_notes, mixed_models_note


def serving(version: str, **fields: Any) -> dict[str, Any]:
    return {"model": {"name": "hills", "version": version, "trained_on": "file"}, **fields}


@pytest.mark.parametrize(
    ("health", "notes"),
    [
        ({}, []),
        (serving("1"), []),
        (serving("1", stale="it is down"), ["r serves the last good copy: it is down"]),
        (
            serving("1", refused="too bad"),
            ["r refused to load another model and still serves the previous one: too bad"],
        ),
        (
            {"model": {"trained_on": "synthetic"}},
            ["r serves a model trained on SYNTHETIC data: its predictions mean nothing"],
        ),
    ],
)
def test_unexpected_replica_health_is_noted(health: dict[str, Any], notes: list[str]) -> None:
    """Each unexpected fact in a replica's health becomes a line that names the replica."""
    assert health_notes("r", health) == notes


def test_replicas_serving_different_models_are_reported() -> None:
    """A line names the different models that replicas serve and the remedy; a silent replica does not count."""
    assert mixed_models_note([serving("1"), serving("1"), {}]) == []
    (line,) = mixed_models_note([serving("2"), {}, serving("1")])
    assert (
        line == "the replicas serve different models: hills 1 and hills 2; run make promote VERSION=... or make restart"
    )
