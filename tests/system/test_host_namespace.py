"""Which network namespace is the machine's own, also where pid 1 may not be looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quell.agent import proc

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
]


def test_told_from_inside_and_never_from_another_one() -> None:
    own = Path("/proc/self/ns/net").stat().st_ino
    assert proc.host_netns() == own
    name = f"quell-host-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                name,
                sys.executable,
                "-c",
                "from quell.agent import proc; print(proc.host_netns())",
            ],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout.strip()
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    assert inside in {str(own), "None"}
