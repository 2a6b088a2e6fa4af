"""The Nginx of a measurement has one replica."""

from __future__ import annotations

from deploy.bench.rig import only_first_slot
from deploy.stack.paths import ROOT


def test_upstream_of_one_slot() -> None:
    """The local backend's upstream keeps its first slot, as it is, and all that is no slot."""
    whole = (ROOT / "nginx/upstream-local.conf").read_text()
    one = only_first_slot(whole)
    servers = [line.strip() for line in one.splitlines() if line.strip().startswith("server ")]
    assert servers == [
        "server unix:run/1.sock weight=100 max_fails=1 fail_timeout=1s;",
        "server unix:run/1.sock backup max_fails=0;",
    ]
    gone = set(whole.splitlines()) - set(one.splitlines())
    assert all(line.strip().startswith("server unix:run/") for line in gone)
    assert "keepalive 8192;" in one
