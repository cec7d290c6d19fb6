"""Pids that are given to other processes on purpose: 10,000 attempts, and never one wrong process. SEMANTICS section 8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ATTEMPTS = 10_000


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to choose pids in a namespace of its own")
def test_ten_thousand_pids_given_away_and_no_wrong_process_touched() -> None:
    program = Path(__file__).with_name("recycling_process.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # In memory: what is measured is the agent, not how fast this machine's disk writes a ledger.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, str(program), folder, str(ATTEMPTS)]
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sys.stdout.write(f"{told['attempts']} pids given away: {told['outcomes']}\n")
    assert told["wrong"] == []
    assert set(told["outcomes"]) <= {"done/None", "gone/gone", "refused/identity"}
    # Of those that were in time there are some, else nothing was raced; and most came too late.
    assert told["outcomes"]["refused/identity"] > ATTEMPTS / 2
    assert told["outcomes"]["done/None"] > 0
