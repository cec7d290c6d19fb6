"""A real agent beside the tests' controller, and a role's session without a browser, for what a browser does not send."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from tests.console.conftest import PASSWORD
from tests.system.live import NO_TLS, Live
from tests.system.running import wait_for


@contextlib.contextmanager
def agent(server: Live, folder: Path, node: str) -> Iterator[None]:
    """A process of its own that is linked as this node."""
    with server.client() as admin:
        token = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).raise_for_status().json()["token"]
        words = ["-m", "quell.agent", "--url", server.url, "--state", str(folder), "--node", node, "--no-sensor"]
        process = subprocess.Popen([sys.executable, *words], env={**os.environ, "QUELL_JOIN_TOKEN": token})
        try:
            wait_for(lambda: (node, True) in linked(admin), 60, "the agent's link")
            yield
        finally:
            process.terminate()
            process.wait(30)


def linked(admin: httpx.Client) -> list[tuple[str, bool]]:
    return [(one["node"], one["connected"]) for one in admin.get("/v1/agents").raise_for_status().json()["items"]]


def start_ticks(pid: int) -> int:
    """When it started: field 22 of its stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@contextlib.contextmanager
def session(server: Live, name: str, password: str = PASSWORD) -> Iterator[tuple[httpx.Client, str]]:
    """Logged in as this user (each role has one of its name), with the mark that a form of theirs carries."""
    with httpx.Client(base_url=server.url, timeout=20, follow_redirects=True, verify=NO_TLS) as client:
        shown = client.post("/login", data={"name": name, "password": password})
        found = re.search(r'name="csrf" value="([^"]+)"', shown.text)
        assert found is not None, shown.text
        yield client, found[1]
