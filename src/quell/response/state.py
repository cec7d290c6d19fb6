"""What earlier decisions and outcomes left behind. evaluate reads it; only decisions and outcomes change it.

SEMANTICS section 9: a restart rebuilds it from a snapshot and the journal after it.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar, assert_never

import msgspec
from msgspec import Struct

from quell.model.decision import (
    ActionHeld,
    BreakerReset,
    BreakerTripped,
    BudgetSpent,
    CommandEnded,
    CommandExpected,
    CooldownStarted,
    Decision,
    HoldEnded,
    Outcome,
    OutcomeStatus,
    QuarantineConfirmed,
    QuarantineEnded,
    QuarantineHeld,
    QuarantineLetGo,
    QuarantineRelaxed,
    QuarantineUnsettled,
    Reason,
    RefusalCounted,
    ReplicaDisturbed,
    StateChange,
)
from quell.model.subject import NetworkTarget, Subject
from quell.response.facts import AgentFacts, ClusterFacts, Quarantined, Safety, Workload

__all__ = ["AgentFacts", "ClusterFacts", "Quarantined", "Safety", "State", "Workload"]

#: A refusal raises at most one flag in this time, in seconds (SEMANTICS section 8).
REFUSAL_PERIOD = 3600.0
#: Seconds for which a replica counts as disturbed (SEMANTICS section 8, budget).
DISTURBED_PERIOD = 60.0
_SWEEP_AT = 4096
_V = TypeVar("_V")


class _Snapshot(Struct, kw_only=True, omit_defaults=True):
    cooldowns: dict[str, float] = {}
    spent: dict[str, list[float]] = {}
    pending: dict[str, CommandExpected] = {}
    quarantines: dict[str, Quarantined] = {}
    refusals: dict[str, tuple[float, int]] = {}
    held: dict[str, ActionHeld] = {}
    breakers: dict[str, BreakerTripped] = {}
    disturbed: dict[str, dict[str, float]] = {}
    told: dict[str, tuple[str, float]] = {}


class State:
    """Cooldowns, budgets, holds, breakers, quarantines and refusals; beside them what agents and inventory report, set from outside."""

    def __init__(self, safety: Safety | None = None) -> None:
        self.safety = safety or Safety()
        #: Key "<owner>/<action>/<target>": until when (epoch seconds).
        self.cooldowns: dict[str, float] = {}
        #: Budget or limit: when each action in its window happened, in order.
        self.spent: dict[str, list[float]] = {}
        #: Commands whose outcome matters and is not there yet, by id.
        self.pending: dict[str, CommandExpected] = {}
        #: By the key of their target.
        self.quarantines: dict[str, Quarantined] = {}
        #: Key "<owner>/<reason>/<subject>": (last flag, refusals counted since).
        self.refusals: dict[str, tuple[float, int]] = {}
        #: What waits for a person, by id, and its ids by their keys.
        self.held: dict[str, ActionHeld] = {}
        self.waiting: dict[str, str] = {}
        #: Breakers that stand open, by key.
        self.breakers: dict[str, BreakerTripped] = {}
        #: Owner of a workload: when each of its replicas was last acted on.
        self.disturbed: dict[str, dict[str, float]] = {}
        #: Keys of refusals and of flags that have a cooldown: (the last flag, until when what repeats it counts on it).
        self.told: dict[str, tuple[str, float]] = {}
        #: By full id; those of the inventory, which changes them as it learns.
        self.workloads: Mapping[str, Workload] = {}
        #: Group: ids of workloads that are members whatever the group's criteria say.
        self.members: dict[str, set[str]] = {}
        self._memberships: dict[str, tuple[str, ...]] = {}
        self._agents: dict[str, AgentFacts] = {}
        self._nodes: dict[str, AgentFacts | None] = {}
        self._machines: dict[str, AgentFacts | None] = {}
        self._clusters: tuple[ClusterFacts, ...] = ()

    def apply(self, decision: Decision) -> None:
        self.change(decision.changes)

    def change(self, changes: Sequence[StateChange]) -> None:
        """Make these changes: a decision's, or those that outcome or a release gave, when they are read back."""
        for change in changes:
            self._change(change)

    def outcome(self, outcome: Outcome) -> tuple[StateChange, ...]:
        """Take in what became of a command; the changes it made, to be stored. () if nothing waits for it."""
        expected = self.pending.get(outcome.id)
        if expected is None:
            return ()
        held = self.quarantines.get(expected.quarantine)
        awaited = held is not None and self._is_being_isolated(expected.quarantine, outcome.id)
        changes = tuple(_consequences(expected, outcome, held, awaited=awaited))
        self.change(changes)
        return changes

    def set_agents(self, agents: Iterable[AgentFacts]) -> None:
        """Those that are connected now, instead of all before."""
        self._agents, self._nodes, self._machines = {}, {}, {}
        for agent in agents:
            self._agents[agent.id] = agent
            for names, name in ((self._nodes, agent.node), (self._machines, agent.machine_id)):
                if name:
                    names[name] = None if name in names else agent

    def set_clusters(self, clusters: Iterable[ClusterFacts]) -> None:
        """Those whose Kubernetes API is configured, instead of all before."""
        self._clusters = tuple(clusters)

    def cluster_of(self, subject: Subject) -> AgentFacts | None:
        """The API of the subject's cluster, as who can carry something out; None: there is none."""
        return next((each.as_agent for each in self._clusters if each.has(subject)), None)

    def agent(self, identifier: str) -> AgentFacts | None:
        """By its id, or a cluster's API by its own."""
        known = self._agents.get(identifier)
        return known or next((each.as_agent for each in self._clusters if each.id == identifier), None)

    def agent_for(self, subject: Subject) -> AgentFacts | Reason:
        """The one agent on the subject's machine, by node name or machine id; Reason.NO_AGENT if none or not one."""
        node, machine = subject.node, subject.machine_id
        named = self._nodes.get(node) if node else None
        identified = self._machines.get(machine) if machine else None
        if named is not None and machine and named.machine_id and named.machine_id != machine:
            return Reason.NO_AGENT
        if named is not None and identified is not None and named is not identified:
            return Reason.NO_AGENT
        if node in self._nodes and named is None:
            return Reason.NO_AGENT
        return identified or named or Reason.NO_AGENT

    def set_workloads(self, workloads: Iterable[Workload]) -> None:
        self.workloads = {workload.id: workload for workload in workloads}

    def set_members(self, members: Mapping[str, Iterable[str]]) -> None:
        self.members = {group: set(ids) for group, ids in members.items()}
        memberships: dict[str, list[str]] = {}
        for group in sorted(self.members):
            for workload in self.members[group]:
                memberships.setdefault(workload, []).append(group)
        self._memberships = {workload: tuple(groups) for workload, groups in memberships.items()}

    def groups_of(self, workload: str) -> tuple[str, ...]:
        """The groups that this workload is a member of by state."""
        return self._memberships.get(workload, ())

    def is_over(self, key: str, bound: tuple[int, float], now: float, more: int = 0) -> bool:
        """Whether one more action, after `more` others not yet applied, breaks the bound (actions, seconds)."""
        count, window = bound
        room = count - more
        times = self.spent.get(key, ())
        return room <= 0 or (len(times) >= room and times[-room] > now - window)

    def snapshot(self) -> bytes:
        """All of it but what comes from outside (agents, clusters, workloads, members), as JSON."""
        return msgspec.json.encode(
            _Snapshot(
                cooldowns=self.cooldowns,
                spent=self.spent,
                pending=self.pending,
                quarantines=self.quarantines,
                refusals=self.refusals,
                held=self.held,
                breakers=self.breakers,
                disturbed=self.disturbed,
                told=self.told,
            ),
            order="deterministic",
        )

    @classmethod
    def restore(cls, snapshot: bytes, safety: Safety | None = None) -> State:
        """msgspec.DecodeError for bytes that no snapshot gave."""
        kept = msgspec.json.decode(snapshot, type=_Snapshot)
        state = cls(safety)
        state.cooldowns, state.spent, state.pending = kept.cooldowns, kept.spent, kept.pending
        state.quarantines, state.refusals, state.told = kept.quarantines, kept.refusals, kept.told
        state.held, state.breakers, state.disturbed = kept.held, kept.breakers, kept.disturbed
        state.waiting = {held.key: held.id for held in kept.held.values()}
        return state

    def _change(self, change: StateChange) -> None:
        match change:
            case CooldownStarted():
                if change.key not in self.cooldowns:
                    self.cooldowns = _swept(self.cooldowns, lambda until: until < change.at)
                self.cooldowns[change.key] = change.until
                if change.flag:
                    self._tell(change.told, change.flag, change.at, change.until)
            case BudgetSpent():
                self._spend(change)
            case CommandExpected():
                self.pending[change.id] = change
                if (held := self.quarantines.get(change.quarantine)) is not None:
                    self._order(held, change)
            case CommandEnded():
                self.pending.pop(change.id, None)
            case QuarantineHeld():
                self._hold(change)
            case QuarantineConfirmed():
                if (held := self.quarantines.get(change.key)) is not None:
                    held.confirmed = True
                    held.tries = 0 if held.holders else held.tries
            case QuarantineLetGo():
                self._let_go(change)
            case QuarantineRelaxed():
                if change.key in self.quarantines:
                    self.quarantines[change.key].strict = False
            case QuarantineUnsettled():
                if change.key in self.quarantines:
                    self.quarantines[change.key].unsettled = True
            case QuarantineEnded():
                self.quarantines.pop(change.key, None)
            case RefusalCounted():
                if change.key not in self.refusals:
                    self.refusals = _swept(self.refusals, lambda entry: entry[0] < change.at - REFUSAL_PERIOD)
                at, count = self.refusals.get(change.key, (change.at, 0))
                self.refusals[change.key] = (change.at, 0) if change.flagged else (at, count + 1)
                if change.flagged:
                    self._tell(change.key, change.flag, change.at, change.at + REFUSAL_PERIOD)
            case ActionHeld():
                self.held[change.id] = change
                self.waiting[change.key] = change.id
            case HoldEnded():
                ended = self.held.pop(change.id, None)
                if ended is not None and self.waiting.get(ended.key) == change.id:
                    del self.waiting[ended.key]
            case ReplicaDisturbed():
                self._disturb(change)
            case BreakerTripped():
                self.breakers[change.key] = change
            case BreakerReset():
                self.breakers.pop(change.key, None)
                self.spent.pop(change.key, None)
            case _:
                assert_never(change)

    def _order(self, held: Quarantined, change: CommandExpected) -> None:
        if change.release or (change.admits and change.at):
            held.tries, held.tried = held.tries + 1, change.at
        if not change.release:
            held.unsettled = False

    def _spend(self, change: BudgetSpent) -> None:
        for key in change.keys:
            times = self.spent.setdefault(key, [])
            insort(times, change.at)
            if times[0] <= change.at - change.window:
                del times[: bisect_right(times, change.at - change.window)]

    def _disturb(self, change: ReplicaDisturbed) -> None:
        old = change.at - DISTURBED_PERIOD
        if change.owner not in self.disturbed:
            self.disturbed = _swept(self.disturbed, lambda replicas: max(replicas.values()) < old)
        replicas = {name: at for name, at in self.disturbed.get(change.owner, {}).items() if at >= old}
        self.disturbed[change.owner] = {**replicas, change.replica: change.at}

    def _tell(self, key: str, flag: str, at: float, until: float) -> None:
        if key not in self.told:
            self.told = _swept(self.told, lambda entry: entry[1] < at)
        self.told[key] = (flag, until)

    def _hold(self, change: QuarantineHeld) -> None:
        target = change.target
        if not isinstance(target, NetworkTarget):
            raise TypeError(f"Expected a network target, got {type(target).__name__}")
        held = self.quarantines.get(target.key)
        if held is None or not held.holders:
            # Also where it was just being released: what comes now is another quarantine, and a command of its own.
            held = Quarantined(target=target, holders={}, since=change.at, cause=change.cause)
            self.quarantines[target.key] = held
        held.holders[change.holder] = change.until
        held.strict = held.strict or change.strict
        if change.investigator:
            held.investigators[change.holder] = change.investigator
        else:
            held.investigators.pop(change.holder, None)
        held.agent = change.agent or held.agent

    def _let_go(self, change: QuarantineLetGo) -> None:
        held = self.quarantines.get(change.key)
        if held is not None and change.holder in held.holders:
            del held.holders[change.holder]
            held.investigators.pop(change.holder, None)
            held.former = (*(each for each in held.former if each != change.holder), change.holder)

    def _is_being_isolated(self, key: str, besides: str) -> bool:
        """Whether a command to isolate it has no outcome yet, so that it may still be carried out."""
        return any(
            expected.quarantine == key and not expected.release and identifier != besides
            for identifier, expected in self.pending.items()
        )


