"""Each way of quell.response.lifecycle, walked with the engine's own evaluate and State. SEMANTICS section 4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.unit.test_response import NOW, Engine, event, rule

from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import Command, OutcomeStatus, QuarantineHeld, Status
from quell.model.rule import Criterion
from quell.response.commands import commands
from quell.response.facts import Phase
from quell.response.lifecycle import WAYS, Way
from quell.response.quarantine import Release, depth, found, let_go, lost, run_out
from quell.response.state import Safety, State

KEY = "uid-1"
DONE, FAILED, EXPIRED, GONE = OutcomeStatus.DONE, OutcomeStatus.FAILED, OutcomeStatus.EXPIRED, OutcomeStatus.GONE
PAGE = Path(__file__).parents[2] / "docs/quarantine.md"
Walk = Callable[[], Engine]
_walks: dict[str, Walk] = {}


def walks(name: str) -> Callable[[Walk], Walk]:
    """The test of the way of this name: it ends where the way does."""

    def keep(walk: Walk) -> Walk:
        _walks[name] = walk
        return walk

    return keep


def other(*actions: Quarantine, number: int = 9) -> object:
    """A rule that only an event named x meets."""
    return rule(*actions, number=number, criteria=(Criterion(type="name", values=("x",)),))


def asked(*rules: object, ttl: float | None = None) -> Engine:
    engine = Engine(rule(Quarantine(ttl=ttl)), *rules)  # type: ignore[arg-type]
    engine.take(event())
    assert phase(engine) is Phase.ASKED
    return engine


def isolated(*rules: object, ttl: float | None = None) -> Engine:
    engine = asked(*rules, ttl=ttl)
    engine.report("e0/0")
    assert phase(engine) is Phase.ISOLATED
    return engine


def phase(engine: Engine) -> Phase | None:
    held = engine.state.quarantines.get(KEY)
    return None if held is None else held.phase


def applied(engine: Engine, released: Release) -> Release:
    engine.state.change(released.changes)
    return released


def releasing() -> tuple[Engine, Command]:
    engine = isolated()
    (command,) = applied(engine, let_go(engine.state, NOW, key=KEY, by="user/ann")).commands
    assert phase(engine) is Phase.RELEASING
    return engine, command


def holders(engine: Engine) -> dict[str, float | None]:
    return engine.state.quarantines[KEY].holders


@walks("asked")
def _asked() -> Engine:
    engine = Engine(rule(Quarantine()))
    decision = engine.take(event())
    assert [command.action for command in commands(decision, engine.state, NOW)] == [Quarantine()]
    assert engine.state.quarantines[KEY].cause == "e0"
    return engine


@walks("refused")
def _refused() -> Engine:
    engine = Engine(rule(Quarantine()), safety=Safety(paused=True))
    assert engine.one(event()).status is Status.REFUSED
    return engine


@walks("confirmed")
def _confirmed() -> Engine:
    engine = asked()
    engine.report("e0/0")
    return engine


@walks("failed")
def _failed() -> Engine:
    engine = asked()
    engine.report("e0/0", FAILED)
    return engine


@walks("expired")
def _expired() -> Engine:
    engine = asked()
    engine.report("e0/0", EXPIRED)
    return engine


@walks("target gone")
def _target_gone() -> Engine:
    engine = asked()
    engine.report("e0/0", GONE)
    return engine


@walks("joined while asked")
def _joined_while_asked() -> Engine:
    engine = asked(other(Quarantine()))
    assert commands(engine.take(event(n=1, name="x")), engine.state, NOW) == []
    assert list(holders(engine)) == ["rule/8", "rule/9"]
    return engine


@walks("let go while asked")
def _let_go_while_asked() -> Engine:
    engine = asked()
    assert len(applied(engine, let_go(engine.state, NOW, holder="rule/8")).commands) == 1
    return engine


@walks("late")
def _late() -> Engine:
    engine = Engine(rule(Quarantine(ttl=100.0)))
    decision = engine.take(event())
    (command,) = commands(decision, engine.state, NOW)
    engine.report(command.id, EXPIRED)
    assert phase(engine) is None
    held = [change for change in decision.changes if isinstance(change, QuarantineHeld)]
    engine.state.change(found(engine.state, command, held))
    assert holders(engine) == {"rule/8": NOW + 100}
    assert found(engine.state, command, held) == (), "once"
    return engine


@walks("joined")
def _joined() -> Engine:
    engine = isolated(other(Quarantine()))
    joining = engine.take(event(n=1, name="x"))
    assert commands(joining, engine.state, NOW) == []
    record = next(record for record in joining.actions if record.asked_by == ("rule/8", "rule/9"))
    assert record.explanation == "it is isolated already, held by rule/8"
    assert list(holders(engine)) == ["rule/8", "rule/9"]
    return engine


@walks("renewed")
def _renewed() -> Engine:
    engine = isolated(ttl=100.0)
    later = engine.take(event(n=1, time=NOW + 49, received=NOW + 50), NOW + 50)
    assert [command.action for command in commands(later, engine.state, NOW + 50)] == [Quarantine(ttl=100.0)]
    engine.report("e1/0")
    assert holders(engine) == {"rule/8": NOW + 150}
    return engine


@walks("made strict")
def _made_strict() -> Engine:
    engine = isolated(other(Quarantine(strict=True)))
    upgrade = engine.take(event(n=1, name="x"))
    (command,) = commands(upgrade, engine.state, NOW)
    assert command.action == Quarantine(strict=True)
    engine.report(command.id)
    assert engine.state.quarantines[KEY].strict
    assert commands(engine.take(event(n=2, name="x")), engine.state, NOW) == []
    return engine


@walks("not made strict")
def _not_made_strict() -> Engine:
    engine = isolated(other(Quarantine(strict=True)))
    (command,) = commands(engine.take(event(n=1, name="x")), engine.state, NOW)
    engine.report(command.id, FAILED)
    assert not engine.state.quarantines[KEY].strict
    assert len(commands(engine.take(event(n=2, name="x")), engine.state, NOW)) == 1, "the next one tries again"
    return engine


ADDRESS, SECOND = "192.0.2.7", "2001:db8::7"


def let_in(engine: Engine, n: int, name: str = "x") -> list[tuple[str, ...]]:
    """Who may reach it, by each command that an event brings."""
    made = commands(engine.take(event(n=n, name=name)), engine.state, NOW)
    actions = [each.action for each in made]
    return [action.investigator for action in actions if isinstance(action, Quarantine)]


@walks("others let in")
def _others_let_in() -> Engine:
    engine = isolated(other(Quarantine(investigator=(ADDRESS,))), other(Quarantine(investigator=(SECOND,)), number=10))
    assert let_in(engine, 1) == [(ADDRESS, SECOND)], "those of two rules come with one command"
    engine.report("e1/1")
    assert let_in(engine, 2) == [], "they are let in already"
    assert engine.state.quarantines[KEY].investigators == {"rule/9": (ADDRESS,), "rule/10": (SECOND,)}
    return engine


@walks("others not let in")
def _others_not_let_in() -> Engine:
    engine = isolated(other(Quarantine(investigator=(ADDRESS,))))
    assert let_in(engine, 1) == [(ADDRESS,)]
    identifier, now, waits = "e1/1", NOW, []
    for _ in range(4):
        engine.report(identifier, EXPIRED)
        begun = now
        while not (again := run_out(engine.state, now)).commands:
            now += 1.0
        waits.append(now - begun)
        (command,) = applied(engine, again).commands
        assert command.action == Quarantine(investigator=(ADDRESS,))
        identifier = command.id
    assert waits == [0, 1, 2, 4]
    engine.report(identifier)
    assert run_out(engine.state, now + 1000).commands == ()
    assert engine.state.quarantines[KEY].tries == 0
    return engine


@walks("its investigator goes")
def _its_investigator_goes() -> Engine:
    engine = isolated(
        other(Quarantine(investigator=(ADDRESS, SECOND))), other(Quarantine(investigator=(SECOND,)), number=10)
    )
    assert let_in(engine, 1) == [(ADDRESS, SECOND)]
    engine.report("e1/1")
    gone = applied(engine, let_go(engine.state, NOW, holder="rule/9", by="user/ann"))
    (command,) = gone.commands
    assert command.action == Quarantine(investigator=(SECOND,))
    (record,) = gone.records
    assert record.explanation == (f"rule/9 let go; it stays isolated, held by rule/10, rule/8; {SECOND} may reach it")
    assert [each.key for each in gone.kept] == [KEY]
    engine.report(command.id, FAILED)
    (again,) = applied(engine, run_out(engine.state, NOW + 1)).commands
    assert again.action == command.action, "an address stays open to nobody because a command was lost"
    engine.report(again.id)
    assert applied(engine, let_go(engine.state, NOW, holder="rule/8")).commands == ()
    return engine


@walks("one lets go")
def _one_lets_go() -> Engine:
    engine = isolated(other(Quarantine()))
    engine.take(event(n=1, name="x"))
    gone = applied(engine, let_go(engine.state, NOW, holder="rule/8", by="user/ann"))
    assert gone.commands == ()
    (record,) = gone.records
    assert record.agent == ""
    assert record.explanation == "rule/8 let go; it stays isolated, held by rule/9"
    assert (holders(engine), engine.state.quarantines[KEY].former) == ({"rule/9": None}, ("rule/8",))
    return engine


@walks("last lets go")
def _last_lets_go() -> Engine:
    engine = isolated(other(Quarantine()))
    engine.take(event(n=1, name="x"))
    (command,) = applied(engine, let_go(engine.state, NOW, key=KEY, by="user/ann")).commands
    assert isinstance(command.action, ReleaseQuarantine)
    assert command.asked_by == ("user/ann",)
    assert engine.state.quarantines[KEY].former == ("rule/8", "rule/9")
    return engine


@walks("lease over")
def _lease_over() -> Engine:
    engine = isolated(ttl=100.0)
    assert run_out(engine.state, NOW + 99).changes == ()
    assert len(applied(engine, run_out(engine.state, NOW + 100)).commands) == 1
    assert run_out(engine.state, NOW + 101).changes == (), "it is being released"
    return engine


@walks("gone")
def _gone() -> Engine:
    engine = isolated()
    assert lost(engine.state, "a2", (), (KEY,)) == (), "another agent says nothing about it"
    assert lost(engine.state, "a1", (KEY,), ()) == ()
    engine.state.change(lost(engine.state, "a1", (), (KEY,)))
    return engine


@walks("opened by the agent")
def _opened_by_the_agent() -> Engine:
    engine = asked()
    assert lost(engine.state, "a1", (), ()) == (), "its command is on its way"
    engine.report("e0/0")
    engine.state.change(lost(engine.state, "a1", (), ()))
    return engine


@walks("released")
def _released() -> Engine:
    engine, command = releasing()
    engine.report(command.id)
    return engine


@walks("gone while releasing")
def _gone_while_releasing() -> Engine:
    engine, command = releasing()
    engine.report(command.id, GONE)
    return engine


@walks("release failed")
def _release_failed() -> Engine:
    engine, command = releasing()
    now, waits = NOW, []
    for _ in range(12):
        engine.report(command.id, FAILED)
        begun = now
        while not (again := run_out(engine.state, now)).commands:
            now += 1.0
        waits.append(now - begun)
        (command,) = applied(engine, again).commands
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    return engine


@walks("asked again")
def _asked_again() -> Engine:
    engine, command = releasing()
    assert len(commands(engine.take(event(n=1)), engine.state, NOW)) == 1
    held = engine.state.quarantines[KEY]
    assert (held.cause, held.former, held.strict, held.tries) == ("e1", (), False, 0)
    engine.report(command.id)
    assert holders(engine) == {"rule/8": None}
    return engine


def test_every_way_has_its_test() -> None:
    assert [way.name for way in WAYS] == list(dict.fromkeys(way.name for way in WAYS))
    assert set(_walks) == {way.name for way in WAYS}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_ends_where_it_says(way: Way) -> None:
    engine = _walks[way.name]()
    assert phase(engine) is way.after
    restored = State.restore(engine.state.snapshot())
    assert restored.quarantines == engine.state.quarantines
    assert restored.pending == engine.state.pending


def test_the_page_shows_the_table_and_its_drawing() -> None:
    page = PAGE.read_text()
    none = "none"
    for way in WAYS:
        before, after = way.before or none, way.after or none
        assert f"| {before} | {way.name} | {after} | {way.what} | {way.says or '—'} |" in page, way
        here, there = "[*]" if before == none else before, "[*]" if after == none else after
        if here != there or before != none:
            assert f"    {here} --> {there}: {way.name}\n" in page, way


# ---- commands that overtake each other


def test_a_release_that_overtakes_the_isolation_ends_nothing_before_that_has_its_outcome() -> None:
    engine = asked()
    (release,) = applied(engine, let_go(engine.state, NOW, key=KEY)).commands
    engine.report(release.id)
    assert phase(engine) is Phase.RELEASING, "the isolation may still be carried out"
    engine.report("e0/0")
    assert phase(engine) is Phase.RELEASING
    (again,) = applied(engine, run_out(engine.state, NOW + 1)).commands
    engine.report(again.id)
    assert phase(engine) is None


def test_a_release_that_overtakes_an_isolation_that_is_then_refused_ends_it() -> None:
    engine = asked()
    (release,) = applied(engine, let_go(engine.state, NOW, key=KEY)).commands
    engine.report(release.id)
    engine.report("e0/0", OutcomeStatus.REFUSED)
    assert phase(engine) is None


def test_what_is_gone_for_one_command_waits_for_the_next() -> None:
    engine = isolated(other(Quarantine(strict=True)))
    engine.take(event(n=1, name="x"))
    engine.take(event(n=2, name="x", time=NOW, received=NOW))
    engine.report("e1/0", GONE)
    assert phase(engine) is None


# ---- chains


def test_only_what_a_lease_ends_goes_on_with_its_chain() -> None:
    engine = Engine(rule(Quarantine(ttl=10.0)))
    engine.take(msgspec.structs.replace(event(), id="e/0/event/0/event"))
    engine.report("e/0/event/0/event/0")
    (command,) = run_out(engine.state, NOW + 10, "r").commands
    assert depth(f"{command.id}/event") == 3
    (command,) = let_go(engine.state, NOW, key=KEY, by="user/ann", event_id="r").commands
    assert depth(f"{command.id}/event") == 1
