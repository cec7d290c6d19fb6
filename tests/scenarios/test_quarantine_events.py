"""What the controller tells of its quarantines, and what it makes of agents that answer late, never, or on their own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.plans import document

from quell.channel.messages import Hello, Isolated
from quell.controller.controller import Controller
from quell.controller.isolation import Selection, Wanted
from quell.controller.past import as_decided
from quell.controller.rulebook import Editor, Key
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.model.audit import Actor
from quell.model.decision import FlagClass, Outcome, OutcomeStatus, Reason, Status
from quell.model.details import PlainDetails
from quell.model.event import Event
from quell.model.explanation import Explanation
from quell.model.sighting import ContainerSeen, NodeSeen, PodSeen, Sightings
from quell.model.subject import NetworkTarget
from quell.response.facts import Phase
from quell.settings import Settings

ANN = Actor(kind="user", name="ann", address="192.0.2.1")
HELLO = Hello(
    agent="agent-1",
    node="n1",
    machine_id="m1",
    boot_id="b1",
    boot_time=time.time() - 1000,
    capabilities=("quarantine",),
    host_netns=1,
    version="1",
)
WEB = "c0ffee" + "0" * 58
DONE, EXPIRED, FAILED, REFUSED = (
    OutcomeStatus.DONE,
    OutcomeStatus.EXPIRED,
    OutcomeStatus.FAILED,
    OutcomeStatus.REFUSED,
)


def isolating(name: str, criterion: str, number: int, more: str = "") -> str:
    spec = f'id: {number}, event: security-event, criteria: ["{criterion}"], actions: [{{quarantine: {{{more}}}}}]'
    return document("ResponseRule", name, spec)


RULES = isolating("shells", "name:Container.Suspicious.Process", 8) + isolating("critical", "process:nc", 9)


class Place:
    """A controller, and the voice of its one agent."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.sent = 0

    async def rules(self, text: str) -> None:
        await self.controller.apply(load_text(text))

    async def event(self, identifier: str, **subject: Any) -> Explanation:
        told = {
            "id": identifier,
            "time": time.time(),
            "name": "Container.Suspicious.Process",
            "category": "incident",
            "subject": {"node": "n1", "container": {"id": WEB, "name": "web"}, **subject},
        }
        line = json.dumps(told).encode()
        await self.controller.ingest([DETECTORS["native"].decode(line, id=None, received=time.time())])
        return self.explained(identifier)

    def explained(self, identifier: str) -> Explanation:
        found = self.controller.explain(identifier)
        assert found is not None, identifier
        return found

    async def report(self, command: str, status: OutcomeStatus = DONE, **facts: Any) -> None:
        """The agent says what became of a command."""
        # Nothing is sent, and so nothing answered, before it is on disk.
        await self.until(lambda: self.waiting() == set(self.controller.state.pending))
        outcome = Outcome(id=command, status=status, time=time.time(), facts=facts)
        self.controller.dispatcher.reported("agent-1", outcome)
        await self.until(lambda: any(each.id == command for each in self.controller.store.outcomes(command)))

    def waiting(self) -> set[str]:
        """What may be sent to the agent, or has been, and has no outcome yet."""
        return set(self.controller.dispatcher._pending.get("agent-1", ()))

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "not in time"
            await asyncio.sleep(0.01)

    def own(self, *names: str) -> list[Event]:
        """Quell's own events of these names, the oldest first."""
        events = [as_decided(stored) for stored in self.controller.store.recent(1000)]
        return [event for event in reversed(events) if event.source == "quell" and event.name in names]

    async def own_soon(self, name: str, count: int = 1) -> list[Event]:
        await self.until(lambda: len(self.own(name)) >= count)
        found = self.own(name)
        assert len(found) == count
        return found

    @property
    def phase(self) -> Phase | None:
        held = self.controller.isolation.one(WEB)
        return None if held is None else held.phase

    def command(self) -> str:
        """The one that has no outcome yet."""
        (identifier,) = self.controller.state.pending
        return identifier


def run(folder: Path, *scenarios: Callable[[Place], Awaitable[None]]) -> None:
    """Each with a controller that is started anew over the same folder."""

    async def all_of_them() -> None:
        for scenario in scenarios:
            # What goes round is to be ended by its length here, before a breaker stops it.
            controller = Controller.open(folder, Settings().with_values({"safety.breaker": "100/1h"}))
            controller.start()
            try:
                controller.agent_connected(HELLO)
                await scenario(Place(controller))
            finally:
                await controller.stop()

    asyncio.run(all_of_them())


def plain(event: Event) -> PlainDetails:
    details = event.details()
    assert isinstance(details, PlainDetails)
    return details


