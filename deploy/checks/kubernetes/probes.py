"""Whether each container that listens has probes that ask for its health, on a port and scheme that it serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.environment import variables
from deploy.checks.kubernetes.manifests import Manifest, our_image, pods, prefixed, shown
from server.http.api_keys import PUBLIC_PATHS

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# The paths that answer anybody with the health of each image: of a replica without a key, of Nginx without a replica.
_HEALTH_PATHS = {
    "server": PUBLIC_PATHS - {"/metrics"},
    "nginx": {"/null", "/stub_status"},
    "locust": {"/"},
    "model": {"/health"},
}
# Nginx's ports. With TLS, 8080 answers 308 with an address that a kubelet cannot reach; without TLS, 8443 is closed.
_HTTP, _HTTPS, _INSIDE = 8080, 8443, 8082


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each probe that is missing or does not tell the container's health."""
    for pod in pods(manifests):
        for container in pod.spec["containers"]:
            tls = our_image(container) == "nginx" and bool(variables(container, manifests).get("TLS_CERT"))
            yield from prefixed(f"{pod.name}: {container['name']}", _container_faults(container, tls))


def _container_faults(container: Mapping[str, Any], tls: bool) -> Iterator[str]:
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for probe in _PROBES if ports else ():
        request = container.get(probe, {}).get("httpGet")
        if not request:
            yield f"{probe}.httpGet must be set, got nothing"
            continue
        number = ports.get(request["port"], request["port"])
        if number not in ports.values():
            yield f"{probe}.httpGet.port must be a port of the container, got {request['port']}"
        else:
            yield from prefixed(f"{probe}.httpGet", _request_faults(request, number, our_image(container), tls))


def _request_faults(request: Mapping[str, Any], port: int, image: str | None, tls: bool) -> Iterator[str]:
    path, scheme = request.get("path", "/"), request.get("scheme", "HTTP")
    if image and path not in _HEALTH_PATHS[image]:
        yield f"path must be {' or '.join(sorted(_HEALTH_PATHS[image]))}, got {path}"
    if image == "nginx" and port == (_HTTP if tls else _HTTPS):
        yield f"port must not be {port} while TLS is {'on' if tls else 'off'}, got {shown(request['port'])}"
    expected = "HTTPS" if tls and port in (_HTTPS, _INSIDE) else "HTTP"
    if scheme != expected:
        yield f"scheme must be {expected} on port {port}, got {scheme}"
