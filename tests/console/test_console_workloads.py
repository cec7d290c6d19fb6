"""Workloads, nodes and the page of an agent, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.real_agent import session
from tests.system.live import Live
from tests.system.running import wait_for

pytestmark = pytest.mark.slow

SEARCH = f"{b'search'.hex():0<64}"


def test_filters_stand_in_the_address(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("viewer")
    page.goto("/console/workloads")
    expect(page.get_by_role("link", name="payments")).to_be_visible()
    page.get_by_label("Name, pod, service or id").fill("pay")
    page.get_by_role("button", name="Filter").click()
    assert "text=pay" in page.url
    expect(page.locator("main tbody tr")).to_have_count(1)
    page.goto("/console/workloads?namespace=sh*&sort=-name")
    names = page.locator("main tbody td.main a").all_inner_texts()
    assert names == sorted(names, reverse=True)
    assert {"cart", "checkout", "payments", "search"} <= set(names)


def test_rest_has_the_same_search(admin: httpx.Client) -> None:
    found = admin.get("/v1/workloads", params={"text": "PAY"}).raise_for_status().json()["items"]
    assert [each["name"] for each in found] == ["payments"]


def test_a_workload_is_isolated_from_the_list_and_released(
    logged_in: Callable[[str], Page], admin: httpx.Client
) -> None:
    page = logged_in("operator")
    page.goto("/console/workloads?text=search")
    page.get_by_role("link", name="Isolate", exact=True).click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("All its network traffic is blocked")
    expect(asked).to_contain_text("It keeps running")
    asked.get_by_label("Why").fill("looks odd")
    asked.get_by_role("button", name="Isolate it").click()
    page.wait_for_url("**/console/quarantine/of/**")
    wait_for(lambda: phases(admin).get(SEARCH) == "isolated", 60, "the quarantine")
    page.goto(f"/console/workloads/of/{SEARCH}")
    expect(page.locator("main")).to_contain_text("held by user/operator")
    page.get_by_role("link", name="Release").click()
    page.get_by_role("dialog").get_by_role("button", name="Release").click()
    wait_for(lambda: SEARCH not in phases(admin), 60, "the release")


def test_the_page_of_an_agent_has_its_workloads(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("operator")
    page.goto("/console/agents")
    page.get_by_role("link", name="edge-1").click()
    told = page.get_by_role("region", name="Containers on this machine")
    expect(told.get_by_role("link", name="cart")).to_be_visible()
    expect(told.get_by_role("link", name="Isolate").first).to_be_visible()
    page.goto("/console/workloads/nodes")
    row = page.get_by_role("row").filter(has_text="edge-1")
    expect(row).to_contain_text("connected")


def test_a_viewer_gets_no_button(logged_in: Callable[[str], Page], server: Live) -> None:
    page = logged_in("viewer")
    page.goto("/console/workloads")
    expect(page.get_by_role("link", name="cart")).to_be_visible()
    expect(page.get_by_role("link", name="Isolate", exact=True)).to_have_count(0)
    with session(server, "viewer") as (client, csrf):
        form = {"csrf": csrf, "workload": SEARCH}
        assert client.post("/console/quarantine/new", data=form).status_code == 403


def phases(admin: httpx.Client) -> dict[str, str]:
    found = admin.get("/v1/quarantines").raise_for_status().json()["items"]
    return {each["key"]: each["phase"] for each in found}
