"""Rendered manifests run by plain Docker: the containers of a pod as a kubelet would start, ask and stop them.

What is the cluster's own is missing: scheduling, Services' addresses, policies. Names come from a DNS of ours, told by
the same selectors.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from deploy.checks.kubernetes.manifests import Manifest, Pod, pods

NAMESPACE = "forkcast"
DOMAIN = f"{NAMESPACE}.svc.cluster.local"
_UNITS = {"Mi": 2**20, "Gi": 2**30}


def docker(*arguments: str, status: int | None = 0) -> str:
    """Run `docker`; what it printed, on both streams."""
    ran = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert status is None or ran.returncode == status, ran.stdout + ran.stderr
    return (ran.stdout + ran.stderr).strip()


@dataclass
class Cluster:
    """One node, a network and a DNS, for the pods of some manifests; ``images`` is what stands before their names."""

    name: str
    manifests: Sequence[Manifest]
    images: str
    folder: Path
    secrets: dict[str, Path] = field(default_factory=dict)
    running: dict[str, Pod] = field(default_factory=dict)
    dns: str = ""

    @contextlib.contextmanager
    def up(self) -> Iterator[Cluster]:
        """With its DNS, until the block ends; then nothing is left."""
        docker("network", "create", "--label", f"cluster={self.name}", self.name)
        try:
            self.zone()
            image = f"{self.images}-server:latest"
            mounts = (
                "-v",
                f"{self.folder}:/zone:ro",
                "-v",
                f"{Path(__file__).with_name('cluster_dns.py')}:/cluster_dns.py:ro",
            )
            run = ("run", "-d", "--no-healthcheck", "--name", f"{self.name}-dns", "--network", self.name, *mounts)
            docker(*run, "--entrypoint", "python", image, "/cluster_dns.py", "/zone/names.json")
            self.dns = self.address("dns")
            search = f"search {DOMAIN} svc.cluster.local cluster.local\nnameserver {self.dns}\noptions ndots:5\n"
            (self.folder / "resolv.conf").write_text(search)
            yield self
        finally:
            for kind, listed in (("container", ("ps", "-aq", "--filter", f"name={self.name}-")),
                                 ("volume", ("volume", "ls", "-q", "--filter", f"name={self.name}-"))):  # fmt: skip
                if left := docker(*listed).split():
                    docker(kind, "rm", "--force", *left)
            docker("network", "rm", self.name)

    def address(self, name: str) -> str:
        """A container's own."""
        found = json.loads(docker("inspect", f"{self.name}-{name}"))[0]["NetworkSettings"]["Networks"]
        address: str = found[self.name]["IPAddress"]
        return address

    def zone(self, *, without: str = "") -> None:
        """Tell the DNS the names of all Services, and the pods that each of them means."""
        names = {}
        for one in self.manifests:
            if one["kind"] == "Service":
                meant = [
                    self.address(name)
                    for name, pod in self.running.items()
                    if one["spec"]["selector"].items() <= pod.labels.items() and name != without
                ]
                names[f"{one['metadata']['name']}.{DOMAIN}"] = meant
        draft = self.folder / "draft"
        draft.write_text(json.dumps({name: found for name, found in names.items() if found}))
        draft.rename(self.folder / "names.json")

    def pod(self, owner: str) -> Pod:
        """What a Deployment or a Job would make."""
        return next(one for one in pods(self.manifests) if one.owner == owner)

    def job(self, owner: str, *options: str) -> str:
        """Run a Job's pod to its end; what it printed."""
        pod = self.pod(owner)
        self._volumes(pod, owner)
        return self._run(pod, pod.spec["containers"][0], owner, "", *options)

    def start(self, owner: str, name: str, *options: str) -> None:
        """Run a pod's init containers, then its container, until its startup probe is content; then it has a name."""
        pod = self.pod(owner)
        self._volumes(pod, name)
        for number, one in enumerate(pod.spec.get("initContainers", [])):
            self._run(pod, one, name, f"init{number}")
        container = pod.spec["containers"][0]
        self._run(pod, container, name, "", "--detach", *options)
        probe = container.get("startupProbe")
        for _ in range(probe["failureThreshold"] if probe else 0):
            if self.content(pod, name, "startupProbe"):
                break
            time.sleep(probe["periodSeconds"])
        else:
            assert probe is None, docker("logs", f"{self.name}-{name}")
        self.running[name] = pod
        self.zone()

    def content(self, pod: Pod, name: str, kind: str) -> bool:
        """Whether a probe's answer is one of those that a kubelet takes for good."""
        ask = pod.spec["containers"][0][kind]["httpGet"]
        where = self.address(name), pod.ports[ask["port"]]
        unchecked = ssl._create_unverified_context()  # noqa: S323  (nor does a kubelet)
        secure = ask.get("scheme") == "HTTPS"
        connection = (
            HTTPSConnection(*where, timeout=5, context=unchecked) if secure else HTTPConnection(*where, timeout=5)
        )
        with contextlib.closing(connection):
            try:
                connection.request("GET", ask["path"])
                return 200 <= connection.getresponse().status < 400
            except (OSError, HTTPException):
                return False

    def stop(self, name: str, *, withdrawn: float) -> tuple[int, float]:
        """End a pod: out of the DNS, ``withdrawn`` seconds for that, then the image's signal: its status, seconds."""
        pod = self.running[name]
        sleep = pod.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.zone(without=name)
        time.sleep(withdrawn)
        began = time.monotonic()
        docker("stop", "--time", str(pod.spec["terminationGracePeriodSeconds"] - sleep), f"{self.name}-{name}")
        took = time.monotonic() - began
        del self.running[name]
        return json.loads(docker("inspect", f"{self.name}-{name}"))[0]["State"]["ExitCode"], took

    def _volumes(self, pod: Pod, name: str) -> None:
        """Empty, for the pod's group, as a kubelet makes them."""
        group = pod.spec["securityContext"]["fsGroup"]
        made = [one for one in self._mounts(pod, name).values() if one.startswith(self.name)]
        mounts = [part for one in made for part in ("-v", f"{one}:/made/{one}")]
        command = f"chown 0:{group} /made/* && chmod 2777 /made/*"
        docker(
            "run", "--rm", "--user", "0", *mounts, "--entrypoint", "sh", f"{self.images}-server:latest", "-c", command
        )

    def _mounts(self, pod: Pod, name: str) -> dict[str, str]:
        """By the names of volumes: Docker's volumes, host folders of Secrets, or memory."""
        found = {}
        for volume in pod.spec.get("volumes", []):
            if "secret" in volume:
                found[volume["name"]] = str(self.secrets[volume["secret"]["secretName"]])
            elif volume.get("emptyDir", {}).get("medium") == "Memory":
                found[volume["name"]] = "memory"
            else:
                found[volume["name"]] = f"{self.name}-{name}-{volume['name']}"
        return found

    def _run(self, pod: Pod, one: dict[str, Any], name: str, suffix: str = "", *options: str) -> str:
        user = pod.spec["securityContext"]
        limits = one["resources"]["limits"]
        environ = self._environ(one)
        given = [part for key, value in environ.items() for part in ("-e", f"{key}={value}")]
        for mount in one["volumeMounts"]:
            source = self._mounts(pod, name)[mount["name"]]
            mode = ":ro" if mount.get("readOnly") else ""
            tmpfs = ("--tmpfs", f"{mount['mountPath']}:mode=1777,size=64m")
            given += tmpfs if source == "memory" else ("-v", f"{source}:{mount['mountPath']}{mode}")
        image = re.sub(r"^.*?forkcast", self.images, one["image"]).partition(":")[0]
        words = [re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], word) for word in one.get("args", [])]
        command = one.get("command", [])
        entrypoint = ("--entrypoint", command[0]) if command else ()
        return docker(
            "run", "--no-healthcheck", "--name", f"{self.name}-{name}{suffix}", "--network", self.name,
            *options, *given, *entrypoint,
            "-v", f"{self.folder}/resolv.conf:/etc/resolv.conf:ro",
            "--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--group-add", str(user["fsGroup"]),
            "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--memory", str(_bytes(limits["memory"])), "--memory-swap", str(_bytes(limits["memory"])),
            "--cpus", str(_cpus(limits["cpu"])), f"{image}:latest", *command[1:], *words,
        )  # fmt: skip

    def _environ(self, one: dict[str, Any]) -> dict[str, str]:
        """As a kubelet makes it: whole ConfigMaps, then one after another, each of which may name those before."""
        data = {(it["kind"], it["metadata"]["name"]): it.get("data", {}) for it in self.manifests}
        environ: dict[str, str] = {}
        for source in one.get("envFrom", []):
            if "configMapRef" in source:
                environ |= data["ConfigMap", source["configMapRef"]["name"]]
        for variable in one.get("env", []):
            source = variable.get("valueFrom", {})
            value = variable.get("value", NAMESPACE if "fieldRef" in source else "")
            if "configMapKeyRef" in source:
                value = data["ConfigMap", source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
            environ[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], value)
        return environ


def _bytes(told: str) -> int:
    return int(told[:-2]) * _UNITS[told[-2:]]


def _cpus(told: str) -> float:
    return int(told[:-1]) / 1000 if told.endswith("m") else float(told)
