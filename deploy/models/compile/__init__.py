"""Companions: compiled forms of a model, checked against the model and stored inside it."""
