"""The stages of deploy/images/Dockerfile, and the variables that each sets."""

from __future__ import annotations

import re
import shlex

from deploy.stack.paths import ROOT

DOCKERFILE = (ROOT / "deploy/images/Dockerfile").read_text()


def stage(name: str) -> str:
    """Return the text of a stage."""
    return next(part for part in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE) if f" AS {name}\n" in part)


def stage_variables(name: str) -> dict[str, str]:
    """Return the environment variables that a stage sets."""
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage(name), re.MULTILINE)
    pairs = (pair.split("=", 1) for pair in shlex.split(block.replace("\\\n", " ")))
    return {name: value.strip('"') for name, value in pairs}
