"""Response rules in a real browser: the table, the form, moving, and what each role may do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import PASSWORD
from tests.system.live import Live

pytestmark = pytest.mark.slow

Insert = Callable[..., int]


@pytest.fixture
def insert(admin: httpx.Client) -> Iterator[Insert]:
    """A rule of the test's own, at the end unless it says where; it is gone afterwards."""
    made: list[int] = []

    def put(after: int | None = None, source: str = "", **fields: Any) -> int:
        rule = {"event": "event", "criteria": ["name:Nothing.Has.This.*"], "actions": ["suppress-log"], **fields}
        answer = admin.post(
            "/v1/rules", json={"rule": rule, "after": after}, params={"source": source} if source else {}
        )
        [change] = answer.raise_for_status().json()
        made.append(change["id"])
        return int(change["id"])

    yield put
    for number in made:
        admin.delete(f"/v1/rules/{number}")


def row(page: Page, number: int) -> Any:
    return page.locator(f"tr[data-rule='{number}']")


def order(page: Page) -> list[int]:
    return [int(each) for each in page.locator("tr[data-rule]").evaluate_all("rows => rows.map(r => r.dataset.rule)")]


def of(admin: httpx.Client, number: int) -> dict[str, Any]:
    told: dict[str, Any] = admin.get(f"/v1/rules/{number}").raise_for_status().json()
    return told


def test_the_table_is_filtered_by_its_address(logged_in: Callable[[str], Page], insert: Insert) -> None:
    page = logged_in("viewer")
    number = insert(comment="look for this one", disable=True)
    page.goto("/console/rules")
    page.get_by_label("Text").fill("look for THIS")
    page.get_by_label("State").select_option("Disabled")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**/console/rules?text=look+for+THIS&event=&group=&enabled=false")
    assert order(page) == [number]
    page.get_by_label("State").select_option("Enabled")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("heading", name="No rule is found")).to_be_visible()
    page.get_by_role("link", name="Show all rules").click()
    assert number in order(page)


