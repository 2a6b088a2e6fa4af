"""What the manifests for a cluster promise, as kubectl renders them; and that what is wrong with one is seen."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.docker.engine import SERVICES
from deploy.kubernetes import __main__ as check
from deploy.kubernetes import manifests, names
from deploy.kubernetes.manifests import OVERLAYS, Manifest, Pod
from deploy.layout import ROOT
from server.settings import Settings
from tests.test_compose import settings_of

EVERY = sorted(path.name for path in OVERLAYS.iterdir())
PAGE = ROOT / "docs/kubernetes.md"
WIDE = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: elsewhere
resources: [{root}/base]
components: [{components}]
images:
  - {{name: forkcast-server, newTag: v1}}
  - {{name: forkcast-model, newTag: v1}}
  - {{name: forkcast-nginx, newTag: v1}}
  - {{name: forkcast-locust, newTag: v1}}
patches:
  - target: {{kind: HorizontalPodAutoscaler}}
    patch: |
      {patch}
"""


@pytest.fixture(scope="module")
def kubectl() -> None:
    """Skip, with the reason, where nothing can be rendered; where that was promised, as in CI, it is a failure."""
    why_not = manifests.missing()
    if why_not and os.environ.get("REQUIRE_KUBECTL"):
        pytest.fail(f"REQUIRE_KUBECTL is set, but {why_not}")
    if why_not:
        pytest.skip(why_not)


@pytest.fixture(scope="module")
def rendered(kubectl: None) -> dict[str, list[Manifest]]:  # noqa: ARG001
    """Every overlay."""
    return {name: manifests.render(OVERLAYS / name) for name in EVERY}


