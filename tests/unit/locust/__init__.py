"""Unit tests of ``locust``."""
