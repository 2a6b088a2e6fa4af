"""What a stack is: its specification, its folders and ports, and helpers that every verb needs."""
