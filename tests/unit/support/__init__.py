"""Unit tests of ``support``."""
