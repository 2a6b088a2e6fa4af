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

from deploy.backends.docker.engine import SERVICES
from deploy.checks.kubernetes import __main__ as check
from deploy.checks.kubernetes import manifests, names
from deploy.checks.kubernetes.manifests import OVERLAYS, Manifest, Pod
from deploy.stack.paths import ROOT
from server.settings import Settings
from tests.support.dockerfile import stage_variables

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
def test_every_overlay_passes_the_checks(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Every overlay is what the API takes, holds together, and keeps to our rules."""
    assert check.faults(rendered[name]) == []
    assert {one["metadata"].get("namespace") for one in rendered[name]} == {None, "forkcast"}


@pytest.mark.usefixtures("kubectl")
def test_all_components_pass_in_one_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_documented_overlay_passes_the_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_render_failure_reports_the_kubectl_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


# One mutation of `production` each: where, what it sets (None: what it takes away), and words of the fault.
DEPLOYMENT = {name: f"Deployment/{name} spec.template.spec" for name in ("server", "nginx")}
SERVER, NGINX = (f"{path}.containers.0" for path in DEPLOYMENT.values())
PODS = DEPLOYMENT["server"]
DANGEROUS: dict[str, tuple[str, Any, str]] = {
    "privileged": (f"{SERVER}.securityContext.privileged", True, "server: securityContext.privileged is set"),
    "another user": (f"{SERVER}.securityContext.runAsUser", 0, "server: securityContext.runAsUser is set"),
    "root after all": (f"{SERVER}.securityContext.runAsNonRoot", False, "securityContext.runAsNonRoot is set"),
    "the node's network": (f"{PODS}.hostNetwork", True, "Deployment/server: hostNetwork is set"),
    "the node's processes": (f"{PODS}.hostPID", True, "Deployment/server: hostPID is set"),
    "the node's memory": (f"{PODS}.hostIPC", True, "Deployment/server: hostIPC is set"),
    "an account": (f"{PODS}.serviceAccountName", "admin", "Deployment/server: serviceAccountName is set"),
    "a port of the node": (f"{SERVER}.ports.0.hostPort", 8000, "hostPort 8000 is set"),
    "the node's files": (
        f"{PODS}.volumes.name=models",
        {"name": "models", "hostPath": {"path": "/"}},
        "Deployment/server: the volume models is hostPath",
    ),
    "another kind of volume": (
        f"{PODS}.volumes.name=models",
        {"name": "models", "nfs": {"server": "x", "path": "/"}},
        "the volume models is nfs",
    ),
    "a token in a volume": (
        f"{PODS}.volumes.name=models",
        {"name": "models", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        "the volume models projects serviceAccountToken",
    ),
    "keys that may be missing": (
        f"{PODS}.volumes.name=keys.secret.optional",
        True,
        "Deployment/server: the volume keys is a Secret that is optional",
    ),
    "keys that never change": (
        f"{SERVER}.volumeMounts.name=keys.subPath",
        "keys",
        "Deployment/server: the volume keys is a Secret mounted by subPath",
    ),
    "a variable twice": (f"{SERVER}.env.+", {"name": "VAR_DIR", "value": "/x"}, "server: env VAR_DIR is there twice"),
    "a volume twice": (f"{PODS}.volumes.+", {"name": "tmp", "emptyDir": {"sizeLimit": 1}}, "volume tmp is there twice"),
    "a mount twice": (
        f"{SERVER}.volumeMounts.name=tmp.mountPath",
        "/var/lib/forkcast/models/",
        "server: mountPath /var/lib/forkcast/models is there twice",
    ),
    "a service's port twice": ("Service/nginx spec.ports.name=http.port", 443, "port (443, 'TCP') is there twice"),
    "no amount": (f"{SERVER}.resources.limits.memory", "1Gb", "server: limits.memory is no amount"),
    "nothing as an amount": (f"{SERVER}.resources.limits.cpu", 0, "server: limits.cpu is no amount"),
    "more than the limit": (f"{SERVER}.resources.requests.memory", "2Gi", "requests.memory is above limits.memory"),
    "a key in the open": (
        f"{SERVER}.env.+",
        {"name": "MLFLOW_TRACKING_TOKEN", "value": "secret"},
        "server: MLFLOW_TRACKING_TOKEN is told in the open",
    ),
    "a key in a ConfigMap": ("ConfigMap/forkcast data.API_KEY", "0123456789abcdef", "API_KEY is told in the open"),
    "nothing shut": ("NetworkPolicy/nobody spec.policyTypes", ["Ingress"], "NetworkPolicy: none has podSelector {}"),
    "a shut door with a rule": ("NetworkPolicy/nobody spec.ingress", [{}], "NetworkPolicy: none has podSelector {}"),
    "replicas open to all": (
        "NetworkPolicy/server spec.ingress.0.from",
        None,
        "NetworkPolicy/server: it opens [8000] to all",
    ),
    "replicas open to the internet": (
        "NetworkPolicy/server spec.ingress.0.from.+",
        {"ipBlock": {"cidr": "0.0.0.0/0"}},
        "NetworkPolicy/server: it opens [8000] to all",
    ),
    "Nginx without limits open to all": (
        "NetworkPolicy/nginx spec.ingress.0.ports.+",
        {"protocol": "TCP", "port": 8082},
        "NetworkPolicy/nginx: it opens [8080, 8082] to all",
    ),
    "a range of ports": ("NetworkPolicy/nginx spec.ingress.0.ports.0.endPort", 8443, "or a range of them"),
    "all ports": ("NetworkPolicy/server spec.ingress.0.ports", None, "NetworkPolicy/server: a rule names no ports"),
    "nobody let in": (
        "NetworkPolicy/nginx-https",
        None,
        "Deployment/nginx: no NetworkPolicy lets anybody in to port 8443",
    ),
    "replicas that nobody reaches": (
        "NetworkPolicy/server spec.ingress",
        None,
        "Deployment/server: no NetworkPolicy lets anybody in to port 8000",
    ),
    "another namespace": ("Service/server metadata.namespace", "x", "Service/server is in the namespace x"),
    "no namespace": ("Namespace/forkcast", None, "there are 0 Namespaces"),
    "a namespace that takes all": (
        "Namespace/forkcast metadata.labels.pod-security/.kubernetes/.io//enforce",
        "privileged",
        "Namespace/forkcast: its label pod-security.kubernetes.io/enforce is not restricted",
    ),
    "replicas by another name": (f"{NGINX}.env.name=REPLICAS.value", "srv:8000", "Deployment/nginx: REPLICAS=srv:8000"),
    "replicas on another port": (
        f"{NGINX}.env.name=REPLICAS.value",
        "server.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):80",
        "Deployment/nginx: REPLICAS=server.forkcast.svc.cluster.local:80 is no headless Service",
    ),
    "one address for all replicas": (
        "Service/server spec.clusterIP",
        None,
        "REPLICAS=server.forkcast.svc.cluster.local",
    ),
    "a plain probe of TLS": (
        f"{NGINX}.livenessProbe.httpGet.scheme",
        "HTTP",
        "Deployment/nginx: nginx: livenessProbe does not speak HTTPS to port 8443",
    ),
    "a probe of the door that leads on": (
        f"{NGINX}.livenessProbe.httpGet",
        {"path": "/null", "port": "http"},
        "nginx: livenessProbe asks port 8080, and TLS is on",
    ),
    "a probe by TLS of what has none": (
        f"{SERVER}.readinessProbe.httpGet.scheme",
        "HTTPS",
        "server: readinessProbe does not speak HTTP to port 8000",
    ),
    "less than the least": (
        "HorizontalPodAutoscaler/server spec.maxReplicas",
        2,
        "HorizontalPodAutoscaler/server: minReplicas is not within 1 to maxReplicas",
    ),
    "nothing to scale by": (
        "HorizontalPodAutoscaler/server spec.metrics",
        [],
        "HorizontalPodAutoscaler/server: it has no",
    ),
    "a budget of nothing": ("PodDisruptionBudget/server spec.maxUnavailable", 0, "server: it lets no pod go"),
    "two budgets": ("PodDisruptionBudget/server spec.minAvailable", 1, "server: it needs one of minAvailable and"),
    "a budget of all": (
        "PodDisruptionBudget/nginx spec",
        {"minAvailable": 2, "selector": {"matchLabels": {"app.kubernetes.io/component": "nginx"}}},
        "PodDisruptionBudget/nginx: it lets no pod go",
    ),
    "no replicas": ("Deployment/nginx spec.replicas", 0, "Deployment/nginx: replicas is 0"),
    "all at once": (
        "Deployment/server spec.strategy",
        {"type": "Recreate"},
        "Deployment/server: its strategy is not RollingUpdate with maxUnavailable 0",
    ),
    "a rollout that cannot begin": (
        "Deployment/server spec.strategy.rollingUpdate.maxSurge",
        0,
        "Deployment/server: maxSurge and maxUnavailable are both 0",
    ),
    "another door to the world": (
        "Service/nginx-inside spec.type",
        "NodePort",
        "Service/nginx-inside: type is NodePort, and only Service/nginx",
    ),
    "the inner door to the world": (
        "Service/nginx spec.ports.0.targetPort",
        "inside",
        "targetPort inside is not for the",
    ),
    "no selector": ("Service/server spec.selector", None, "Service/server: it has no selector"),
    "no such key": (f"{NGINX}.env.name=CLUSTER_DOMAIN.valueFrom.configMapKeyRef.key", "X", "has no X"),
    "no such key in a Secret": (
        f"{PODS}.volumes.name=keys.secret.items",
        [{"key": "kyes", "path": "keys"}],
        "Deployment/server: Secret/forkcast-api-keys has no kyes",
    ),
    "a setting that is none": ("ConfigMap/forkcast data.MAX_BODY_BYTES", "1M", "server: MAX_BODY_BYTES='1M': expected"),
    "a wait that is none": (
        "ConfigMap/forkcast data.GRACEFUL_TIMEOUT",
        "30s",
        "server: GRACEFUL_TIMEOUT='30s': expected",
    ),
    "a limit that is none": ("ConfigMap/forkcast data.CLIENT_REQUESTS", "100r/s", "nginx: CLIENT_REQUESTS='100r/s'"),
    "connections that are none": ("ConfigMap/forkcast data.CLIENT_CONNECTIONS", "-1", "nginx: CLIENT_CONNECTIONS='-1'"),
    "keys from elsewhere": (
        f"{SERVER}.env.name=API_KEYS_FILE.value",
        "/srv/keys",
        "server: API_KEYS_FILE=/srv/keys is no file of a Secret that is mounted",
    ),
    "a certificate that is not in its Secret": (
        f"{NGINX}.env.name=TLS_CERT.value",
        "/run/secrets/tls/cert.pem",
        "nginx: TLS_CERT=/run/secrets/tls/cert.pem is no file of a Secret",
    ),
    "a name that is none": ("Service/server metadata.name", "Server_1", "Service/Server_1: its name is no DNS label"),
    "a port that is none": ("Service/server spec.ports.0.port", 70000, "Service/server: port 70000 is not within 1 to"),
    "a Service of nothing": ("Service/server spec", None, "Service/server: spec is missing"),
    "a template of nothing": ("Deployment/nginx spec.template.spec", None, "Deployment/nginx: spec.template.spec is"),
    "no keys": (f"{SERVER}.env.name=API_KEYS_FILE", None, "server: API_KEYS_FILE is not set, and the overlay is for"),
    "no TLS": (f"{NGINX}.env.name=TLS_CERT.value", "", "nginx: TLS_CERT is not set, and the overlay is for the world"),
}


def spoilt(there: list[Manifest], where: str, value: Any) -> list[Manifest]:
    """With the value at that path set; None takes away, `+` appends, `key=value` finds in a list, `/` escapes."""
    thing, _, path = where.partition(" ")
    kind, _, name = thing.partition("/")
    named = (one for one in there if one["kind"] == kind)
    inner: Any = next(one for one in named if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", one["metadata"]["name"]))
    if not path:
        return [one for one in there if one is not inner]
    *steps, last = [re.sub("/(.)", r"\1", step) for step in re.split(r"(?<!/)\.", path)]
    for step in steps:
        inner = inner[position(inner, step)]
    if last == "+":
        inner.append(value)
    elif value is None:
        del inner[position(inner, last)]
    else:
        inner[position(inner, last)] = value
    return there


def position(inner: Any, step: str) -> Any:
    """A key of a mapping; of a list the place of what has this value under that key."""
    if isinstance(inner, dict):
        return step
    key, _, value = step.partition("=")
    return next(place for place, one in enumerate(inner) if one[key] == value) if value else int(step)


@pytest.mark.parametrize("what", DANGEROUS)
def test_dangerous_field_in_production_is_refused(rendered: dict[str, list[Manifest]], what: str) -> None:
    """One wrong field in what is for the world is refused by a line that names the object and the field."""
    where, value, words = DANGEROUS[what]
    found = check.faults(spoilt(copy.deepcopy(rendered["production"]), where, value))
    assert any(words in fault for fault in found), found


def test_secured_overlay_requires_keys_behind_any_service(rendered: dict[str, list[Manifest]]) -> None:
    """Behind another door production still needs its keys: it says so by itself."""
    there = spoilt(copy.deepcopy(rendered["production"]), "Service/nginx spec.type", "ClusterIP")
    assert check.faults(there) == []
    found = check.faults(spoilt(there, f"{SERVER}.env.name=API_KEYS_FILE", None))
    assert found == ["Deployment/server: server: API_KEYS_FILE is not set, and the overlay is for the world"]


@pytest.mark.parametrize("what", BROKEN)
def test_broken_field_in_demo_is_refused(demo: list[Manifest], what: str) -> None:
    """The check that every overlay passes refuses what is broken, and says where."""
    spoil, words = BROKEN[what]
    spoil(demo)
    assert any(words in fault for fault in check.faults(demo)), check.faults(demo)


def test_autoscaler_requires_target_without_replicas(rendered: dict[str, list[Manifest]]) -> None:
    """An autoscaler needs its target, and a target that has no number of replicas of its own."""
    there = copy.deepcopy(rendered["production"])
    find(there, "Deployment", "server")["spec"]["replicas"] = 3
    assert ["would undo the autoscaler's work" in fault for fault in check.faults(there)] == [True]
    find(there, "HorizontalPodAutoscaler", "server")["spec"]["scaleTargetRef"]["name"] = "servers"
    assert check.faults(there) == ["HorizontalPodAutoscaler/server: there is no Deployment/servers"]


@pytest.mark.usefixtures("no_docker")
@pytest.mark.parametrize("required", [False, True])
def test_missing_kubectl_fails_only_when_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: bool
) -> None:
    """Where kubectl is missing one line says so; where it was promised that is a failure."""
    monkeypatch.setenv("REQUIRE_KUBECTL", "1" if required else "")
    assert check.main([]) == int(required)
    told = capsys.readouterr()
    assert told.out + told.err == "deploy/kubernetes was not checked: there is no kubectl here\n"


@pytest.mark.parametrize(("version", "good"), [("v2.0.3", False), ("v4.5.7", False), ("v5.5.0", True), ("", False)])
def test_kubectl_with_old_kustomize_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, good: bool
) -> None:
    """A kubectl whose Kustomize is too old counts as none."""
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\necho 'Kustomize Version: {version}'\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (manifests.missing() is None) is good


@pytest.mark.parametrize("overlay", EVERY)
def test_pods_match_users_and_commands_of_images(rendered: dict[str, list[Manifest]], overlay: str) -> None:
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


def test_replicas_receive_known_settings(rendered: dict[str, list[Manifest]]) -> None:
    """What reaches a replica is read by it or by Nginx, and its stop is the one that Nginx and the cluster count on."""
    there = rendered["production"]
    (config,) = (one["data"] for one in there if re.fullmatch(r"forkcast-[a-z0-9]{10}", one["metadata"]["name"]))
    settings = Settings.from_env({**config, "WEB_CONCURRENCY": "1"})
    assert settings.graceful_timeout == 30
    assert settings.max_body_bytes == int(config["MAX_BODY_BYTES"])
    image = stage_variables("server")
    for variable in pod(there, "server").spec["containers"][0]["env"]:
        assert image.get(variable["name"], variable["value"]) == variable["value"]


def test_nginx_resolves_a_fully_qualified_name(rendered: dict[str, list[Manifest]]) -> None:
    """Nginx, which knows no search domains, is told the headless Service's whole name, by what comes before it."""
    variables = pod(rendered["demo"], "nginx").spec["containers"][0]["env"]
    service = find(rendered["demo"], "Service", "server")
    told = [variable["name"] for variable in variables]
    (replicas,) = (one["value"] for one in variables if one["name"] == "REPLICAS")
    assert replicas == "server.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):8000"
    assert {"NAMESPACE", "CLUSTER_DOMAIN"} <= set(told[: told.index("REPLICAS")])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is False


def test_model_settings_are_read_only_by_replicas(rendered: dict[str, list[Manifest]]) -> None:
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


def test_production_mounts_secrets_and_probes_over_tls(rendered: dict[str, list[Manifest]]) -> None:
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


def test_documentation_covers_every_overlay_and_secret() -> None:
    """Its page tells how each overlay is applied, and how each Secret that is its user's is made."""
    text = PAGE.read_text()
    assert all(f"overlays/{overlay}" in text for overlay in EVERY)
    assert all(secret in text for secret in names.SECRETS)
    for folder in re.findall(r"deploy/kubernetes/[\w/.-]*\w", text):
        assert (ROOT / folder).exists(), folder
