"""Real Gunicorn, Nginx, supervisord and Locust on free ports of 127.0.0.1, stopped by process id."""
