"""Tests of the manifests in deploy/kubernetes as kubectl renders them, and of the check that lists faults."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.backends.docker.engine import SERVICES
from deploy.checks.kubernetes import __main__ as check
from deploy.checks.kubernetes import manifests, references
from deploy.checks.kubernetes.manifests import OVERLAYS, Manifest, Pod
from deploy.stack.paths import ROOT
from server.settings import Settings
from tests.support.dockerfile import stage_variables

OVERLAY_NAMES = sorted(path.name for path in OVERLAYS.iterdir())
PAGE = ROOT / "docs/kubernetes.md"
ALL_COMPONENTS = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: other
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
    """Skip if kubectl cannot render manifests, or fail if REQUIRE_KUBECTL is set, as in CI."""
    reason = manifests.missing()
    if reason and os.environ.get("REQUIRE_KUBECTL"):
        pytest.fail(f"REQUIRE_KUBECTL is set, but {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def rendered(kubectl: None) -> dict[str, list[Manifest]]:  # noqa: ARG001
    """The manifests of every overlay."""
    return {name: manifests.render(OVERLAYS / name) for name in OVERLAY_NAMES}


def find(objects: list[Manifest], kind: str, name: str) -> Any:
    (match,) = (item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name)
    return match


def find_pod(objects: list[Manifest], owner: str) -> Pod:
    (match,) = (pod for pod in manifests.pods(objects) if pod.owner == owner)
    return match


def write_overlay(tmp_path: Path, patch: str) -> Path:
    """Write an overlay with all components, in a namespace with another name."""
    folder = tmp_path / "all-components"
    folder.mkdir()
    root = os.path.relpath(OVERLAYS.parent, folder.resolve())
    components = ", ".join(
        f"{root}/components/{path.name}" for path in sorted((OVERLAYS.parent / "components").iterdir())
    )
    (folder / "kustomization.yaml").write_text(ALL_COMPONENTS.format(root=root, components=components, patch=patch))
    return folder


@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_every_overlay_passes_the_checks(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Every overlay is without faults, and all its objects are in its namespace."""
    assert check.faults(rendered[name]) == []
    assert {item["metadata"].get("namespace") for item in rendered[name]} == {None, "forkcast"}


@pytest.mark.usefixtures("kubectl")
def test_all_components_pass_in_one_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All components fit into one overlay with another namespace; a wrong field fails the command and is named."""
    folder = write_overlay(tmp_path, "- {op: replace, path: /spec/maxReplicas, value: 7}")
    assert check.main([folder]) == 0
    objects = manifests.render(folder)
    assert {item["metadata"].get("namespace") for item in objects} == {None, "other"}
    assert find(objects, "Namespace", "other")
    folder.joinpath("kustomization.yaml").write_text(
        folder.joinpath("kustomization.yaml").read_text().replace("/spec/maxReplicas, value: 7", "/spec/most, value: 7")
        .replace("op: replace", "op: add")
    )  # fmt: skip
    assert check.main([folder]) == 1
    assert (
        "HorizontalPodAutoscaler/server: spec must match the schema of Kubernetes 1.30: Additional"
        in capsys.readouterr().err
    )


@pytest.mark.usefixtures("kubectl")
def test_documented_overlay_passes_the_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The overlay in the documentation passes with one line, and every pod has the images that it sets."""
    (text,) = re.findall(r"```yaml\n(apiVersion: kustomize.*?)```", PAGE.read_text(), re.DOTALL)
    folder = tmp_path / "cluster"
    folder.mkdir()
    (tmp_path / "forkcast").symlink_to(ROOT)
    (folder / "kustomization.yaml").write_text(text)
    assert check.main([folder]) == 0
    objects = manifests.render(folder)
    assert capsys.readouterr().out == f"deploy/kubernetes: no faults in cluster ({len(objects)} objects)\n"
    images = {container["image"] for pod in manifests.pods(objects) for container in pod.containers}
    assert images == {f"registry.acme.example/forkcast-{name}:v2" for name in ("server", "model", "nginx", "locust")}
    assert {"MODEL_URI": "models:/covertype/2"} in [item.get("data") for item in objects]


