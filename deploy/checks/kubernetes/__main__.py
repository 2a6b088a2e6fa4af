"""``python -m deploy.checks.kubernetes [FOLDER..]``: render overlays, ours or those named, and say what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.checks.kubernetes import (
    confinement,
    environment,
    hygiene,
    links,
    manifests,
    names,
    policies,
    probes,
    replica_counts,
    schemas,
    spelling,
)
from deploy.checks.kubernetes.manifests import OVERLAYS, Manifest
from deploy.errors import CommandError

# Each stage reads what those before it promise; what one refuses comes alone.
_STAGES = (
    (schemas,),
    (spelling,),
    (names, links, replica_counts, policies, confinement, hygiene, probes, environment),
)


def faults(rendered: Sequence[Manifest]) -> list[str]:
    """All that is wrong."""
    there = [manifests.without_nulls(one) for one in rendered]
    found = ([fault for part in stage for fault in part.faults(there)] for stage in _STAGES)
    return next((refused for refused in found if refused), [])


def main(folders: Sequence[Path]) -> int:
    """0 after one line if every overlay is right; 1 after a line for each fault."""
    if why := manifests.missing():
        required = bool(os.environ.get("REQUIRE_KUBECTL"))
        print(f"deploy/kubernetes was not checked: {why}", file=sys.stderr if required else sys.stdout)
        return int(required)
    overlays = folders or sorted(path for path in OVERLAYS.iterdir() if path.is_dir())
    checked = [_checked(folder) for folder in overlays]
    if None in checked:
        return 1
    told = ", ".join(
        f"{folder.resolve().name} ({count} objects)" for folder, count in zip(overlays, checked, strict=True)
    )
    print(f"deploy/kubernetes: nothing is wrong with {told}")
    return 0


def _checked(folder: Path) -> int | None:
    """How many objects it has; None after a line for each fault."""
    try:
        rendered = manifests.render(folder)
        found = faults(rendered)
    except CommandError as error:
        rendered, found = [], [str(error)]
    for fault in found:
        print(f"{folder.resolve().name}: {fault}", file=sys.stderr)
    return None if found else len(rendered)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
