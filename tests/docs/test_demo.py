"""`make demo` is `quell demo`: it plays on this machine and says itself whether everything did what it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from guide import ROOT

#: What a user without root has, and reading any file, so that a checkout in a private folder can be read.
UNPRIVILEGED = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)


def play(shell: dict[str, str], *prefix: str) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "quell", "demo", "--examples", str(ROOT / "examples")]
    return subprocess.run(command, env=shell, cwd="/", check=False, capture_output=True, text=True, timeout=110)


def left_behind(folder: Path) -> list[str]:
    """folder: where the demonstration made its temporary ones; others may play at the same time."""
    folders = [str(path) for path in folder.glob("quell-demo-*")]
    spaces = subprocess.run(["ip", "netns", "list"], check=False, capture_output=True, text=True).stdout
    return folders + [line for line in spaces.splitlines() if line.startswith("quell-demo-")]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for the sensor and for network namespaces")
def test_as_root_a_netcat_dies_and_a_namespace_goes_dark(shell: dict[str, str], tmp_path: Path) -> None:
    done = play({**shell, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "from exec to gone in",
        "agent carried out the signed command",
        "webhook received, signature verified",
        "ping stops; the process inside keeps running",
        "ping answers",
        "asked by rule/",
        "everything did what it should",
    ):
        assert said in done.stdout
    assert "left out" not in done.stdout
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv to give root up")
def test_without_root_it_does_the_rest_and_says_what_it_cannot(shell: dict[str, str]) -> None:
    done = play(shell, *(UNPRIVILEGED if os.geteuid() == 0 else ()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from exec to gone in" in done.stdout
    assert "network namespaces need root" in done.stdout
    assert "the agent: quarantine:" in done.stdout


def test_an_error_is_told_and_makes_it_fail(shell: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quell", "demo", "--examples", str(tmp_path)]
    done = subprocess.run(command, env=shell, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1
    assert f"no examples in {tmp_path}" in done.stdout
