"""Engines: what computes predictions inside a worker, from rows to labels and confidences; one engine a module."""
