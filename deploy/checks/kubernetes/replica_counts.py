"""Numbers of replicas, and of those that a rollout, a node's drain or the autoscaler may take away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.kubernetes.manifests import Manifest, name, pods, prefixed, selected, shown

_ZERO = (0, "0", "0%")
# The Deployments that must serve during a rollout.
_ALWAYS_UP = {"server", "nginx"}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each number that leaves too few replicas, or lets none be evicted."""
    least = {name(item): item["spec"].get("replicas", 1) for item in manifests if item["kind"] == "Deployment"}
    for manifest in manifests:
        if manifest["kind"] == "HorizontalPodAutoscaler":
            yield from prefixed(name(manifest), _autoscaler_faults(manifest, manifests))
            target = manifest["spec"]["scaleTargetRef"]["name"]
            least[f"Deployment/{target}"] = manifest["spec"].get("minReplicas", 1)
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            yield from prefixed(name(manifest), _deployment_faults(manifest))
        if manifest["kind"] == "PodDisruptionBudget":
            yield from prefixed(name(manifest), _budget_faults(manifest, manifests, least))


def _deployment_faults(deployment: Manifest) -> Iterator[str]:
    spec = deployment["spec"]
    strategy = spec.get("strategy", {})
    rolling = strategy.get("rollingUpdate") or {}
    surge, unavailable = rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%")
    if spec.get("replicas") == 0:
        yield "replicas must be at least 1, got 0"
    if surge in _ZERO and unavailable in _ZERO:
        yield f"maxSurge or maxUnavailable must be above 0, got {surge} and {unavailable}"
    always_up = deployment["metadata"]["name"] in _ALWAYS_UP
    if always_up and (strategy.get("type") == "Recreate" or unavailable not in _ZERO):
        yield f"strategy must be RollingUpdate with maxUnavailable 0, got {shown(strategy)}"


def _budget_faults(budget: Manifest, manifests: Sequence[Manifest], least: dict[str, int]) -> Iterator[str]:
    spec = budget["spec"]
    own = selected(spec.get("selector", {}), list(pods(manifests)))
    if not own:
        yield f"selector must match a pod, got {shown(spec.get('selector'))}"
    limits = {key: spec[key] for key in ("minAvailable", "maxUnavailable") if key in spec}
    if len(limits) != 1:
        yield f"one of minAvailable and maxUnavailable must be set, got {shown(limits or None)}"
    stay = spec.get("minAvailable", 0)
    total = sum(least.get(pod.name, 1) for pod in own)
    if spec.get("maxUnavailable") in _ZERO or stay == "100%" or (isinstance(stay, int) and 0 < total <= stay):
        yield f"one of {total} pods must be evictable, got {shown(limits)}"


def _autoscaler_faults(autoscaler: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    spec = autoscaler["spec"]
    reference = f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
    target = next((manifest for manifest in manifests if name(manifest) == reference), None)
    if target is None:
        yield f"scaleTargetRef must be an existing object, got {reference}"
    elif "replicas" in target["spec"]:
        yield f"replicas of {reference} must be unset beside an autoscaler, got {target['spec']['replicas']}"
    least, most = spec.get("minReplicas", 1), spec["maxReplicas"]
    if not 1 <= least <= most:
        yield f"minReplicas must be 1 to maxReplicas ({most}), got {least}"
    if not spec.get("metrics"):
        yield "metrics must be set, got nothing"
