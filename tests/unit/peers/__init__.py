"""Unit tests of ``peers``."""
