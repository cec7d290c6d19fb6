"""Dry runs on the machine: the same checks of real processes and namespaces as before a deed, and no deed. SEMANTICS 8."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from running import wait_for
from test_isolation import Pair

from quell.agent.ledger import Closed, Imagined, Ledger
from quell.agent.linux import namespace
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, boot_id, read_process
from quell.agent.protected import Protected
from quell.agent.rehearsing import rehearse
from quell.channel.messages import Rehearsed
from quell.model.action import (
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
)
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target

DONE, GONE, REFUSED = OutcomeStatus.DONE, OutcomeStatus.GONE, OutcomeStatus.REFUSED
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")


class Place:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger")
        self.protected = Protected.load()

    def rehearse(self, action: Any, target: Target, *, paused: bool = False, expires: float = 60.0) -> Rehearsed:
        now = time.time()
        command = Command(
            id="dry-run/1",
            agent="a",
            action=action,
            target=target,
            issued=now,
            expires=now + expires,
            nonce="n",
        )
        before = self.ledger.path.read_bytes()
        found = rehearse(command, LinuxKernel(), self.ledger, self.protected, paused=lambda: paused)
        assert self.ledger.path.read_bytes() == before
        assert self.ledger.find("dry-run/1") is None
        assert not self.ledger.begun("dry-run/1")
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.ledger.close()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        started.append(process)
        time.sleep(2.5 / HZ)  # its start must lie more than a tick before the event
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def target(pid: int, **changes: Any) -> ProcessTarget:
    facts = read_process(pid)
    assert facts is not None
    return ProcessTarget(node="n", process=msgspec.structs.replace(facts.process, **changes), seen=time.time())


def cgroup_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.parametrize("action", [KillProcess(), KillProcessGroup(), KillProcessTree()], ids=["one", "group", "tree"])
def test_what_would_be_killed_is_told_and_lives(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], action: Any
) -> None:
    process = start("/bin/sh", "-c", "sleep 600 & wait")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: bool(children.read_text().split()), what="the child")
    time.sleep(2.5 / HZ)
    child = int(children.read_text().split()[0])
    groups = [cgroup_of(pid) for pid in (process.pid, child)]
    found = place.rehearse(action, target(process.pid))
    assert (found.outcome.status, found.outcome.reason) == (DONE, None), found
    expected = {process.pid} if isinstance(action, KillProcess) else {process.pid, child}
    assert {deed.pid for deed in found.deeds} == expected
    assert all(deed.action == "agentKillProcess" and not deed.polite for deed in found.deeds)
    assert process.poll() is None
    assert Path(f"/proc/{child}").exists()
    assert [cgroup_of(pid) for pid in (process.pid, child)] == groups
    assert "seconds_to_gone" not in found.outcome.facts


def test_another_process_has_the_number_by_now(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    found = place.rehearse(KillProcess(), target(process.pid, start_ticks=1))
    assert (found.outcome.status, found.outcome.reason) == (REFUSED, Reason.IDENTITY)
    assert "the pid was given to another process" in found.outcome.explanation
    assert found.deeds == ()
    assert process.poll() is None


def test_it_has_ended(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = subprocess.Popen(["/bin/sleep", "600"])
    meant = target(process.pid)
    process.kill()
    process.wait()
    found = place.rehearse(KillProcess(), meant)
    assert (found.outcome.status, found.outcome.reason) == (GONE, Reason.GONE)


def test_what_is_protected_is_refused_alone_and_in_a_group(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    found = place.rehearse(KillProcess(), target(os.getpid()))
    assert (found.outcome.status, found.outcome.reason) == (REFUSED, Reason.PROTECTED)
    process = start("/bin/sh", "-c", "sleep 600 & wait")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: bool(children.read_text().split()), what="the child")
    child = int(children.read_text().split()[0])
    place.protected = Protected.load(own=(child,))
    found = place.rehearse(KillProcessGroup(), target(process.pid))
    assert (found.outcome.status, found.outcome.reason) == (REFUSED, Reason.PROTECTED)
    assert found.deeds == ()


def test_a_pause_and_an_expiry_are_told(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    found = place.rehearse(KillProcess(), target(process.pid), paused=True)
    assert (found.outcome.status, found.outcome.reason) == (REFUSED, Reason.PAUSED)
    found = place.rehearse(KillProcess(), target(process.pid), expires=-1.0)
    assert found.outcome.reason is Reason.EXPIRED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_what_the_agent_may_not_signal_is_told(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    script = f"""
