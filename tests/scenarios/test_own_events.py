"""What Quell says of itself: each thing once, nothing in a storm, and an end to every chain."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell.channel.messages import Hello, Seen
from quell.controller.controller import Controller
from quell.controller.happenings import Happenings
from quell.controller.rulebook import Application, Editor
from quell.documents.load import load_text
from quell.errors import DocumentError
from quell.memory import measure
from quell.model.audit import Actor
from quell.model.decision import FlagClass
from quell.model.sighting import ContainerSeen, Gone, PodSeen, Sightings
from quell.model.subject import Subject
from quell.settings import Settings
from quell.storage import agents as stored_agents
from quell.storage import flags as stored_flags
from quell.storage import inventory as stored_inventory
from quell.storage import outbox
from quell.storage.records import OutboxItem

WEB, DB = "a" * 64, "b" * 64
SHORT = {"own_events.reconnect_grace": "1s", "own_events.lost_after": "1s"}
ALICE = Editor(actor=Actor(kind="user", name="alice", address="10.0.0.1"), operates=True)
#: With a name and the name of an event.
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: {0}}}
spec: {{event: event, criteria: ["name:{1}"], actions: [{{makeRedFlag: {{severity: low}}}}]}}
"""


class Place:
    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    async def enrol(self, number: int = 1) -> Hello:
        """What an enrolled agent of machine n<number> says."""
        agent = stored_agents.Agent(
            id=f"agent-{number}",
            name=f"name-{number}",
            public_key=b"\0" * 32,
            node=f"n{number}",
            machine_id=f"m{number}",
            enrolled=time.time(),
        )
        await asyncio.wrap_future(self.controller.store.submit(lambda connection: stored_agents.put(connection, agent)))
        self.controller.agent_joined(agent.id)
        return hello(number)

    async def told(self, *prefixes: str) -> list[dict[str, Any]]:
        """Events of Quell's own whose names begin so, oldest first, as they were written."""
        assert await self.controller.teller.settled(20)
        stored = [one for one in reversed(self.controller.store.recent(10_000)) if one.source == "quell"]
        found = [msgspec.json.decode(one.raw) | {"id": one.id} for one in stored]
        return [one for one in found if one["name"].startswith(prefixes or "")]

    async def names(self, *prefixes: str) -> list[str]:
        return [one["name"] for one in await self.told(*prefixes)]

    async def until(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        end = time.monotonic() + 20
        while len(found := await self.told(name)) < count:
            assert time.monotonic() < end, f"{len(found)} of {name}, expected {count}"
            await asyncio.sleep(0.02)
        return found


def hello(number: int = 1, instance: str = "first", capabilities: tuple[str, ...] = ("quarantine",)) -> Hello:
    return Hello(
        agent=f"agent-{number}",
        version="1.2",
        node=f"n{number}",
        machine_id=f"m{number}",
        boot_id="boot",
        boot_time=1.0,
        capabilities=capabilities,
        instance=instance,
    )


def run(folder: Path, scenario: Callable[[Place], Awaitable[None]], values: Mapping[str, object] | None = None) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            controller = Controller.open(folder, Settings().with_values(dict(values or {})))
            controller.start()
            try:
                await scenario(Place(controller))
            finally:
                controller.stopping()
                await controller.stop()

    asyncio.run(within())


# --- the controller --------------------------------------------------------------------------------------------------


def test_starts_and_stops_say_whether_the_last_stop_was_clean(tmp_path: Path) -> None:
    async def nothing(_place: Place) -> None:
        """It only starts and stops."""

    async def crash(place: Place) -> None:
        assert await place.controller.teller.settled(10)
        # What a crash leaves undone.
        place.controller.happenings._started = False

    async def look(place: Place) -> None:
        told = await place.told("Controller.")
        assert [(one["name"], one["details"]["facts"].get("last_stop")) for one in told] == [
            ("Controller.Start", "first"),
            ("Controller.Stop", None),
            ("Controller.Start", "clean"),
            ("Controller.Start", "unclean"),
        ]
        assert all(one["details"]["facts"]["version"] for one in told)

    for scenario in (nothing, crash, look):
        run(tmp_path, scenario)


def test_memory_pressure_of_the_controller(tmp_path: Path) -> None:
    root = tmp_path / "machine"
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "proc/meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 50000 kB\n")

    async def scenario(place: Place) -> None:
        controller = place.controller
        own = Happenings(
            controller.store,
            controller.teller,
            Settings().own_events,
            time.time,
            lost=lambda _agent: None,
            measure=partial(measure, root),
        )
        for _ in range(100):
            own.tick()
        (told,) = await place.told("Controller.Memory")
        assert told["details"]["message"] == "the controller: 927 of 976 MiB of the machine are used (95 %)"
        assert told["details"]["facts"]["limit"] == "1024000000"

    run(tmp_path / "state", scenario)


