"""Unit tests of ``server/inference``."""
