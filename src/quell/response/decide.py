"""From what rules ask for to one decision: each action once, granted, refused or held, and why. SEMANTICS 0, 3, 4, 8."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from quell.catalogue.names import NAMES
from quell.model.action import (
    Action,
    AgentAction,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    SendWebhook,
    SuppressLog,
)
from quell.model.answer import suppression
from quell.model.decision import (
    ActionRecord,
    Ask,
    BudgetSpent,
    CommandExpected,
    CooldownStarted,
    Decision,
    Match,
    NearMiss,
    QuarantineHeld,
    Reason,
    RefusalCounted,
    ReplicaDisturbed,
    StateChange,
    Status,
)
from quell.model.details import Deviation
from quell.model.event import Event
from quell.model.rule import Webhook
from quell.model.subject import NetworkTarget, Subject, Target
from quell.response.endpoints import Chosen, choose, unheard
from quell.response.facts import last
from quell.response.holds import MOST_HELD, hold
from quell.response.lease import Lease, later, lease_of
from quell.response.safety import (
    breaker_key,
    broken,
    budget_keys,
    cooldown_key,
    limit_key,
    over_budget,
    over_isolated,
    over_replicas,
    restrained,
    stands_against,
    told_key,
    too_old,
    tripped,
)
from quell.response.state import REFUSAL_PERIOD, State
from quell.response.targets import Aim, Decoded, Refusal, aim, owner_of, replica_of, subject_key, target_key

_HELD = (Reason.BUDGET, Reason.APPROVAL)
#: Refusals that people need not be told of (SEMANTICS section 8, refusals).
_QUIET = (Reason.AUDIT, Reason.COOLDOWN, Reason.NOT_APPLICABLE)


class Verdict(NamedTuple):
    """What becomes of one asker's request; None: granted."""

    ask: Ask
    refusal: Refusal | None


def decide(
    event: Event,
    details: Decoded,
    matches: Sequence[Match],
    asks: Sequence[Ask],
    *,
    webhooks: Mapping[str, Webhook],
    state: State,
    now: float,
    revision: int,
    default_skipped: tuple[str, ...] = (),
    near_misses: tuple[NearMiss, ...] = (),
) -> Decision:
    """The record that this event ends in. Nothing is changed: what will be stands in its changes (SEMANTICS section 9)."""
    deciding = _Deciding(event, details, webhooks, state, now, _unnamed(event, matches))
    suppressors = [ask.by for ask in asks if isinstance(ask.action, SuppressLog) and not ask.audit]
    if suppressors and _is_safety_event(event):
        suppressors = []
    for action, askers in _grouped(asks):
        if isinstance(action, SuppressLog):
            deciding.suppress(action, askers, suppressors)
        elif isinstance(action, SendWebhook):
            deciding.tell(askers, suppressors)
        elif isinstance(action, MakeRedFlag | MakeOpsFlag):
            deciding.flag(action, askers)
        else:
            deciding.act(action, askers)
    return Decision(
        event_id=event.id,
        time=now,
        revision=revision,
        matches=tuple(matches),
        near_misses=near_misses,
        actions=tuple(deciding.records),
        suppressed=bool(suppressors),
        default_skipped=default_skipped,
        changes=tuple(deciding.changes),
    )


#: Quell's own events that rules of security events match too (SEMANTICS section 1).
_OF_QUARANTINE = ("Container.Quarantined", "Container.Unquarantined")
_UNNAMED = Refusal(
    Reason.NOT_APPLICABLE, "it tells of a quarantine itself; only a rule that names it isolates because of it"
)
_WEBHOOK = SendWebhook()


def _grouped(asks: Sequence[Ask]) -> Iterable[tuple[Action, list[Ask]]]:
    """Each action with its askers, as asked; all webhooks are one, and the strictest and longest quarantine comes first,
    so that no other needs a command.
    """
    if len(asks) == 1:
        return [(asks[0].action, [asks[0]])]
    grouped: dict[Action, list[Ask]] = {}
    for ask in asks:
        grouped.setdefault(_WEBHOOK if isinstance(ask.action, SendWebhook) else ask.action, []).append(ask)
    return sorted(grouped.items(), key=lambda item: _weight(item[0]))


def _weight(action: Action) -> tuple[bool, float]:
    if isinstance(action, Quarantine):
        return not action.strict, -(float("inf") if action.ttl is None else action.ttl)
    return False, -float("inf")


