"""Unit tests of ``deploy/swarm``."""
