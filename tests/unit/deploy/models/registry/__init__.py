"""Unit tests of ``deploy/models/registry``."""
