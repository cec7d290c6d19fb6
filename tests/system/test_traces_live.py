"""Traces through a real controller: made of flags that are on disk, shown, hidden by policies, closed, and the same after a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Ran
from command import quell as run
from live import NO_TLS, Live, live
from running import Quell, wait_for

from quell.client import Client
from quell.configuration import Configuration
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.subject import Ancestor, Process, Subject
from quell.model.trace_view import TraceFilter
from quell.settings import Settings
from quell.storage import flags, traces

RULES = """\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: watch list}
spec: {event: incident, criteria: ["name:Host.Suspicious.Process"], actions: [{makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells}
spec: {event: incident, criteria: ["name:Unusual.Shell"], actions: [{makeRedFlag: {severity: low}}]}
"""
NC = "redflag/proc/host_suspicious_process/high_severity/nc"

NAMES = {1: "systemd", 20: "sshd", 30: "bash", 40: "sh", 50: "nc", 51: "curl"}
PARENTS = {20: 1, 30: 20, 40: 30, 50: 40, 51: 40}


def event(
    identifier: str, pid: int, name: str = "Host.Suspicious.Process", boot: str = "b1", **subject: object
) -> dict[str, Any]:
    lineage: list[list[object]] = []
    at = pid
    while at in PARENTS:
        at = PARENTS[at]
        lineage.append([NAMES[at], None, "root", at, at * 10])
    process = {
        "pid": pid,
        "start_ticks": pid * 10,
        "boot_id": boot,
        "name": NAMES[pid],
        "user": "root",
        "cmdline": f"{NAMES[pid]} -x",
        "lineage": lineage,
    }
    return {
        "id": identifier,
        "time": time.time(),
        "category": "security-event",
        "kind": "incident",
        "name": name,
        "level": "Critical",
        "subject": {"node": f"node-{boot}", "process": process, **subject},
        "details": {"message": f"{NAMES[pid]} was executed"},
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    settings = Settings().with_values({"server.rate_limit": 10_000, "server.rate_burst": 10_000})
    with live(tmp_path / "s", configuration=Configuration(settings=settings)) as running:
        with running.client("admin") as admin:
            admin.post("/v1/documents", content=RULES).raise_for_status()
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture
def quell(server: Live) -> Callable[..., Ran]:
    return lambda *words: run(*words, url=server.url, state=server.folder)


def post(admin: httpx.Client, *events: dict[str, Any]) -> None:
    """And wait until their flags are in traces."""
    admin.post("/v1/events", json=list(events)).raise_for_status()
    wanted = {one["id"] for one in events}

    def are_in_traces() -> bool:
        found = admin.get("/v1/flags", params={"limit": 1000}).json()["items"]
        return {one["event_id"] for one in found if one["trace"]} >= wanted

    wait_for(are_in_traces, what="the traces")


def listed(admin: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = admin.get("/v1/traces", params=params).raise_for_status().json()["items"]
    return items


def test_flags_of_one_chain_are_one_trace_and_shown_as_a_tree(admin: httpx.Client, quell: Callable[..., Ran]) -> None:
    post(admin, event("e1", 50), event("e2", 51))
    assert [one["flag_count"] for one in listed(admin)] == [1, 1]
    post(admin, event("e3", 40, "Unusual.Shell"))
    [trace] = listed(admin)
    assert (trace["priority"], trace["score"], trace["depth"], trace["root_name"]) == ("High", 47.3, 1, "sh")
    assert trace["severities"] == {"high": 2, "low": 1}
    assert (trace["trigger"], trace["trigger_class"]) == ("e1/0", NC)
    assert trace["trigger_ancestors"] == "systemd/sshd/bash/sh/nc"
    assert {one["trace"] for one in admin.get("/v1/flags").json()["items"]} == {trace["id"]}
    [merged] = listed(admin, status="merged")
    assert (merged["trigger"], merged["merged_into"]) == ("e2/0", trace["id"])
    shown = quell("traces", "show", trace["id"]).stdout
    drawn = [line.rstrip() for line in shown[shown.index("systemd (1)") :].splitlines()]
    assert [line[: len(begin)] for line, begin in zip(drawn, TREE, strict=True)] == list(TREE)
    whole = json.loads(quell("traces", "show", trace["id"], "-o", "json").stdout)
    assert [one["event_id"] for one in whole["flags"]] == ["e1", "e2", "e3"]
    assert f"a part of {trace['id']}" in quell("traces", "show", merged["id"]).stdout
    assert trace["id"] in quell("traces", "list").stdout
    assert "no trace" in quell("traces", "show", "0" * 16).stderr


TREE = (
    "systemd (1) → sshd (20) → bash (30)",
    "└── sh (40)  root  sh -x",
    "    ├── ⚑ low  ",
    "    ├── nc (50)  root  nc -x",
    "    │   └── ⚑ high  ",
    "    └── curl (51)  root  curl -x",
    "        └── ⚑ high  ",
)


def test_filters(admin: httpx.Client, server: Live) -> None:
    container = {"container": {"id": "4f5e2c1b9a8d" + "0" * 52, "name": "cart"}, "image": "cart:1", "namespace": "shop"}
    post(admin, event("e1", 50), event("e2", 50, boot="b2", **container), event("e3", 40, "Unusual.Shell", boot="b3"))

    def found(**params: Any) -> list[str]:
        return [one["trigger"] for one in listed(admin, **params)]

    assert found() == ["e3/0", "e2/0", "e1/0"]
    assert found(order="oldest") == ["e1/0", "e2/0", "e3/0"]
    assert found(node="node-b2") == found(container="4f5e2c") == found(namespace="sh*", image="cart:*") == ["e2/0"]
    assert found(text='"nc -x" EXECUTED') == ["e2/0", "e1/0"]
    assert found(user="ro*", limit=1) == ["e3/0"]
    assert found(priority="High") == []
    assert found(priority="low", status="open", since="1h") == ["e3/0", "e2/0", "e1/0"]
    assert found(until="2020-01-01") == []
    first = admin.get("/v1/traces", params={"limit": 2}).json()
    assert [one["trigger"] for one in first["items"]] == ["e3/0", "e2/0"]
    assert found(cursor=first["next"]) == ["e1/0"]
    wrong = admin.get("/v1/traces", params={"priority": "hihg", "status": "opne"}).json()
    assert {one["pointer"]: one["nearest"] for one in wrong["problems"]} == {
        "/query/priority": "High",
        "/query/status": "open",
    }
    with Client(server.url, server.token("admin")) as client:
        assert [one.trigger for one in client.traces.search(TraceFilter(node=("node-b1",)))] == ["e1/0"]


def policy(mode: str = "enforce", *allowed: str) -> str:
    spec = {
        "mode": mode,
        "traceSelector": {"matchFields": {"triggerClass": NC, "triggerAncestors": "systemd/*/nc"}},
        "userSelector": {"matchFields": {"user": "root"}},
        "allowedFlags": [{"class": path} for path in allowed or (NC,)],
    }
    metadata = {"name": "backup", "type": "trace"}
    return json.dumps({"apiVersion": "spyderbat/v1", "kind": "SpyderbatPolicy", "metadata": metadata, "spec": spec})


def test_a_policy_hides_a_trace_until_a_flag_outside_joins_it(admin: httpx.Client, quell: Callable[..., Ran]) -> None:
    post(admin, event("e1", 50))
    [trace] = listed(admin)
    admin.post("/v1/documents", content=policy("audit")).raise_for_status()
    wait_for(lambda: bool(listed(admin)[0]["would_suppress"] == "backup"), what="the policy in audit mode")
    assert listed(admin)[0]["score"] == 20
    admin.post("/v1/documents", content=policy()).raise_for_status()
    wait_for(lambda: listed(admin) == [], what="the policy")
    [hidden] = listed(admin, suppressed="true")
    assert (hidden["id"], hidden["score"], hidden["priority"]) == (trace["id"], 0, "Low")
    assert hidden["suppressed_by"] == "backup"
    assert 'quell_traces_open{priority="suppressed"} 1.0' in admin.get("/metrics").text
    assert "suppressed by backup" in quell("traces", "show", trace["id"]).stdout
    assert "no traces" in quell("traces", "list").stderr
    assert "suppressed" in quell("traces", "list", "--suppressed").stdout
    post(admin, event("e2", 50))
    assert listed(admin) == []
    post(admin, event("e3", 40, "Unusual.Shell"))
    [shown] = listed(admin)
    assert (shown["id"], shown["suppressed_by"], shown["score"]) == (trace["id"], "", 47.3)
    admin.post("/v1/documents", content=policy("enforce", "redflag/proc/*")).raise_for_status()
    wait_for(lambda: listed(admin) == [], what="the policy")
    admin.delete("/v1/documents/Policy/backup").raise_for_status()
    wait_for(lambda: len(listed(admin)) == 1, what="the policy's end")


def test_a_policy_is_made_of_a_trace(admin: httpx.Client, quell: Callable[..., Ran]) -> None:
    post(admin, event("e1", 50), event("e2", 50, boot="b2"))
    [other, trace] = listed(admin)
    made = admin.get(f"/v1/traces/{trace['id']}/policy").raise_for_status().json()
    assert made["hides"] == [trace["id"]]
    assert made["document"]["spec"]["machineSelector"] == {"matchFields": {"hostname": "node-b1"}}
    assert len(listed(admin)) == 2
    printed = quell("traces", "suppress", trace["id"], "--name", "known").stdout
    assert printed.startswith("# hides 1 open trace\napiVersion: quell.dev/v1\nkind: Policy\n")
    assert "name: known" in printed
    applied = quell("traces", "suppress", trace["id"], "--name", "known", "--apply").stdout
    assert applied == "Policy known created; it hides 1 open trace\n"
    wait_for(lambda: [one["id"] for one in listed(admin)] == [other["id"]], what="the policy")
    assert admin.get("/v1/traces/0/policy").status_code == 404


def test_the_highest_score_comes_first_page_after_page(admin: httpx.Client, quell: Callable[..., Ran]) -> None:
    post(admin, *(event(f"a{n}", 50, boot=f"a{n}") for n in range(3)))
    post(admin, event("b", 30, "Unusual.Shell", boot="b"))
    post(admin, *(event(f"c{n}", 50, boot="c") for n in range(2)))
    whole = [one["trigger"] for one in listed(admin, order="score")]
    assert whole == ["c0/0", "a2/0", "a1/0", "a0/0", "b/0"]
    seen, cursor = [], None
    while True:
        page = admin.get("/v1/traces", params={"order": "score", "limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [one["trigger"] for one in page.json()["items"]]
        cursor = page.json()["next"]
        if cursor is None:
            break
    assert seen == whole
    assert [one["trigger"] for one in listed(admin, order="score", status="closed")] == []
    table = quell("traces", "list", "--by-score").stdout.splitlines()
    assert "node-c" in table[1]
    assert "node-b" in table[-1]
    assert quell("traces", "list", "--by-score", "--oldest-first").returncode == 2


def test_a_trace_is_closed_and_opened_again_by_people(
    admin: httpx.Client, server: Live, quell: Callable[..., Ran]
) -> None:
    post(admin, event("e1", 50))
    [trace] = listed(admin)
    place = f"/v1/traces/{trace['id']}"
    version = admin.get(place).headers["etag"]
    post(admin, event("e2", 50))
    stale = admin.post(f"{place}/close", json={}, headers={"If-Match": version})
    assert stale.status_code == 412
    fresh = admin.get(place).headers["etag"]
    closed = admin.post(f"{place}/close", json={"note": "a test of ours"}, headers={"If-Match": fresh})
    assert closed.raise_for_status().json()["closed_by"] == "token/first-admin"
    assert admin.post(f"{place}/close", json={}).status_code == 409
    post(admin, event("e3", 50))
    assert [one["status"] for one in listed(admin)] == ["open", "closed"]
    assert "a test of ours" in quell("traces", "show", trace["id"]).stdout
    assert quell("traces", "reopen", trace["id"], "--note", "it goes on").stdout == f"{trace['id']} is open\n"
    [opened] = listed(admin)
    assert (opened["id"], opened["flag_count"], opened["note"], opened["closed"]) == (trace["id"], 3, "", None)
    assert admin.post(f"{place}/reopen", json={}).status_code == 409
    assert admin.post("/v1/traces/0/close", json={}).status_code == 404
    verbs = [one["entry"]["verb"] for one in admin.get("/v1/audit", params={"kind": "trace"}).json()["items"]]
    assert verbs == ["reopen", "close"]
    viewer = admin.post("/v1/tokens", json={"role": "viewer", "name": "v"}).json()["token"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {viewer}"}, verify=NO_TLS) as other:
        assert other.get(place).is_success
        assert other.post(f"{place}/close", json={}).status_code == 403


def test_a_trace_outlives_its_flags_and_a_restart(tmp_path: Path) -> None:
    with live(tmp_path / "s") as server, server.client("admin") as admin:
        admin.post("/v1/documents", content=RULES).raise_for_status()
        post(admin, event("e1", 50))
        [before] = listed(admin)
        # As retention does, one day.
        server.controller.store.submit(lambda connection: connection.execute("DELETE FROM flags").rowcount).result(20)
    with live(tmp_path / "s") as server, server.client("admin") as admin:
        post(admin, event("e2", 40))
        [trace] = listed(admin)
        assert (trace["id"], trace["flag_count"], trace["score"]) == (before["id"], 2, 44)
        shown = admin.get(f"/v1/traces/{trace['id']}").json()
        assert [one["description"] for one in shown["flags"]] == ["nc was executed", "sh was executed"]


# ---- crashes


def settled(quell: Quell, count: int) -> bool:
    if quell.controller_ended():
        quell.start_controller()
    try:
        found = quell.ask("GET", "/v1/flags?limit=1000")["items"]
    except httpx.HTTPError:
        return False
    return len(found) == count and all(one["trace"] for one in found)


def posted(quell: Quell, events: Sequence[dict[str, Any]]) -> None:
    """One by one, each once the one before is in its trace, over crashes of the controller."""
    for count, one in enumerate(events, 1):
        acknowledged = False
        while not acknowledged:
            if quell.controller_ended():
                quell.start_controller()
            try:
                quell.ask("POST", "/v1/events", json=one)
                acknowledged = True
            except httpx.TransportError:
                continue
        wait_for(lambda: settled(quell, count), 60, what="the trace")  # noqa: B023 - done within the round


def outcome(quell: Quell) -> list[dict[str, Any]]:
    """The traces, without when their flags were raised."""
    names = ("id", "status", "score", "depth", "flag_count", "severities", "merged_into", "root", "processes")
    found = []
    for one in quell.ask("GET", "/v1/traces?status=open&status=merged")["items"]:
        trace = quell.ask("GET", f"/v1/traces/{one['id']}")
        told = {name: trace[name] for name in names}
        found.append(told | {"flags": [each["id"] for each in trace["flags"]]})
    return sorted(found, key=lambda trace: str(trace["id"]))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_crash_at_any_step_leaves_the_traces_that_no_crash_would_have_left(tmp_path: Path) -> None:
    places = [(50, "b1"), (51, "b1"), (50, "b2"), (40, "b1"), (50, "b1"), (51, "b2"), (30, "b2")]
    events = [
        event(f"e{n}", pid, "Unusual.Shell" if pid == 40 else "Host.Suspicious.Process", boot)
        for n, (pid, boot) in enumerate(places)
    ]
    results = {}
    for fault in ("", *(f"traces.{step}-commit:{count}" for step in ("before", "after") for count in (1, 2))):
        quell = Quell(tmp_path / (fault.replace(":", "-") or "none"))
        quell.folder.mkdir()
        try:
            quell.start_controller()
            quell.ask("POST", "/v1/documents", content=RULES)
            quell.stop()
            quell.start_controller(fault)
            first = quell.controller
            posted(quell, events)
            assert (quell.controller is not first) == bool(fault)
            results[fault] = outcome(quell)
        finally:
            quell.close()
    assert len(results[""]) == 4
    for fault, found in results.items():
        assert found == results[""], fault


# ---- a flood


def flooding(number: int) -> Flag:
    """Of a process of its own, below nine that are not flagged."""
    above = tuple(Ancestor(f"p{one}", pid=one, start_ticks=one) for one in range(9, 0, -1))
    process = Process(pid=number, start_ticks=number, boot_id="b", name="nc", lineage=above)
    return Flag(
        id=f"flood-{number}/0",
        flag_class=FlagClass.RED,
        severity=Severity.HIGH,
        name="Host.Suspicious.Process",
        subject=Subject(node="n", process=process),
        time=time.time(),
    )


@pytest.mark.slow
def test_a_flood_of_red_flags_holds_nobody_up(admin: httpx.Client, server: Live) -> None:
    count = 10_000
    made = [flooding(number) for number in range(100, 100 + count)]
    store = server.controller.store
    for start in range(0, count, 500):
        part = made[start : start + 500]
        store.submit(lambda connection, part=part: flags.insert(connection, part)).result(60)  # type: ignore[misc]
    slowest, deadline = 0.0, time.monotonic() + 100
    while store.read(traces.mark) < count:
        assert time.monotonic() < deadline
        started = time.monotonic()
        admin.get("/healthz").raise_for_status()
        slowest = max(slowest, time.monotonic() - started)
    # Its processes are a thousand times as many as what one request takes; a busy machine is slow on its own.
    assert slowest < 3.0
    assert sum(server.controller.traces.counts().values()) == 5000
    assert len(listed(admin, status="closed", limit=1000)) == 1000
