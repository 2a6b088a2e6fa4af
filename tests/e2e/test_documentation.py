"""Every command in the README and in `docs/` does what the page says, on a stack in containers."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.stack.paths import ROOT
from tests.support import console
from tests.support.ports import free_ports
from tests.support.stacks.containers import ContainerStack, require_engine
from tests.support.stacks.local import clean_environ

pytestmark = pytest.mark.slow

# A translation has the commands of its original, as tests/unit/test_documentation.py checks: they run once.
ORIGINALS = [page for page in console.PAGES if page not in console.TRANSLATIONS]
PAGES_WITH_COMMANDS = [page for page in ORIGINALS if any(block.commands() for block in console.blocks(page))]
# The ports in the pages, by their variables. Addresses in the pages may omit 80 and 443.
DEFAULT_PORTS = {
    "HTTP_PORT": "80",
    "HTTPS_PORT": "443",
    "LOCUST_PORT": "8089",
    "MLFLOW_PORT": "5000",
    "PROMETHEUS_PORT": "9090",
    "GRAFANA_PORT": "3000",
}
PAGE_TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout with its own stack in containers."""

    folder: Path
    environ: dict[str, str]

    def run(self, commands: list[console.Command]) -> list[str]:
        translated = [
            console.Command(command.line, self._with_ports(command.text), command.expected) for command in commands
        ]
        return console.run(translated, self.folder, self.environ, PAGE_TIMEOUT_SECONDS)

    def _with_ports(self, text: str) -> str:
        """Replace the ports that a page writes by this stack's."""
        text = re.sub(r"https://127\.0\.0\.1(?=[/\s\"']|$)", "https://127.0.0.1:443", text)
        text = re.sub(r"http://127\.0\.0\.1(?=[/\s\"']|$)", "http://127.0.0.1:80", text)
        for variable, port in DEFAULT_PORTS.items():
            text = re.sub(rf"(127\.0\.0\.1(?::|\", )){port}\b", rf"\g<1>{self.environ[variable]}", text)
        return text


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, covertype_csv: Path) -> Iterator[Checkout]:
    """Copy the files of the checkout, and start a stack there that trained on a small data set."""
    require_engine()
    folder = tmp_path_factory.mktemp("documentation") / "forkcast"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    data = folder / "covertype.csv.gz"
    data.write_bytes(gzip.compress(covertype_csv.read_bytes()))
    (folder / ".curlrc").write_text("silent\nshow-error\n")  # as where its output is a terminal
    stack = ContainerStack(folder / "var", {}, checkout=folder)
    ports = dict(zip(DEFAULT_PORTS, map(str, free_ports(len(DEFAULT_PORTS))), strict=True))
    environ = {
        **clean_environ(),
        **stack.project_settings("docs", COVERTYPE_PATH=data),
        **ports,
        "CURL_HOME": str(folder),
        "ENV_FILE": str(folder / ".env"),
        "VAR_DIR": str(folder / "var"),
    }
    running = Checkout(folder, environ)
    try:
        assert running.run([console.Command(0, "make -s up")]) == []
        yield running
    finally:
        assert running.run([console.Command(0, "make -s clean YES=1")]) == []


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_of_a_page_print_what_it_shows(checkout: Checkout, page: Path) -> None:
    """Every command of a page succeeds and prints what the page shows, except for numbers."""
    commands = [command for block in console.blocks(page) for command in block.commands()]
    if os.geteuid() != 0 and any("chgrp" in command.text for command in commands):
        pytest.skip("the page gives files to another group, which only root may do")
    problems = checkout.run(commands)
    assert not problems, "\n\n".join(problems)
