"""Unit tests of ``deploy/stack``."""
