"""Images: whether they can be had, built here, or built for both platforms and pushed."""

from __future__ import annotations

import re
from collections.abc import Collection

from deploy.backends.docker.engine import Compose, docker, image_id, shown
from deploy.errors import CommandError
from deploy.options import Options
from deploy.stack.registry_services import DATABASE, EXTERNAL_VARIABLES, OBJECT_STORE
from server.settings import ROOT

PLATFORMS = "linux/amd64,linux/arm64"
_BUILDER = "forkcast"


def bases(services: Collection[str] = ()) -> list[str]:
    """The images that a stack is built on, and those that it runs as they are, with these services of the registry."""
    text = (ROOT / "deploy/images/Dockerfile").read_text()
    found = re.findall(r"^ARG (\w+)=(\S+:\S+)$", text, re.MULTILINE)
    images = [image for name, image in found if name != "DEBIAN" or OBJECT_STORE in services]
    if DATABASE in services:
        images += re.findall(r"^ +image: (mariadb:\S+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    return images


def needed(options: Options, *, full: bool) -> list[str]:
    """The registry's services that bring an image along and that the user names no other for."""
    return [service for service, names in EXTERNAL_VARIABLES.items() if full and not options.texts(names[:1])]


def missing(services: Collection[str] = ()) -> str | None:
    """Why the images that a stack is built on cannot be had, in words; None where they can."""
    for image in bases(services):
        if image_id(image) is None:
            try:
                docker("pull", "--quiet", image)
            except CommandError as error:
                return f"{image} cannot be pulled: {error}"
    return None


def build(compose: Compose) -> None:
    """Build what changed; a second of nothing where nothing did.

    Raises:
        CommandError: with the builder's last line.
    """
    if any(image_id(image) is None for image in names(compose)):
        print("building the images (a minute or two, once)", flush=True)
    compose.run("build")


def pull(compose: Compose) -> None:
    """Get the published images that are not here yet."""
    for image in names(compose):
        if image_id(image) is None:
            docker("pull", "--quiet", image)


def names(compose: Compose) -> list[str]:
    """The stack's own images."""
    return [service["image"] for service in compose.config()["services"].values() if "build" in service]


def remove(compose: Compose) -> None:
    """Those that were built here for this project, with those that they replaced."""
    label = f"label=com.docker.compose.project={compose.config()['name']}"
    if built := docker("image", "ls", "--all", "--quiet", "--no-trunc", "--filter", label).split():
        docker("image", "rm", "--force", *dict.fromkeys(built))


def sizes(compose: Compose) -> list[tuple[str, int]]:
    """Each image and its size in bytes."""
    return [(image, int(docker("image", "inspect", "--format", "{{.Size}}", image))) for image in names(compose)]


def publish(compose: Compose, options: Options) -> None:
    """Build for every platform and push to ``IMAGE-<service>:TAG``. Its progress goes to the terminal.

    Raises:
        CommandError: something is missing, or the builder failed.
    """
    for name, value, example in (
        ("IMAGE", options.image, "registry.example.com/forkcast"),
        ("TAG", options.tag, "v1"),
    ):
        if not value:
            raise CommandError(
                f"{name} is missing: make publish IMAGE=registry.example.com/forkcast TAG=v1 ({name}={example})"
            )
    platforms = options.platforms or PLATFORMS
    builder = options.builder or _builder(platforms)
    pushed = ["buildx", "bake", "--builder", builder, "--file", "docker-compose.yml", "--push"]
    if shown(*pushed, "--set", f"*.platform={platforms}", environ=compose.environ):
        raise CommandError("the images were not published; the reason is above")


def _builder(platforms: str) -> str:
    """The engine's own builder, or one in a container where the engine keeps images of one platform only."""
    if "," not in platforms or "io.containerd.snapshotter" in docker("info", "--format", "{{json .DriverStatus}}"):
        return "default"
    try:
        docker("buildx", "inspect", "--bootstrap", _BUILDER)
    except CommandError:
        docker("buildx", "create", "--name", _BUILDER, "--driver", "docker-container", "--bootstrap")
    return _BUILDER
