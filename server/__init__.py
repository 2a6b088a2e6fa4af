"""The inference app, which is everything that a replica runs in production."""

__version__ = "0.1.0"
