"""``python -m deploy.checks.imports``: what import-linter's contracts cannot see of the project's imports.

The contracts are in pyproject.toml. They hold for the modules that import-linter finds, and it passes over a folder
that has no ``__init__.py`` without a word. So every Python file of a package has to be a module of its graph. Tests
share helpers, and import nothing of each other.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grimp import ImportGraph, build_graph

from deploy.stack.paths import ROOT

PACKAGES = ("server", "deploy", "tests")


def unseen(graph: ImportGraph, root: Path) -> list[str]:
    """Return the Python files below ``root`` that are no module of the graph, in order, with the reason."""
    files = [path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*.py")]
    return sorted(
        f"{path}: import-linter does not see this file; every folder above it needs an __init__.py"
        for path in files
        if ".".join(path.with_suffix("").parts).removesuffix(".__init__") not in graph.modules
    )


def imported_tests(graph: ImportGraph) -> list[str]:
    """Return an error for each module that imports a module of tests, or a conftest."""
    tests = [module for module in graph.modules if module.rpartition(".")[2].startswith(("test_", "conftest"))]
    return sorted(
        f"{importer} imports {test}: what tests share belongs into tests/support"
        for test in tests
        for importer in graph.find_modules_that_directly_import(test)
    )


def main() -> int:
    """Print the number of modules by package; 1 after a line for each error on standard error."""
    graph = build_graph(*PACKAGES)
    errors = unseen(graph, ROOT) + imported_tests(graph)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    counts = ", ".join(f"{1 + len(graph.find_descendants(package))} of {package}" for package in PACKAGES)
    print(f"modules: {counts}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
