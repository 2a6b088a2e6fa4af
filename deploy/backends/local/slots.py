"""The slots of local replicas: numbered from 1, each with a program name and a socket."""

from __future__ import annotations

from deploy.options import MAX_REPLICAS

SLOTS = MAX_REPLICAS["local"]


def replica_name(slot: int) -> str:
    """Return the name of the program in a slot; ``X-Served-By`` begins with it."""
    return f"replica-{slot}"


def replica_socket(slot: int) -> str:
    """Return the path of the socket of the replica in a slot, relative to ``var``."""
    return f"run/{slot}.sock"


def slot_of(name: str) -> int:
    """Return the slot of a replica's program, or 0 for another program."""
    prefix, _, number = name.partition("-")
    return int(number) if prefix == "replica" else 0
