"""What protects a stack: TLS certificates, API keys, and warnings about what is exposed."""
