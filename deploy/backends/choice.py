"""The backend of a command: that of the stack that is up, else containers where they can be had, else local."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

from deploy.backends.base import Backend
from deploy.backends.docker import images
from deploy.backends.docker.backend import DockerBackend
from deploy.backends.docker.engine import engine_missing, engine_version
from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from server.system.platform import is_linux


def choose(layout: Layout, options: Options, *, starting: bool, full: bool = False) -> Backend:
    """The backend of the stack that is up, else the one that BACKEND names or, if ``auto``, that can be had.

    ``starting`` is whether the command may start something: then the choice is told, with its reason. ``full`` is
    whether that has a registry of its own.

    Raises:
        CommandError: BACKEND names another than that of the stack that is up, or one that cannot be had.
    """
    wanted = options.backend
    record = Record.load(layout)
    if record is not None:
        up = record.wanted
        if wanted not in ("auto", up.backend):
            raise CommandError(f"BACKEND={wanted}: the stack that is up runs on {up.backend}; make down first")
        return _backend(up.backend, layout, options)
    if wanted == "local":
        return _backend(wanted, layout, options)
    why_not = engine_missing()
    if not starting:
        # Where the packages of the local backend are missing, no local stack runs.
        runs_in_containers = not why_not and (not _has_packages() or DockerBackend(layout, options).is_there)
        takes_containers = runs_in_containers or wanted == "docker" or not is_linux()
        return _backend("docker" if takes_containers else "local", layout, options)
    why_not = why_not or (None if options.image else images.missing(images.needed(options, full=full)))
    if why_not and wanted == "docker":
        raise CommandError(f"BACKEND=docker: {why_not}")
    if why_not and not is_linux():
        raise CommandError(f"{why_not}; without Docker a stack needs Linux")
    print(
        f"backend: {f'local, since {why_not}' if why_not else f'docker, since engine {engine_version()} answers'}",
        flush=True,
    )
    return _backend("local" if why_not else "docker", layout, options)


def containers_used(layout: Layout, options: Options) -> DockerBackend | None:
    """The container backend of the project that this checkout has used; None if it has used none.

    Raises:
        CommandError: it has, and no engine answers now.
    """
    if not layout.project.exists():
        return None
    name = layout.project.read_text().strip()
    if why_not := engine_missing():
        raise CommandError(f"the volumes of the Compose project {name!r} cannot be deleted: {why_not}")
    return DockerBackend(layout, replace(options, project=name))


def _backend(name: str, layout: Layout, options: Options) -> Backend:
    if name == "docker":
        return DockerBackend(layout, options)
    if not is_linux():
        raise CommandError("local processes need Linux; elsewhere start a Docker engine, such as Docker Desktop")
    _get_packages()
    # Imported here: a machine that runs containers has none of its packages.
    from deploy.backends.local.backend import LocalBackend  # noqa: PLC0415

    return LocalBackend(layout, options)


def _has_packages() -> bool:
    return importlib.util.find_spec("supervisor") is not None


def _get_packages() -> None:
    """The packages of the local backend, which containers bring along and a machine may lack."""
    if not _has_packages():
        if subprocess.run(["make", "-s", ".venv/bin/.runtime"], cwd=ROOT, check=False).returncode:
            raise CommandError(
                "the packages of deploy/requirements/local.txt could not be installed; the reason is above"
            )
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606
