"""The answer of /metrics: the metrics of all workers, and figures that are read only at a scrape."""

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
    """A collector of all series of the replica that serves ``model``. Create it in the replica's master."""

    def __init__(self, metrics: Metrics, model: Model) -> None:
        self._metrics = metrics
        self._model = model
        self._master_pid = os.getpid()
        # A scrape takes milliseconds of CPU: several at once would delay predictions.
        self._lock = threading.Lock()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition text in the format that the header ``Accept`` asks for, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the header asks for a version that is not a number
            encode, content_type = choose_encoder("")
        with self._lock:
            return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield all series, for the encoder."""
        yield from self._metrics.registry.collect()
        yield from self._model_metrics()
        yield from self._memory_metrics()
        yield from self._cpu_metrics()

    def _model_metrics(self) -> Iterator[Metric]:
        model = self._model
        labels = {"name": model.name, "version": model.version, "engine": model.engine.name, "digest": model.digest}
        info = GaugeMetricFamily("forkcast_model_info", "The served model, as labels; always 1.", labels=list(labels))
        info.add_metric(list(labels.values()), 1)
        yield info
        text = "1 if the model is the last good copy because the registry did not answer, else 0."
        yield GaugeMetricFamily("forkcast_model_stale", text, model.stale is not None)

    def _memory_metrics(self) -> Iterator[Metric]:
        used = process_memory.usage(self._master_pid)
        for name, text, figure in (
            (
                "shared",
                "Memory shared by processes of the replica; a page of n processes counts 1/n in each.",
                used.shared,
            ),
            ("private", "Memory that a single process uses, summed over the replica's processes.", used.private),
            ("used", "Memory of the control group that the kernel cannot reclaim.", cgroup.memory_used()),
            ("limit", "Memory limit of the control group.", cgroup.memory_limit()),
        ):
            if figure is not None and not (name == "used" and cgroup.memory_limit() is None):
                yield GaugeMetricFamily(f"forkcast_memory_{name}_bytes", text, figure)

    def _cpu_metrics(self) -> Iterator[Metric]:
        # Without a limit, the control group may be that of the whole machine: its CPU time would not be the replica's.
        limit, seconds = cgroup.cpu_limit(), cgroup.cpu_seconds()
        if limit is not None and seconds is not None:
            yield CounterMetricFamily("forkcast_cpu_seconds_total", "CPU time used in the control group.", seconds)
            yield GaugeMetricFamily("forkcast_cpu_limit", "CPU limit of the control group (CPUs).", limit)
