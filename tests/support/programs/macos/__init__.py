"""A folder for PYTHONPATH: see :mod:`tests.support.macos`."""
