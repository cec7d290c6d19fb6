"""Webhooks in a real browser, with a receiver on loopback that really gets what is sent."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.real_agent import session
from tests.system.live import Live
from tests.system.running import wait_for

pytestmark = pytest.mark.slow

SECRET = "whsec_b25seS1mb3ItdGhpcy10ZXN0LW5vdC1hLXNlY3JldCE="
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: tell-the-receiver}
spec: {event: event, criteria: ["name:Told.By.The.Console"], actions: [webhook], webhooks: [receiver]}
"""


class Receiver:
    """Answers with `status`, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.status = 204
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.got.append((self.headers.get("webhook-signature", ""), body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def happen(admin: httpx.Client, identifier: str) -> None:
    event = {"id": identifier, "name": "Told.By.The.Console", "category": "event", "time": time.time()}
    admin.post("/v1/events", json=event).raise_for_status()


def dead_letters(admin: httpx.Client) -> int:
    return int(admin.get("/v1/webhooks/receiver").raise_for_status().json()["dead_letters"])


def test_an_endpoint_from_its_making_to_its_end(
    logged_in: Callable[[str], Page], admin: httpx.Client, receiver: Receiver, complaints: Complaints
) -> None:
    page = logged_in("admin")
    page.goto("/console/webhooks")
    page.get_by_role("link", name="New endpoint").click()
    # What is wrong is told at its field, and what was filled in stays.
    complaints.expect("422")
    page.get_by_label("Name", exact=True).fill("receiver")
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("Secret").fill(SECRET)
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#url-error")).to_contain_text("use https, or say allow_http")
    expect(page.get_by_label("Name", exact=True)).to_have_value("receiver")
    page.get_by_text("Headers, TLS and network").click()
    page.get_by_label("Allow http").check()
    page.get_by_label("Allow loopback").check()
    page.get_by_label("Secret").fill(SECRET)
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/console/webhooks/of/receiver")
    expect(page.get_by_role("status")).to_contain_text("receiver was created")
    assert SECRET not in page.content()

    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The test was delivered: HTTP 204")).to_be_visible()
    ((signature, body),) = receiver.got
    assert signature.startswith("v1,")
    assert "Webhook.Test" in body

    admin.post("/v1/documents", content=RULE).raise_for_status()
    happen(admin, "told-1")
    wait_for(lambda: len(receiver.got) == 2, 60, "the delivery")
    wait_for(lambda: bool(deliveries(admin, "told-1")), 60, "the note of the delivery")
    page.goto("/console/webhooks/deliveries?event=told-1")
    row = page.get_by_role("row").filter(has_text="receiver")
    expect(row).to_contain_text("delivered")
    expect(row).to_contain_text("HTTP 204")

    # What is refused is given up, kept, and sent again.
    receiver.status = 400
    happen(admin, "told-2")
    wait_for(lambda: dead_letters(admin) == 1, 60, "the dead letter")
    receiver.status = 204
    page.goto("/console/webhooks/dead-letters?endpoint=receiver")
    row = page.get_by_role("row").filter(has_text="told-2")
    row.get_by_role("link").first.click()
    expect(page.get_by_role("region", name="What would be sent")).to_contain_text("Told.By.The.Console")
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("status")).to_contain_text("It is sent to receiver again")
    wait_for(lambda: dead_letters(admin) == 0 and len(receiver.got) == 4, 60, "the replay")

    receiver.status = 400
    happen(admin, "told-3")
    wait_for(lambda: dead_letters(admin) == 1, 60, "the dead letter")
    page.goto("/console/webhooks/dead-letters?endpoint=receiver")
    page.get_by_role("row").filter(has_text="told-3").get_by_role("link", name="Discard").click()
    page.get_by_role("dialog").get_by_role("button", name="Discard it").click()
    expect(page.get_by_role("status")).to_contain_text("was discarded")
    assert dead_letters(admin) == 0

    page.goto("/console/webhooks/of/receiver")
    page.get_by_role("link", name="Disable").click()
    expect(page.get_by_role("dialog")).to_contain_text("Rules that name it tell nobody")
    page.get_by_role("dialog").get_by_role("button", name="Disable it").click()
    expect(page.get_by_role("status")).to_contain_text("receiver is disabled")
    assert admin.get("/v1/webhooks/receiver").json()["state"] == "disabled"
    # The secret that nobody typed again is still there.
    shown = admin.get("/v1/documents/Webhook/receiver", params={"secrets": True}).json()["spec"]
    assert (shown["secret"], shown["enable"]) == (SECRET, False)

    page.get_by_role("link", name="Delete").click()
    complaints.expect("409")
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("alert")).to_contain_text("tell-the-receiver")
    admin.delete("/v1/documents/ResponseRule/tell-the-receiver").raise_for_status()
    page.get_by_role("button", name="Delete it").click()
    page.wait_for_url("**/console/webhooks")
    expect(page.get_by_role("status")).to_contain_text("receiver was deleted")


def test_an_endpoint_is_edited(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("author")
    page.goto("/console/webhooks/edit/archive")
    expect(page.get_by_label("Secret")).to_have_value("")
    page.get_by_label("Only from this level on").select_option("Critical")
    page.get_by_label("cve-report").check()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/console/webhooks/of/archive")
    expect(page.get_by_text("cve-report")).to_be_visible()
    shown = admin.get("/v1/documents/Webhook/archive", params={"secrets": True}).json()["spec"]
    assert shown["filter"] == {"categories": ["cve-report"], "level": "Critical"}
    assert shown["secret"].startswith("whsec_")
    assert shown["headers"] == {"X-Tenant": "shop"}


def test_roles(logged_in: Callable[[str], Page], server: Live) -> None:
    """A viewer looks; an author writes, and neither sends nor replays."""
    page = logged_in("viewer")
    page.goto("/console/webhooks/of/chat")
    for name in ("Edit", "Disable", "Delete"):
        expect(page.locator("main").get_by_role("link", name=name, exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Send a test")).to_have_count(0)
    refused = {
        "viewer": (
            "new",
            "edit/chat",
            "switch/chat",
            "delete/chat",
            "test/chat",
            "replay-all/archive",
            "discard-all/archive",
        ),
        "author": ("test/chat", "replay-all/archive", "discard-all/archive"),
    }
    for role, paths in refused.items():
        with session(server, role) as (client, csrf):
            for path in paths:
                assert client.post(f"/console/webhooks/{path}", data={"csrf": csrf}).status_code == 403, (role, path)


def deliveries(admin: httpx.Client, event: str) -> list[object]:
    found: list[object] = (
        admin.get("/v1/webhooks/deliveries", params={"event": event}).raise_for_status().json()["items"]
    )
    return found
