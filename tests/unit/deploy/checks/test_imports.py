"""Tests of the import rules: the contracts in pyproject.toml, and the check of what import-linter ignores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.stack.paths import ROOT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all packages with import rules, and of pyproject.toml."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("server", "deploy", "tests"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def check(checkout: Path, *command: str) -> tuple[int, str]:
    """Run a command of `make check` in a copy; return its status and its output without line breaks."""
    ran = subprocess.run(
        command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120
    )
    return ran.returncode, " ".join(ran.stdout.split())


def lint(checkout: Path) -> tuple[int, str]:
    return check(checkout, str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo")


def count(checkout: Path) -> tuple[int, str]:
    return check(checkout, sys.executable, "-m", "deploy.checks.imports")


def test_rules_hold_for_the_checkout(checkout: Path) -> None:
    """Both checks of imports pass for the checkout."""
    status, out = lint(checkout)
    assert status == 0, out
    assert out.endswith("Contracts: 13 kept, 0 broken.")
    assert count(checkout)[0] == 0


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("server/system/cgroup.py", "from deploy import errors", "The server imports nothing of deploy"),
        ("server/inference/rows.py", "from server.http import app", "Layers of the server"),
        ("deploy/stack/ports.py", "from deploy.backends import choice", "Layers of deploy"),
        ("deploy/backends/local/slots.py", "from deploy.backends.docker import engine", "Layers of deploy.backends"),
        ("deploy/models/registry/pointer.py", "from deploy.models.training import train", "Layers of deploy.models"),
        ("deploy/scaling/step.py", "from deploy.scaling import service", "No cycles between siblings"),
        ("deploy/models/weigh.py", "from deploy.stack import paths", "What brings models imports nothing of deploy"),
        ("deploy/scaling/session.py", "from deploy.backends import choice", "Only the lab's adapters"),
        ("deploy/cli.py", "from deploy.backends.docker.engine import docker", "Only the modules of containers run"),
        ("deploy/backends/docker/images.py", "import subprocess", "Only the engine module starts processes"),
        ("server/protocols/endpoint.py", "import orjson", "Only the JSON codec imports orjson"),
        ("server/main.py", "import mlflow", "Only the named modules import MLflow"),
        ("deploy/scaling/generator.py", "import locust", "Locust is started as a program"),
    ],
)
def test_wrong_import_breaks_its_contract(checkout: Path, module: str, line: str, contract: str) -> None:
    """A forbidden import fails the check, whose output names the contract and the package."""
    path = checkout / module
    text = path.read_text()
    path.write_text(f"{text}\n{line}\n")
    try:
        status, out = lint(checkout)
    finally:
        path.write_text(text)
    assert status == 1
    broken = out.partition("Broken contracts")[2]
    assert contract in broken
    assert module.partition("/")[0] in broken


def test_folder_without_init_is_an_error(checkout: Path) -> None:
    """A Python file in a folder without __init__.py, which import-linter ignores, fails the check."""
    folder = checkout / "deploy" / "unseen"
    folder.mkdir()
    (folder / "module.py").write_text("import orjson\n")
    try:
        assert lint(checkout)[0] == 0
        status, out = count(checkout)
    finally:
        shutil.rmtree(folder)
    assert status == 1
    assert "error: deploy/unseen/module.py: import-linter ignores this file" in out


def test_import_of_a_test_module_is_an_error(checkout: Path) -> None:
    """An import of a test module fails the check."""
    path = checkout / "tests/unit/deploy/test_other.py"
    path.write_text("from tests.unit.deploy import test_cli\n")
    try:
        status, out = count(checkout)
    finally:
        path.unlink()
    assert status == 1
    assert "error: tests.unit.deploy.test_other imports tests.unit.deploy.test_cli" in out
