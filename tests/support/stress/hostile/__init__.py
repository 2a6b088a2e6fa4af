"""Hostile clients, and clients that behave like hostile ones.

Each attack is a function of the address, the number of clients and the duration (seconds). It returns the outcomes of
the clients; see :mod:`tests.support.stress.hostile.wire`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from tests.support.stress.hostile import bombs, orders, slow
from tests.support.stress.hostile.wire import Outcomes

Attack = Callable[[str, int, float], Awaitable[Outcomes]]

_ATTACKS: tuple[Attack, ...] = (
    slow.slow_header,
    slow.slow_body,
    slow.fat_slow_body,
    slow.slow_reader,
    slow.silent,
    bombs.header_bombs,
    bombs.body_bombs,
    bombs.endless_chunks,
    bombs.endless_extension,
    bombs.endless_trailers,
    orders.pipelined,
    orders.never_read,
    orders.half_closed,
    orders.resets,
    orders.malformed,
)
ATTACKS: Mapping[str, Attack] = {attack.__name__.replace("_", " "): attack for attack in _ATTACKS}


def run(name: str, address: str, count: int, seconds: float) -> Outcomes:
    """Run an attack in this process and return the outcomes."""

    async def attack() -> Outcomes:
        return await ATTACKS[name](address, count, seconds)

    return asyncio.run(attack())
