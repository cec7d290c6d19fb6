"""A controller and an agent of its own for the pages, and a `quell` on the path."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from guide import ROOT, Quell

from quell.cli.demo.stage import wait_for
from quell.client import Client


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which `quell` is this checkout's."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "quell"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quell "$@"\n')
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUELL_")}
    source = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return kept | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source}


@pytest.fixture
def quell(shell: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quell]:
    """`quell up` on any free port. Its agent watches for nothing, so that it leaves other tests' processes alone."""
    state = tmp_path_factory.mktemp("state")
    watch_list = state / "watchlist.toml"
    watch_list.write_text('[[watch]]\nname = "nothing"\nexe = ["/nowhere/to/be/found"]\n')
    log = state / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            ["quell", "up", "--port", "0", "--state", str(state), "--watch-list", str(watch_list)],
            env=shell,
            stderr=stderr,
        )
    try:
        url = _url(process, log)
        token = (state / "admin.token").read_text().strip()
        with Client(url, token) as client:
            wait_for(lambda: any(agent["connected"] for agent in client.agents.all()), "the agent's connection")
        wait_for(lambda: httpx.get(f"{url}/readyz").is_success, "that it is ready")
        yield Quell(url, shell | {"QUELL_URL": url, "QUELL_TOKEN": token, "QUELL_STATE": str(state)})
    finally:
        process.terminate()
        process.wait(20)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    def look() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"Quell is ready: (\S+)", log.read_text())
        return found[1] if found else None

    return wait_for(look, "quell up", patience=30)
