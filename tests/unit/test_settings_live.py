"""Settings changed while running: in force at once, audited with before and after, kept over restarts; pinned ones stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quell.configuration import Configuration, From, load_configuration
from quell.controller.live_settings import LiveSettings, Wanted
from quell.errors import SettingError, SettingFixed, StoreError
from quell.model.audit import QUELL, Actor, AuditEntry
from quell.settings import Settings
from quell.storage import audit
from quell.storage.store import Store

ALICE = Actor(kind="user", name="alice", address="192.0.2.1")
Start = Callable[..., LiveSettings]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db") as opened:
        yield opened


@pytest.fixture
def start(store: Store) -> Start:
    """A start of a controller with this environment."""

    def starter(**environment: str) -> LiveSettings:
        given = load_configuration(None, environment) if environment else Configuration()
        return LiveSettings(store, given.settings, given.origins)

    return starter


def change(live: LiveSettings, *unset: str, reason: str = "", allow_empty: bool = False, **values: Any) -> None:
    """values: of the group safety."""
    named = {f"safety.{name}": value for name, value in values.items()}
    names = [f"safety.{name}" for name in unset]

    async def run() -> None:
        async with live.lock:
            await live.change(Wanted(set=named, unset=names, reason=reason, allow_empty=allow_empty), ALICE)

    asyncio.run(run())


def entries(store: Store) -> list[AuditEntry]:
    """Oldest first."""
    return [record.entry for record in reversed(store.read(lambda connection: audit.recent(connection, 100)))]


def test_a_change_is_in_force_told_and_audited_and_stays(store: Store, start: Start) -> None:
    live = start()
    told: list[Settings] = []
    live.subscribe(told.append)
    change(live, budget_engine="50/1m", protected_namespaces="kube-system,shop", reason="for the sale")
    assert live.safety.budget_engine == (50, 60.0)
    assert live.safety.protected_namespaces == ("kube-system", "shop")
    assert [settings.safety.safety() for settings in told] == [live.safety]
    assert entries(store) == [
        AuditEntry(
            actor=ALICE,
            verb="change",
            kind="setting",
            name="safety.budget_engine",
            before="30/1m",
            after="50/1m",
            note="for the sale",
        ),
        AuditEntry(
            actor=ALICE,
            verb="change",
            kind="setting",
            name="safety.protected_namespaces",
            before=["kube-system", "quell"],
            after=["kube-system", "shop"],
            note="for the sale",
        ),
    ]
    again = start()
    assert again.settings == live.settings
    assert again.version == live.version
    assert [one.origin for one in again.shown(["safety.budget_engine", "safety.budget_rule"])] == [
        From.RUN_TIME,
        From.DEFAULT,
    ]
    assert len(entries(store)) == 2


def test_unset_goes_back_to_the_start(store: Store, start: Start) -> None:
    live = start()
    change(live, budget_engine="50/1m", clock_skew="1s")
    change(live, "budget_engine")
    assert (live.settings.safety.budget_engine, live.settings.safety.clock_skew) == ("30/1m", "1s")
    assert (entries(store)[-1].before, entries(store)[-1].after) == ("50/1m", "30/1m")
    version = live.version
    change(live, "budget_engine")
    change(live, clock_skew="1s")
    assert (live.version, len(entries(store))) == (version, 3)


def test_one_that_is_wrong_and_nothing_is_changed(store: Store, start: Start) -> None:
    live = start()
    with pytest.raises(SettingError) as caught:
        change(live, "budget_rul", budget_engine="50/1m", clock_skew="soon", max_age_kil="1s")
    assert [problem.path for problem in caught.value.problems] == [
        "/set/safety.clock_skew",
        "/set/safety.max_age_kil",
        "/unset/0",
    ]
    assert "did you mean safety.max_age_kill?" in str(caught.value)
    assert live.settings == Settings()
    assert (entries(store), live.version) == ([], start().version)


def test_what_is_pinned_or_needs_a_start_is_refused_and_says_where(start: Start) -> None:
    live = start(QUELL_SAFETY_BUDGET_RULE="1/1m", QUELL_SERVER_PORT="1")
    with pytest.raises(SettingFixed, match="environment, QUELL_SAFETY_BUDGET_RULE"):
        change(live, budget_rule="5/1m", clock_skew="1s")
    with pytest.raises(SettingFixed, match="environment, QUELL_SAFETY_BUDGET_RULE"):
        change(live, "budget_rule")
    with pytest.raises(SettingFixed, match=r"allow_empty_protection under \[safety\]"):
        change(live, allow_empty_protection=True)
    assert live.settings.safety.clock_skew == "5s"
    change(live, clock_skew="1s")
    [shown] = live.shown(["safety.budget_rule"])
    assert (shown.origin, shown.pinned, shown.where) == (From.ENVIRONMENT, True, "QUELL_SAFETY_BUDGET_RULE")


def test_a_pause_is_always_possible_and_its_end_is_not(store: Store, start: Start) -> None:
    live = start(QUELL_SAFETY_PAUSED="false")
    change(live, paused=True, reason="incident")
    assert live.safety.paused
    assert (live.pause.by, live.pause.reason) == ("user/alice", "incident")
    again = start(QUELL_SAFETY_PAUSED="false")
    assert again.pause == live.pause
    change(again, paused=False)
    assert not again.safety.paused
    assert [entry.verb for entry in entries(store)] == ["pause", "resume"]
    assert not start().pause.paused

    pinned = start(QUELL_SAFETY_PAUSED="true")
    assert pinned.pause.by == "QUELL_SAFETY_PAUSED"
    with pytest.raises(SettingFixed, match="QUELL_SAFETY_PAUSED"):
        change(pinned, paused=False)
    change(pinned, paused=True, reason="this too")
    assert start().pause.reason == "this too"  # the pin is gone, the person's pause is not


def test_emptying_the_protected_list_has_to_be_said(
    store: Store, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    live = start()
    for empty in ("", [], " , "):
        with pytest.raises(SettingError, match="protects no namespace"):
            change(live, protected_namespaces=empty)
    assert live.safety.protected_namespaces == ("kube-system", "quell")
    change(live, protected_namespaces="", allow_empty=True, reason="a drill")
    assert live.safety.protected_namespaces == ()
    assert entries(store)[-1].note == "no namespace is protected any more. a drill"
    capsys.readouterr()
    assert start().safety.protected_namespaces == ()
    assert "no namespace is protected" in capsys.readouterr().out


def test_what_changed_between_two_starts_is_noticed(store: Store, start: Start) -> None:
    start()
    assert entries(store) == []
    start(QUELL_SAFETY_BUDGET_ENGINE="90/1m", QUELL_WEBHOOKS_PROXY="http://me:hunter2@proxy")
    start(QUELL_SAFETY_BUDGET_ENGINE="90/1m", QUELL_WEBHOOKS_PROXY="http://me:hunter2@proxy")
    start()
    told = [(entry.actor, entry.name, entry.before, entry.after) for entry in entries(store)]
    assert told == [
        (QUELL, "safety.budget_engine", "30/1m", "90/1m"),
        (QUELL, "webhooks.proxy", "", "(secret)"),
        (QUELL, "safety.budget_engine", "90/1m", "30/1m"),
        (QUELL, "webhooks.proxy", "(secret)", ""),
    ]
    assert "environment QUELL_SAFETY_BUDGET_ENGINE" in entries(store)[0].note


def test_a_first_start_tells_what_is_no_default(store: Store, start: Start) -> None:
    start(QUELL_SAFETY_MAX_AGE_KILL="1h")
    assert [(entry.name, entry.before, entry.after) for entry in entries(store)] == [
        ("safety.max_age_kill", "60s", "1h")
    ]


def test_what_is_pinned_later_ends_the_change(store: Store, start: Start) -> None:
    change(start(), budget_engine="50/1m")
    assert start(QUELL_SAFETY_BUDGET_ENGINE="7/1m").settings.safety.budget_engine == "7/1m"
    assert start().settings.safety.budget_engine == "30/1m"
    assert [entry.after for entry in entries(store)] == ["50/1m", "7/1m", "30/1m"]


def test_what_cannot_be_written_is_not_in_force(store: Store, start: Start) -> None:
    live = start()
    told: list[Settings] = []
    live.subscribe(told.append)
    version = live.version
    store.close()
    with pytest.raises(StoreError):
        change(live, paused=True)
    assert (live.safety.paused, live.version, told) == (False, version, [])
