"""Whether NetworkPolicies mean pods that are there, and ports that they listen on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.kubernetes.links import selected
from deploy.kubernetes.manifests import Manifest, Pod, name, pods


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each end that hangs loose."""
    there = list(pods(manifests))
    for one in manifests:
        if one["kind"] == "NetworkPolicy":
            yield from (f"{name(one)}: {fault}" for fault in _policy(one, there))


def _policy(one: Manifest, there: list[Pod]) -> Iterator[str]:
    spec = one["spec"]
    own = selected(spec["podSelector"], there)
    if not own:
        yield "its selector means no pod"
    for rule in spec.get("ingress", []):
        yield from _ends(rule.get("from", []), there)
        yield from _ports(rule, own)
    for rule in spec.get("egress", []):
        ends = [end["podSelector"] for end in rule.get("to", []) if set(end) == {"podSelector"}]
        yield from _ends(rule.get("to", []), there)
        if ends:
            yield from _ports(rule, [pod for end in ends for pod in selected(end, there)])


def _ends(ends: Sequence[Mapping[str, Any]], there: list[Pod]) -> Iterator[str]:
    for end in ends:
        if set(end) == {"podSelector"} and not selected(end["podSelector"], there):
            yield f"{end['podSelector']} means no pod"


def _ports(rule: Mapping[str, Any], found: Sequence[Pod]) -> Iterator[str]:
    known = {port for pod in found for port in pod.ports.values()}
    # By number: not every network knows the names of ports.
    yield from (f"port {port['port']} is none of its pods'" for port in rule["ports"] if port["port"] not in known)
