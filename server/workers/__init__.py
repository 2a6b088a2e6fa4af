"""Gunicorn's worker class: connections, their balance over the workers of a replica, and draining."""
