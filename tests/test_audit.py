"""The audit of pinned packages, by the real pip-audit against a database of advisories of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import audit
from deploy.errors import CommandError
from deploy.layout import ROOT

HOLES = {("jinja2", "2.10"): "GHSA-known", ("holed", "1.0"): "GHSA-hole"}


class Database(BaseHTTPRequestHandler):
    """Answers as OSV does."""

    holes = HOLES

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pin = (query["package"]["name"], query["version"])
        package = {"name": pin[0], "ecosystem": "PyPI"}
        events = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}
        hole = {"id": self.holes.get(pin), "aliases": ["CVE-1"], "affected": [{"package": package, "ranges": [events]}]}
        body = json.dumps({"vulns": [hole]} if pin in self.holes else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


class Empty(Database):
    """Knows of nothing, as a proxy does that answers for what it cannot reach."""

    holes: dict[tuple[str, str], str] = {}  # noqa: RUF012


@pytest.fixture(params=[Database])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def test_a_known_hole_fails(url: str) -> None:
    """A pinned package with an advisory fails the audit, naming the advisory and the version without it."""
    lines, sound = audit.audit({("holed", "1.0"), ("whole", "1.0")}, {}, url)
    assert not sound
    assert lines == ["error: holed 1.0: CVE-1, GHSA-hole, fixed in 9.9", "audited: 2 packages of 2"]


def test_two_versions_of_a_package_are_both_asked_for(url: str) -> None:
    """A package that is pinned twice, for two Pythons, is audited in both versions."""
    lines, sound = audit.audit({("holed", "1.0"), ("holed", "2.0")}, {}, url)
    assert not sound
    assert lines[-1] == "audited: 2 packages of 2"


def test_no_hole_passes(url: str) -> None:
    """Packages without an advisory pass, and are counted."""
    assert audit.audit({("holed", "2.0"), ("whole", "1.0")}, {}, url) == (["audited: 2 packages of 2"], True)


@pytest.mark.parametrize("name", ["GHSA-hole", "CVE-1"])
def test_a_hole_may_be_borne_for_a_reason(name: str, url: str) -> None:
    """A hole that is listed, by any of its names, passes and is told with its reason."""
    lines, sound = audit.audit({("holed", "1.0")}, {name: "not reached"}, url)
    assert sound
    assert lines[0] == "borne: holed 1.0: CVE-1, GHSA-hole, fixed in 9.9: not reached"


def test_no_database_is_told() -> None:
    """A database that cannot be reached is told in one line, and does not fail."""
    (line,), sound = audit.audit({("holed", "1.0")}, {}, "http://127.0.0.1:9/")
    assert sound
    assert line.startswith("not audited: http://127.0.0.1:")


@pytest.mark.parametrize("url", [Empty], indirect=True)
def test_a_database_of_nothing_is_told(url: str) -> None:
    """A database that does not know what everybody knows is not believed."""
    (line,), sound = audit.audit({("holed", "1.0")}, {}, url)
    assert sound
    assert line == f"not audited: {url} knows no hole in jinja2 2.10, which has some"


def test_a_package_that_is_passed_over_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that pip-audit skipped, or left out, is named as not audited."""
    skipped = [{"name": "whole", "skip_reason": "not found"}, {"name": "sound", "version": "1.0", "vulns": []}]
    monkeypatch.setattr(audit, "ask", lambda *_: skipped)
    lines, _ = audit.audit({("whole", "1.0"), ("sound", "1.0"), ("left", "1.0")}, {}, url)
    assert lines == ["not audited: left 1.0, whole 1.0", "audited: 1 packages of 3"]


def test_a_broken_pip_audit_fails(url: str) -> None:
    """Where the database answers and pip-audit does not, the audit fails."""
    with pytest.raises(CommandError, match="pip-audit failed"):
        audit.audit({("holed", "no version at all")}, {}, url)


def test_every_pin_is_asked_for(tmp_path: Path) -> None:
    """Packages of other platforms count too, spelled in any way, and a line that pins nothing is an error."""
    lock = tmp_path / "lock.txt"
    lock.write_text("A_b==1 ; sys_platform == 'win32'\na.B==1\nc==2  # why\n\n")
    assert audit.pins([lock]) == {("a-b", "1"), ("c", "2")}
    lock.write_text("c>=2\n")
    with pytest.raises(CommandError, match="'c>=2' is no pinned package"):
        audit.pins([lock])


def test_a_hole_without_a_reason_is_not_borne(tmp_path: Path) -> None:
    """A line of the list needs a reason."""
    file = tmp_path / "ignored.txt"
    file.write_text("# comment\nCVE-1: not reached\n")
    assert audit.ignored(file) == {"CVE-1": "not reached"}
    file.write_text("CVE-1:\n")
    with pytest.raises(CommandError, match="gives no reason"):
        audit.ignored(file)


@pytest.mark.parametrize("holed", [True, False])
def test_the_command(holed: bool, url: str, tmp_path: Path) -> None:
    """The command reads every lock file, and its status is 1 for a known hole."""
    (tmp_path / "dev.txt").write_text("whole==1.0\n")
    (tmp_path / "server.txt").write_text("holed==1.0\n" if holed else "")
    program = "import sys, pathlib; from deploy import audit; audit.LOCKS = pathlib.Path(sys.argv.pop(1)); audit.main()"
    command = [sys.executable, "-c", program, str(tmp_path), url]
    ran = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (ran.returncode, "GHSA-hole" in ran.stdout) == (int(holed), holed), ran.stderr


def test_the_real_lock_files_can_be_read() -> None:
    """All lock files of this checkout are pins, and every ignored hole has its reason."""
    assert len(audit.pins(audit.LOCKS.glob("*.txt"))) > 100
    audit.ignored(audit.IGNORED)
