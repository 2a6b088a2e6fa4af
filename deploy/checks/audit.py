"""Known holes in the pinned packages: every lock file, asked of a database of advisories by pip-audit.

`python -m deploy.checks.audit [URL]` fails if a package has a known hole that `ignored-holes.txt` gives no reason for.
A database that cannot be reached, or does not know a hole that everybody knows, is no reason to fail and none to call
the packages sound: it is told as "not audited". So is a package that pip-audit passed over. The database is asked for
that hole before and after. An empty answer in between, `[]` for `{}`, means no hole to pip-audit, so it does here too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from deploy.errors import CommandError
from deploy.stack.paths import ROOT

LOCKS = ROOT / "deploy/requirements"
IGNORED = ROOT / "deploy/checks/ignored-holes.txt"
DATABASE = "https://api.osv.dev/v1/query"
# A hole that every database of advisories knows: one that does not is no answer about the others.
_KNOWN = ("jinja2", "2.10")
_SECONDS = 10
_ROUND_SECONDS = 300
# An advisory that pip-audit cannot read is a warning to it, and no hole.
_PASSED_OVER = re.compile(r"OSV vuln entry .* is missing 'affected' list|Unsupported OSV schema version.*")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")

Pin = tuple[str, str]


@dataclass(frozen=True)
class Hole:
    """An advisory about a pinned package, with all its names."""

    pin: Pin
    names: Sequence[str]
    fixed: Sequence[str]

    def __str__(self) -> str:
        remedy = f"fixed in {', '.join(self.fixed)}" if self.fixed else "not fixed yet"
        return f"{self.pin[0]} {self.pin[1]}: {', '.join(self.names)}, {remedy}"


def pins(files: Iterable[Path]) -> set[Pin]:
    """Every package and version of some lock files, for whatever platform or Python.

    Raises:
        CommandError: a line that is no pin.
    """
    found = set()
    for file in files:
        for line in filter(None, (line.partition("#")[0].strip() for line in file.read_text().splitlines())):
            match = _PIN.match(line)
            if match is None:
                raise CommandError(f"{file.name}: {line!r} is no pinned package, so it cannot be audited")
            found.add((re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]))
    return found


def ignored(file: Path) -> dict[str, str]:
    """Holes that are known and borne: the reason for each.

    Raises:
        CommandError: a line without a reason.
    """
    reasons = {}
    for line in file.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(":")
            if not reason.strip():
                raise CommandError(f"{file.name}: {line.strip()!r} gives no reason; write NAME: reason")
            reasons[name.strip()] = reason.strip()
    return reasons


def _doubt(url: str) -> str:
    query = {"package": {"name": _KNOWN[0], "ecosystem": "PyPI"}, "version": _KNOWN[1]}
    request = urllib.request.Request(url, json.dumps(query).encode(), {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  (the user's own address)
            known = any("affected" in hole for hole in json.loads(answer.read()).get("vulns") or ())
    except (OSError, HTTPException, ValueError, AttributeError, TypeError) as error:
        return f"{url} did not answer: {error}"
    return "" if known else f"{url} knows no hole in {_KNOWN[0]} {_KNOWN[1]}, which has some"


def unreachable(url: str) -> str:
    """Why this database cannot be believed; nothing if it can."""
    said: list[str] = []
    # The timeout of a socket starts anew with every byte, so a thread that may be left behind bounds the whole.
    probe = threading.Thread(target=lambda: said.append(_doubt(url)), daemon=True)
    probe.start()
    probe.join(_SECONDS)
    return said[0] if said else f"{url} did not answer within {_SECONDS} s"


def rounds(packages: Iterable[Pin]) -> Iterator[list[Pin]]:
    """The packages in lists that have each name once, as pip-audit wants it."""
    left = sorted(packages)
    while left:
        once = dict(reversed(left))
        yield sorted(once.items())
        left = sorted(set(left) - set(once.items()))


def ask(packages: Sequence[Pin], url: str) -> list[dict[str, Any]]:
    """What pip-audit says of each package.

    Raises:
        CommandError: it said nothing, with its last line, or could not read an advisory.
        TimeoutExpired: it was still asking.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in packages)
        file.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--desc", "off"]
        command = [sys.executable, "-m", "pip_audit", "-r", file.name, "-s", "osv", "--osv-url", url, *options]
        environment = {**os.environ, "PIP_AUDIT_LOGLEVEL": "INFO"}
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_ROUND_SECONDS
        )
    if unread := _PASSED_OVER.search(ran.stderr):
        raise CommandError(f"pip-audit passed over an advisory: {unread[0]}")
    try:
        answers: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (ran.stderr.strip().splitlines() or ["nothing"])[-1]
        raise CommandError(f"pip-audit failed: {last}") from None
    return answers


def ask_all(packages: set[Pin], url: str) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of all packages, and why the database cannot be believed after all, if so.

    Raises:
        CommandError: pip-audit failed, although the database answers.
    """
    answers: list[dict[str, Any]] = []
    try:
        for once in rounds(packages):
            answers += ask(once, url)
    except subprocess.TimeoutExpired:
        return answers, f"{url} did not answer for all packages within {_ROUND_SECONDS} s"
    except CommandError:
        if reason := unreachable(url):
            return answers, reason
        raise
    return answers, unreachable(url)


def holes(answers: Iterable[Mapping[str, Any]]) -> Iterator[Hole]:
    """The advisories among what pip-audit says."""
    for answer in answers:
        for hole in answer.get("vulns", ()):
            names = sorted({hole["id"], *hole["aliases"]})
            yield Hole((answer["name"], answer["version"]), names, hole["fix_versions"])


def audit(packages: set[Pin], borne: Mapping[str, str], url: str) -> tuple[list[str], bool]:
    """What is to be told, in lines, and whether the packages may be used.

    Raises:
        CommandError: pip-audit failed, although the database answers.
    """
    if reason := unreachable(url):
        return [f"not audited: {reason}"], True
    answers, doubt = ask_all(packages, url)
    seen = {(answer["name"], answer["version"]) for answer in answers if "vulns" in answer}
    lines, sound = [], True
    for hole in holes(answers):
        reason = next((borne[name] for name in hole.names if name in borne), "")
        sound = sound and bool(reason)
        lines.append(f"{'borne' if reason else 'error'}: {hole}" + (f": {reason}" if reason else ""))
    if doubt:  # a hole that was found is one all the same
        return [*lines, f"not audited: {doubt}"], sound
    if missing := sorted(f"{name} {version}" for name, version in packages - seen):
        lines.append(f"not audited: {', '.join(missing)}")
    return [*lines, f"audited: {len(packages & seen)} packages of {len(packages)}"], sound


def main() -> None:
    """From the command line; the status is 1 if a package has a hole."""
    try:
        lines, sound = audit(
            pins(LOCKS.glob("*.txt")), ignored(IGNORED), sys.argv[1] if len(sys.argv) > 1 else DATABASE
        )
    except CommandError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))
    sys.exit(not sound)


if __name__ == "__main__":
    main()
