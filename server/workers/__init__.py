"""The Gunicorn worker class, with its connections, their balancing over a replica's workers, and draining."""
