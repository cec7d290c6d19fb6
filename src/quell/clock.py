"""The time, as an argument: whoever needs it takes a Clock, so that a test can turn the hands."""

from __future__ import annotations

from collections.abc import Callable

#: Epoch seconds, UTC.
Clock = Callable[[], float]
