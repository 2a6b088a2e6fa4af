"""That a pod of ours can do nothing but run: no way to the node, to the API, or to what another user may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.manifests import Manifest, Pod, pods
from deploy.checks.kubernetes.quantities import parsed

_POD = {"automountServiceAccountToken": False, "enableServiceLinks": False}
_NEVER = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "serviceAccountName", "serviceAccount")
_USER = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_GROUPS = {"runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy"}
_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_VOLUMES = {"emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected"}
# Not a token for the API, which a pod would then have after all.
_PROJECTED = {"configMap", "secret"}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each thing that a pod may, or lacks."""
    for pod in pods(manifests):
        found = [*_pod(pod), *_volumes(pod)]
        for container in pod.containers:
            found += [f"{container['name']}: {fault}" for fault in _container(container)]
        yield from (f"{pod.kind}/{pod.owner}: {fault}" for fault in found)


def _lacks(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{key} is not {value}" for key, value in wanted.items() if there.get(key) != value)


def _pod(pod: Pod) -> Iterator[str]:
    yield from _lacks(pod.spec, _POD)
    yield from (f"{key} is set" for key in _NEVER if pod.spec.get(key))
    user = pod.spec.get("securityContext", {})
    yield from _lacks(user, _USER)
    yield from (f"securityContext.{key} is set" for key in user if key not in _GROUPS | set(_USER))
    # An image may say its user by name, which a kubelet cannot tell from root.
    if not user.get("runAsUser"):
        yield "runAsUser is no number but 0"
    yield from (f"{key} is 0, root's" for key in ("runAsGroup", "fsGroup") if user.get(key) == 0)


def _container(one: Mapping[str, Any]) -> Iterator[str]:
    there = one.get("securityContext", {})
    yield from _lacks(there, _CONTAINER)
    # All else is the pod's to say: a container could only weaken it.
    yield from (f"securityContext.{key} is set" for key in there if key not in _CONTAINER)
    yield from (f"hostPort {port['hostPort']} is set" for port in one.get("ports", []) if port.get("hostPort"))


def _volumes(pod: Pod) -> Iterator[str]:
    mounts = [mount for one in pod.containers for mount in one.get("volumeMounts", [])]
    mounted = {mount["name"] for mount in mounts}
    declared = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    yield from (f"there is no volume {one}" for one in sorted(mounted - set(declared)))
    yield from (f"the volume {one} is mounted nowhere" for one in sorted(set(declared) - mounted))
    for one, volume in declared.items():
        yield from (f"the volume {one} {fault}" for fault in _volume(volume))
    for mount in mounts:
        # What is mounted so stays as it was when the container started: no new key, no new certificate.
        if "secret" in declared.get(mount["name"], {}) and {"subPath", "subPathExpr"} & set(mount):
            yield f"the volume {mount['name']} is a Secret mounted by subPath"


def _volume(volume: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"is {kind}" for kind in volume if kind not in _VOLUMES | {"name"})
    limit = (volume.get("emptyDir") or {}).get("sizeLimit")
    if set(volume) == {"name"} or ("emptyDir" in volume and limit is None):
        yield "has no sizeLimit"
    if limit is not None and not parsed(limit):
        yield "has a sizeLimit that is no amount above 0"
    sources = volume.get("projected", {}).get("sources", [])
    yield from (f"projects {kind}" for source in sources for kind in source if kind not in _PROJECTED)
    secrets = [volume.get("secret", {}), *(source.get("secret", {}) for source in sources)]
    if any(secret.get("optional") for secret in secrets):
        yield "is a Secret that is optional"
