"""Unit tests of ``deploy/models/training``."""
