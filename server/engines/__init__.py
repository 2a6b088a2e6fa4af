"""Engines, which compute labels and confidences for rows inside a worker, with one module for each engine."""
