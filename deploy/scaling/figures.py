"""Figures as people read them."""

from __future__ import annotations

from deploy.scaling.topology import Topology, size


def users(count: float) -> str:
    """As ``10,000 users``."""
    return "1 user" if count == 1 else f"{count:,.0f} users"


def number(value: float | None) -> str:
    """Three digits that count, thousands apart; nothing of None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """As ``12.5 %``; nothing of None."""
    return "" if value is None else f"{number(value)} %"


def cpus(value: float) -> str:
    """As ``1 CPU`` or ``0.25 CPUs``."""
    return "1 CPU" if value == 1 else f"{number(round(value, 3))} CPUs"


def memory(value: float | None) -> str:
    """As ``256M``."""
    return "no memory limit" if value is None else size(int(value))


def resources(topology: Topology) -> str:
    """What all replicas together may use, as ``2 CPUs and 2G``."""
    return f"{cpus(topology.total_cpus)} and {memory(topology.total_memory)}"


def span(low: float, high: float) -> str:
    """As ``3 to 5``, or ``3`` where both read the same."""
    return number(low) if number(low) == number(high) else f"{number(low)} to {number(high)}"


def every(count: int) -> str:
    """As ``All 3``."""
    return "Both" if count == 2 else f"All {count}"


def listing(words: list[str], last: str = " and ") -> str:
    """As ``a, b and c``."""
    return last.join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
