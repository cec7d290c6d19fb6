"""What was gathered before a kill, in a real browser: of a real process behind a real agent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.real_agent import agent, start_ticks
from tests.system.live import Live
from tests.system.running import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for what a real agent does here"),
]

HERE = "evidence-node"
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-and-keep}
spec: {event: incident, criteria: ["name:Host.Suspicious.Process", "process:tail"], actions: [agentKillProcess], evidence: true}
"""


def test_an_operator_sees_what_a_killed_process_was_and_a_viewer_does_not(
    logged_in: Callable[[str], Page], admin: httpx.Client, server: Live, tmp_path: Path
) -> None:
    admin.post("/v1/documents", content=RULE).raise_for_status()
    read = tmp_path / "what-it-reads"
    read.touch()
    environment = {**os.environ, "SHOP": "cart", "API_TOKEN": "of-the-shop"}
    with (
        agent(server, tmp_path / "agent", HERE),
        subprocess.Popen(["tail", "-f", str(read)], env=environment, stdout=subprocess.DEVNULL) as victim,
    ):
        try:
            wait_for(lambda: str(read) in opened(victim.pid), 60, "that it reads its file")
            time.sleep(0.05)  # a process of the same clock tick as its event is not proved to be the one meant
            process = {"pid": victim.pid, "start_ticks": start_ticks(victim.pid), "name": "tail"}
            subject = {"node": HERE, "process": process}
            event = {"id": "keep-me", "time": time.time(), "name": "Host.Suspicious.Process", "subject": subject}
            admin.post("/v1/events", json=event).raise_for_status()
            assert victim.wait(60) == -9
        finally:
            victim.kill()
        wait_for(lambda: bool(admin.get("/v1/evidence/keep-me").raise_for_status().json()["items"]), 60, "evidence")
        page = logged_in("operator")
        page.goto("/console/notifications/event/keep-me")
        card = page.locator("section", has=page.get_by_role("heading", name="Evidence from before the kill"))
        expect(card).to_contain_text(f"(pid {victim.pid})")
        expect(card).to_contain_text(f"tail -f {read}")
        for title, told in (("Environment", "cart"), ("Open files", str(read))):
            part = card.locator("details", has_text=title)
            part.locator("summary").click()
            expect(part.get_by_role("table")).to_contain_text(told)
        expect(card).not_to_contain_text("of-the-shop")
    page.context.clear_cookies()
    page = logged_in("viewer")
    page.goto("/console/notifications/event/keep-me")
    expect(page.get_by_role("heading", name="Actions")).to_be_visible()
    expect(page.get_by_role("heading", name="Evidence from before the kill")).to_have_count(0)
    assert str(read) not in page.content()


def opened(pid: int) -> list[str]:
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except OSError:
            continue
    return found
