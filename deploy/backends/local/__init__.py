"""The local backend: replicas on Unix sockets under supervisord behind Nginx, without Docker."""
