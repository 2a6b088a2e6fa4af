"""Notes for the user on what replicas report in `/health`, the same for every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Health = Mapping[str, Any]


def health_notes(name: str, health: Health) -> list[str]:
    """Return a line for each unexpected fact in a replica's health: a stale, refused or synthetic model."""
    notes = []
    if health.get("stale"):
        notes.append(f"{name} serves the last good copy: {health['stale']}")
    if health.get("refused"):
        notes.append(f"{name} refused to load another model and still serves the previous one: {health['refused']}")
    if (health.get("model") or {}).get("trained_on") == "synthetic":
        notes.append(f"{name} serves a model trained on SYNTHETIC data: its predictions mean nothing")
    return notes


def mixed_models_note(healths: Iterable[Health]) -> list[str]:
    """Return a line if replicas serve different models, after an interrupted promotion or a training run meanwhile."""
    served = {f"{model['name']} {model['version']}" for health in healths if (model := health.get("model"))}
    if len(served) < 2:
        return []
    models = " and ".join(sorted(served))
    return [f"the replicas serve different models: {models}; run make promote VERSION=... or make restart"]
