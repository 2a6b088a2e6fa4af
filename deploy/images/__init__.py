"""What the Dockerfile puts into images beside the code."""
