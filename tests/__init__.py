"""Tests; those in ``e2e`` start real processes."""
