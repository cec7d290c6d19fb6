"""A real controller and a real agent with its sensor, for tests of what policies make of workloads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from running import NODE, Quell, wait_for

SECONDS = 60.0


class Guarded(Quell):
    """environment: of both processes, beside this one's."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._environment = dict(environment)

    def start_agent(self, fault: str = "", token: str = "") -> None:
        words = ["-m", "quell.agent", "--url", self.url, "--state", str(self.folder / "agent"), "--node", NODE]
        self.agent = self._start(words, "agent.log", fault, {"QUELL_JOIN_TOKEN": token} if token else {})

    def apply(self, text: str) -> None:
        self.ask("POST", "/v1/documents", content=text)

    def quell(self, *words: str) -> str:
        """The output of a command against this controller. AssertionError: it failed."""
        command = [sys.executable, "-m", "quell", "--url", self.url, "--state", str(self.folder / "controller"), *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"quell {' '.join(words)}: {done.stderr}"
        return done.stdout

    def deviations(self, policy: str | None = None) -> list[dict[str, Any]]:
        params = {"limit": 1000} | ({"policy": policy} if policy else {})
        return list(self.ask("GET", "/v1/deviations", params=params)["items"])

    def count(self, name: str) -> int:
        """How often a process of this name deviated."""
        return sum(each["count"] for each in self.deviations() if each["subject"]["process"]["name"] == name)

    def outcomes(self, event_id: str) -> list[dict[str, Any]]:
        """Once there are any."""
        path = f"/v1/events/{event_id}"
        wait_for(lambda: bool(self.ask("GET", path).get("outcomes")), SECONDS, "the outcome")
        return list(self.ask("GET", path)["outcomes"])

    def found(self) -> list[dict[str, Any]]:
        """Events that the guardian made, the newest first."""
        return list(self.ask("GET", "/v1/events", params={"source": "guardian", "limit": 1000})["items"])

    def _start(
        self, command: list[str], log: str, fault: str, more: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return super()._start(command, log, fault, {**self._environment, **(more or {})})
