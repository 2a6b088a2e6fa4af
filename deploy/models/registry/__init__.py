"""MLflow's registry: its server, its clients, and operations on registered versions."""
