"""Backends, on which a stack runs: containers on a Docker engine, or local processes under supervisord."""
