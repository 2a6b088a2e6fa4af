"""Unit tests of ``deploy/backends/local``."""
