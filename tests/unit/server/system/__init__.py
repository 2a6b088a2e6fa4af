"""Unit tests of ``server/system``."""
