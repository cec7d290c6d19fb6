"""Approvals in a real browser, with a real process behind a real agent."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.example_data import NODES
from tests.console.real_agent import agent, session, start_ticks
from tests.system.live import Live
from tests.system.running import wait_for

pytestmark = pytest.mark.slow

HERE = "approvals-node"
RULES = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: ask-before-killing-sleepers}
spec: {event: incident, criteria: ["process:sleep"], actions: [agentKillProcess], approval: true}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: ask-before-killing-perl}
spec: {event: incident, criteria: ["process:perl"], actions: [agentKillProcess], approval: true}
"""


@pytest.fixture(scope="module", autouse=True)
def rules(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULES).raise_for_status()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def incident(admin: httpx.Client, identifier: str, process: dict[str, Any], node: str = NODES[0]) -> None:
    event = {
        "id": identifier,
        "time": time.time(),
        "category": "incident",
        "name": "Host.Suspicious.Process",
        "level": "Critical",
        "subject": {"node": node, "process": process},
        "details": {"message": f"it was started by hand: {identifier}"},
    }
    admin.post("/v1/events", json=event).raise_for_status()


def waiting(admin: httpx.Client) -> list[str]:
    return [each["id"] for each in admin.get("/v1/approvals").raise_for_status().json()["items"]]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for what a real agent does here")
def test_a_kill_is_approved_and_its_outcome_seen(
    logged_in: Callable[[str], Page],
    admin: httpx.Client,
    server: Live,
    tmp_path: Path,
    sleeper: subprocess.Popen[bytes],
) -> None:
    with agent(server, tmp_path / "agent", HERE):
        process = {"pid": sleeper.pid, "start_ticks": start_ticks(sleeper.pid), "name": "sleep"}
        incident(admin, "kill-me", process, HERE)
        page = logged_in("operator")
        page.goto("/console/approvals")
        row = page.get_by_role("row").filter(has_text=f"sleep (pid {sleeper.pid})")
        expect(row).to_contain_text("Host.Suspicious.Process")
        expect(row).to_contain_text("asks for approval")
        row.get_by_role("link", name="Approve").click()
        asked = page.get_by_role("dialog")
        expect(asked).to_contain_text(f"Kill sleep (pid {sleeper.pid}) on {HERE}")
        expect(asked).to_contain_text("This cannot be undone")
        expect(asked).to_contain_text("process:sleep")
        assert sleeper.poll() is None
        asked.get_by_label("Why").fill("nobody started it")
        asked.get_by_role("button", name="Approve: agentKillProcess").click()
        page.wait_for_url("**/console/notifications/event/kill-me")
        expect(page.get_by_role("status")).to_contain_text("Approved: agentKillProcess is on its way")
        assert sleeper.wait(60) == -9
        wait_for(lambda: bool(admin.get("/v1/events/kill-me").json().get("outcomes")), 60, "the outcome")
        page.reload()
        actions = page.locator("section", has=page.get_by_role("heading", name="Actions"))
        expect(actions).to_contain_text("done")
        page.goto("/console/approvals/decided")
        row = page.get_by_role("row").filter(has_text="nobody started it")
        for told in ("approved", "user/operator", "done", f"{HERE}/sleep[{sleeper.pid}]"):
            expect(row).to_contain_text(told)


def test_a_denial_is_kept_with_its_note(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    incident(admin, "deny-me", {"pid": 991, "start_ticks": 5, "boot_id": "boot", "name": "perl"})
    page = logged_in("operator")
    page.goto("/console/approvals")
    row = page.get_by_role("row").filter(has_text="perl (pid 991)")
    row.get_by_role("link", name="Deny").click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("Nothing is done")
    asked.get_by_label("Why").fill("it is the backup")
    asked.get_by_role("button", name="Deny it").click()
    expect(page.get_by_role("status")).to_contain_text("Denied: agentKillProcess")
    expect(page.get_by_text("perl (pid 991)")).to_have_count(0)
    page.get_by_role("link", name="Decided").click()
    row = page.get_by_role("row").filter(has_text="it is the backup")
    expect(row).to_contain_text("denied")
    expect(row).to_contain_text("nothing was done")


def test_what_stands_against_it_is_told_and_it_goes_on_waiting(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    incident(admin, "paused", {"pid": 992, "start_ticks": 5, "boot_id": "boot", "name": "perl"})
    page = logged_in("operator")
    set_pause(admin, paused=True)
    try:
        page.goto("/console/approvals")
        expect(page.get_by_role("note")).to_contain_text("Responses are paused")
        page.goto("/console/approvals/decide/paused%2F0")
        page.get_by_label("Why").fill("at once")
        complaints.expect("409")
        page.get_by_role("button", name="Approve: agentKillProcess").click()
        expect(page.get_by_role("alert")).to_contain_text("paused")
        expect(page.get_by_label("Why")).to_have_value("at once")
        assert "paused/0" in waiting(admin)
    finally:
        set_pause(admin, paused=False)


def test_a_breaker_is_reset(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    """The example data trips it: netcat is killed in one workload again and again."""
    page = logged_in("operator")
    page.goto("/console/approvals/breakers")
    row = page.get_by_role("row").filter(has_text="rule/").first
    expect(row).to_contain_text("agentKillProcess")
    before = len(admin.get("/v1/breakers").json()["items"])
    row.get_by_role("link", name="Reset").click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("If the cause is still there, it will stop again")
    asked.get_by_role("button", name="Reset it").click()
    expect(page.get_by_role("status")).to_contain_text(re.compile("may do agentKillProcess to .* again"))
    assert len(admin.get("/v1/breakers").json()["items"]) == before - 1


@pytest.mark.parametrize("role", ["viewer", "author"])
def test_who_may_not_decide_sees_it_and_is_refused(
    logged_in: Callable[[str], Page], admin: httpx.Client, server: Live, role: str
) -> None:
    pid = {"viewer": 993, "author": 994}[role]
    incident(admin, f"seen-by-{role}", {"pid": pid, "start_ticks": 5, "boot_id": "boot", "name": "perl"})
    page = logged_in(role)
    page.goto("/console/approvals")
    expect(page.get_by_text(f"perl (pid {pid})").first).to_be_visible()
    for name in ("Approve", "Deny"):
        expect(page.locator("main").get_by_role("link", name=name, exact=True)).to_have_count(0)
    with session(server, role) as (client, csrf):
        form = {"csrf": csrf, "verdict": "approve"}
        assert client.post(f"/console/approvals/decide/seen-by-{role}/0", data=form).status_code == 403
        assert client.post("/console/approvals/breakers/reset", data={"csrf": csrf, "key": "x"}).status_code == 403
    assert f"seen-by-{role}/0" in waiting(admin)


def set_pause(admin: httpx.Client, *, paused: bool) -> None:
    tag = admin.get("/v1/pause").headers["etag"]
    admin.put("/v1/pause", json={"paused": paused}, headers={"if-match": tag}).raise_for_status()
