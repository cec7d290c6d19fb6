"""`quell agent release --all` opens what is closed, with the agent's ledger and without it.

It opens everything on the machine, so it is run in pid, mount and network namespaces of its own, with a /run of its own:
namespaces that others named there are no part of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import quell

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not installed"),
]
UNSHARE = ("unshare", "--fork", "--pid", "--mount", "--net", "--mount-proc")
SCRIPT = """
import os, subprocess, sys, time
from quell.agent.__main__ import main
from quell.agent.linux.kernel import LinuxKernel

subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
# The kernel's threads are children of pid 2; in here that number must not be the isolated process's.
subprocess.run(["true"], check=True)
with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as isolated:
    kernel = LinuxKernel()
    while kernel.netns(isolated.pid) in (None, kernel.netns(os.getpid())):
        time.sleep(0.01)
    namespace = kernel.open_namespace(isolated.pid)
    kernel.isolate(namespace, strict=False)
    print(kernel.inode(namespace), flush=True)
    print(main(["release", "--all", "--state", sys.argv[1]]), kernel.release(namespace), flush=True)
    isolated.kill()
"""


@pytest.mark.parametrize("folder", ["", "lost"])
def test_release_all(tmp_path: Path, folder: str) -> None:
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", SCRIPT, str(tmp_path / folder)],
        env={**os.environ, "PYTHONPATH": str(Path(quell.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+)\nreleased 1 network namespaces: (\d+)\n0 False\n", done.stdout)
    assert found is not None, (done.stdout, done.stderr)
    assert found[1] == found[2]
