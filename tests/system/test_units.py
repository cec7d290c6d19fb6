"""The systemd units: what they leave is enough, and less of it is not. systemd itself is never started by a test.

Each program runs under its unit's bounding set, system call filter, address families, namespaces and memory rule, which
confine.py makes as systemd does. What only systemd does (folders, credentials, what is mounted how) is checked by
`systemd-analyze verify`, in words.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confine import ROOT, directives
from running import wait_for
from trust_place import Place

from quell.agent.linux import cgroups

UNITS = ROOT / "deploy" / "systemd"
CONTROLLER, AGENT = UNITS / "quell-controller.service", UNITS / "quell-agent.service"
PODMAN = UNITS / "quell-agent-podman.conf"
CONFINE = Path(__file__).with_name("confine.py")
SET = directives(AGENT)["CapabilityBoundingSet"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="gives root's capabilities up one by one"),
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of package systemd"),
    pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="needs libseccomp2"),
]

#: What an agent can, and cannot, of other users' processes: one word a line.
LOOK = """
import json, os, sys
from quell.agent.linux import cgroups
from quell.agent.linux.kernel import LinuxKernel
kernel, pid = LinuxKernel(), int(sys.argv[1])
can = set()
def attempt(name, work):
    try:
        if work():
            can.add(name)
    except (OSError, AttributeError):
        pass
def priority():
    kernel.renice(pid, -3)
    return True
def content():
    with open(f"/proc/{pid}/exe", "rb") as file:
        return file.read(4) == b"\\x7fELF"
def isolated():
    found = kernel.open_namespace(int(sys.argv[2]))
    kernel.isolate(found, strict=True)
    return kernel.release(found)
def kept_together():
    group = cgroups.make(pid, f"quell-kill-units-{os.getpid()}")
    try:
        return cgroups.move(kernel.open_process(pid), pid, group)
    finally:
        cgroups.remove(group)
def ended():
    process = kernel.open_process(pid)
    kernel.kill(process)
    return kernel.wait_ended(process, 10)
attempt("agentReniceProcess", priority)
attempt("executable", lambda: kernel.facts(pid).process.exe)
attempt("content", content)
attempt("open files", lambda: os.listdir(f"/proc/{pid}/fd"))
attempt("quarantine", isolated)
attempt("control groups", kept_together)
attempt("agentKillProcess", ended)
held = kernel.capabilities()
print(json.dumps({"can": sorted(can), "words": sorted(held.words), "limits": held.limits}))
"""

#: What goes with each capability.
LOST = {
    "CAP_KILL": {"agentKillProcess"},
    "CAP_SYS_PTRACE": {"executable", "content", "quarantine"},
    "CAP_NET_ADMIN": {"quarantine"},
    "CAP_SYS_ADMIN": {"quarantine"},
    "CAP_SYS_NICE": {"agentReniceProcess"},
    "CAP_DAC_READ_SEARCH": {"content", "open files"},
}
ALL = {
    "agentKillProcess",
    "agentReniceProcess",
    "content",
    "control groups",
    "executable",
    "open files",
    "quarantine",
}


def confined(unit: Path, capabilities: list[str], *words: str) -> list[str]:
    return [sys.executable, str(CONFINE), str(unit), ",".join(capabilities) or "-", *words]


def environment() -> dict[str, str]:
    source = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": source}


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Pids of another user's process, whose executable only that user may read, and of one in a network namespace.

    The first is in a control group, as all that systemd starts: in the topmost one root may not make others without more.
    """
    mount = cgroups.mounted()
    if mount is None:
        pytest.skip("this machine has no control groups of version 2")
    folder = Path("/var/tmp") / f"quell-units-{os.getpid()}"
    folder.mkdir(mode=0o755)
    group = Path(mount.folder) / f"units-{os.getpid()}"
    group.mkdir()
    started: list[subprocess.Popen[bytes]] = []
    try:
        program = folder / "nap"
        shutil.copy("/usr/bin/sleep", program)
        program.chmod(0o700)
        os.chown(program, 65534, 65534)
        started.append(subprocess.Popen([program, "120"], user=65534, group=65534, extra_groups=[]))
        (group / "cgroup.procs").write_text(str(started[0].pid))
        started.append(subprocess.Popen(["unshare", "--net", "sleep", "120"]))
        own = Path("/proc/self/ns/net").stat().st_ino
        wait_for(lambda: Path(f"/proc/{started[0].pid}/exe").readlink() == program, what="the other user's process")
        wait_for(lambda: Path(f"/proc/{started[1].pid}/ns/net").stat().st_ino != own, what="the network namespace")
        yield started[0].pid, started[1].pid
    finally:
        for each in started:
            each.kill()
            each.wait(10)
        shutil.rmtree(folder)
        wait_for(lambda: not (group / "cgroup.procs").read_text(), what="the end of what is in the control group")
        group.rmdir()


