"""Unit tests of ``nginx``."""
