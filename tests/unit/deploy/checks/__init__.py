"""Unit tests of ``deploy/checks``."""
