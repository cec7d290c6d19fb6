"""Every name that the catalogue says Quell produces is provoked here, and is in the journal afterwards.

PROVOKED is the table: name -> how. Each way is gone once, with real parts: a controller with its API, agents as processes
and in this one, podman's containers, a sensor, a restored backup.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.scenarios.test_own_events import RULE, Place, run, sighted, web
from tests.system.live import Live, live
from tests.system.podman import missing, podman
from tests.system.scripted_agent import NODE, ScriptedAgent
from tests.unit.account_place import ADMIN, GOOD
from tests.unit.account_place import place as account_place

from quell.agent import proc, runtime
from quell.agent.backlog import Backlog
from quell.agent.connector import Connector
from quell.agent.enrol import Address, enrol
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.protected import Protected
from quell.agent.watchlist import WatchList
from quell.api.roles import Role
from quell.catalogue.names import NAMES
from quell.channel.messages import Isolated, Observations, Observe, Ordered
from quell.configuration import Configuration
from quell.documents.load import load_text
from quell.memory import measure
from quell.model.audit import Actor
from quell.model.decision import Outcome, OutcomeStatus
from quell.model.observation import Observation, Seen
from quell.model.sighting import ContainerSeen
from quell.model.subject import Process, Subject
from quell.settings import Settings
from quell.storage import inventory as stored_inventory
from quell.storage import restore

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

FAST = {"own_events.reconnect_grace": "1s", "own_events.lost_after": "1s", "server.rate_burst": 100_000}
ISOLATE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: isolate}
spec: {event: incident, criteria: ["name:Container.Suspicious.Process"], actions: [quarantine]}
"""
KILL = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: ask-first}
spec: {event: incident, criteria: ["process:nc"], actions: [agentKillProcess], approval: true}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill}
spec: {event: incident, criteria: ["process:sh"], actions: [agentKillProcess]}
"""
_SECONDS = 40.0


def configured(**values: object) -> Configuration:
    return Configuration(
        settings=Settings().with_values(FAST | {f"own_events.{key}": at for key, at in values.items()})
    )


def journal(admin: httpx.Client) -> Counter[str]:
    """Names of Quell's own events, and of its agents', with how many of each there are."""
    found = admin.get("/v1/events", params={"limit": 1000}).raise_for_status().json()["items"]
    return Counter(row["name"] for row in found if row["source"] in {"quell", "sensor"})


def wait_for(admin: httpx.Client, *names: str) -> set[str]:
    return set(until(admin, Counter(names)))


def until(admin: httpx.Client, wanted: Counter[str]) -> Counter[str]:
    end = time.monotonic() + _SECONDS
    while not wanted <= (found := journal(admin)):
        assert time.monotonic() < end, f"not in the journal: {wanted - found}; there are {found}"
        time.sleep(0.05)
    return found


# --- the ways --------------------------------------------------------------------------------------------------------


def agent_as_a_process(folder: Path) -> set[str]:
    """Enrolled, started, told to stop, killed, enrolled anew; beside it podman's containers."""
    with (
        podman(folder) as containers,
        live(folder / "state", configuration=configured()) as server,
        server.client() as admin,
    ):
        with agent_process(server, folder / "first", containers.environment) as agent:
            wait_for(admin, "Enforcer.Join", "Enforcer.Start", "Enforcer.Connect")
            containers.run("short")
            wait_for(admin, "Container.Start", "Container.Secured")
            containers("stop", "--time", "0", "short")
            wait_for(admin, "Container.Stop")
            containers("rm", "short")
            wait_for(admin, "Container.Remove")
            containers.run("long")
            until(admin, Counter({"Container.Secured": 2}))
            agent.terminate()
            assert agent.wait(20) == 0
            wait_for(admin, "Enforcer.Stop", "Container.Unsecured")
        with agent_process(server, folder / "first", containers.environment) as agent:
            agent.kill()
            wait_for(admin, "Enforcer.Disconnect")
        with agent_process(server, folder / "second", containers.environment):
            return wait_for(admin, "Enforcer.Kicked")


@contextlib.contextmanager
def agent_process(server: Live, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with server.client() as admin:
        token = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).raise_for_status().json()["token"]
        words = ["-m", "quell.agent", "--url", server.url, "--state", str(folder), "--node", "here", "--no-sensor"]
        process = subprocess.Popen([sys.executable, *words], env={**environment, "QUELL_JOIN_TOKEN": token})
        try:
            end = time.monotonic() + _SECONDS
            while not any(one["connected"] for one in admin.get("/v1/agents").json()["items"]):
                assert time.monotonic() < end, "no link"
                time.sleep(0.02)
            yield process
        finally:
            process.kill()
            process.wait()


