"""What every pod of ours keeps to: images with a tag, within limits, and stopped in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes import quantities
from deploy.checks.kubernetes.environment import told
from deploy.checks.kubernetes.manifests import Manifest, Pod, image, name, pods

# What a stop takes beside waiting: seconds.
_MARGIN = 10


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each thing that a pod does not keep to."""
    for pod in pods(manifests):
        found = list(_stop(pod, manifests))
        for container in pod.containers:
            found += [f"{container['name']}: {fault}" for fault in _container(container)]
        yield from (f"{pod.kind}/{pod.owner}: {fault}" for fault in found)
    for one in manifests:
        if one["kind"] == "PersistentVolumeClaim":
            yield from (f"{name(one)}: {fault}" for fault in quantities.faults(one["spec"].get("resources", {})))


def _container(one: Mapping[str, Any]) -> Iterator[str]:
    resources = one.get("resources", {})
    for kind in ("requests", "limits"):
        there = resources.get(kind, {})
        yield from (f"no {kind} of {what}" for what in ("cpu", "memory") if what not in there)
    yield from quantities.faults(resources)
    if not image(one):
        yield f"the image {one.get('image')} is none of ours with a tag"
    if one.get("imagePullPolicy") != "IfNotPresent":
        yield "imagePullPolicy is not IfNotPresent"


def _stop(pod: Pod, manifests: Sequence[Manifest]) -> Iterator[str]:
    """Nothing is killed that still waits, or answers."""
    for one in pod.spec["containers"]:
        sleep = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = told(one, manifests).get("GRACEFUL_TIMEOUT", "")
        # What is no number the settings refuse.
        wait = int(drain) if drain.isdigit() else 0
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if sleep + wait + _MARGIN > grace:
            yield f"terminationGracePeriodSeconds {grace} is less than {sleep} + {wait} + {_MARGIN}"
