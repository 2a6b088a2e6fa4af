"""`python -m deploy.help`: what `make help` prints; with ``settings``, the table of variables in docs/settings.md.

The list of verbs is read from the source of those who run them, so that it needs no package.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# The classes whose methods are verbs. The first line of a docstring says what a verb does, `make ..` how it is called.
_CLASSES = (("deploy/cli.py", "Verbs"), ("deploy/scaling/verbs.py", "Lab"))
# Verbs that the Makefile runs by itself.
_OTHERS = (
    (
        'make bench [QUICK=1] [ENGINE=] [WORKERS="1 2 4"] [CONNECTIONS="1 64"] [BENCH_SECONDS=6] [DATA=rows.csv]',
        "Measure the cost of a prediction.",
    ),
    ("make bench-engines [COVERTYPE_PATH=file.csv.gz]", "Compare the engines that could compute one forest; minutes."),
    ("make test [PYTEST=]", "Run the tests; PYTEST= is for options, such as PYTEST=\"-m 'not e2e'\"."),
    ("make test-slow", "Run the tests that take longer, one after another."),
    ("make check", "Run linters, types, and checks of the configuration files."),
    ("make audit", "List known vulnerabilities of the pinned packages."),
    ("make lock", "Pin every dependency anew."),
    ("make help", "Print this list."),
)
_SETTINGS = """\
# Settings

Each variable is given on the command line (`make up N=3`), in the environment, or in `.env`; the first of these counts.
An empty value counts as none. The last column names the services of `docker-compose.yml` whose containers receive it.

Not in these tables: `PYTHON=` (which Python makes `.venv`) and `PYTEST=` are the Makefile's own, `DOCKER_HOST` is
Docker's, and a replica that is started by hand also reads `HOST`, `PORT` and `SOCKET`.

This page is made from `deploy/options.py` by `.venv/bin/python -m deploy.help settings > docs/settings.md`.
"""


def verbs() -> Iterator[tuple[str, str]]:
    """Yield how each verb is called, and what it does."""
    for file, name in _CLASSES:
        (found,) = (
            node
            for node in ast.parse((_ROOT / file).read_text()).body
            if isinstance(node, ast.ClassDef) and node.name == name
        )
        for method in found.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                lines = (ast.get_docstring(method) or "").splitlines()
                usage = [line for line in lines if line.startswith("make ")]
                yield (usage or [f"make {method.name.replace('_', '-')}"])[0], lines[0]
    yield from _OTHERS


def settings() -> str:
    """Return docs/settings.md."""
    from deploy.options import BENCH_VARIABLES, VARIABLES  # noqa: PLC0415  (the list of verbs needs no package)
    from deploy.variables import CREDENTIAL_VARIABLES, LAB_VARIABLES, REGISTRY_VARIABLES, REPLICA_VARIABLES  # noqa: PLC0415

    tables = {
        "Replicas": REPLICA_VARIABLES, "The registry of `make up-full`": REGISTRY_VARIABLES,
        "Access to a registry of yours": CREDENTIAL_VARIABLES, "The scaling lab": LAB_VARIABLES,
        "The bench": BENCH_VARIABLES,
    }  # fmt: skip
    others = {one.name for table in tables.values() for one in table}
    tables = {"The stack": tuple(one for one in VARIABLES if one.name not in others)} | tables
    lines = [_SETTINGS]
    for heading, table in tables.items():
        lines += [f"## {heading}", "", "| variable | value | default | meaning | services |", "|---|---|---|---|---|"]
        for one in table:
            names = ", ".join(f"`{name}`" for name in (one.name, *one.aliases))
            services = ", ".join(f"`{service}`" for service in one.services)
            lines.append(f"| {names} | {one.type.name} | {one.default} | {one.meaning} | {services} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Print the list of verbs, or the page of settings."""
    if arguments == ["settings"]:
        print(settings(), end="")
        return 0
    with suppress(BrokenPipeError):  # `make help | head`
        print("\n".join(f"  {usage}\n      {text}" for usage, text in verbs()), flush=True)
        return 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
