"""What the operating system says: control groups, memory of processes, files."""
