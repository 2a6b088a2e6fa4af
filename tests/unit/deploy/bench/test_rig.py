"""Tests of the Nginx configuration for a measurement, which has only one replica."""

from __future__ import annotations

from deploy.bench.rig import only_first_slot
from deploy.stack.paths import ROOT


def test_only_first_slot_stays_in_the_upstream() -> None:
    """The upstream of the local backend keeps its first slot and every line that is not a slot."""
    original = (ROOT / "nginx/upstream-local.conf").read_text()
    reduced = only_first_slot(original)
    servers = [line.strip() for line in reduced.splitlines() if line.strip().startswith("server ")]
    assert servers == [
        "server unix:run/1.sock weight=100 max_fails=1 fail_timeout=1s;",
        "server unix:run/1.sock backup max_fails=0;",
    ]
    removed = set(original.splitlines()) - set(reduced.splitlines())
    assert all(line.strip().startswith("server unix:run/") for line in removed)
    assert "keepalive 8192;" in reduced
