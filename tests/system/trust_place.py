"""A controller that speaks TLS and an agent that dials it, each a process of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
from running import free_port, wait_for
from tests.system.command import quell

NODE = "trust-test-node"


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "controller"
        self.agent_state = folder / "agent"
        self.port = free_port()
        self.environment: dict[str, str] = {"QUELL_SERVER_TLS": "on"}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ca_file = self.state / "ca.crt"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def controller_words(self) -> list[str]:
        return ["-m", "quell", "controller", "--port", str(self.port), "--state", str(self.state)]

    def start_controller(self) -> subprocess.Popen[bytes]:
        started = self._start(self.controller_words(), self.environment, "controller.log")
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: self._ready() or started.poll() is not None, what="the controller")
        assert self._ready(), self.log()
        assert started.poll() is None, self.log()
        return started

    def start_agent(self, token: str = "") -> subprocess.Popen[bytes]:
        given = ["-m", "quell.agent", "--url", self.url, "--state", str(self.agent_state), "--node", NODE]
        environment = {"QUELL_JOIN_TOKEN": token} if token else {}
        return self._start([*given, "--no-sensor", "--no-containers"], environment, "agent.log")

    def cli(self, *words: str, code: int = 0) -> str:
        done = quell(*words, url=self.url, state=self.state)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def client(self) -> httpx.Client:
        """An admin's."""
        token = (self.state / "admin.token").read_text().strip()
        context = ssl.create_default_context(cafile=self.ca_file)
        return httpx.Client(base_url=self.url, verify=context, headers={"Authorization": f"Bearer {token}"})

    def agents(self) -> list[tuple[str, bool]]:
        """Id, and whether it is linked."""
        with self.client() as client:
            items = client.get("/v1/agents").raise_for_status().json()["items"]
        return [(each["id"], each["connected"]) for each in items]

    def linked(self) -> bool:
        return any(connected for _, connected in self.agents())

    def join_token(self, *words: str) -> str:
        return self.cli(*words, "agents", "join-token").splitlines()[0]

    def join(self) -> subprocess.Popen[bytes]:
        agent = self.start_agent(self.join_token())
        wait_for(self.linked, what="the agent's link")
        return agent

    def pinned(self) -> str:
        """The key that the agent obeys."""
        return self.agent_state.joinpath("controller.pub").read_text()

    def log(self) -> str:
        return "".join(path.read_text()[-4000:] for path in sorted(self.folder.glob("*.log")))

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    def close(self) -> None:
        for process in self.processes:
            self.stop(process)

    def _ready(self) -> bool:
        try:
            with httpx.Client(verify=ssl.create_default_context(cafile=self.ca_file)) as client:
                return client.get(f"{self.url}/readyz").is_success
        except (httpx.HTTPError, OSError):
            return False

    def _start(self, words: list[str], environment: dict[str, str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            started = subprocess.Popen(
                [sys.executable, *words], env={**os.environ, **environment}, stdout=file, stderr=file
            )
        self.processes.append(started)
        return started
