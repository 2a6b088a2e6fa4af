"""What supervisord is to run for a stack. Nginx is `true`, which takes every configuration."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from deploy.backends.local import programs as module
from deploy.backends.local.programs import _cpu_list, programs
from deploy.backends.local.supervisord import NGINX_LAUNCHER, Program
from deploy.stack.code import code_digest
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack

NGINX = shutil.which("true") or "true"
STACK = Stack(http_port=8080)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "var")
    layout.make()
    return layout


def named(stack: Stack, layout: Layout) -> dict[str, Program]:
    """The programs of a stack by their names, in order."""
    return {program.name: program for program in programs(stack, layout, NGINX)}


def words(program: Program) -> list[str]:
    """The command of a program, without the folders of its executables and scripts."""
    return [Path(word).name if word.startswith("/") else word for word in program.command]


def test_every_program_of_a_stack_is_listed(layout: Layout) -> None:
    """Replicas, then Nginx, Locust and the rotation of logs; MLflow first, where the stack has one."""
    assert list(named(Stack(replicas=2, http_port=8080), layout)) == [
        "replica-1", "replica-2", "nginx", "locust", "log-rotation",
    ]  # fmt: skip
    assert next(iter(named(Stack(full=True, http_port=8080), layout))) == "mlflow"


def test_programs_are_real_ones(layout: Layout) -> None:
    """Each program is the executable, and reads the file, that it is meant to."""
    found = named(STACK, layout)
    assert words(found["replica-1"]) == ["gunicorn", "-c", "gunicorn.conf.py"]
    assert words(found["nginx"])[1:4] == ["-m", NGINX_LAUNCHER, "true"]
    assert found["nginx"].command[4:] == [
        "-p", f"{layout.var}/", "-c", f"{layout.var}/nginx/nginx.conf", "-e", "stderr",
    ]  # fmt: skip
    assert words(found["locust"]) == [
        "locust", "-f", "locustfile.py", "--host", "http://127.0.0.1:8080", "--web-host", "127.0.0.1", "--web-port",
        "8089",
    ]  # fmt: skip
    assert words(found["log-rotation"])[:2] == ["sh", "rotate.sh"]
    assert all(Path(word).exists() for program in found.values() for word in program.command if word[:1] == "/")


def test_replica_is_told_its_place_and_settings(layout: Layout) -> None:
    """A replica gets the settings of the stack, its socket, its name and its code, and nothing that is Locust's."""
    stack = Stack(2, http_port=8080, environment={"MAX_PENDING": "9", "LOCUST_WORKERS": "2"})
    assert named(stack, layout)["replica-2"].environment == {
        "MAX_PENDING": "9", "VAR_DIR": str(layout.var), "SOCKET": "run/2.sock", "REPLICA": "replica-2",
        "CODE_DIGEST": code_digest(),
    }  # fmt: skip


def test_replica_may_finish_its_requests(layout: Layout) -> None:
    """A replica is killed only some seconds after the time that it gives its requests."""
    stack = Stack(http_port=8080, environment={"GRACEFUL_TIMEOUT": "40"})
    assert named(stack, layout)["replica-1"].stop_seconds == 45


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (Stack(http_port=8080, environment={"MAX_PENDING": "9"}), {"replica-1"}),
        (Stack(http_port=8080, environment={"LOCUST_WORKERS": "2"}), {"locust"}),
        (Stack(http_port=8080, locust_port=8090), {"locust"}),
        (Stack(http_port=8080, cpus=1), {"replica-1"}),
        (Stack(http_port=8080, client_requests=9), {"nginx"}),
        (Stack(http_port=8081), {"nginx", "locust"}),
        (Stack(http_port=8080, environment={"MAX_BODY_BYTES": "4321"}), {"replica-1", "nginx"}),
        (Stack(2, http_port=8080), {"replica-2"}),
    ],
)
def test_only_programs_that_a_change_concerns_differ(layout: Layout, changed: Stack, names: set[str]) -> None:
    """A change of the stack changes the files of the programs that have to start anew, and no others."""
    texts = {name: program.render() for name, program in named(STACK, layout).items()}
    after = {name: program.render() for name, program in named(changed, layout).items()}
    assert {name for name, text in after.items() if text != texts.get(name)} == names


