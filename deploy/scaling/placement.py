"""Which CPUs the service has, and which the generator of its load, so that neither takes from the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from server.system.platform import can_pin, pinned_to

# What thirds of a CPU may be more than a whole one, three times.
_ROUNDED = 0.01
# More processes of Locust's than this send more than one Nginx answers.
_MOST_GENERATOR = 8


@dataclass(frozen=True, slots=True)
class Placement:
    """Lists of CPUs as `taskset` and Docker take them; empty where the machine has too few, and all share them."""

    service: str = ""
    generator: str = ""
    generator_cpus: int = 1

    @classmethod
    def of(cls, cpus: Sequence[int], service_cpus: float) -> Placement:
        """For replicas that may use so many of these CPUs in all; Nginx has one more where there is one to spare."""
        needed = max(1, math.ceil(service_cpus - _ROUNDED))
        spare = len(cpus) - needed
        if spare < 1:
            return cls()
        service = needed + (1 if spare > 1 else 0)
        generator = cpus[service : service + _MOST_GENERATOR]
        return cls(_list(cpus[:service]), _list(generator), len(generator))

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Keep this thread, and the threads and programs that it starts meanwhile, to the generator's CPUs.

        What follows Nginx's log reads thousands of lines a second, which the service is not to pay for.
        """
        with pinned_to(map(int, filter(None, self.generator.split(",")))):
            yield

    @property
    def words(self) -> str:
        """For people."""
        if not self.service:
            return "the generator and the service share all CPUs: there are too few to keep them apart"
        words = f"replicas and Nginx on CPU {self.service}, the generator on CPU {self.generator}"
        return words if can_pin() else f"{words}; to keep the lab itself to CPUs takes Linux"


def _list(cpus: Sequence[int]) -> str:
    return ",".join(str(cpu) for cpu in cpus)
