"""Unit tests of ``deploy/checks/kubernetes``."""
