"""Unit tests of ``deploy/models``."""
