"""Rendered manifests run by plain Docker: starts, probes and stops the containers of pods as a kubelet does.

Features of the cluster itself are missing: scheduling, addresses of Services, network policies. A DNS server of the
tests resolves the names of Services to the pods that their selectors match.
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
    """Run `docker` and return its output of both streams; ``status`` is the required exit status, or None for any."""
    ran = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert status is None or ran.returncode == status, ran.stdout + ran.stderr
    return (ran.stdout + ran.stderr).strip()


@dataclass
class Cluster:
    """A node, a network and a DNS server for the pods of some manifests; ``images`` is the prefix of image names."""

    name: str
    manifests: Sequence[Manifest]
    images: str
    folder: Path
    secrets: dict[str, Path] = field(default_factory=dict)
    running: dict[str, Pod] = field(default_factory=dict)
    dns: str = ""

    @contextlib.contextmanager
    def up(self) -> Iterator[Cluster]:
        """Create the network and the DNS server; remove everything of the cluster when the block ends."""
        docker("network", "create", "--label", f"cluster={self.name}", self.name)
        try:
            self.write_zone()
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
            name_filter = ("--filter", f"name={self.name}-")
            for object_type, list_command in (("container", ("ps", "-aq")), ("volume", ("volume", "ls", "-q"))):
                if leftovers := docker(*list_command, *name_filter).split():
                    docker(object_type, "rm", "--force", *leftovers)
            docker("network", "rm", self.name)

    def address(self, name: str) -> str:
        """Return the IP address of a container."""
        networks = json.loads(docker("inspect", f"{self.name}-{name}"))[0]["NetworkSettings"]["Networks"]
        address: str = networks[self.name]["IPAddress"]
        return address

    def write_zone(self, *, without: str = "") -> None:
        """Tell the DNS server the name of each Service and the addresses of its pods, except the pod ``without``."""
        names = {}
        for manifest in self.manifests:
            if manifest["kind"] == "Service":
                names[f"{manifest['metadata']['name']}.{DOMAIN}"] = [
                    self.address(name)
                    for name, pod in self.running.items()
                    if manifest["spec"]["selector"].items() <= pod.labels.items() and name != without
                ]
        draft = self.folder / "draft"
        draft.write_text(json.dumps({name: addresses for name, addresses in names.items() if addresses}))
        draft.rename(self.folder / "names.json")

    def find_pod(self, owner: str) -> Pod:
        """Return the pod that a Deployment or a Job would create."""
        return next(pod for pod in pods(self.manifests) if pod.owner == owner)

    def run_job(self, owner: str, *options: str) -> str:
        """Run a Job's pod until it ends, and return its output."""
        pod = self.find_pod(owner)
        self._create_volumes(pod, owner)
        return self._run(pod, pod.spec["containers"][0], owner, "", *options)

    def start(self, owner: str, name: str, *options: str) -> None:
        """Run a pod's init containers, start its container, wait for its startup probe, and register it in the DNS."""
        pod = self.find_pod(owner)
        self._create_volumes(pod, name)
        for number, init_container in enumerate(pod.spec.get("initContainers", [])):
            self._run(pod, init_container, name, f"init{number}")
        container = pod.spec["containers"][0]
        self._run(pod, container, name, "", "--detach", *options)
        probe = container.get("startupProbe")
        for _ in range(probe["failureThreshold"] if probe else 0):
            if self.probe_succeeds(pod, name, "startupProbe"):
                break
            time.sleep(probe["periodSeconds"])
        else:
            assert probe is None, docker("logs", f"{self.name}-{name}")
        self.running[name] = pod
        self.write_zone()

    def probe_succeeds(self, pod: Pod, name: str, probe: str) -> bool:
        """Return whether a probe of a pod gets a status from 200 to 399, which a kubelet accepts."""
        target = pod.spec["containers"][0][probe]["httpGet"]
        address = self.address(name), pod.ports[target["port"]]
        unchecked = ssl._create_unverified_context()  # noqa: S323  (kubelets do not check certificates)
        secure = target.get("scheme") == "HTTPS"
        connection = (
            HTTPSConnection(*address, timeout=5, context=unchecked) if secure else HTTPConnection(*address, timeout=5)
        )
        with contextlib.closing(connection):
            try:
                connection.request("GET", target["path"])
                return 200 <= connection.getresponse().status < 400
            except (OSError, HTTPException):
                return False

    def stop(self, name: str, *, withdrawn: float) -> tuple[int, float]:
        """Remove a pod from the DNS, wait ``withdrawn`` seconds, and stop it.

        Returns:
            The exit status, and the seconds that the stop took.
        """
        pod = self.running[name]
        sleep = pod.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.write_zone(without=name)
        time.sleep(withdrawn)
        started = time.monotonic()
        docker("stop", "--time", str(pod.spec["terminationGracePeriodSeconds"] - sleep), f"{self.name}-{name}")
        seconds = time.monotonic() - started
        del self.running[name]
        return json.loads(docker("inspect", f"{self.name}-{name}"))[0]["State"]["ExitCode"], seconds

    def _create_volumes(self, pod: Pod, name: str) -> None:
        """Create the pod's empty volumes with the pod's group as their owner, as a kubelet does."""
        group = pod.spec["securityContext"]["fsGroup"]
        volumes = [source for source in self._mounts(pod, name).values() if source.startswith(self.name)]
        mounts = [argument for volume in volumes for argument in ("-v", f"{volume}:/volumes/{volume}")]
        command = f"chown 0:{group} /volumes/* && chmod 2777 /volumes/*"
        docker(
            "run", "--rm", "--user", "0", *mounts, "--entrypoint", "sh", f"{self.images}-server:latest", "-c", command
        )

    def _mounts(self, pod: Pod, name: str) -> dict[str, str]:
        """Return the source of each of the pod's volumes: a volume of Docker, the folder of a Secret, or "memory"."""
        sources = {}
        for volume in pod.spec.get("volumes", []):
            if "secret" in volume:
                sources[volume["name"]] = str(self.secrets[volume["secret"]["secretName"]])
            elif volume.get("emptyDir", {}).get("medium") == "Memory":
                sources[volume["name"]] = "memory"
            else:
                sources[volume["name"]] = f"{self.name}-{name}-{volume['name']}"
        return sources

    def _run(self, pod: Pod, container: dict[str, Any], name: str, suffix: str = "", *options: str) -> str:
        user = pod.spec["securityContext"]
        limits = container["resources"]["limits"]
        environ = self._environ(container)
        arguments = [argument for key, value in environ.items() for argument in ("-e", f"{key}={value}")]
        for mount in container["volumeMounts"]:
            source = self._mounts(pod, name)[mount["name"]]
            mode = ":ro" if mount.get("readOnly") else ""
            tmpfs = ("--tmpfs", f"{mount['mountPath']}:mode=1777,size=64m")
            arguments += tmpfs if source == "memory" else ("-v", f"{source}:{mount['mountPath']}{mode}")
        image = re.sub(r"^.*?forkcast", self.images, container["image"]).partition(":")[0]
        command_arguments = [_expand(argument, environ) for argument in container.get("args", [])]
        command = container.get("command", [])
        entrypoint = ("--entrypoint", command[0]) if command else ()
        return docker(
            "run", "--no-healthcheck", "--name", f"{self.name}-{name}{suffix}", "--network", self.name,
            *options, *arguments, *entrypoint,
            "-v", f"{self.folder}/resolv.conf:/etc/resolv.conf:ro",
            "--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--group-add", str(user["fsGroup"]),
            "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--memory", str(_bytes(limits["memory"])), "--memory-swap", str(_bytes(limits["memory"])),
            "--cpus", str(_cpus(limits["cpu"])), f"{image}:latest", *command[1:], *command_arguments,
        )  # fmt: skip

    def _environ(self, container: dict[str, Any]) -> dict[str, str]:
        """Return a container's environment as a kubelet builds it: first ``envFrom``, then ``env`` in order.

        A value of ``env`` may refer to variables defined earlier.
        """
        data = {
            (manifest["kind"], manifest["metadata"]["name"]): manifest.get("data", {}) for manifest in self.manifests
        }
        environ: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                environ |= data["ConfigMap", source["configMapRef"]["name"]]
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            value = variable.get("value", NAMESPACE if "fieldRef" in source else "")
            if "configMapKeyRef" in source:
                value = data["ConfigMap", source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
            environ[variable["name"]] = _expand(value, environ)
        return environ


def _expand(text: str, environ: dict[str, str]) -> str:
    """Replace each ``$(NAME)`` with the value of the variable."""
    return re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], text)


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def _cpus(quantity: str) -> float:
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
