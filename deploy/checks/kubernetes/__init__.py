"""Manifests for a cluster, and what checks them: ``python -m deploy.checks.kubernetes``."""
