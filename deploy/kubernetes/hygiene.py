"""What every pod of ours keeps to: nothing but run, within limits, asked how it is, and stopped in time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.kubernetes.manifests import Manifest, Pod, pods
from server.access import OPEN

_IMAGE = re.compile(r"(?:[^\s@]+/)?[a-z0-9._-]+-(server|model|nginx|locust):[\w.-]+")
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Where each image answers that it is well, to anybody: replicas without a key, Nginx without asking a replica.
_WELL = {
    "server": OPEN - {"/metrics"},
    "nginx": {"/null", "/stub_status"},
    "locust": {"/"},
    "model": {"/health"},
}
_POD = {"automountServiceAccountToken": False, "enableServiceLinks": False}
_USER = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# What a stop takes beside waiting: seconds.
_MARGIN = 10


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each thing that a pod does not keep to."""
    settings = {
        one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap" and "data" in one
    }
    for pod in pods(manifests):
        found = [*_pod(pod), *_stop(pod, settings)]
        for container in pod.containers:
            found += [f"{container['name']}: {fault}" for fault in _container(container)]
        for container in pod.spec["containers"]:
            found += [f"{container['name']}: {fault}" for fault in _serving(container)]
        yield from (f"{pod.kind}/{pod.owner}: {fault}" for fault in found)


def _lacks(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{key} is not {value}" for key, value in wanted.items() if there.get(key) != value)


def _pod(pod: Pod) -> Iterator[str]:
    yield from _lacks(pod.spec, _POD)
    user = pod.spec.get("securityContext", {})
    yield from _lacks(user, _USER)
    # An image may say its user by name, which a kubelet cannot tell from root.
    if not user.get("runAsUser"):
        yield "runAsUser is no number but 0"
    mounted = {mount["name"] for one in pod.containers for mount in one.get("volumeMounts", [])}
    declared = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    yield from (f"there is no volume {one}" for one in sorted(mounted - set(declared)))
    yield from (f"the volume {one} is mounted nowhere" for one in sorted(set(declared) - mounted))
    unbounded = [one for one, volume in declared.items() if "sizeLimit" not in volume.get("emptyDir", {"sizeLimit": 0})]
    yield from (f"the volume {one} has no sizeLimit" for one in unbounded)


def _container(one: Mapping[str, Any]) -> Iterator[str]:
    yield from _lacks(one.get("securityContext", {}), _CONTAINER)
    for kind in ("requests", "limits"):
        told = one.get("resources", {}).get(kind, {})
        yield from (f"no {kind} of {what}" for what in ("cpu", "memory") if what not in told)
    if not _IMAGE.fullmatch(one["image"]):
        yield f"the image {one['image']} is none of ours with a tag"
    if one.get("imagePullPolicy") != "IfNotPresent":
        yield "imagePullPolicy is not IfNotPresent"


def _serving(one: Mapping[str, Any]) -> Iterator[str]:
    """A container that listens is asked how it is, on a port that it has."""
    ports = {port["name"] for port in one.get("ports", [])}
    ours = _IMAGE.fullmatch(one["image"])
    for probe in _PROBES if ports else ():
        asked = one.get(probe, {}).get("httpGet", {})
        if not asked:
            yield f"it listens, and has no {probe} by HTTP"
            continue
        if asked["port"] not in ports:
            yield f"{probe} asks {asked['port']}, which is no port of it"
        if ours and asked.get("path", "/") not in _WELL[ours[1]]:
            yield f"{probe} asks for {asked.get('path', '/')}, which does not tell whether it is well"


def _stop(pod: Pod, settings: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Nothing is killed that still waits, or answers."""
    for one in pod.spec["containers"]:
        sleep = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        told = [settings.get(source.get("configMapRef", {}).get("name"), {}) for source in one.get("envFrom", [])]
        drain = max((int(one.get("GRACEFUL_TIMEOUT", 0)) for one in told), default=0)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if sleep + drain + _MARGIN > grace:
            yield f"terminationGracePeriodSeconds {grace} is less than {sleep} + {drain} + {_MARGIN}"
