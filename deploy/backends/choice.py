"""The choice of a backend: that of the running stack, else containers if Docker is available, else local."""

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
    """Return the backend of the running stack, else the one that BACKEND names, else the first available one.

    ``starting`` is whether the command may start a stack; then the choice and its reason are printed. ``full`` is
    whether that stack has its own registry.

    Raises:
        CommandError: BACKEND differs from the backend of the running stack, or is not available.
    """
    wanted = options.backend
    record = Record.load(layout)
    if record is not None:
        running = record.wanted
        if wanted not in ("auto", running.backend):
            raise CommandError(
                f"BACKEND={wanted}: the running stack uses {running.backend}; stop it first with: make down"
            )
        return _make_backend(running.backend, layout, options)
    if wanted == "local":
        return _make_backend(wanted, layout, options)
    docker_problem = engine_missing()
    if not starting:
        # Without the packages of the local backend no local stack can be running.
        runs_in_containers = not docker_problem and (
            not _has_packages() or DockerBackend(layout, options).has_containers
        )
        use_containers = runs_in_containers or wanted == "docker" or not is_linux()
        return _make_backend("docker" if use_containers else "local", layout, options)
    docker_problem = docker_problem or (
        None if options.image else images.pull_base_images(images.services_with_images(options, full=full))
    )
    if docker_problem and wanted == "docker":
        raise CommandError(f"BACKEND=docker: {docker_problem}")
    if docker_problem and not is_linux():
        raise CommandError(f"{docker_problem}; without Docker a stack needs Linux")
    choice = f"local, since {docker_problem}" if docker_problem else f"docker, since engine {engine_version()} answers"
    print(f"backend: {choice}", flush=True)
    return _make_backend("local" if docker_problem else "docker", layout, options)


def used_docker_backend(layout: Layout, options: Options) -> DockerBackend | None:
    """Return the Docker backend of the Compose project that this checkout used, or None if it used none.

    Raises:
        CommandError: it used one, and no Docker engine answers now.
    """
    if not layout.project.exists():
        return None
    name = layout.project.read_text().strip()
    if docker_problem := engine_missing():
        raise CommandError(f"the volumes of the Compose project {name!r} cannot be deleted: {docker_problem}")
    return DockerBackend(layout, replace(options, project=name))


def _make_backend(name: str, layout: Layout, options: Options) -> Backend:
    if name == "docker":
        return DockerBackend(layout, options)
    if not is_linux():
        raise CommandError("local processes need Linux; elsewhere start a Docker engine, such as Docker Desktop")
    _install_packages()
    # A machine that only runs containers does not have the packages that this module imports.
    from deploy.backends.local.backend import LocalBackend  # noqa: PLC0415

    return LocalBackend(layout, options)


def _has_packages() -> bool:
    return importlib.util.find_spec("supervisor") is not None


def _install_packages() -> None:
    """Install the packages of the local backend if they are missing, and start this command again."""
    if not _has_packages():
        if subprocess.run(["make", "-s", ".venv/bin/.runtime"], cwd=ROOT, check=False).returncode:
            raise CommandError(
                "the packages of deploy/requirements/local.txt could not be installed; the reason is above"
            )
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606