def test_other_code_makes_another_replica(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed code of the server changes the replicas' programs alone."""
    before = named(STACK, layout)
    monkeypatch.setattr(module, "code_digest", lambda: "0123456789abcdef")
    assert {name for name, program in named(STACK, layout).items() if program != before[name]} == {"replica-1"}


def test_replicas_are_pinned_to_neighbouring_cpus(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica is held to CPUs of its own, until there are none left."""
    monkeypatch.setattr(module, "usable_cpus", lambda: [2, 3, 5, 7])
    found = named(Stack(3, http_port=8080, cpus=2), layout)
    pinned = [list(found[f"replica-{slot}"].command[:3]) for slot in (1, 2, 3)]
    assert pinned == [["taskset", "-c", cpus] for cpus in ("2,3", "5,7", "2,3")]
    assert "taskset" not in found["nginx"].command


@pytest.mark.parametrize(
    ("slot", "cpus", "expected"), [(1, 1, "0"), (3, 1, "2"), (4, 1, "0"), (2, 2, "0,2"), (1, 9, "0,1,2")]
)
def test_cpus_of_slots_go_round(monkeypatch: pytest.MonkeyPatch, slot: int, cpus: int, expected: str) -> None:
    """Slots take the CPUs in turn; one that is to have more than there are has all of them, each once."""
    monkeypatch.setattr(module, "usable_cpus", lambda: [0, 1, 2])
    assert _cpu_list(slot, cpus) == expected


def test_service_cpuset_goes_over_each_replicas_own(layout: Layout) -> None:
    """SERVICE_CPUSET holds replicas and Nginx to the same CPUs, and leaves Locust alone."""
    found = named(Stack(2, http_port=8080, cpus=1, environment={"SERVICE_CPUSET": "0-3"}), layout)
    pinned = {name for name, program in found.items() if list(program.command[:3]) == ["taskset", "-c", "0-3"]}
    assert pinned == {"replica-1", "replica-2", "nginx"}


def test_locust_of_several_processes_has_a_port_of_its_own(layout: Layout) -> None:
    """Locust's processes talk over a port of this machine below those of clients, another one for another stack."""
    ports = set()
    for port in (8089, 8090):
        stack = Stack(http_port=8080, locust_port=port, environment={"LOCUST_WORKERS": "3"})
        command = named(stack, layout)["locust"].command
        inner = command[command.index("--master-port") + 1]
        assert command[9:] == [
            "--processes", "3", "--master-bind-host", "127.0.0.1", "--master-bind-port", inner, "--master-port", inner,
        ]  # fmt: skip
        assert 20000 <= int(inner) < 32000
        ports.add(inner)
    assert len(ports) == 2


def test_locust_finds_its_key_and_certificate_in_files(layout: Layout, tmp_path: Path) -> None:
    """Of a stack with keys and TLS Locust gets the places of files, and no key; of another one nothing."""
    assert named(STACK, layout)["locust"].environment == {}
    files = [str(tmp_path / name) for name in ("cert", "key", "keys")]
    stack = Stack(https_port=8443, tls_cert=files[0], tls_key=files[1], environment={"API_KEYS_FILE": files[2]})
    locust = named(stack, layout)["locust"]
    assert locust.environment == {"TLS_CERT": str(layout.tls_cert), "API_KEY_FILE": str(layout.client_key)}
    assert "https://127.0.0.1:8443" in locust.command


def test_nginx_is_told_by_the_digest_of_its_configuration(layout: Layout) -> None:
    """The program of Nginx names its configuration by a digest, and where its launcher is."""
    environment = named(STACK, layout)["nginx"].environment
    assert environment["PYTHONPATH"] == str(ROOT)
    assert re.fullmatch("[0-9a-f]{64}", environment["CONFIG_DIGEST"])
