"""Unit tests of ``deploy/security``."""
