"""Whether manifests find each other: selectors, ports and targets, of which no schema knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.environment import told
from deploy.checks.kubernetes.manifests import Manifest, Pod, home, image, name, pods

Faults = Iterator[str]
# The one Service that may be open to the world, and the ports of its pods that are meant for it.
PUBLIC = "nginx"
PUBLIC_PORTS = {8080, 8443}


def faults(manifests: Sequence[Manifest]) -> Faults:
    """One line for each end that hangs loose."""
    there = list(pods(manifests))
    for one in manifests:
        rule = {"Deployment": _deployment, "Service": _service}.get(one["kind"])
        yield from (f"{name(one)}: {fault}" for fault in (rule(one, there) if rule else ()))
    yield from _replicas(manifests)


def selected(selector: Mapping[str, Any], there: Sequence[Pod]) -> list[Pod]:
    """The pods that a label selector means; an empty one means all."""
    wanted = selector.get("matchLabels", {})
    rules = selector.get("matchExpressions", [])
    return [
        pod
        for pod in there
        if wanted.items() <= pod.labels.items() and all(_matches(pod.labels.get(one["key"]), one) for one in rules)
    ]


def _matches(label: str | None, rule: Mapping[str, Any]) -> bool:
    among = rule.get("values", [])
    return {
        "In": label in among,
        "NotIn": label not in among,
        "Exists": label is not None,
        "DoesNotExist": label is None,
    }[rule["operator"]]


def _deployment(one: Manifest, there: list[Pod]) -> Faults:
    found = selected(one["spec"]["selector"], there)
    if [pod.owner for pod in found] != [one["metadata"]["name"]]:
        yield f"its selector means the pods of {[pod.owner for pod in found]}"
    spread = one["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
    if any(selected(rule.get("labelSelector", {}), found) != found for rule in spread):
        yield "what it spreads are not its own pods"
    # Else tainted and cordoned nodes count as empty ones, and replicas wait for them for ever.
    if any(rule["whenUnsatisfiable"] == "DoNotSchedule" and rule.get("nodeTaintsPolicy") != "Honor" for rule in spread):
        yield "it spreads by DoNotSchedule without nodeTaintsPolicy: Honor"


def _service(one: Manifest, there: list[Pod]) -> Faults:
    spec = one["spec"]
    public = one["metadata"]["name"] == PUBLIC
    if not public and spec.get("type", "ClusterIP") != "ClusterIP":
        yield f"type is {spec['type']}, and only Service/{PUBLIC} is for the world"
    if spec.get("externalIPs"):
        yield "externalIPs is set"
    if not spec.get("selector"):
        yield "it has no selector"
        return
    found = selected({"matchLabels": spec["selector"]}, there)
    if not found or not spec.get("ports"):
        yield "its selector means no pod" if not found else "it has no ports"
    for pod in found:
        yield from (fault for port in spec.get("ports", []) for fault in _target(port, pod, public))


def _target(port: Mapping[str, Any], pod: Pod, public: bool) -> Faults:
    target = port.get("targetPort", port["port"])
    number = pod.ports.get(target, target)
    if number not in pod.ports.values():
        yield f"targetPort {target} is no port of {pod.owner}"
    elif public and number not in PUBLIC_PORTS:
        yield f"targetPort {target} is not for the world"


def _replicas(manifests: Sequence[Manifest]) -> Faults:
    """Nginx asks a headless Service of ours, by its whole name, and a port that its pods listen on."""
    there = list(pods(manifests))
    services = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Service"}
    for pod in there:
        for one in (one for one in pod.spec["containers"] if image(one) == "nginx"):
            asked = told(one, manifests).get("REPLICAS", "")
            found = re.fullmatch(rf"([a-z0-9-]+)\.{re.escape(home(manifests))}\.svc\.[a-z0-9.-]+:(\d+)", asked)
            spec = services.get(found[1], {}) if found else {}
            ports = {
                port
                for one in selected({"matchLabels": spec.get("selector") or {}}, there)
                for port in one.ports.values()
            }
            if not found or spec.get("clusterIP") != "None" or int(found[2]) not in ports:
                yield f"{pod.kind}/{pod.owner}: REPLICAS={asked} is no headless Service of ours and a port of its pods"
