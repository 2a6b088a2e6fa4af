"""Protection of a stack: TLS certificates, API keys, and a warning about a service that others can reach."""
