"""Unit tests of ``server/model_store``."""
