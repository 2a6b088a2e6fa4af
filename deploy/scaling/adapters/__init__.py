"""Adapters from the scaling lab to the backends: a load generator, access logs and resource usage."""
