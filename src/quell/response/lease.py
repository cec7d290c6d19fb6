"""For how long and how strictly a network namespace is isolated, and whether a new request changes that. SEMANTICS 4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from quell.model.action import Quarantine
from quell.response.facts import admitted
from quell.response.state import State

#: A lease that its holders renew is sent to the agent again once this part of it is over: evidence comes in crowds.
_WORN = 0.1


class Lease(NamedTuple):
    #: None: until the holders let go.
    until: float | None
    strict: bool
    holders: Mapping[str, float | None]
    #: As in Quarantined.
    investigators: Mapping[str, tuple[str, ...]]

    def covers(self, action: Quarantine, owners: Iterable[str], now: float) -> bool:
        """Whether these owners' request needs no command: what it asks for is there already."""
        if action.strict and not self.strict:
            return False
        if self.until is None or action.ttl is None:
            return self.until is None
        renewed = all(owner in self.holders for owner in owners)
        return now + action.ttl <= self.until + (action.ttl * _WORN if renewed else 0.0)

    def admits_others(self, investigators: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether other addresses than now may reach it when these holders ask for these."""
        return admitted({**self.investigators, **investigators}) != admitted(self.investigators)


def lease_of(state: State, key: str) -> Lease | None:
    """None: not isolated, or just being released."""
    held = state.quarantines.get(key)
    if held is None or not held.holders:
        return None
    return Lease(held.lease, held.strict, held.holders, held.investigators)


def later(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)
