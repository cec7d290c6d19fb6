"""Groups in a real browser: the list, the form, members, and what is asked before one is deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import PASSWORD
from tests.system.live import Live

pytestmark = pytest.mark.slow


@pytest.fixture
def group(admin: httpx.Client) -> Iterator[Callable[[str, str], str]]:
    """A group of the test's own, by its name and a namespace; it and its rules are gone afterwards."""
    made: list[str] = []

    def put(name: str, namespace: str) -> str:
        document = {
            "apiVersion": "quell.dev/v1",
            "kind": "Group",
            "metadata": {"name": name},
            "spec": {"criteria": [{"key": "namespace", "op": "=", "value": namespace}]},
        }
        admin.put(f"/v1/documents/Group/{name}", json=document).raise_for_status()
        made.append(name)
        return name

    yield put
    for name in made:
        admin.delete(f"/v1/documents/Group/{name}", params={"force": True})


def test_a_group_is_made_and_its_members_are_seen(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("author")
    page.goto("/console/groups")
    page.get_by_role("link", name="New group").click()
    page.get_by_label("Name", exact=True).fill("made-in-a-browser")
    page.get_by_label("Comment", exact=True).fill("by a test")
    page.get_by_label("Key 1").fill("namespace")
    page.get_by_label("Value 1").fill("shop")
    page.get_by_role("button", name="Another criterion").click()
    expect(page.get_by_label("Value 1")).to_have_value("shop")
    page.get_by_label("Key 2").fill("container")
    page.get_by_label("Operator 2").select_option("regex")
    page.get_by_label("Value 2").fill("(")
    expect(page.locator("#criterion-1-error")).to_contain_text("not a regular expression")
    page.get_by_label("Value 2").fill("checkout")
    expect(page.locator("#criterion-1-error")).to_be_empty()
    page.get_by_role("button", name="Make the group").click()
    try:
        expect(page.get_by_role("status")).to_contain_text("Group made-in-a-browser was made")
        expect(page.locator("table.rows tbody tr")).to_have_count(1)
        expect(page.locator("table.rows tbody tr")).to_contain_text("checkout")
        told = admin.get("/v1/documents/Group/made-in-a-browser").raise_for_status().json()
        assert told["spec"] == {
            "comment": "by a test",
            "criteria": [
                {"key": "namespace", "op": "=", "value": "shop"},
                {"key": "container", "op": "regex", "value": "checkout"},
            ],
        }
    finally:
        admin.delete("/v1/documents/Group/made-in-a-browser")


def test_a_name_that_is_taken_is_refused_at_its_field(logged_in: Callable[[str], Page], complaints: Complaints) -> None:
    page = logged_in("author")
    complaints.expect("409", "422")
    for name, told in (("shop", "there is a Group named shop already"), ("containers", "always there")):
        page.goto("/console/groups/new")
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Key 1").fill("namespace")
        page.get_by_label("Value 1").fill("other")
        page.get_by_role("button", name="Make the group").click()
        expect(page.locator("#name-error")).to_contain_text(told)
        expect(page.get_by_label("Value 1")).to_have_value("other")


def test_a_group_is_edited(
    logged_in: Callable[[str], Page], admin: httpx.Client, group: Callable[[str, str], str], complaints: Complaints
) -> None:
    name = group("edited-group", "nowhere")
    page = logged_in("operator")
    page.goto("/console/groups?text=edited-group")
    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_label("Operator 1").select_option("regex")
    page.get_by_label("Value 1").fill("(")
    expect(page.locator("#criterion-0-error")).to_contain_text("not a regular expression")
    page.get_by_label("Operator 1").select_option("=")
    page.get_by_label("Value 1").fill("shop")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.get_by_role("status")).to_contain_text("was changed")
    expect(page.locator("main")).to_contain_text("namespace = shop")
    page.goto(f"/console/groups/edit/{name}")
    group(name, "changed-meanwhile")
    complaints.expect("409")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.get_by_role("alert")).to_contain_text("changed")
    told = admin.get(f"/v1/documents/Group/{name}").json()
    assert told["spec"]["criteria"][0]["value"] == "changed-meanwhile"


