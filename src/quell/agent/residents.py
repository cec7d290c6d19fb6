"""The processes of workloads on this machine, as they were told of last."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from quell.agent.holders import Holder
from quell.agent.proc import Facts
from quell.agent.subjects import Inhabitant

_MOST = 4096
_LONG = 200


class Resident(Struct, frozen=True):
    #: None: its network namespace may not be seen.
    holder: Holder | None
    #: Without a long command line or working directory, which nobody looks at again.
    inhabitant: Inhabitant

    def is_still(self, facts: Facts) -> bool:
        """Whether it is the same process, and nothing of it has changed that a policy goes by."""
        told, now = self.inhabitant.subject, facts.process
        process = told.process
        return (
            process is not None
            and (process.start_ticks, process.name, process.exe, process.uid)
            == (now.start_ticks, now.name, now.exe, now.uid)
            and (None if told.container is None else told.container.id) == facts.container_id
            and told.service_cgroup == facts.placement.service_cgroup
        )


class Residents:
    """By pid, and never more than a bound: those beyond it are told of when they execute something and at each look."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._residents: dict[int, Resident] = {}

    def put(self, facts: Facts, inhabitant: Inhabitant) -> None:
        process = facts.process
        if process.pid is None or process.start_ticks is None or inhabitant.subject.process is None:
            return
        if process.pid not in self._residents and len(self._residents) >= self._most:
            return
        holder = None
        if process.netns is not None:
            holder = Holder(process.pid, process.start_ticks, facts.placement, process.netns)
        if len(process.cmdline or "") + len(process.cwd or "") > _LONG:
            short = replace(inhabitant.subject.process, cmdline=None, cwd=None)
            inhabitant = Inhabitant(replace(inhabitant.subject, process=short), inhabitant.inside)
        self._residents[process.pid] = Resident(holder, inhabitant)

    def get(self, pid: int) -> Resident | None:
        return self._residents.get(pid)

    def drop(self, pid: int) -> None:
        self._residents.pop(pid, None)

    def keep(self, pids: Iterable[int]) -> None:
        """Only those that there still are."""
        for pid in self._residents.keys() - set(pids):
            del self._residents[pid]

    def clear(self) -> None:
        self._residents.clear()

    def holders(self) -> list[Holder]:
        return [each.holder for each in self._residents.values() if each.holder is not None]

    def __len__(self) -> int:
        return len(self._residents)