import sys, os
sys.path[:0] = {sys.path!r}
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.recording import RecordingKernel
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
kernel = RecordingKernel(LinuxKernel())
handle = kernel.open_process({process.pid})
try:
    kernel.kill(handle)
except PermissionError:
    print("refused", kernel.deeds)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "refused []\n"


def test_a_priority_stays_what_it_is(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    before = os.getpriority(os.PRIO_PROCESS, process.pid)
    found = place.rehearse(ReniceProcess(priority=before + 3), target(process.pid))
    assert found.outcome.status is DONE
    assert [deed.priority for deed in found.deeds] == [before + 3]
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == before


def test_a_pod_and_a_container_that_are_not_here_are_gone(place: Place) -> None:
    pod = PodTarget(uid="3f1c1a52-5f0e-4f0e-9d5f-0a1b2c3d4e5f")
    assert place.rehearse(KillPod(grace_period=30), pod).outcome.reason is Reason.GONE
    container = NetworkTarget(node="n", key="c", container_id="ab" * 32)
    assert place.rehearse(Quarantine(), container).outcome.reason is Reason.GONE


@pytest.mark.root
@ROOT
def test_a_network_that_would_be_isolated_stays_open(place: Place) -> None:
    with Pair() as pair:
        assert pair.victim is not None
        facts = read_process(pair.victim.pid)
        assert facts is not None
        meant = NetworkTarget(node="n", key="k", process=facts.process, seen=time.time())
        found = place.rehearse(Quarantine(), meant)
        assert found.outcome.status is DONE
        assert [(deed.action, deed.netns) for deed in found.deeds] == [("quarantine", pair.inode)]
        assert not namespace.look(pair.files[0]).closed
        wrong = msgspec.structs.replace(meant, netns=1)
        assert place.rehearse(Quarantine(), wrong).outcome.reason is Reason.IDENTITY


def test_the_machines_own_network_is_refused(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    facts = read_process(process.pid)
    assert facts is not None
    meant = NetworkTarget(node="n", key="k", process=facts.process, seen=time.time())
    assert place.rehearse(Quarantine(), meant).outcome.reason is Reason.HOST_NETWORK


def test_an_imagined_ledger_begins_with_all_of_the_agents_and_leaves_it_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.note(Closed(key="k", boot_id=boot_id(), namespaces=((4, 5),)))
    command = Command(
        id="c/0",
        agent="a",
        action=ReleaseQuarantine(),
        target=NetworkTarget(node="n", key="k"),
        issued=1.0,
        expires=2.0,
        nonce="n",
    )
    content = ledger.path.read_bytes()
    imagined = Imagined(ledger)
    assert [each.key for each in imagined.closed()] == ["k"]
    imagined.begin(command)
    imagined.end(command, Outcome(id="c/0", status=DONE, time=1.0), "k")
    assert imagined.find("c/0") is not None
    assert imagined.closed() == ()
    assert ledger.path.read_bytes() == content
    assert [each.key for each in ledger.closed()] == ["k"]
    assert ledger.find("c/0") is None
    imagined.close()
    ledger.close()


def test_a_process_that_is_none_of_this_boot_is_refused(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start("/bin/sleep", "600")
    meant = ProcessTarget(node="n", process=Process(pid=process.pid, start_ticks=5, boot_id="another"))
    assert place.rehearse(KillProcess(), meant).outcome.reason is Reason.IDENTITY