@pytest.mark.usefixtures("kubectl")
def test_render_failure_reports_the_kubectl_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that kubectl cannot render fails with the error of kubectl."""
    assert check.main([write_overlay(tmp_path, "- {op: remove, path: /spec/none}")]) == 1
    assert "/spec/none" in capsys.readouterr().err


# Each entry is a mutation of `production`: the path to change, the new value (None removes it, `+` appends), and the
# beginning of the fault, without the object if it is the one of the path.
DEPLOYMENT = {name: f"Deployment/{name} spec.template.spec" for name in ("server", "nginx")}
SERVER, NGINX = (f"{path}.containers.0" for path in DEPLOYMENT.values())
PODS = DEPLOYMENT["server"]
COMPONENT = "app/.kubernetes/.io//component"
ENFORCE = "Namespace/forkcast metadata.labels.pod-security/.kubernetes/.io//enforce"
UPSTREAM = "Deployment/nginx: REPLICAS must be a headless Service and a port of its pods, got"
PROJECTED_TOKEN = {"name": "models", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
FAULTS: list[tuple[str, Any, str]] = [
    # schemas
    (f"{SERVER}.comand", ["x"], "spec.template.spec.containers.0 must match the schema of Kubernetes 1.30: Additional"),
    (
        "Deployment/nginx spec.replicas",
        "two",
        "spec.replicas must match the schema of Kubernetes 1.36: 'two' is not of type",
    ),
    ("Service/server kind", "Pud", "Pud/server: kind must be in the API of Kubernetes 1.30"),
    ("Service/server spec", None, "spec must be set"),
    ("Deployment/nginx spec.template.spec", None, "spec.template.spec must"),
    ("Service/server metadata.name", "Server_1", "Service/Server_1: metadata.name must be a DNS label, got Server_1"),
    ("Service/server spec.ports.0.port", 70000, "port must be 1 to 65535, got 70000"),
    (f"{SERVER}.ports.0.name", "a-port-of-the-replica", "server: port names must be 1 to 15 of a-z, 0-9 and -"),
    (f"{SERVER}.env.+", {"name": "VAR_DIR", "value": "/x"}, "server: env must be unique, got 2 times VAR_DIR"),
    (f"{PODS}.volumes.+", {"name": "tmp", "emptyDir": {"sizeLimit": 1}}, "names of volumes must be unique"),
    (f"{SERVER}.volumeMounts.name=tmp.mountPath", "/var/lib/forkcast/models/", "server: mountPath must be unique"),
    ("Service/nginx spec.ports.name=http.port", 443, "ports must be unique, got 2 times 443/TCP"),
    # references
    ("Namespace/forkcast", None, "Namespace: must be defined once, got 0 times"),
    (ENFORCE, "privileged", "label pod-security.kubernetes.io/enforce must be restricted, got privileged"),
    (ENFORCE, None, "label pod-security.kubernetes.io/enforce must be restricted, got nothing"),
    (f"{ENFORCE}-version", "v1.20", "label pod-security.kubernetes.io/enforce-version must be latest, got v1.20"),
    ("Service/server metadata.namespace", "x", "metadata.namespace must be forkcast, got x"),
    ("Service/server metadata.namespace", None, "metadata.namespace must be forkcast, got nothing"),
    ("ConfigMap/forkcast", None, "Deployment/nginx: references must be to existing objects, got ConfigMap/forkcast"),
    (f"{SERVER}.envFrom.+", {"secretRef": {"name": "mine"}}, "references must be to existing objects, got Secret/mine"),
    (f"{NGINX}.env.name=CLUSTER_DOMAIN.valueFrom.configMapKeyRef.key", "X", "keys of ConfigMap/forkcast"),
    (
        f"{PODS}.volumes.name=keys.secret.items",
        [{"key": "kyes", "path": "keys"}],
        "keys of Secret/forkcast-api-keys must exist",
    ),
    # services
    ("Service/server spec.selector.tier", "x", "selector must match a pod, got {"),
    ("Service/server spec.selector", None, "selector must match a pod, got nothing"),
    ("Service/nginx spec.ports.0.targetPort", "htp", "targetPort must be a port of Deployment/nginx, got htp"),
    ("Service/nginx spec.ports.0.targetPort", "inside", "targetPort must be a public port [8080, 8443], got inside"),
    ("Service/nginx-inside spec.type", "NodePort", "type must be ClusterIP for all but Service/nginx, got NodePort"),
    ("Service/server spec.externalIPs", ["192.0.2.1"], 'externalIPs must be unset, got ["192.0.2.1"]'),
    (f"Deployment/server spec.selector.matchLabels.{COMPONENT}", None, "selector must match its own pods only"),
    (
        f"{PODS}.topologySpreadConstraints.0",
        {"maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}},
        "nodeTaintsPolicy must be Honor with DoNotSchedule",
    ),
    (f"{NGINX}.env.name=REPLICAS.value", "srv:8000", f"{UPSTREAM} srv:8000"),
    (
        f"{NGINX}.env.name=REPLICAS.value",
        "server.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):80",
        f"{UPSTREAM} server.forkcast.svc.cluster.local:80",
    ),
    ("Service/server spec.clusterIP", None, f"{UPSTREAM} server.forkcast"),
    # network_policies
    ("NetworkPolicy/nobody spec.policyTypes", ["Ingress"], "NetworkPolicy: one must"),
    ("NetworkPolicy/nobody spec.ingress", [{}], "NetworkPolicy: one must have podSelector"),
    ("NetworkPolicy/server spec.podSelector.matchLabels.tier", "x", "podSelector must match a pod, got {"),
    (
        "NetworkPolicy/server spec.ingress.0.from.0.podSelector.matchLabels.tier",
        "x",
        "podSelector of a peer must match a pod",
    ),
    ("NetworkPolicy/server spec.ingress.0.ports.0.port", 80, "ports must be ports of its pods, got 80"),
    ("NetworkPolicy/nginx spec.ingress.0.ports.0.endPort", 8443, "ports of each rule must be single numbers, got ["),
    ("NetworkPolicy/server spec.ingress.0.ports", None, "ports of each rule must be single numbers, got nothing"),
    ("NetworkPolicy/server spec.policyTypes", ["Egress"], 'policyTypes must include Ingress, got ["Egress"]'),
    ("NetworkPolicy/server spec.ingress.0.from", None, "only the public ports of nginx must be open to all"),
    ("NetworkPolicy/server spec.ingress.0.from.+", {}, "only the public ports of nginx must be open to all"),
    (
        "NetworkPolicy/server spec.ingress.0.from.+",
        {"ipBlock": {"cidr": "0.0.0.0/0"}},
        "only the public ports of nginx must be open to all",
    ),
    (
        "NetworkPolicy/nginx spec.ingress.0.ports.+",
        {"protocol": "TCP", "port": 8082},
        "only the public ports of nginx must be open to all",
    ),
    ("NetworkPolicy/nginx-https", None, "Deployment/nginx: port 8443 must be opened by a NetworkPolicy, got none"),
    ("NetworkPolicy/server spec.ingress", None, "Deployment/server: port 8000 must be opened by a NetworkPolicy"),
    # pods
    (f"{PODS}.automountServiceAccountToken", True, "automountServiceAccountToken must be false, got true"),
    (f"{PODS}.shareProcessNamespace", True, "shareProcessNamespace must be unset, got true"),
    (f"{PODS}.serviceAccountName", "admin", "serviceAccountName must be unset, got admin"),
    (f"{PODS}.securityContext.supplementalGroups", [0], "groups of the securityContext must not be root's, got 0"),
    (
        f"{SERVER}.securityContext.readOnlyRootFilesystem",
        None,
        "server: readOnlyRootFilesystem must be true, got nothing",
    ),
    (f"{SERVER}.resources.limits", None, "server: resources.limits.memory must be set, got nothing"),
    (f"{SERVER}.resources.limits.memory", "1Gb", "server: resources.limits.memory must be an amount above 0, got 1Gb"),
    (f"{SERVER}.resources.limits.cpu", 0, "server: resources.limits.cpu must be an amount above 0, got 0"),
    (f"{SERVER}.resources.requests.memory", "2Gi", "server: resources.requests.memory must be at most the limit 1Gi"),
    (f"{SERVER}.image", "redis:7", "server: image must be a Forkcast image with a tag, got redis:7"),
    (f"{SERVER}.image", "forkcast-server", "server: image must be a Forkcast image with a tag, got forkcast-server"),
    (f"{SERVER}.imagePullPolicy", None, "server: imagePullPolicy must be IfNotPresent, got nothing"),
    (
        f"{PODS}.terminationGracePeriodSeconds",
        45,
        "terminationGracePeriodSeconds must be at least 55 (preStop, GRACEFUL_TIMEOUT and 10), got",
    ),
    (f"{PODS}.volumes.name=shm", None, "volumeMounts must name a volume of the pod, got shm"),
    (f"{PODS}.volumes.+", {"name": "more", "emptyDir": {"sizeLimit": 1}}, "volumes must be mounted, got more"),
    (f"{PODS}.volumes.name=tmp.emptyDir", {}, "volume tmp: emptyDir.sizeLimit must be an amount above 0, got nothing"),
    (f"{PODS}.volumes.name=models", PROJECTED_TOKEN, "volume models: projected sources must be configMap or secret"),
    (f"{PODS}.volumes.name=keys.secret.optional", True, "volume keys: secret.optional must be unset or false"),
    (f"{SERVER}.volumeMounts.name=keys.subPath", "keys", "volume keys: subPath must be unset for a Secret"),
    # probes
    (f"{SERVER}.readinessProbe", None, "server: readinessProbe.httpGet must be set, got nothing"),
    (
        f"{SERVER}.readinessProbe.httpGet.path",
        "/reddy",
        "server: readinessProbe.httpGet: path must be /health or /ping or /ready",
    ),
    (
        f"{NGINX}.livenessProbe.httpGet.path",
        "/ready",
        "nginx: livenessProbe.httpGet: path must be /null or /stub_status",
    ),
    (f"{SERVER}.livenessProbe.httpGet.port", 80, "server: livenessProbe.httpGet.port must be a port of the container"),
    (
        f"{NGINX}.livenessProbe.httpGet.scheme",
        "HTTP",
        "nginx: livenessProbe.httpGet: scheme must be HTTPS on port 8443",
    ),
    (
        f"{NGINX}.livenessProbe.httpGet",
        {"path": "/null", "port": "http"},
        "nginx: livenessProbe.httpGet: port must not be 8080 while TLS is on",
    ),
    (
        f"{SERVER}.readinessProbe.httpGet.scheme",
        "HTTPS",
        "server: readinessProbe.httpGet: scheme must be HTTP on port 8000",
    ),
    # replica_counts
    ("HorizontalPodAutoscaler/server spec.maxReplicas", 2, "minReplicas must be 1 to maxReplicas (2), got 3"),
    ("HorizontalPodAutoscaler/server spec.metrics", [], "metrics must be set, got nothing"),
    ("HorizontalPodAutoscaler/server spec.scaleTargetRef.name", "servers", "scaleTargetRef must be an existing object"),
    (
        "Deployment/server spec.replicas",
        3,
        "HorizontalPodAutoscaler/server: replicas of Deployment/server must be unset beside an autoscaler",
    ),
    ("PodDisruptionBudget/server spec.maxUnavailable", 0, 'one of 3 pods must be evictable, got {"maxUnavailable": 0}'),
    ("PodDisruptionBudget/server spec.minAvailable", 1, "one of minAvailable and maxUnavailable must be set, got {"),
    (
        "PodDisruptionBudget/nginx spec",
        {"minAvailable": 2, "selector": {"matchLabels": {"app.kubernetes.io/component": "nginx"}}},
        "one of 2 pods must be evictable",
    ),
    ("PodDisruptionBudget/nginx spec.selector.matchLabels.tier", "x", "selector must match a pod, got {"),
    ("Deployment/nginx spec.replicas", 0, "replicas must be at least 1, got 0"),
    ("Deployment/server spec.strategy", {"type": "Recreate"}, "strategy must be RollingUpdate with maxUnavailable 0"),
    ("Deployment/server spec.strategy.rollingUpdate.maxSurge", 0, "maxSurge or maxUnavailable must be above 0"),
    # environment
    (
        f"{SERVER}.env.+",
        {"name": "MLFLOW_TRACKING_TOKEN", "value": "secret"},
        "server: MLFLOW_TRACKING_TOKEN must come from a Secret",
    ),
    ("ConfigMap/forkcast data.API_KEY", "0123456789abcdef", "Deployment/nginx: nginx: API_KEY must come from a Secret"),
    (
        "ConfigMap/forkcast data.GRACEFUL_TIMEOUT",
        "30s",
        "Deployment/server: server: GRACEFUL_TIMEOUT='30s': expected a whole number",
    ),
    (
        "ConfigMap/forkcast data.CLIENT_REQUESTS",
        "100r/s",
        "Deployment/nginx: nginx: CLIENT_REQUESTS='100r/s': expected a whole number from 1 to 1000000",
    ),
    (f"{SERVER}.env.name=API_KEYS_FILE.value", "/srv/keys", "server: API_KEYS_FILE must be a file of a mounted Secret"),
    (
        f"{NGINX}.env.name=TLS_CERT.value",
        "/run/secrets/tls/cert.pem",
        "nginx: TLS_CERT must be a file of a mounted Secret",
    ),
    (f"{SERVER}.env.name=API_KEYS_FILE", None, "server: API_KEYS_FILE must be set in a public overlay, got nothing"),
    (f"{NGINX}.env.name=TLS_CERT.value", "", "nginx: TLS_CERT must be set in a public overlay, got nothing"),
    (f"{NGINX}.env.name=TLS_CERT.value", "", "nginx: TLS_CERT and TLS_KEY must be set together, got TLS_KEY"),
]


def mutated(objects: list[Manifest], where: str, value: Any) -> list[Manifest]:
    """Return the manifests with a value at a path, in which `key=value` finds an entry of a list, and `/` escapes."""
    target, _, path = where.partition(" ")
    kind, _, name = target.partition("/")
    of_kind = (item for item in objects if item["kind"] == kind)
    inner: Any = next(item for item in of_kind if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", item["metadata"]["name"]))
    if not path:
        return [item for item in objects if item is not inner]
    *steps, last = [re.sub("/(.)", r"\1", step) for step in re.split(r"(?<!/)\.", path)]
    for step in steps:
        inner = inner[position(inner, step)]
    if last == "+":
        inner.append(value)
    elif value is None:
        del inner[position(inner, last)]
    else:
        inner[position(inner, last)] = value
    return objects


def position(inner: Any, step: str) -> Any:
    """Return the key of a mapping, or the index in a list of the entry that has this value under that key."""
    if isinstance(inner, dict):
        return step
    key, _, value = step.partition("=")
    return next(index for index, entry in enumerate(inner) if entry[key] == value) if value else int(step)


@pytest.fixture
def production(rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    """A copy of the production overlay that a test may change."""
    return copy.deepcopy(rendered["production"])


@pytest.mark.parametrize(("where", "value", "fault"), FAULTS, ids=[fault for *_, fault in FAULTS])
def test_fault_in_production_names_object_and_field(
    production: list[Manifest], where: str, value: Any, fault: str
) -> None:
    """Each wrong field is refused by a line that names the object, the field, and what was expected."""
    lines = check.faults(mutated(production, where, value))
    assert any(line.startswith((fault, f"{where.split(maxsplit=1)[0]}: {fault}")) for line in lines), lines


def test_secured_overlay_requires_keys_behind_any_service(production: list[Manifest]) -> None:
    """An overlay with the annotation requires API keys even if no Service is public."""
    closed = mutated(production, "Service/nginx spec.type", "ClusterIP")
    assert check.faults(closed) == []
    lines = check.faults(mutated(closed, f"{SERVER}.env.name=API_KEYS_FILE", None))
    assert lines == ["Deployment/server: server: API_KEYS_FILE must be set in a public overlay, got nothing"]


@pytest.mark.usefixtures("no_docker")
@pytest.mark.parametrize("required", [False, True])
def test_missing_kubectl_fails_only_when_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: bool
) -> None:
    """Without kubectl the command says so in one line, and fails only if REQUIRE_KUBECTL is set."""
    monkeypatch.setenv("REQUIRE_KUBECTL", "1" if required else "")
    assert check.main([]) == int(required)
    output = capsys.readouterr()
    assert output.out + output.err == "not checked: deploy/kubernetes, because kubectl is missing\n"


@pytest.mark.parametrize(("version", "accepted"), [("v2.0.3", False), ("v4.5.7", False), ("v5.5.0", True), ("", False)])
def test_kubectl_with_old_kustomize_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, accepted: bool
) -> None:
    """A kubectl whose Kustomize is too old counts as missing."""
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\necho 'Kustomize Version: {version}'\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (manifests.missing() is None) is accepted


@pytest.mark.parametrize("overlay", OVERLAY_NAMES)
def test_pods_match_users_and_commands_of_images(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    """The users and commands of the pods are those of the images, and their modules exist."""
    dockerfile = (ROOT / "deploy/images/Dockerfile").read_text()
    for pod in manifests.pods(rendered[overlay]):
        user = pod.spec["securityContext"]
        nginx = pod.owner == "nginx"
        assert (user["runAsUser"], user["runAsGroup"], user["fsGroup"]) == (3 * (101,) if nginx else 3 * (10001,))
        assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
        for container in pod.containers:
            command = container.get("command", [])
            assert nginx or command[:3] == ["dumb-init", "--single-child", "--"]
            if "deploy" in " ".join(command):
                assert importlib.util.find_spec(command[-1])


@pytest.mark.parametrize("overlay", OVERLAY_NAMES)
def test_pods_meet_the_pod_security_level(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    """The pods of our overlays set what the level `restricted` requires, so that a cluster creates them."""
    for pod in manifests.pods(rendered[overlay]):
        user = pod.spec["securityContext"]
        assert (user["runAsNonRoot"], user["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        for container in pod.containers:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_replicas_receive_known_settings(rendered: dict[str, list[Manifest]]) -> None:
    """The settings of a replica are valid, and its variables have the values of its image."""
    objects = rendered["production"]
    (config,) = (item["data"] for item in objects if re.fullmatch(r"forkcast-[a-z0-9]{10}", item["metadata"]["name"]))
    settings = Settings.from_env({**config, "WEB_CONCURRENCY": "1"})
    assert settings.graceful_timeout == 30
    assert settings.max_body_bytes == int(config["MAX_BODY_BYTES"])
    image = stage_variables("server")
    for variable in find_pod(objects, "server").spec["containers"][0]["env"]:
        assert image.get(variable["name"], variable["value"]) == variable["value"]


def test_nginx_resolves_a_fully_qualified_name(rendered: dict[str, list[Manifest]]) -> None:
    """Nginx, which uses no search domains, gets the full name of a headless Service from variables defined earlier."""
    variables = find_pod(rendered["demo"], "nginx").spec["containers"][0]["env"]
    service = find(rendered["demo"], "Service", "server")
    names = [variable["name"] for variable in variables]
    (replicas,) = (variable["value"] for variable in variables if variable["name"] == "REPLICAS")
    assert replicas == "server.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):8000"
    assert {"NAMESPACE", "CLUSTER_DOMAIN"} <= set(names[: names.index("REPLICAS")])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is False


def test_model_settings_are_read_only_by_replicas(rendered: dict[str, list[Manifest]]) -> None:
    """A change of the model renames the ConfigMap that only replicas read, so that only they are replaced."""
    objects = rendered["production"]
    readers = {
        pod.owner
        for pod in manifests.pods(objects)
        for container in pod.containers
        for source in container.get("envFrom", [])
        if source.get("configMapRef", {}).get("name", "").startswith("forkcast-model-")
    }
    assert readers == {"server"}
    assert find(objects, "Deployment", "server")["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }


def test_production_mounts_secrets_and_probes_over_tls(rendered: dict[str, list[Manifest]]) -> None:
    """The production overlay mounts keys and certificates readable to their group, and probes Nginx over TLS."""
    server, nginx = (find_pod(rendered["production"], name) for name in ("server", "nginx"))
    mounts = {
        mount["mountPath"]: (volume["secret"]["secretName"], volume["secret"]["defaultMode"])
        for pod in (server, nginx)
        for volume in pod.spec["volumes"]
        if "secret" in volume
        for mount in pod.spec["containers"][0]["volumeMounts"]
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
    """Each overlay names exactly the images that `make publish` pushes for a cluster."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    built = {
        service["image"].partition("}}-")[2].partition(":")[0] for service in compose.values() if "build" in service
    }
    in_cluster = {"server", "model", "nginx", "locust"}
    assert in_cluster <= built
    assert set(SERVICES) - {"locust-worker"} <= in_cluster
    for overlay in OVERLAY_NAMES:
        images = yaml.safe_load((OVERLAYS / overlay / "kustomization.yaml").read_text())["images"]
        assert {image["name"] for image in images} == {f"forkcast-{name}" for name in in_cluster}


def test_documentation_covers_every_overlay_and_secret() -> None:
    """The documentation says how to apply each overlay and how to create each Secret, and its paths exist."""
    text = PAGE.read_text()
    assert all(f"overlays/{overlay}" in text for overlay in OVERLAY_NAMES)
    assert all(secret in text for secret in references.SECRETS)
    for folder in re.findall(r"deploy/kubernetes/[\w/.-]*\w", text):
        assert (ROOT / folder).exists(), folder
