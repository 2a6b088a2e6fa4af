"""The description of a stack, its folders and ports, and helpers that every verb needs."""
