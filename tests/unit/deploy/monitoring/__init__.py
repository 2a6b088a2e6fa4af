"""Unit tests of ``deploy/monitoring``."""
