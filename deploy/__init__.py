"""What surrounds the service: images, the local backend, the model and the scaling lab."""
