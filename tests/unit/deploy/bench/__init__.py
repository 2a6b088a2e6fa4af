"""Unit tests of ``deploy/bench``."""
