"""Unit tests of ``server/protocols``."""
