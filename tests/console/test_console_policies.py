"""Policies, rulesets and deviations in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import PASSWORD
from tests.console.example_policies import executed
from tests.system.live import NO_TLS, Live
from tests.system.running import wait_for

pytestmark = pytest.mark.slow

_POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: {name}, type: container}}
spec:
  mode: {mode}
  containerSelector: {{matchFields: {{image: "registry.example/{name}:*"}}}}
  processPolicy: [{{id: nginx, name: nginx, exe: [/usr/sbin/nginx], euser: [root]}}]
  response: {{default: [{{makeRedFlag: {{severity: medium}}}}]}}
"""


def given(admin: httpx.Client, name: str, mode: str = "audit", *processes: str) -> None:
    """A policy of this name, and what deviates from it."""
    admin.post("/v1/documents", content=_POLICY.format(name=name, mode=mode)).raise_for_status()
    for place, process in enumerate(processes):
        seen = executed(process, f"/usr/bin/{process}", 9000 + place)
        seen["subject"] |= {
            "image": f"registry.example/{name}:1",
            "container": {"id": name.encode().hex()[:60].ljust(64, "0"), "name": name},
        }
        admin.post("/v1/observations", json=[seen]).raise_for_status()
    wait_for(lambda: len(open_ones(admin, name)) == len(processes), 30)


def open_ones(admin: httpx.Client, policy: str) -> list[dict[str, Any]]:
    answer = admin.get("/v1/deviations", params={"policy": policy, "status": "open"}).raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def spec_of(admin: httpx.Client, policy: str) -> dict[str, Any]:
    spec: dict[str, Any] = admin.get(f"/v1/policies/{policy}").raise_for_status().json()["policy"]
    return spec


def test_chosen_deviations_are_merged_after_a_look_at_the_diff(
    logged_in: Callable[[str], Page], admin: httpx.Client
) -> None:
    given(admin, "merging", "audit", "nc", "sh", "curl")
    page = logged_in("operator")
    page.goto("/console/policies/policy/merging")
    page.get_by_role("link", name="Choose some and merge them").click()
    expect(page.locator("main .head p")).to_have_text(
        "What policies do not allow, once each. Open now: 3 different, found 3 times."
    )
    page.get_by_role("checkbox", name=re.compile("process nc")).check()
    page.get_by_role("checkbox", name=re.compile("process sh")).check()
    page.get_by_role("button", name="Merge what is chosen").click()
    diff = page.locator("pre.diff")
    expect(diff.locator(".added").filter(has_text="name: nc")).to_be_visible()
    expect(diff.locator(".added").filter(has_text="name: sh")).to_be_visible()
    expect(diff).not_to_contain_text("curl")
    assert "children" not in spec_of(admin, "merging")["processPolicy"][0]
    page.get_by_role("button", name="Merge into merging").click()
    expect(page.get_by_role("status")).to_contain_text("Policy merging expects 2 deviations more")
    children = spec_of(admin, "merging")["processPolicy"][0]["children"]
    assert {child["name"] for child in children} == {"nc", "sh"}
    expect(page.locator("main table.rows tbody tr")).to_have_count(1)
    page.goto("/console/deviations?policy=merging&status=merged")
    expect(page.locator("main table.rows tbody tr")).to_have_count(2)


