"""What is done to models before they are served: provided, weighed, trained, compiled and registered."""
