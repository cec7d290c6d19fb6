"""Facts read from /proc: of real processes, and of the forms that cgroup paths take."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.parametrize("name", ["sleep", "a b", "a) R 1 (b", "tab\there", "line\nbreak", ")", ""])
def test_any_name_of_a_process_is_read(name: str) -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    stat = proc.parse_stat(f"77 ({name}) S {fields}\n".encode())
    assert (stat.name, stat.state, stat.ppid, stat.pgid, stat.start_ticks) == (name, "S", 4, 5, 22)


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
    while (facts := proc.read_process(sleeper.pid)) and facts.process.name != "sleep" and time.monotonic() < deadline:
        time.sleep(0.001)
    assert facts is not None
    process = facts.process
    status = Path("/bin/sleep").stat()
    assert (process.pid, process.name, process.cmdline) == (sleeper.pid, "sleep", "/bin/sleep 300")
    assert process.exe == str(Path("/bin/sleep").resolve())
    assert facts.exe_id == (status.st_dev, status.st_ino)
    assert (process.ppid, process.pgid, process.uid) == (os.getpid(), sleeper.pid, os.geteuid())
    assert process.ancestors[0] == Path("/proc/self/comm").read_text().strip()
    assert process.start_time is not None
    assert abs(process.start_time - time.time()) < 5
    assert facts.netns == Path("/proc/self/ns/net").stat().st_ino
    assert not facts.ended
    assert not facts.kernel_thread
    light = proc.read_process(sleeper.pid, full=False)
    assert light is not None
    assert light.process.start_ticks == process.start_ticks
    assert light.process.cmdline is None


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


def test_a_user_without_a_name_has_none() -> None:
    assert proc.names_of(os.getuid(), os.getpid()) >= {proc.user_name(os.getuid())} - {None}
    assert proc.names_of(4_000_000_000, os.getpid()) == frozenset()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change its root folder")
def test_the_list_of_users_in_a_process_s_own_root_counts_too_and_a_pipe_there_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:\napp:x:4123:4123::/:/bin/sh\nbroken\n")
    pipe = tmp_path / "pipe"
    (pipe / "etc").mkdir(parents=True)
    os.mkfifo(pipe / "etc/passwd")
    for root, names in ((tmp_path, {"app"}), (pipe, set())):
        child = os.fork()
        if child == 0:
            os.chroot(root)
            ctypes.CDLL(None).pause()
            os._exit(0)
        try:
            deadline = time.monotonic() + 5
            while Path(f"/proc/{child}/root").readlink() != root and time.monotonic() < deadline:
                time.sleep(0.001)
            assert proc.names_of(4123, child) == names
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


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
