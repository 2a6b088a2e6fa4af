"""Replicas that run: asking how they are, and moving them to another model version."""
