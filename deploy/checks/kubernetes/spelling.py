"""What the API's schemas leave open and its server refuses: names that are none, ports out of range, things twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.manifests import Manifest, Pod, name, pods

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
_PORTS = {"port", "containerPort", "targetPort", "nodePort", "endPort"}
_MOST = 65535


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each thing that is not spelled as Kubernetes has it."""
    for one in manifests:
        found = [] if _LABEL.fullmatch(one["metadata"].get("name", "")) else ["its name is no DNS label"]
        found += [f"{key} {port} is not within 1 to {_MOST}" for key, port in _ports(one) if not 1 <= port <= _MOST]
        if one["kind"] == "Service":
            found += _service(one["spec"].get("ports", []))
        yield from (f"{name(one)}: {fault}" for fault in found)
    for pod in pods(manifests):
        yield from (f"{pod.kind}/{pod.owner}: {fault}" for fault in _pod(pod))


def _ports(part: object) -> Iterator[tuple[str, int]]:
    if isinstance(part, dict):
        yield from ((key, value) for key, value in part.items() if key in _PORTS and isinstance(value, int))
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _ports(inner)


def _service(ports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _twice("port", ((port["port"], port.get("protocol", "TCP")) for port in ports))
    yield from _twice("port name", (port.get("name") for port in ports))


def _pod(pod: Pod) -> Iterator[str]:
    containers, volumes = ([one["name"] for one in found] for found in (pod.containers, pod.spec.get("volumes", [])))
    yield from (f"the name {one} is no DNS label" for one in [*containers, *volumes] if not _LABEL.fullmatch(one))
    yield from _twice("container", containers)
    yield from _twice("volume", volumes)
    for one in pod.containers:
        ports = [port["name"] for port in one.get("ports", []) if "name" in port]
        yield from (f"{one['name']}: {port} is no name of a port" for port in ports if not _PORT.fullmatch(port))
        for what, found in (
            ("port", ports),
            ("env", [variable["name"] for variable in one.get("env", [])]),
            ("mountPath", [mount["mountPath"].rstrip("/") for mount in one.get("volumeMounts", [])]),
        ):
            yield from (f"{one['name']}: {fault}" for fault in _twice(what, found))


def _twice(what: str, found: Iterable[object]) -> Iterator[str]:
    told = list(found)
    yield from (f"{what} {one} is there twice" for one in dict.fromkeys(told) if told.count(one) > 1)
