"""The Covertype model: its data, its training and its registration."""
