"""Whether what pods refer to by name is there: ConfigMaps, Secrets, volume claims, and the keys in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.manifests import Manifest, Pod, home, name, pods

# What its user makes, as docs/kubernetes.md tells, and the keys in it; those of the last are variables, by any name.
SECRETS: dict[str, set[str] | None] = {
    "forkcast-api-keys": {"keys"},
    "forkcast-tls": {"tls.crt", "tls.key"},
    "forkcast-client": {"api-key"},
    "forkcast-registry": None,
}
# What is in no namespace by its nature, as far as overlays of ours may meet it.
_CLUSTER = {"Namespace", "PersistentVolume", "StorageClass", "PriorityClass", "ClusterRole", "ClusterRoleBinding"}
_ENFORCE = "pod-security.kubernetes.io/enforce"
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
    """One line for each name that means nothing, or two things."""
    found = [name(one) for one in manifests]
    yield from (f"{one} is there twice" for one in sorted({one for one in found if found.count(one) > 1}))
    yield from _strays(manifests)
    known = {f"Secret/{one}": keys for one, keys in SECRETS.items()}
    known |= {name(one): {*one.get("data", {}), *one.get("binaryData", {})} for one in manifests}
    for pod in pods(manifests):
        for wanted, keys in _wanted(pod):
            if wanted not in known:
                yield f"{pod.kind}/{pod.owner}: there is no {wanted}"
            else:
                there = known[wanted]
                missing = sorted(keys - there) if there is not None else []
                yield from (f"{pod.kind}/{pod.owner}: {wanted} has no {key}" for key in missing)


def files(secret: Mapping[str, Any]) -> set[str]:
    """The files that a volume of this Secret has."""
    if "items" in secret:
        return {item["path"] for item in secret["items"]}
    return SECRETS.get(secret.get("secretName", "")) or set()


def _strays(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What an overlay that names no namespace leaves behind: it would land in another one than the rest."""
    place = home(manifests)
    spaces = [one for one in manifests if one["kind"] == "Namespace"]
    if len(spaces) != 1:
        yield f"there are {len(spaces)} Namespaces, not one"
    for one in spaces:
        if one["metadata"].get("labels", {}).get(_ENFORCE) != "restricted":
            yield f"{name(one)}: its label {_ENFORCE} is not restricted"
    for one in manifests:
        if one["kind"] not in _CLUSTER and "namespace" not in one["metadata"]:
            yield f"{name(one)} has no namespace, as the others have"
        elif one["kind"] not in _CLUSTER and one["metadata"]["namespace"] != place:
            yield f"{name(one)} is in the namespace {one['metadata']['namespace']}, not in {place}"


def _wanted(pod: Pod) -> Iterator[tuple[str, set[str]]]:
    """What it refers to, and which keys of that."""
    volumes = pod.spec.get("volumes", [])
    sources = [*volumes, *(one for volume in volumes for one in volume.get("projected", {}).get("sources", []))]
    for container in pod.containers:
        sources += container.get("envFrom", [])
        sources += [one["valueFrom"] for one in container.get("env", []) if "valueFrom" in one]
    for source in sources:
        for key, (kind, field) in _SOURCES.items():
            if one := source.get(key):
                keys = {item["key"] for item in one.get("items", [])} | ({one["key"]} if "key" in one else set())
                # Where it is projected a Secret's name is in `name`.
                yield f"{kind}/{one.get(field) or one.get('name')}", keys
