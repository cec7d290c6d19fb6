"""Approvals, breakers and the budgets of replicas and of isolated workloads, without a controller. SEMANTICS section 8."""

from __future__ import annotations

import msgspec
import pytest
from test_response import NOW, Engine, agent, event, number, of, replicas, rule, wide

from quell.model.action import KillPod, KillProcess, Quarantine
from quell.model.decision import (
    ActionHeld,
    BreakerReset,
    BreakerTripped,
    CommandExpected,
    Decision,
    HoldEnded,
    OutcomeStatus,
    QuarantineHeld,
    Reason,
    Status,
)
from quell.model.rule import Mode
from quell.model.subject import Pod
from quell.response.commands import commands
from quell.response.flags import flags
from quell.response.holds import MOST_HELD, Approved, approve, deny, forget
from quell.response.state import Safety, State, Workload
from quell.response.targets import Refusal


def held(engine: Engine) -> ActionHeld:
    (one,) = engine.state.held.values()
    return one


def approved(engine: Engine, now: float = NOW + 5, note: str = "") -> Approved:
    answer = approve(held(engine), engine.state, now, by="user/ann", note=note)
    assert isinstance(answer, Approved)
    return answer


def refused(engine: Engine, now: float = NOW + 5) -> Reason:
    answer = approve(held(engine), engine.state, now, by="user/ann")
    assert isinstance(answer, Refusal)
    return answer.reason


def test_what_needs_approval_waits_with_all_that_asked() -> None:
    engine = Engine(rule(KillProcess(), approval=True), rule(KillProcess(), number=9, approval=True))
    record = engine.one(event())
    assert (record.status, record.reason, record.agent) == (Status.HELD, Reason.APPROVAL, "")
    waiting = held(engine)
    assert (waiting.id, waiting.event_id, waiting.agent) == ("e0/0", "e0", "a1")
    assert [ask.by for ask in waiting.asks] == ["rule/8", "rule/9"]
    assert (waiting.at, waiting.until) == (NOW, NOW + 3600)


def test_a_hold_is_told_of() -> None:
    engine = Engine(rule(KillProcess(), approval=True))
    made = event()
    (flag,) = flags(engine.take(made), made)
    assert flag.name == "Response held: approval"


def test_the_same_action_waits_once() -> None:
    engine = Engine(rule(KillProcess(), approval=True))
    for n in range(3):
        assert engine.one(event(n=n)).status is Status.HELD
    assert list(engine.state.held) == ["e0/0"]
    engine.take(event(n=3, subject=number(3)))
    assert list(engine.state.held) == ["e0/0", "e3/0"]


def test_an_approved_kill_becomes_a_command_with_the_id_that_waited() -> None:
    engine = Engine(rule(KillProcess(), approval=True, cooldown=60.0))
    engine.take(event())
    record, changes = approved(engine, note="seen it")
    assert (record.id, record.status, record.agent) == ("e0/0", Status.GRANTED, "a1")
    assert record.asked_by == ("rule/8", "user/ann")
    assert record.explanation == "approved by user/ann: seen it"
    decision = Decision(event_id="approval", time=NOW + 5, revision=0, actions=(record,), changes=changes)
    engine.state.apply(decision)
    (command,) = commands(decision, engine.state, NOW + 5)
    assert (command.id, command.agent, command.event_id) == ("e0/0", "a1", "approval")
    assert engine.state.held == {}
    assert engine.state.waiting == {}
    engine.report("e0/0", now=NOW + 6)
    assert engine.one(event(n=1), NOW + 7).reason is Reason.COOLDOWN


def test_an_approved_quarantine_is_held_by_its_rules() -> None:
    engine = Engine(rule(Quarantine(ttl=60.0, strict=True), approval=True))
    engine.take(event())
    _, changes = approved(engine)
    (holding,) = [change for change in changes if isinstance(change, QuarantineHeld)]
    assert (holding.holder, holding.until, holding.strict, holding.cause) == ("rule/8", NOW + 65, True, "e0")
    (expected,) = [change for change in changes if isinstance(change, CommandExpected)]
    assert (expected.id, expected.strict) == ("e0/0", True)
    engine.state.change(changes)
    engine.report("e0/0")
    (quarantine,) = engine.state.quarantines.values()
    assert quarantine.confirmed


