"""The no-Docker backend: replicas on Unix sockets under supervisord, with Nginx in front."""
