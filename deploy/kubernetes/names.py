"""Whether what pods refer to by name is there: ConfigMaps, Secrets, volume claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.kubernetes.manifests import Manifest, Pod, name, pods

# What its user makes, as docs/kubernetes.md tells.
SECRETS = {"forkcast-api-keys", "forkcast-tls", "forkcast-client", "forkcast-registry"}
# What is in no namespace by its nature, as far as overlays of ours may meet it.
_CLUSTER = {"Namespace", "PersistentVolume", "StorageClass", "PriorityClass", "ClusterRole", "ClusterRoleBinding"}
_VOLUMES = {
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}
_VARIABLES = {
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each name that means nothing, or two things."""
    names = [name(one) for one in manifests]
    yield from (f"{one} is there twice" for one in sorted({one for one in names if names.count(one) > 1}))
    yield from _strays(manifests)
    known = {*names, *(f"Secret/{one}" for one in SECRETS)}
    for pod in pods(manifests):
        yield from (f"{pod.kind}/{pod.owner}: there is no {one}" for one in _wanted(pod) if one not in known)


def _strays(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What an overlay that names no namespace leaves behind: it would land in another one than the rest."""
    if any("namespace" in one["metadata"] for one in manifests):
        bare = (one for one in manifests if "namespace" not in one["metadata"] and one["kind"] not in _CLUSTER)
        yield from (f"{name(one)} has no namespace, as the others have" for one in bare)


def _wanted(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        for key, (kind, field) in _VOLUMES.items():
            if key in volume:
                yield f"{kind}/{volume[key][field]}"
    for container in pod.containers:
        values = [one["valueFrom"] for one in container.get("env", []) if "valueFrom" in one]
        for source in [*container.get("envFrom", []), *values]:
            yield from (f"{kind}/{source[key]['name']}" for key, kind in _VARIABLES.items() if key in source)
