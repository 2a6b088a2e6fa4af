"""How many replicas there are, and how many of them may be away: by rollouts, by drained nodes, by the autoscaler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.kubernetes.links import selected
from deploy.checks.kubernetes.manifests import Manifest, name, pods

_NONE = (0, "0", "0%")
# Those that a rollout may not take away before there are others.
_STAYS = {"server", "nginx"}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each number that leaves too few, or lets none go."""
    least = {name(one): one["spec"].get("replicas", 1) for one in manifests if one["kind"] == "Deployment"}
    for one in manifests:
        if one["kind"] == "HorizontalPodAutoscaler":
            yield from (f"{name(one)}: {fault}" for fault in _autoscaler(one, manifests))
            least[f"Deployment/{one['spec']['scaleTargetRef']['name']}"] = one["spec"].get("minReplicas", 1)
    for one in manifests:
        if one["kind"] == "Deployment":
            yield from (f"{name(one)}: {fault}" for fault in _deployment(one))
        if one["kind"] == "PodDisruptionBudget":
            yield from (f"{name(one)}: {fault}" for fault in _budget(one, manifests, least))


def _deployment(one: Manifest) -> Iterator[str]:
    spec = one["spec"]
    rolling = spec.get("strategy", {}).get("rollingUpdate") or {}
    recreates = spec.get("strategy", {}).get("type") == "Recreate"
    surge, away = rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%")
    if spec.get("replicas") == 0:
        yield "replicas is 0"
    if surge in _NONE and away in _NONE:
        yield "maxSurge and maxUnavailable are both 0"
    if one["metadata"]["name"] in _STAYS and (recreates or away not in _NONE):
        yield "its strategy is not RollingUpdate with maxUnavailable 0"


def _budget(one: Manifest, manifests: Sequence[Manifest], least: dict[str, int]) -> Iterator[str]:
    spec = one["spec"]
    found = selected(spec.get("selector", {}), list(pods(manifests)))
    if not found:
        yield "its selector means no pod"
    if ("minAvailable" in spec) == ("maxUnavailable" in spec):
        yield "it needs one of minAvailable and maxUnavailable"
    stay = spec.get("minAvailable", 0)
    there = sum(least.get(f"{pod.kind}/{pod.owner}", 1) for pod in found)
    if spec.get("maxUnavailable") in _NONE or stay == "100%" or (isinstance(stay, int) and 0 < there <= stay):
        yield "it lets no pod go"


def _autoscaler(one: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    spec = one["spec"]
    target = spec["scaleTargetRef"]
    found = {name(other): other for other in manifests}.get(f"{target['kind']}/{target['name']}")
    if found is None:
        yield f"there is no {target['kind']}/{target['name']}"
    elif "replicas" in found["spec"]:
        yield f"{name(found)} has replicas, which would undo the autoscaler's work"
    if not 1 <= spec.get("minReplicas", 1) <= spec["maxReplicas"]:
        yield "minReplicas is not within 1 to maxReplicas"
    if not spec.get("metrics"):
        yield "it has no metrics"