# --- agents ----------------------------------------------------------------------------------------------------------


def test_an_agent_from_enrolment_to_withdrawal(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        controller, first = place.controller, await place.enrol()
        controller.agent_connected(first)
        controller.agent_disconnected(first.agent, "the agent closed the connection")
        controller.agent_connected(first)  # the same process: no start
        controller.agent_leaving(first, "SIGTERM")
        controller.agent_disconnected(first.agent, "the agent closed the connection")
        controller.agent_connected(hello(instance="second"))
        controller.agent_withdrawn(first.agent, "this machine enrolled anew")
        controller.agent_disconnected(first.agent, "closed")
        told = await place.told("Enforcer.")
        assert [one["name"].removeprefix("Enforcer.") for one in told] == [
            *("Join", "Start", "Connect", "Disconnect", "Connect", "Stop", "Start", "Connect", "Kicked")
        ]
        assert {(one["subject"]["node"], one["subject"]["machine_id"]) for one in told} == {("n1", "m1")}
        assert told[3]["details"] == {
            "message": "agent name-1 on n1 is not connected any more: the agent closed the connection",
            "facts": {
                "agent": "agent-1",
                "name": "name-1",
                "version": "1.2",
                "reason": "the agent closed the connection",
            },
        }

    run(tmp_path, scenario)


def test_a_restart_of_the_controller_is_no_storm(tmp_path: Path) -> None:
    async def before(place: Place) -> None:
        for number in range(3):
            place.controller.agent_connected(await place.enrol(number))
        assert len(await place.names("Enforcer.Connect")) == 3
        # The links end with the controller.
        place.controller.stopping()
        for number in range(3):
            place.controller.agent_disconnected(f"agent-{number}", "the controller ended it")

    async def after(place: Place) -> None:
        told = Counter(await place.names("Enforcer."))
        for number in range(2):
            place.controller.agent_connected(hello(number))
        (gone,) = await place.until("Enforcer.Disconnect")
        assert gone["subject"]["node"] == "n2"
        assert gone["details"]["facts"]["reason"] == "it has not come back since the controller started"
        assert Counter(await place.names("Enforcer.")) - told == Counter({"Enforcer.Disconnect": 1})
        place.controller.agent_connected(hello(2))
        assert len(await place.until("Enforcer.Connect", 4)) == 4

    run(tmp_path, before)
    run(tmp_path, after, SHORT)


def test_a_thousand_agents_that_come_back_at_once(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        greetings = [await place.enrol(number) for number in range(1000)]
        assert len(await place.names("Enforcer.Join")) == 1000
        for _ in range(2):
            for greeting in greetings:
                place.controller.agent_connected(greeting)
            for greeting in greetings:
                place.controller.agent_disconnected(greeting.agent, "the network")
        counts = Counter(await place.names("Enforcer."))
        assert counts["Enforcer.Connect"] == counts["Enforcer.Disconnect"] == 2000
        assert place.controller.teller.lost == 0

    run(tmp_path, scenario)


def test_a_link_that_flaps_is_told_of_ten_times_and_then_where_it_ends_up(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        greeting = await place.enrol()
        for _ in range(50):
            place.controller.agent_connected(greeting)
            place.controller.agent_disconnected(greeting.agent, "the network")
        assert len(await place.names("Enforcer.Connect", "Enforcer.Disconnect", "Enforcer.Start")) == 10

    run(tmp_path, scenario)


# --- documents -------------------------------------------------------------------------------------------------------


def test_an_application_is_told_of_once_and_one_that_changes_nothing_is_not(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        rulebook = place.controller.rulebook
        # It answers itself, and cannot loop: the answer changes no documents.
        loaded = load_text(RULE.format("import", "Configuration.Import"))
        for dry_run in (True, False, False):
            await rulebook.apply(Application(documents=loaded, source="git/prod"), ALICE, dry_run=dry_run)
        (told,) = await place.told("Configuration.Import")
        assert told["subject"] == {"user": "alice"}
        assert told["details"]["message"] == (
            "documents changed by user/alice for source git/prod: 1 created (ResponseRule import)"
        )
        assert told["details"]["facts"] == {"by": "user/alice", "revision": "2", "created": "1", "source": "git/prod"}
        refused = load_text(RULE.format("x", "y").replace("event: event,", "event: event, group: nobody,"))
        for _ in range(20):
            with pytest.raises(DocumentError):
                await rulebook.apply(Application(documents=refused), ALICE)
        (told,) = await place.told("Configuration.Import.Failed")
        assert told["details"]["message"].startswith("documents of user/alice refused, 1 problem: ")

    run(tmp_path, scenario)


# --- containers ------------------------------------------------------------------------------------------------------


def sighted(place: Place, *seen: ContainerSeen, complete: bool = False, gone: tuple[str, ...] = ()) -> None:
    message = Seen(
        seen=seen,
        complete=complete,
        kinds=("container",) if complete else (),
        gone=tuple(Gone(kind="container", key=key) for key in gone),
    )
    place.controller.sighted(hello(), message)


def web(**facts: Any) -> ContainerSeen:
    told = {
        "name": "web",
        "image": "nginx:1.27",
        "pid": 7,
        "started": time.time() + 1,
        "labels": {"app": "web"},
    } | facts
    return ContainerSeen(id=facts.pop("id", WEB), **{key: value for key, value in told.items() if key != "id"})


def test_the_life_of_a_container_with_its_whole_subject(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        greeting = await place.enrol()
        place.controller.agent_connected(greeting)
        old = ContainerSeen(id=DB, name="db", pid=3, started=time.time() - 3600)
        sighted(place, old, complete=True)
        sighted(place, running := web())
        sighted(place, msgspec.structs.replace(running, running=False, pid=None))
        sighted(place, gone=(WEB,))
        told = await place.told("Container.")
        assert [(one["name"].removeprefix("Container."), one["subject"]["container"]["name"]) for one in told] == [
            ("Secured", "db"),
            ("Start", "web"),
            ("Secured", "web"),
            ("Stop", "web"),
            ("Remove", "web"),
        ]
        start = told[1]
        assert start["time"] == pytest.approx(running.started)
        assert start["subject"] == {
            "node": "n1",
            "container": {"id": WEB, "name": "web"},
            "image": "nginx:1.27",
            "service": "web",
        }
        place.controller.agent_withdrawn(greeting.agent)
        assert await place.names("Container.Unsecured") == ["Container.Unsecured"]

    run(tmp_path, scenario)


def test_rules_see_a_containers_own_labels_too(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        group = """
apiVersion: quell.dev/v1
kind: Group
metadata: {name: front}
spec: {criteria: [{key: app, op: "=", value: web}]}
---
"""
        rule = RULE.format("start", "Container.Start").replace("event: event,", "event: event, group: front,")
        await place.controller.apply(load_text(group + rule))
        place.controller.agent_connected(await place.enrol())
        sighted(place, web(), web(id=DB, labels={}))
        told = {one["subject"]["container"]["id"]: one["id"] for one in await place.told("Container.Start")}
        matched = {}
        for container, identifier in told.items():
            explained = place.controller.explain(identifier)
            assert explained is not None
            matched[container] = [match.name for match in explained.decision.matches]
        assert matched == {WEB: ["start"], DB: []}

    run(tmp_path, scenario)


def test_a_census_after_a_restart_tells_what_changed_meanwhile(tmp_path: Path) -> None:
    stays, goes, comes = web(), web(id=DB), web(id="c" * 64, started=time.time() + 5)

    async def before(place: Place) -> None:
        place.controller.agent_connected(await place.enrol())
        sighted(place, stays, goes, complete=True)
        assert len(await place.names("Container.Start")) == 2

    async def after(place: Place) -> None:
        told = Counter(await place.names("Container."))
        place.controller.agent_connected(hello())
        sighted(place, stays, comes, complete=True)
        sighted(place, stays, comes, complete=True)
        assert Counter(await place.names("Container.")) - told == Counter(
            {"Container.Start": 1, "Container.Secured": 1, "Container.Remove": 1}
        )

    run(tmp_path, before)
    run(tmp_path, after)


def test_an_agent_that_is_away_for_long_secures_nothing(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        greeting = await place.enrol()
        place.controller.agent_connected(greeting)
        sighted(place, web(started=1.0), complete=True)
        place.controller.agent_disconnected(greeting.agent, "the network")
        assert len(await place.until("Container.Unsecured")) == 1
        place.controller.agent_connected(greeting)
        assert len(await place.until("Container.Secured", 2)) == 2
        assert await place.names("Container.Start") == []

    run(tmp_path, scenario, SHORT)


def test_kubernetes_alone_tells_of_starts_and_ends_and_an_agent_beside_it_nothing_twice(tmp_path: Path) -> None:
    def pod(started: float) -> PodSeen:
        inside = ContainerSeen(id=WEB, name="web", image="nginx:1.27", started=started)
        return PodSeen(
            uid="uid-1", name="web-1", namespace="shop", node="n1", labels={"app": "web"}, containers=(inside,)
        )

    async def scenario(place: Place) -> None:
        take = place.controller.take_sightings
        take(Sightings(source="kubernetes/prod", complete=True, kinds=("pod",)))
        started = float(int(time.time()) + 1)
        take(Sightings(source="kubernetes/prod", seen=(pod(started),)))
        place.controller.agent_connected(await place.enrol())
        sighted(place, web(started=started + 0.4), complete=True)
        sighted(place, gone=(WEB,))
        take(Sightings(source="kubernetes/prod", gone=(Gone(kind="pod", key="uid-1"),)))
        told = await place.told("Container.")
        assert [one["name"] for one in told] == ["Container.Start", "Container.Secured", "Container.Remove"]
        assert told[0]["subject"]["pod"] == {"name": "web-1", "uid": "uid-1", "labels": {"app": "web"}}
        assert told[0]["subject"]["namespace"] == "shop"

    run(tmp_path, scenario)


def test_a_crash_loop_is_told_of_up_to_its_bound_and_then_counted(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        place.controller.agent_connected(await place.enrol())
        sighted(place, complete=True)
        for number in range(50):
            sighted(place, web(id=f"{number:064x}"))
            sighted(place, gone=(f"{number:064x}",))
        (omitted,) = await place.until("Container.Events.Omitted")
        told = Counter(await place.names("Container."))
        assert sum(told.values()) == 1 + 2  # a quarter of eight: one service's share
        counted = omitted["details"]["facts"]
        assert sum(map(int, counted.values())) == 150 - 2
        assert omitted["subject"] == {"node": "n1"}

    run(tmp_path, scenario, {"own_events.containers": "8/2s"})


# --- learned groups --------------------------------------------------------------------------------------------------


def test_learned_groups_are_kept_for_a_rule_and_dropped_without_one(tmp_path: Path) -> None:
    async def prepare(place: Place) -> None:
        long_ago = {"nv.old": time.time() - 8 * 86_400, "nv.older": time.time() - 9 * 86_400}
        await asyncio.wrap_future(
            place.controller.store.submit(lambda connection: stored_inventory.put_learned(connection, long_ago))
        )
        # It would save its own idea of them as it closes.
        place.controller.inventory._left = dict(place.controller.inventory._membership.left)

    async def scenario(place: Place) -> None:
        place.controller.agent_connected(await place.enrol())
        sighted(place, web(), complete=True)
        rules = [
            RULE.format(f"rule-{number}", "x.y").replace("event: event,", f"event: event, group: {group},")
            for number, group in enumerate(("nv.web", "nv.old"))
        ]
        await place.controller.apply(load_text("---".join(rules)))
        promoted = await place.until("Group.Auto.Promote", 2)
        assert [one["subject"]["group"] for one in promoted] == ["nv.old", "nv.web"]
        (removed,) = await place.until("Group.Auto.Remove")
        assert removed["subject"] == {"group": "nv.older"}
        place.controller.inventory.tick()
        assert len(await place.names("Group.")) == 3

    async def again(place: Place) -> None:
        place.controller.inventory.tick()
        assert len(await place.names("Group.")) == 3

    run(tmp_path, prepare)
    run(tmp_path, scenario)
    run(tmp_path, again)


def test_a_rule_for_a_group_meets_the_events_about_that_group(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        rule = RULE.format("kept", "Group.Auto.*").replace("event: event,", "event: event, group: nv.web,")
        place.controller.agent_connected(await place.enrol())
        sighted(place, web(), complete=True)
        await place.controller.apply(load_text(rule))
        (told,) = await place.until("Group.Auto.Promote")
        explained = place.controller.explain(told["id"])
        assert explained is not None
        assert [match.name for match in explained.decision.matches] == ["kept"]

    run(tmp_path, scenario)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_waits_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quell.controller.telling.WAITING", 100)
    monkeypatch.setattr("quell.controller.telling._AGAIN", 0.01)

    async def scenario(place: Place) -> None:
        teller, pipeline = place.controller.teller, place.controller.pipeline
        assert await teller.settled(10)
        pipeline.suspended = True  # as while a state is read back
        for number in range(150):
            teller.tell("User.Login", Subject(), f"{number}")
        assert not await teller.settled(0.1)
        teller.tell("User.Login", Subject(), "150")
        pipeline.suspended = False
        told = await place.until("User.Login", 100)
        assert [one["details"]["message"] for one in told] == [str(number) for number in range(51, 151)]
        assert teller.lost == 51

    run(tmp_path, scenario)


def test_a_chain_of_events_ends_with_a_flag(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        controller = place.controller
        await controller.apply(load_text(RULE.format("written", "RESTful.Write")))

        async def delivered(item: OutboxItem) -> None:
            """A delivery that is on its way."""
            await asyncio.wrap_future(controller.store.submit(lambda connection: outbox.insert(connection, [item])))

        identifier = "first"
        for _ in range(6):
            item = OutboxItem(id=f"{identifier}/webhook/hook", channel="webhook:hook", body=b"", created=time.time())
            await delivered(item)
            controller.tell_following("RESTful.Write", Subject(user="root"), "PUT", item.id)
            identifier = f"{item.id}/event"
        controller.tell_following("RESTful.Write", Subject(user="root"), "PUT", "forged/webhook/hook")
        told = await place.until("RESTful.Write", 7)
        matched = []
        for one in told:
            explained = controller.explain(one["id"])
            assert explained is not None
            matched.append((one["id"].count("/event"), bool(explained.decision.matches)))
        assert sorted(matched) == [(0, True), (1, True), (2, True), (3, True), (4, True), (5, False), (6, False)]
        found = controller.store.read(lambda connection: stored_flags.recent(connection, 100))
        assert [flag.name for flag in found if flag.flag_class is FlagClass.OPS] == [
            "Rules go round in circles: RESTful.Write"
        ]

    run(tmp_path, scenario)
