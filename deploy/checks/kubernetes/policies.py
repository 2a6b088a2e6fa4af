"""Whether NetworkPolicies mean pods and ports that are there, shut all that is not named, and open what is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.links import PUBLIC, PUBLIC_PORTS, selected
from deploy.checks.kubernetes.manifests import Manifest, Pod, name, pods


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each end that hangs loose."""
    there = list(pods(manifests))
    policies = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    for one in policies:
        yield from (f"{name(one)}: {fault}" for fault in _policy(one, there))
    if not any(_is_shut(one["spec"]) for one in policies):
        yield "NetworkPolicy: none has podSelector {}, both policyTypes and no rule, so that nothing is shut"
    for pod in there:
        opened = _opened(pod, policies)
        needed = PUBLIC_PORTS if pod.owner == PUBLIC else opened or set(pod.ports.values())
        shut = sorted(needed & set(pod.ports.values()) - opened)
        yield from (f"{pod.kind}/{pod.owner}: no NetworkPolicy lets anybody in to port {port}" for port in shut)


def _is_shut(spec: Mapping[str, Any]) -> bool:
    return spec == {"podSelector": {}, "policyTypes": spec.get("policyTypes")} and set(
        spec.get("policyTypes") or ()
    ) == {"Ingress", "Egress"}


def _opened(pod: Pod, policies: Sequence[Manifest]) -> set[Any]:
    return {
        port.get("port")
        for one in policies
        if selected(one["spec"]["podSelector"], [pod])
        for rule in one["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    }


def _policy(one: Manifest, there: list[Pod]) -> Iterator[str]:
    spec = one["spec"]
    own = selected(spec["podSelector"], there)
    if not own:
        yield "its selector means no pod"
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        if not rule.get("ports") or any("port" not in port or "endPort" in port for port in rule["ports"]):
            yield "a rule names no ports, or a range of them"
    for rule in spec.get("ingress", []):
        yield from _ends(rule.get("from", []), there)
        yield from _ports(rule, own)
        if _is_open(rule) and not _is_public(rule, own):
            yield f"it opens {[port.get('port') for port in rule.get('ports', [])]} to all"
    yield from (f"it has {way} rules, which are no policyType of it" for way in _idle(spec))
    for rule in spec.get("egress", []):
        ends = [end["podSelector"] for end in rule.get("to", []) if set(end) == {"podSelector"}]
        yield from _ends(rule.get("to", []), there)
        if ends:
            yield from _ports(rule, [pod for end in ends for pod in selected(end, there)])


def _idle(spec: Mapping[str, Any]) -> list[str]:
    return [way for way in ("ingress", "egress") if spec.get(way) and way.title() not in spec.get("policyTypes", [])]


def _is_open(rule: Mapping[str, Any]) -> bool:
    """Whether it names nobody, or somebody who is everybody."""
    ends = rule.get("from", [])
    return not ends or any(
        any(not any(value.values()) for value in end.values()) or end.get("ipBlock", {}).get("cidr", "").endswith("/0")
        for end in ends
    )


def _is_public(rule: Mapping[str, Any], own: Sequence[Pod]) -> bool:
    ports = {port.get("port") for port in rule.get("ports", [])}
    return bool(ports) and ports <= PUBLIC_PORTS and [pod.owner for pod in own] == [PUBLIC]


def _ends(ends: Sequence[Mapping[str, Any]], there: list[Pod]) -> Iterator[str]:
    for end in ends:
        if set(end) == {"podSelector"} and not selected(end["podSelector"], there):
            yield f"{end['podSelector']} means no pod"


def _ports(rule: Mapping[str, Any], found: Sequence[Pod]) -> Iterator[str]:
    known = {port for pod in found for port in pod.ports.values()}
    # By number: not every network knows the names of ports.
    asked = [port.get("port") for port in rule.get("ports", [])]
    yield from (f"port {port} is none of its pods'" for port in asked if port not in known)
