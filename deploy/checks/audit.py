"""``python -m deploy.checks.audit [URL]``: list known vulnerabilities of the pinned packages with pip-audit.

pip-audit queries the database of OSV, or the one at URL, for the packages that this Python on this platform would
install from the lock files. The exit status is 1 if a package has a vulnerability that ``ignored-holes.txt`` does not
accept with a reason. If the database does not answer, the output says "not audited", and the status is 0.
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
# Log messages (level INFO) by which pip-audit tells that it skips an advisory because it cannot read it.
_SKIPPED_ADVISORY = re.compile(r"OSV vuln entry .* is missing 'affected' list|Unsupported OSV schema version.*")
# The time limits for one answer of the database, and for the audit.
_ANSWER_SECONDS, _AUDIT_SECONDS = 10, 300


class NoAnswerError(Exception):
    """pip-audit got no answer from the database; the message is its reason."""


def read_accepted(file: Path) -> dict[str, str]:
    """Return the accepted vulnerabilities by name, with the reason for each.

    Raises:
        CommandError: a line gives no reason.
    """
    reasons = {}
    for line in file.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(":")
            if not reason.strip():
                raise CommandError(f"{file.name}: expected NAME: reason, got {line.strip()!r}")
            reasons[name.strip()] = reason.strip()
    return reasons


def audit(locks: Path, accepted: dict[str, str], url: str) -> tuple[list[str], bool]:
    """Return the lines to print, and whether every vulnerability is accepted.

    Raises:
        CommandError: pip-audit refuses the command, or cannot read an advisory.
    """
    files = sorted(locks.glob("*.txt"))
    try:
        packages = _run_pip_audit(files, url)
    except subprocess.TimeoutExpired:
        return [f"not audited: {url} did not answer for all packages within {_AUDIT_SECONDS} s"], True
    except NoAnswerError as error:
        return [f"not audited: {error}"], True
    lines, all_accepted = [], True
    for package in packages:
        for vulnerability in package.get("vulns", ()):
            names = sorted({vulnerability["id"], *vulnerability["aliases"]})
            reason = next((accepted[name] for name in names if name in accepted), None)
            fixed = ", ".join(vulnerability["fix_versions"])
            line = f"{package['name']} {package['version']}: {', '.join(names)}, "
            line += f"fixed in {fixed}" if fixed else "not fixed yet"
            lines.append(f"accepted: {line}: {reason}" if reason else f"error: {line}")
            all_accepted = all_accepted and reason is not None
    pins = {pin for file in files for pin in re.findall(r"^[^\s#;]+==[^\s;]+", file.read_text(), re.MULTILINE)}
    audited = {f"{package['name']}=={package['version']}" for package in packages if "vulns" in package}
    if missing := sorted(pins - audited):
        lines.append(f"not audited, because this Python and platform do not install them: {', '.join(missing)}")
    return [*lines, f"audited: {len(audited)} packages"], all_accepted


def _run_pip_audit(files: Sequence[Path], url: str) -> list[dict[str, Any]]:
    """Return the result of pip-audit for each package of the lock files.

    Raises:
        CommandError: pip-audit refuses the command, or cannot read an advisory.
        NoAnswerError: the database did not answer.
        TimeoutExpired: the audit took too long.
    """
    command = [sys.executable, "-m", "pip_audit", "-s", "osv", "--osv-url", url, "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", str(_ANSWER_SECONDS)]
    command += [option for file in files for option in ("--requirement", str(file))]
    environ = {**os.environ, "PIP_AUDIT_LOGLEVEL": "INFO"}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_AUDIT_SECONDS)
    if ran.returncode > 1:
        raise CommandError(f"pip-audit: {last_line(ran.stderr, f'status {ran.returncode}')}")
    if skipped := _SKIPPED_ADVISORY.search(ran.stderr):
        raise CommandError(f"pip-audit skipped an advisory: {skipped[0]}")
    try:
        packages: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise NoAnswerError(last_line(ran.stderr, "pip-audit printed nothing")) from None
    return packages


def main() -> int:
    """Audit the lock files of the checkout; return 1 if a package has a vulnerability that is not accepted."""
    url = sys.argv[1] if len(sys.argv) > 1 else DATABASE
    try:
        lines, all_accepted = audit(LOCKS, read_accepted(IGNORED), url)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0 if all_accepted else 1


if __name__ == "__main__":
    sys.exit(main())
