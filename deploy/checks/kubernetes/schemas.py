"""Faults that the API server refuses: fields and types outside its schemas, and values that the schemas leave open."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]

from deploy.checks.kubernetes.manifests import Manifest, Pod, name, pods, prefixed

# The oldest version with `sleep` in preStop, and a recent one.
VERSIONS = ("1.30", "1.36")
_KINDS_WITHOUT_SPEC = {"Namespace", "ConfigMap", "Secret"}
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
_PORT_FIELDS = {"port", "containerPort", "targetPort", "nodePort", "endPort"}


def schema_faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each manifest that the strict schema of a supported version refuses."""
    for manifest in manifests:
        # The schemas do not require a spec, and the later checks read it.
        spec = manifest.get("spec", {})
        if not spec and manifest["kind"] not in _KINDS_WITHOUT_SPEC:
            yield f"{name(manifest)}: spec must be set, got nothing"
        if "template" in spec and "spec" not in spec["template"]:
            yield f"{name(manifest)}: spec.template.spec must be set, got nothing"
        for version in VERSIONS:
            if fault := _schema_fault(json.dumps(manifest), version):
                yield f"{name(manifest)}: {fault}"


# kubernetes_validate reads the schema's files for each call, which takes longer than all other checks.
@lru_cache(maxsize=1024)
def _schema_fault(manifest: str, version: str) -> str | None:
    try:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.absolute_path) or "the manifest"
        return f"{path} must match the schema of Kubernetes {version}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return f"kind must be in the API of Kubernetes {version}: {error.message}"
    return None


def value_faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each name, port or repeated entry that the schemas allow and the API server refuses."""
    for manifest in manifests:
        own_name = manifest["metadata"].get("name", "")
        faults = [] if _DNS_LABEL.fullmatch(own_name) else [f"metadata.name must be a DNS label, got {own_name}"]
        faults += [
            f"{field} must be 1 to 65535, got {port}" for field, port in _ports(manifest) if not 0 < port < 65536
        ]
        if manifest["kind"] == "Service":
            ports = manifest["spec"].get("ports", [])
            faults += _repeated("ports", (f"{port['port']}/{port.get('protocol', 'TCP')}" for port in ports))
            faults += _repeated("port names", (port.get("name") for port in ports))
        yield from prefixed(name(manifest), faults)
    for pod in pods(manifests):
        yield from prefixed(pod.name, _pod_faults(pod))


def _ports(part: object) -> Iterator[tuple[str, int]]:
    if isinstance(part, dict):
        yield from ((key, value) for key, value in part.items() if key in _PORT_FIELDS and isinstance(value, int))
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _ports(inner)


def _pod_faults(pod: Pod) -> Iterator[str]:
    for field, entries in (("containers", pod.containers), ("volumes", pod.spec.get("volumes", []))):
        names = [entry["name"] for entry in entries]
        yield from (
            f"names of {field} must be DNS labels, got {label}" for label in names if not _DNS_LABEL.fullmatch(label)
        )
        yield from _repeated(f"names of {field}", names)
    for container in pod.containers:
        yield from prefixed(container["name"], _container_faults(container))


def _container_faults(container: Mapping[str, Any]) -> Iterator[str]:
    names = [port["name"] for port in container.get("ports", []) if "name" in port]
    yield from (
        f"port names must be 1 to 15 of a-z, 0-9 and -, got {label}"
        for label in names
        if not _PORT_NAME.fullmatch(label)
    )
    yield from _repeated("port names", names)
    yield from _repeated("env", (variable["name"] for variable in container.get("env", [])))
    yield from _repeated("mountPath", (mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts", [])))


def _repeated(field: str, entries: Iterable[object]) -> Iterator[str]:
    counts = Counter(entries)
    yield from (f"{field} must be unique, got {count} times {entry}" for entry, count in counts.items() if count > 1)
