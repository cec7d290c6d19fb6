"""Where a process lives, read from the text of /proc/PID/cgroup: container, pod, service and control groups.

Understands version 1, version 2 and hybrid hierarchies, the cgroupfs and systemd drivers, and the names that Docker,
containerd, CRI-O and Podman give. A runtime's own monitor (conmon) lives beside its container, not in it.

A service is the innermost control group that is named like a unit, x.service, and whatever a process makes below it:
one that may make groups there does not leave its service by that. systemd's own hierarchy is asked first.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

_ID_DIGITS = 64
#: The control group that podman makes its own in, without systemd; the name of its monitors' in that of a pod.
_PODMAN, _MONITOR = "libpod_parent", "conmon"
# A container's component: the bare id, docker-ID.scope, cri-containerd-ID.scope, libpod-ID, crio-ID.scope ...
_CONTAINER = re.compile(r"(?:([a-z][a-z0-9_.-]*)-)?([0-9a-f]{64})(?:\.scope)?")
# podman's own pods: the bare id above its containers, or with systemd's driver machine-libpod_pod_ID.slice.
_PODMAN_POD = re.compile(r"(?:[a-z]+-)?libpod_pod_([0-9a-f]{64})\.slice")
# A pod's component: podUID, or kubepods-burstable-podUID.slice, where systemd's driver turned - into _; below another
# root (--cgroup-root=/kubelet, as kind has it) that one's name comes first: kubelet-kubepods-burstable-podUID.slice.
_POD = re.compile(
    r"(?:(?:[a-z0-9_.]+-)*?kubepods(?:-[a-z]+)?-)?pod([0-9a-f]{8}[_-]?(?:[0-9a-f]{4}[_-]?){3}[0-9a-f]{12})(?:\.slice)?"
)

_UNIT = re.compile(r".+\.service")
#: What the kernel writes after the path of a control group that is gone while a zombie of it is not (cgroup-v2.rst).
_DELETED = " (deleted)"
#: What the names of the control groups that the agent makes itself begin with.
OWN = "quell-kill-"


class Placement(Struct, frozen=True, kw_only=True):
    """containers: ids from the outermost to the innermost. paths: the distinct control groups, as the kernel names them."""

    containers: tuple[str, ...] = ()
    pod_uid: str | None = None
    #: The control group of the machine's own service, such as /system.slice/nginx.service; None in a container.
    service_path: str | None = None
    #: From the outermost to the innermost: a pod (a UID of Kubernetes, or podman's id of one of its own), and the container
    #: of it that the process is in, if it is in one. There may be other containers around the pod and inside its container.
    pods: tuple[tuple[str, str | None], ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def container_id(self) -> str | None:
        """The innermost container; None outside of any."""
        return self.containers[-1] if self.containers else None

    @property
    def service(self) -> str | None:
        """The service's name, such as nginx.service."""
        return None if self.service_path is None else self.service_path.rpartition("/")[2]

    @property
    def service_cgroup(self) -> str | None:
        """As serviceSelector's cgroup has it (SEMANTICS section 5): systemd:/system.slice/nginx.service."""
        return None if self.service_path is None else f"systemd:{self.service_path}"

    @property
    def workload(self) -> str | None:
        """What names the container or the service on this machine; None: the process is in neither."""
        return self.containers[-1] if self.containers else self.service_path

    def is_in_pod(self, pod: str) -> bool:
        """By the UID of a pod of Kubernetes, or podman's id of one of its own."""
        return any(pod == each for each, _ in self.pods)

    def container_in(self, pod: str) -> str | None:
        return next((container for each, container in self.pods if each == pod), None)


# Most processes share few control groups, and the same text gives the same answer.
@lru_cache(maxsize=1024)
def placement(text: bytes) -> Placement:
    """Read the text of /proc/PID/cgroup."""
    paths = []
    for line in text.decode(errors="backslashreplace").splitlines():
        path = line.split(":", 2)[-1].removesuffix(_DELETED)
        if path not in paths:
            paths.append(path)
    containers: tuple[str, ...] = ()
    pods: tuple[tuple[str, str | None], ...] = ()
    pod_uid = None
    for path in paths:
        # containerd without systemd's driver writes slice:cri-containerd:ID as one component.
        parts = path.replace(":", "/").split("/")
        # podman's monitors of a pod's containers are in the pod's control group, and in no container.
        inner = parts[:-2] if parts[-1] == _MONITOR and parts[-3:-2] == [_PODMAN] else parts
        found = tuple(identity for part in inner if (identity := _container(part)))
        if len(found) > len(containers):
            containers = found
        of_pods = []
        for place, part in enumerate(parts):
            beneath = parts[place + 1 :]
            if match := _POD.fullmatch(part):
                pod = pod_uid = match[1].replace("_", "-")
            elif of_podman := _podman_pod(part, beneath):
                pod = of_podman
            else:
                continue
            of_pods.append((pod, next((identity for each in beneath if (identity := _container(each))), None)))
        if len(of_pods) > len(pods):
            pods = tuple(of_pods)
    service_path = None if containers else _service(text)
    return Placement(containers=containers, pod_uid=pod_uid, service_path=service_path, pods=pods, paths=tuple(paths))


def _container(part: str) -> str | None:
    match = _CONTAINER.fullmatch(part)
    return None if match is None or _MONITOR in (match[1] or "") else match[2]


def _podman_pod(part: str, beneath: list[str]) -> str | None:
    if match := _PODMAN_POD.fullmatch(part):
        return match[1]
    is_above = bool(beneath) and beneath[0].startswith("libpod-") and len(part) == _ID_DIGITS
    return part if is_above and _container(part) else None


def _service(text: bytes) -> str | None:
    found: dict[bool, str] = {}
    for line in text.decode(errors="backslashreplace").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = path.removesuffix(_DELETED).split("/")
        # Seen from an inner control group namespace a path begins with /.. for each level above that.
        while len(parts) > 1 and parts[1] == "..":
            del parts[1]
        last = max((place for place, part in enumerate(parts) if _UNIT.fullmatch(part)), default=None)
        if last is not None:
            found.setdefault(number == "0" or controllers == "name=systemd", "/".join(parts[: last + 1]))
    return found.get(True) or found.get(False)
