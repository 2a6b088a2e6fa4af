"""The variables of containers as a kubelet sets them, and whether the programs that read them accept their values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from deploy.checks.kubernetes import references
from deploy.checks.kubernetes.manifests import Manifest, Pod, namespace, our_image, pods, prefixed
from deploy.errors import CommandError
from deploy.options import VARIABLES
from server.errors import SettingsError
from server.settings import Settings

_REFERENCE = re.compile(r"\$\(([\w.-]+)\)")
_SECRET = re.compile(r"(?:.*_)?(?:API_KEY|ACCESS_KEY|TOKEN|PASSWORD|SECRET)")
_NGINX_LIMITS = [variable for variable in VARIABLES if variable.name in ("CLIENT_REQUESTS", "CLIENT_CONNECTIONS")]
# The annotation of a public overlay; an overlay with a Service that is open to the internet is public without it.
PUBLIC_ANNOTATION = "forkcast/secured"
_REQUIRED_IF_PUBLIC = {"server": ("API_KEYS_FILE",), "nginx": ("TLS_CERT", "TLS_KEY")}
_SECRET_FILES = ("API_KEYS_FILE", "TLS_CERT", "TLS_KEY")


def variables(container: Mapping[str, Any], manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return the variables of a container, without those from Secrets."""
    config_maps = {item["metadata"]["name"]: item.get("data", {}) for item in manifests if item["kind"] == "ConfigMap"}
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        data = config_maps.get(source.get("configMapRef", {}).get("name"), {})
        values |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        key = source.get("configMapKeyRef", {})
        value = entry.get("value") or config_maps.get(key.get("name"), {}).get(key.get("key"), "")
        if source.get("fieldRef", {}).get("fieldPath") == "metadata.namespace":
            value = namespace(manifests)
        values[entry["name"]] = _REFERENCE.sub(lambda reference: values.get(reference[1], reference[0]), value)
    return values


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each variable with a value that its reader refuses, in plain text, or missing."""
    public = _is_public(manifests)
    for pod in pods(manifests):
        for container in pod.containers:
            values, image = variables(container, manifests), our_image(container) or ""
            lines = [*_plain_secrets(values), *_file_faults(pod, container, values), *_value_faults(image, values)]
            # An empty variable counts as unset.
            required = _REQUIRED_IF_PUBLIC.get(image, ()) if public else ()
            lines += [f"{key} must be set in a public overlay, got nothing" for key in required if not values.get(key)]
            yield from prefixed(f"{pod.name}: {container['name']}", lines)


def _is_public(manifests: Sequence[Manifest]) -> bool:
    return any(
        manifest["metadata"].get("annotations", {}).get(PUBLIC_ANNOTATION) == "required"
        or (manifest["kind"] == "Service" and manifest["spec"].get("type", "ClusterIP") != "ClusterIP")
        for manifest in manifests
    )


def _plain_secrets(values: Mapping[str, str]) -> Iterator[str]:
    secret = (key for key, value in values.items() if value and _SECRET.fullmatch(key))
    yield from (f"{key} must come from a Secret, got plain text" for key in secret)


def _file_faults(pod: Pod, container: Mapping[str, Any], values: Mapping[str, str]) -> Iterator[str]:
    """Variables with paths of secret files must lead to a file of a mounted Secret."""
    volumes = {volume["name"]: volume.get("secret") for volume in pod.spec.get("volumes", [])}
    mounts = {mount["mountPath"].rstrip("/"): volumes.get(mount["name"]) for mount in container.get("volumeMounts", [])}
    for key in _SECRET_FILES:
        path = PurePosixPath(values.get(key) or "/")
        if path.name and path.name not in references.files(mounts.get(str(path.parent)) or {}):
            yield f"{key} must be a file of a mounted Secret, got {path}"


def _value_faults(image: str, values: Mapping[str, str]) -> Iterator[str]:
    if image == "server":
        try:
            # The default of WEB_CONCURRENCY depends on this machine's CPUs.
            Settings.from_env({"WEB_CONCURRENCY": "1", **values})
        except SettingsError as error:
            yield str(error)
    if image == "nginx":
        for variable in _NGINX_LIMITS:
            try:
                variable.read(values)
            except CommandError as error:
                yield str(error)
        pair = [key for key in ("TLS_CERT", "TLS_KEY") if values.get(key)]
        if len(pair) == 1:
            yield f"TLS_CERT and TLS_KEY must be set together, got {pair[0]}"