def test_an_approved_quarantine_lets_its_investigator_in() -> None:
    waiting = rule(Quarantine(investigator=("192.0.2.7",)), number=9, approval=True)
    engine = Engine(rule(Quarantine()), waiting)
    engine.take(event())
    engine.report("e0/0")
    _, changes = approved(engine)
    (expected,) = [change for change in changes if isinstance(change, CommandExpected)]
    assert expected.admits
    engine.state.change(changes)
    (quarantine,) = engine.state.quarantines.values()
    assert quarantine.investigators == {"rule/9": ("192.0.2.7",)}


@pytest.mark.parametrize(
    "reason", [Reason.PAUSED, Reason.PROTECTED, Reason.NO_AGENT, Reason.UNSUPPORTED, Reason.EXPIRED]
)
def test_what_stands_against_it_when_it_is_approved(reason: Reason) -> None:
    engine = Engine(rule(KillProcess(), approval=True))
    engine.take(event())
    now = NOW + 5
    match reason:
        case Reason.PAUSED:
            engine.state.safety = Safety(paused=True)
        case Reason.PROTECTED:
            engine.state.safety = Safety(protected_namespaces=("shop",))
        case Reason.NO_AGENT:
            engine.state.set_agents([])
        case Reason.UNSUPPORTED:
            engine.state.set_agents([agent(capabilities=frozenset())])
        case _:
            now = NOW + 3600
    assert refused(engine, now) is reason
    assert list(engine.state.held) == ["e0/0"]


def test_a_denied_action_and_one_that_nobody_decided_about_end_with_an_outcome() -> None:
    engine = Engine(rule(KillProcess(), approval=True))
    engine.take(event())
    outcome, ended = deny(held(engine), NOW + 5, by="user/ann", note="a test")
    assert (outcome.id, outcome.status, outcome.reason) == ("e0/0", OutcomeStatus.REFUSED, Reason.APPROVAL_DENIED)
    assert outcome.explanation == "denied by user/ann: a test"
    forgotten, _ = forget(held(engine), NOW + 3600)
    assert (forgotten.status, forgotten.reason) == (OutcomeStatus.EXPIRED, Reason.EXPIRED)
    engine.state.change((ended,))
    assert engine.state.held == {}
    assert engine.one(event(n=1)).status is Status.HELD


def test_a_hold_for_a_budget_can_be_approved_over_it() -> None:
    engine = Engine(rule(KillProcess()), safety=wide(budget_rule=(1, 60.0)))
    engine.take(event())
    assert engine.one(event(n=1, subject=number(1))).reason is Reason.BUDGET
    assert approved(engine).record.status is Status.GRANTED


def test_nobody_is_asked_in_audit() -> None:
    engine = Engine(rule(KillProcess(), approval=True, mode=Mode.AUDIT))
    record = engine.one(event())
    assert record.reason is Reason.AUDIT
    assert "would have been refused: approval" in record.explanation
    assert engine.state.held == {}


def test_more_than_can_be_looked_at_is_refused() -> None:
    engine = Engine(rule(KillProcess(), approval=True))
    engine.take(event())
    one = held(engine)
    engine.state.change([msgspec.structs.replace(one, id=f"x{n}", key=f"x{n}") for n in range(MOST_HELD - 1)])
    assert engine.one(event(n=1, subject=number(1))).status is Status.REFUSED
    assert len(engine.state.held) == MOST_HELD


# ---- breaker


def test_after_three_times_the_rule_stops_for_that_owner_and_image_only() -> None:
    engine = Engine(rule(KillPod(), max_age=1e6), safety=Safety(budget_replicas=100))
    for n in range(3):
        assert engine.one(event(n=n, subject=number(n)), NOW + n * 100).status is Status.GRANTED
    record = engine.one(event(n=4, subject=number(4)), NOW + 400)
    assert (record.status, record.reason) == (Status.REFUSED, Reason.BREAKER)
    assert "shop/web" in record.explanation
    other = of(service="db", pod=Pod(name="db", uid="db-1"))
    assert engine.one(event(n=5, subject=other), NOW + 400).status is Status.GRANTED
    image = msgspec.structs.replace(number(6), image="web:2")
    assert engine.one(event(n=6, subject=image), NOW + 400).status is Status.GRANTED


