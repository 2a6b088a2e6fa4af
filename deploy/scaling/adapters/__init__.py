"""What the scaling lab needs of each backend: a load generator, access logs and resource usage."""
