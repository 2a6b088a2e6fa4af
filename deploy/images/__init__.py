"""Scripts that the Dockerfile copies into the images."""
