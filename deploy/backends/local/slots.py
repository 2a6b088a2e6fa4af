"""The places that replicas of the local backend take: numbered from 1, each with a name and a socket."""

from __future__ import annotations

from deploy.options import MAX_REPLICAS

SLOTS = MAX_REPLICAS["local"]


def replica_name(slot: int) -> str:
    """The program in a slot; also the replica's part of ``X-Served-By``."""
    return f"replica-{slot}"


def replica_socket(slot: int) -> str:
    """Where the replica in a slot listens, relative to ``var``."""
    return f"run/{slot}.sock"


def slot_of(name: str) -> int:
    """The slot of a replica's program; 0 for any other."""
    kind, _, number = name.partition("-")
    return int(number) if kind == "replica" else 0
