"""Python imports this at its start: with its folder on PYTHONPATH, it runs as on macOS (tests/support/macos.py)."""

from __future__ import annotations

import sys
import sysconfig
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
macos = import_module("tests.support.macos")  # found in the checkout, which is on the path just now
del sys.path[0]
sysconfig.get_config_vars()  # read and kept while Python still knows how it was really built
macos.pretend(macos.ForGood())
