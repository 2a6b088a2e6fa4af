"""Unit tests of ``deploy/backends``."""
