"""The state of one worker, made after the fork and handed to every request."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.inference.batcher import Batcher
from server.inference.rows import Prediction
from server.metrics.counts import Metrics
from server.protocols.request_body import Header


@dataclass(slots=True)
class WorkerState:
    """The queue and the counts of one worker; in a request it is ``scope["state"]["worker"]``.

    ``identity_headers`` are on every answer. ``example`` is the prediction of the model's example, or None where the
    model could not predict it. The server sets ``draining`` when the worker is told to stop.
    """

    batcher: Batcher
    identity_headers: tuple[Header, ...]
    example: Prediction | None = None
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False

    def publish(self) -> None:
        """Write this worker's state of health where all workers of the replica read it."""
        self.metrics.publish(self.batcher.pending)
