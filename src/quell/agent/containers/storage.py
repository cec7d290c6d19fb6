"""Containers of podman and CRI-O, from the store of files that both keep (containers/storage). It needs no daemon.

<graph root>/<driver>-containers/containers.json (and volatile-containers.json) lists every container with its name,
its image and its pod; <run root>/<driver>-containers/<id>/userdata/pidfile has the first process of one that was
started. Both change by renaming, so a reader finds the whole of the old or of the new. Only the runtimes write what
is read here; nothing an image brings along decides which container is whose. Labels are not in the store: podman is
asked for them (quell.agent.containers.podman); CRI-O's own are those the kubelet gave, and its pods' are told by
Kubernetes.
"""

from __future__ import annotations

import os
import tomllib
from functools import partial

import msgspec
import structlog
from msgspec import Struct, field

from quell.agent.containers import bounds, kubernetes
from quell.agent.containers.folders import Folders
from quell.agent.containers.podman import Details, Podman
from quell.agent.containers.runtime import Table
from quell.model.sighting import ContainerSeen

_LISTS = ("containers.json", "volatile-containers.json")
_PIDFILE = "pidfile"
_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")
_CONF = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")
_LONGEST_PID = 32

_log = structlog.get_logger(__name__)


class Roots(Struct, frozen=True, kw_only=True):
    """The store's folders: what lasts, and what a reboot clears."""

    graph: str = "/var/lib/containers/storage"
    run: str = "/run/containers/storage"

    @classmethod
    def configured(cls) -> Roots:
        """As storage.conf(5) has them: CONTAINERS_STORAGE_CONF names another file, as it does for podman."""
        own = os.environ.get("CONTAINERS_STORAGE_CONF")
        for path in (own,) if own else _CONF:
            try:
                storage = tomllib.loads(bounds.content(path).decode()).get("storage", {})
                graph, run = storage.get("graphroot"), storage.get("runroot")
            except FileNotFoundError:
                continue
            except (OSError, ValueError, AttributeError) as error:
                _log.warning("the settings of containers' storage cannot be read", file=path, error=str(error))
                continue
            roots = cls()
            return cls(
                graph=graph if isinstance(graph, str) and graph else roots.graph,
                run=run if isinstance(run, str) and run else roots.run,
            )
        return cls()


class _Entry(Struct, frozen=True):
    """One of containers.json."""

    id: str
    names: list[str] | None = None
    image: str | None = None
    #: JSON of the runtime that made it; buildah's working containers have none.
    metadata: str | None = None


class _Metadata(Struct, frozen=True):
    """libpod's and CRI-O's. Only CRI-O has a pod-id."""

    image_name: str | None = field(name="image-name", default=None)
    image_id: str | None = field(name="image-id", default=None)
    name: str | None = None
    pod_id: str | None = field(name="pod-id", default=None)


class _Record(Struct, frozen=True, kw_only=True):
    seen: ContainerSeen
    userdata: str


_entries: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_entry: msgspec.json.Decoder[_Entry] = msgspec.json.Decoder(_Entry)
_metadata: msgspec.json.Decoder[_Metadata] = msgspec.json.Decoder(_Metadata)


