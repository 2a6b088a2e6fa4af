"""Real programs that tests run: a browser and Locust."""
