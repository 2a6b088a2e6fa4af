"""Unit tests of ``server/metrics``."""
