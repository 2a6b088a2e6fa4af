"""Companions: compiled forms of a model, made, checked against it and stored inside it."""
