"""What a scrape says, for tests to look up."""

from __future__ import annotations


def samples(text: str) -> dict[str, float]:
    """Values by series, written as Prometheus does: ``forkcast_sheds_total{reason="full"}``."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    found = {series: float(value) for series, _, value in lines}
    assert len(found) == len(lines), "a series is there twice"
    return found


def requests(found: dict[str, float]) -> dict[tuple[str, int], int]:
    """The requests answered, by route and status, without those of which there was none."""
    counted = {}
    for series, value in found.items():
        name, _, labels = series.partition("{")
        if name == "forkcast_requests_total" and value:
            route, status = (label.split('"')[1] for label in labels.split(","))
            counted[route, int(status)] = int(value)
    return counted
