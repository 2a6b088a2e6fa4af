"""Whether what pods refer to by name is there: ConfigMaps, Secrets, volume claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.kubernetes.manifests import Manifest, Pod, name, pods

# What its user makes, as docs/kubernetes.md tells.
SECRETS = {"forkcast-api-keys", "forkcast-tls", "forkcast-client", "forkcast-registry"}
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
    known = {*names, *(f"Secret/{one}" for one in SECRETS)}
    for pod in pods(manifests):
        yield from (f"{pod.kind}/{pod.owner}: there is no {one}" for one in _wanted(pod) if one not in known)


def _wanted(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        for key, (kind, field) in _VOLUMES.items():
            if key in volume:
                yield f"{kind}/{volume[key][field]}"
    for container in pod.containers:
        values = [one["valueFrom"] for one in container.get("env", []) if "valueFrom" in one]
        for source in [*container.get("envFrom", []), *values]:
            yield from (f"{kind}/{source[key]['name']}" for key, kind in _VARIABLES.items() if key in source)
