"""``python -m deploy.kubernetes [FOLDER..]``: render each overlay, and say what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.errors import CommandError
from deploy.kubernetes import hygiene, links, manifests, names, policies, schemas
from deploy.kubernetes.manifests import OVERLAYS, Manifest


def faults(rendered: Sequence[Manifest]) -> list[str]:
    """All that is wrong; what the schemas refuse comes alone, since the rest reads what they promise."""
    refused = list(schemas.faults(rendered))
    return refused or [fault for part in (names, links, policies, hygiene) for fault in part.faults(rendered)]


def main(folders: Sequence[Path]) -> int:
    """0 if every overlay is right; 1 after a line for each fault."""
    if why := manifests.missing():
        required = bool(os.environ.get("REQUIRE_KUBECTL"))
        print(f"deploy/kubernetes was not checked: {why}", file=sys.stderr if required else sys.stdout)
        return int(required)
    wrong = False
    for folder in folders or sorted(path for path in OVERLAYS.iterdir() if path.is_dir()):
        try:
            found = faults(manifests.render(folder))
        except CommandError as error:
            found = [str(error)]
        for fault in found:
            print(f"{folder.name}: {fault}", file=sys.stderr)
        wrong = wrong or bool(found)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
