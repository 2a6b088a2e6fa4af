"""`python -m deploy.help [settings]`: the text of `make help`, or with ``settings`` the page docs/settings.md.

The verbs are read from source code instead of imported modules, so that `make help` works before any package is
installed.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# The classes whose public methods are verbs. The first line of a method's docstring says what the verb does, the line
# that begins with `make ` how to call it.
_VERB_CLASSES = (("deploy/cli.py", "Verbs"), ("deploy/scaling/verbs.py", "Lab"))
# Verbs without a method: the Makefile starts their programs itself.
_OTHER_VERBS = (
    (
        'make bench [QUICK=1] [ENGINE=] [WORKERS="1 2 4"] [CONNECTIONS="1 64"] [BENCH_SECONDS=6] [DATA=rows.csv]',
        "Measure the throughput, latency, CPU and memory of predictions in one replica.",
    ),
    (
        "make bench-engines [COVERTYPE_PATH=file.csv.gz]",
        "Compare the speed and memory of engines on one random forest; takes minutes.",
    ),
    ("make test [PYTEST=]", "Run the tests; PYTEST= passes options to pytest, such as PYTEST=\"-m 'not e2e'\"."),
    ("make test-slow", "Run the slow tests, one after another."),
    ("make check", "Run the linters, the type checker and the checks of configuration files."),
    ("make audit", "List the known vulnerabilities of the pinned packages."),
    ("make lock", "Upgrade every pinned dependency and rewrite the lock files."),
    ("make help", "Print this list."),
)
_SETTINGS = """\
# Settings

Set a variable on the command line (`make up N=3`), in the environment or in the file `.env`. The command line has
precedence over the environment, and the environment over `.env`. An empty value counts as not set, with one exception:
it does not switch off the API keys, TLS or the limits per client of a running stack. For that, run `make down` first.

The column *value* shows the type or the accepted values, and the last column names the services of
`docker-compose.yml` whose containers receive the variable.

These variables are not in the tables: `PYTHON` (the Python that creates `.venv`) and `PYTEST` (options for pytest) are
read by the Makefile, `DOCKER_HOST` is read by Docker, and `HOST`, `PORT` and `SOCKET` are read by a replica that you
start without the verbs.

This page is generated from `deploy/options.py` and `deploy/variables.py` by
`.venv/bin/python -m deploy.help settings > docs/settings.md`.
"""


def verbs() -> Iterator[tuple[str, str]]:
    """Yield a pair for each verb: how to call it, and what it does."""
    for file, name in _VERB_CLASSES:
        (definition,) = (
            node
            for node in ast.parse((_ROOT / file).read_text()).body
            if isinstance(node, ast.ClassDef) and node.name == name
        )
        for method in definition.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                lines = (ast.get_docstring(method) or "").splitlines()
                usage = [line for line in lines if line.startswith("make ")]
                yield (usage or [f"make {method.name.replace('_', '-')}"])[0], lines[0]
    yield from _OTHER_VERBS


def settings() -> str:
    """Return the page docs/settings.md, with a table for each group of variables."""
    from deploy.options import BENCH_VARIABLES, VARIABLES  # noqa: PLC0415  (the list of verbs needs no package)
    from deploy.variables import CREDENTIAL_VARIABLES, LAB_VARIABLES, REGISTRY_VARIABLES, REPLICA_VARIABLES  # noqa: PLC0415

    tables = {
        "Replicas": REPLICA_VARIABLES, "The registry of `make up-full`": REGISTRY_VARIABLES,
        "Access to your own registry": CREDENTIAL_VARIABLES, "The scaling lab": LAB_VARIABLES,
        "The benchmark": BENCH_VARIABLES,
    }  # fmt: skip
    listed = {variable.name for table in tables.values() for variable in table}
    tables = {"The stack": tuple(variable for variable in VARIABLES if variable.name not in listed)} | tables
    lines = [_SETTINGS]
    for heading, table in tables.items():
        lines += [f"## {heading}", "", "| variable | value | default | meaning | services |", "|---|---|---|---|---|"]
        for variable in table:
            names = ", ".join(f"`{name}`" for name in (variable.name, *variable.aliases))
            services = ", ".join(f"`{service}`" for service in variable.services)
            default = variable.default or "none"
            lines.append(f"| {names} | {variable.type.name} | {default} | {variable.meaning} | {services} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Print the list of verbs, or with the argument ``settings`` the page docs/settings.md."""
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