def test_events_carry_the_rules_and_come_once(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")
        await place.report("e1/0", namespaces=[4711])
        (told,) = await place.own_soon("Container.Quarantined")
        assert told.id == "e1/0/event"
        assert plain(told).message == "Container web (c0ffee000000) quarantined by (rule 8)"
        assert (plain(told).rules, plain(told).holders, plain(told).quarantine) == ((8,), ("rule/8",), WEB)
        assert told.subject.container is not None
        assert told.subject.container.id == WEB

        joined = await place.event("e2", process={"pid": 4711, "start_ticks": 1, "name": "nc"})
        assert [record.explanation for record in joined.decision.actions] == ["it is isolated already, held by rule/8"]
        [held] = place.controller.isolation.all()
        assert (held.holders, held.phase, held.cause) == ({"rule/8": None, "rule/9": None}, Phase.ISOLATED, "e1")

        one = await place.controller.isolation.release(Selection(key=WEB, holder="rule/8"), ANN, "released by user/ann")
        assert ([each.key for each in one.kept], one.released) == ([WEB], [])
        (record,) = place.explained(one.event).decision.actions
        assert record.explanation == "rule/8 let go; it stays isolated, held by rule/9"
        assert (record.asked_by, record.agent) == (("user/ann",), "")

        rest = await place.controller.isolation.release(Selection(key=WEB), ANN, "released by user/ann")
        assert [each.gone for each in rest.released] == [("rule/9",)]
        assert place.phase is Phase.RELEASING
        await place.report(place.command(), namespaces=[4711])
        (ended,) = await place.own_soon("Container.Unquarantined")
        assert plain(ended).message == (
            "Container web (c0ffee000000) unquarantined by (user ann), held before by (rule 8), (rule 9)"
        )
        assert (plain(ended).rules, plain(ended).holders) == ((8, 9), ("rule/8", "rule/9"))
        assert place.phase is None
        assert len(place.own("Container.Quarantined")) == 1
        [flow] = place.explained(rest.event).outcomes
        assert flow.status is DONE

    run(tmp_path, scenario)


def test_a_rule_that_goes_is_named_in_the_event(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")
        await place.report("e1/0")
        await place.controller.rulebook.delete(Key("ResponseRule", "shells"), Editor(actor=ANN), unquarantine=True)
        await place.report(place.command(), namespaces=[1])
        (ended,) = await place.own_soon("Container.Unquarantined")
        assert plain(ended).message == "Container web (c0ffee000000) unquarantined by (rule 8)"
        assert plain(ended).rules == (8,)

    run(tmp_path, scenario)


def test_a_longer_or_stricter_quarantine_makes_no_second_event(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES + isolating("strict", "process:ncat", 10, "strict: true"))
        await place.event("e1")
        await place.report("e1/0")
        await place.own_soon("Container.Quarantined")
        await place.event("e2", process={"pid": 4712, "start_ticks": 1, "name": "ncat"})
        await place.report(place.command())
        assert place.controller.isolation.all()[0].strict
        await place.event("e3")
        assert len(place.own("Container.Quarantined")) == 1

    run(tmp_path, scenario)


def test_a_rule_that_does_not_name_it_does_not_isolate_what_a_person_releases(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        spec = "id: 8, event: security-event, criteria: [{type: level, value: '>=Info'}], actions: [quarantine]"
        await place.rules(document("ResponseRule", "all", spec) + isolating("nc", "process:nc", 9))
        await place.event("e1", process={"pid": 4711, "start_ticks": 1, "name": "nc"})
        await place.report("e1/0")
        (told,) = await place.own_soon("Container.Quarantined")
        assert told.subject.process is None
        await place.controller.isolation.release(Selection(key=WEB), ANN, "released")
        await place.report(place.command())
        (ended,) = await place.own_soon("Container.Unquarantined")
        decision = place.explained(ended.id).decision
        assert [match.ref for match in decision.matches] == ["rule/8"]
        assert [(record.status, record.reason) for record in decision.actions] == [
            (Status.REFUSED, Reason.NOT_APPLICABLE)
        ]
        assert place.phase is None

    run(tmp_path, scenario)


def test_the_events_are_evaluated_like_any(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        spec = 'event: event, criteria: ["name:Container.Quarantined"], actions: [{makeRedFlag: {severity: high}}]'
        await place.rules(RULES + document("ResponseRule", "tell", spec))
        await place.event("e1")
        await place.report("e1/0")
        await place.own_soon("Container.Quarantined")
        [flag] = place.controller.store.flags(10)
        assert (flag.event_id, flag.asked_by) == ("e1/0/event", ("rule/10",))

    run(tmp_path, scenario)


def test_rules_that_make_each_other_act_are_stopped_and_told_of(tmp_path: Path) -> None:
    """A rule that isolates whatever is released, for a moment: released, it is isolated again, and so on."""

    async def scenario(place: Place) -> None:
        spec = 'event: event, criteria: ["name:Container.Unquarantined"], actions: [{quarantine: {ttl: 100ms}}]'
        await place.rules(isolating("first", "name:Container.Suspicious.Process", 8, "ttl: 100ms"))
        await place.rules(document("ResponseRule", "again", spec))
        await place.event("e1")
        while place.controller.state.pending:
            await place.report(place.command())
            if place.phase is Phase.ISOLATED:
                await place.until(lambda: place.phase is Phase.RELEASING and place.controller.state.pending)
        assert place.phase is None
        released = await place.own_soon("Container.Unquarantined", 5)
        asked = [bool(place.explained(event.id).decision.matches) for event in released]
        assert asked == [True, True, True, True, False], "four events follow from each other, the fifth ends it"
        flags = [flag for flag in place.controller.store.flags(10) if flag.flag_class is FlagClass.OPS]
        isolated = place.own("Container.Quarantined")
        assert {flag.event_id for flag in flags} == {released[-1].id, isolated[-1].id}
        assert {flag.name.partition(":")[0] for flag in flags} == {"Rules go round in circles"}

    run(tmp_path, scenario)


def test_what_was_given_up_and_done_all_the_same_is_known(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")
        place.controller.dispatcher.look()
        pending = place.controller.dispatcher._pending["agent-1"]["e1/0"]
        place.controller.dispatcher._expire(pending, time.time())
        await place.until(lambda: place.controller.store.outcomes("e1/0"))
        assert place.phase is None

    async def after_a_restart(place: Place) -> None:
        await place.report("e1/0")
        await place.until(lambda: place.phase is Phase.ISOLATED)
        assert place.controller.isolation.all()[0].holders == {"rule/8": None}
        await place.own_soon("Container.Quarantined")

    run(tmp_path, scenario, after_a_restart)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    async def before(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")

    async def asked(place: Place) -> None:
        assert place.phase is Phase.ASKED
        await place.report("e1/0")

    async def isolated(place: Place) -> None:
        assert place.phase is Phase.ISOLATED
        await place.controller.isolation.release(Selection(), ANN, "released")

    async def releasing(place: Place) -> None:
        assert place.phase is Phase.RELEASING
        await place.report(place.command())
        assert place.phase is None
        (told,) = await place.own_soon("Container.Unquarantined")
        assert plain(told).rules == (8,)

    run(tmp_path, before, asked, isolated, releasing)


@pytest.mark.parametrize(("why", "unquarantined"), [("gone", False), ("lease", True), ("released", True), (None, True)])
def test_what_an_agent_ended_without_a_command(tmp_path: Path, why: str | None, unquarantined: bool) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")
        place.controller.told_of_isolation(HELLO, Isolated(ended={"other": "gone"}))
        assert place.phase is Phase.ASKED, "its command has no outcome yet"
        await place.report("e1/0")
        place.controller.told_of_isolation(HELLO, Isolated(closed=(WEB,)))
        assert place.phase is Phase.ISOLATED
        place.controller.told_of_isolation(HELLO, Isolated(ended={} if why is None else {WEB: why}))
        assert place.phase is None
        (ended,) = await place.own_soon("Quarantine.Ended")
        assert (plain(ended).rules, plain(ended).quarantine) == ((8,), WEB)
        await place.until(lambda: len(place.own("Container.Unquarantined")) == int(unquarantined))

    async def again(place: Place) -> None:
        assert place.phase is None

    run(tmp_path, scenario, again)


@pytest.mark.parametrize("subject", [{}, {"container": None, "pod": {"name": "web-1", "uid": "uid-1"}}])
def test_ports_that_the_node_probes_are_in_the_signed_command(tmp_path: Path, subject: dict[str, Any]) -> None:
    async def scenario(place: Place) -> None:
        inside = ContainerSeen(id=WEB, name="web", node="n1")
        pod = PodSeen(uid="uid-1", name="web-1", namespace="shop", node="n1", containers=(inside,), probe_ports=(8080,))
        place.controller.take_sightings(Sightings(source="kubernetes/prod", seen=(NodeSeen(name="n1"), pod)))
        await place.rules(RULES)
        await place.until(lambda: WEB in place.controller.state.workloads)
        told = await place.event("e1", **subject)
        (record,) = told.decision.actions
        assert isinstance(record.target, NetworkTarget)
        assert (record.target.key, record.target.probe_ports) == ("uid-1", (8080,))

    run(tmp_path, scenario)


def test_who_tampers_with_an_isolation_is_told_of(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")
        await place.report("e1/0")
        place.controller.told_of_isolation(HELLO, Isolated(closed=(WEB,), tampered={WEB: 3, "other": 1}))
        assert place.phase is Phase.ISOLATED
        (told,) = await place.own_soon("Quarantine.Tampered")
        assert (plain(told).rules, plain(told).quarantine) == ((8,), WEB)
        assert "3 times" in plain(told).message

    run(tmp_path, scenario)


@pytest.mark.parametrize("status", [FAILED, REFUSED, EXPIRED])
def test_what_was_not_isolated_is_not_shown_and_makes_no_event(tmp_path: Path, status: OutcomeStatus) -> None:
    async def scenario(place: Place) -> None:
        await place.rules(RULES)
        await place.event("e1")
        await place.report("e1/0", status)
        assert place.phase is None
        assert place.own("Container.Quarantined") == []
        again = await place.event("e2")
        assert again.decision.actions[0].agent == "agent-1", "the next event asks again"

    run(tmp_path, scenario)


def test_a_person_asks_and_the_record_says_what_became_of_it(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        wanted = Wanted(workload=WEB, node="n1", ttl=60.0, comment="looks odd")
        dry = await place.controller.isolation.request(wanted, ANN, dry_run=True)
        assert dry.decision.actions[0].status is Status.GRANTED
        assert place.phase is None
        assert place.controller.explain(dry.decision.event_id) is None

        told = await place.controller.isolation.request(wanted, ANN)
        (record,) = told.decision.actions
        assert (record.asked_by, record.status, record.agent) == (("user/ann",), Status.GRANTED, "agent-1")
        await place.report(record.id)
        explained = place.explained(told.decision.event_id)
        assert explained.event["details"]["message"] == "user/ann asks for a quarantine: looks odd"
        assert [outcome.status for outcome in explained.outcomes] == [DONE]
        [held] = place.controller.isolation.all()
        assert list(held.holders) == ["user/ann"]
        assert held.until is not None
        (event,) = await place.own_soon("Container.Quarantined")
        assert (plain(event).rules, plain(event).holders) == ((), ("user/ann",))
        audited = place.controller.store.read(
            lambda connection: [json.loads(row[0]) for row in connection.execute("SELECT body FROM audit ORDER BY n")]
        )
        assert [
            (entry["verb"], entry["kind"], entry["name"]) for entry in audited if entry["kind"] == "quarantine"
        ] == [("quarantine", "quarantine", WEB)]

        rule = await place.controller.isolation.request(Wanted(workload=WEB, node="n1"), Actor(kind="token", name="ci"))
        assert list(place.controller.isolation.all()[0].holders) == ["user/ann", "token/ci"]
        assert rule.decision.actions[0].agent == "agent-1", "it is longer than the first"

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Wanted(workload=WEB), Reason.NO_AGENT),
        (Wanted(workload=WEB, node="elsewhere"), Reason.NO_AGENT),
        (Wanted(pod="shop/nothing"), Reason.NO_AGENT),
        (Wanted(node="n1", pid=4711), Reason.IDENTITY),
        (Wanted(node="n1", pid=1, start_ticks=1), Reason.PROTECTED),
        (Wanted(pod="kube-system/dns", node="n1"), Reason.PROTECTED),
    ],
)
def test_a_person_is_refused_as_a_rule_is(tmp_path: Path, wanted: Wanted, reason: Reason) -> None:
    async def scenario(place: Place) -> None:
        told = await place.controller.isolation.request(wanted, ANN)
        (record,) = told.decision.actions
        assert (record.status, record.reason) == (Status.REFUSED, reason)
        assert record.explanation
        assert place.controller.isolation.all() == []
        assert place.controller.inventory.find(WEB) is None, "nothing is learned from what a person typed"

    run(tmp_path, scenario)


def test_a_process_that_a_person_means(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        told = await place.controller.isolation.request(Wanted(node="n1", pid=4711, start_ticks=99), ANN)
        (record,) = told.decision.actions
        assert record.status is Status.GRANTED
        assert isinstance(record.target, NetworkTarget)
        assert record.target.key == "process:b1:4711:99"
        assert record.target.process is not None
        assert record.target.process.boot_id == "b1"

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "wanted",
    [Wanted(), Wanted(workload=WEB, pid=1), Wanted(pid=1), Wanted(workload=WEB, start_ticks=1)],
)
def test_a_wish_that_names_nothing_or_too_much(tmp_path: Path, wanted: Wanted) -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(ValueError, match=r"expected|needs|goes with"):
            await place.controller.isolation.request(wanted, ANN)

    run(tmp_path, scenario)
