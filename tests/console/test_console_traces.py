"""Flags and traces in a real browser."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.system.live import Live
from tests.system.running import wait_for

pytestmark = pytest.mark.slow

#: Markup that would do something, if a browser took it for that.
HOSTILE = (
    "<script>document.title = 'taken'</script> <img src=x onerror=\"document.title = 'taken'\"> "
    "[click](javascript:document.title='taken') ![picture](https://evil.example/x.png) "
    "<a href='#' onclick='document.title=1'>link</a> **bold** [good](https://runbooks.example/)"
)


def raised(admin: httpx.Client, name: str, *programs: str, content: str = "", severity: str = "high") -> list[str]:
    """Events of this name that raise flags on one chain: sh below cron, and the programs below sh. Their ids."""
    action = {"makeRedFlag": {"severity": severity, **({"content": content} if content else {})}}
    rule = {
        "apiVersion": "quell.dev/v1",
        "kind": "ResponseRule",
        "metadata": {"name": f"flags-{name}"},
        "spec": {"event": "incident", "criteria": [f"name:{name}"], "actions": [action]},
    }
    admin.post("/v1/documents", json=rule).raise_for_status()
    above = [["cron", "/usr/sbin/cron", "root", 300, 10], ["systemd", "/usr/lib/systemd/systemd", "root", 1, 1]]
    ids = []
    for place, program in enumerate(("sh", *programs)):
        process: dict[str, Any] = {
            "pid": 400 + place,
            "start_ticks": 1000 + place,
            "boot_id": name,
            "name": program,
            "user": "www",
            "cmdline": f"{program} --of {name}",
            "lineage": above if program == "sh" else [["sh", "/bin/sh", "www", 400, 1000], *above],
        }
        event = {
            "id": f"{name}-{place}",
            "name": name,
            "category": "incident",
            "level": "Critical",
            "details": {"message": f"{program} ran"},
            "subject": {"node": f"node-of-{name}", "process": process},
        }
        admin.post("/v1/events", json=event).raise_for_status()
        ids.append(f"{name}-{place}/0")
    wait_for(lambda: bool(ids) and all(flag(admin, each).get("trace") for each in ids), 60, "the trace")
    return ids


def flag(admin: httpx.Client, identifier: str) -> dict[str, Any]:
    answer = admin.get(f"/v1/flags/{identifier}")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def trace_of(admin: httpx.Client, identifier: str) -> str:
    return str(flag(admin, identifier)["trace"])


def test_flags_are_acknowledged_one_and_many_with_a_note(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    one, *others = raised(admin, "Host.Acknowledged", "socat", "curl")
    page = logged_in("operator")
    page.goto("/console/flags?name=Host.Acknowledged&severity=high")
    rows = page.locator("main table.rows tbody tr")
    expect(rows).to_have_count(3)
    rows.filter(has_text="sh ran").get_by_role("link", name="Host.Acknowledged", exact=True).click()
    page.get_by_role("link", name="Acknowledge", exact=True).click()
    asked = page.get_by_role("dialog")
    asked.get_by_label("Note").fill("a drill of ours")
    asked.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("status")).to_contain_text("1 flag is acknowledged")
    expect(page.locator("main")).to_contain_text("Acknowledged by user/operator")
    expect(page.locator("main")).to_contain_text("a drill of ours")
    assert flag(admin, one)["acknowledged"]["note"] == "a drill of ours"
    page.goto("/console/flags?name=Host.Acknowledged&acknowledged=false")
    expect(rows).to_have_count(2)
    for box in page.get_by_role("checkbox", name=re.compile("Choose")).all():
        box.check()
    page.get_by_role("button", name="Acknowledge what is chosen").click()
    page.get_by_label("Note").fill("the same drill")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("status")).to_contain_text("2 flags are acknowledged")
    assert {flag(admin, each)["acknowledged"]["note"] for each in others} == {"the same drill"}
    page.goto(f"/console/flags/{one}")
    page.get_by_role("link", name="Take back").click()
    page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
    expect(page.get_by_role("status")).to_contain_text("1 flag is not acknowledged any more")
    assert flag(admin, one)["acknowledged"] is None


def test_hostile_markup_in_a_flags_text_does_nothing(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    [one, *_] = raised(admin, "Host.Hostile", content=HOSTILE)
    page = logged_in("viewer")
    page.goto(f"/console/flags/{one}")
    prose = page.locator(".prose")
    # It is there, as text; what is harmless works.
    expect(prose).to_contain_text("<script>")
    expect(prose.locator("strong")).to_have_text("bold")
    expect(prose.get_by_role("link", name="good")).to_have_attribute("href", "https://runbooks.example/")
    expect(prose.get_by_role("link", name="good")).to_have_attribute("rel", re.compile("noopener"))
    expect(prose.locator("script, img, [onclick], [onerror], a[href^='javascript']")).to_have_count(0)
    expect(page).to_have_title(re.compile("Host.Hostile"))


def test_flags_lead_to_their_event_and_trace_and_are_exported(
    logged_in: Callable[[str], Page], admin: httpx.Client
) -> None:
    [one, *_] = raised(admin, "Host.Linked", "socat")
    page = logged_in("viewer")
    page.goto("/console/flags?name=Host.Linked")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert {row["name"] for row in rows} == {"Host.Linked"}
    assert len(rows) == 2
    page.goto(f"/console/flags/{one}")
    page.get_by_role("link", name=trace_of(admin, one)).click()
    expect(page.locator("main h1")).to_have_text("sh")
    page.get_by_role("link", name=re.compile("Event of Host.Linked")).first.click()
    expect(page.locator("main h1")).to_have_text("Host.Linked")


def test_a_trace_is_drawn_with_its_processes_flags_and_score(
    logged_in: Callable[[str], Page], admin: httpx.Client
) -> None:
    [one, *_] = raised(admin, "Host.Drawn", "socat", "curl")
    page = logged_in("viewer")
    page.goto("/console/traces?node=node-of-Host.Drawn")
    page.locator("main table.rows").get_by_role("link", name="sh").click()
    assert page.url.endswith(trace_of(admin, one))
    tree = page.locator(".tree")
    expect(tree.locator(".above")).to_contain_text("systemd")
    # The two programs stand below the shell, each with its flag.
    shell = tree.locator("li").filter(has=page.locator(":scope > .process", has_text=re.compile("^sh 400")))
    expect(shell.locator(".process")).to_have_count(3)
    expect(shell.locator("li.flag")).to_have_count(3)
    parts = page.locator(".score-parts")
    expect(parts).to_contain_text("3 high")
    expect(parts).to_contain_text("1.1")
    expect(parts.locator("tfoot")).to_contain_text("65")
    expect(page.locator("svg.line circle")).to_have_count(3)


def test_the_evidence_stays_when_the_processes_are_gone(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    """Of a real process that has ended before anybody looks."""
    ended = subprocess.run(["/bin/sh", "-c", "echo $$"], check=True, capture_output=True, text=True)
    number = int(ended.stdout)
    rule = (
        "apiVersion: quell.dev/v1\nkind: ResponseRule\nmetadata: {name: flags-gone}\n"
        'spec: {event: incident, criteria: ["name:Host.Gone"], actions: [{makeRedFlag: {severity: critical}}]}\n'
    )
    admin.post("/v1/documents", content=rule).raise_for_status()
    subject = {
        "node": "node-of-gone",
        "process": {"pid": number, "start_ticks": 77, "boot_id": "gone", "name": "sh", "cmdline": "sh -c echo"},
    }
    event = {"id": "gone-1", "name": "Host.Gone", "category": "incident", "level": "Critical", "subject": subject}
    admin.post("/v1/events", json=event).raise_for_status()
    wait_for(lambda: bool(flag(admin, "gone-1/0").get("trace")), 60)
    page = logged_in("viewer")
    page.goto(f"/console/traces/{trace_of(admin, 'gone-1/0')}")
    expect(page.locator(".tree .process")).to_contain_text("sh -c echo")
    expect(page.locator(".tree .process")).to_contain_text(str(number))


def test_a_trace_is_hidden_by_a_policy_and_shown_again(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    [one, *_] = raised(admin, "Host.Expected", "socat")
    trace = trace_of(admin, one)
    page = logged_in("author")
    page.goto(f"/console/traces/{trace}")
    page.get_by_role("link", name="Hide such traces").click()
    expect(page.locator("main")).to_contain_text("hides 1 open trace")
    expect(page.get_by_label("The document, as YAML")).to_have_value(re.compile("node-of-Host.Expected"))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Policy expected-Host.Expected is in force")
    wait_for(lambda: admin.get(f"/v1/traces/{trace}").json()["score"] == 0, 60)
    page.goto("/console/traces?node=node-of-Host.Expected")
    expect(page.get_by_role("heading", name="Nothing is found")).to_be_visible()
    page.get_by_label("Also hidden ones").check()
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("main table.rows tbody tr")).to_contain_text("hidden")
    page.goto(f"/console/traces/{trace}")
    expect(page.locator("main")).to_contain_text("covers it: its score is 0")
    page.get_by_role("link", name="Show it again").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable the policy").click()
    expect(page.get_by_role("status")).to_contain_text("is disabled")
    wait_for(lambda: admin.get(f"/v1/traces/{trace}").json()["score"] > 0, 60)
    page.goto("/console/traces?node=node-of-Host.Expected")
    expect(page.locator("main table.rows tbody tr")).to_have_count(1)


def test_a_trace_is_closed_and_opened_again(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    [one, *_] = raised(admin, "Host.Closed")
    trace = trace_of(admin, one)
    page = logged_in("operator")
    page.goto(f"/console/traces/{trace}")
    page.get_by_role("link", name="Close", exact=True).click()
    page.get_by_role("dialog").get_by_label("Note").fill("dealt with")
    page.get_by_role("dialog").get_by_role("button", name="Close it").click()
    expect(page.locator("main")).to_contain_text("by user/operator")
    expect(page.locator("main")).to_contain_text("dealt with")
    assert admin.get(f"/v1/traces/{trace}").json()["status"] == "closed"
    page.get_by_role("link", name="Open again").click()
    page.get_by_role("dialog").get_by_role("button", name="Open it").click()
    expect(page.get_by_role("status")).to_contain_text("The trace is open")
    assert admin.get(f"/v1/traces/{trace}").json()["status"] == "open"


def test_the_highest_score_comes_first(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    raised(admin, "Host.Low.Score", severity="low")
    page = logged_in("viewer")
    page.goto("/console/traces")
    scores = [float(each.split()[0]) for each in page.locator("td.score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    page.get_by_role("link", name="Newest").click()
    page.wait_for_url("**order=newest")
    expect(page.locator("main table.rows tbody tr").first).to_contain_text("Host.Low.Score")


def test_a_viewer_may_change_neither_flags_nor_traces(
    logged_in: Callable[[str], Page], server: Live, admin: httpx.Client, complaints: Complaints
) -> None:
    [one, *_] = raised(admin, "Host.Viewed")
    trace = trace_of(admin, one)
    page = logged_in("viewer")
    for address in (f"/console/flags/{one}", f"/console/traces/{trace}", "/console/flags?name=Host.Viewed"):
        page.goto(address)
        expect(page.locator("main h1")).to_be_visible()
        buttons = page.locator("main").get_by_role("link", name=re.compile("Acknowledge|^Close|Hide such"))
        expect(buttons).to_have_count(0)
        expect(page.get_by_role("checkbox")).to_have_count(0)
    csrf = page.locator('form[action="/logout"] input[name=csrf]').get_attribute("value") or ""
    [cookie] = [each for each in page.context.cookies() if "session" in str(each.get("name"))]
    with httpx.Client(base_url=server.url, cookies={str(cookie["name"]): str(cookie["value"])}, timeout=20) as browser:
        for path, form in (
            ("/console/flags/acknowledge", {"id": one}),
            ("/console/flags/take-back", {"id": one}),
            (f"/console/traces/{trace}/close", {}),
            (f"/console/traces/{trace}/suppress", {"do": "save", "text": ""}),
            (f"/console/traces/{trace}/unsuppress", {}),
        ):
            assert browser.post(path, data={"csrf": csrf, **form}).status_code == 403, path
    assert flag(admin, one)["acknowledged"] is None
    complaints.expect("403")
    page.goto(f"/console/traces/{trace}/close")
    expect(page.locator("main h1")).to_have_text("Forbidden")