def test_deleting_a_group_says_which_rules_go_with_it(
    logged_in: Callable[[str], Page], admin: httpx.Client, group: Callable[[str, str], str]
) -> None:
    name = group("deleted-group", "nowhere")
    rule = {"name": "for-the-deleted-group", "event": "event", "group": name, "actions": ["suppress-log"]}
    admin.post("/v1/rules", json={"rule": rule}).raise_for_status()
    page = logged_in("author")
    page.goto("/console/groups?text=deleted-group")
    page.get_by_role("link", name="Delete", exact=True).click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("for-the-deleted-group")
    # Without the box nothing is deleted.
    asked.get_by_role("button", name="Delete it").click()
    expect(asked).to_be_visible()
    asked.get_by_label("Delete this rule with it").check()
    asked.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("was deleted, with for-the-deleted-group")
    assert admin.get("/v1/rules/for-the-deleted-group").status_code == 404


def test_an_author_cannot_widen_what_a_destructive_rule_acts_on(
    logged_in: Callable[[str], Page], admin: httpx.Client, group: Callable[[str, str], str], complaints: Complaints
) -> None:
    name = group("acted-on", "nowhere")
    rule = {"name": "acts-on-it", "event": "incident", "group": name, "criteria": ["process:none-has-this"], "actions": ["quarantine"]}  # fmt: skip
    admin.post("/v1/rules", json={"rule": rule}).raise_for_status()
    page = logged_in("author")
    page.goto(f"/console/groups/edit/{name}")
    page.get_by_label("Value 1").fill("*")
    complaints.expect("403")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.locator("main")).to_contain_text("it takes an operator to change Group acted-on")
    assert admin.get(f"/v1/documents/Group/{name}").json()["spec"]["criteria"][0]["value"] == "nowhere"


def test_a_viewer_looks_and_is_refused(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    page = logged_in("viewer")
    page.goto("/console/groups?text=shop")
    expect(page.locator("main").get_by_role("link", name=re.compile("Edit|Delete|New group"))).to_have_count(0)
    page.get_by_role("link", name="shop", exact=True).click()
    expect(page.locator("main")).to_contain_text("packages-in-the-shop")
    expect(page.locator("main").get_by_role("link", name=re.compile("Edit|Delete"))).to_have_count(0)
    csrf = page.locator("form[action='/logout'] input[name=csrf]").input_value()
    for address in ("new", "edit/shop", "delete/shop"):
        assert page.request.post(f"/console/groups/{address}", form={"csrf": csrf}).status == 403
    complaints.expect("403")
    page.goto("/console/groups/edit/shop")
    expect(page.locator("main h1")).to_have_text("Forbidden")
    assert admin.get("/v1/documents/Group/shop").is_success


def test_a_group_that_is_always_there_is_not_edited(logged_in: Callable[[str], Page], complaints: Complaints) -> None:
    page = logged_in("admin")
    page.goto("/console/groups/of/containers")
    expect(page.locator("main")).to_contain_text("Every container or pod")
    complaints.expect("409")
    page.goto("/console/groups/edit/containers")
    expect(page.locator("main")).to_contain_text("nobody writes it")


def test_without_script_a_group_is_made_and_deleted(browser: Browser, server: Live, admin: httpx.Client) -> None:
    context = browser.new_context(base_url=server.url, java_script_enabled=False)
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("Name").fill("author")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.goto("/console/groups/new")
    page.get_by_label("Name", exact=True).fill("plain-group")
    page.get_by_label("Key 1").fill("node")
    page.get_by_label("Value 1").fill("edge-*")
    page.get_by_role("button", name="Another criterion").click()
    expect(page.get_by_label("Value 1")).to_have_value("edge-*")
    page.get_by_role("button", name="Make the group").click()
    expect(page.get_by_role("status")).to_contain_text("was made")
    page.get_by_role("link", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("was deleted")
    assert admin.get("/v1/documents/Group/plain-group").status_code == 404
    context.close()
