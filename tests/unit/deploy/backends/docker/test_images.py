"""Tests of pulling, building and publishing images, with a fake `docker` command."""

from __future__ import annotations

import re

import pytest

from deploy.backends.docker import images
from deploy.backends.docker.engine import Compose
from deploy.errors import CommandError
from deploy.stack.paths import ROOT
from deploy.stack.registry_services import OBJECT_STORE
from tests.support.fake_docker import FakeDocker
from tests.support.options import options

PUBLISHED = {"IMAGE": "registry.example.com/forkcast", "TAG": "v1"}
COMPOSE = Compose({"TAG": "v1"})
CONTAINERD = '[["driver-type","io.containerd.snapshotter.v1"]]'


@pytest.fixture(autouse=True)
def engine(docker: FakeDocker) -> FakeDocker:
    """An engine that has every image."""
    docker.start_engine()
    return docker


def test_base_images_match_the_dockerfile() -> None:
    """The base images are those of the Dockerfile, each with its tag."""
    base_images = images.base_images()
    assert [re.fullmatch(r"(python|nginx):[a-z0-9.-]+", image) is not None for image in base_images] == [True, True]


def test_present_base_images_are_not_pulled(engine: FakeDocker) -> None:
    """Images that the engine has are not pulled."""
    assert images.pull_base_images() is None
    assert engine.ran("pull") == []


def test_only_missing_base_images_are_pulled(engine: FakeDocker) -> None:
    """Only images that the engine does not have are pulled."""
    python, nginx = images.base_images()
    engine.answer("image", "inspect", nginx, err="Error: No such image\n", status=1)
    engine.answer("pull")
    assert images.pull_base_images() is None
    assert engine.ran("pull") == [["pull", "--quiet", nginx]]
    assert python != nginx


def test_failed_pull_names_the_base_image(engine: FakeDocker) -> None:
    """The error for an image that cannot be pulled names it and the reason, and no other image is tried."""
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="retrying\nError: dial tcp: lookup registry-1.docker.io: no such host\n", status=1)
    first = images.base_images()[0]
    assert images.pull_base_images() == (
        f"{first} cannot be pulled: docker pull --quiet: Error: dial tcp: lookup registry-1.docker.io: no such host"
    )
    assert len(engine.ran("pull")) == 1


