"""The inference app: what runs in production, and nothing else."""
