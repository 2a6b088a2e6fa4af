"""Unit tests of ``deploy/scaling``."""
