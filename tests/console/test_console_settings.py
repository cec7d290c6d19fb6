"""Settings, the pause and the audit log, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.real_agent import session
from tests.system.live import Live
from tests.system.running import wait_for

pytestmark = pytest.mark.slow


def value(admin: httpx.Client, name: str) -> object:
    return admin.get(f"/v1/settings/{name}").raise_for_status().json()["value"]


def test_a_setting_is_changed_and_stands_in_the_audit_log(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    page = logged_in("admin")
    page.goto("/console/settings?text=breaker")
    page.get_by_role("link", name="Change").click()
    expect(page.locator("main")).to_contain_text("too low stops answering")
    complaints.expect("422")
    page.get_by_label("Value").fill("often")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("#value-error")).to_contain_text("safety.breaker")
    page.get_by_label("Value").fill("5/2h")
    page.get_by_label("Why").fill("pods come back slowly here")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.get_by_role("heading", name="Change safety.breaker?")).to_be_visible()
    assert value(admin, "safety.breaker") == "3/1h"
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("status")).to_contain_text("safety.breaker is now 5/2h")
    assert value(admin, "safety.breaker") == "5/2h"

    page.goto("/console/audit?kind=setting&name=safety.breaker")
    expect(page.get_by_text("chain verified")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="pods come back slowly here")
    for told in ("user/admin", "3/1h", "5/2h"):
        expect(row).to_contain_text(told)
    row.get_by_role("link").click()
    expect(page.get_by_role("region", name="Before and after")).to_contain_text("5/2h")

    page.goto("/console/settings/edit/safety.breaker")
    page.get_by_role("button", name="Back to 3/1h").click()
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("status")).to_contain_text("safety.breaker is now 3/1h")
    assert value(admin, "safety.breaker") == "3/1h"


def test_the_protected_list_is_not_emptied_by_accident(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    page = logged_in("admin")
    page.goto("/console/settings/edit/safety.protected_namespaces")
    page.get_by_label("Value").fill("")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("main")).to_contain_text("No namespace is protected then")
    complaints.expect("422")
    page.get_by_role("button", name="Change it").click()
    expect(page.locator("#value-error")).to_contain_text("allow_empty")
    assert value(admin, "safety.protected_namespaces") == ["kube-system", "quell"]


def test_everything_destructive_is_paused_and_goes_on(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("operator")
    page.goto("/console/settings")
    page.get_by_role("link", name="Pause everything destructive").click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("nothing is killed, ended or isolated anywhere")
    asked.get_by_label("Why").fill("maintenance")
    asked.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_text("Responses are paused.")).to_be_visible()
    try:
        expect(page.locator("main")).to_contain_text("Paused by user/operator")
        expect(page.locator("main")).to_contain_text("maintenance")
        event = {
            "id": "while-paused",
            "time": time.time(),
            "category": "incident",
            "name": "Container.Suspicious.Process",
            "subject": {"node": "edge-1", "process": {"pid": 77, "start_ticks": 5, "boot_id": "boot", "name": "nc"}},
        }
        admin.post("/v1/events", json=event).raise_for_status()
        wait_for(lambda: admin.get("/v1/events/while-paused").status_code == 200, 30, "the decision")
        page.get_by_role("link", name="What was refused meanwhile").click()
        row = page.get_by_role("row").filter(has_text="refused").first
        expect(row).to_contain_text("agentKillProcess")
        page.goto("/console/notifications/event/while-paused")
        expect(page.get_by_role("region", name="Actions").first).to_contain_text("paused")
    finally:
        page.goto("/console/settings")
        page.get_by_role("link", name="Go on").click()
        page.get_by_role("dialog").get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", name="Responses are on")).to_be_visible()
    assert admin.get("/v1/pause").json()["paused"] is False
    verbs = [each["entry"]["verb"] for each in admin.get("/v1/audit", params={"name": "safety.paused"}).json()["items"]]
    assert verbs[:2] == ["resume", "pause"]


def test_the_whole_log_is_checked(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("admin")
    page.goto("/console/audit")
    page.get_by_role("link", name="Check all of it").click()
    expect(page.locator("main h1")).to_have_text("The log is as it was written")
    page.goto("/console/audit?actor=user%2Fadmin&verb=login")
    expect(page.get_by_role("row").filter(has_text="user/admin").first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="token/first-admin")).to_have_count(0)


@pytest.mark.parametrize("role", ["viewer", "author"])
def test_who_may_not_pause_is_refused(
    logged_in: Callable[[str], Page], admin: httpx.Client, server: Live, role: str
) -> None:
    page = logged_in(role)
    page.goto("/console/settings")
    expect(page.get_by_role("heading", name="Responses are on")).to_be_visible()
    expect(page.locator("main").get_by_role("link", name="Change")).to_have_count(0)
    expect(page.get_by_role("link", name="Pause everything destructive")).to_have_count(0)
    page.goto("/console/audit")
    expect(page.get_by_role("link", name="Export")).to_have_count(0)
    with session(server, role) as (client, csrf):
        assert client.post("/console/settings/pause", data={"csrf": csrf, "paused": "true"}).status_code == 403
    assert admin.get("/v1/pause").json()["paused"] is False