def agent_in_this_process(folder: Path) -> set[str]:
    """With a sensor whose socket has next to no room, and an outbox of two events."""
    ballast = used_memory(0.015)
    with live(folder / "state", configuration=configured(memory_threshold=1)) as server, server.client() as admin:
        token = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).raise_for_status().json()["token"]
        address = Address.parse(server.url)
        runtime.prepare(folder / "agent")
        identity = enrol(folder / "agent", address, token=token, node="here", machine_id=proc.machine_id())

        async def work() -> set[str]:
            async with asyncio.timeout(2 * _SECONDS):
                return await watched()

        async def watched() -> set[str]:
            options = runtime.Options(address=address, state=folder / "agent", containers=False)
            agent = runtime.Agent(
                options,
                identity,
                ledger=Ledger(folder / "agent" / "ledger"),
                protected=Protected.load(),
                kernel=LinuxKernel(),
                watch_list=WatchList.load(),
            )
            agent._outbox._most_events = 2
            await agent.start()
            async with contextlib.AsyncExitStack() as started:
                # Not every one is seen, with so little room.
                while not any(b"Agent.Events.Lost" in event.raw for event in agent._outbox.waiting()):
                    await started.enter_async_context(suspicious(container=False))
                agent._outbox._most_events = 1000
                link = asyncio.create_task(agent.link.run())
                try:
                    await asyncio.to_thread(wait_for, admin, "Agent.Events.Lost", "Agent.Memory.Pressure")
                    agent._observing._backlog = Backlog(most=0)
                    agent._on_message(Observe(executions=True))
                    for container in (True, False):
                        name = "Container.Suspicious.Process" if container else "Host.Suspicious.Process"
                        while name not in await asyncio.to_thread(journal, admin):
                            await started.enter_async_context(suspicious(container=container))
                    for _ in range(200):  # nothing may read meanwhile
                        subprocess.run(["true"], check=True)  # noqa: ASYNC221
                    agent._on_message(Ordered(envelope=b"signed by nobody"))
                    return await asyncio.to_thread(wait_for, admin, *FROM_THE_AGENT)
                finally:
                    link.cancel()
                    await asyncio.gather(link, return_exceptions=True)
                    agent.stop()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "Connector", partial(Connector, buffer_bytes=2048))
            found = asyncio.run(work())
    del ballast
    return found


FROM_THE_AGENT = {
    "Agent.Command.Refused",
    "Agent.Events.Lost",
    "Agent.Memory.Pressure",
    "Container.Suspicious.Process",
    "Host.Suspicious.Process",
    "Sensor.Events.Lost",
    "Sensor.Observations.Lost",
}


@contextlib.asynccontextmanager
async def suspicious(*, container: bool) -> AsyncIterator[None]:
    """A netcat that waits, in a control group such as a container has if wanted."""
    places = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
    root = next(place for place in places if (place / "cgroup.procs").exists())
    group = root / secrets.token_hex(32)
    enter = f"echo $$ > {group}/cgroup.procs; " if container else ""
    if container:
        group.mkdir()
    process = await asyncio.create_subprocess_exec("sh", "-c", f"{enter}exec nc -l 127.0.0.1 0")
    await asyncio.sleep(0.2)  # for the sensor to read it, which has room for few
    try:
        yield
    finally:
        process.kill()
        await process.wait()
        if container:
            for _ in range(500):
                with contextlib.suppress(OSError):  # busy for a moment after its last process
                    group.rmdir()
                    break
                await asyncio.sleep(0.01)


def used_memory(share: float) -> bytearray:
    """As much as lacks for so large a share of the memory to be in use."""
    found = measure()
    assert found is not None
    return bytearray(b"x") * max(0, int(found.limit * share) - found.used)


def controller_and_documents(folder: Path) -> set[str]:
    """Started twice with short memory, imported, exported, backed up and restored."""
    ballast, state = used_memory(0.015), folder / "state"
    names: set[str] = set()
    with live(state, configuration=configured(memory_threshold=1)) as server, server.client() as admin:
        admin.post("/v1/documents", content=ISOLATE).raise_for_status()
        assert admin.post("/v1/documents", content="kind: Nothing").status_code == 422
        admin.get("/v1/documents/export").raise_for_status()
        backup = folder / "backup.tar.zst"
        backup.write_bytes(admin.get("/v1/backup").raise_for_status().content)
        staging = state / ".backup"
        staging.write_text("in the way")
        assert admin.get("/v1/backup").status_code >= 500
        staging.unlink()
        names |= wait_for(admin, "Controller.Memory.Pressure")
    with live(state, configuration=configured()) as server, server.client() as admin:
        names |= wait_for(admin, "Controller.Stop")
    restore.restore(backup, folder / "restored", force=False, now=time.time())
    with live(folder / "restored", configuration=configured()) as server, server.client() as admin:
        names |= wait_for(admin, "Configuration.Restore")
    del ballast
    return names


