"""What the demonstration plays on: a controller and an agent of its own, and a folder that goes with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from quell.client import Client
from quell.errors import QuellError
from quell.model.decision import Status
from quell.model.explanation import Explanation

Found = TypeVar("Found")

#: Seconds after which something that should have happened has not.
PATIENCE = 15.0


class DemoError(QuellError):
    """Something did not do what it should."""


class Stage(Struct, frozen=True, kw_only=True):
    client: Client
    url: str
    #: The agent as the API tells of it.
    agent: dict[str, Any]
    #: A folder for what the scenes need.
    folder: Path
    process: subprocess.Popen[bytes]
    #: Seconds from the start of `quell up` until it took events.
    ready_after: float
    #: The same until its agent was connected.
    agent_after: float

    @property
    def node(self) -> str:
        return str(self.agent["node"])

    def explained(self, event_id: str) -> Explanation:
        """The record of an event once every action of it that was granted has an outcome."""

        def complete() -> Explanation | None:
            explanation = self.client.events.explanation(event_id)
            ended = {outcome.id for outcome in explanation.outcomes}
            for record in explanation.decision.actions:
                waits = [record.id] if record.agent else [f"{event_id}/webhook/{name}" for name in record.endpoints]
                if record.status is Status.GRANTED and not ended.issuperset(waits):
                    return None
            return explanation

        return wait_for(complete, f"the outcomes of event {event_id}")


def wait_for(look: Callable[[], Found | None], what: str, patience: float = PATIENCE) -> Found:
    """What look finds; DemoError if it finds nothing in time."""
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: nothing within {patience:g} s")
        time.sleep(0.01)


@contextmanager
def raised(state: Path, folder: Path, *, port: int, watch_list: Path | None) -> Iterator[Stage]:
    """`quell up` in a process of its own. DemoError with the end of its log if it does not come up."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = state / "log"
    command = [sys.executable, "-m", "quell", "up", "--port", str(port), "--state", str(state)]
    if watch_list is not None:
        command += ["--watch-list", str(watch_list)]
    began = time.monotonic()
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=_environment())
    try:
        url = wait_for(lambda: _ready(process, log), "quell up")
        ready_after = time.monotonic() - began
        with Client(url, (state / "admin.token").read_text().strip()) as client:
            agent = wait_for(lambda: _connected(client), f"the agent's connection (log: {log})")
            yield Stage(
                client=client,
                url=url,
                agent=agent,
                folder=folder,
                process=process,
                ready_after=ready_after,
                agent_after=time.monotonic() - began,
            )
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """Without what points another command to another controller."""
    return {
        name: value for name, value in os.environ.items() if name not in {"QUELL_URL", "QUELL_TOKEN", "QUELL_STATE"}
    }


def _ready(process: subprocess.Popen[bytes], log: Path) -> str | None:
    text = log.read_text(errors="replace")
    if process.poll() is not None:
        raise DemoError(f"quell up ended with exit code {process.returncode}:\n{text[-2000:]}")
    found = re.search(r"Quell is ready: (\S+)", text)
    return found[1] if found else None


def _connected(client: Client) -> dict[str, Any] | None:
    return next((agent for agent in client.agents.all() if agent["connected"]), None)
