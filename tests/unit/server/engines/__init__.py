"""Unit tests of ``server/engines``."""
