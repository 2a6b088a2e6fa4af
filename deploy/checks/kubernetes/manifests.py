"""Kubernetes manifests as `kubectl kustomize` renders them, and the pods that they define."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import CommandError
from deploy.stack.paths import ROOT

OVERLAYS = ROOT / "deploy/kubernetes/overlays"
# The first Kustomize that has all the features in use here; the kubectl of Debian 12 and Ubuntu 22.04 has an older one.
_OLDEST_KUSTOMIZE = 5

_IMAGE = re.compile(r"(?:[^\s@]+/)?[a-z0-9._-]+-(server|model|nginx|locust):[\w.-]+")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod that a Deployment or a Job makes."""

    owner: str
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its owner as kubectl writes it: `Deployment/server`."""
        return f"{self.kind}/{self.owner}"

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, init containers first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The port numbers of its containers by their names."""
        ports = [port for container in self.spec["containers"] for port in container.get("ports", [])]
        return {port.get("name", ""): port["containerPort"] for port in ports}


def name(manifest: Manifest) -> str:
    """Return the name as kubectl writes it: `Deployment/server`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def prefixed(prefix: str, faults: Iterable[str]) -> Iterator[str]:
    """Put the object's name before each of its faults."""
    yield from (f"{prefix}: {fault}" for fault in faults)


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value)


def unequal(owner: Mapping[str, Any], expected: Mapping[str, object]) -> Iterator[str]:
    """Yield a line for each field with another value than expected; an expected None means that it must not be set."""
    for field, value in expected.items():
        if owner.get(field) != value:
            yield f"{field} must be {'unset' if value is None else shown(value)}, got {shown(owner.get(field))}"


def our_image(container: Mapping[str, Any]) -> str | None:
    """Return which of our images a container runs, such as server, or None for another image or one without a tag."""
    match = _IMAGE.fullmatch(container.get("image", ""))
    return match[1] if match else None


def namespace(manifests: Sequence[Manifest]) -> str:
    """Return the name of the overlay's Namespace, or an empty string."""
    names = (str(manifest["metadata"]["name"]) for manifest in manifests if manifest["kind"] == "Namespace")
    return next(names, "")


def pods(manifests: Sequence[Manifest]) -> Iterator[Pod]:
    """Yield the pod of each manifest that has a pod template."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template")
        if template:
            labels = template.get("metadata", {}).get("labels", {})
            yield Pod(manifest["metadata"]["name"], manifest["kind"], labels, template["spec"])


def selected(selector: Mapping[str, Any], candidates: Sequence[Pod]) -> list[Pod]:
    """Return the pods that a label selector matches; an empty selector matches all."""
    labels = selector.get("matchLabels", {})
    rules = selector.get("matchExpressions", [])
    return [
        pod
        for pod in candidates
        if labels.items() <= pod.labels.items() and all(_matches(pod.labels.get(rule["key"]), rule) for rule in rules)
    ]


def _matches(label: str | None, rule: Mapping[str, Any]) -> bool:
    values = rule.get("values", [])
    return {
        "In": label in values,
        "NotIn": label not in values,
        "Exists": label is not None,
        "DoesNotExist": label is None,
    }[rule["operator"]]


def missing() -> str | None:
    """Return why no overlay can be rendered on this machine, or None."""
    if shutil.which("kubectl") is None:
        return "kubectl is missing"
    version = re.search(r"Kustomize Version: v(\d+)", _kubectl("version", "--client"))
    if version is None or int(version[1]) < _OLDEST_KUSTOMIZE:
        return f"the Kustomize of kubectl is older than version {_OLDEST_KUSTOMIZE}"
    return None


def render(folder: Path) -> list[Manifest]:
    """Return all manifests of an overlay.

    Raises:
        CommandError: with the message of kubectl.
    """
    return [manifest for manifest in yaml.safe_load_all(_kubectl("kustomize", str(folder))) if manifest]


def without_nulls(part: Any) -> Any:
    """Return a part of a manifest without the fields that are null, which the API treats as unset."""
    if isinstance(part, dict):
        return {key: without_nulls(inner) for key, inner in part.items() if inner is not None}
    return [without_nulls(inner) for inner in part if inner is not None] if isinstance(part, list) else part


def _kubectl(*arguments: str) -> str:
    ran = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    if ran.returncode:
        raise CommandError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout
