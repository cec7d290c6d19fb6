"""How a quarantine begins by a person's wish and how it ends: holders let go, and when the last one has, the namespace
is released. SEMANTICS section 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import (
    ActionRecord,
    Ask,
    Command,
    CommandExpected,
    Decision,
    QuarantineConfirmed,
    QuarantineEnded,
    QuarantineHeld,
    QuarantineLetGo,
    StateChange,
    Status,
)
from quell.model.event import Event
from quell.model.rule import Webhook
from quell.model.subject import NetworkTarget
from quell.response.commands import command
from quell.response.decide import decide
from quell.response.facts import Quarantined, admitted, last
from quell.response.state import State

#: Who asks for a release when nobody holds the quarantine any more, or its time is over.
LEASE = "lease"
#: What ends the id of an event that Quell makes of a command's outcome; the rest is the command's.
OWN = "/event"
_CHAIN = re.compile(r"/chain-(\d+)")
#: Seconds until a release that did not succeed is ordered again: doubled each time, up to the last.
_AGAIN, _AGAIN_AT_MOST = 1.0, 300.0


class Kept(NamedTuple):
    """What other holders keep isolated."""

    key: str
    #: Who let go of it.
    gone: tuple[str, ...]
    holders: tuple[str, ...]


class Release(NamedTuple):
    """What letting go brings: changes to store and apply, commands to sign, and what to tell of them."""

    changes: tuple[StateChange, ...]
    commands: tuple[Command, ...]
    kept: tuple[Kept, ...]
    #: One for each command, and one for each that is kept.
    records: tuple[ActionRecord, ...]


def request(
    event: Event,
    action: Quarantine,
    by: str,
    *,
    state: State,
    webhooks: Mapping[str, Webhook],
    now: float,
    revision: int,
) -> Decision:
    """What becomes of a person's wish to isolate the event's subject: all that holds for a rule's holds for it. Pure.

    by: who asks and will hold it, such as user/ann.
    """
    ask = Ask(action=action, by=by, owner=by)
    return decide(event, event.details, (), (ask,), webhooks=webhooks, state=state, now=now, revision=revision)


def let_go(
    state: State,
    now: float,
    *,
    key: str | None = None,
    holder: str | None = None,
    among: Callable[[str, Quarantined], bool] | None = None,
    by: str = "",
    event_id: str = "",
) -> Release:
    """Holders let go: of one namespace (a person unquarantines: all its holders), of all that one holder has (its rule
    is deleted or disabled with unquarantine), of those among; where several are given, all must hold. by: who asked,
    such as "user/ann". event_id: of the event whose decision it will be. Pure.
    """
    pairs = [
        (name, each)
        for name, held in sorted(state.quarantines.items())
        if (key is None or name == key) and (among is None or among(name, held))
        for each in sorted(held.holders)
        if holder is None or each == holder
    ]
    return _release(state, pairs, now, by or holder or "", event_id)


def run_out(state: State, now: float, event_id: str = "") -> Release:
    """Leases that are over, and namespaces that nobody holds whose release has not succeeded yet, or that others may
    reach than shall: to be called often.
    """
    pairs = [
        (name, each)
        for name, held in sorted(state.quarantines.items())
        for each, until in sorted(held.holders.items())
        if until is not None and until <= now
    ]
    return _release(state, pairs, now, LEASE, event_id, again=True)


def lost(state: State, agent: str, closed: Iterable[str], gone: Iterable[str]) -> tuple[StateChange, ...]:
    """What the agent does not keep isolated any more without having been told to: its namespace is gone, its time was
    over while the link was down, a person has opened it on the machine.

    closed: the keys of all that it keeps isolated. gone: those that it has just found gone. Keys with a command on its
    way are left to that command's outcome.
    """
    kept, ended = frozenset(closed), frozenset(gone)
    awaited = {expected.quarantine for expected in state.pending.values()}
    return tuple(
        QuarantineEnded(key=key)
        for key, held in sorted(state.quarantines.items())
        if held.agent == agent and key not in awaited and (key in ended or (held.confirmed and key not in kept))
    )


def found(state: State, command: Command, holders: Iterable[QuarantineHeld]) -> tuple[StateChange, ...]:
    """An agent has isolated what had been given up as expired: it is isolated all the same, and held as was decided.

    holders: of the decision that the command came from.
    """
    target = command.target
    if not isinstance(target, NetworkTarget) or command.id in state.pending or target.key in state.quarantines:
        return ()
    held = tuple(each for each in holders if isinstance(each.target, NetworkTarget) and each.target.key == target.key)
    return (*held, QuarantineConfirmed(key=target.key)) if held else ()


def _release(
    state: State, pairs: list[tuple[str, str]], now: float, by: str, event_id: str, *, again: bool = False
) -> Release:
    """again: also what nobody holds and is not released yet, and what was not changed yet."""
    event_id = event_id or f"release/{now:.6f}"
    changes: list[StateChange] = [QuarantineLetGo(key=key, holder=holder) for key, holder in pairs]
    gone: dict[str, list[str]] = {}
    for key, holder in pairs:
        gone.setdefault(key, []).append(holder)
    ordered: list[Command] = []
    kept: list[Kept] = []
    records: list[ActionRecord] = []
    for key in sorted({*gone, *(_undone(state, now) if again else ())}):
        held = state.quarantines[key]
        letting = tuple(gone.get(key, ()))
        remaining = tuple(sorted(set(held.holders) - set(letting)))
        # What a lease ends goes on with the chain of events that it began in; a person ends a chain.
        chain = depth(held.cause) if by == LEASE else 0
        identifier = f"{event_id}/{len(records)}{f'/chain-{chain}' if chain else ''}"
        asked_by = (by,) if by else ()
        action: ReleaseQuarantine | Quarantine = ReleaseQuarantine()
        does = True
        if remaining:
            if letting:
                kept.append(Kept(key, letting, remaining))
                said = f"{', '.join(letting)} let go; it stays isolated, held by {', '.join(remaining)}"
            else:
                said = "who may reach it was not changed yet"
            left = {holder: held.investigators.get(holder, ()) for holder in remaining}
            does = held.unsettled or admitted(left) != admitted(held.investigators)
            if does:
                until = last([held.holders[holder] for holder in remaining])
                ttl = None if until is None else max(until - now, 0.0)
                action = Quarantine(ttl=ttl, strict=held.strict, investigator=admitted(left))
                said += f"; {', '.join(admitted(left)) or 'nobody'} may reach it"
                changes.append(CommandExpected(id=identifier, quarantine=key, admits=True, at=now))
        else:
            said = f"{', '.join(letting)} let go" if letting else "it was not released yet"
            changes.append(CommandExpected(id=identifier, quarantine=key, release=True, at=now))
        if does:
            ordered.append(
                command(identifier, held.agent, action, held.target, state=state, now=now, asked_by=asked_by)
            )
        records.append(
            ActionRecord(
                id=identifier,
                action=action,
                target=held.target,
                asked_by=asked_by,
                status=Status.GRANTED,
                explanation=said,
                agent=held.agent if does else "",
            )
        )
    return Release(tuple(changes), tuple(ordered), tuple(kept), tuple(records))


def depth(identifier: str) -> int:
    """How many events of Quell's own in a row, each by a rule that matched the one before, led to what has this id."""
    return identifier.count(OWN) + sum(map(int, _CHAIN.findall(identifier)))


def _undone(state: State, now: float) -> Iterable[str]:
    """Those that nobody holds and whose release is to be ordered, again or at all; and those to be changed again."""
    released = {expected.quarantine for expected in state.pending.values() if expected.release}
    for key, held in state.quarantines.items():
        wait = min(_AGAIN * 2 ** min(held.tries - 1, 10), _AGAIN_AT_MOST) if held.tries else 0.0
        if (held.unsettled or not held.holders) and key not in released and now >= held.tried + wait:
            yield key
