"""Unit tests of ``deploy/scaling/adapters``."""
