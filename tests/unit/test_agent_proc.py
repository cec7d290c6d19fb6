"""Facts read from /proc: of real processes, and of the forms that cgroup paths take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from quell.agent import proc
from quell.agent.cgroup import placement

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "8d6f7e6a-1b2c-4d3e-9f00-aabbccddeeff"


@pytest.mark.parametrize(
    ("text", "container", "pod"),
    [
        (f"0::/system.slice/docker-{ID}.scope", ID, None),
        (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/", ID, None),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
            ID,
            UID,
        ),
        (f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope", ID, UID),
        (f"3:cpu:/kubepods/besteffort/pod{UID}/{ID}", ID, UID),
        (f"3:cpu:/kubepods/burstable/pod{UID.replace('-', '')}/{ID}", ID, UID.replace("-", "")),
        (
            f"0::/system.slice/containerd.service/kubepods-besteffort-pod{UID.replace('-', '_')}.slice:cri-containerd:{ID}",
            ID,
            UID,
        ),
        (f"0::/machine.slice/libpod-{ID}.scope/container", ID, None),
        (f"0::/libpod_parent/libpod-{ID}", ID, None),
        (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", ID, None),
        (f"0::/docker/{OTHER}/kubepods/besteffort/pod{UID}/{ID}", ID, UID),
        (f"0::/machine.slice/libpod-conmon-{ID}.scope", None, None),
        (f"0::/kubepods.slice/crio-conmon-{ID}.scope", None, None),
        ("0::/system.slice/ssh.service", None, None),
        (f"0::/process_api/{ID[:32]}", None, None),
        ("0::/user.slice/podman-notapod.scope", None, None),
        ("0::/", None, None),
        ("", None, None),
    ],
)
def test_container_and_pod_are_read_from_every_form_of_path(text: str, container: str | None, pod: str | None) -> None:
    found = placement(text.encode() + b"\n")
    assert (found.container_id, found.pod_uid) == (container, pod)


def test_a_container_in_a_container_is_in_both() -> None:
    assert placement(f"0::/docker/{OTHER}/docker/{ID}\n".encode()).containers == (OTHER, ID)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/nginx.service", "/system.slice/nginx.service"),
        ("5:cpu:/\n1:name=systemd:/system.slice/nginx.service\n0::/\n", "/system.slice/nginx.service"),
        ("5:cpu:/x.service\n1:name=systemd:/y.service\n0::/z.service\n", "/y.service"),
        ("5:cpu:/x.service\n1:name=systemd:/\n0::/\n", "/x.service"),
        (
            "0::/system.slice/system-getty.slice/getty@tty1.service",
            "/system.slice/system-getty.slice/getty@tty1.service",
        ),
        # What a process makes below its service does not take it out of there.
        ("0::/system.slice/app.service/worker.scope/1", "/system.slice/app.service"),
        (
            "0::/user.slice/user-7.slice/user@7.service/app.slice/b.service",
            "/user.slice/user-7.slice/user@7.service/app.slice/b.service",
        ),
        # Seen from a control group namespace two levels down.
        ("0::/../../system.slice/nginx.service", "/system.slice/nginx.service"),
        ("0::/user.slice/user-0.slice/session-1.scope", None),
        ("0::/.service", None),
        ("0::/", None),
        ("", None),
        (f"0::/system.slice/docker.service/docker/{ID}/system.slice/inner.service", None),
    ],
)
def test_the_service_is_the_innermost_group_named_like_one(text: str, path: str | None) -> None:
    found = placement(text.encode() + b"\n")
    assert found.service_path == path
    assert found.service == (None if path is None else path.rpartition("/")[2])
    assert found.service_cgroup == (None if path is None else f"systemd:{path}")
    assert found.workload == (found.container_id or path)


POD = "ef" * 32


@pytest.mark.parametrize(
    ("path", "containers", "pods"),
    [
        (f"/kubepods/pod{UID}/{ID}", (ID,), ((UID, ID),)),
        # A runtime's monitor is in the pod's control group and in none of its containers.
        (f"/kubepods-pod{UID.replace('-', '_')}.slice/crio-conmon-{ID}.scope", (), ((UID, None),)),
        (f"/libpod_parent/{POD}/libpod-{ID}", (POD, ID), ((POD, ID),)),
        (f"/libpod_parent/{POD}/conmon", (), ()),
        (f"/machine.slice/machine-libpod_pod_{POD}.slice/libpod-{ID}.scope", (ID,), ((POD, ID),)),
        (f"/user@7.service/user.slice/user-libpod_pod_{POD}.slice/libpod-{ID}.scope/container", (ID,), ((POD, ID),)),
        (f"/libpod_parent/libpod-{ID}", (ID,), ()),
        # A node that is itself a container, and a container that runs others: the pod's own is the one next to it.
        (f"/docker/{OTHER}/kubelet/kubepods/pod{UID}/{ID}/docker/{POD}", (OTHER, ID, POD), ((UID, ID),)),
        (f"/kubepods/pod{UID}/{OTHER}/libpod_parent/{POD}/libpod-{ID}", (OTHER, POD, ID), ((UID, OTHER), (POD, ID))),
        (f"/docker/{ID}/pod{UID}", (ID,), ((UID, None),)),
    ],
)
def test_the_pods_around_a_process_and_its_container_in_each(
    path: str, containers: tuple[str, ...], pods: tuple[tuple[str, str | None], ...]
) -> None:
    found = placement(f"0::{path}\n".encode())
    assert (found.containers, found.pods) == (containers, pods)
    for pod, container in pods:
        assert found.is_in_pod(pod)
        assert found.container_in(pod) == container
    assert not found.is_in_pod("")
    assert found.container_in("00" * 32) is None


@pytest.mark.parametrize("name", ["sleep", "a b", "a) R 1 (b", "tab\there", "line\nbreak", ")", ""])
def test_any_name_of_a_process_is_read(name: str) -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    stat = proc.parse_stat(f"77 ({name}) S {fields}\n".encode())
    assert (stat.name, stat.state, stat.ppid, stat.pgid, stat.sid, stat.start_ticks) == (name, "S", 4, 5, 6, 22)


@pytest.mark.parametrize(
    ("link", "exe", "content"),
    [
        (b"/usr/bin/nc", "/usr/bin/nc", None),
        (b"/tmp/x (deleted)", "/tmp/x", "deleted"),
        (b"/memfd:payload (deleted)", "/memfd:payload", "memfd"),
        (b"/tmp/\xff", "/tmp/\\xff", None),
    ],
)
def test_the_link_of_an_executable(link: bytes, exe: str, content: str | None) -> None:
    assert proc.parse_exe(link) == (exe, content)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "300"], start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_facts_of_a_real_process(sleeper: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 5
    while (facts := proc.read_process(sleeper.pid)) and not facts.process.cmdline and time.monotonic() < deadline:
        time.sleep(0.001)
    assert facts is not None
    process = facts.process
    status = Path("/bin/sleep").stat()
    assert (process.pid, process.name, process.cmdline) == (sleeper.pid, "sleep", "/bin/sleep 300")
    assert process.exe == str(Path("/bin/sleep").resolve())
    assert facts.exe_id == (status.st_dev, status.st_ino)
    assert (process.ppid, process.pgid, process.uid) == (os.getpid(), sleeper.pid, os.geteuid())
    assert process.start_time is not None
    assert abs(process.start_time - time.time()) < 5
    assert facts.netns == Path("/proc/self/ns/net").stat().st_ino
    assert not facts.ended
    assert not facts.kernel_thread
    light = proc.read_process(sleeper.pid, full=False)
    assert light is not None
    assert light.process.start_ticks == process.start_ticks
    assert light.process.cmdline is None
    stat, place = proc.read_stat(sleeper.pid), proc.read_placement(sleeper.pid)
    assert stat is not None
    assert place is not None
    exe = (process.exe or "", process.content)
    quick = proc.read_execution(
        sleeper.pid, stat, place, exe=exe, exe_id=(status.st_dev, status.st_ino), cmdline="/bin/sleep 300"
    )
    # The boot time is taken anew each time.
    assert msgspec.structs.replace(quick.process, start_time=process.start_time) == process
    assert msgspec.structs.replace(quick, process=process) == facts


def test_an_ended_process_is_said_to_have_ended_and_a_reaped_one_is_none() -> None:
    process = subprocess.Popen(["/bin/true"])
    deadline = time.monotonic() + 5
    while (facts := proc.read_process(process.pid)) and not facts.ended and time.monotonic() < deadline:
        time.sleep(0.001)
    assert facts is not None
    assert facts.ended
    process.wait()
    assert proc.read_process(process.pid) is None
    assert proc.read_stat(process.pid) is None
    assert proc.read_placement(process.pid) is None
    assert proc.netns(process.pid) is None


_FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(300,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_ended_cannot_hide_its_executable() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _FIRST_THREAD_ENDS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 5
            while (stat := proc.read_stat(process.pid)) and stat.state != "Z" and time.monotonic() < deadline:
                time.sleep(0.001)
            assert stat is not None
            assert stat.state == "Z"
            facts = proc.read_process(process.pid)
            assert facts is not None
            assert not facts.ended
            assert facts.process.exe == str(Path(sys.executable).resolve())
            assert facts.netns is not None
        finally:
            process.kill()


def test_a_program_run_from_memory_says_so() -> None:
    memory = os.memfd_create("payload", os.MFD_CLOEXEC)
    os.write(memory, Path("/bin/sleep").read_bytes())
    process = subprocess.Popen(["sleep", "300"], executable=f"/proc/{os.getpid()}/fd/{memory}")
    try:
        deadline = time.monotonic() + 5
        while (facts := proc.read_process(process.pid)) and not facts.process.content and time.monotonic() < deadline:
            time.sleep(0.001)
        assert facts is not None
        assert (facts.process.exe, facts.process.content) == ("/memfd:payload", "memfd")
    finally:
        process.kill()
        process.wait()
        os.close(memory)


def test_boot_and_machine() -> None:
    assert len(proc.boot_id()) == 36
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(time.time() - uptime - proc.boot_time()) < 1
    assert proc.machine_id() == proc.machine_id().strip()
    assert os.getpid() in proc.pids()


def test_a_clock_is_read_beside_another_even_if_the_process_is_put_aside() -> None:
    """With many processes in the way, the difference of two clocks stays the same within half a tick."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        ahead = [proc.clock_ahead(time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC) for _ in range(3_000)]
    finally:
        for process in busy:
            process.kill()
            process.wait()

    assert max(ahead) - min(ahead) < 0.005
