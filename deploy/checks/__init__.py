"""Checks that `make check` and `make audit` run: imports, links, Kubernetes manifests and pinned packages."""
