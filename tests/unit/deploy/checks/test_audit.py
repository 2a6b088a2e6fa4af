"""The audit of pinned packages, by the real pip-audit against a database of advisories of our own."""

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
    """Answers as OSV does: a package called ``holed`` has a vulnerability below version 2."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2"}]}]
        affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
        known = [{"id": "GHSA-1", "aliases": ["CVE-1"], "affected": affected}]
        if name == "unread":
            known = [{"id": "GHSA-2"}]
        body = json.dumps({"vulns": known} if (name, version) in VULNERABLE else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of the database."""
    server: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Database)
    with serving_thread(server):
        yield f"http://127.0.0.1:{server.server_port}/v1/query"


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    """Two lock files that share a package; one package of the second has a vulnerability."""
    (tmp_path / "a.txt").write_text("sound==1.0\n")
    (tmp_path / "b.txt").write_text("sound==1.0\nholed==1.0\n")
    return tmp_path


def test_vulnerable_package_is_an_error(locks: Path, url: str) -> None:
    """A vulnerability of any lock file's package is named with all its names and the version without it."""
    lines, sound = audit.audit(locks, {}, url)
    assert not sound
    assert lines == ["error: holed 1.0: CVE-1, GHSA-1, fixed in 2", "audited: 2 packages"]


@pytest.mark.parametrize("name", ["GHSA-1", "CVE-1"])
def test_accepted_vulnerability_passes_with_its_reason(locks: Path, url: str, name: str) -> None:
    """A vulnerability that is accepted by any of its names is printed with the reason, and is no error."""
    lines, sound = audit.audit(locks, {name: "not reached"}, url)
    assert sound
    assert lines[0] == "accepted: holed 1.0: CVE-1, GHSA-1, fixed in 2: not reached"


def test_sound_packages_pass(locks: Path, url: str) -> None:
    """Packages without a vulnerability pass, and are counted once."""
    (locks / "b.txt").write_text("sound==1.0\n")
    assert audit.audit(locks, {}, url) == (["audited: 1 packages"], True)


def test_advisory_that_cannot_be_read_is_an_error(locks: Path, url: str) -> None:
    """What pip-audit passes over, since it has not the form of an advisory, is not taken for sound."""
    (locks / "b.txt").write_text("unread==1.0\n")
    assert "missing 'affected' list" in refusal(lambda: audit.audit(locks, {}, url))


def test_pins_of_other_platforms_are_named(locks: Path, url: str) -> None:
    """Packages that are not installed here are not asked about, and are named."""
    (locks / "b.txt").write_text("elsewhere==1.0 ; sys_platform == 'win32'\n")
    lines, sound = audit.audit(locks, {}, url)
    assert sound
    words = "not audited, since this Python and platform do not install them: elsewhere==1.0"
    assert lines == [words, "audited: 1 packages"]


def test_database_that_does_not_answer_is_no_error(locks: Path) -> None:
    """Where the database cannot be reached, that is printed, and nothing is called sound."""
    with refusing_port() as port:
        lines, sound = audit.audit(locks, {}, f"http://127.0.0.1:{port}/v1/query")
    assert sound
    assert len(lines) == 1
    assert lines[0].startswith("not audited: ")
    assert "refused" in lines[0]


def test_audit_that_takes_too_long_is_no_error(locks: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that is not done in its time says so."""
    monkeypatch.setattr(audit, "_AUDIT_SECONDS", 0.01)
    lines, sound = audit.audit(locks, {}, url)
    assert (lines, sound) == ([f"not audited: {url} did not answer for all packages within 0.01 s"], True)


def test_reasons_are_read(tmp_path: Path) -> None:
    """The file of accepted vulnerabilities has a name and a reason a line; comments and blank lines do not count."""
    file = tmp_path / "ignored.txt"
    file.write_text("# a comment\n\nGHSA-1: not reached\n")
    assert audit.ignored(file) == {"GHSA-1": "not reached"}
    file.write_text("GHSA-1:\n")
    assert refusal(lambda: audit.ignored(file)) == "ignored.txt: 'GHSA-1:' gives no reason; write NAME: reason"


def test_checkout_is_audited_by_the_command(url: str) -> None:
    """The command audits the checkout's own lock files, against the database that it is given."""
    command = [sys.executable, "-m", "deploy.checks.audit", url]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("audited: ")
    assert int(last.split()[1]) > 150
