"""The images of a stack: pulling their base images, building them here, and publishing them for both platforms."""

from __future__ import annotations

import re
from collections.abc import Collection

from deploy.backends.docker.engine import Compose, docker, image_id, run_visibly
from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack.registry_services import DATABASE, EXTERNAL_VARIABLES, OBJECT_STORE
from server.settings import ROOT

PLATFORMS = "linux/amd64,linux/arm64"
_BUILDER = "forkcast"


def base_images(services: Collection[str] = ()) -> list[str]:
    """Return the images that a stack with these services of the registry is built from, or runs unchanged."""
    text = (ROOT / "deploy/images/Dockerfile").read_text()
    arguments = re.findall(r"^ARG (\w+)=(\S+:\S+)$", text, re.MULTILINE)
    images = [image for name, image in arguments if name != "DEBIAN" or OBJECT_STORE in services]
    if DATABASE in services:
        images += re.findall(r"^ +image: (mariadb:\S+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    return images


def services_with_images(options: Options, *, full: bool) -> list[str]:
    """Return the registry's services that run here and need an image: those that no option replaces."""
    return [service for service, names in EXTERNAL_VARIABLES.items() if full and not options.texts(names[:1])]


def pull_base_images(services: Collection[str] = ()) -> str | None:
    """Pull the base images that are not here yet; return why one cannot be pulled, or None."""
    for image in base_images(services):
        if image_id(image) is None:
            try:
                docker("pull", "--quiet", image)
            except CommandError as error:
                return f"{image} cannot be pulled: {error}"
    return None


def build(compose: Compose) -> None:
    """Build the images whose sources changed; this takes about a second if none did.

    Raises:
        CommandError: the build failed, with the builder's last line.
    """
    if any(image_id(image) is None for image in built_images(compose)):
        print("building the images (a minute or two, once)", flush=True)
    compose.run("build")


def pull(compose: Compose) -> None:
    """Pull the published images that are not here yet."""
    for image in built_images(compose):
        if image_id(image) is None:
            docker("pull", "--quiet", image)


def built_images(compose: Compose) -> list[str]:
    """Return the names of the images that are built from this checkout."""
    return [service["image"] for service in compose.config()["services"].values() if "build" in service]


def remove_built_images(compose: Compose) -> None:
    """Remove the images that were built here for this project, and the older ones that they replaced."""
    label = f"label=com.docker.compose.project={compose.config()['name']}"
    if images := docker("image", "ls", "--all", "--quiet", "--no-trunc", "--filter", label).split():
        docker("image", "rm", "--force", *dict.fromkeys(images))


def sizes(compose: Compose) -> list[tuple[str, int]]:
    """Return each built image with its size in bytes."""
    return [(image, int(docker("image", "inspect", "--format", "{{.Size}}", image))) for image in built_images(compose)]


def publish(compose: Compose, options: Options) -> None:
    """Build the images for every platform and push them to ``IMAGE-<service>:TAG``; print the progress.

    Raises:
        CommandError: IMAGE or TAG is missing, or the builder failed.
    """
    for name, value in (("IMAGE", options.image), ("TAG", options.tag)):
        if not value:
            raise CommandError(f"{name} is missing: make publish IMAGE=registry.example.com/forkcast TAG=v1")
    platforms = options.platforms or PLATFORMS
    builder = options.builder or _choose_builder(platforms)
    command = ["buildx", "bake", "--builder", builder, "--file", "docker-compose.yml", "--push"]
    if run_visibly(*command, "--set", f"*.platform={platforms}", environ=compose.environ):
        raise CommandError("the images were not published; the reason is above")


def _choose_builder(platforms: str) -> str:
    """Return the engine's own builder, or one in a container if the engine can keep images of one platform only."""
    if "," not in platforms or "io.containerd.snapshotter" in docker("info", "--format", "{{json .DriverStatus}}"):
        return "default"
    try:
        docker("buildx", "inspect", "--bootstrap", _BUILDER)
    except CommandError:
        docker("buildx", "create", "--name", _BUILDER, "--driver", "docker-container", "--bootstrap")
    return _BUILDER
