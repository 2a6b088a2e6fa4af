"""The second clock: what Nginx saw of the requests, by its access log."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from datetime import datetime

from deploy.scaling.latency import Latency

# The parts of a line that count (log_format json of nginx/nginx.conf); reading it as JSON would take four times as
# long.
_LINE = re.compile(
    rb'\{"time":"([^"]+)".*?"method":"POST","uri":"([^"?]*)[^"]*","status":(\d+),.*?"request_time":([\d.]+)'
)


class NginxClock:
    """Latency by the second in which Nginx had answered; whole milliseconds, as Nginx counts them."""

    def __init__(self, target: str) -> None:
        self._target = target.encode()
        self._seconds: defaultdict[int, Latency] = defaultdict(Latency)
        self._times: dict[bytes, int] = {}

    def take(self, line: bytes) -> None:
        """Count one line of the log, if it is of a request that is measured."""
        match = _LINE.match(line)
        if match and match[2] == self._target:
            # A line of several processes' log may be torn: it costs a request, not the clock.
            with suppress(ValueError):
                self._seconds[self._second(match[1])].add(round(float(match[4]) * 1000))

    def between(self, start: float, end: float) -> Latency:
        """Of the seconds that lie in this time as a whole."""
        return Latency.sum(latency for second, latency in list(self._seconds.items()) if start <= second <= end - 1)

    def _second(self, text: bytes) -> int:
        # Thousands of lines have the same second.
        if text not in self._times:
            self._times[text] = int(datetime.fromisoformat(text.decode()).timestamp())
        return self._times[text]
