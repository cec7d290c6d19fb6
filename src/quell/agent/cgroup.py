"""Where a process lives, read from the text of /proc/PID/cgroup: container, pod and control groups.

Understands version 1, version 2 and hybrid hierarchies, the cgroupfs and systemd drivers, and the names that Docker,
containerd, CRI-O and Podman give. A runtime's own monitor (conmon) lives beside its container, not in it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

# A container's component: the bare id, docker-ID.scope, cri-containerd-ID.scope, libpod-ID, crio-ID.scope ...
_CONTAINER = re.compile(r"(?:([a-z][a-z0-9_.-]*)-)?([0-9a-f]{64})(?:\.scope)?")
# A pod's component: podUID, or kubepods-burstable-podUID.slice, where systemd's driver turned - into _.
_POD = re.compile(r"(?:kubepods(?:-[a-z]+)?-)?pod([0-9a-f]{8}[_-]?(?:[0-9a-f]{4}[_-]?){3}[0-9a-f]{12})(?:\.slice)?")


class Placement(Struct, frozen=True, kw_only=True):
    """containers: ids from the outermost to the innermost. paths: the distinct control groups, as the kernel names them."""

    containers: tuple[str, ...] = ()
    pod_uid: str | None = None
    paths: tuple[str, ...] = ()

    @property
    def container_id(self) -> str | None:
        """The innermost container; None outside of any."""
        return self.containers[-1] if self.containers else None


# Most processes share few control groups, and the same text gives the same answer.
@lru_cache(maxsize=1024)
def placement(text: bytes) -> Placement:
    """Read the text of /proc/PID/cgroup."""
    paths = []
    for line in text.decode(errors="backslashreplace").splitlines():
        path = line.split(":", 2)[-1]
        if path not in paths:
            paths.append(path)
    containers: tuple[str, ...] = ()
    pod_uid = None
    for path in paths:
        # containerd without systemd's driver writes slice:cri-containerd:ID as one component.
        parts = path.replace(":", "/").split("/")
        found = tuple(
            match[2] for part in parts if (match := _CONTAINER.fullmatch(part)) and "conmon" not in (match[1] or "")
        )
        if len(found) > len(containers):
            containers = found
        for part in parts:
            if match := _POD.fullmatch(part):
                pod_uid = match[1].replace("_", "-")
    return Placement(containers=containers, pod_uid=pod_uid, paths=tuple(paths))
