"""Containers of containerd, from the bundles that it keeps for its tasks: <state>/io.containerd.runtime.v2.task/
<namespace>/<id>, with the OCI specification (config.json) and, from runc's shim, the first process (init.pid).

A bundle is there from a task's creation to its deletion, which Kubernetes asks for as soon as it ends. What the
annotations say of pods is believed in Kubernetes' own namespace only, where the CRI plug-in writes them. containerd's
labels are in its database, which only its gRPC API reads: they are not told. Docker's containers (namespace moby) are
left to Docker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

import msgspec
from msgspec import Struct

from quell.agent.containers import bounds
from quell.agent.containers.folders import Folders
from quell.agent.containers.runtime import Table
from quell.model.sighting import ContainerSeen

#: State folders of containerd by itself, in k3s and RKE2, in MicroK8s and in k0s.
STATES = ("/run/containerd", "/run/k3s/containerd", "/var/snap/microk8s/common/run/containerd", "/run/k0s/containerd")
_TASKS = "io.containerd.runtime.v2.task"
_KUBERNETES = "k8s.io"
_DOCKER = "moby"
_CONFIG, _PID = "config.json", "init.pid"
_CRI = "io.kubernetes.cri."
_LONGEST_SPEC = 1 << 20
_LONGEST_PID = 32


class _Namespace(Struct, frozen=True):
    type: str


class _Linux(Struct, frozen=True):
    namespaces: list[_Namespace] | None = None


class _Spec(Struct, frozen=True):
    """The parts of an OCI runtime specification's config.json that matter here."""

    annotations: dict[str, str] | None = None
    linux: _Linux | None = None


_spec: msgspec.json.Decoder[_Spec] = msgspec.json.Decoder(_Spec)


class Containerd:
    def __init__(self, folders: Folders, states: tuple[str, ...] = STATES) -> None:
        self._folders = folders
        self._roots = tuple(f"{state}/{_TASKS}" for state in states)
        self._known: set[tuple[str, str]] = set()
        self._namespaces: set[str] = set()
        self._table: Table | None = None

    def limits(self) -> tuple[str, ...]:
        for root in self._roots:
            try:
                os.listdir(root)  # noqa: PTH208 - only whether it may be done
            except PermissionError:
                return ("containerd's are not seen: its state may not be read (it needs root)",)
            except OSError:
                continue
        return ()

    def start(self, table: Table) -> None:
        self._table = table
        for root in self._roots:
            self._folders.watch(root, partial(self._namespaces_changed, root))
            self._namespaces_changed(root, "")
        table.settled(self)

    def stop(self) -> None:
        self._table = None

    def _namespaces_changed(self, root: str, _name: str) -> None:
        there = {f"{root}/{name}" for name in _names(root) if name != _DOCKER}
        before = {each for each in self._namespaces if each.startswith(root + "/")}
        for folder in before - there:
            self._namespaces.discard(folder)
            self._folders.unwatch(folder)
            self._tasks_changed(folder, "")
        for folder in there - before:
            self._namespaces.add(folder)
            self._folders.watch(folder, partial(self._tasks_changed, folder))
            self._tasks_changed(folder, "")

    def _tasks_changed(self, folder: str, name: str) -> None:
        there = {each for each in _names(folder) if bounds.identity(each)}
        known = {identity for place, identity in self._known if place == folder}
        for identity in known - there:
            self._known.discard((folder, identity))
            self._folders.unwatch(f"{folder}/{identity}")
            if self._table is not None:
                self._table.drop(identity)
        # A bundle made anew under the same id is looked at anew.
        for identity in (there - known) | (there & {name}):
            self._known.add((folder, identity))
            self._folders.watch(f"{folder}/{identity}", partial(self._bundle_changed, folder, identity))
            self._bundle_changed(folder, identity, "")

    def _bundle_changed(self, folder: str, identity: str, name: str) -> None:
        if self._table is None or name not in {"", _CONFIG, _PID} or (folder, identity) not in self._known:
            return
        bundle = f"{folder}/{identity}"
        try:
            spec = _spec.decode(bounds.content(f"{bundle}/{_CONFIG}", _LONGEST_SPEC))
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return  # not written yet, or no bundle
        try:
            written: float | None = os.stat(f"{bundle}/{_PID}").st_mtime  # noqa: PTH116 - looked at on every start
            pid: int | None = int(bounds.content(f"{bundle}/{_PID}", _LONGEST_PID))
        except (OSError, ValueError):
            pid = written = None
        if pid is not None:
            # Later changes are of programs run inside, such as probes.
            self._folders.unwatch(bundle)
        self._table.put(read(identity, folder.rsplit("/", 1)[1], spec, pid=pid), written=written)


def read(identity: str, namespace: str, spec: _Spec, *, pid: int | None) -> ContainerSeen:
    """Without a pid it counts as running: shims of virtual machines have no process of the container on this machine."""
    annotations: Mapping[str, str] = spec.annotations or {}
    own = spec.linux.namespaces if spec.linux else None
    seen = ContainerSeen(
        id=identity,
        runtime="containerd",
        pid=pid,
        host_network=None if own is None else all(each.type != "network" for each in own),
    )
    if namespace != _KUBERNETES:
        return msgspec.structs.replace(seen, name=bounds.text(annotations.get("nerdctl/name")))
    sandbox = bounds.identity(annotations.get(f"{_CRI}sandbox-id", ""))
    return msgspec.structs.replace(
        seen,
        name=bounds.text(annotations.get(f"{_CRI}container-name")),
        image=bounds.text(annotations.get(f"{_CRI}image-name")),
        namespace=bounds.text(annotations.get(f"{_CRI}sandbox-namespace")),
        pod_name=bounds.text(annotations.get(f"{_CRI}sandbox-name")),
        pod_uid=bounds.text(annotations.get(f"{_CRI}sandbox-uid")),
        sandbox=None if sandbox == identity else sandbox,
    )


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - a Path for each entry costs more than the read
    except OSError:
        return []
