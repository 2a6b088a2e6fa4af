"""Parsers of Prometheus's text format."""

from __future__ import annotations


def samples(text: str) -> dict[str, float]:
    """Return the value of each series, by its name as Prometheus writes it: ``forkcast_sheds_total{reason="full"}``."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    values = {series: float(value) for series, _, value in lines}
    assert len(values) == len(lines), "a series occurs twice"
    return values


def request_counts(series_values: dict[str, float]) -> dict[tuple[str, int], int]:
    """Return the number of answered requests by route and status, without zero counts."""
    counts = {}
    for series, value in series_values.items():
        name, _, labels = series.partition("{")
        if name == "forkcast_requests_total" and value:
            route, status = (label.split('"')[1] for label in labels.split(","))
            counts[route, int(status)] = int(value)
    return counts
