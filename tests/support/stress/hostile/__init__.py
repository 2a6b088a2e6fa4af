"""Clients that mean harm, or behave as if they did.

Each attack is a function of the place, how many clients, and how long (seconds); it returns what they got.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from tests.support.stress.hostile import bombs, orders, slow
from tests.support.stress.hostile.wire import Got

Attack = Callable[[str, int, float], Awaitable[Got]]

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


def run(name: str, place: str, count: int, seconds: float) -> Got:
    """One attack, in this process."""

    async def attack() -> Got:
        return await ATTACKS[name](place, count, seconds)

    return asyncio.run(attack())
