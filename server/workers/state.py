"""The state of one worker, created after the fork and passed to every request."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.inference.batcher import Batcher
from server.inference.rows import Prediction
from server.metrics.counts import Metrics
from server.protocols.request_body import Header


@dataclass(slots=True)
class WorkerState:
    """The queue and the metrics of one worker; in a request it is ``scope["state"]["worker"]``.

    ``identity_headers`` are added to every answer. ``example`` is the prediction for the model's example, or None if
    the model refused it. The server sets ``draining`` when the worker is about to stop.
    """

    batcher: Batcher
    identity_headers: tuple[Header, ...]
    example: Prediction | None = None
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False

    def publish(self) -> None:
        """Publish this worker's gauges for a scrape by any worker of the replica."""
        self.metrics.publish(self.batcher.pending)
