"""How often one caller may ask: a bucket of requests that fills at a steady rate. Ingest has bounds of its own."""

from __future__ import annotations

import time
from collections import OrderedDict

from quell.api.problem import Refusal
from quell.clock import Clock

#: Callers remembered; one that was forgotten starts with a full bucket.
_CALLERS = 4096


class RateLimit:
    """rate: requests a second that a caller may make for ever. burst: those that may come at once."""

    def __init__(self, rate: float, burst: int, clock: Clock = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        #: Caller to requests left, and when they were counted.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count a request. Refusal 429, saying when there is room again."""
        now = self._clock()
        left, counted = self._buckets.get(caller, (float(self._burst), now))
        left = min(self._burst, left + (now - counted) * self._rate)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(
                429,
                f"more than {self._rate:g} requests a second; one caller may make {self._burst} at once",
                retry_after=(1 - left) / self._rate,
            )
