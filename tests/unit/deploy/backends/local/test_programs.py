"""Tests of the programs that supervisord runs for a stack. Nginx is `true`, which accepts every configuration."""

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


def programs_by_name(stack: Stack, layout: Layout) -> dict[str, Program]:
    """Return the programs of a stack by name, in order."""
    return {program.name: program for program in programs(stack, layout, NGINX)}


def command_names(program: Program) -> list[str]:
    """Return the command of a program without the folders of its executables and scripts."""
    return [Path(word).name if word.startswith("/") else word for word in program.command]


def test_every_program_of_a_stack_is_listed(layout: Layout) -> None:
    """A stack has replicas, Nginx, Locust and log rotation, and MLflow first if it has its own registry."""
    assert list(programs_by_name(Stack(replicas=2, http_port=8080), layout)) == [
        "replica-1", "replica-2", "nginx", "locust", "log-rotation",
    ]  # fmt: skip
    assert next(iter(programs_by_name(Stack(full=True, http_port=8080), layout))) == "mlflow"


def test_commands_name_existing_programs_and_files(layout: Layout) -> None:
    """Each command starts the right executable with the right files, and these exist."""
    by_name = programs_by_name(STACK, layout)
    assert command_names(by_name["replica-1"]) == ["gunicorn", "-c", "gunicorn.conf.py"]
    assert command_names(by_name["nginx"])[1:4] == ["-m", NGINX_LAUNCHER, "true"]
    assert by_name["nginx"].command[4:] == [
        "-p", f"{layout.var}/", "-c", f"{layout.var}/nginx/nginx.conf", "-e", "stderr",
    ]  # fmt: skip
    assert command_names(by_name["locust"]) == [
        "locust", "-f", "locustfile.py", "--host", "http://127.0.0.1:8080", "--web-host", "127.0.0.1", "--web-port",
        "8089",
    ]  # fmt: skip
    assert command_names(by_name["log-rotation"])[:2] == ["sh", "rotate.sh"]
    assert all(Path(word).exists() for program in by_name.values() for word in program.command if word[:1] == "/")


def test_replica_gets_settings_socket_name_and_code(layout: Layout) -> None:
    """A replica gets the settings, its socket, its name and its code digest, but no setting of Locust."""
    stack = Stack(2, http_port=8080, environment={"MAX_PENDING": "9", "LOCUST_WORKERS": "2"})
    assert programs_by_name(stack, layout)["replica-2"].environment == {
        "MAX_PENDING": "9", "VAR_DIR": str(layout.var), "SOCKET": "run/2.sock", "REPLICA": "replica-2",
        "CODE_DIGEST": code_digest(),
    }  # fmt: skip


def test_replica_is_killed_only_after_its_graceful_timeout(layout: Layout) -> None:
    """The stop time of a replica exceeds the time that it gives its requests."""
    stack = Stack(http_port=8080, environment={"GRACEFUL_TIMEOUT": "40"})
    assert programs_by_name(stack, layout)["replica-1"].stop_seconds == 45


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
def test_changed_stack_changes_only_affected_programs(layout: Layout, changed: Stack, names: set[str]) -> None:
    """A change of the stack changes only the files of the programs that must restart."""
    texts = {name: program.render() for name, program in programs_by_name(STACK, layout).items()}
    changed_texts = {name: program.render() for name, program in programs_by_name(changed, layout).items()}
    assert {name for name, text in changed_texts.items() if text != texts.get(name)} == names


def test_changed_code_changes_only_replicas(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed code of the server changes only the programs of the replicas."""
    original = programs_by_name(STACK, layout)
    monkeypatch.setattr(module, "code_digest", lambda: "0123456789abcdef")
    assert {name for name, program in programs_by_name(STACK, layout).items() if program != original[name]} == {
        "replica-1"
    }


def test_replicas_are_pinned_to_neighbouring_cpus(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica is pinned to its own CPUs until all are used."""
    monkeypatch.setattr(module, "usable_cpus", lambda: [2, 3, 5, 7])
    by_name = programs_by_name(Stack(3, http_port=8080, cpus=2), layout)
    pinned = [list(by_name[f"replica-{slot}"].command[:3]) for slot in (1, 2, 3)]
    assert pinned == [["taskset", "-c", cpus] for cpus in ("2,3", "5,7", "2,3")]
    assert "taskset" not in by_name["nginx"].command


@pytest.mark.parametrize(
    ("slot", "cpus", "expected"), [(1, 1, "0"), (3, 1, "2"), (4, 1, "0"), (2, 2, "0,2"), (1, 9, "0,1,2")]
)
def test_slots_take_cpus_in_turn(monkeypatch: pytest.MonkeyPatch, slot: int, cpus: int, expected: str) -> None:
    """Slots take the CPUs in turn; a slot that wants more than there are gets each one once."""
    monkeypatch.setattr(module, "usable_cpus", lambda: [0, 1, 2])
    assert _cpu_list(slot, cpus) == expected


def test_service_cpuset_overrides_the_cpus_of_replicas(layout: Layout) -> None:
    """SERVICE_CPUSET pins replicas and Nginx to the same CPUs, and does not affect Locust."""
    by_name = programs_by_name(Stack(2, http_port=8080, cpus=1, environment={"SERVICE_CPUSET": "0-3"}), layout)
    pinned = {name for name, program in by_name.items() if list(program.command[:3]) == ["taskset", "-c", "0-3"]}
    assert pinned == {"replica-1", "replica-2", "nginx"}


def test_locust_processes_use_one_port_per_stack(layout: Layout) -> None:
    """Locust's processes use a port below the ephemeral range that differs between stacks."""
    ports = set()
    for port in (8089, 8090):
        stack = Stack(http_port=8080, locust_port=port, environment={"LOCUST_WORKERS": "3"})
        command = programs_by_name(stack, layout)["locust"].command
        master_port = command[command.index("--master-port") + 1]
        assert command[9:] == [
            "--processes", "3", "--master-bind-host", "127.0.0.1", "--master-bind-port", master_port,
            "--master-port", master_port,
        ]  # fmt: skip
        assert 20000 <= int(master_port) < 32000
        ports.add(master_port)
    assert len(ports) == 2


def test_locust_finds_its_key_and_certificate_in_files(layout: Layout, tmp_path: Path) -> None:
    """Locust gets the paths of its key and certificate if the stack has them, and never the key itself."""
    assert programs_by_name(STACK, layout)["locust"].environment == {}
    files = [str(tmp_path / name) for name in ("cert", "key", "keys")]
    stack = Stack(https_port=8443, tls_cert=files[0], tls_key=files[1], environment={"API_KEYS_FILE": files[2]})
    locust = programs_by_name(stack, layout)["locust"]
    assert locust.environment == {"TLS_CERT": str(layout.tls_cert), "API_KEY_FILE": str(layout.client_key)}
    assert "https://127.0.0.1:8443" in locust.command


def test_nginx_program_contains_its_configuration_digest(layout: Layout) -> None:
    """The program of Nginx contains the digest of its configuration and the path of its launcher."""
    environment = programs_by_name(STACK, layout)["nginx"].environment
    assert environment["PYTHONPATH"] == str(ROOT)
    assert re.fullmatch("[0-9a-f]{64}", environment["CONFIG_DIGEST"])
