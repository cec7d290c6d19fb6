"""A real controller and a real agent in processes of their own, for tests that stop, kill and start them again."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

NODE = "crash-test-node"

#: Nothing of a test is held back by the engine's budgets.
BUDGETS = {
    "QUELL_SAFETY_BUDGET_ENGINE": "100000/1m",
    "QUELL_SAFETY_BUDGET_RULE": "100000/1m",
    "QUELL_SAFETY_BUDGET_NAMESPACE": "100000/1m",
    "QUELL_SAFETY_BUDGET_REPLICAS": "100",
    "QUELL_SAFETY_BUDGET_ISOLATED": "100",
    "QUELL_SAFETY_BREAKER": "100000/1h",
    "QUELL_WEBHOOKS_ALLOW_PRIVATE": "true",
    # A slow machine may need longer for the restarts between an event and its outcome than a person would allow.
    "QUELL_SAFETY_COMMAND_TTL": "10m",
    "QUELL_SAFETY_MAX_AGE_KILL": "10m",
    "QUELL_SERVER_RATE_LIMIT": "10000",
    "QUELL_SERVER_RATE_BURST": "10000",
}


def free_port() -> int:
    """For a program that is to listen there a moment later: none that an outgoing connection may be given meanwhile."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(first, 20_000))  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for(condition: Callable[[], bool], seconds: float = 30.0, what: str = "the condition") -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.02)


class Quell:
    """Both processes over one state folder. fault: QUELL_FAULT of the next start of that process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.controller: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=self.url, timeout=10, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_controller(self, fault: str = "", settings: dict[str, str] | None = None) -> None:
        """settings: variables of its environment."""
        command = ["-m", "quell", "controller", "--port", str(self.port), "--state", str(self.folder / "controller")]
        self.controller = self._start(command, "controller.log", fault, settings)
        wait_for(lambda: self._ready() or self.controller_ended(), what="the controller")

    def start_agent(self, fault: str = "", token: str = "") -> None:
        command = ["-m", "quell.agent", "--url", self.url, "--state", str(self.folder / "agent"), "--node", NODE]
        self.agent = self._start(
            [*command, "--no-sensor"], "agent.log", fault, {"QUELL_JOIN_TOKEN": token} if token else {}
        )

    def enrol(self) -> None:
        """The first start of the agent."""
        token = self.ask("POST", "/v1/agents/join-tokens", json={"ttl": 60})["token"]
        self.start_agent(token=token)
        wait_for(self.linked, what="the agent's link")

    def linked(self) -> bool:
        return any(one.get("connected") for one in self.ask("GET", "/v1/agents")["items"])

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON. httpx.HTTPError: no answer, or one that is no success."""
        token = (self.folder / "controller" / "admin.token").read_text().strip()
        answer = self._http.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def controller_ended(self) -> bool:
        return self.controller is None or self.controller.poll() is not None

    def agent_ended(self) -> bool:
        return self.agent is None or self.agent.poll() is not None

    def kill(self, process: subprocess.Popen[bytes] | None, number: int = signal.SIGKILL) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(number)
            process.wait(20)

    def stop(self) -> None:
        self.kill(self.agent, signal.SIGTERM)
        self.kill(self.controller, signal.SIGTERM)

    def close(self) -> None:
        self.kill(self.agent)
        self.kill(self.controller)
        self._http.close()

    def log(self) -> str:
        return "".join(f"--- {path.name}\n{path.read_text()[-3000:]}\n" for path in sorted(self.folder.glob("*.log")))

    def _ready(self) -> bool:
        try:
            return self._http.get("/readyz").is_success
        except httpx.HTTPError:
            return False

    def _start(
        self, command: list[str], log: str, fault: str, more: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        environment = BUDGETS | os.environ | (more or {}) | ({"QUELL_FAULT": fault} if fault else {})
        with (self.folder / log).open("ab") as file:
            return subprocess.Popen([sys.executable, *command], env=environment, stdout=file, stderr=file)


class Receiver:
    """A webhook endpoint on loopback that counts deliveries by their id."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        received = self.received

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                received[self.headers["webhook-id"]] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Victim:
    """A process of the test's own, and the event that asks for its end."""

    def __init__(self, identifier: str, *command: str) -> None:
        self.id = identifier
        self.process = subprocess.Popen(command or ("sleep", "600"))
        ticks = int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        self._facts = {
            "pid": self.process.pid,
            "start_ticks": ticks,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "name": Path(f"/proc/{self.process.pid}/comm").read_text().strip(),
        }

    def event(self) -> bytes:
        return json.dumps(
            {
                "id": self.id,
                "time": time.time(),
                "name": "Host.Suspicious.Process",
                "subject": {"node": NODE, "process": self._facts},
            }
        ).encode()

    @property
    def gone(self) -> bool:
        return self.process.poll() is not None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def rules(endpoint: str) -> str:
    return f"""
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: hook}}
spec: {{url: "{endpoint}", type: JSON, allow_http: true, allow_private: true}}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: answer}}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions: [agentKillProcess, webhook, {{makeRedFlag: {{severity: high}}}}]
  webhooks: [hook]
"""
