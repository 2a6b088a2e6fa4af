"""Names that manifests refer to: ConfigMaps, Secrets, volume claims, the keys in them, and the overlay's Namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.manifests import Manifest, Pod, name, namespace, pods, shown

# The Secrets that users create, as docs/kubernetes.md says, and their keys; the last has variables of any name.
SECRETS: dict[str, set[str] | None] = {
    "forkcast-api-keys": {"keys"},
    "forkcast-tls": {"tls.crt", "tls.key"},
    "forkcast-client": {"api-key"},
    "forkcast-registry": None,
}
_KINDS_WITHOUT_NAMESPACE = {
    "Namespace",
    "PersistentVolume",
    "StorageClass",
    "PriorityClass",
    "ClusterRole",
    "ClusterRoleBinding",
}
# The API server then refuses pods that run as root, gain privileges, keep capabilities, turn seccomp off, or use the
# node's network, processes, files or ports. An older version of the level would enforce less.
_POD_SECURITY: dict[str, tuple[str, str | None]] = {
    "pod-security.kubernetes.io/enforce": ("restricted", "restricted"),
    "pod-security.kubernetes.io/enforce-version": ("latest", None),
}
_SOURCES = {
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "configMapRef": ("ConfigMap", "name"),
    "configMapKeyRef": ("ConfigMap", "name"),
    "secretRef": ("Secret", "name"),
    "secretKeyRef": ("Secret", "name"),
}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each reference to nothing, and each object outside the overlay's Namespace."""
    yield from _namespace_faults(manifests)
    known = {f"Secret/{secret}": keys for secret, keys in SECRETS.items()}
    known |= {name(item): {*item.get("data", {}), *item.get("binaryData", {})} for item in manifests}
    for pod in pods(manifests):
        for target, keys in _references(pod):
            existing = known.get(target, set())
            if target not in known:
                yield f"{pod.name}: references must be to existing objects, got {target}"
            elif existing is not None:
                yield from (f"{pod.name}: keys of {target} must exist, got {key}" for key in sorted(keys - existing))


def files(secret: Mapping[str, Any]) -> set[str]:
    """Return the names of the files in a volume of this Secret."""
    if "items" in secret:
        return {item["path"] for item in secret["items"]}
    return SECRETS.get(secret.get("secretName", "")) or set()


def _namespace_faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    spaces = [manifest for manifest in manifests if manifest["kind"] == "Namespace"]
    if len(spaces) != 1:
        yield f"Namespace: must be defined once, got {len(spaces)} times"
    for space in spaces:
        labels = space["metadata"].get("labels", {})
        yield from (
            f"{name(space)}: label {label} must be {allowed[0]}, got {shown(labels.get(label))}"
            for label, allowed in _POD_SECURITY.items()
            if labels.get(label) not in allowed
        )
    # An overlay that does not set `namespace` would put what its components add into the namespace `default`.
    expected = namespace(manifests)
    for manifest in manifests:
        actual = manifest["metadata"].get("namespace")
        if manifest["kind"] not in _KINDS_WITHOUT_NAMESPACE and actual != expected:
            yield f"{name(manifest)}: metadata.namespace must be {expected}, got {shown(actual)}"


def _references(pod: Pod) -> Iterator[tuple[str, set[str]]]:
    """Yield each object that a pod refers to, with the keys that it uses of it."""
    volumes = pod.spec.get("volumes", [])
    sources = [*volumes, *(source for volume in volumes for source in volume.get("projected", {}).get("sources", []))]
    for container in pod.containers:
        sources += container.get("envFrom", [])
        sources += [entry["valueFrom"] for entry in container.get("env", []) if "valueFrom" in entry]
    for source in sources:
        for field, (target_kind, name_field) in _SOURCES.items():
            if target := source.get(field):
                keys = {item["key"] for item in (*target.get("items", []), target) if "key" in item}
                # A projected Secret is named by `name`, unlike a Secret that is a volume.
                yield f"{target_kind}/{target.get(name_field) or target.get('name')}", keys
