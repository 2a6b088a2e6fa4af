"""Running replicas: their health, and moving them to another model version."""
