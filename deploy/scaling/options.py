"""What the user asked for: variables of the command line, or of ``.env``."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.errors import CommandError
from deploy.scaling.generator import CLIENTS, Load
from deploy.scaling.ladder import number
from deploy.scaling.placement import Placement
from deploy.scaling.slo import Slo
from deploy.scaling.topology import PRESETS, Topology, pairs
from deploy.stack.paths import parse_path

# All that changes what is measured: kept with the results, so that an interrupted command goes on as it began.
VARIABLES = (
    "USERS", "STEP_USERS", "SPAWN_RATE", "STEP_SECONDS", "SETTLE_SECONDS", "PROFILE", "RUN_TIME", "SLO_P95_MS",
    "SLO_FAILURES", "SLO_CPU", "SLO_MEMORY", "TOPOLOGIES", "CPUS", "MEMORY", "WORKERS", "CLIENT", "DATA", "LOCUST_CPUS",
    "LOCUST_MEMORY", "LOCUST_PROCESSES",
)  # fmt: skip
_COUNTS = (1, 2, 4)
_MEMORY = "1G"


def given(environ: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that are set."""
    return {name: environ[name] for name in VARIABLES if environ.get(name)}


def check(environ: Mapping[str, str]) -> None:
    """Refuse what is wrong whatever the service is, before anything is started.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    Slo.from_env(environ)
    load(environ, Placement())
    _numbers(environ, "LOCUST_CPUS", (1.0,))
    _memory(environ, "LOCUST_MEMORY", _MEMORY)
    topologies(environ, 1, limits=True)


def load(environ: Mapping[str, str], placement: Placement) -> Load:
    """Read CLIENT, DATA and LOCUST_PROCESSES; a process for each CPU of the generator's, if not told otherwise.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    client = environ.get("CLIENT") or CLIENTS[0]
    if client not in CLIENTS:
        raise CommandError(f"CLIENT={client!r}: expected one of {', '.join(CLIENTS)}")
    data = parse_path("DATA", environ["DATA"]) if environ.get("DATA") else None
    if data and not data.is_file():
        raise CommandError(f"DATA={environ['DATA']!r}: there is no such file")
    processes = number(environ, "LOCUST_PROCESSES", placement.generator_cpus or 1, 64)
    return Load(client=client, data=data, processes=processes)


def topologies(environ: Mapping[str, str], cpus: int, *, limits: bool) -> list[Topology]:
    """Read TOPOLOGIES, a list or the name of one; else pairs of equal totals, of CPUS, MEMORY and WORKERS.

    ``cpus`` is how many CPUs the machine has, of which one is left to the generator; ``limits`` whether replicas can be
    held to parts of a CPU, and to memory.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    if text := (environ.get("TOPOLOGIES") or "").strip():
        return [Topology.parse(word) for word in PRESETS.get(text, text).split()]
    memory = _memory(environ, "MEMORY", _MEMORY)
    totals = _numbers(environ, "CPUS", (float(max(1, cpus - 1)),))
    counts = tuple(int(count) for count in _numbers(environ, "WORKERS", _COUNTS))
    found = [one for total in totals for one in pairs(total, memory if limits else None, counts)]
    return list(dict.fromkeys(found))


def _memory(environ: Mapping[str, str], name: str, default: str) -> int:
    value = environ.get(name) or default
    try:
        if ":" in value:
            raise CommandError
        return Topology.parse(f"1x1/{value}").memory or 0
    except CommandError:
        raise CommandError(f"{name}={value!r}: expected a size, as 512M or 1.5G") from None


def _numbers(environ: Mapping[str, str], name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Numbers above 0 with spaces between them; WORKERS are whole."""
    words = (environ.get(name) or "").split()
    try:
        numbers = tuple(float(word) for word in words) or default
    except ValueError:
        numbers = (0.0,)
    if not all(0 < one <= 64 and (name != "WORKERS" or one == int(one)) for one in numbers):
        kind = "whole numbers, as 1 2 4" if name == "WORKERS" else "numbers of CPUs, as 0.5 1 2"
        raise CommandError(f"{name}={environ.get(name)!r}: expected {kind}")
    return numbers
