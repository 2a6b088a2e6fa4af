"""Batteries of requests, for Forkcast and for the servers whose protocols it speaks."""
