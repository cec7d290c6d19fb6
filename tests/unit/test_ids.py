"""Identifiers made here: version 7, strictly rising in a thread, never twice."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from quell.ids import uuid7


def test_it_is_a_version_7_uuid_of_its_moment() -> None:
    before = int(time.time() * 1000)
    made = uuid.UUID(uuid7())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= int(time.time() * 1000)
    assert str(made) == str(made).lower()


def test_they_rise_strictly_even_if_the_clock_goes_back() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert uuid7(now=1.0) > made[-1]


def test_threads_never_make_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [one for batch in pool.map(lambda _: [uuid7() for _ in range(5_000)], range(8)) for one in batch]
    assert len(set(made)) == len(made)


def test_a_forked_child_does_not_repeat_its_parent() -> None:
    # In a process of its own, because forking one that has threads is no good. An hour ahead both see one millisecond.
    program = """
import os, time
from quell.ids import uuid7
ahead = time.time() + 3600
uuid7(ahead)
child = os.fork()
os.write(1, f"{uuid7(ahead)}\\n".encode())
if child:
    os.waitpid(child, 0)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert len(told) == len(set(told)) == 2
