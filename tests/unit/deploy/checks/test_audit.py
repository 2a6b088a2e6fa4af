"""Tests of the audit of pinned packages: the real pip-audit queries a fake database of advisories."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.checks import audit
from deploy.stack.paths import ROOT
from tests.support.ports import refusing_port
from tests.support.refusals import refusal
from tests.support.servers import serving_thread

VULNERABLE = {("holed", "1.0"), ("unread", "1.0")}


class Database(BaseHTTPRequestHandler):
    """A fake of OSV's database: the package ``holed`` has a vulnerability below version 2."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2"}]}]
        affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
        advisories = [{"id": "GHSA-1", "aliases": ["CVE-1"], "affected": affected}]
        if name == "unread":
            advisories = [{"id": "GHSA-2"}]
        body = json.dumps({"vulns": advisories} if (name, version) in VULNERABLE else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of the fake database."""
    server: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Database)
    with serving_thread(server):
        yield f"http://127.0.0.1:{server.server_port}/v1/query"


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    """A folder of two lock files that share a package; the second also has a vulnerable one."""
    (tmp_path / "a.txt").write_text("sound==1.0\n")
    (tmp_path / "b.txt").write_text("sound==1.0\nholed==1.0\n")
    return tmp_path


def test_vulnerable_package_is_an_error(locks: Path, url: str) -> None:
    """A vulnerability in any lock file is an error with all its names and the version that fixes it."""
    lines, all_accepted = audit.audit(locks, {}, url)
    assert not all_accepted
    assert lines == ["error: holed 1.0: CVE-1, GHSA-1, fixed in 2", "audited: 2 packages"]


@pytest.mark.parametrize("name", ["GHSA-1", "CVE-1"])
def test_accepted_vulnerability_passes_with_its_reason(locks: Path, url: str, name: str) -> None:
    """A vulnerability that is accepted by any of its names is printed with the reason."""
    lines, all_accepted = audit.audit(locks, {name: "not reached"}, url)
    assert all_accepted
    assert lines[0] == "accepted: holed 1.0: CVE-1, GHSA-1, fixed in 2: not reached"


def test_sound_packages_pass(locks: Path, url: str) -> None:
    """Packages without a vulnerability pass, and a package in two lock files counts once."""
    (locks / "b.txt").write_text("sound==1.0\n")
    assert audit.audit(locks, {}, url) == (["audited: 1 packages"], True)


def test_advisory_that_cannot_be_read_is_an_error(locks: Path, url: str) -> None:
    """An advisory that pip-audit skips is an error, since its package may be vulnerable."""
    (locks / "b.txt").write_text("unread==1.0\n")
    assert "missing 'affected' list" in refusal(lambda: audit.audit(locks, {}, url))


def test_pins_of_other_platforms_are_named(locks: Path, url: str) -> None:
    """Packages that are not installed on this platform are listed as not audited."""
    (locks / "b.txt").write_text("elsewhere==1.0 ; sys_platform == 'win32'\n")
    lines, all_accepted = audit.audit(locks, {}, url)
    assert all_accepted
    line = "not audited, because this Python and platform do not install them: elsewhere==1.0"
    assert lines == [line, "audited: 1 packages"]


def test_unreachable_database_is_reported_without_error(locks: Path) -> None:
    """If the database cannot be reached, the audit passes with the line "not audited"."""
    with refusing_port() as port:
        lines, all_accepted = audit.audit(locks, {}, f"http://127.0.0.1:{port}/v1/query")
    assert all_accepted
    assert len(lines) == 1
    assert lines[0].startswith("not audited: ")
    assert "refused" in lines[0]


def test_audit_timeout_is_reported_without_error(locks: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that exceeds its time limit passes with the line "not audited"."""
    monkeypatch.setattr(audit, "_AUDIT_SECONDS", 0.01)
    lines, all_accepted = audit.audit(locks, {}, url)
    assert (lines, all_accepted) == ([f"not audited: {url} did not answer for all packages within 0.01 s"], True)


def test_accepted_vulnerabilities_need_a_reason(tmp_path: Path) -> None:
    """Each line of the file has a name and a reason, and comments and blank lines are ignored."""
    file = tmp_path / "ignored.txt"
    file.write_text("# a comment\n\nGHSA-1: not reached\n")
    assert audit.read_accepted(file) == {"GHSA-1": "not reached"}
    file.write_text("GHSA-1:\n")
    assert refusal(lambda: audit.read_accepted(file)) == "ignored.txt: expected NAME: reason, got 'GHSA-1:'"


def test_command_audits_the_lock_files_of_the_checkout(url: str) -> None:
    """The command audits the lock files of the checkout with the given database."""
    command = [sys.executable, "-m", "deploy.checks.audit", url]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("audited: ")
    assert int(last.split()[1]) > 150
