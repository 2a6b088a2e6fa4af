"""Requests sent both to Forkcast and to the servers whose protocols it implements, to compare the answers."""
