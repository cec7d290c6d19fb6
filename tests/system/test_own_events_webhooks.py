"""Webhooks about Quell itself: the guide's rule for an agent that was lost, and a webhook that leads back to Quell."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.live import Live, live
from tests.system.scripted_agent import NODE, ScriptedAgent

from quell.configuration import Configuration
from quell.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings().with_values({"webhooks.allow_private": True, "server.rate_burst": 100_000})
BACK = """
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: back}}
spec: {{url: "{url}/v1/users/alice/unlock", type: JSON, allow_http: true, headers: {{Authorization: "Bearer {token}"}}}}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: circle}}
spec: {{event: event, criteria: ["name:RESTful.Write"], actions: [webhook], webhooks: [back]}}
"""


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An endpoint on loopback, and what it was sent."""
    received: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serving(folder: Path) -> Any:
    return live(folder, configuration=Configuration(settings=SETTINGS))


def test_the_guides_rule_tells_of_an_agent_that_was_lost(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-events.md").read_text()
    _, _, block = page.partition("<!-- file: agent-lost.yaml -->\n```yaml\n")
    documents, end, _ = block.partition("```")
    assert end
    with receiver() as (url, received), serving(tmp_path / "state") as server, server.client() as admin:
        assert "https://hooks.example.com/quell" in documents
        mine = documents.replace("https://hooks.example.com/quell", url).replace(
            "type: JSON", "type: JSON, allow_http: true"
        )
        admin.post("/v1/documents", content=mine).raise_for_status()
        agent = ScriptedAgent(admin)
        with agent.linked():
            assert received == []
        wait_until(lambda: bool(received), "the delivery")
        (told,) = received
        assert "Enforcer.Disconnect" in json.dumps(told)
        assert f"on {NODE} is not connected any more" in json.dumps(told)
        (flag,) = admin.get("/v1/flags").raise_for_status().json()["items"]
        assert (flag["name"], flag["impact"]) == ("Enforcer.Disconnect", "Nothing can be done on this machine")


def test_a_webhook_that_leads_back_goes_round_four_times(tmp_path: Path) -> None:
    with serving(tmp_path / "state") as server, server.client() as admin:
        user = {"name": "alice", "role": "viewer", "password": "a slow green tin roof"}
        admin.post("/v1/users", json=user).raise_for_status()
        admin.post("/v1/documents", content=BACK.format(url=server.url, token=server.token("admin"))).raise_for_status()
        wait_until(lambda: bool(circles(admin)), "the flag")
        before = writes(server)
        # Of the application itself, and what follows from it: none of the last is answered.
        wait_until(lambda: nothing_waits(server), "the outbox")
        assert writes(server) == before
        depths = sorted(identifier.count("/event") for identifier in before)
        assert max(depths) == 4 + 1
        assert len(circles(admin)) == 1


def circles(admin: Any) -> list[str]:
    found = admin.get("/v1/flags").raise_for_status().json()["items"]
    return [flag["name"] for flag in found if "circles" in flag["name"]]


def writes(server: Live) -> list[str]:
    stored = server.controller.store.recent(1000)
    return [one.id for one in stored if one.source == "quell" and json.loads(one.raw)["name"] == "RESTful.Write"]


def nothing_waits(server: Live) -> bool:
    return not server.controller.store.outbox()


def wait_until(condition: Any, what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)
