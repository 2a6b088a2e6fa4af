"""`python -m deploy.bench [engines]`: what `make bench` and `make bench-engines` run, on Linux alone."""

from __future__ import annotations

import sys

from server.system.platform import is_linux


def main(arguments: list[str]) -> int:
    """Run a benchmark; the status is 1, with one line on standard error, where it cannot run."""
    if arguments not in ([], ["engines"]):
        print("usage: python -m deploy.bench [engines]", file=sys.stderr)
        return 2
    if not is_linux():
        verb = "-".join(["bench", *arguments])
        print(f"error: make {verb} needs Linux; see docs/platforms.md", file=sys.stderr)
        return 1
    # Imported here: on other systems `make` installs none of the packages that these need.
    if arguments:
        from deploy.bench import engines  # noqa: PLC0415

        return engines.main()
    from deploy.bench import command  # noqa: PLC0415

    return command.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
