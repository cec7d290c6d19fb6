"""After some failures each further try has to wait, twice as long each time. Pure: now is an argument."""

from __future__ import annotations

from collections import OrderedDict

#: Keys remembered; those that failed longest ago are forgotten first.
_KEYS = 4096


class Throttle:
    """Failures by key: of an account or of an address."""

    def __init__(self, free: int, *, longest: float = 60.0, forget: float = 900.0) -> None:
        """free: failures that cost nothing. longest: seconds of waiting at most. forget: seconds after the last one."""
        self._free = free
        self._longest = longest
        self._forget = forget
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until this key may try again."""
        count, last = self._failed.get(key, (0, now))
        if not count or count < self._free or now - last >= self._forget:
            return 0.0
        # The exponent is bounded: a float has no room for 2 ** 1024.
        pause = min(2.0 ** min(count - self._free, 32), self._longest)
        return max(0.0, last + pause - now)

    def charge(self, key: str, now: float) -> None:
        """Count a try as failed, before it is known: tries at the same time do not get by."""
        count, last = self._failed.pop(key, (0, now))
        self._failed[key] = (1 if now - last >= self._forget else count + 1, now)
        if len(self._failed) > _KEYS:
            self._failed.popitem(last=False)

    def refund(self, key: str) -> None:
        """The last try was right after all."""
        if key in self._failed:
            count, last = self._failed[key]
            self._failed[key] = (max(0, count - 1), last)

    def clear(self, key: str) -> None:
        self._failed.pop(key, None)
