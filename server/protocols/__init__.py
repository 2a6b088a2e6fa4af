"""The wire protocols: how each reads a request for predictions and writes answers and errors."""
