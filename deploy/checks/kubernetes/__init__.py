"""Checks of the manifests in deploy/kubernetes: ``python -m deploy.checks.kubernetes``."""