def test_build_is_announced_only_if_an_image_is_missing(engine: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    """A build is announced if an image is missing, and silent otherwise."""
    engine.answer("compose", "build")
    images.build(COMPOSE)
    assert capsys.readouterr().out == ""
    engine.answer("image", "inspect", "forkcast-nginx", status=1)
    images.build(COMPOSE)
    assert capsys.readouterr().out == "building the images (a minute or two, once)\n"
    assert len(engine.ran("compose", "build")) == 2


def test_failed_build_reports_the_last_line(engine: FakeDocker) -> None:
    """The error of a failed build is the builder's last line."""
    engine.answer("compose", "build", err="#7 ERROR\nfailed to solve: exit code: 1\n", status=1)
    with pytest.raises(CommandError, match=r"failed to solve: exit code: 1$"):
        images.build(COMPOSE)


def test_only_missing_published_images_are_pulled(engine: FakeDocker) -> None:
    """Only published images that are missing are pulled, and nothing is built."""
    engine.answer("image", "inspect", "forkcast-model", status=1)
    engine.answer("image", "inspect", "forkcast-locust", status=1)
    engine.answer("pull")
    images.pull(COMPOSE)
    assert engine.ran("pull") == [["pull", "--quiet", "forkcast-model"], ["pull", "--quiet", "forkcast-locust"]]
    assert engine.ran("build") == []


def test_sizes_cover_only_built_images(engine: FakeDocker) -> None:
    """The images that this checkout builds have sizes in bytes; other images are left out."""
    document = {"services": {"a": {"image": "ours", "build": {}}, "b": {"image": "other"}}}
    engine.answer("compose", "config", out=document)
    engine.answer("image", "inspect", "{{.Size}}", out="123456789\n")
    compose = Compose({"TAG": "v1"})  # COMPOSE has cached another document.
    assert images.built_images(compose) == ["ours"]
    assert images.sizes(compose) == [("ours", 123_456_789)]


def test_every_project_image_is_removed_once(engine: FakeDocker) -> None:
    """Each image that was built for this project is removed once, also older ones that were replaced."""
    engine.answer("image", "ls", out="sha256:2\nsha256:1\nsha256:2\n")
    engine.answer("image", "rm")
    images.remove_built_images(COMPOSE)
    (command,) = engine.ran("image", "ls")
    assert {"--all", "--no-trunc", "label=com.docker.compose.project=forkcast"} < set(command)
    assert engine.ran("image", "rm") == [["image", "rm", "--force", "sha256:2", "sha256:1"]]


def test_remove_without_images_runs_nothing(engine: FakeDocker) -> None:
    """If no image was built, nothing is removed."""
    images.remove_built_images(COMPOSE)
    assert engine.ran("image", "rm") == []


@pytest.mark.parametrize("missing", ["IMAGE", "TAG"])
@pytest.mark.parametrize("unset", [True, False])
def test_publish_needs_a_name_and_a_tag(engine: FakeDocker, missing: str, unset: bool) -> None:
    """Images are not published without a name and a tag; the error shows an example."""
    environ = PUBLISHED | {missing: ""}
    if unset:
        del environ[missing]
    with pytest.raises(CommandError) as caught:
        images.publish(COMPOSE, options(**environ))
    assert str(caught.value).startswith(f"{missing} is missing: make publish IMAGE=")
    assert engine.calls == []


@pytest.mark.parametrize(
    ("store", "environ", "builder", "platforms"),
    [
        (CONTAINERD, {}, "default", "linux/amd64,linux/arm64"),
        ("[]", {}, "forkcast", "linux/amd64,linux/arm64"),
        ("[]", {"PLATFORMS": "linux/arm64"}, "default", "linux/arm64"),
        ("[]", {"BUILDER": "mine"}, "mine", "linux/amd64,linux/arm64"),
        (CONTAINERD, {"BUILDER": "mine", "PLATFORMS": "linux/amd64"}, "mine", "linux/amd64"),
    ],
)
def test_publish_pushes_all_platforms_with_a_capable_builder(
    engine: FakeDocker, store: str, environ: dict[str, str], builder: str, platforms: str
) -> None:
    """All platforms are built and pushed by the engine's own builder if it can, else by one in a container."""
    engine.answer("info", "{{json .DriverStatus}}", out=store)
    engine.answer("buildx", "bake")
    engine.answer("buildx", "inspect")
    images.publish(COMPOSE, options(**PUBLISHED | environ))
    (baked,) = engine.ran("bake")
    assert baked[:4] == ["buildx", "bake", "--builder", builder]
    assert {"docker-compose.yml", "--push", f"*.platform={platforms}"} < set(baked)
    assert engine.calls[-1].environ["TAG"] == "v1"
    assert engine.ran("create") == []


def test_missing_builder_is_created(engine: FakeDocker) -> None:
    """A builder in a container is created if it does not exist."""
    engine.answer("info", "{{json .DriverStatus}}", out="[]")
    engine.answer("buildx", "inspect", err="ERROR: no builder found\n", status=1)
    for command in ("create", "bake"):
        engine.answer("buildx", command)
    images.publish(COMPOSE, options(**PUBLISHED))
    assert [call.arguments[1] for call in engine.calls if call.arguments[0] == "buildx"] == [
        "inspect",
        "create",
        "bake",
    ]
    assert {"--name", "forkcast", "docker-container"} < set(engine.ran("create")[0])


def test_failed_publish_is_one_line(engine: FakeDocker, capfd: pytest.CaptureFixture[str]) -> None:
    """The output of the builder goes to the terminal, and the error is one line."""
    engine.answer("buildx", "bake", err="ERROR: push access denied\n", status=1)
    with pytest.raises(CommandError, match=r"^the images were not published; the reason is above$"):
        images.publish(COMPOSE, options(**PUBLISHED | {"BUILDER": "default"}))
    assert capfd.readouterr().err == "ERROR: push access denied\n"


def test_base_images_depend_on_requested_services() -> None:
    """Images of the registry are needed only for the registry's services that run in this stack."""
    plain = images.base_images()
    assert not any(image.startswith(("debian:", "mariadb:")) for image in plain)
    assert images.base_images(images.services_with_images(options(), full=False)) == plain
    additional = set(images.base_images(images.services_with_images(options(), full=True))) - set(plain)
    assert sorted(image.partition(":")[0] for image in additional) == ["debian", "mariadb"]
    named = {"DATABASE_URL": "mysql://h/n", "S3_ENDPOINT_URL": "http://s3"}
    assert images.base_images(images.services_with_images(options(**named), full=True)) == plain


def test_dockerfile_stages_start_from_named_base_images() -> None:
    """Every stage of the Dockerfile starts from a base image that an ARG names, or from another stage."""
    text = (ROOT / "deploy/images/Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    assert sorted(images.base_images([OBJECT_STORE])) == sorted(arguments.values())
    stages = re.findall(r"^FROM (?:--platform=\S+ )?(\S+) AS (\S+)$", text, re.MULTILINE)
    assert len(stages) == text.count("\nFROM ")
    known = {f"${{{name}}}" for name in arguments}
    for base, name in stages:
        assert base in known
        known.add(name)
