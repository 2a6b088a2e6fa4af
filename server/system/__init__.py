"""Access to the operating system: control groups, memory of processes, CPUs, files."""
