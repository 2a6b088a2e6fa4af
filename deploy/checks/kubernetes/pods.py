"""Rules for every pod, beyond what the Pod Security level `restricted` enforces.

The API server refuses the rest when a pod is created: `references.py` checks that the Namespace enforces that level.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from deploy.checks.kubernetes.environment import variables
from deploy.checks.kubernetes.manifests import Manifest, Pod, name, our_image, pods, prefixed, shown, unequal

_POD = {
    # No access to the API.
    "automountServiceAccountToken": False,
    "serviceAccountName": None,
    "serviceAccount": None,
    # No variables of other Services, which would be taken for settings.
    "enableServiceLinks": False,
    "shareProcessNamespace": None,
}
# A projected serviceAccountToken would give access to the API.
_PROJECTED = {"configMap", "secret"}
# The time that a stop takes in addition to preStop and GRACEFUL_TIMEOUT.
_STOP_MARGIN_SECONDS = 10

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE]i|[numkMGTPE]?)")
_UNITS = {
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("num", -3)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each field of a pod or a volume claim that is missing or wrong."""
    for pod in pods(manifests):
        yield from prefixed(pod.name, unequal(pod.spec, _POD))
        yield from prefixed(pod.name, [*_group_faults(pod.spec), *_stop_faults(pod, manifests), *_volume_faults(pod)])
        for container in pod.containers:
            yield from prefixed(f"{pod.name}: {container['name']}", _container_faults(container))
    for manifest in manifests:
        if manifest["kind"] == "PersistentVolumeClaim":
            yield from prefixed(name(manifest), _quantity_faults(manifest["spec"].get("resources", {})))


def quantity(text: object) -> Decimal | None:
    """Return an amount that is written as in Kubernetes (250m, 1Gi, 2), or None if it is invalid."""
    match = _QUANTITY.fullmatch(str(text))
    return Decimal(match[1]) * _UNITS[match[2]] if match else None


def _group_faults(owner: Mapping[str, Any]) -> Iterator[str]:
    """The group of root, which the Pod Security level allows."""
    context = owner.get("securityContext", {})
    if 0 in (context.get("runAsGroup"), context.get("fsGroup"), *context.get("supplementalGroups", [])):
        yield "groups of the securityContext must not be root's, got 0"


def _container_faults(container: Mapping[str, Any]) -> Iterator[str]:
    yield from _group_faults(container)
    yield from unequal(container.get("securityContext", {}), {"readOnlyRootFilesystem": True})
    yield from unequal(container, {"imagePullPolicy": "IfNotPresent"})
    resources = container.get("resources", {})
    for section in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in resources.get(section, {}):
                yield f"resources.{section}.{resource} must be set, got nothing"
    yield from _quantity_faults(resources)
    if not our_image(container):
        yield f"image must be a Forkcast image with a tag, got {shown(container.get('image'))}"


def _quantity_faults(resources: Mapping[str, Any]) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for section, amounts in (("requests", requests), ("limits", limits)):
        for resource, amount in amounts.items():
            # An amount of 0 means no limit.
            if not quantity(amount):
                yield f"resources.{section}.{resource} must be an amount above 0, got {amount}"
    for resource, limit in limits.items():
        requested, most = quantity(requests.get(resource)), quantity(limit)
        if requested and most and requested > most:
            yield f"resources.requests.{resource} must be at most the limit {limit}, got {requests[resource]}"


def _stop_faults(pod: Pod, manifests: Sequence[Manifest]) -> Iterator[str]:
    """A container must not be killed while it waits in preStop or answers its last requests."""
    for container in pod.spec["containers"]:
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        timeout = variables(container, manifests).get("GRACEFUL_TIMEOUT", "")
        # A timeout that is not a number is a separate fault of `environment.py`.
        needed = sleep + (int(timeout) if timeout.isdigit() else 0) + _STOP_MARGIN_SECONDS
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace < needed:
            yield (
                f"terminationGracePeriodSeconds must be at least {needed}"
                f" (preStop, GRACEFUL_TIMEOUT and {_STOP_MARGIN_SECONDS}), got {grace}"
            )


def _volume_faults(pod: Pod) -> Iterator[str]:
    mounts = [mount for container in pod.containers for mount in container.get("volumeMounts", [])]
    mounted = {mount["name"] for mount in mounts}
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    yield from (
        f"volumeMounts must name a volume of the pod, got {volume}" for volume in sorted(mounted - set(volumes))
    )
    yield from (f"volumes must be mounted, got {volume}" for volume in sorted(set(volumes) - mounted))
    for mount in mounts:
        # A file that is mounted by subPath never gets the new keys or certificates of a changed Secret.
        if "secret" in volumes.get(mount["name"], {}) and {"subPath", "subPathExpr"} & set(mount):
            yield f"volume {mount['name']}: subPath must be unset for a Secret, got {mount['mountPath']}"
    for volume in volumes.values():
        yield from prefixed(f"volume {volume['name']}", _source_faults(volume))


def _source_faults(volume: Mapping[str, Any]) -> Iterator[str]:
    # A volume without a source is an emptyDir.
    if "emptyDir" in volume or set(volume) == {"name"}:
        limit = volume.get("emptyDir", {}).get("sizeLimit")
        if not quantity(limit):
            yield f"emptyDir.sizeLimit must be an amount above 0, got {shown(limit)}"
    sources = volume.get("projected", {}).get("sources", [])
    yield from (
        f"projected sources must be configMap or secret, got {field}"
        for source in sources
        for field in source
        if field not in _PROJECTED
    )
    if any(source.get("secret", {}).get("optional") for source in (volume, *sources)):
        yield "secret.optional must be unset or false, got true"
