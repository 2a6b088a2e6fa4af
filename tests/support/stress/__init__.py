"""Load and disturbances for a running stack; most are commands of their own, too."""
