"""Python imports this at its start: with its folder on PYTHONPATH, it runs as on macOS (tests/support/macos.py)."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
macos = import_module("tests.support.macos")  # found in the checkout, which is on the path just now
del sys.path[0]
macos.pretend(macos.ForGood())