@pytest.fixture
def demo(rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    """One to be broken."""
    return copy.deepcopy(rendered["demo"])


def find(there: list[Manifest], kind: str, name: str) -> Any:
    (found,) = (one for one in there if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pod(there: list[Manifest], owner: str) -> Pod:
    (found,) = (one for one in manifests.pods(there) if one.owner == owner)
    return found


def written(tmp_path: Path, patch: str) -> Path:
    """An overlay of somebody's own, with all components, in a namespace of another name."""
    folder = tmp_path / "wide"
    folder.mkdir()
    root = os.path.relpath(OVERLAYS.parent, folder.resolve())
    components = ", ".join(
        f"{root}/components/{path.name}" for path in sorted((OVERLAYS.parent / "components").iterdir())
    )
    (folder / "kustomization.yaml").write_text(WIDE.format(root=root, components=components, patch=patch))
    return folder


@pytest.mark.parametrize("name", EVERY)
def test_overlays(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Every overlay is what the API takes, holds together, and keeps to our rules."""
    assert check.faults(rendered[name]) == []
    assert {one["metadata"].get("namespace") for one in rendered[name]} == {None, "forkcast"}


@pytest.mark.usefixtures("kubectl")
def test_all_components_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All components fit into one overlay and another namespace; a wrong field in it fails the command and is named."""
    folder = written(tmp_path, "- {op: replace, path: /spec/maxReplicas, value: 7}")
    assert check.main([folder]) == 0
    there = manifests.render(folder)
    assert {one["metadata"].get("namespace") for one in there} == {None, "elsewhere"}
    assert find(there, "Namespace", "elsewhere")
    folder.joinpath("kustomization.yaml").write_text(
        folder.joinpath("kustomization.yaml").read_text().replace("/spec/maxReplicas, value: 7", "/spec/most, value: 7")
        .replace("op: replace", "op: add")
    )  # fmt: skip
    assert check.main([folder]) == 1
    assert "HorizontalPodAutoscaler/server: Kubernetes 1.30: spec: Additional properties" in capsys.readouterr().err


@pytest.mark.usefixtures("kubectl")
def test_the_page_s_own_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The overlay that the page prints passes the check in one line, and all that it changes arrives in every pod."""
    (text,) = re.findall(r"```yaml\n(apiVersion: kustomize.*?)```", PAGE.read_text(), re.DOTALL)
    folder = tmp_path / "cluster"
    folder.mkdir()
    (tmp_path / "forkcast").symlink_to(ROOT)
    (folder / "kustomization.yaml").write_text(text)
    assert check.main([folder]) == 0
    there = manifests.render(folder)
    assert capsys.readouterr().out == f"deploy/kubernetes: nothing is wrong with cluster ({len(there)} objects)\n"
    images = {container["image"] for one in manifests.pods(there) for container in one.containers}
    assert images == {f"registry.acme.example/forkcast-{name}:v2" for name in ("server", "model", "nginx", "locust")}
    assert {"MODEL_URI": "models:/covertype/2"} in [one.get("data") for one in there]


@pytest.mark.usefixtures("kubectl")
def test_what_cannot_be_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that kubectl cannot render fails, with kubectl's words."""
    assert check.main([written(tmp_path, "- {op: remove, path: /spec/none}")]) == 1
    assert "/spec/none" in capsys.readouterr().err


def first(there: list[Manifest], owner: str = "server") -> Any:
    """A Deployment's first container."""
    return find(there, "Deployment", owner)["spec"]["template"]["spec"]["containers"][0]


BROKEN: dict[str, tuple[Callable[[list[Manifest]], object], str]] = {
    "an unknown field": (lambda there: first(there).update(comand=["x"]), "'comand' was unexpected"),
    "a wrong type": (
        lambda there: find(there, "Deployment", "nginx")["spec"].update(replicas="two"),
        "'two' is not of type",
    ),
    "an unknown kind": (
        lambda there: there.append({"apiVersion": "v1", "kind": "Pud", "metadata": {"name": "x"}}),
        "Pud",
    ),
    "a selector of nothing": (
        lambda there: find(there, "Service", "server")["spec"]["selector"].update(tier="x"),
        "Service/server: its selector means no pod",
    ),
    "a port that is none": (
        lambda there: find(there, "Service", "nginx")["spec"]["ports"][0].update(targetPort="htp"),
        "targetPort htp is no port of nginx",
    ),
    "a Deployment that claims others": (
        lambda there: find(there, "Deployment", "server")["spec"]["selector"]["matchLabels"].pop(
            "app.kubernetes.io/component"
        ),
        "Deployment/server: its selector means the pods of",
    ),
    "a budget for nothing": (
        lambda there: find(there, "PodDisruptionBudget", "nginx")["spec"]["selector"]["matchLabels"].update(tier="x"),
        "PodDisruptionBudget/nginx: its selector means no pod",
    ),
    "a policy for a port that is none": (
        lambda there: find(there, "NetworkPolicy", "server")["spec"]["ingress"][0]["ports"][0].update(port=80),
        "NetworkPolicy/server: port 80 is none of its pods'",
    ),
    "a policy for nobody": (
        lambda there: find(there, "NetworkPolicy", "server")["spec"]["ingress"][0]["from"][0]["podSelector"][
            "matchLabels"
        ].update(tier="x"),
        "means no pod",
    ),
    "no ConfigMap": (
        lambda there: there.remove(next(one for one in there if one["kind"] == "ConfigMap")),
        "there is no ConfigMap/forkcast",
    ),
    "a Secret that nobody tells of": (
        lambda there: first(there)["envFrom"].append({"secretRef": {"name": "mine"}}),
        "there is no Secret/mine",
    ),
    "no limits": (lambda there: first(there)["resources"].pop("limits"), "server: no limits of memory"),
    "no probe": (lambda there: first(there).pop("readinessProbe"), "it listens, and has no readinessProbe"),
    "a probe of what is not there": (
        lambda there: first(there)["readinessProbe"]["httpGet"].update(path="/reddy"),
        "server: readinessProbe asks for /reddy, which does not tell",
    ),
    "a probe of Nginx that asks a replica": (
        lambda there: first(there, "nginx")["livenessProbe"]["httpGet"].update(path="/ready"),
        "nginx: livenessProbe asks for /ready, which does not tell",
    ),
    "a rule for nodes that take no pods": (
        lambda there: find(there, "Deployment", "server")["spec"]["template"]["spec"]["topologySpreadConstraints"][
            0
        ].update({"nodeTaintsPolicy": "Ignore", "whenUnsatisfiable": "DoNotSchedule"}),
        "DoNotSchedule without nodeTaintsPolicy: Honor",
    ),
    "another namespace": (
        lambda there: find(there, "Job", "train")["metadata"].pop("namespace"),
        "Job/train has no namespace, as the others have",
    ),
    "root": (
        lambda there: find(there, "Deployment", "nginx")["spec"]["template"]["spec"]["securityContext"].update(
            runAsUser=0
        ),
        "runAsUser is no number but 0",
    ),
    "a root file system to write to": (
        lambda there: first(there)["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem is not True",
    ),
    "somebody else's image": (lambda there: first(there).update(image="redis:7"), "image redis:7 is none of ours"),
    "no tag": (lambda there: first(there).update(image="forkcast-server"), "is none of ours with a tag"),
    "a stop that is too short": (
        lambda there: find(there, "Deployment", "server")["spec"]["template"]["spec"].update(
            terminationGracePeriodSeconds=45
        ),
        "terminationGracePeriodSeconds 45 is less than 15 + 30 + 10",
    ),
    "a volume that is not there": (
        lambda there: find(there, "Deployment", "server")["spec"]["template"]["spec"]["volumes"].pop(),
        "there is no volume shm",
    ),
    "a thing twice": (lambda there: there.append(there[-1]), "is there twice"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_manifests(demo: list[Manifest], what: str) -> None:
    """The check that every overlay passes refuses what is broken, and says where."""
    spoil, words = BROKEN[what]
    spoil(demo)
    assert any(words in fault for fault in check.faults(demo)), check.faults(demo)


def test_autoscalers(rendered: dict[str, list[Manifest]]) -> None:
    """An autoscaler needs its target, and a target that has no number of replicas of its own."""
    there = copy.deepcopy(rendered["production"])
    find(there, "Deployment", "server")["spec"]["replicas"] = 3
    assert ["would undo the autoscaler's work" in fault for fault in check.faults(there)] == [True]
    find(there, "HorizontalPodAutoscaler", "server")["spec"]["scaleTargetRef"]["name"] = "servers"
    assert check.faults(there) == ["HorizontalPodAutoscaler/server: there is no Deployment/servers"]


@pytest.mark.usefixtures("no_docker")
@pytest.mark.parametrize("required", [False, True])
def test_no_kubectl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: bool) -> None:
    """Where kubectl is missing one line says so; where it was promised that is a failure."""
    monkeypatch.setenv("REQUIRE_KUBECTL", "1" if required else "")
    assert check.main([]) == int(required)
    told = capsys.readouterr()
    assert told.out + told.err == "deploy/kubernetes was not checked: there is no kubectl here\n"


@pytest.mark.parametrize(("version", "good"), [("v2.0.3", False), ("v4.5.7", False), ("v5.5.0", True), ("", False)])
def test_old_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    """A kubectl whose Kustomize is too old counts as none."""
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\necho 'Kustomize Version: {version}'\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (manifests.missing() is None) is good


@pytest.mark.parametrize("overlay", EVERY)
def test_pods_are_as_the_images(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    """Users, commands, modules and ports are those of the images."""
    dockerfile = (ROOT / "deploy/images/Dockerfile").read_text()
    for one in manifests.pods(rendered[overlay]):
        user = one.spec["securityContext"]
        nginx = one.owner == "nginx"
        assert (user["runAsUser"], user["runAsGroup"], user["fsGroup"]) == (3 * (101,) if nginx else 3 * (10001,))
        assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
        for container in one.containers:
            command = container.get("command", [])
            assert nginx or command[:3] == ["dumb-init", "--single-child", "--"]
            if "deploy" in " ".join(command):
                assert importlib.util.find_spec(command[-1])


def test_replicas_are_told_known_settings(rendered: dict[str, list[Manifest]]) -> None:
    """What reaches a replica is read by it or by Nginx, and its stop is the one that Nginx and the cluster count on."""
    there = rendered["production"]
    (config,) = (one["data"] for one in there if re.fullmatch(r"forkcast-[a-z0-9]{10}", one["metadata"]["name"]))
    settings = Settings.from_env({**config, "WEB_CONCURRENCY": "1"})
    assert settings.graceful_timeout == 30
    assert settings.max_body_bytes == int(config["MAX_BODY_BYTES"])
    image = settings_of("server")
    for variable in pod(there, "server").spec["containers"][0]["env"]:
        assert image.get(variable["name"], variable["value"]) == variable["value"]


def test_nginx_asks_for_a_whole_name(rendered: dict[str, list[Manifest]]) -> None:
    """Nginx, which knows no search domains, is told the headless Service's whole name, by what comes before it."""
    variables = pod(rendered["demo"], "nginx").spec["containers"][0]["env"]
    service = find(rendered["demo"], "Service", "server")
    told = [variable["name"] for variable in variables]
    (replicas,) = (one["value"] for one in variables if one["name"] == "REPLICAS")
    assert replicas == "server.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):8000"
    assert {"NAMESPACE", "CLUSTER_DOMAIN"} <= set(told[: told.index("REPLICAS")])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is False


def test_another_model_makes_new_replicas_alone(rendered: dict[str, list[Manifest]]) -> None:
    """The settings of the model are under a name that changes with them, and read by the replicas alone."""
    there = rendered["production"]
    readers = {
        one.owner
        for one in manifests.pods(there)
        for container in one.containers
        for source in container.get("envFrom", [])
        if source.get("configMapRef", {}).get("name", "").startswith("forkcast-model-")
    }
    assert readers == {"server"}
    assert find(there, "Deployment", "server")["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }


def test_secured(rendered: dict[str, list[Manifest]]) -> None:
    """In production keys and certificates are mounted as folders for their group alone, and the probes go by TLS."""
    server, nginx = (pod(rendered["production"], name) for name in ("server", "nginx"))
    mounts = {
        mount["mountPath"]: (volume["secret"]["secretName"], volume["secret"]["defaultMode"])
        for one in (server, nginx)
        for volume in one.spec["volumes"]
        if "secret" in volume
        for mount in one.spec["containers"][0]["volumeMounts"]
        if mount["name"] == volume["name"]
    }
    assert mounts == {
        "/run/secrets/forkcast": ("forkcast-api-keys", 0o440),
        "/run/secrets/tls": ("forkcast-tls", 0o440),
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert nginx.spec["containers"][0][probe]["httpGet"] == {"path": "/null", "port": "https", "scheme": "HTTPS"}
    service = find(rendered["production"], "Service", "nginx")
    assert {port["port"]: port["targetPort"] for port in service["spec"]["ports"]} == {80: "http", 443: "https"}


def test_every_image_is_set_in_one_place() -> None:
    """Each overlay names all images that `make publish` pushes for a cluster, and no other."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    built = {one["image"].partition("}}-")[2].partition(":")[0] for one in compose.values() if "build" in one}
    ours = {"server", "model", "nginx", "locust"}
    assert ours <= built
    assert set(SERVICES) - {"locust-worker"} <= ours
    for overlay in EVERY:
        images = yaml.safe_load((OVERLAYS / overlay / "kustomization.yaml").read_text())["images"]
        assert {one["name"] for one in images} == {f"forkcast-{name}" for name in ours}


def test_the_page_tells_of_every_overlay_and_secret() -> None:
    """Its page tells how each overlay is applied, and how each Secret that is its user's is made."""
    text = PAGE.read_text()
    assert all(f"overlays/{overlay}" in text for overlay in EVERY)
    assert all(secret in text for secret in names.SECRETS)
    for folder in re.findall(r"deploy/kubernetes/[\w/.-]*\w", text):
        assert (ROOT / folder).exists(), folder
