"""Images: where they come from, and which commands of Docker that takes. The command is a stand-in."""

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
    """The images that ours are built on are those of the Dockerfile, each with its tag."""
    found = images.base_images()
    assert [re.fullmatch(r"(python|nginx):[a-z0-9.-]+", image) is not None for image in found] == [True, True]


def test_present_base_images_are_not_pulled(engine: FakeDocker) -> None:
    """Images that the engine has are not asked of any registry."""
    assert images.pull_base_images() is None
    assert engine.ran("pull") == []


def test_only_missing_base_images_are_pulled(engine: FakeDocker) -> None:
    """Only what the engine lacks is pulled."""
    python, nginx = images.base_images()
    engine.answer("image", "inspect", nginx, err="Error: No such image\n", status=1)
    engine.answer("pull")
    assert images.pull_base_images() is None
    assert engine.ran("pull") == [["pull", "--quiet", nginx]]
    assert python != nginx


def test_failed_pull_names_the_base_image(engine: FakeDocker) -> None:
    """An image that cannot be pulled is named, with the engine's reason, and no other is tried."""
    engine.answer("image", "inspect", status=1)
    engine.answer("pull", err="retrying\nError: dial tcp: lookup registry-1.docker.io: no such host\n", status=1)
    first = images.base_images()[0]
    assert images.pull_base_images() == (
        f"{first} cannot be pulled: docker pull --quiet: Error: dial tcp: lookup registry-1.docker.io: no such host"
    )
    assert len(engine.ran("pull")) == 1


def test_announces_only_missing_images(engine: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    """A build is announced where an image is missing, and silent where all are there."""
    engine.answer("compose", "build")
    images.build(COMPOSE)
    assert capsys.readouterr().out == ""
    engine.answer("image", "inspect", "forkcast-nginx", status=1)
    images.build(COMPOSE)
    assert capsys.readouterr().out == "building the images (a minute or two, once)\n"
    assert len(engine.ran("compose", "build")) == 2


def test_failed_build_reports_the_last_line(engine: FakeDocker) -> None:
    """A build that fails is told by the builder's last line."""
    engine.answer("compose", "build", err="#7 ERROR\nfailed to solve: exit code: 1\n", status=1)
    with pytest.raises(CommandError, match=r"failed to solve: exit code: 1$"):
        images.build(COMPOSE)


def test_pulls_only_missing_published_images(engine: FakeDocker) -> None:
    """Published images are pulled, those alone that are not here yet, and nothing is built."""
    engine.answer("image", "inspect", "forkcast-model", status=1)
    engine.answer("image", "inspect", "forkcast-locust", status=1)
    engine.answer("pull")
    images.pull(COMPOSE)
    assert engine.ran("pull") == [["pull", "--quiet", "forkcast-model"], ["pull", "--quiet", "forkcast-locust"]]
    assert engine.ran("build") == []


def test_images_have_names_and_sizes_in_bytes(engine: FakeDocker) -> None:
    """The stack's own images are those that it builds; each has a size in bytes."""
    document = {"services": {"a": {"image": "ours", "build": {}}, "b": {"image": "somebody-else's"}}}
    engine.answer("compose", "config", out=document)
    engine.answer("image", "inspect", "{{.Size}}", out="123456789\n")
    compose = Compose({"TAG": "v1"})  # COMPOSE may know another document by now
    assert images.built_images(compose) == ["ours"]
    assert images.sizes(compose) == [("ours", 123_456_789)]


def test_removes_each_project_image_once(engine: FakeDocker) -> None:
    """All that was built for this project is removed, each image once, with those that newer ones replaced."""
    engine.answer("image", "ls", out="sha256:2\nsha256:1\nsha256:2\n")
    engine.answer("image", "rm")
    images.remove_built_images(COMPOSE)
    (asked,) = engine.ran("image", "ls")
    assert {"--all", "--no-trunc", "label=com.docker.compose.project=forkcast"} < set(asked)
    assert engine.ran("image", "rm") == [["image", "rm", "--force", "sha256:2", "sha256:1"]]


def test_remove_without_images_runs_nothing(engine: FakeDocker) -> None:
    """Where nothing was built, nothing is removed."""
    images.remove_built_images(COMPOSE)
    assert engine.ran("image", "rm") == []


@pytest.mark.parametrize("missing", ["IMAGE", "TAG"])
@pytest.mark.parametrize("unset", [True, False])
def test_publishing_needs_names(engine: FakeDocker, missing: str, unset: bool) -> None:
    """Nothing is published without a name and a tag; the one that is missing is named with an example."""
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
def test_pushes_all_platforms_with_a_capable_builder(
    engine: FakeDocker, store: str, environ: dict[str, str], builder: str, platforms: str
) -> None:
    """Every platform is built and pushed at once, by the engine's own builder where that can, else by one of ours."""
    engine.answer("info", "{{json .DriverStatus}}", out=store)
    engine.answer("buildx", "bake")
    engine.answer("buildx", "inspect")
    images.publish(COMPOSE, options(**PUBLISHED | environ))
    (baked,) = engine.ran("bake")
    assert baked[:4] == ["buildx", "bake", "--builder", builder]
    assert {"docker-compose.yml", "--push", f"*.platform={platforms}"} < set(baked)
    assert engine.calls[-1].environ["TAG"] == "v1"
    assert engine.ran("create") == []


def test_builder_is_made(engine: FakeDocker) -> None:
    """A builder in a container is made where there is none yet."""
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
    """What the builder says goes to the terminal, and the end is an error of one line."""
    engine.answer("buildx", "bake", err="ERROR: push access denied\n", status=1)
    with pytest.raises(CommandError, match=r"^the images were not published; the reason is above$"):
        images.publish(COMPOSE, options(**PUBLISHED | {"BUILDER": "default"}))
    assert capfd.readouterr().err == "ERROR: push access denied\n"


def test_base_images_depend_on_requested_services() -> None:
    """A plain stack asks for no image of the registry's; a full one for those that the user names no other for."""
    plain = images.base_images()
    assert not any(image.startswith(("debian:", "mariadb:")) for image in plain)
    assert images.base_images(images.services_with_images(options(), full=False)) == plain
    more = set(images.base_images(images.services_with_images(options(), full=True))) - set(plain)
    assert sorted(image.partition(":")[0] for image in more) == ["debian", "mariadb"]
    named = {"DATABASE_URL": "mysql://h/n", "S3_ENDPOINT_URL": "http://s3"}
    assert images.base_images(images.services_with_images(options(**named), full=True)) == plain


def test_dockerfile_is_where_it_is_read() -> None:
    """Every stage of the Dockerfile starts from a base that it names at its head, or from another stage."""
    text = (ROOT / "deploy/images/Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    assert sorted(images.base_images([OBJECT_STORE])) == sorted(arguments.values())
    stages = re.findall(r"^FROM (?:--platform=\S+ )?(\S+) AS (\S+)$", text, re.MULTILINE)
    assert len(stages) == text.count("\nFROM ")
    known = {f"${{{name}}}" for name in arguments}
    for base, name in stages:
        assert base in known
        known.add(name)
