"""``python -m deploy.checks.audit [URL]``: known vulnerabilities in the pinned packages, by pip-audit.

pip-audit asks OSV's database, or the one at URL, about the packages of every lock file, as this Python on this platform
would install them. The status is 1 where one has a vulnerability for which ``ignored-holes.txt`` gives no reason.
Where the database does not answer, that is printed as "not audited", which is no reason to fail.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.errors import CommandError
from deploy.stack.paths import ROOT
from server.errors import last_line

LOCKS = ROOT / "deploy/requirements"
IGNORED = ROOT / "deploy/checks/ignored-holes.txt"
DATABASE = "https://api.osv.dev/v1/query"
# How pip-audit says, at its level INFO, that it cannot read an advisory, which it then passes over.
_PASSED_OVER = re.compile(r"OSV vuln entry .* is missing 'affected' list|Unsupported OSV schema version.*")
# How long the database may take for one answer, and for all of them.
_ANSWER_SECONDS, _AUDIT_SECONDS = 10, 300


class NoAnswerError(Exception):
    """pip-audit did not get its answers from the database; the message is its reason."""


def ignored(file: Path) -> dict[str, str]:
    """Return the vulnerabilities that are known and accepted, with the reason for each.

    Raises:
        CommandError: a line gives no reason.
    """
    reasons = {}
    for line in file.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(":")
            if not reason.strip():
                raise CommandError(f"{file.name}: {line.strip()!r} gives no reason; write NAME: reason")
            reasons[name.strip()] = reason.strip()
    return reasons


def audit(locks: Path, accepted: dict[str, str], url: str) -> tuple[list[str], bool]:
    """Return the lines to print, and whether every vulnerability is accepted.

    Raises:
        CommandError: pip-audit does not take the command, or cannot read an advisory.
    """
    files = sorted(locks.glob("*.txt"))
    try:
        packages = _ask(files, url)
    except subprocess.TimeoutExpired:
        return [f"not audited: {url} did not answer for all packages within {_AUDIT_SECONDS} s"], True
    except NoAnswerError as error:
        return [f"not audited: {error}"], True
    lines, sound = [], True
    for package in packages:
        for vulnerability in package.get("vulns", ()):
            names = sorted({vulnerability["id"], *vulnerability["aliases"]})
            reason = next((accepted[name] for name in names if name in accepted), None)
            fixed = ", ".join(vulnerability["fix_versions"])
            line = f"{package['name']} {package['version']}: {', '.join(names)}, "
            line += f"fixed in {fixed}" if fixed else "not fixed yet"
            lines.append(f"accepted: {line}: {reason}" if reason else f"error: {line}")
            sound = sound and reason is not None
    pins = {pin for file in files for pin in re.findall(r"^[^\s#;]+==[^\s;]+", file.read_text(), re.MULTILINE)}
    audited = {f"{package['name']}=={package['version']}" for package in packages if "vulns" in package}
    if missing := sorted(pins - audited):
        lines.append(f"not audited, since this Python and platform do not install them: {', '.join(missing)}")
    return [*lines, f"audited: {len(audited)} packages"], sound


def _ask(files: Sequence[Path], url: str) -> list[dict[str, Any]]:
    """Return what pip-audit says of each package of these lock files.

    Raises:
        CommandError: pip-audit does not take the command, or cannot read an advisory.
        NoAnswerError: pip-audit has no answer, with its reason.
        TimeoutExpired: it was still asking.
    """
    command = [sys.executable, "-m", "pip_audit", "-s", "osv", "--osv-url", url, "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", str(_ANSWER_SECONDS)]
    command += [word for file in files for word in ("--requirement", str(file))]
    environ = {**os.environ, "PIP_AUDIT_LOGLEVEL": "INFO"}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_AUDIT_SECONDS)
    if ran.returncode > 1:
        raise CommandError(f"pip-audit: {last_line(ran.stderr, f'status {ran.returncode}')}")
    if unread := _PASSED_OVER.search(ran.stderr):
        raise CommandError(f"pip-audit passed over an advisory: {unread[0]}")
    try:
        packages: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise NoAnswerError(last_line(ran.stderr, "pip-audit printed nothing")) from None
    return packages


def main() -> int:
    """Audit the checkout's lock files; 1 where a package has a vulnerability that is not accepted."""
    url = sys.argv[1] if len(sys.argv) > 1 else DATABASE
    try:
        lines, sound = audit(LOCKS, ignored(IGNORED), url)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
