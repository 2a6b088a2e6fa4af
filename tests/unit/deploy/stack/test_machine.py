"""Tests of the description of the machine, and of the source address in the labels of images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.stack import machine
from deploy.stack.machine import Machine, _commit


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("https://github.com/me/forkcast", "https://github.com/me/forkcast"),
        ("https://github.com/me/forkcast.git", "https://github.com/me/forkcast"),
        ("https://token@github.com/me/forkcast.git", "https://github.com/me/forkcast"),
        ("https://me:token@git.example.com:8443/forkcast.git", "https://git.example.com:8443/forkcast"),
        ("https://me:to@ken@github.com/me/forkcast.git", ""),
        ("git@github.com:me/forkcast.git", ""),
        ("ssh://git@github.com/me/forkcast.git", ""),
        ("http://me:token@git.example.com/forkcast.git", ""),
        ("/srv/git/forkcast.git", ""),
        (None, ""),
    ],
)
def test_source_label_omits_credentials(
    remote: str | None, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label contains a public HTTPS address without credentials, otherwise nothing."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    if remote is not None:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.source_address() == source


@pytest.mark.usefixtures("no_docker")
def test_source_label_is_empty_without_git() -> None:
    """Without `git` the source address is empty."""
    assert machine.source_address() == ""


def test_description_names_commit_and_plural_cores() -> None:
    """The description names the commit if there is one, and uses the plural for several cores."""
    assert Machine("a CPU", 1, "3.13.1", None).description == "a CPU, 1 core; Python 3.13.1"
    assert Machine("a CPU", 2, "3.13.1", "abc").description == "a CPU, 2 cores; Python 3.13.1; commit abc"


def test_folder_outside_of_git_has_no_commit(tmp_path: Path) -> None:
    """Outside of a Git repository the commit is None."""
    assert _commit(tmp_path) is None
