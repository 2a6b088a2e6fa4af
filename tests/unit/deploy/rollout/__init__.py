"""Unit tests of ``deploy/rollout``."""
