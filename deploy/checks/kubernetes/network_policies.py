"""Whether NetworkPolicies deny by default, name pods and ports that exist, and open every port that is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.kubernetes.manifests import Manifest, Pod, name, pods, prefixed, selected, shown
from deploy.checks.kubernetes.services import PUBLIC, PUBLIC_PORTS


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield a line for each policy that matches nothing or opens too much, and each port that no policy opens."""
    all_pods = list(pods(manifests))
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    for policy in policies:
        yield from prefixed(name(policy), _policy_faults(policy["spec"], all_pods))
    if not any(_denies_all(policy["spec"]) for policy in policies):
        yield "NetworkPolicy: one must have podSelector {}, both policyTypes and no rules, to deny by default, got none"
    for pod in all_pods:
        opened = _opened_ports(pod, policies)
        needed = PUBLIC_PORTS if pod.owner == PUBLIC else opened or set(pod.ports.values())
        closed = sorted(needed & set(pod.ports.values()) - opened)
        yield from (f"{pod.name}: port {port} must be opened by a NetworkPolicy, got none" for port in closed)


def _denies_all(spec: Mapping[str, Any]) -> bool:
    types = spec.get("policyTypes") or []
    return spec == {"podSelector": {}, "policyTypes": types} and set(types) == {"Ingress", "Egress"}


def _opened_ports(pod: Pod, policies: Sequence[Manifest]) -> set[Any]:
    return {
        port.get("port")
        for policy in policies
        if selected(policy["spec"]["podSelector"], [pod])
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    }


def _policy_faults(spec: Mapping[str, Any], all_pods: list[Pod]) -> Iterator[str]:
    own = selected(spec["podSelector"], all_pods)
    if not own:
        yield f"podSelector must match a pod, got {shown(spec['podSelector'])}"
    yield from _direction_faults(spec, "ingress")
    yield from _direction_faults(spec, "egress")
    for rule in spec.get("ingress", []):
        yield from _peer_faults(rule.get("from", []), all_pods)
        yield from _port_faults(rule, own)
        if _admits_all(rule) and not _is_public(rule, own):
            yield f"only the public ports of {PUBLIC} must be open to all, got {shown(_ports(rule))}"
    for rule in spec.get("egress", []):
        yield from _peer_faults(rule.get("to", []), all_pods)
        if peers := [peer["podSelector"] for peer in rule.get("to", []) if set(peer) == {"podSelector"}]:
            yield from _port_faults(rule, [pod for peer in peers for pod in selected(peer, all_pods)])


def _direction_faults(spec: Mapping[str, Any], direction: str) -> Iterator[str]:
    rules = spec.get(direction, [])
    if rules and direction.title() not in spec.get("policyTypes", []):
        yield f"policyTypes must include {direction.title()}, got {shown(spec.get('policyTypes'))}"
    for rule in rules:
        if not rule.get("ports") or any("port" not in port or "endPort" in port for port in rule["ports"]):
            yield f"ports of each rule must be single numbers, got {shown(rule.get('ports'))}"


def _ports(rule: Mapping[str, Any]) -> list[Any]:
    return [port.get("port") for port in rule.get("ports", [])]


def _admits_all(rule: Mapping[str, Any]) -> bool:
    """Whether an ingress rule names no peer, or a peer that is everybody."""
    peers = rule.get("from", [])
    return not peers or any(
        not peer
        or any(not any(value.values()) for value in peer.values())
        or peer.get("ipBlock", {}).get("cidr", "").endswith("/0")
        for peer in peers
    )


def _is_public(rule: Mapping[str, Any], own: Sequence[Pod]) -> bool:
    ports = set(_ports(rule))
    return bool(ports) and ports <= PUBLIC_PORTS and [pod.owner for pod in own] == [PUBLIC]


def _peer_faults(peers: Sequence[Mapping[str, Any]], all_pods: list[Pod]) -> Iterator[str]:
    for peer in peers:
        if set(peer) == {"podSelector"} and not selected(peer["podSelector"], all_pods):
            yield f"podSelector of a peer must match a pod, got {shown(peer['podSelector'])}"


def _port_faults(rule: Mapping[str, Any], targets: Sequence[Pod]) -> Iterator[str]:
    # Ports are written as numbers: not every network plugin resolves the names of ports.
    known = {port for pod in targets for port in pod.ports.values()}
    yield from (f"ports must be ports of its pods, got {port}" for port in _ports(rule) if port not in known)
