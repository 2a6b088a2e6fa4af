"""`python -m deploy.bench [engines]`, the command behind `make bench` and `make bench-engines`; Linux only."""

from __future__ import annotations

import sys

from server.system.platform import is_linux


def main(arguments: list[str]) -> int:
    """Run a benchmark and return the exit status: 1 after an error, of which standard error gets one line."""
    if arguments not in ([], ["engines"]):
        print("usage: python -m deploy.bench [engines]", file=sys.stderr)
        return 2
    if not is_linux():
        verb = "-".join(["bench", *arguments])
        print(f"error: make {verb} needs Linux; see docs/platforms.md", file=sys.stderr)
        return 1
    # Imported here because `make` does not install the packages of these modules on other systems.
    if arguments:
        from deploy.bench import engines  # noqa: PLC0415

        return engines.main()
    from deploy.bench import command  # noqa: PLC0415

    return command.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