def people(folder: Path) -> set[str]:
    """On a clock that the test turns."""
    found: set[str] = set()

    async def work() -> None:
        async with account_place(folder) as place:
            accounts, clock = place.accounts, place.clock
            await place.user("alice")
            await place.user("bob")
            caller = place.caller(await place.log_in())
            assert caller is not None
            await accounts.logins.end(caller, (await accounts.logins.of(user="alice"))[0].id)
            await place.log_in()
            clock.now += 13 * 3600
            await accounts.tick()
            await place.fail(10, "bob")
            await place.written()
            clock.now += 3600
            await accounts.tick()
            await accounts.people.set_password(ADMIN, "bob", GOOD + " and more", None, expected=lambda _user: None)
            accounts.logins._rules = accounts.people._rules = _stricter(accounts.logins._rules)
            await place.log_in("bob", GOOD + " and more")
            alice = Actor(kind="user", name="alice", address="10.0.0.1")
            accounts.told.denied(alice, Role.VIEWER.value, "POST", "/v1/users")
            accounts.told.wrote(alice, "PUT", "/v1/pause")
            accounts.told.read(alice)
            clock.now += 3600
            await accounts.tick()
            found.update(name for name, _, _ in await place.events())

    asyncio.run(work())
    return found


def _stricter(rules: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(rules, password_min_length=100)


def requests(folder: Path) -> set[str]:
    with (
        live(folder / "state", configuration=configured()) as server,
        server.client() as admin,
        server.client("ingest") as sender,
    ):
        admin.put("/v1/pause", json={"paused": True}).raise_for_status()
        assert sender.get("/v1/users").status_code == 403
        return wait_for(admin, "RESTful.Write", "User.Resource.Access.Denied")


def isolation(folder: Path) -> set[str]:
    """An agent that says that it did as it was told."""
    with live(folder / "state", configuration=configured()) as server, server.client() as admin:
        admin.post("/v1/documents", content=ISOLATE).raise_for_status()
        agent = ScriptedAgent(admin)
        with agent.linked():
            event = {
                "time": time.time(),
                "name": "Container.Suspicious.Process",
                "subject": {"node": NODE, "container": {"id": "c1"}},
            }
            admin.post("/v1/events", json=event).raise_for_status()
            agent.report(Outcome(id=agent.ordered().id, status=OutcomeStatus.DONE, time=time.time()))
            [held] = admin.get("/v1/quarantines").json()["items"]
            admin.delete(f"/v1/quarantines/{held['key']}").raise_for_status()
            agent.report(Outcome(id=agent.ordered().id, status=OutcomeStatus.DONE, time=time.time()))
            wanted = {"workload": "c2" * 32, "node": NODE}
            admin.post("/v1/quarantines", json=wanted).raise_for_status()
            agent.report(Outcome(id=agent.ordered().id, status=OutcomeStatus.DONE, time=time.time()))
            agent.say(Isolated(closed=("c2" * 32,), tampered={"c2" * 32: 1}))
            wait_for(admin, "Quarantine.Tampered")
            agent.say(Isolated(ended={"c2" * 32: "gone"}))
            isolated = ("Container.Quarantined", "Container.Unquarantined", "Quarantine.Tampered")
            return wait_for(admin, *isolated, "Quarantine.Release", "Quarantine.Request", "Quarantine.Ended")


def approvals(folder: Path) -> set[str]:
    """A kill that waits and is approved, and a rule that has done another often enough."""
    once = Configuration(settings=Settings().with_values(FAST | {"safety.breaker": "1/1h"}))
    with live(folder / "state", configuration=once) as server, server.client() as admin:
        admin.post("/v1/documents", content=KILL).raise_for_status()
        with ScriptedAgent(admin).linked():
            for number, name in enumerate(("nc", "sh", "sh")):
                process = {"pid": 4711 + number, "start_ticks": 1, "name": name}
                subject = {"node": NODE, "image": "web:1", "container": {"id": "c" * 64}, "process": process}
                event = {"id": f"e{number}", "name": "Container.Suspicious.Process", "subject": subject}
                admin.post("/v1/events", json={**event, "time": time.time()}).raise_for_status()
            admin.post("/v1/approvals", json={"id": "e0/0", "verdict": "approve"}).raise_for_status()
            [breaker] = admin.get("/v1/breakers").json()["items"]
            admin.post("/v1/breakers/reset", json={"key": breaker["key"]}).raise_for_status()
            return wait_for(admin, "Approval.Granted", "Breaker.Reset")


def groups_and_crash_loops(folder: Path) -> set[str]:
    found: set[str] = set()

    async def prepare(place: Place) -> None:
        long_ago = {"nv.old": time.time() - 8 * 86_400}
        store = place.controller.store
        await asyncio.wrap_future(store.submit(lambda connection: stored_inventory.put_learned(connection, long_ago)))
        place.controller.inventory._left = dict(place.controller.inventory._membership.left)

    async def scenario(place: Place) -> None:
        place.controller.agent_connected(await place.enrol())
        sighted(place, ContainerSeen(id="c" * 64, name="web"), complete=True)
        rule = RULE.format("kept", "x.y").replace("event: event,", "event: event, group: nv.web,")
        await place.controller.apply(load_text(rule))
        for number in range(20):
            sighted(place, web(id=f"{number:064x}"))
        for name in ("Group.Auto.Promote", "Group.Auto.Remove", "Container.Events.Omitted"):
            await place.until(name)
        found.update(await place.names())

    run(folder, prepare)
    run(folder, scenario, {"own_events.containers": "4/1s"})
    return found


def observations(folder: Path) -> set[str]:
    """More at once than the controller has room for."""
    settings = configured().settings.with_values({"guardian.queue": 1000})
    with live(folder / "state", configuration=Configuration(settings=settings)) as server, server.client() as admin:
        agent = ScriptedAgent(admin)
        subject = Subject(node=NODE, service="x.service", process=Process(pid=2, start_ticks=1, name="x"))
        many = (Observation(seen=Seen.EXECUTED, time=time.time(), subject=subject),) * 3000
        with agent.linked():
            agent.say(Observations(observations=many))
            return wait_for(admin, "Guardian.Observations.Lost")


PROVOKED: dict[str, Callable[[Path], set[str]]] = {
    "Container.Start": agent_as_a_process,
    "Container.Stop": agent_as_a_process,
    "Container.Remove": agent_as_a_process,
    "Container.Secured": agent_as_a_process,
    "Container.Unsecured": agent_as_a_process,
    "Container.Quarantined": isolation,
    "Container.Unquarantined": isolation,
    "Quarantine.Release": isolation,
    "Quarantine.Request": isolation,
    "Quarantine.Ended": isolation,
    "Quarantine.Tampered": isolation,
    "Approval.Granted": approvals,
    "Breaker.Reset": approvals,
    "Container.Events.Omitted": groups_and_crash_loops,
    "Container.Suspicious.Process": agent_in_this_process,
    "Host.Suspicious.Process": agent_in_this_process,
    "Enforcer.Start": agent_as_a_process,
    "Enforcer.Join": agent_as_a_process,
    "Enforcer.Stop": agent_as_a_process,
    "Enforcer.Disconnect": agent_as_a_process,
    "Enforcer.Connect": agent_as_a_process,
    "Enforcer.Kicked": agent_as_a_process,
    "Controller.Start": controller_and_documents,
    "Controller.Stop": controller_and_documents,
    "Controller.Memory.Pressure": controller_and_documents,
    "Configuration.Import": controller_and_documents,
    "Configuration.Import.Failed": controller_and_documents,
    "Configuration.Export": controller_and_documents,
    "Configuration.Export.Failed": controller_and_documents,
    "Configuration.Restore": controller_and_documents,
    "User.Login": people,
    "User.Logout": people,
    "User.Timeout": people,
    "User.Login.Failed": people,
    "User.Login.Blocked": people,
    "User.Login.Unblocked": people,
    "User.Password.Reset": people,
    "User.Password.Alert": people,
    "User.Resource.Access.Denied": requests,
    "RESTful.Write": requests,
    "RESTful.Read": people,
    "Group.Auto.Remove": groups_and_crash_loops,
    "Group.Auto.Promote": groups_and_crash_loops,
    "Guardian.Observations.Lost": observations,
    "Agent.Memory.Pressure": agent_in_this_process,
    "Sensor.Events.Lost": agent_in_this_process,
    "Sensor.Observations.Lost": agent_in_this_process,
    "Agent.Events.Lost": agent_in_this_process,
    "Agent.Command.Refused": agent_in_this_process,
}

#: What each way has left in the journal, once it was gone.
_found: dict[Callable[[Path], set[str]], set[str]] = {}


def test_the_table_has_every_name_that_quell_produces() -> None:
    assert set(PROVOKED) == {entry.name for entry in NAMES.values() if "quell" in entry.producers}
    assert shutil.which("nc"), "needs netcat"


@pytest.mark.parametrize("name", PROVOKED)
def test_it_is_produced(name: str, tmp_path: Path) -> None:
    way = PROVOKED[name]
    if way not in _found:
        _found[way] = way(tmp_path)
    assert name in _found[way]
