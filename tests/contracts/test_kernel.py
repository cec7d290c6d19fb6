"""What every kernel does: the one of this machine, and the one that only writes down, alone or in front of the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from quell.agent.cgroup import OWN, Placement
from quell.agent.kernel import Kernel
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import Facts, boot_id, read_placement
from quell.agent.recording import RecordingKernel
from quell.model.subject import Process

NOBODY = 2**22 + 1  # above the highest pid there can be


class Machine(NamedTuple):
    kernel: Kernel
    #: A process that may be killed.
    pid: int
    #: Whether the process is really gone once it is killed.
    real: bool


@pytest.fixture(params=["linux", "recording", "recording-linux"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "recording":
        process = Process(pid=77, start_ticks=5, start_time=1.0, boot_id=boot_id(), name="x", exe="/x", uid=0, netns=9)
        facts = Facts(
            process=process,
            placement=Placement(containers=("ab" * 32,), paths=("/",)),
            exe_id=None,
            kernel_thread=False,
            ended=False,
        )
        yield Machine(RecordingKernel(processes=[facts], host_namespaces=[1]), 77, real=False)
        return
    sleeper = subprocess.Popen(["/bin/sleep", "300"])
    try:
        real = request.param == "linux"
        yield Machine(LinuxKernel() if real else RecordingKernel(LinuxKernel()), sleeper.pid, real)
        if not real:
            assert sleeper.poll() is None, "a dry run has killed a process"
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_process_that_is_there(machine: Machine) -> None:
    kernel, pid, _ = machine
    facts = kernel.facts(pid)
    assert facts is not None
    assert facts.process.pid == pid
    assert facts.process.start_ticks is not None
    assert kernel.netns(pid) == facts.netns
    assert facts.netns is not None
    assert pid in kernel.residents(facts.netns)
    handle = kernel.open_process(pid)
    assert handle is not None
    assert not kernel.wait_ended(handle, 0)
    kernel.close(handle)


def test_a_process_that_is_not_there(machine: Machine) -> None:
    kernel = machine.kernel
    assert kernel.facts(NOBODY) is None
    assert kernel.open_process(NOBODY) is None
    assert kernel.netns(NOBODY) is None
    assert kernel.open_namespace(NOBODY) is None
    assert kernel.find_namespace(3) is None
    assert kernel.members(container_id="0" * 64) == []


def test_a_killed_process_is_gone(machine: Machine) -> None:
    kernel, pid, _ = machine
    handle = kernel.open_process(pid)
    assert handle is not None
    kernel.kill(handle)
    assert kernel.wait_ended(handle, 5)
    facts = kernel.facts(pid)
    assert facts is None or facts.ended
    kernel.close(handle)


def test_renice_tells_the_priority_before(machine: Machine) -> None:
    kernel, pid, real = machine
    assert kernel.priority(pid) == (0 if pid == 77 else os.getpriority(os.PRIO_PROCESS, 0))
    kernel.renice(pid, 15)
    assert kernel.priority(pid) == 15
    if real:
        assert os.getpriority(os.PRIO_PROCESS, pid) == 15
    with pytest.raises(ProcessLookupError):
        kernel.priority(NOBODY)
    with pytest.raises(ProcessLookupError):
        kernel.renice(NOBODY, 15)


def test_the_table_has_what_ties_a_process_to_others(machine: Machine) -> None:
    kernel, pid, _ = machine
    stat = kernel.table()[pid]
    facts = kernel.facts(pid)
    assert facts is not None
    process = facts.process
    assert (stat.ppid, stat.pgid, stat.start_ticks) == (process.ppid or 0, process.pgid or 0, process.start_ticks)
    assert stat.sid == facts.sid
    assert stat.state != "Z"
    handle = kernel.open_process(pid)
    assert handle is not None
    kernel.kill(handle)
    assert kernel.wait_ended(handle, 5)
    assert pid not in kernel.table() or kernel.table()[pid].state == "Z"
    kernel.close(handle)


def test_it_is_asked_to_end_before_it_is_made_to(machine: Machine) -> None:
    kernel, pid, real = machine
    handle = kernel.open_process(pid)
    assert handle is not None
    assert kernel.may_kill(handle)
    kernel.terminate(handle)
    assert kernel.wait_ended(handle, 5 if real else 0) is real
    if not real:
        kernel.kill(handle)
        with pytest.raises(ProcessLookupError):
            kernel.terminate(handle)
        with pytest.raises(ProcessLookupError):
            kernel.may_kill(handle)
    kernel.close(handle)


def test_a_process_is_within_its_own_namespace(machine: Machine) -> None:
    kernel, pid, _ = machine
    namespace = kernel.pid_namespace(pid)
    assert namespace is not None
    assert kernel.is_within(pid, namespace)
    assert not kernel.is_within(pid, None)
    assert not kernel.is_within(pid, 3)
    assert kernel.pid_namespace(NOBODY) is None


@pytest.mark.parametrize("kind", ["linux", "recording"])
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make pid namespaces")
def test_a_namespace_has_what_is_in_those_below_it(kind: str) -> None:
    kernel: Kernel = LinuxKernel() if kind == "linux" else RecordingKernel(LinuxKernel())
    nested = ["unshare", "--pid", "--fork", "unshare", "--pid", "--fork", "/bin/sh", "-c", "echo; exec sleep 300"]
    with subprocess.Popen(nested, stdout=subprocess.PIPE, process_group=0) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            family = {stat.ppid: pid for pid, stat in kernel.table().items() if stat.pgid == process.pid}
            # unshare itself stays outside; what it forks is the first process inside.
            outer, middle = process.pid, family[process.pid]
            inner = family[middle]
            namespaces = [kernel.pid_namespace(pid) for pid in (outer, middle, inner)]
            assert len(set(namespaces)) == 3
            assert [kernel.is_within(inner, each) for each in namespaces] == [True, True, True]
            assert [kernel.is_within(middle, each) for each in namespaces] == [True, True, False]
            assert [kernel.is_within(outer, each) for each in namespaces] == [True, False, False]
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["linux", "recording"])
def test_a_group_is_signalled_by_its_leaders_handle(kind: str) -> None:
    kernel: Kernel = LinuxKernel() if kind == "linux" else RecordingKernel(LinuxKernel())
    leader = subprocess.Popen(["/bin/sleep", "300"], process_group=0)
    member = subprocess.Popen(["/bin/sleep", "300"], process_group=leader.pid)
    beside = subprocess.Popen(["/bin/sleep", "300"])
    try:
        handle = kernel.open_process(leader.pid)
        assert handle is not None
        if kernel.kill_group(handle):
            assert kind == "linux"
            assert (leader.wait(5), member.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
            assert kernel.kill_group(handle), "nobody is left in it"
        assert beside.poll() is None
        kernel.close(handle)
    finally:
        for process in (leader, member, beside):
            process.kill()
            process.wait()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make control groups")
def test_a_control_group_keeps_what_is_forked_in_it() -> None:
    kernel = LinuxKernel()
    groups = kernel.cgroups
    assert groups is not None
    name = f"{OWN}contract-{os.getpid()}"
    script = "read line; sleep 300 & echo; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        handle = kernel.open_process(process.pid)
        assert handle is not None
        group = groups.make(process.pid, name)
        if group is None:
            process.kill()
            pytest.skip("this machine has no control groups of version 2 that can be made")
        try:
            again = groups.make(process.pid, name)
            assert again is not None
            kernel.close(again)
            assert groups.members(group) == []
            assert groups.move(handle, process.pid, group)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            process.stdout.readline()
            shell, sleep = sorted(groups.members(group), key=lambda pid: pid != process.pid)
            assert shell == process.pid
            (found,) = groups.find(name)
            assert set(groups.members(found)) == {shell, sleep}
            kernel.close(found)
            sleeping = kernel.open_process(sleep)
            assert sleeping is not None
            if not groups.kill(group):
                kernel.kill(handle)
                kernel.kill(sleeping)
            assert kernel.wait_ended(handle, 5)
            assert kernel.wait_ended(sleeping, 5)
            kernel.close(sleeping)
            assert groups.members(group) == []
            assert not groups.move(handle, process.pid, group), "it has ended"
        finally:
            groups.remove(group)
            kernel.close(group)
            kernel.close(handle)
            process.kill()
    assert groups.find(name) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make control groups")
def test_what_is_in_a_removed_control_group_lives_on_above_it() -> None:
    kernel = LinuxKernel()
    groups = kernel.cgroups
    assert groups is not None
    with subprocess.Popen(["/bin/sleep", "300"]) as process:
        try:
            before = read_placement(process.pid)
            handle = kernel.open_process(process.pid)
            assert handle is not None
            group = groups.make(process.pid, f"{OWN}removed-{os.getpid()}")
            if group is None:
                pytest.skip("this machine has no control groups of version 2 that can be made")
            assert groups.move(handle, process.pid, group)
            assert read_placement(process.pid) != before
            groups.remove(group)
            assert read_placement(process.pid) == before
            assert process.poll() is None
            kernel.close(group)
            kernel.close(handle)
        finally:
            process.kill()


def test_a_thread_that_hurries_goes_on_as_before() -> None:
    before = os.sched_getscheduler(0)
    with LinuxKernel().hurrying():
        assert os.sched_getscheduler(0) in (before, os.SCHED_FIFO, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK)
    assert os.sched_getscheduler(0) == before


def test_a_kept_handle_is_adopted_until_its_process_has_ended() -> None:
    kernel = LinuxKernel()
    with subprocess.Popen(["sleep", "60"]) as process:
        kept = os.pidfd_open(process.pid)
        assert kernel.adopt_process(kept, process.pid) == kept
        assert not kernel.wait_ended(kept, 0)
        other = os.dup(kept)
        process.kill()
        assert kernel.wait_ended(kept, 5)
        for handle in (kept, other):
            assert kernel.adopt_process(handle, process.pid) is None, "it waits to be reaped, and then is reaped"
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(handle)
            process.wait()


def test_a_namespace_is_found_by_process_and_by_inode(machine: Machine) -> None:
    kernel, pid, _ = machine
    inode = kernel.netns(pid)
    assert inode is not None
    for handle in (kernel.open_namespace(pid), kernel.find_namespace(inode)):
        assert handle is not None
        assert kernel.inode(handle) == inode
        kernel.close(handle)
    assert kernel.host_namespaces()
    assert not kernel.host_namespaces() & set(kernel.namespaces())


def test_capabilities_name_known_actions(machine: Machine) -> None:
    found = machine.kernel.capabilities()
    assert "agentKillProcess" in found.words
    assert all(limit.strip() for limit in found.limits)


@pytest.mark.parametrize("kind", ["linux", "recording"])
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")
def test_closing_and_opening_a_namespace_twice_is_once(kind: str) -> None:
    kernel: Kernel = LinuxKernel() if kind == "linux" else RecordingKernel(LinuxKernel())
    # Its own namespace, with a loopback and nothing else.
    process = subprocess.Popen(["unshare", "--net", "/bin/sh", "-c", "echo; exec sleep 300"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        handle = kernel.open_namespace(process.pid)
        assert handle is not None
        assert kernel.inode(handle) in kernel.namespaces()
        assert kernel.release(handle) is False
        first = kernel.isolate(handle, strict=False)
        assert kernel.isolate(handle, strict=True).cookie == first.cookie != 0
        closed = kernel.isolate(handle, strict=True, ports=(80,), investigators=("192.0.2.7",))
        assert (closed.ports, closed.investigators) == ((), ())
        assert kernel.isolate(handle, strict=False, investigators=("192.0.2.7",)).investigators == ("192.0.2.7",)
        assert kernel.release(handle, cookie=first.cookie + 1) is False
        assert kernel.release(handle, cookie=first.cookie) is True
        assert kernel.release(handle) is False
        kernel.close(handle)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give root up")
def test_without_privileges_it_says_what_it_cannot_do_and_does_the_rest() -> None:
    code = """
