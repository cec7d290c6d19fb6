"""Many agents in one process: each enrolled and linked with the agent's own code, none of them on a machine of its own.

python -m bench.crowd URL FOLDER FIRST COUNT, with as many join tokens on its standard input, a line each. It says
`enrolled`, waits for a line, links all, says `linked`, and from then on answers each command that verifies as done; once
every agent's outcome was acknowledged it says `done` and how many milliseconds each took between order and
acknowledgement, and begins anew when told `again`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from quell.agent.enrol import Address, Identity, enrol
from quell.agent.link import Link
from quell.channel.envelope import verify
from quell.channel.messages import FromController, Hello, Ordered, OutcomeAck, Reported
from quell.model.action import KillProcess, Quarantine, ReleaseQuarantine, word
from quell.model.decision import Outcome, OutcomeStatus

BOOT = "bench-boot"
_CAPABILITIES = tuple(word(each) for each in (KillProcess, Quarantine, ReleaseQuarantine))


def node(number: int) -> str:
    return f"bench-node-{number}"


class Crowd:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._links: list[Link] = []
        self._linked = 0
        self._all_linked = asyncio.Event()
        self._ordered: dict[str, float] = {}
        #: Seconds between order and acknowledgement, by command.
        self._acknowledged: dict[str, float] = {}
        self._all_acknowledged = asyncio.Event()

    def add(self, identity: Identity) -> None:
        hello = Hello(
            agent=identity.agent,
            version="bench",
            node=identity.node,
            machine_id=f"machine-of-{identity.node}",
            boot_id=BOOT,
            boot_time=time.time() - 3600,
            capabilities=_CAPABILITIES,
            host_netns=1,
        )

        def welcomed(_: object) -> None:
            self._linked += 1
            if self._linked == len(self._links):
                self._all_linked.set()

        def told(message: FromController) -> None:
            if isinstance(message, Ordered):
                command = verify(message.envelope, identity.controller_key, agent=identity.agent, now=time.time())
                self._ordered.setdefault(command.id, time.perf_counter())
                outcome = Outcome(
                    id=command.id,
                    status=OutcomeStatus.DONE,
                    time=time.time(),
                    facts={"pid": 4711, "name": "sleep", "seconds_to_gone": 0.001},
                )
                link.send(Reported(outcome=outcome))
            elif isinstance(message, OutcomeAck):
                for each in message.ids:
                    self._acknowledged[each] = time.perf_counter() - self._ordered[each]
                if len(self._acknowledged) == len(self._links):
                    self._all_acknowledged.set()

        link = Link(self._address, identity, lambda: hello, welcomed, told)
        self._links.append(link)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(link.run()) for link in self._links]
            await self._all_linked.wait()
            print("linked", flush=True)
            line = "again"
            while line.strip() == "again":
                await self._all_acknowledged.wait()
                print("done", json.dumps([round(1000 * each, 3) for each in self._acknowledged.values()]), flush=True)
                self._acknowledged.clear()
                self._all_acknowledged.clear()
                line = await asyncio.to_thread(sys.stdin.readline)
            for task in tasks:
                task.cancel()


def main(url: str, folder: Path, first: int, count: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    address = Address.parse(url)
    tokens = [sys.stdin.readline().strip() for _ in range(count)]

    def join(number: int) -> Identity:
        name = node(first + number)
        state = folder / name
        state.mkdir()
        return enrol(state, address, token=tokens[number], node=name, machine_id=f"machine-of-{name}")

    with ThreadPoolExecutor(4) as pool:
        identities = list(pool.map(join, range(count)))
    print("enrolled", flush=True)
    sys.stdin.readline()
    asyncio.run(_live(address, identities))


async def _live(address: Address, identities: list[Identity]) -> None:
    crowd = Crowd(address)
    for identity in identities:
        crowd.add(identity)
    await crowd.run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
