"""``python -m deploy.checks.kubernetes [FOLDER..]``: render overlays, by default all, and list their faults.

What Pod Security admission refuses in a cluster is not checked again: every overlay must define a Namespace that
enforces the Pod Security level `restricted` (`references.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.checks.kubernetes import (
    environment,
    manifests,
    network_policies,
    pods,
    probes,
    references,
    replica_counts,
    schemas,
    services,
)
from deploy.checks.kubernetes.manifests import OVERLAYS, Manifest
from deploy.errors import CommandError

# A stage may rely on what the stages before it have checked; after a stage with faults the later ones do not run.
_STAGES = (
    (schemas.schema_faults,),
    (schemas.value_faults,),
    (
        references.faults,
        services.faults,
        replica_counts.faults,
        network_policies.faults,
        pods.faults,
        probes.faults,
        environment.faults,
    ),
)


def faults(rendered: Sequence[Manifest]) -> list[str]:
    """Return the faults of an overlay's manifests, each a line that names the object and the field."""
    objects = [manifests.without_nulls(manifest) for manifest in rendered]
    stages = ([fault for check in stage for fault in check(objects)] for stage in _STAGES)
    return next((stage_faults for stage_faults in stages if stage_faults), [])


def main(folders: Sequence[Path]) -> int:
    """Return 0 after one line if every overlay is correct, or 1 after a line for each fault."""
    if reason := manifests.missing():
        required = bool(os.environ.get("REQUIRE_KUBECTL"))
        print(f"not checked: deploy/kubernetes, because {reason}", file=sys.stderr if required else sys.stdout)
        return int(required)
    overlays = folders or sorted(path for path in OVERLAYS.iterdir() if path.is_dir())
    counts = [_count_objects(folder) for folder in overlays]
    if None in counts:
        return 1
    checked = ", ".join(
        f"{folder.resolve().name} ({count} objects)" for folder, count in zip(overlays, counts, strict=True)
    )
    print(f"deploy/kubernetes: no faults in {checked}")
    return 0


def _count_objects(folder: Path) -> int | None:
    """Return the number of an overlay's objects, or None after printing its faults."""
    try:
        rendered = manifests.render(folder)
        lines = faults(rendered)
    except CommandError as error:
        rendered, lines = [], [str(error)]
    for line in lines:
        print(f"{folder.resolve().name}: {line}", file=sys.stderr)
    return None if lines else len(rendered)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
