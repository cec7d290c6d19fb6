"""Every form in which a runtime names a container's control group, on every hierarchy. Facts from the documentation of
the kernel (cgroup-v1, cgroup-v2), the kubelet's container manager, and of the runtimes.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from quell.agent.cgroup import placement

ID, OUTER, PODMAN_POD = "0123456789abcdef" * 4, "fedcba9876543210" * 4, "ab" * 32
UID = "8d6f7e6a-1b2c-4d3e-9f00-aabbccddeeff"
FLAT = UID.replace("-", "_")
#: Of a pod that the kubelet has from a file: no UUID, a hash.
STATIC = "c0ffee00" * 4


class Form(NamedTuple):
    """What a path says: the innermost container, the pod of Kubernetes, podman's own pod, or another container outside."""

    path: str
    container: str | None = ID
    pod: str | None = None
    podman_pod: str | None = None
    outer: str | None = None


FORMS = {
    # Docker
    "docker cgroupfs": Form(f"/docker/{ID}"),
    "docker cgroupfs, another parent": Form(f"/batch/jobs/{ID}"),
    "docker systemd": Form(f"/system.slice/docker-{ID}.scope"),
    "docker systemd, another slice": Form(f"/batch.slice/batch-jobs.slice/docker-{ID}.scope"),
    "docker rootless": Form(f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope"),
    "docker, systemd inside": Form(f"/system.slice/docker-{ID}.scope/system.slice/nginx.service"),
    "docker in docker cgroupfs": Form(f"/docker/{OUTER}/docker/{ID}", outer=OUTER),
    "docker in docker systemd": Form(f"/system.slice/docker-{OUTER}.scope/docker/{ID}", outer=OUTER),
    "cri-dockerd cgroupfs": Form(f"/kubepods/burstable/pod{UID}/{ID}", pod=UID),
    "cri-dockerd systemd": Form(
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{FLAT}.slice/docker-{ID}.scope", pod=UID
    ),
    # containerd
    "containerd cgroupfs, burstable": Form(f"/kubepods/burstable/pod{UID}/{ID}", pod=UID),
    "containerd cgroupfs, besteffort": Form(f"/kubepods/besteffort/pod{UID}/{ID}", pod=UID),
    "containerd cgroupfs, guaranteed": Form(f"/kubepods/pod{UID}/{ID}", pod=UID),
    "containerd systemd, burstable": Form(
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        pod=UID,
    ),
    "containerd systemd, guaranteed": Form(
        f"/kubepods.slice/kubepods-pod{FLAT}.slice/cri-containerd-{ID}.scope", pod=UID
    ),
    "containerd systemd, without its driver": Form(
        f"/system.slice/containerd.service/kubepods-besteffort-pod{FLAT}.slice:cri-containerd:{ID}", pod=UID
    ),
    "containerd, a static pod": Form(
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope",
        pod=STATIC,
    ),
    "containerd, another root, cgroupfs": Form(f"/kubelet/kubepods/besteffort/pod{UID}/{ID}", pod=UID),
    "containerd, another root, systemd": Form(
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
        f"kubelet-kubepods-besteffort-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        pod=UID,
    ),
    "kind": Form(
        f"/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{FLAT}.slice/"
        f"cri-containerd-{ID}.scope",
        pod=UID,
        outer=OUTER,
    ),
    "kind with podman": Form(
        f"/machine.slice/libpod-{OUTER}.scope/container/kubelet.slice/kubelet-kubepods.slice/"
        f"kubelet-kubepods-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        pod=UID,
        outer=OUTER,
    ),
    "nerdctl cgroupfs": Form(f"/default/{ID}"),
    "nerdctl systemd": Form(f"/system.slice/nerdctl-{ID}.scope"),
    "ctr, namespace of Kubernetes": Form(f"/k8s.io/{ID}"),
    # CRI-O
    "cri-o cgroupfs": Form(f"/kubepods/burstable/pod{UID}/crio-{ID}", pod=UID),
    "cri-o cgroupfs, its monitor": Form(f"/kubepods/burstable/pod{UID}/crio-conmon-{ID}", container=None, pod=UID),
    "cri-o systemd": Form(
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{FLAT}.slice/crio-{ID}.scope", pod=UID
    ),
    "cri-o systemd, with crun": Form(
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{FLAT}.slice/crio-{ID}.scope/container",
        pod=UID,
    ),
    "cri-o systemd, its monitor": Form(
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{FLAT}.slice/crio-conmon-{ID}.scope",
        container=None,
        pod=UID,
    ),
    "cri-o, its monitors elsewhere": Form(f"/system.slice/crio-conmon-{ID}.scope", container=None),
    # Podman
    "podman cgroupfs": Form(f"/libpod_parent/libpod-{ID}"),
    "podman cgroupfs, its monitor": Form("/libpod_parent/conmon", container=None),
    "podman cgroupfs, in a pod": Form(
        f"/libpod_parent/{PODMAN_POD}/libpod-{ID}", podman_pod=PODMAN_POD, outer=PODMAN_POD
    ),
    "podman systemd": Form(f"/machine.slice/libpod-{ID}.scope"),
    "podman systemd, with crun": Form(f"/machine.slice/libpod-{ID}.scope/container"),
    "podman systemd, its monitor": Form(f"/machine.slice/libpod-conmon-{ID}.scope", container=None),
    "podman systemd, in a pod": Form(
        f"/machine.slice/machine-libpod_pod_{PODMAN_POD}.slice/libpod-{ID}.scope/container", podman_pod=PODMAN_POD
    ),
    "podman rootless": Form(f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"),
    "podman rootless, in a pod": Form(
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{PODMAN_POD}.slice/libpod-{ID}.scope",
        podman_pod=PODMAN_POD,
    ),
    "podman in a unit, cgroups split": Form(f"/system.slice/web.service/libpod-payload-{ID}"),
    "podman in a unit, its monitor": Form("/system.slice/web.service/runtime", container=None),
    # Neither
    "a session": Form("/user.slice/user-0.slice/session-1.scope", container=None),
    "a service": Form("/system.slice/nginx.service", container=None),
    "a hash that is too short": Form(f"/docker/{ID[:40]}", container=None),
    "a name that only looks like a pod": Form(f"/kubepods/pod{UID[:-1]}/web", container=None),
    "the root": Form("/", container=None),
}
CONTROLLERS = ("cpuset", "cpu,cpuacct", "memory", "devices", "freezer", "net_cls,net_prio", "blkio", "hugetlb", "pids")


def version_1(path: str) -> str:
    lines = [f"{number}:{names}:{path}" for number, names in enumerate(CONTROLLERS, 2)]
    return "\n".join((*lines, f"1:name=systemd:{path}")) + "\n"


HIERARCHIES = {
    "v1": version_1,
    "v2": lambda path: f"0::{path}\n",
    "hybrid": lambda path: version_1(path) + f"0::{path}\n",
    # The second version is mounted, and the runtime does not use it.
    "hybrid, the second unused": lambda path: version_1(path) + "0::/\n",
    "hybrid, the second left to the runtime": lambda path: version_1(path) + "0::/system.slice/containerd.service\n",
    # A driver that makes groups for some controllers only.
    "v1, some controllers": lambda path: f"9:rdma:/\n4:pids:{path}\n3:memory:{path}\n1:name=systemd:/\n",
    # What the kernel writes for a zombie whose control group is gone.
    "v2, gone": lambda path: f"0::{path} (deleted)\n",
    # As an agent in a control group namespace two levels down sees others.
    "v2, from inside": lambda path: f"0::/../..{path}\n",
}


@pytest.mark.parametrize("hierarchy", HIERARCHIES)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_says_the_same_on_every_hierarchy(form: str, hierarchy: str) -> None:
    expected = FORMS[form]
    found = placement(HIERARCHIES[hierarchy](expected.path).encode())
    assert (found.container_id, found.pod_uid) == (expected.container, expected.pod)
    around = [each for each in (expected.outer, expected.container) if each is not None]
    assert list(found.containers) == around
    if (pod := expected.pod or expected.podman_pod) is not None:
        assert found.is_in_pod(pod)
        assert found.container_in(pod) == expected.container
    else:
        assert found.pods == ()
    if expected.container is not None:
        assert found.service_path is None, "what runs in a container is no service of the machine"


def test_a_long_name_costs_no_time() -> None:
    """A container names its own control groups."""
    name = "a-" * 120 + "kubepods-" * 30 + "pod"
    assert placement(f"0::/{name}\n".encode()).pods == ()
