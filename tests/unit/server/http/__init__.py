"""Unit tests of ``server/http``."""
