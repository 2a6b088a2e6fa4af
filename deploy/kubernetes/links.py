"""Whether manifests find each other: selectors, ports and targets, of which no schema knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deploy.kubernetes.manifests import Manifest, Pod, name, pods

Faults = Iterator[str]


def faults(manifests: Sequence[Manifest]) -> Faults:
    """One line for each end that hangs loose."""
    there = list(pods(manifests))
    rules: Mapping[str, Callable[[Manifest, list[Pod]], Faults]] = {
        "Deployment": _deployment,
        "Service": _service,
        "PodDisruptionBudget": _budget,
    }
    for one in manifests:
        if rule := rules.get(one["kind"]):
            yield from (f"{name(one)}: {fault}" for fault in rule(one, there))
    yield from _autoscalers(manifests)


def selected(selector: Mapping[str, Any], there: Sequence[Pod]) -> list[Pod]:
    """The pods that a label selector means; an empty one means all."""
    wanted = selector.get("matchLabels", {})
    among = {one["key"]: one["values"] for one in selector.get("matchExpressions", []) if one["operator"] == "In"}
    return [
        pod
        for pod in there
        if wanted.items() <= pod.labels.items() and all(pod.labels.get(key) in values for key, values in among.items())
    ]


def _deployment(one: Manifest, there: list[Pod]) -> Faults:
    found = selected(one["spec"]["selector"], there)
    if [pod.owner for pod in found] != [one["metadata"]["name"]]:
        yield f"its selector means the pods of {[pod.owner for pod in found]}"
    spread = one["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
    if any(selected(rule["labelSelector"], found) != found for rule in spread):
        yield "what it spreads are not its own pods"
    # Else tainted and cordoned nodes count as empty ones, and replicas wait for them for ever.
    if any(rule["whenUnsatisfiable"] == "DoNotSchedule" and rule.get("nodeTaintsPolicy") != "Honor" for rule in spread):
        yield "it spreads by DoNotSchedule without nodeTaintsPolicy: Honor"


def _service(one: Manifest, there: list[Pod]) -> Faults:
    found = selected({"matchLabels": one["spec"]["selector"]}, there)
    if not found:
        yield "its selector means no pod"
    for pod in found:
        for port in one["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if target not in pod.ports and target not in pod.ports.values():
                yield f"targetPort {target} is no port of {pod.owner}"


def _budget(one: Manifest, there: list[Pod]) -> Faults:
    if not selected(one["spec"]["selector"], there):
        yield "its selector means no pod"


def _autoscalers(manifests: Sequence[Manifest]) -> Faults:
    targets = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    for one in manifests:
        if one["kind"] != "HorizontalPodAutoscaler":
            continue
        target = one["spec"]["scaleTargetRef"]
        found = targets.get((target["kind"], target["name"]))
        if found is None:
            yield f"{name(one)}: there is no {target['kind']}/{target['name']}"
        elif "replicas" in found["spec"]:
            yield f"{name(one)}: {name(found)} has replicas, which would undo the autoscaler's work"
