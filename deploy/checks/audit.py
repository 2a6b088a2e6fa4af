"""``python -m deploy.checks.audit [URL]``: known vulnerabilities in the pinned packages, by pip-audit.

pip-audit asks OSV's database, or the one at URL, about the packages of every lock file, as this Python on this platform
would install them. The status is 1 where one has a vulnerability for which ``ignored-holes.txt`` gives no reason.
Where the database does not answer, that is printed as "not audited", which is no reason to fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from deploy.errors import CommandError
from deploy.stack.paths import ROOT
from server.errors import last_line

LOCKS = ROOT / "deploy/requirements"
IGNORED = ROOT / "deploy/checks/ignored-holes.txt"
DATABASE = "https://api.osv.dev/v1/query"
# How long the database may take for one answer, and for all of them.
_ANSWER_SECONDS, _AUDIT_SECONDS = 10, 300


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
        CommandError: pip-audit does not take the command.
    """
    command = [sys.executable, "-m", "pip_audit", "-s", "osv", "--osv-url", url, "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", str(_ANSWER_SECONDS)]
    for lock in sorted(locks.glob("*.txt")):
        command += ["--requirement", str(lock)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_AUDIT_SECONDS)
        if ran.returncode > 1:
            raise CommandError(f"pip-audit: {last_line(ran.stderr, f'status {ran.returncode}')}")
        packages = json.loads(ran.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return [f"not audited: {url} did not answer for all packages within {_AUDIT_SECONDS} s"], True
    except (ValueError, KeyError):
        return [f"not audited: {last_line(ran.stderr, 'pip-audit printed nothing')}"], True
    lines, sound = [], True
    for package in packages:
        for vulnerability in package.get("vulns", ()):
            names = sorted({vulnerability["id"], *vulnerability["aliases"]})
            reason = next((accepted[name] for name in names if name in accepted), None)
            fixed = (
                f"fixed in {', '.join(vulnerability['fix_versions'])}" if vulnerability["fix_versions"] else "not fixed"
            )
            line = f"{package['name']} {package['version']}: {', '.join(names)}, {fixed}"
            lines.append(f"accepted: {line}: {reason}" if reason else f"error: {line}")
            sound = sound and reason is not None
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines += [f"not audited: {', '.join(skipped)}"] if skipped else []
    return [*lines, f"audited: {len(packages) - len(skipped)} packages"], sound


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
