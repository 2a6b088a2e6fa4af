"""Whether a container that listens is asked how it is: by the right path, on a port of it, as that port speaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.environment import told
from deploy.checks.kubernetes.manifests import Manifest, image, pods
from server.http.api_keys import OPEN

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Where each image answers that it is well, to anybody: replicas without a key, Nginx without asking a replica.
_WELL = {
    "server": OPEN - {"/metrics"},
    "nginx": {"/null", "/stub_status"},
    "locust": {"/"},
    "model": {"/health"},
}
# Nginx's: with TLS 8080 answers with a 308 to where a kubelet finds nobody, without it nobody listens on 8443.
_PLAIN, _TLS, _INSIDE = 8080, 8443, 8082


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each probe that is not there, or does not tell."""
    for pod in pods(manifests):
        for one in pod.spec["containers"]:
            tls = image(one) == "nginx" and bool(told(one, manifests).get("TLS_CERT"))
            yield from (f"{pod.kind}/{pod.owner}: {one['name']}: {fault}" for fault in _probes(one, tls))


def _probes(one: Mapping[str, Any], tls: bool) -> Iterator[str]:
    ports = {port.get("name"): port["containerPort"] for port in one.get("ports", [])}
    for probe in _PROBES if ports else ():
        asked = one.get(probe, {}).get("httpGet", {})
        number = ports.get(asked.get("port"), asked.get("port"))
        if not asked:
            yield f"it listens, and has no {probe} by HTTP"
        elif number not in ports.values():
            yield f"{probe} asks {asked['port']}, which is no port of it"
        else:
            yield from (f"{probe} {fault}" for fault in _asked(asked, number, image(one), tls))


def _asked(asked: Mapping[str, Any], number: int, ours: str | None, tls: bool) -> Iterator[str]:
    path = asked.get("path", "/")
    if ours and path not in _WELL[ours]:
        yield f"asks for {path}, which does not tell whether it is well"
    if ours == "nginx" and number == (_PLAIN if tls else _TLS):
        yield f"asks port {number}, and TLS is {'on' if tls else 'off'}"
    scheme = "HTTPS" if tls and number in (_TLS, _INSIDE) else "HTTP"
    if asked.get("scheme", "HTTP") != scheme:
        yield f"does not speak {scheme} to port {number}"