def test_a_breaker_stays_open_until_a_person_resets_it() -> None:
    engine = Engine(rule(KillPod(), max_age=1e6), safety=Safety(budget_replicas=100))
    for n in range(4):
        engine.take(event(n=n, subject=number(n)), NOW + n * 100)
    (tripped,) = engine.state.breakers.values()
    assert (tripped.by, tripped.action, tripped.owner, tripped.event_id) == ("rule/8", "agentKillPod", "shop/web", "e3")
    again = engine.take(event(n=5, subject=number(5)), NOW + 20_000)
    assert again.actions[0].reason is Reason.BREAKER
    assert not [change for change in again.changes if isinstance(change, BreakerTripped)]
    engine.state.change((BreakerReset(key=tripped.key),))
    assert engine.one(event(n=6, subject=number(6)), NOW + 20_001).status is Status.GRANTED


def test_what_lies_longer_ago_than_the_window_does_not_trip() -> None:
    engine = Engine(rule(KillPod(), max_age=1e6), safety=Safety(budget_replicas=100))
    records = [engine.one(event(n=n, subject=number(n)), NOW + n * 1900) for n in range(6)]
    assert {record.status for record in records} == {Status.GRANTED}


def test_a_host_has_no_breaker_since_nothing_there_comes_back_with_its_image() -> None:
    engine = Engine(rule(KillProcess(), max_age=1e6))
    bare = of(container=None, pod=None, service=None, namespace=None)
    records = [engine.one(event(n=n, subject=bare)) for n in range(6)]
    assert {record.status for record in records} == {Status.GRANTED}


# ---- replicas, isolated workloads


@pytest.mark.parametrize(("known", "allowed"), [(0, 1), (1, 1), (2, 1), (5, 2), (6, 3)])
def test_half_of_the_replicas_may_be_acted_on_in_a_minute(known: int, allowed: int) -> None:
    engine = Engine(rule(KillProcess(), max_age=1e6), safety=wide(budget_replicas=50))
    engine.state.set_workloads(replicas(known))
    records = [engine.one(event(n=n, subject=number(n))) for n in range(known or 3)]
    assert [record.status for record in records].count(Status.GRANTED) == allowed
    assert engine.one(event(n=9, subject=number(0))).status is Status.GRANTED
    assert engine.one(event(n=10, subject=number(max(known, 3) - 1)), NOW + 61).status is Status.GRANTED


@pytest.mark.parametrize(("running", "allowed"), [(0, 3), (10, 3), (50, 5)])
def test_a_tenth_of_all_workloads_and_at_least_three_may_be_isolated(running: int, allowed: int) -> None:
    engine = Engine(rule(Quarantine()), safety=wide())
    engine.state.set_workloads([*replicas(running), Workload(id="over", running=False)])
    records = [engine.one(event(n=n, subject=number(n))) for n in range(8)]
    assert [record.status for record in records] == [Status.GRANTED] * allowed + [Status.HELD] * (8 - allowed)
    assert {record.reason for record in records[allowed:]} == {Reason.BUDGET}


# ---- kept


def test_holds_breakers_and_replicas_survive_a_restart() -> None:
    engine = Engine(rule(KillPod(), max_age=1e6), rule(KillProcess(), number=9, approval=True), safety=wide())
    engine.state.safety = Safety(budget_replicas=100)
    for n in range(4):
        engine.take(event(n=n, subject=number(n)), NOW + n * 100)
    again = State.restore(engine.state.snapshot(), engine.state.safety)
    assert again.held == engine.state.held != {}
    assert again.waiting == engine.state.waiting
    assert again.breakers == engine.state.breakers != {}
    assert again.disturbed == engine.state.disturbed != {}
    (identifier, *_) = engine.state.held
    again.change((HoldEnded(id=identifier, how=deny(engine.state.held[identifier], NOW, by="x")[1].how),))
    assert identifier not in again.held
