"""Small models for tests: in memory, saved as MLflow saves them, and in registries."""
