"""MLflow's registry: its server, its clients, and what the verbs do with registered versions."""
