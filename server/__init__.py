"""The inference app: what runs in production, and nothing else."""

__version__ = "0.1.0"
