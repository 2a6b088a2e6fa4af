"""The Docker backend: a stack as one project of Docker Compose."""
