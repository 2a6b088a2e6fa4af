"""Unit tests of ``deploy``."""