def look(theirs: tuple[int, int], capabilities: list[str]) -> dict[str, list[str]]:
    words = (sys.executable, "-c", LOOK, *map(str, theirs))
    done = subprocess.run(
        confined(AGENT, capabilities, *words),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


def test_the_agents_unit_leaves_all_that_the_agent_can(theirs: tuple[int, int]) -> None:
    found = look(theirs, SET)
    assert set(found["can"]) == ALL
    done = subprocess.run(
        [sys.executable, "-c", "from quell.agent.linux.capabilities import probe; print(*sorted(probe().words))"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found["words"] == done.stdout.split(), "root without a unit can more"
    assert not [limit for limit in found["limits"] if "CAP_" in limit]


@pytest.mark.parametrize("capability", SET)
def test_without_one_of_the_units_capabilities_something_is_lost(theirs: tuple[int, int], capability: str) -> None:
    found = look(theirs, [each for each in SET if each != capability])
    assert ALL - set(found["can"]) == LOST[capability]


def test_both_run_and_link_under_their_units(tmp_path: Path) -> None:
    place = _Confined(tmp_path)
    try:
        place.start_controller()
        place.join()
        with place.client() as client:
            (agent,) = client.get("/v1/agents").raise_for_status().json()["items"]
        assert {"agentKillProcess", "agentReniceProcess", "quarantine", "release"} <= set(agent["capabilities"])
        assert not [limit for limit in agent["limits"] if "CAP_" in limit]
        (controller, running) = place.processes
        assert held(controller.pid) == 0
        assert held(running.pid).bit_count() == len(SET)
    finally:
        place.close()


def held(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))


class _Confined(Place):
    """With the sensor and the look at containers, as the unit has them."""

    def _start(self, words: list[str], environment: dict[str, str], log: str) -> subprocess.Popen[bytes]:
        unit, capabilities = (CONTROLLER, []) if "controller" in words else (AGENT, SET)
        words = [word for word in words if word not in ("--no-sensor", "--no-containers")]
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                confined(unit, capabilities, sys.executable, *words),
                env=os.environ | environment,
                stdout=file,
                stderr=file,
            )
        self.processes.append(process)
        return process


@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_podman_can_be_asked_with_what_is_dropped_in_for_it_and_not_without() -> None:
    words = ("podman", "container", "inspect", "quell-units-nothing")

    def ask(*units: Path) -> str:
        given = confined(AGENT, SET, *words)
        given[2] = ":".join(map(str, units))
        return subprocess.run(given, capture_output=True, text=True, check=False, timeout=90).stderr

    assert "no such container" in ask(AGENT, PODMAN)
    assert "operation not permitted" in ask(AGENT)


def test_what_a_unit_keeps_out_is_kept_out() -> None:
    """Of the ways in which the other tests would confine nothing."""

    def run(unit: Path, *words: str) -> int:
        return subprocess.run(confined(unit, SET, *words), capture_output=True, check=False, timeout=60).returncode

    packets = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"
    memory = "import mmap; mmap.mmap(-1, 4096, prot=7)"
    assert run(AGENT, "unshare", "--net", "true") == 0
    for unit in (AGENT, CONTROLLER):
        assert run(unit, sys.executable, "-c", "import socket; socket.socket()") == 0
        assert run(unit, sys.executable, "-c", packets) != 0
        assert run(unit, "unshare", "--uts", "true") != 0
        assert run(unit, "chroot", "/", "true") != 0
        # Linux 6.3 has what the test needs for that.
        if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3):
            assert run(unit, sys.executable, "-c", memory) != 0
    assert run(CONTROLLER, "unshare", "--net", "true") != 0


@pytest.mark.parametrize(("unit", "most"), [(CONTROLLER, 15), (AGENT, 40)], ids=["controller", "agent"])
def test_systemd_reads_the_unit_and_finds_little_exposed(unit: Path, most: int, tmp_path: Path) -> None:
    """The figure is systemd's own, times ten; a service with no directive has 96."""
    program = tmp_path / "quell"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/quell/bin/quell", str(program)))
    for words in (["verify", "--man=no"], ["security", "--offline=true", f"--threshold={most}", "--no-pager"]):
        done = subprocess.run(
            ["systemd-analyze", *words, str(copy)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert copy.name not in done.stderr, done.stderr