class Storage:
    """podman and CRI-O, for they share a store."""

    def __init__(self, folders: Folders, roots: Roots, podman: str | None = None) -> None:
        """podman: the program, None for the one in PATH."""
        self._folders = folders
        self._roots = roots
        self._podman = Podman(self._heard, self._settle, podman)
        self._records: dict[str, _Record] = {}
        #: By file of the lists: when it was last read, and what it had.
        self._read: dict[str, tuple[tuple[int, int, int], dict[str, _Record]]] = {}
        self._details: dict[str, Details] = {}
        self._table: Table | None = None

    def limits(self) -> tuple[str, ...]:
        limits = []
        for root in (self._roots.graph, self._roots.run):
            try:
                os.listdir(root)  # noqa: PTH208 - only whether it may be done
            except PermissionError:
                return ("podman's and CRI-O's are not seen: their store may not be read (it needs root)",)
            except OSError:
                continue
        if self._podman.program is None and os.path.isdir(self._roots.graph):  # noqa: PTH112
            limits.append("labels of podman's are not seen: there is no podman program to ask")
        return tuple(limits)

    def start(self, table: Table) -> None:
        self._table = table
        for driver in _DRIVERS:
            for root in dict.fromkeys((self._roots.graph, self._roots.run)):
                self._folders.watch(f"{root}/{driver}-containers", self._changed)
        self._look()
        if not self._podman.asked:
            self._settle()

    def stop(self) -> None:
        self._podman.stop()

    def _settle(self) -> None:
        """The first complete list has labels, if podman answers in time."""
        if self._table is not None:
            self._table.settled(self)

    def _changed(self, name: str) -> None:
        if name in _LISTS or not name:
            self._look()

    def _look(self) -> None:
        """Compare the lists with what was known."""
        found: dict[str, _Record] = {}
        for driver in _DRIVERS:
            for root in dict.fromkeys((self._roots.graph, self._roots.run)):
                for name in _LISTS:
                    found |= self._list(f"{root}/{driver}-containers/{name}", driver)
        for identity in self._records.keys() - found.keys():
            self._folders.unwatch(self._records.pop(identity).userdata)
            self._details.pop(identity, None)
            self._podman.forget(identity)
            if self._table is not None:
                self._table.drop(identity)
        for identity, record in found.items():
            before = self._records.get(identity)
            if before == record:
                continue
            self._records[identity] = record
            if before is None or before.userdata != record.userdata:
                if before is not None:
                    self._folders.unwatch(before.userdata)
                self._folders.watch(record.userdata, partial(self._started, identity))
            self._tell(identity)

    def _list(self, path: str, driver: str) -> dict[str, _Record]:
        """What a list has; what it had before if it cannot be understood."""
        _, before = self._read.get(path, ((0, 0, 0), {}))
        try:
            status = os.stat(path)  # noqa: PTH116 - looked at on every change
        except FileNotFoundError:
            self._read.pop(path, None)
            return {}
        except OSError:
            return before
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if path in self._read and self._read[path][0] == stamp:
            return before
        try:
            entries = _entries.decode(bounds.content(path))
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            _log.warning("a list of containers cannot be read", file=path, error=str(error))
            entries, records = [], before
        else:
            records = {}
        for raw in entries:
            record = _record(raw, f"{self._roots.run}/{driver}-containers")
            if record is not None:
                records[record.seen.id] = record
        self._read[path] = (stamp, records)
        return records

    def _started(self, identity: str, name: str) -> None:
        if name in {"", _PIDFILE} and identity in self._records:
            self._tell(identity)

    def _tell(self, identity: str) -> None:
        if self._table is None:
            return
        record = self._records[identity]
        pid, written = _pid(f"{record.userdata}/{_PIDFILE}")
        seen = record.seen
        if seen.runtime == "podman":
            details = self._details.get(identity)
            if details is None:
                self._podman.ask(identity)
            else:
                seen = msgspec.structs.replace(
                    seen,
                    labels=bounds.labels(details.labels),
                    sandbox=details.sandbox,
                    host_network=details.host_network,
                    podman_pod=details.pod,
                )
        self._table.put(msgspec.structs.replace(seen, pid=pid, running=pid is not None), written=written)

    def _heard(self, identity: str, details: Details) -> None:
        if identity in self._records:
            self._details[identity] = details
            self._tell(identity)


def _record(raw: msgspec.Raw, run: str) -> _Record | None:
    """None for what neither podman nor CRI-O made, and for what is malformed."""
    try:
        entry = _entry.decode(raw)
        metadata = _metadata.decode(entry.metadata or "null")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    identity = bounds.identity(entry.id)
    if identity is None:
        return None
    name = next(iter(entry.names or ()), None) or metadata.name
    seen = ContainerSeen(
        id=identity,
        name=bounds.text(name),
        image=bounds.text(metadata.image_name),
        image_id=bounds.image_id(metadata.image_id or entry.image),
        runtime="podman",
    )
    if metadata.pod_id:
        pod = kubernetes.named(metadata.name or "")
        seen = msgspec.structs.replace(
            seen,
            runtime="cri-o",
            sandbox=bounds.identity(metadata.pod_id) if metadata.pod_id != identity else None,
            name=bounds.text(pod.container if pod else name),
            namespace=bounds.text(pod.namespace if pod else None),
            pod_name=bounds.text(pod.pod if pod else None),
            pod_uid=bounds.text(pod.uid if pod else None),
        )
    return _Record(seen=seen, userdata=f"{run}/{identity}/userdata")


def _pid(path: str) -> tuple[int | None, float | None]:
    """The first process by a file of the runtime, and when it was written; Nones if there is none."""
    try:
        written = os.stat(path).st_mtime  # noqa: PTH116 - looked at on every start
        return int(bounds.content(path, _LONGEST_PID)), written
    except (OSError, ValueError):
        return None, None
