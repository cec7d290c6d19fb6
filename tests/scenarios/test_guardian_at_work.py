"""The guardian in a controller: what is observed becomes deviations, counts, events and commands; nothing is said twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from tests.scenarios.test_own_events import Place, hello, run

from quell.channel.messages import Hello, Observations, Observe
from quell.channel.messages import Seen as SeenContainers
from quell.documents.load import load_text
from quell.model.decision import Decision, Reason, Status
from quell.model.details import Deviation
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import Direction
from quell.model.repeats import Repeated
from quell.model.sighting import ContainerSeen, NodeSeen, Sightings
from quell.model.subject import Ancestor, Container, Process, Subject
from quell.storage import deviations as stored
from quell.storage.deviations import Wanted

WEB = "c" * 64
KILLS = ("agentKillProcess", "quarantine")
POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: web, type: container}}
spec:
  mode: {mode}
  enabled: {enabled}
  containerSelector: {{matchFields: {{image: "docker.io/library/nginx:*"}}}}
  processPolicy:
    - {{id: nginx, name: nginx, exe: [/usr/sbin/nginx], euser: [root]}}
  networkPolicy: {{ingress: [], egress: []}}
  response:
    default: [{actions}]
"""
KILL, FLAG = "{agentKillProcess: {}}", "{makeRedFlag: {severity: high}}"
NODES = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: images, type: cluster}
spec:
  mode: enforce
  clusterSelector: {matchFields: {name: "*"}}
  rulesets: [known]
  response: {default: [{makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: Ruleset
metadata: {name: known, type: cluster}
spec:
  rules: [{target: "container::image", verb: allow, values: ["docker.io/library/*"]}]
"""


def policy(mode: str = "enforce", actions: str = KILL, *, enabled: bool = True) -> str:
    return POLICY.format(mode=mode, actions=actions, enabled=str(enabled).lower())


def process(pid: int, name: str = "nc", exe: str = "/usr/bin/nc", user: str = "root") -> Process:
    """Below a container's first process, which its runtime started."""
    lineage = (
        Ancestor("nginx", "/usr/sbin/nginx", "root", 100, 1000),
        Ancestor("conmon", "/usr/bin/conmon", "root", 90, 900),
        Ancestor("systemd", "/sbin/init", "root", 1, 1),
    )
    return Process(pid=pid, start_ticks=pid * 10, boot_id="boot", name=name, exe=exe, user=user, uid=0, lineage=lineage)


def saw(pid: int, *, seen: Seen = Seen.EXECUTED, container: str = WEB, **of_process: str) -> Observation:
    subject = Subject(node="n1", machine_id="m1", container=Container(id=container), process=process(pid, **of_process))
    return Observation(seen=seen, time=time.time(), subject=subject, inside=1)


class Guarded:
    """A place with one agent on machine n1, on which a container of nginx runs."""

    def __init__(self, place: Place, agent: Hello) -> None:
        self.place = place
        self.controller = place.controller
        self.agent = agent

    async def apply(self, text: str) -> None:
        await self.controller.apply(load_text(text))

    def contains(self, identifier: str = WEB, image: str | None = "docker.io/library/nginx:1.27") -> None:
        seen = ContainerSeen(id=identifier, name=f"c-{identifier[0]}", image=image, node="n1", runtime="podman")
        self.controller.sighted(self.agent, SeenContainers(seen=(seen,)))

    def saw(self, *observations: Observation, lost: int = 0) -> int:
        return self.controller.observed(self.agent, Observations(observations=observations, lost=lost))

    async def settled(self) -> None:
        """All that was observed is compared, and what came of it is on disk."""
        end = time.monotonic() + 20
        while self.controller.guardian.waiting or self.controller.guardian._is_awake:
            assert time.monotonic() < end
            await asyncio.sleep(0)
        await asyncio.wrap_future(self.controller.store.submit(lambda _: None))

    async def found(self) -> list[tuple[str, Deviation, Decision]]:
        """Events of deviations, oldest first: name, details and decision."""
        await self.settled()
        events = []
        for one in reversed(self.controller.store.recent(10_000)):
            if one.source == "guardian":
                told = msgspec.json.decode(one.raw)
                events.append((told["name"], msgspec.convert(told["details"], Deviation), one.decision))
        return events

    async def counted(self) -> dict[str, Repeated]:
        """What is kept, by message."""
        await self.controller.guardian.deviations.saved()
        kept = self.controller.store.read(lambda connection: stored.find(connection, Wanted()))
        return {each.deviation.message: each for _, each in kept}


def guarded(
    folder: Path, scenario: Callable[[Guarded], Awaitable[None]], values: Mapping[str, object] | None = None
) -> None:
    async def within(place: Place) -> None:
        await place.enrol()
        agent = hello(capabilities=KILLS)
        place.controller.agent_connected(agent)
        await scenario(Guarded(place, agent))

    run(folder, within, values)


def granted(decision: Decision) -> list[tuple[str, Status]]:
    return [(type(record.action).__name__, record.status) for record in decision.actions]


def test_a_deviant_process_is_killed_and_an_expected_one_is_not(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        await place.apply(policy())
        place.contains()
        place.saw(saw(200, name="nginx", exe="/usr/sbin/nginx"), saw(201), saw(202))
        found = await place.found()
        assert [name for name, *_ in found] == ["Process.Profile.Violation"] * 2
        for pid, (_, deviation, decision) in zip((201, 202), found, strict=True):
            assert (deviation.policy, deviation.mode, deviation.what) == ("web", "enforce", "process")
            assert deviation.checksum
            assert deviation.addition
            [record] = decision.actions
            assert (record.status, record.target.process.pid, record.target.container_id) == (Status.GRANTED, pid, WEB)
            assert [match.ref for match in decision.matches] == ["policy/web"]
        [kept] = (await place.counted()).values()
        assert (kept.policy, kept.count, kept.events, kept.name) == ("web", 2, 2, "Process.Profile.Violation")
        assert kept.subject.image == "docker.io/library/nginx:1.27"
        # The same again, as after a lost link: nothing new.
        place.saw(saw(201, seen=Seen.RUNNING), saw(202, seen=Seen.RUNNING))
        assert len(await place.found()) == 2

    guarded(tmp_path, scenario)


def test_audit_records_what_would_be_done(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        await place.apply(policy("audit", f"{KILL}, {FLAG}"))
        place.contains()
        place.saw(*(saw(pid) for pid in range(200, 210)))
        [(_, deviation, decision)] = await place.found()
        assert deviation.mode == "audit"
        assert [(record.status, record.reason) for record in decision.actions] == [(Status.REFUSED, Reason.AUDIT)] * 2
        assert all("would have been done" in record.explanation for record in decision.actions)
        assert place.controller.store.flags(10) == []
        assert place.controller.dispatcher.waiting(place.agent.agent) == 0
        [kept] = (await place.counted()).values()
        assert (kept.count, kept.events) == (10, 1)

    guarded(tmp_path, scenario)


def test_switched_to_enforce_what_runs_is_acted_on(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        asked: list[Observe] = []
        place.controller.guardian.subscribe(lambda observe, _nodes: asked.append(observe))
        await place.apply(policy("audit"))
        place.contains()
        place.saw(saw(200))
        assert [granted(decision) for *_, decision in await place.found()] == [[("KillProcess", Status.REFUSED)]]
        place.controller.guardian.tick()
        asked.clear()
        await place.apply(policy())
        place.controller.guardian.tick()
        # The agents tell of all that runs when they are asked.
        assert asked == [Observe(executions=True, sockets=10.0)]
        place.saw(saw(200, seen=Seen.RUNNING))
        found = await place.found()
        assert [granted(decision) for *_, decision in found][1:] == [[("KillProcess", Status.GRANTED)]]
        place.saw(saw(200, seen=Seen.RUNNING))
        assert len(await place.found()) == 2
        assert next(iter((await place.counted()).values())).count == 1

    guarded(tmp_path, scenario)


def test_what_runs_in_a_container_before_its_image_is_known_waits_for_it(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        await place.apply(policy())
        place.saw(saw(200), saw(201))
        assert await place.found() == []
        place.contains()
        assert len(await place.found()) == 2

    guarded(tmp_path, scenario)


def test_a_restart_keeps_counts_and_acts_on_nothing_twice(tmp_path: Path) -> None:
    async def before(place: Guarded) -> None:
        await place.apply(policy())
        place.contains()
        place.saw(saw(200), saw(201))
        assert len(await place.found()) == 2

    async def after(place: Guarded) -> None:
        place.saw(saw(200, seen=Seen.RUNNING), saw(201, seen=Seen.RUNNING), saw(202))
        assert len(await place.found()) == 3
        [kept] = (await place.counted()).values()
        assert (kept.count, kept.events) == (3, 3)

    guarded(tmp_path, before)
    guarded(tmp_path, after)


def test_connections_that_no_rule_lists(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        await place.apply(policy("enforce", FLAG))
        place.contains()
        subject = msgspec.structs.replace(
            saw(100, name="nginx", exe="/usr/sbin/nginx").subject,
            process=msgspec.structs.replace(
                process(100, name="nginx", exe="/usr/sbin/nginx"), lineage=process(100).lineage[1:]
            ),
        )
        peer = Peer(direction=Direction.EGRESS, ip="198.51.100.7", port=443)
        place.saw(Observation(seen=Seen.CONNECTED, time=time.time(), subject=subject, peer=peer))
        [(name, deviation, decision)] = await place.found()
        assert (name, deviation.what) == ("Network.Violation", "egress")
        assert deviation.connection is not None
        assert granted(decision) == [("MakeRedFlag", Status.GRANTED)]

    guarded(tmp_path, scenario)


def test_a_container_that_no_ruleset_allows(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        place.contains("a" * 64, "registry.example/rogue:1")
        place.contains("b" * 64)
        await place.apply(NODES)
        assert await place.found() == []  # in no cluster
        nodes = (NodeSeen(name="n1", kubernetes=True),)
        place.controller.take_sightings(Sightings(source="kubernetes/prod", seen=nodes))
        found = await place.found()
        assert [(name, deviation.what) for name, deviation, _ in found] == [("Container.Image.Deviation", "container")]
        place.contains("d" * 64, "registry.example/rogue:1")
        assert len(await place.found()) == 1
        [kept] = (await place.counted()).values()
        assert kept.count == 2

    guarded(tmp_path, scenario)


def test_an_agent_speaks_of_its_own_machine_only(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        await place.apply(policy())
        place.contains()
        good = saw(200)
        others = [
            msgspec.structs.replace(good, subject=msgspec.structs.replace(good.subject, **told))
            for told in ({"node": "n2"}, {"machine_id": "m2"}, {"node": None, "machine_id": None})
        ]
        assert place.saw(good, *others) == 3
        assert len(await place.found()) == 1

    guarded(tmp_path, scenario)


def test_a_flood_is_bounded_and_said(tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        await place.apply(policy())
        place.contains()
        place.saw(*(saw(pid) for pid in range(1000, 3000)), lost=7)
        await place.settled()
        found = await place.found()
        assert len(found) == 20
        [kept] = (await place.counted()).values()
        assert (kept.count, kept.events, kept.omitted) == (1000, 20, 980)
        place.controller.guardian.tick()
        told = await place.place.told("Guardian.Observations.Lost")
        assert [one["details"]["facts"] for one in told] == [{"observations": "1000"}]
        assert told[0]["subject"] == {"node": "n1"}

    guarded(tmp_path, scenario, {"guardian.queue": 1000, "guardian.events_checksum": "20/1m"})


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("on", "", Observe(executions=True, sockets=10.0)),
        ("policies", "", Observe()),
        ("policies", policy(), Observe(executions=True, sockets=10.0)),
        ("policies", policy(enabled=False), Observe()),
        ("policies", NODES, Observe()),
        ("policies", NODES.replace("container::image", "process::exe"), Observe(executions=True)),
        ("off", policy(), Observe()),
    ],
)
def test_what_agents_are_to_look_at(how: str, text: str, expected: Observe, tmp_path: Path) -> None:
    async def scenario(place: Guarded) -> None:
        if text:
            await place.apply(text)
        assert place.controller.guardian.wanted == expected

    guarded(tmp_path, scenario, {"guardian.observe": how})


def test_a_rule_that_acts_on_deviations_makes_each_an_event(tmp_path: Path) -> None:
    rule = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: stop-them}
spec: {event: security-event, criteria: ["name:CRITERION"], actions: [agentKillProcess]}
"""

    async def scenario(place: Guarded) -> None:
        await place.apply(policy("audit", FLAG))
        await place.apply(rule.replace("CRITERION", "Host.Suspicious.Process"))
        place.contains()
        place.saw(saw(200), saw(201))
        assert len(await place.found()) == 1
        await place.apply(rule.replace("CRITERION", "Process.Profile.*"))
        place.saw(saw(202), saw(203))
        found = await place.found()
        assert len(found) == 3
        assert granted(found[-1][2])[0] == ("KillProcess", Status.GRANTED)

    guarded(tmp_path, scenario)
