"""Checks of files that are not Python: pinned packages and Kubernetes manifests."""