def test_a_merge_that_was_looked_at_before_another_change_is_refused(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    given(admin, "overtaken", "audit", "nc")
    page = logged_in("operator")
    page.goto("/console/deviations?policy=overtaken")
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Merge what is chosen").click()
    admin.post("/v1/policies/overtaken/mode", json={"mode": "enforce"}).raise_for_status()
    complaints.expect("412")
    page.get_by_role("button", name="Merge into overtaken").click()
    expect(page.get_by_role("alert")).to_contain_text("look at the diff again")
    assert "children" not in spec_of(admin, "overtaken")["processPolicy"][0]
    page.get_by_role("button", name="Merge into overtaken").click()
    expect(page.get_by_role("status")).to_contain_text("Policy overtaken expects 1 deviation more")


def test_deviations_of_several_policies_are_merged_policy_by_policy(
    logged_in: Callable[[str], Page], server: Live, admin: httpx.Client
) -> None:
    given(admin, "several-a", "audit", "nc")
    given(admin, "several-b", "audit", "sh")
    page = logged_in("operator")
    page.goto("/console/deviations?policy=several-a&policy=several-b")
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_role("button", name="Merge what is chosen").click()
    expect(page.locator("pre.diff")).to_have_count(2)
    page.get_by_role("button", name="Merge into several-b").click()
    expect(page.get_by_role("status")).to_contain_text("Policy several-b expects 1 deviation more")
    assert "children" not in spec_of(admin, "several-a")["processPolicy"][0]
    with httpx.Client(base_url=server.url, timeout=20, verify=NO_TLS) as browser:
        browser.post("/login", data={"name": "operator", "password": PASSWORD})
        csrf = re.findall(r'name="csrf" value="([^"]*)"', browser.get("/console/deviations").text)[0]
        for chosen in ([], ["several-a\n1", "several-b\n1"], ["no checksum"]):
            sent = browser.post("/console/deviations/merge", data={"csrf": csrf, "deviation": chosen})
            assert sent.status_code == 400


def test_what_is_wrong_with_a_text_is_told_at_its_line(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    given(admin, "written")
    page = logged_in("author")
    page.goto("/console/policies/policy/written")
    page.get_by_role("link", name="Edit as YAML").click()
    text = page.get_by_label("The document, as YAML")
    good = text.input_value()
    wrong = good.replace("containerSelector:", "containerSelektor:")
    line = wrong.split("\n").index("  containerSelektor:") + 1
    # Told while it is written, with the nearest word, under its line; the number beside the text is marked.
    text.fill(wrong)
    item = page.locator(".excerpt li.wrong").filter(has_text="containerSelektor")
    expect(item.locator(".gutter")).to_have_text(str(line))
    expect(item).to_contain_text("did you mean containerSelector?")
    expect(page.locator(".numbers span.wrong").filter(has_text=re.compile(f"^{line}$"))).to_be_visible()
    item.locator(".gutter").click()
    chosen = page.evaluate(
        "(() => { const t = document.getElementById('text'); return t.value.slice(t.selectionStart, t.selectionEnd); })()"
    )
    assert chosen == "  containerSelektor:"
    # And when it is saved.
    complaints.expect("422")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("It cannot be saved")
    expect(page.locator(".excerpt li.wrong").filter(has_text="containerSelektor")).to_be_visible()
    expect(text).to_have_value(wrong.rstrip("\n") + "\n")
    text.fill(good.replace("severity: medium", "severity: high"))
    page.get_by_role("button", name="Show what changes").click()
    expect(page.locator("pre.diff .added")).to_contain_text(["severity: high"])
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Policy written configured")
    assert spec_of(admin, "written")["response"]["default"] == [{"makeRedFlag": {"severity": "high"}}]


def test_a_text_is_edited_without_script(server: Live, admin: httpx.Client) -> None:
    given(admin, "plain")
    with httpx.Client(base_url=server.url, timeout=20, follow_redirects=True, verify=NO_TLS) as browser:
        browser.post("/login", data={"name": "author", "password": PASSWORD})
        drawn = browser.get("/console/policies/text/plain").text
        fields = dict(re.findall(r'name="(csrf|revision)" value="([^"]*)"', drawn))
        wrong = browser.post(
            "/console/policies/text/plain",
            data={**fields, "do": "save", "text": _POLICY.format(name="plain", mode="audti")},
        )
        assert wrong.status_code == 422
        assert "did you mean <code>audit</code>?" in wrong.text
        saved = browser.post(
            "/console/policies/text/plain",
            data={**fields, "do": "save", "text": _POLICY.format(name="plain", mode="enforce")},
        )
        assert saved.status_code == 200
        assert "Policy plain configured" in saved.text
        again = browser.post(
            "/console/policies/text/plain",
            data={**fields, "do": "save", "text": _POLICY.format(name="plain", mode="audit")},
        )
        assert (again.status_code, "in the meantime" in again.text) == (422, True)
    assert spec_of(admin, "plain")["mode"] == "enforce"


def test_a_policy_is_made_and_changed_by_form(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("operator")
    page.goto("/console/policies")
    page.get_by_role("link", name="New policy").click()
    page.get_by_label("Name").fill("by-form")
    page.get_by_label("Values").fill("registry.example/by-form:*")
    page.get_by_role("group", name="Default actions").get_by_role("button", name="Add an action").click()
    page.get_by_role("group", name="Default actions 2").get_by_label("Action", exact=True).select_option("quarantine")
    page.get_by_role("group", name="Default actions 2").get_by_label("Ttl").fill("6h")
    page.get_by_role("group", name="Specific actions", exact=True).get_by_role("button", name="Add an action").click()
    specific = page.get_by_role("group", name="Specific actions 1")
    specific.get_by_label("Action", exact=True).select_option("agentKillProcess")
    specific.get_by_label("What").select_option("processSelector.exe")
    specific.get_by_label("Values").fill("/bin/*sh, /usr/bin/nc")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Policy by-form created")
    assert spec_of(admin, "by-form") == {
        "mode": "audit",
        "containerSelector": {"matchFields": {"image": "registry.example/by-form:*"}},
        "response": {
            "default": [{"makeRedFlag": {"severity": "high"}}, {"quarantine": {"ttl": "6h"}}],
            "actions": [
                {
                    "agentKillProcess": {
                        "processSelector": {
                            "matchFieldsExpressions": [
                                {"key": "exe", "operator": "In", "values": ["/bin/*sh", "/usr/bin/nc"]}
                            ]
                        }
                    }
                }
            ],
        },
    }
    # What the form has no fields for stays as it is.
    given(admin, "kept")
    page.goto("/console/policies/edit/kept")
    page.get_by_role("group", name="Default actions 1").get_by_label("Severity").select_option("low")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Policy kept configured")
    spec = spec_of(admin, "kept")
    assert spec["response"]["default"] == [{"makeRedFlag": {"severity": "low"}}]
    assert spec["processPolicy"][0]["name"] == "nginx"


def test_a_mode_is_switched_after_a_look_at_what_it_would_do(
    logged_in: Callable[[str], Page], admin: httpx.Client
) -> None:
    given(admin, "switched", "audit", "nc")
    page = logged_in("operator")
    page.goto("/console/policies/policy/switched")
    page.get_by_role("link", name="Enforce…").click()
    row = page.locator("main table.rows tbody tr")
    expect(row).to_contain_text(["makeRedFlag (severity medium)"])
    expect(row).to_contain_text(["granted"])
    page.get_by_role("button", name="Enforce it").click()
    expect(page.get_by_role("status")).to_contain_text("Policy switched is in enforce mode")
    expect(page.get_by_text("Enforcing")).to_be_visible()
    assert spec_of(admin, "switched")["mode"] == "enforce"
    page.get_by_role("link", name="Disable").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable it").click()
    expect(page.get_by_role("status")).to_contain_text("Policy switched is disabled")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("Policy switched is deleted")
    assert admin.get("/v1/policies/switched").status_code == 404


def test_a_policy_is_made_of_what_was_seen(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    wait_for(lambda: bool(admin.get("/v1/fingerprints").json()["items"]), 30)
    page = logged_in("author")
    page.goto("/console/policies/observed?text=shop/nginx")
    page.get_by_role("link", name="Make a policy for registry.example/shop/nginx:1.27").click()
    expect(page.get_by_label("The document, as YAML")).to_have_value(re.compile("registry.example/shop/nginx:1.27"))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Policy nginx created")
    assert spec_of(admin, "nginx")["mode"] == "audit"


def test_a_ruleset_is_written_and_deleted(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("author")
    page.goto("/console/rulesets/new")
    text = page.get_by_label("The document, as YAML")
    text.fill(text.input_value().replace("my-ruleset", "by-hand").replace("verb: allow", "verb: alow"))
    expect(page.locator(".excerpt li.wrong")).to_contain_text("did you mean allow?")
    text.fill(text.input_value().replace("verb: alow", "verb: allow"))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Ruleset by-hand created")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_contain_text("Ruleset by-hand is deleted")
    # Of one that a policy goes by it is said what becomes of that.
    page.goto("/console/rulesets/delete/prod-images")
    expect(page.locator("main")).to_contain_text("1 policy goes by it: prod")


def test_an_author_may_not_have_something_destructive_enforced(
    logged_in: Callable[[str], Page], admin: httpx.Client, complaints: Complaints
) -> None:
    text = _POLICY.format(name="deadly", mode="audit").replace(
        "makeRedFlag: {severity: medium}", "agentKillProcess: {}"
    )
    admin.post("/v1/documents", content=text).raise_for_status()
    page = logged_in("author")
    page.goto("/console/policies/switch/deadly?mode=enforce")
    complaints.expect("403")
    page.get_by_role("button", name="Enforce it").click()
    expect(page.locator("main")).to_contain_text("it takes an operator")
    assert spec_of(admin, "deadly")["mode"] == "audit"


def test_a_viewer_sees_no_buttons_and_is_refused(
    logged_in: Callable[[str], Page], server: Live, admin: httpx.Client
) -> None:
    given(admin, "seen", "audit", "nc")
    page = logged_in("viewer")
    for address in ("/console/policies", "/console/policies/policy/seen", "/console/rulesets/ruleset/prod-images"):
        page.goto(address)
        expect(page.locator("main h1")).to_be_visible()
        expect(
            page.locator("main").get_by_role("link", name=re.compile("Edit|New|Delete|Enforce|Disable"))
        ).to_have_count(0)
    page.goto("/console/deviations?policy=seen")
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("Merge"))).to_have_count(0)
    csrf = page.locator('form[action="/logout"] input[name=csrf]').get_attribute("value")
    [cookie] = [each for each in page.context.cookies() if "session" in str(each.get("name"))]
    with httpx.Client(base_url=server.url, cookies={str(cookie["name"]): str(cookie["value"])}, timeout=20) as browser:
        for path, form in (
            ("/console/policies/text/seen", {"do": "save", "text": _POLICY.format(name="seen", mode="enforce")}),
            ("/console/policies/edit/seen", {"do": "save", "mode": "enforce"}),
            ("/console/policies/switch/seen", {"mode": "enforce"}),
            ("/console/policies/disable/seen", {}),
            ("/console/policies/delete/seen", {}),
            ("/console/policies/new", {"do": "save", "text": _POLICY.format(name="more", mode="audit")}),
            ("/console/rulesets/delete/prod-images", {}),
            ("/console/deviations/merge", {"deviation": f"seen\n{open_ones(admin, 'seen')[0]['checksum']}"}),
        ):
            assert browser.post(path, data={"csrf": csrf or "", **form}).status_code == 403, path
    assert spec_of(admin, "seen")["mode"] == "audit"
