"""How a quarantine ends: holders let go, and when the last one has, the namespace is released. SEMANTICS section 4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from quell.model.action import ReleaseQuarantine
from quell.model.decision import Command, CommandExpected, QuarantineLetGo, StateChange
from quell.response.commands import command
from quell.response.state import State


class Release(NamedTuple):
    """What letting go brings: changes to store and apply, commands to sign, and what other holders keep isolated."""

    changes: tuple[StateChange, ...]
    commands: tuple[Command, ...]
    #: (key, its remaining holders)
    kept: tuple[tuple[str, tuple[str, ...]], ...]


def let_go(state: State, now: float, *, key: str | None = None, holder: str | None = None, by: str = "") -> Release:
    """Holders let go: of one namespace (a person unquarantines: all its holders), of all that one holder has (its rule
    is deleted or disabled with unquarantine), or both given. by: who asked, such as "user/ann". Pure.
    """
    pairs = [
        (name, each)
        for name, held in sorted(state.quarantines.items())
        if key is None or name == key
        for each in sorted(held.holders)
        if holder is None or each == holder
    ]
    return _release(state, pairs, now, by or holder or "")


def run_out(state: State, now: float) -> Release:
    """Leases that are over, and namespaces that nobody holds whose release has not succeeded yet: to be called often."""
    pairs = [
        (name, each)
        for name, held in sorted(state.quarantines.items())
        for each, until in sorted(held.holders.items())
        if until is not None and until <= now
    ]
    return _release(state, pairs, now, "lease")


def _release(state: State, pairs: list[tuple[str, str]], now: float, by: str) -> Release:
    changes: list[StateChange] = [QuarantineLetGo(key=key, holder=holder) for key, holder in pairs]
    gone: dict[str, set[str]] = {}
    for key, holder in pairs:
        gone.setdefault(key, set()).add(holder)
    ordered: list[Command] = []
    kept: list[tuple[str, tuple[str, ...]]] = []
    released = {expected.quarantine for expected in state.pending.values() if expected.release}
    for key in sorted({*gone, *_free(state)}):
        held = state.quarantines[key]
        remaining = tuple(sorted(set(held.holders) - gone.get(key, set())))
        if remaining:
            kept.append((key, remaining))
        elif key in gone or key not in released:
            identifier = f"release/{key}/{now:.6f}"
            ordered.append(
                command(
                    identifier,
                    held.agent,
                    ReleaseQuarantine(),
                    held.target,
                    state=state,
                    now=now,
                    asked_by=(by,) if by else (),
                )
            )
            changes.append(CommandExpected(id=identifier, quarantine=key, release=True))
    return Release(tuple(changes), tuple(ordered), tuple(kept))


def _free(state: State) -> Iterable[str]:
    return (key for key, held in state.quarantines.items() if not held.holders)
