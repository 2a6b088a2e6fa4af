"""Small models for tests: in memory, saved by MLflow, and in registries."""
