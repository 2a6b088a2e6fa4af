"""A fake `docker` command: a real program that prints the answers which a test prepared."""

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


def list_ids():
    services = [word.rpartition("=")[2] for word in arguments if word.startswith("label=com.docker.compose.service=")]
    names = [word.removeprefix("name=") for word in arguments if word.startswith("name=")]
    documents = [document for document in containers() if not services or service(document) in services]
    matches = [document for document in documents if all(re.search(name, document["Name"]) for name in names)]
    return "".join(document["Id"] + "\\n" for document in matches)


def scale():
    documents = containers()
    replicas = [document for document in documents if service(document) == "server"]
    text, number = json.dumps(replicas[0]), max(int(replica["Name"].rpartition("-")[2]) for replica in replicas)
    for _ in range(int(arguments[arguments.index("--scale") + 1].rpartition("=")[2]) - len(replicas)):
        first_id, number = replicas[0]["Id"], number + 1
        replica = json.loads(text.replace(first_id, f"server{{number}}".ljust(64, "0")))
        replica["Name"] = f"/forkcast-server-{{number}}"
        documents.append(replica)
    save(documents)
    return ""


def remove():
    save([document for document in containers() if document["Id"] not in arguments])
    return ""


def save(documents):
    with open(folder + "/containers", "w") as file:
        json.dump(documents, file)


def inspect():
    return json.dumps([document for document in containers() if document["Id"] in arguments])


handlers = {{"ps": list_ids, "inspect": inspect, "scale": scale, "rm": remove}}
for words, out, err, status in reversed(answers):
    if arguments[:1] == words[:1] and set(words) <= set(arguments):
        sys.stdout.write(handlers[out["by"]]() if isinstance(out, dict) else out)
        sys.stderr.write(err)
        sys.exit(status)
sys.exit(f"the test prepared no answer for: docker {{' '.join(arguments)}}")
"""
_LABEL = "com.docker.compose"


@dataclass(frozen=True)
class Call:
    """One run of the fake command."""

    arguments: list[str]
    folder: Path
    environ: dict[str, str]


class FakeDocker:
    """The fake command in a folder that belongs on PATH. A run without a prepared answer fails."""

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
        """The value of PATH with which this command is found before any other `docker`."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    def answer(self, *words: str, out: object = "", err: str = "", status: int = 0) -> None:
        """Prepare the output of commands whose first argument is ``words[0]`` and which contain all other words.

        Of several answers that match, the last one applies. An ``out`` that is not a string is printed as JSON.
        """
        self._answers.append((words, out if isinstance(out, str) else json.dumps(out), err, status))
        self._write()

    def start_engine(self) -> None:
        """Answer as an engine with eight CPUs, every image, this checkout's Compose file and no containers."""
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
        """Answer `ps` and `inspect` with these containers, given in the form of `docker inspect`."""
        (self.folder / "containers").write_text(json.dumps(documents))
        self._answer_by("ps", "ps")
        self._answer_by("inspect", "inspect")

    def allow_scaling(self) -> None:
        """Let `compose up --scale` add copies of the first replica, and `rm` remove containers."""
        self._answer_by("scale", "compose", "up", "--scale")
        self._answer_by("rm", "rm")

    def _answer_by(self, function: str, *words: str) -> None:
        self._answers.append((words, {"by": function}, "", 0))
        self._write()

    @property
    def calls(self) -> list[Call]:
        """Every run of the command, in order, without the option that hides Compose's progress."""
        try:
            lines = (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [
            Call([word for word in call[0] if word not in ("--progress", "quiet")], Path(call[1]), call[2])
            for call in map(json.loads, lines)
        ]

    def ran(self, *words: str) -> list[list[str]]:
        """Return the arguments of each run that contain all of these words."""
        return [call.arguments for call in self.calls if set(words) <= set(call.arguments)]

    def _write(self) -> None:
        (self.folder / "answers").write_text(json.dumps(self._answers))


def config(**server: object) -> dict[str, Any]:
    """Return the part of the output of `docker compose config` that the code reads."""
    replica = {"build": {}, "image": "forkcast-server", "labels": {"forkcast.config": "c1"}, "cpus": 1} | server
    services = {name: {"build": {}, "image": f"forkcast-{name}"} for name in ("model", "nginx", "locust")}
    return {"name": "forkcast", "services": {"server": replica, **services}}


def container(service: str = "server", number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the part of `docker inspect` that the code reads, by default of a healthy container.

    ``changes`` are fields of its state, or ``folder``, ``memory`` (bytes), ``cpus`` (billionths), ``config``, ``code``,
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