import os
from quell.agent.linux.kernel import LinuxKernel
os.setresuid(65534, 65534, 65534)
kernel = LinuxKernel()
found = kernel.capabilities()
print(sorted(found.words), *found.limits, sep="\\n")
try:
    kernel.kill(kernel.open_process(os.getppid()))
except PermissionError:
    print("may not kill its parent")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words, *told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()
    assert words == str(
        ["agentKillPod", "agentKillProcess", "agentKillProcessGroup", "agentKillProcessTree", "agentReniceProcess"]
    )
    limits = {limit.partition(":")[0]: limit for limit in told[:-1]}
    assert "only processes of user 65534" in limits["agentKillProcess"]
    assert "CAP_NET_ADMIN" in limits["quarantine"]
    assert "orphaned" in limits["agentKillProcessTree"]
    assert told[-1] == "may not kill its parent"


def test_a_dry_run_writes_down_what_would_have_been_done() -> None:
    with subprocess.Popen(["/bin/sleep", "300"]) as process:
        try:
            kernel = RecordingKernel(LinuxKernel())
            handle = kernel.open_process(process.pid)
            assert handle is not None
            facts = kernel.facts(process.pid)
            assert facts is not None
            kernel.renice(process.pid, 3)
            kernel.kill(handle)
            assert [(deed.action, deed.pid, deed.start_ticks, deed.priority) for deed in kernel.deeds] == [
                ("agentReniceProcess", process.pid, facts.process.start_ticks, 3),
                ("agentKillProcess", process.pid, facts.process.start_ticks, None),
            ]
            assert process.poll() is None
            kernel.close(handle)
        finally:
            process.kill()
