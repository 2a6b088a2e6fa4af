"""What /metrics answers: the counts of all workers, and what is only looked at when somebody asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.inference.model import Model
from server.metrics.counts import Metrics
from server.system import cgroup, process_memory


class Scrape(Collector):
    """For the replica that serves ``model``. Made in its master."""

    def __init__(self, metrics: Metrics, model: Model) -> None:
        self._metrics = metrics
        self._model = model
        self._master = os.getpid()
        # A scrape is milliseconds of CPU: many at once would keep predictions waiting.
        self._one = threading.Lock()

    def answer(self, accept: str) -> tuple[bytes, str]:
        """The text in the form that a header ``Accept`` asks for, and the name of that form."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it stumbles over a version that is no number
            encode, content_type = choose_encoder("")
        with self._one:
            return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Everything, for the encoder."""
        yield from self._metrics.registry.collect()
        yield from self._served()
        yield from self._memory()
        yield from self._cpu()

    def _served(self) -> Iterator[Metric]:
        model = self._model
        labels = {"name": model.name, "version": model.version, "engine": model.engine.name, "digest": model.digest}
        info = GaugeMetricFamily("forkcast_model_info", "The model that is served: 1.", labels=list(labels))
        info.add_metric(list(labels.values()), 1)
        yield info
        words = "Whether that is the last good copy, because the registry did not answer: 0 or 1."
        yield GaugeMetricFamily("forkcast_model_stale", words, model.stale is not None)

    def _memory(self) -> Iterator[Metric]:
        used = process_memory.usage(self._master)
        for name, words, figure in (
            (
                "shared",
                "Memory that processes of the replica share, each page counted once over its sharers.",
                used.shared,
            ),
            ("private", "Memory that one process of the replica has to itself, over all of them.", used.private),
            ("used", "Memory of the control group that the kernel cannot take back.", cgroup.memory_used()),
            ("limit", "The limit of the control group's memory.", cgroup.memory_limit()),
        ):
            if figure is not None and not (name == "used" and cgroup.memory_limit() is None):
                yield GaugeMetricFamily(f"forkcast_memory_{name}_bytes", words, figure)

    def _cpu(self) -> Iterator[Metric]:
        """Without a limit the control group is the machine's, and its time not the replica's."""
        limit, seconds = cgroup.cpu_limit(), cgroup.cpu_seconds()
        if limit is not None and seconds is not None:
            yield CounterMetricFamily("forkcast_cpu_seconds_total", "CPU time used in the control group.", seconds)
            yield GaugeMetricFamily("forkcast_cpu_limit", "The limit of the control group: CPUs.", limit)
