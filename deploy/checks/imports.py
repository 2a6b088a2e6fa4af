"""``python -m deploy.checks.imports``: check import rules that import-linter cannot check.

The contracts in pyproject.toml only apply to the modules that import-linter finds. It ignores folders without
``__init__.py``, so this check requires every Python file of a package to be a module of its graph. It also requires
that test modules do not import each other.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grimp import ImportGraph, build_graph

from deploy.stack.paths import ROOT

PACKAGES = ("server", "deploy", "tests")


def ignored_files(graph: ImportGraph, root: Path) -> list[str]:
    """Return a sorted list of errors, one for each Python file below ``root`` that is not a module of the graph."""
    files = [path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*.py")]
    return sorted(
        f"{path}: import-linter ignores this file: add an __init__.py to every folder above it"
        for path in files
        if ".".join(path.with_suffix("").parts).removesuffix(".__init__") not in graph.modules
    )


def imported_tests(graph: ImportGraph) -> list[str]:
    """Return a sorted list of errors, one for each import of a test module or a conftest."""
    tests = [module for module in graph.modules if module.rpartition(".")[2].startswith(("test_", "conftest"))]
    return sorted(
        f"{importer} imports {test}: move shared helpers to tests/support"
        for test in tests
        for importer in graph.find_modules_that_directly_import(test)
    )


def main() -> int:
    """Print the number of modules by package; return 1 after a line on standard error for each error."""
    graph = build_graph(*PACKAGES)
    errors = ignored_files(graph, ROOT) + imported_tests(graph)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    counts = ", ".join(f"{1 + len(graph.find_descendants(package))} of {package}" for package in PACKAGES)
    print(f"modules: {counts}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
