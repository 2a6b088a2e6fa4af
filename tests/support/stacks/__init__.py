"""Stacks that end-to-end tests start: local, in containers, locked, and as a kubelet would."""
