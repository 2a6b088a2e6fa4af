"""What containers are told: their variables as a kubelet puts them together, and whether their readers take them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from deploy.checks.kubernetes import names
from deploy.checks.kubernetes.manifests import Manifest, Pod, home, image, pods
from deploy.errors import CommandError
from deploy.variable_types import Whole, parse
from server.errors import SettingsError
from server.settings import Settings

_REFERENCE = re.compile(r"\$\(([\w.-]+)\)")
_SECRET = re.compile(r"(?:.*_)?(?:API_KEY|ACCESS_KEY|TOKEN|PASSWORD|SECRET)")
_LIMITS = {"CLIENT_REQUESTS": 1_000_000, "CLIENT_CONNECTIONS": 65535}
# What says that an overlay is for the world, beside a Service that is open to it.
SECURED = "forkcast/secured"
_LOCKS = {"server": ("API_KEYS_FILE",), "nginx": ("TLS_CERT", "TLS_KEY")}
_FILES = ("API_KEYS_FILE", "TLS_CERT", "TLS_KEY")


def told(container: Mapping[str, Any], manifests: Sequence[Manifest]) -> dict[str, str]:
    """Its variables, without those that come from Secrets."""
    maps = {one["metadata"]["name"]: one.get("data", {}) for one in manifests if one["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        data = maps.get(source.get("configMapRef", {}).get("name"), {})
        found |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for one in container.get("env", []):
        origin = one.get("valueFrom", {})
        key = origin.get("configMapKeyRef", {})
        value = one.get("value") or maps.get(key.get("name"), {}).get(key.get("key"), "")
        if origin.get("fieldRef", {}).get("fieldPath") == "metadata.namespace":
            value = home(manifests)
        found[one["name"]] = _REFERENCE.sub(lambda reference: found.get(reference[1], reference[0]), value)
    return found


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each variable that its reader would not take, or that is nobody's to read here."""
    world = _is_for_the_world(manifests)
    for pod in pods(manifests):
        for one in pod.containers:
            variables = told(one, manifests)
            found = [*_open(variables), *_files(pod, one, variables), *_read(one, variables)]
            # An empty one counts as none.
            locks = _LOCKS.get(image(one) or "", ()) if world else ()
            found += [
                f"{lock} is not set, and the overlay is for the world" for lock in locks if not variables.get(lock)
            ]
            yield from (f"{pod.kind}/{pod.owner}: {one['name']}: {fault}" for fault in found)


def _is_for_the_world(manifests: Sequence[Manifest]) -> bool:
    return any(
        one["metadata"].get("annotations", {}).get(SECURED) == "required"
        or (one["kind"] == "Service" and one["spec"].get("type", "ClusterIP") != "ClusterIP")
        for one in manifests
    )


def _open(variables: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{key} is told in the open" for key, value in variables.items() if value and _SECRET.fullmatch(key))


def _files(pod: Pod, one: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[str]:
    """Paths of what is secret lead to a file of a Secret that is mounted."""
    volumes = {volume["name"]: volume.get("secret") for volume in pod.spec.get("volumes", [])}
    mounts = {mount["mountPath"].rstrip("/"): volumes.get(mount["name"]) for mount in one.get("volumeMounts", [])}
    for key in _FILES:
        path = PurePosixPath(variables.get(key) or "/")
        if path.name and path.name not in names.files(mounts.get(str(path.parent)) or {}):
            yield f"{key}={path} is no file of a Secret that is mounted"


def _read(one: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[str]:
    try:
        if image(one) == "server":
            # Elsewhere than here it counts the CPUs that it has.
            Settings.from_env({"WEB_CONCURRENCY": "1", **variables})
        if image(one) == "nginx":
            for key, most in _LIMITS.items():
                if text := variables.get(key):
                    parse(key, text, Whole(1, most))
    except (SettingsError, CommandError) as error:
        yield str(error)
    if image(one) == "nginx" and bool(variables.get("TLS_CERT")) != bool(variables.get("TLS_KEY")):
        yield "TLS_CERT and TLS_KEY go together"