def _unnamed(event: Event, matches: Iterable[Match]) -> frozenset[str]:
    """Of an event that tells of a quarantine itself: the rules that do not ask for it by its name.

    Else a rule for all that happens in a group would isolate anew whatever a person releases.
    """
    if event.source != "quell" or event.name not in _OF_QUARANTINE:
        return frozenset()
    return frozenset(
        match.ref for match in matches if not any(each.criterion.startswith("name:") for each in match.evidence)
    )


def _is_safety_event(event: Event) -> bool:
    """Quell's own events, but for those whose names the mission document gives users to match."""
    if event.source != "quell":
        return False
    entry = NAMES.get(event.catalogue_name or event.name)
    return entry is None or entry.origin == "quell"


class _Deciding:
    """The records and changes of one decision, as they grow."""

    __slots__ = (
        "_admitted",
        "_aims",
        "_disturbed",
        "_isolated",
        "_leases",
        "_spent",
        "_unnamed",
        "changes",
        "details",
        "event",
        "now",
        "records",
        "state",
        "webhooks",
    )

    def __init__(
        self,
        event: Event,
        details: Decoded,
        webhooks: Mapping[str, Webhook],
        state: State,
        now: float,
        unnamed: Container[str],
    ) -> None:
        """unnamed: rules that this event is not to make isolate anything."""
        self._unnamed = unnamed
        self.event = event
        self.details = details
        self.webhooks = webhooks
        self.state = state
        self.now = now
        self.records: list[ActionRecord] = []
        self.changes: list[StateChange] = []
        #: What this decision has counted in each window so far.
        self._spent: dict[str, int] = {}
        self._aims: dict[type[AgentAction], Aim] = {}
        self._leases: dict[str, Lease] = {}
        #: Investigators that this decision lets in, by the namespace's key and the holder.
        self._admitted: dict[tuple[str, str], tuple[str, ...]] = {}
        #: Replicas that this decision disturbs, and namespaces that it isolates anew.
        self._disturbed: set[str] = set()
        self._isolated: set[str] = set()

    def suppress(self, action: SuppressLog, asks: list[Ask], suppressors: list[str]) -> None:
        """suppressors: those of the askers that can."""
        if suppressors:
            self.records += suppression(tuple([ask.by for ask in asks]))
            return
        said = Refusal(Reason.NOT_APPLICABLE, "Quell's own safety events are never suppressed")
        self._record(action, [Verdict(ask, _audited(ask, None) or said) for ask in asks])

    def flag(self, action: MakeRedFlag | MakeOpsFlag, asks: list[Ask]) -> None:
        key = self._told_key()
        verdicts = [Verdict(ask, _audited(ask, self._restrained(ask, key))) for ask in asks]
        skipped = [unheard(name, action.severity, self.webhooks) for name in action.webhooks]
        record = self._record(action, verdicts, explanation="; ".join(filter(None, skipped)))
        if record.reason is Reason.COOLDOWN:
            keys = [told_key(ask, key) for ask, refusal in verdicts if refusal is not None]
            repeats = next((self.state.told[each][0] for each in keys if each in self.state.told), "")
            self.records[-1] = msgspec.structs.replace(record, repeats=repeats)
        self._told(_granted(verdicts), key, record.id)

    def tell(self, asks: list[Ask], suppressors: list[str]) -> None:
        """All granted askers' endpoints in one record; those that have none, each in one of its own."""
        key = subject_key(self.event.subject)
        chosen = {ask: choose(ask, self.webhooks, self.event) for ask in asks}
        verdicts = [Verdict(ask, self._unsaid(ask, chosen[ask], suppressors, key)) for ask in asks]
        granted = _granted(verdicts)
        if granted:
            endpoints = tuple(dict.fromkeys(name for ask in granted for name in chosen[ask].endpoints))
            explanation = "; ".join(dict.fromkeys(said for ask in granted for said in chosen[ask].skipped))
            self._add(
                SendWebhook(endpoints=endpoints),
                [ask.by for ask in granted],
                Status.GRANTED,
                explanation=explanation,
                endpoints=endpoints,
            )
            self._told(granted, key)
        for verdict in verdicts:
            if verdict.refusal is not None:
                self._record(SendWebhook(endpoints=verdict.ask.endpoints), [verdict])

    def act(self, action: AgentAction, asks: list[Ask]) -> None:
        aimed = self._aims.get(type(action))
        if aimed is None:
            aimed = self._aims[type(action)] = aim(action, self.event, self.details, self.state)
        against = stands_against(action, self.event, aimed, self.state)
        target = aimed.target
        if target is None or against is not None:
            refusal = against or Refusal(Reason.NO_TARGET, "there is no target")
            final = refusal.reason is Reason.NOT_APPLICABLE
            self._record(action, [Verdict(ask, refusal if final else _audited(ask, refusal)) for ask in asks], target)
            return
        key = target_key(target)
        agent = "" if aimed.agent is None else aimed.agent.id
        if isinstance(action, Quarantine) and isinstance(target, NetworkTarget):
            self._isolate(action, asks, aimed, target, agent)
            return
        verdicts = [
            Verdict(ask, _audited(ask, self._unsafe(ask, key) or self._unaffordable(ask, aimed))) for ask in asks
        ]
        record = self._record(action, verdicts, target, agent)
        self._hold(record, action, verdicts, aimed, key, agent)
        if granted := _granted(verdicts):
            self._expect(record, granted, key)
            self._spend(granted, aimed)

    def _isolate(self, action: Quarantine, asks: list[Ask], aimed: Aim, target: NetworkTarget, agent: str) -> None:
        """A new holder of what is isolated already joins without a command; longer, stricter and other investigators need
        one. Those of one decision come with the first of its commands.
        """
        lease = self._leases.get(target.key) or lease_of(self.state, target.key)
        until = None if action.ttl is None else self.now + action.ttl
        owners = tuple(dict.fromkeys(ask.owner for ask in asks))
        investigators = {owner: self._investigators(target.key, owner, action) for owner in owners}
        admits = lease is not None and lease.admits_others(investigators)
        covered = lease is not None and lease.covers(action, owners, self.now)
        joins = covered and not admits
        needs_none = joins or (covered and target.key in self._isolated)
        verdicts = []
        for ask in asks:
            if ask.by in self._unnamed:
                verdicts.append(Verdict(ask, _UNNAMED))
                continue
            refusal = self._unsafe(ask, target.key, joins=joins)
            if refusal is None and not joins:
                refusal = self._unaffordable(ask, aimed)
                if refusal is None and lease is None:
                    refusal = over_isolated(self.state, len(self._isolated))
            verdicts.append(Verdict(ask, _audited(ask, refusal)))
        said = _joined(lease) if joins else ""
        record = self._record(action, verdicts, target, "" if needs_none else agent, said)
        self._hold(record, action, verdicts, aimed, target.key, agent)
        granted = _granted(verdicts)
        if not granted:
            return
        holders = dict(lease.holders) if lease is not None else {}
        admitted = dict(lease.investigators) if lease is not None else {}
        for owner in dict.fromkeys(ask.owner for ask in granted):
            if owner in holders and needs_none:
                if admitted.get(owner, ()) == investigators[owner]:
                    continue
            else:
                holders[owner] = later(holders.get(owner, until), until)
            admitted[owner] = self._admitted[target.key, owner] = investigators[owner]
            self.changes.append(
                QuarantineHeld(
                    target=target,
                    holder=owner,
                    until=holders[owner],
                    strict=action.strict,
                    investigator=investigators[owner],
                    agent=agent,
                    at=self.now,
                    cause=self.event.id,
                )
            )
        was_strict = lease is not None and lease.strict
        strict = action.strict or was_strict
        self._leases[target.key] = Lease(last(holders.values()), strict, holders, admitted)
        if not needs_none:
            self._isolated.add(target.key)
            stricter = strict and not was_strict
            self._expect(record, granted, target.key, quarantine=target.key, strict=stricter, admits=admits)
            self._spend(granted, aimed)

    def _investigators(self, key: str, owner: str, action: Quarantine) -> tuple[str, ...]:
        """What this one lets in: the newest request counts, or all those of one decision."""
        return tuple(sorted({*action.investigator, *self._admitted.get((key, owner), ())}))

    def _unsafe(self, ask: Ask, key: str, *, joins: bool = False) -> Refusal | None:
        """What refuses this asker. The switch comes last but the rule's own bounds, to list what would have been done."""
        if ask.unknown_scope:
            return Refusal(Reason.UNKNOWN_SCOPE, self._unknown(ask))
        refusal = too_old(ask, self.event, self.state.safety, self.now)
        if refusal is not None:
            return refusal
        if self.state.safety.paused:
            return Refusal(Reason.PAUSED, "all destructive actions are paused")
        return None if joins else self._restrained(ask, key)

    def _unaffordable(self, ask: Ask, aimed: Aim) -> Refusal | None:
        subject = aimed.subject
        stopped = broken(ask, subject, self.state, self.now, self._spent)
        if stopped is not None:
            trip = tripped(ask, self.event, subject, self.state, self.now)
            self.changes += [] if trip is None or trip in self.changes else [trip]
            return stopped
        if ask.approval:
            return Refusal(Reason.APPROVAL, f"{ask.owner} asks for approval first")
        return over_budget(ask, subject.namespace, self.state, self.now, self._spent) or over_replicas(
            subject, self.state, self.now, self._disturbed
        )

    def _hold(
        self, record: ActionRecord, action: AgentAction, verdicts: list[Verdict], aimed: Aim, key: str, agent: str
    ) -> None:
        if record.status is Status.HELD:
            asks = tuple(each.ask for each in verdicts if each.refusal is not None and each.refusal.reason in _HELD)
            held = hold(record, action, asks, aimed.subject, key, agent, self.event, self.state, self.now)
            self.changes += [] if held is None else [held]

    def _restrained(self, ask: Ask, key: str) -> Refusal | None:
        return restrained(ask, key, self.state, self.now, self._spent)

    def _unsaid(self, ask: Ask, chosen: Chosen, suppressors: list[str], key: str) -> Refusal | None:
        if not chosen.endpoints:
            said = "; ".join(chosen.skipped) or "no endpoint is named, and none is marked default"
            return _audited(ask, Refusal(Reason.NO_ENDPOINT, said))
        if suppressors and not ask.audit:
            return Refusal(Reason.NOT_APPLICABLE, f"suppress-log of {', '.join(suppressors)} wins over telling")
        return _audited(ask, self._restrained(ask, key))

    def _told_key(self) -> str:
        """A deviation's checksum identifies repeats within a policy; else flags are told apart by their subject."""
        deviation = self._deviation()
        checksum = None if deviation is None else deviation.checksum
        return f"checksum:{checksum}" if checksum else subject_key(self.event.subject)

    def _unknown(self, ask: Ask) -> str:
        """Why the scope could not be proved."""
        deviation = self._deviation()
        if deviation is not None and deviation.unproven:
            return f"it may be allowed: {deviation.unproven}"
        return f"the event does not say enough to prove the scope of {ask.owner}"

    def _deviation(self) -> Deviation | None:
        details = self.details() if self.event.category == "deviation" else None
        return details if isinstance(details, Deviation) else None

    def _record(
        self,
        action: Action,
        verdicts: list[Verdict],
        target: Target | None = None,
        agent: str = "",
        explanation: str = "",
    ) -> ActionRecord:
        """One record for all askers: granted if one is; the others' reasons are explained."""
        asked_by = [verdict.ask.by for verdict in verdicts]
        refused = [(verdict.ask, verdict.refusal) for verdict in verdicts if verdict.refusal is not None]
        if len(refused) < len(verdicts):
            said = [explanation] if explanation else []
            said += [f"{ask.by}: {refusal.reason} ({refusal.explanation})" for ask, refusal in refused]
            # Who asks for evidence gets it, whoever else asks for the same kill without.
            evidence = any(ask.evidence for ask in _granted(verdicts))
            return self._add(
                action,
                asked_by,
                Status.GRANTED,
                target=target,
                explanation="; ".join(said),
                agent=agent,
                evidence=evidence,
            )
        _, refusal = min(refused, key=lambda pair: _gravity(pair[1].reason))
        said = list(dict.fromkeys(each.explanation for _, each in refused))
        status = Status.HELD if refusal.reason in _HELD and len(self.state.held) < MOST_HELD else Status.REFUSED
        record = self._add(
            action,
            asked_by,
            status,
            target=target,
            reason=refusal.reason,
            explanation="; ".join(said),
            evidence=any(ask.evidence for ask, _ in refused),
        )
        for owner, reason in dict.fromkeys((ask.owner, each.reason) for ask, each in refused):
            if reason not in _QUIET:
                self._refuse(record, owner, reason)
        return record

    def _add(
        self,
        action: Action,
        asked_by: list[str],
        status: Status,
        *,
        target: Target | None = None,
        reason: Reason | None = None,
        explanation: str = "",
        endpoints: tuple[str, ...] = (),
        agent: str = "",
        evidence: bool = False,
    ) -> ActionRecord:
        record = ActionRecord(
            id=f"{self.event.id}/{len(self.records)}",
            action=action,
            target=target,
            asked_by=tuple(asked_by) if len(asked_by) == 1 else tuple(dict.fromkeys(asked_by)),
            status=status,
            reason=reason,
            explanation=explanation,
            endpoints=endpoints,
            agent=agent,
            evidence=evidence,
        )
        self.records.append(record)
        return record

    def _refuse(self, record: ActionRecord, owner: str, reason: Reason) -> None:
        key = f"{owner}/{reason}/{owner_of(self.event.subject)}"
        last = self.state.refusals.get(key)
        flagged = last is None or self.now - last[0] >= REFUSAL_PERIOD
        told = None if flagged else self.state.told.get(key)
        count = 1 + last[1] if last is not None else 1
        if not any(isinstance(change, RefusalCounted) and change.key == key for change in self.changes):
            self.changes.append(
                RefusalCounted(
                    key=key,
                    at=self.now,
                    record=record.id,
                    owner=owner,
                    reason=reason,
                    flagged=flagged,
                    count=count if flagged else 1,
                    repeats="" if told is None else told[0],
                )
            )

    def _expect(
        self,
        record: ActionRecord,
        granted: list[Ask],
        key: str,
        quarantine: str = "",
        *,
        strict: bool = False,
        admits: bool = False,
    ) -> None:
        """Success, told by the outcome, starts the cooldowns."""
        cooldowns = [(cooldown_key(ask, key), ask.cooldown) for ask in granted if ask.cooldown is not None]
        if cooldowns or quarantine:
            expected = CommandExpected(
                id=record.id,
                cooldowns=tuple(dict.fromkeys(cooldowns)),
                quarantine=quarantine,
                strict=strict,
                admits=admits,
            )
            self.changes.append(expected)

    def _told(self, granted: list[Ask], key: str, flag: str = "") -> None:
        """A flag is made and a delivery promised with the decision itself: their cooldowns start at once. flag: its id."""
        for ask in granted:
            self._count(ask)
            if ask.cooldown is not None:
                until = self.now + ask.cooldown
                told = told_key(ask, key) if flag else ""
                started = CooldownStarted(key=cooldown_key(ask, key), at=self.now, until=until, told=told, flag=flag)
                self.changes.append(started)

    def _count(self, ask: Ask) -> None:
        """Within the rule's own limit."""
        if ask.limit is not None:
            key = limit_key(ask)
            self._spent[key] = self._spent.get(key, 0) + 1
            self.changes.append(BudgetSpent(keys=(key,), at=self.now, window=ask.limit[1]))

    def _spend(self, granted: list[Ask], aimed: Aim) -> None:
        safety = self.state.safety
        keys = budget_keys(list(dict.fromkeys(ask.owner for ask in granted)), aimed.subject.namespace)
        for key in keys:
            self._spent[key] = self._spent.get(key, 0) + 1
        window = max(safety.budget_engine[1], safety.budget_rule[1], safety.budget_namespace[1])
        self.changes.append(BudgetSpent(keys=tuple(keys), at=self.now, window=window))
        for ask in granted:
            self._count(ask)
        self._disturb(granted, aimed.subject)

    def _disturb(self, granted: list[Ask], subject: Subject) -> None:
        if not subject.is_workload:
            return
        replica = replica_of(subject)
        self._disturbed.add(replica)
        self.changes.append(ReplicaDisturbed(owner=owner_of(subject), replica=replica, at=self.now))
        keys = tuple(dict.fromkeys(key for ask in granted if (key := breaker_key(ask, subject)) is not None))
        for key in keys:
            self._spent[key] = self._spent.get(key, 0) + 1
        self.changes.append(BudgetSpent(keys=keys, at=self.now, window=self.state.safety.breaker[1]))


def _joined(lease: Lease | None) -> str:
    holders = ", ".join(lease.holders) if lease is not None else ""
    return f"it is isolated already, held by {holders}" if holders else "it is isolated already"


def _audited(ask: Ask, refusal: Refusal | None) -> Refusal | None:
    """In audit mode nothing is done; the explanation says what would have been."""
    if not ask.audit:
        return refusal
    would = (
        "would have been done"
        if refusal is None
        else f"would have been refused: {refusal.reason} ({refusal.explanation})"
    )
    return Refusal(Reason.AUDIT, f"{would}; {ask.audit}")


def _granted(verdicts: list[Verdict]) -> list[Ask]:
    return [verdict.ask for verdict in verdicts if verdict.refusal is None]


def _gravity(reason: Reason) -> int:
    """Which of several askers' reasons stands for the record: a hold can still be granted; audit says least."""
    return 0 if reason in _HELD else 2 if reason is Reason.AUDIT else 1
