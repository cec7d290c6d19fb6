"""For all tests: how hypothesis runs."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is the machine's affair; what is too slow is seen in the benchmarks.
settings.register_profile("quell", deadline=None)
settings.load_profile("quell")
