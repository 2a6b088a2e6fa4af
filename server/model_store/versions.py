"""The versions of the packages that a model was logged with, compared with those of this server."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

# The packages whose other versions are known to break a saved model, the most likely first.
_PACKAGES = ("scikit-learn", "numpy", "pandas", "scipy", "cloudpickle", "skops")
_PIN = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;,#]+)")


def version_hint(folder: Path, flavors: Mapping[str, Mapping[str, Any]], engine: str) -> str | None:
    """Describe the versions that differ between the model in ``folder`` and this server, and how to fix it; or None.

    ``engine`` is the name of the engine that loads the model. Patch releases of a package count as equal.
    """
    if engine not in ("sklearn", "pyfunc"):  # Compiled engines use none of these packages.
        return None
    logged = _logged_versions(folder, flavors)
    compared = (*_PACKAGES, "mlflow") if engine == "pyfunc" else _PACKAGES
    pairs = [(name, logged[name], _installed_version(name)) for name in (*compared, "Python") if name in logged]
    different = [(name, old, new) for name, old, new in pairs if new is not None and _minor(old) != _minor(new)]
    if not different:
        return None
    old_versions = _join([f"{name} {old}" for name, old, _ in different])
    new_versions = _join([f"{name} {new}" if len(different) > 1 else str(new) for name, _, new in different])
    plural = "s" if len(different) > 1 else ""
    return (
        f"it was logged with {old_versions}, and this server has {new_versions}: log it again with this server's "
        f"version{plural}, or install the model's version{plural} where the server runs"
    )


def _logged_versions(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the versions that the model's files state: pins of ``requirements.txt``, and those in the flavors."""
    try:
        lines = (folder / "requirements.txt").read_text().splitlines()
    except (OSError, ValueError):  # The file is optional.
        lines = []
    pins = [match for line in lines if (match := _PIN.match(line.strip()))]
    versions = {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in pins}
    for name, flavor, key in (
        ("scikit-learn", "sklearn", "sklearn_version"),
        ("Python", "python_function", "python_version"),
    ):
        if version := flavors.get(flavor, {}).get(key):
            versions[name] = str(version)
    return versions


def _installed_version(name: str) -> str | None:
    if name == "Python":
        return platform.python_version()
    for distribution in (name, f"{name}-skinny") if name == "mlflow" else (name,):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _join(texts: list[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last
