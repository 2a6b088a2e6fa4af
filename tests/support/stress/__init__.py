"""Load and disturbances for a running stack; most modules are also commands."""
