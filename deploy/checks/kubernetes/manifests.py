"""Manifests as `kubectl kustomize` renders them, and the pods in them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import CommandError
from deploy.stack.paths import ROOT

OVERLAYS = ROOT / "deploy/kubernetes/overlays"
# The first Kustomize that can do all that ours use; Debian 12 and Ubuntu 22.04 have kubectl with an older one.
_OLDEST = 5

_IMAGE = re.compile(r"(?:[^\s@]+/)?[a-z0-9._-]+-(server|model|nginx|locust):[\w.-]+")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """What a Deployment or a Job makes."""

    owner: str
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The numbers of the ports that its containers name."""
        served = self.spec["containers"]
        return {port.get("name", ""): port["containerPort"] for one in served for port in one.get("ports", [])}


def name(manifest: Manifest) -> str:
    """As kubectl says it: `Deployment/server`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def image(container: Mapping[str, Any]) -> str | None:
    """Which image of ours it runs: server, model, nginx or locust; None for somebody else's, and without a tag."""
    found = _IMAGE.fullmatch(container.get("image", ""))
    return found[1] if found else None


def home(manifests: Sequence[Manifest]) -> str:
    """The namespace that they bring along."""
    return next((str(one["metadata"]["name"]) for one in manifests if one["kind"] == "Namespace"), "")


def pods(manifests: Sequence[Manifest]) -> Iterator[Pod]:
    """The pod of each manifest that makes some."""
    for one in manifests:
        template = one.get("spec", {}).get("template")
        if template:
            labels = template.get("metadata", {}).get("labels", {})
            yield Pod(one["metadata"]["name"], one["kind"], labels, template["spec"])


def missing() -> str | None:
    """Why nothing can be rendered here; None where it can."""
    if shutil.which("kubectl") is None:
        return "there is no kubectl here"
    found = re.search(r"Kustomize Version: v(\d+)", _kubectl("version", "--client"))
    if found is None or int(found[1]) < _OLDEST:
        return f"the Kustomize of kubectl is older than version {_OLDEST}"
    return None


def render(folder: Path) -> list[Manifest]:
    """All manifests of an overlay.

    Raises:
        CommandError: with kubectl's own words.
    """
    return [one for one in yaml.safe_load_all(_kubectl("kustomize", str(folder))) if one]


def without_nulls(part: Any) -> Any:
    """The same without fields that are null, which the API takes as not there."""
    if isinstance(part, dict):
        return {key: without_nulls(inner) for key, inner in part.items() if inner is not None}
    return [without_nulls(inner) for inner in part if inner is not None] if isinstance(part, list) else part


def _kubectl(*arguments: str) -> str:
    ran = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    if ran.returncode:
        raise CommandError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout
