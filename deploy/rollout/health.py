"""What a user should know of what replicas say of themselves (`/health`), whatever the backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Health = Mapping[str, Any]


def notes(name: str, health: Health) -> list[str]:
    """A line for each thing that is not as one would expect of this replica."""
    found = []
    if health.get("stale"):
        found.append(f"{name} serves the last good copy: {health['stale']}")
    if health.get("refused"):
        found.append(f"{name} was to load another model, and serves the one before: {health['refused']}")
    if (health.get("model") or {}).get("trained_on") == "synthetic":
        found.append(f"{name} serves a model trained on SYNTHETIC data: its predictions mean nothing")
    return found


def disagreement(healths: Iterable[Health]) -> list[str]:
    """A line where replicas serve different models: a promotion was cut short, or somebody trained meanwhile."""
    served = {f"{model['name']} {model['version']}" for one in healths if (model := one.get("model"))}
    if len(served) < 2:
        return []
    told = " and ".join(sorted(served))
    return [f"the replicas serve different models, {told}: make promote VERSION=, or make restart"]
