"""The backends that a stack runs on: containers of a Docker engine, or local processes under supervisord."""
