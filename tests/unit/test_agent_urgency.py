"""A hurry is of one thread, ends as it began, and is left where it may not be or somebody has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from quell.agent.linux.urgency import hurrying

HURRIED = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK


def in_a_thread(work: Callable[[], None]) -> None:
    """What is changed there is changed nowhere else."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    if failed:
        raise failed[0]


def may_hurry() -> bool:
    allowed: list[bool] = []

    def work() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError:
            return
        allowed.append(True)

    in_a_thread(work)
    return bool(allowed)


needs_right = pytest.mark.skipif(not may_hurry(), reason="this process may not be in a hurry")


@needs_right
@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH])
def test_a_hurry_ends_as_it_began_and_is_one_threads(policy: int) -> None:
    def work() -> None:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        others = os.sched_getscheduler(os.getpid())
        for _ in range(2):
            with hurrying():
                assert os.sched_getscheduler(0) == HURRIED
                assert os.sched_getscheduler(os.getpid()) == others
                with hurrying():
                    assert os.sched_getscheduler(0) == HURRIED
                assert os.sched_getscheduler(0) == HURRIED
            assert os.sched_getscheduler(0) == policy

    in_a_thread(work)


@needs_right
def test_whatever_happens_meanwhile_it_ends() -> None:
    ordinary = [sys.executable, "-c", "import os; assert os.sched_getscheduler(0) == os.SCHED_OTHER"]

    def fail_in_a_hurry() -> None:
        with hurrying():
            assert os.sched_getscheduler(0) == HURRIED
            subprocess.run(ordinary, check=True)
            _ = 1 // 0

    def work() -> None:
        with pytest.raises(ZeroDivisionError):
            fail_in_a_hurry()
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

    in_a_thread(work)


@needs_right
def test_a_policy_that_somebody_chose_is_left() -> None:
    def work() -> None:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(7))
        with hurrying():
            assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == (os.SCHED_RR, 7)
        assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == (os.SCHED_RR, 7)

    in_a_thread(work)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("limit", [0, 1])
def test_without_the_right_nothing_changes_and_with_part_of_it_a_hurry_ends(limit: int) -> None:
    """A limit of 1 lets a user hurry, but not take back that what he starts does not."""
    program = f"""
import os, resource, sys
from quell.agent.linux.urgency import hurrying
try:
    resource.setrlimit(resource.RLIMIT_RTPRIO, ({limit}, {limit}))
except ValueError:
    sys.exit()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for _ in range(2):
    with hurrying():
        print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
    print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    if not ran.stdout:
        pytest.skip("this root may not raise limits")
    hurried = os.SCHED_FIFO if limit and may_hurry() else os.SCHED_OTHER
    assert [int(line) for line in ran.stdout.split()] == [hurried, os.SCHED_OTHER] * 2
