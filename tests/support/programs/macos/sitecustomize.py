"""A start hook of Python that simulates macOS while this folder is on PYTHONPATH (see tests/support/macos.py)."""

from __future__ import annotations

import sys
import sysconfig
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
macos = import_module("tests.support.macos")  # in the checkout, which is on the path until the next line
del sys.path[0]
sysconfig.get_config_vars()  # cached while the real platform is still visible
macos.pretend(macos.PermanentPatch())