def test_the_matches_lead_to_their_events(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("viewer")
    page.goto("/console/rules?text=kill-netcat")
    page.locator("tr[data-rule] td.number a").click()
    page.wait_for_url("**/console/notifications/security-events?rule=*")
    expect(page.locator("table.rows tbody tr").first).to_contain_text("kill-netcat")


def test_what_matched_leads_to_its_rule(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("viewer")
    page.goto("/console/notifications/security-events?rule=kill-netcat")
    page.locator("table.rows").get_by_role("link", name="kill-netcat").first.click()
    expect(page.locator("main h1")).to_have_text("kill-netcat")
    expect(page.locator("main")).to_contain_text("Latest matches")
    page.locator(".met a").first.click()
    page.locator("h3").get_by_role("link", name="kill-netcat").click()
    expect(page.locator("main h1")).to_have_text("kill-netcat")


def test_a_rule_is_inserted_below_another_by_the_form(
    logged_in: Callable[[str], Page], admin: httpx.Client, insert: Insert
) -> None:
    above = insert(name="the-one-above")
    page = logged_in("operator")
    page.goto("/console/rules?text=the-one-above")
    page.get_by_role("link", name=f"Insert below: rule {above}").click()
    # Only what the category can have is offered.
    page.get_by_label("Event", exact=True).select_option("event")
    expect(page.get_by_role("checkbox", name="agentKillProcess", exact=True)).to_have_count(0)
    page.get_by_label("Event", exact=True).select_option("Incidents only")
    expect(page.locator("#agentKillProcess")).to_be_visible()
    offered = page.locator("#completions option").evaluate_all("each => each.map(e => e.value)")
    assert "name:Container.Tunnel.Detected" in offered
    assert "level:>=Warning" in offered
    assert not any(value.startswith("cve-") for value in offered)
    # What was matched is told while it is written.
    page.get_by_label("Criterion 1").fill("name:Container.Tunnel.Detected")
    expect(page.locator("#check .verdict")).to_contain_text(
        re.compile(r"[1-9]\d* of the last \d+ events would have matched")
    )
    expect(page.locator("#check .met").first).to_contain_text("iodine")
    page.get_by_role("button", name="Another criterion").click()
    page.get_by_label("Criterion 2").fill("process:iodine | dnscat")
    page.locator("#makeRedFlag").check()
    page.locator("#makeRedFlag-severity").select_option("low")
    page.locator("#makeRedFlag-impact").fill("Data may leave")
    page.get_by_label("Comment", exact=True).fill("written by a test")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Mode", exact=True).select_option("audit")
    page.get_by_label("Cooldown", exact=True).fill("5m")
    page.get_by_role("button", name="Insert the rule").click()
    page.wait_for_url("**/console/rules#rule-*")
    expect(page.get_by_role("status")).to_contain_text("was inserted")
    number = int(page.url.rpartition("-")[2])
    try:
        told = of(admin, number)
        assert told["place"] == of(admin, above)["place"] + 1
        assert told["status"] == "Auditing"
        assert told["rule"] == {
            "id": number,
            "name": f"rule-{number}",
            "event": "incident",
            "criteria": ["name:Container.Tunnel.Detected", {"type": "process", "value": ["iodine", "dnscat"]}],
            "actions": [{"makeRedFlag": {"severity": "low", "impact": "Data may leave"}}],
            "comment": "written by a test",
            "mode": "audit",
            "cooldown": "5m",
        }
    finally:
        admin.delete(f"/v1/rules/{number}").raise_for_status()


def test_what_is_wrong_is_said_at_the_field(logged_in: Callable[[str], Page], complaints: Complaints) -> None:
    page = logged_in("author")
    page.goto("/console/rules/new")
    page.get_by_label("Criterion 1").fill("level:Sever")
    expect(page.locator("#criterion-0-error")).to_contain_text('unknown level "Sever"')
    expect(page.get_by_label("Criterion 1")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Criterion 1").fill("name:Container.Tunel.Detected")
    expect(page.locator("#criterion-0-doubt")).to_contain_text("neither the catalogue")
    expect(page.locator("#criterion-0-error")).to_be_empty()
    page.get_by_label("Group", exact=True).fill("no-such-group")
    expect(page.locator("#group-error, #check .problems")).to_contain_text(["no-such-group"])
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Limit", exact=True).fill("many")
    expect(page.locator("#limit-error")).to_contain_text("such as 10/1m")
    complaints.expect("422")
    page.locator("#suppress-log").check()
    page.get_by_role("button", name="Insert the rule").click()
    expect(page.locator("#limit-error")).to_contain_text("such as 10/1m")
    expect(page.get_by_label("Limit", exact=True)).to_have_value("many")
    expect(page.locator("#suppress-log")).to_be_checked()


def test_a_rule_is_made_from_an_event(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("author")
    page.goto("/console/notifications/event/incident-0")
    page.get_by_role("link", name="Make a rule from this").click()
    expect(page.get_by_label("Event", exact=True)).to_have_value("incident")
    expect(page.get_by_label("Criterion 1")).to_have_value("name:Container.Tunnel.Detected")
    expect(page.get_by_label("Criterion 2")).to_have_value("process:iodine")
    expect(page.locator("#check .verdict")).to_contain_text("would have matched")


def test_a_rule_is_edited_and_stays_what_it_is_otherwise(
    logged_in: Callable[[str], Page], admin: httpx.Client, insert: Insert, complaints: Complaints
) -> None:
    spec = {
        "event": "security-event",
        "group": "containers",
        "criteria": ["label:app:web", {"type": "name", "value": ["Edited.One", "Edited | Two"]}],
        "actions": [{"quarantine": {"ttl": "1h", "investigator": ["192.0.2.7", "2001:db8::7"]}}, {"makeRedFlag": {"severity": "low"}}, {"makeRedFlag": {"severity": "high"}}, "agentKillProcess"],
        "limit": "10/1m",
        "max_age": "30s",
        "approval": True,
        "evidence": True,
        "disable": True,
    }  # fmt: skip
    number = insert(**spec)
    before = of(admin, number)["rule"]
    page = logged_in("operator")
    page.goto(f"/console/rules/{number}/edit")
    page.get_by_label("Comment", exact=True).fill("now with a comment")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.get_by_role("status")).to_contain_text("was changed")
    assert of(admin, number)["rule"] == {**before, "comment": "now with a comment"}
    # Who edits what somebody else changed meanwhile is told.
    page.goto(f"/console/rules/{number}/edit")
    admin.patch(f"/v1/rules/{number}", json={"comment": "changed meanwhile"}).raise_for_status()
    complaints.expect("409")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.get_by_role("alert")).to_contain_text("changed in the meantime")
    assert of(admin, number)["rule"]["comment"] == "changed meanwhile"


def test_rules_are_switched_and_deleted(logged_in: Callable[[str], Page], admin: httpx.Client, insert: Insert) -> None:
    number = insert(name="switched-by-hand")
    page = logged_in("operator")
    page.goto("/console/rules?text=switched-by-hand")
    row(page, number).get_by_role("button", name="Disable").click()
    expect(row(page, number)).to_contain_text("Disabled")
    expect(page.get_by_role("status")).to_contain_text("was disabled")
    assert page.url.endswith("?text=switched-by-hand")
    row(page, number).get_by_role("button", name="Enable").click()
    expect(row(page, number)).to_contain_text("Enforcing")
    row(page, number).get_by_role("link", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("It holds nothing in quarantine")
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("was deleted")
    assert admin.get(f"/v1/rules/{number}").status_code == 404


def test_what_a_deletion_would_release_is_listed(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("operator")
    page.goto("/console/rules?text=isolate-tunnels")
    page.get_by_role("link", name="Delete").click()
    asked = page.get_by_role("dialog")
    expect(asked.get_by_role("checkbox")).not_to_be_checked()
    expect(asked).to_contain_text("With the box this is released")
    expect(asked).to_contain_text("edge-1")


def test_rules_are_moved_by_keyboard(logged_in: Callable[[str], Page], insert: Insert) -> None:
    numbers = [insert(name=f"by-key-{place}") for place in range(3)]
    page = logged_in("author")
    page.goto("/console/rules?text=by-key-")
    assert order(page) == numbers
    row(page, numbers[2]).get_by_role("link", name="by-key-2").focus()
    page.keyboard.press("Alt+ArrowUp")
    expect(page.get_by_role("status")).to_contain_text("stands at place")
    assert order(page) == [numbers[0], numbers[2], numbers[1]]
    # The focus stays on the rule, so that it can be moved on.
    expect(row(page, numbers[2]).get_by_role("link", name="by-key-2")).to_be_focused()
    page.keyboard.press("Alt+ArrowUp")
    page.wait_for_function("id => document.querySelector('tr[data-rule]').dataset.rule === String(id)", arg=numbers[2])
    assert order(page) == [numbers[2], numbers[0], numbers[1]]
    page.get_by_role("button", name=f"Move down: rule {numbers[2]}").click()
    page.wait_for_function("id => document.querySelector('tr[data-rule]').dataset.rule === String(id)", arg=numbers[0])
    page.reload()
    assert order(page) == [numbers[0], numbers[2], numbers[1]]


def test_rules_are_moved_by_drag(logged_in: Callable[[str], Page], insert: Insert) -> None:
    numbers = [insert(name=f"by-drag-{place}") for place in range(3)]
    page = logged_in("author")
    page.goto("/console/rules?text=by-drag-")
    target = row(page, numbers[0])
    row(page, numbers[2]).locator("[data-grip]").drag_to(target, target_position={"x": 200, "y": 3})
    expect(page.get_by_role("status")).to_contain_text("stands at place")
    assert order(page) == [numbers[2], numbers[0], numbers[1]]
    page.reload()
    assert order(page) == [numbers[2], numbers[0], numbers[1]]


def test_a_rule_is_put_at_a_place(logged_in: Callable[[str], Page], admin: httpx.Client, insert: Insert) -> None:
    number = insert(name="to-the-third")
    page = logged_in("author")
    page.goto("/console/rules?text=to-the-third")
    page.get_by_role("link", name="Move to a place").click()
    page.get_by_role("dialog").get_by_label("Place").fill("3")
    page.get_by_role("dialog").get_by_role("button", name="Move it").click()
    expect(page.get_by_role("status")).to_contain_text("stands at place 3")
    assert of(admin, number)["place"] == 3


def test_an_author_cannot_put_what_destroys_in_force(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    page = logged_in("author")
    page.goto("/console/rules/new")
    page.get_by_label("Criterion 1").fill("process:written-by-an-author")
    page.locator("#quarantine").check()
    expect(page.locator("#check")).to_contain_text("Saved disabled, as quarantine takes an operator to enable")
    page.get_by_label("Name", exact=True).fill("of-an-author")
    page.get_by_role("button", name="Insert the rule").click()
    expect(page.get_by_role("status")).to_contain_text("Saved disabled, as quarantine takes an operator to enable")
    number = of(admin, "of-an-author")["id"]  # type: ignore[arg-type]
    try:
        expect(row(page, number)).to_contain_text("Disabled")
        expect(row(page, number)).to_contain_text(f"It takes an operator to enable rule {number}")
        expect(row(page, number).get_by_role("button", name="Enable")).to_have_count(0)
        complaints.expect("403")
        csrf = page.locator("#change input[name=csrf]").input_value()
        answer = page.request.post(f"/console/rules/{number}/enable", form={"csrf": csrf})
        assert answer.status == 403
        assert "it takes an operator to enable" in answer.text()
        assert of(admin, number)["enabled"] is False
    finally:
        admin.delete(f"/v1/rules/{number}").raise_for_status()


def test_a_viewer_is_offered_nothing_and_refused(
    logged_in: Callable[[str], Page], admin: httpx.Client, insert: Insert, complaints: Complaints
) -> None:
    number = insert(name="only-looked-at")
    page = logged_in("viewer")
    page.goto("/console/rules?text=only-looked-at")
    expect(row(page, number)).to_be_visible()
    expect(page.locator("main").get_by_role("link", name=re.compile("Insert|Edit|Delete|Move|Restore"))).to_have_count(
        0
    )
    expect(page.locator("#list button, main form[method=post]")).to_have_count(0)
    row(page, number).get_by_role("link", name="only-looked-at").click()
    expect(page.get_by_text("As a document")).to_be_visible()
    expect(page.locator("main").get_by_role("link", name=re.compile("Edit|Disable|Delete"))).to_have_count(0)
    csrf = page.locator("form[action='/logout'] input[name=csrf]").input_value()
    for verb in ("edit", "delete", "disable", "enable", "move"):
        assert page.request.post(f"/console/rules/{number}/{verb}", form={"csrf": csrf}).status == 403
    assert page.request.post("/console/rules/new", form={"csrf": csrf}).status == 403
    complaints.expect("403")
    page.goto("/console/rules/new")
    expect(page.locator("main h1")).to_have_text("Forbidden")
    assert of(admin, number)["enabled"] is True


def test_a_rule_from_elsewhere_is_changed_there_or_taken_over(
    logged_in: Callable[[str], Page], admin: httpx.Client, insert: Insert, complaints: Complaints
) -> None:
    number = insert(name="from-a-repository", source="git/prod")
    page = logged_in("operator")
    page.goto("/console/rules?text=from-a-repository")
    expect(row(page, number)).to_contain_text("from git/prod")
    expect(row(page, number).get_by_role("button", name="Disable")).to_have_count(0)
    row(page, number).get_by_role("link", name="Edit").click()
    page.get_by_label("Comment", exact=True).fill("changed here")
    complaints.expect("409")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.get_by_role("alert")).to_contain_text("belongs to source git/prod")
    page.get_by_label("Take it over").check()
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.get_by_role("status")).to_contain_text("Passes from source git/prod to no source")
    assert of(admin, number)["source"] is None


def test_default_rules_come_back(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    admin.delete("/v1/rules/4").raise_for_status()
    page = logged_in("author")
    page.goto("/console/rules")
    page.get_by_role("link", name="Restore defaults").click()
    expect(page.locator("main")).to_contain_text("default-compliance")
    page.get_by_role("button", name="Restore them").click()
    expect(page.get_by_role("status")).to_contain_text("Restored: default-compliance")
    assert of(admin, 4)["default"] == "shipped"


@pytest.fixture
def plain(browser: Browser, server: Live) -> Iterator[Page]:
    """A browser without script, logged in as an operator."""
    context = browser.new_context(base_url=server.url, java_script_enabled=False)
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("Name", exact=True).fill("operator")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    yield page
    context.close()


def test_without_script_a_rule_is_made_moved_and_deleted(plain: Page, admin: httpx.Client) -> None:
    page = plain
    page.goto("/console/rules")
    page.get_by_role("link", name="Insert to top").click()
    page.get_by_label("Event", exact=True).select_option("cve-report")
    page.get_by_role("button", name="Show what it offers").click()
    expect(page.locator("#agentKillProcess")).to_have_count(0)
    page.get_by_label("Criterion 1").fill("cve-high:>5")
    page.get_by_role("button", name="Another criterion").click()
    expect(page.get_by_label("Criterion 1")).to_have_value("cve-high:>5")
    page.get_by_label("Criterion 2").fill("image:nothing/*")
    page.locator("#makeOpsFlag").check()
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.locator("#check .verdict")).to_contain_text("would have matched")
    page.get_by_label("Name", exact=True).fill("without-script")
    page.get_by_role("button", name="Insert the rule").click()
    expect(page.get_by_role("status")).to_contain_text("was inserted")
    told = of(admin, "without-script")  # type: ignore[arg-type]
    number = told["id"]
    assert (told["place"], told["rule"]["criteria"]) == (1, ["cve-high:>5", "image:nothing/*"])
    page.get_by_role("button", name=f"Move down: rule {number}").click()
    expect(page.get_by_role("status")).to_contain_text("stands at place 2")
    page.get_by_role("link", name=f"Delete: rule {number}").click()
    expect(page.locator("main h1")).to_contain_text("Delete rule")
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("was deleted")
    assert admin.get(f"/v1/rules/{number}").status_code == 404
