"""A Locust file of plain users, as the workshops write it: Locust's HttpUser, and real numbers for measurements.

A test gives it to Locust as a program.
"""

from __future__ import annotations

import random

from locust import HttpUser, between, task


class WorkshopUser(HttpUser):
    """A user that predicts one random row at a time, and asks for the health now and then."""

    wait_time = between(0.1, 0.3)

    @task(3)
    def predict(self) -> None:
        """Post a row whose measurements are real numbers."""
        row = {
            "elevation": random.uniform(1900, 3800),
            "aspect": random.uniform(0, 360),
            "slope": random.uniform(0, 60),
            "horizontal_distance_to_hydrology": 200,
            "vertical_distance_to_hydrology": 50,
            "horizontal_distance_to_roadways": 1000,
            "hillshade_9am": 200,
            "hillshade_noon": 230,
            "hillshade_3pm": 150,
            "horizontal_distance_to_fire_points": 800,
            "wilderness_area": random.randint(1, 4),
            "soil_type": random.randint(1, 40),
        }
        self.client.post("/predict", json=row)

    @task(1)
    def health(self) -> None:
        """Ask whether the worker is alive."""
        self.client.get("/health")
