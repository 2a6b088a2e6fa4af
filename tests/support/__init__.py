"""Shared test helpers: fakes, small models, stacks to start, and clients."""
