"""Unit tests of ``deploy/models/compile``."""
