"""The audit of pinned packages, by the real pip-audit against a database of advisories of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.checks import audit
from deploy.errors import CommandError
from deploy.stack.paths import ROOT
from tests.support.servers import serving_thread

HOLES = {("jinja2", "2.10"): "GHSA-known", ("holed", "1.0"): "GHSA-hole"}


class Database(BaseHTTPRequestHandler):
    """Answers as OSV does."""

    holes = HOLES
    asked = 0

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer((query["package"]["name"], query["version"]))

    def answer(self, pin: tuple[str, str]) -> None:
        package = {"name": pin[0], "ecosystem": "PyPI"}
        events = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}
        hole = {"id": self.holes.get(pin), "aliases": ["CVE-1"], "affected": [{"package": package, "ranges": [events]}]}
        self.say(200, json.dumps({"vulns": [hole]} if pin in self.holes else {}))

    def say(self, status: int, body: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


class Empty(Database):
    """Knows of nothing, as a proxy does that answers for what it cannot reach."""

    holes: dict[tuple[str, str], str] = {}  # noqa: RUF012


class Failing(Database):
    """Answers rightly once, and then no more."""

    def answer(self, pin: tuple[str, str]) -> None:
        type(self).asked += 1
        if self.asked == 1:
            super().answer(pin)
        else:
            self.fail()

    def fail(self) -> None:
        self.close_connection = True


class Broken(Failing):
    def fail(self) -> None:
        self.say(500)


class Moved(Failing):
    def fail(self) -> None:
        self.say(302, Location="http://127.0.0.1:9/")


class Void(Failing):
    def fail(self) -> None:
        self.say(200, "[]")


class Vague(Failing):
    def fail(self) -> None:
        self.say(200, '{"vulns": [{"id": "A"}]}')


class Short(Failing):
    def fail(self) -> None:
        self.say(200, "{", **{"Content-Length": "9"})


class Dripping(Failing):
    """Sends a byte now and then, so that no socket times out."""

    def fail(self) -> None:
        self.say(200, **{"Content-Length": "1000"})
        try:
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.1)
        except OSError:
            pass


class Unclear(Database):
    """Knows the known hole well, and of the others only a name."""

    vague = ""

    def answer(self, pin: tuple[str, str]) -> None:
        if pin in self.holes:
            super().answer(pin)
        else:
            self.say(200, self.vague)


class Nameless(Unclear):
    vague = '{"vulns": [{"id": "A"}]}'


class Later(Unclear):
    vague = '{"vulns": [{"id": "A", "schema_version": "2.0.0"}]}'


@pytest.fixture(params=[Database])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    request.param.asked = 0
    with serving_thread(ThreadingHTTPServer(("127.0.0.1", 0), request.param)) as server:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"


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


@pytest.mark.parametrize("url", [Failing, Broken, Moved, Void, Vague, Short], indirect=True)
def test_a_database_that_fails_on_the_way_is_told(url: str) -> None:
    """A database that answers rightly at first and then no more is told in one line, and does not fail."""
    (line,), sound = audit.audit({("whole", "1.0")}, {}, url)
    assert sound
    assert line.startswith(f"not audited: {url} ")


@pytest.mark.parametrize("url", [Dripping], indirect=True)
def test_a_database_that_drips_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that never ends its answer is given up, for the packages and for the known hole."""
    monkeypatch.setattr(audit, "_ROUND_SECONDS", 3)
    line = f"not audited: {url} did not answer for all packages within 3 s"
    assert audit.audit({("whole", "1.0")}, {}, url) == ([line], True)
    monkeypatch.setattr(audit, "_SECONDS", 1)
    assert audit.unreachable(url) == f"{url} did not answer within 1 s"


@pytest.mark.parametrize("url", [Nameless, Later], indirect=True)
def test_an_advisory_that_cannot_be_read_fails(url: str) -> None:
    """An answer that names an advisory is not sound, even if pip-audit passes over it."""
    with pytest.raises(CommandError, match="pip-audit passed over an advisory: "):
        audit.audit({("whole", "1.0")}, {}, url)


def test_a_hole_found_before_the_database_failed_counts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found stays found, whatever the database does afterwards."""
    doubts = iter(["", "it went away"])
    monkeypatch.setattr(audit, "unreachable", lambda _: next(doubts))
    lines, sound = audit.audit({("holed", "1.0")}, {}, url)
    assert not sound
    assert lines == ["error: holed 1.0: CVE-1, GHSA-hole, fixed in 9.9", "not audited: it went away"]


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
    program = "import sys, pathlib; from deploy.checks import audit; audit.LOCKS = pathlib.Path(sys.argv.pop(1))"
    program += "; audit.main()"
    command = [sys.executable, "-c", program, str(tmp_path), url]
    ran = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (ran.returncode, "GHSA-hole" in ran.stdout) == (int(holed), holed), ran.stderr


def test_the_real_lock_files_can_be_read() -> None:
    """All lock files of this checkout are pins, and every ignored hole has its reason."""
    assert len(audit.pins(audit.LOCKS.glob("*.txt"))) > 100
    audit.ignored(audit.IGNORED)
