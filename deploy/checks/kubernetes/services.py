"""Whether Deployments and Services select the right pods, and Services lead to ports of theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.environment import variables
from deploy.checks.kubernetes.manifests import (
    Manifest,
    Pod,
    name,
    namespace,
    our_image,
    pods,
    prefixed,
    selected,
    shown,
)

# The only Service that may be open to the internet, and the ports of its pods that may.
PUBLIC = "nginx"
PUBLIC_PORTS = {8080, 8443}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each selector and port that does not match the pods."""
    all_pods = list(pods(manifests))
    checks = {"Deployment": _deployment_faults, "Service": _service_faults}
    for manifest in manifests:
        if check := checks.get(manifest["kind"]):
            yield from prefixed(name(manifest), check(manifest, all_pods))
    yield from _upstream_faults(manifests)


def _deployment_faults(deployment: Manifest, all_pods: list[Pod]) -> Iterator[str]:
    own = selected(deployment["spec"]["selector"], all_pods)
    owners = [pod.owner for pod in own]
    if owners != [deployment["metadata"]["name"]]:
        yield f"selector must match its own pods only, got those of {', '.join(owners) or 'nothing'}"
    spread = deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
    if any(selected(rule.get("labelSelector", {}), own) != own for rule in spread):
        yield "topologySpreadConstraints must select its own pods"
    # Tainted and cordoned nodes would count as empty, and replicas would wait for room on them forever.
    yield from (
        f"nodeTaintsPolicy must be Honor with DoNotSchedule, got {shown(rule.get('nodeTaintsPolicy'))}"
        for rule in spread
        if rule["whenUnsatisfiable"] == "DoNotSchedule" and rule.get("nodeTaintsPolicy") != "Honor"
    )


def _service_faults(service: Manifest, all_pods: list[Pod]) -> Iterator[str]:
    spec = service["spec"]
    public = service["metadata"]["name"] == PUBLIC
    if not public and spec.get("type", "ClusterIP") != "ClusterIP":
        yield f"type must be ClusterIP for all but Service/{PUBLIC}, got {spec['type']}"
    if spec.get("externalIPs"):
        yield f"externalIPs must be unset, got {shown(spec['externalIPs'])}"
    # A Service without a selector has no pods at all, unlike an empty label selector elsewhere.
    selector = spec.get("selector")
    own = selected({"matchLabels": selector}, all_pods) if selector else []
    if not own:
        yield f"selector must match a pod, got {shown(selector)}"
    if not spec.get("ports"):
        yield "ports must be set, got nothing"
    for pod in own:
        for port in spec.get("ports", []):
            yield from _target_faults(port, pod, public)


def _target_faults(port: Mapping[str, Any], pod: Pod, public: bool) -> Iterator[str]:
    target = port.get("targetPort", port["port"])
    number = pod.ports.get(target, target)
    if number not in pod.ports.values():
        yield f"targetPort must be a port of {pod.name}, got {target}"
    elif public and number not in PUBLIC_PORTS:
        yield f"targetPort must be a public port {sorted(PUBLIC_PORTS)}, got {target}"


def _upstream_faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Nginx must be given a headless Service of this overlay by its full name, and a port of the Service's pods."""
    all_pods = list(pods(manifests))
    services = {item["metadata"]["name"]: item["spec"] for item in manifests if item["kind"] == "Service"}
    address = re.compile(rf"([a-z0-9-]+)\.{re.escape(namespace(manifests))}\.svc\.[a-z0-9.-]+:(\d+)")
    for pod in all_pods:
        for container in pod.spec["containers"]:
            if our_image(container) != "nginx":
                continue
            upstream = variables(container, manifests).get("REPLICAS", "")
            match = address.fullmatch(upstream)
            spec = services.get(match[1], {}) if match else {}
            backends = selected({"matchLabels": spec.get("selector") or {}}, all_pods)
            ports = {port for backend in backends for port in backend.ports.values()}
            if not match or spec.get("clusterIP") != "None" or int(match[2]) not in ports:
                yield f"{pod.name}: REPLICAS must be a headless Service and a port of its pods, got {upstream}"
