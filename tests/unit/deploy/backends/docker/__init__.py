"""Unit tests of ``deploy/backends/docker``."""
