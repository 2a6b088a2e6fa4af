"""A stand-in for the `docker` command: a real program, with no engine behind it but the answers that a test gave."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.stack.code import code_digest

_PROGRAM = f"""#!{sys.executable} -IS
import json, os, re, sys
folder, arguments = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
with open(folder + "/calls", "a") as calls:
    print(json.dumps([arguments, os.getcwd(), dict(os.environ)]), file=calls)
with open(folder + "/answers") as file:
    answers = json.load(file)


def containers():
    with open(folder + "/containers") as file:
        return json.load(file)


def service(document):
    return document["Config"]["Labels"]["com.docker.compose.service"]


def listed():
    wanted = [word.rpartition("=")[2] for word in arguments if word.startswith("label=com.docker.compose.service=")]
    names = [word.removeprefix("name=") for word in arguments if word.startswith("name=")]
    found = [one for one in containers() if (not wanted or service(one) in wanted)]
    return "".join(one["Id"] + "\\n" for one in found if all(re.search(name, one["Name"]) for name in names))


def scaled():
    found = containers()
    replicas = [document for document in found if service(document) == "server"]
    text, number = json.dumps(replicas[0]), max(int(one["Name"].rpartition("-")[2]) for one in replicas)
    for _ in range(int(arguments[arguments.index("--scale") + 1].rpartition("=")[2]) - len(replicas)):
        first, number = replicas[0]["Id"], number + 1
        one = json.loads(text.replace(first, f"server{{number}}".ljust(64, "0")))
        one["Name"] = f"/forkcast-server-{{number}}"
        found.append(one)
    keep(found)
    return ""


def removed():
    keep([document for document in containers() if document["Id"] not in arguments])
    return ""


def keep(documents):
    with open(folder + "/containers", "w") as file:
        json.dump(documents, file)


def inspected():
    return json.dumps([document for document in containers() if document["Id"] in arguments])


known = {{"ps": listed, "inspect": inspected, "scale": scaled, "rm": removed}}
for words, out, err, status in reversed(answers):
    if arguments[:1] == words[:1] and set(words) <= set(arguments):
        sys.stdout.write(known[out["by"]]() if isinstance(out, dict) else out)
        sys.stderr.write(err)
        sys.exit(status)
sys.exit(f"the test gave no answer to: docker {{' '.join(arguments)}}")
"""
_LABEL = "com.docker.compose"


@dataclass(frozen=True)
class Call:
    """One run of the command."""

    arguments: list[str]
    folder: Path
    environ: dict[str, str]


class FakeDocker:
    """The command in a folder of its own, to be put on PATH. It fails where the test gave no answer."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._answers: list[tuple[tuple[str, ...], str | dict[str, str], str, int]] = []
        self._write()
        program = folder / "docker"
        program.write_text(_PROGRAM)
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with this command before any other of its name."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    def answer(self, *words: str, out: object = "", err: str = "", status: int = 0) -> None:
        """What to do for a command whose first word is the first of these, with all the others among its arguments.

        The last answer given counts. What is no text is printed as JSON.
        """
        self._answers.append((words, out if isinstance(out, str) else json.dumps(out), err, status))
        self._write()

    def start_engine(self) -> None:
        """Be there, on a machine of eight CPUs that has every image, with this checkout's file and no container."""
        self.answer("version", out="29.1.0\n")
        self.answer("compose", "version", out="Docker Compose version v5.0.0\n")
        self.answer("buildx", "version", out="github.com/docker/buildx v0.30.0\n")
        self.answer("info", "{{.NCPU}}", out="8\n")
        self.answer("context", "inspect", out="unix:///var/run/docker.sock\n")
        self.answer("image", "inspect", "{{.Id}}", out="sha256:1\n")
        self.answer("image", "ls")
        self.answer("compose", "config", out=config())
        self.containers()

    def containers(self, *documents: dict[str, Any]) -> None:
        """Have these, as `docker inspect` tells them: all of them, or those of a service."""
        (self.folder / "containers").write_text(json.dumps(documents))
        self._answer_by("ps", "ps")
        self._answer_by("inspect", "inspect")

    def allow_scaling(self) -> None:
        """From now on make replicas that are asked for, each like the first that there is, and remove containers."""
        self._answer_by("scale", "compose", "up", "--scale")
        self._answer_by("rm", "rm")

    def _answer_by(self, function: str, *words: str) -> None:
        self._answers.append((words, {"by": function}, "", 0))
        self._write()

    @property
    def calls(self) -> list[Call]:
        """Every run of the command, in order."""
        try:
            lines = (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [Call(call[0], Path(call[1]), call[2]) for call in map(json.loads, lines)]

    def ran(self, *words: str) -> list[list[str]]:
        """The arguments of each run with all of these among them."""
        return [call.arguments for call in self.calls if set(words) <= set(call.arguments)]

    def _write(self) -> None:
        (self.folder / "answers").write_text(json.dumps(self._answers))


def config(**server: object) -> dict[str, Any]:
    """What `docker compose config` prints, as far as it is read."""
    replica = {"build": {}, "image": "forkcast-server", "labels": {"forkcast.config": "c1"}, "cpus": 1} | server
    others = {name: {"build": {}, "image": f"forkcast-{name}"} for name in ("model", "nginx", "locust")}
    return {"name": "forkcast", "services": {"server": replica, **others}}


def container(service: str = "server", number: int = 1, **changes: Any) -> dict[str, Any]:
    """What `docker inspect` prints of one container, as far as it is read; by itself one that is well.

    ``changes`` are those of its state, or ``folder``, ``memory``, ``cpus``, ``config``, ``code``,
    ``restarts``.
    """
    labels = {
        f"{_LABEL}.service": service,
        f"{_LABEL}.container-number": str(number),
        f"{_LABEL}.project.working_dir": changes.pop("folder", "/checkout"),
    }
    if service == "server":
        labels["forkcast.config"] = changes.pop("config", "c1")
        labels["forkcast.code"] = changes.pop("code", code_digest())
    limits = {"NanoCpus": changes.pop("cpus", 0), "Memory": changes.pop("memory", 0)}
    restarts = changes.pop("restarts", 0)
    state = {
        "Status": "running",
        "OOMKilled": False,
        "StartedAt": "2026-01-02T03:04:05.123456789Z",
        "Health": {"Status": "healthy"},
    }
    return {
        "Id": f"{service}{number}".ljust(64, "0"),
        "Name": f"/forkcast-{service}-{number}",
        "Image": "sha256:1",
        "RestartCount": restarts,
        "Config": {"Labels": labels},
        "State": state | changes,
        "HostConfig": limits,
    }
