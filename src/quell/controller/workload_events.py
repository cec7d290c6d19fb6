"""The Container.* and Group.Auto.* events, out of what the inventory learns. docs/own-events.md.

On the event loop's thread only. What happened quell.inventory.lifecycle says; here it becomes an event, within bounds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import msgspec
import structlog

from quell.clock import Clock
from quell.controller.telling import Teller
from quell.errors import StoreError
from quell.inventory.lifecycle import REMOVE, SECURED, START, STOP, UNSECURED, Happened, Lifecycle, Quota
from quell.model.subject import Container, Pod, Subject
from quell.response.facts import Workload
from quell.storage import key_values
from quell.storage.store import Store

T = TypeVar("T")

#: Under which the store keeps when each source first spoke, and which learned groups are kept for a rule.
_SINCE, _KEPT = "inventory.since", "groups.kept"
#: Events of all machines in a window: some 0.1 % of what the journal takes.
OF_ALL = 3000
_VERBS = {
    START: "started",
    STOP: "stopped",
    REMOVE: "was removed",
    SECURED: "can be isolated now",
    UNSECURED: "cannot be isolated any more",
}

_log = structlog.get_logger(__name__)


class WorkloadEvents:
    def __init__(
        self, store: Store, teller: Teller, clock: Clock, quota: tuple[int, float], workloads: Mapping[str, Workload]
    ) -> None:
        """quota: events of one machine, and the seconds of the window. workloads: the inventory's. StoreError."""
        self._store = store
        self._teller = teller
        self._clock = clock
        self._since: dict[str, float] = _kept(store, _SINCE, dict[str, float]) or {}
        self._promoted: set[str] = set(_kept(store, _KEPT, list[str]) or ())
        self._lifecycle = Lifecycle(workloads, self._since)
        most, seconds = quota
        self._quota = Quota(most, seconds, of_all=OF_ALL, of_service=lambda most: max(1, most // 4))
        self._unsaved = False

    # ---- containers

    def begin(self, covering: Mapping[str, int]) -> None:
        """What a restart found is not new. covering: agents that can isolate, see Lifecycle.cover."""
        self._lifecycle.begin(covering)

    def heard(self, source: str) -> None:
        """A source speaks."""
        if source not in self._since:
            self._since[source] = self._clock()
            self._unsaved = True

    def forgotten(self, source: str) -> None:
        self._unsaved = self._since.pop(source, None) is not None or self._unsaved

    def changed(self, ids: Iterable[str], *, said: bool) -> None:
        """Workloads that are other than before. said: because a source said so (Lifecycle.changed)."""
        self._tell(self._lifecycle.changed(ids, self._clock(), said=said))

    def covered(self, agent: str, number: int, ids: Collection[str]) -> None:
        """An agent that can isolate is there, and speaks of these containers."""
        self._tell(self._lifecycle.cover(agent, number, ids, self._clock()))

    def uncovered(self, agent: str) -> None:
        self._tell(self._lifecycle.uncover(agent, self._clock()))

    def tick(self) -> None:
        """About once a second: tell what there was no room for, save what is new."""
        self._tell_omitted()
        if self._unsaved:
            self._unsaved = False
            since, kept = msgspec.json.encode(self._since), msgspec.json.encode(sorted(self._promoted))

            def write(connection: sqlite3.Connection) -> None:
                key_values.put(connection, _SINCE, since)
                key_values.put(connection, _KEPT, kept)

            self._store.write(write, self._saved)

    # ---- learned groups

    def groups_removed(self, removed: Mapping[str, float]) -> None:
        """Learned groups that were dropped, and since when each had no member."""
        for name, since in removed.items():
            self._teller.tell(
                "Group.Auto.Remove",
                Subject(group=name),
                f"the learned group {name} was dropped: it has had no member for long, and no rule refers to it",
                identifier=f"{name}/remove/{int(since)}",
                facts={"group": name},
            )

    def groups_referred(self, referred: Collection[str], revision: int) -> None:
        """Learned groups that there are and that a rule refers to. revision: of the documents."""
        if referred == self._promoted:
            return
        for name in sorted(set(referred) - self._promoted):
            self._teller.tell(
                "Group.Auto.Promote",
                Subject(group=name),
                f"the learned group {name} is kept from now on: a rule refers to it",
                identifier=f"{name}/promote/{revision}",
                facts={"group": name},
            )
        self._promoted = set(referred)
        self._unsaved = True

    def _tell(self, happened: Iterable[Happened]) -> None:
        now = self._clock()
        for one in happened:
            self._tell_omitted()
            if not self._quota.admits(one, now):
                continue
            known = one.workload
            self._teller.tell(
                one.name,
                subject_of(known),
                f"container {_title(known)} {_VERBS[one.name]}",
                identifier=one.identifier,
                time=one.time,
                facts=_facts(known),
            )

    def _tell_omitted(self) -> None:
        for node, names in self._quota.due(self._clock()).items():
            total = sum(names.values())
            listed = ", ".join(f"{count} {name}" for name, count in sorted(names.items()))
            self._teller.tell(
                "Container.Events.Omitted",
                Subject(node=node or None),
                f"{total} events of containers were not told one by one: {listed}",
                facts={name: str(count) for name, count in sorted(names.items())},
            )

    def _saved(self, error: StoreError | None) -> None:
        if error is not None:
            _log.error("what the events of containers need could not be saved yet", error=str(error))
            self._unsaved = True


def subject_of(known: Workload) -> Subject:
    """All that the native form has room for; a container's own labels the inventory fills in when it is decided."""
    return Subject(
        cluster=known.cluster,
        node=known.node,
        namespace=known.namespace,
        namespace_labels=known.namespace_labels,
        pod=None
        if known.pod_uid is None and known.pod_name is None
        else Pod(name=known.pod_name, uid=known.pod_uid, labels=known.labels),
        container=Container(id=known.id, name=known.name, image_id=known.image_id, host_network=known.host_network),
        image=known.image,
        service=known.service,
    )


def _title(known: Workload) -> str:
    where = f" on {known.node}" if known.node else ""
    image = f" ({known.image})" if known.image else ""
    return f"{known.name or known.id[:12]}{image}{where}"


def _facts(known: Workload) -> dict[str, str]:
    told = {"runtime": known.runtime, "started": None if known.started is None else f"{known.started:.3f}"}
    return {key: value for key, value in told.items() if value}


def _kept(store: Store, key: str, form: type[T]) -> T | None:
    raw = store.read(lambda connection: key_values.get(connection, key))
    return None if raw is None else msgspec.json.decode(raw, type=form)