def _consequences(
    expected: CommandExpected, outcome: Outcome, held: Quarantined | None, *, awaited: bool
) -> Iterable[StateChange]:
    """awaited: another command to isolate the same is still on its way; until its outcome nothing has ended."""
    yield CommandEnded(id=expected.id)
    done = outcome.status is OutcomeStatus.DONE
    if done:
        for key, seconds in expected.cooldowns:
            yield CooldownStarted(key=key, at=outcome.time, until=outcome.time + seconds)
    if held is None:
        return
    ended = outcome.status is OutcomeStatus.GONE
    if expected.release:
        ended = (ended or done) and not held.holders
    elif done:
        yield QuarantineConfirmed(key=expected.quarantine)
    else:
        if expected.strict:
            yield QuarantineRelaxed(key=expected.quarantine)
        if expected.admits:
            yield QuarantineUnsettled(key=expected.quarantine)
        ended = ended or not held.confirmed
    if ended and not awaited:
        yield QuarantineEnded(key=expected.quarantine)


def _swept(entries: dict[str, _V], is_old: Callable[[_V], bool]) -> dict[str, _V]:
    """Without what no longer counts, once there is much of it: a target's key is used once and would stay for ever."""
    if len(entries) < _SWEEP_AT or len(entries) & (len(entries) - 1):
        return entries
    return {key: value for key, value in entries.items() if not is_old(value)}
