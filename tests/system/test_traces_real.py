"""Traces through a real controller: made of flags that are on disk, shown, hidden by policies, closed, and still there after a crash."""

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
from live import Live, live
from running import Quell, wait_for

from quell.client import Client
from quell.configuration import Configuration
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
    lineage, at = [], pid
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
        "name": name,
        "level": "Critical",
        "subject": {"node": f"node-{boot}", "process": process, **subject},
        "details": {"message": f"{NAMES[pid]} was executed"},
    }  # fmt: skip


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
    wait_for(
        lambda: all(
            one["trace"] for one in admin.get("/v1/flags", params={"limit": 1000}).json()["items"] if one["event_id"] in wanted
        ),
        what="the traces",
    )  # fmt: skip


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
    drawn = [line.split("  ")[0] for line in shown[shown.index("systemd") :].splitlines()]
    assert drawn == [
        "systemd (1) → sshd (20) → bash (30)",
        "└── sh (40)",
        "    ├── ⚑ low",
        "    ├── nc (50)",
        "    │   └── ⚑ high",
        "    └── curl (51)",
        "        └── ⚑ high",
    ] or [line.strip() for line in drawn]
    whole = json.loads(quell("traces", "show", trace["id"], "-o", "json").stdout)
    assert [one["event_id"] for one in whole["flags"]] == ["e1", "e2", "e3"]
    assert f"a part of {trace['id']}" in quell("traces", "show", merged["id"]).stdout
    assert trace["id"] in quell("traces", "list").stdout
    assert quell("traces", "show", "0" * 16).returncode != 0


def test_filters(admin: httpx.Client, server: Live) -> None:
    container = {
        "container": {"id": "4f5e2c1b9a8d" + "0" * 52, "name": "cart"},
        "image": "reg/cart:1",
        "namespace": "shop",
    }
    post(admin, event("e1", 50), event("e2", 50, boot="b2", **container), event("e3", 40, "Unusual.Shell", boot="b3"))
    newest = {one["trigger"]: one["id"] for one in listed(admin)}
    assert list(newest) == ["e3/0", "e2/0", "e1/0"]

    def found(**params: Any) -> list[str]:
        return [one["trigger"] for one in listed(admin, **params)]

    assert found(order="oldest") == ["e1/0", "e2/0", "e3/0"]
    assert found(node="node-b2") == found(container="4f5e2c") == found(namespace="sh*", image="reg/*") == ["e2/0"]
    assert found(text='"sh -x" executed') == ["e3/0", "e2/0", "e1/0"] or found(text="executed") == found()
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
    document = {
        "apiVersion": "spyderbat/v1",
        "kind": "SpyderbatPolicy",
        "metadata": {"name": "backup", "type": "trace"},
        "spec": spec,
    }
    return json.dumps(document)  # fmt: skip


def test_a_policy_hides_a_trace_until_a_flag_outside_joins_it(admin: httpx.Client, quell: Callable[..., Ran]) -> None:
    post(admin, event("e1", 50))
    [trace] = listed(admin)
    admin.post("/v1/documents", content=policy("audit")).raise_for_status()
    wait_for(lambda: listed(admin)[0]["would_suppress"] == "backup", what="the policy in audit mode")
    assert listed(admin)[0]["score"] == 20
    admin.post("/v1/documents", content=policy()).raise_for_status()
    wait_for(lambda: listed(admin) == [], what="the policy")
    [hidden] = listed(admin, suppressed="true")
    assert (hidden["id"], hidden["score"], hidden["priority"], hidden["suppressed_by"]) == (
        trace["id"],
        0,
        "Low",
        "backup",
    )
    metrics = admin.get("/metrics").text
    assert 'quell_traces_open{priority="suppressed"} 1.0' in metrics
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
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {viewer}"}) as other:
        assert other.get(place).is_success
        assert other.post(f"{place}/close", json={}).status_code == 403


def test_a_trace_outlives_its_flags_and_a_restart(tmp_path: Path) -> None:
    with live(tmp_path / "s") as server, server.client("admin") as admin:
        admin.post("/v1/documents", content=RULES).raise_for_status()
        post(admin, event("e1", 50))
        [before] = listed(admin)
        # As retention does, one day.
        server.controller.store.submit(lambda connection: connection.execute("DELETE FROM flags")).result(20)
    with live(tmp_path / "s") as server, server.client("admin") as admin:
        post(admin, event("e2", 40))
        [trace] = listed(admin)
        assert (trace["id"], trace["flag_count"], trace["score"]) == (before["id"], 2, 44)
        shown = admin.get(f"/v1/traces/{trace['id']}").json()
        assert [one["description"] for one in shown["flags"]] == ["nc was executed", "sh was executed"]


# ---- crashes


def posted(quell: Quell, events: Sequence[dict[str, Any]]) -> None:
    """One by one, over a crash of the controller too."""
    for one in events:
        while True:
            if quell.controller_ended():
                quell.start_controller()
            try:
                quell.ask("POST", "/v1/events", json=one)
                break
            except httpx.HTTPError:
                continue


def outcome(quell: Quell, flags: int) -> list[dict[str, Any]]:
    """The traces, once these flags are in them, without when they were raised."""

    def complete() -> bool:
        if quell.controller_ended():
            quell.start_controller()
        try:
            found = quell.ask("GET", "/v1/flags?limit=1000")["items"]
        except httpx.HTTPError:
            return False
        return len(found) == flags and all(one["trace"] for one in found)

    wait_for(complete, 60, what="the traces")
    found = []
    for one in quell.ask("GET", "/v1/traces?status=open&status=merged")["items"]:
        trace = quell.ask("GET", f"/v1/traces/{one['id']}")
        told = {
            name: trace[name] for name in ("id", "status", "score", "depth", "flag_count", "severities", "merged_into")
        }
        found.append(told | {"processes": trace["processes"], "flags": [each["id"] for each in trace["flags"]]})
    return sorted(found, key=lambda trace: str(trace["id"]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_crash_at_any_step_leaves_the_traces_that_no_crash_would_have_left(tmp_path: Path) -> None:
    events = [
        event(f"e{n}", pid, "Unusual.Shell" if pid == 40 else "Host.Suspicious.Process", boot)
        for n, (pid, boot) in enumerate([(50, "b1"), (51, "b1"), (50, "b2"), (40, "b1"), (50, "b1"), (51, "b2"), (30, "b2")])
    ]  # fmt: skip
    results = {}
    faults = ("", *(f"traces.{step}-commit:{count}" for step in ("before", "after") for count in (1, 2, 4)))
    for fault in faults:
        quell = Quell(tmp_path / fault.replace(":", "-"))
        quell.folder.mkdir()
        try:
            quell.start_controller()
            quell.ask("POST", "/v1/documents", content=RULES)
            quell.stop()
            quell.start_controller(fault)
            posted(quell, events)
            results[fault] = outcome(quell, len(events))
            if fault:
                assert "SIGKILL" in fault or quell.controller is not None
            quell.stop()
        finally:
            quell.close()
    assert [len(found) for found in results.values()] == [len(results[""])] * len(faults)
    for fault, found in results.items():
        assert found == results[""], fault


# ---- a flood


@pytest.mark.slow
def test_a_flood_of_red_flags_holds_nobody_up(admin: httpx.Client, server: Live) -> None:
    count = 10_000
    numbers = range(100, 100 + count)
    made = [
        flags.Flag(
            id=f"flood-{n}/0",
            flag_class=flags.FlagClass.RED,
            severity=flags.Severity.HIGH,
            name="Host.Suspicious.Process",
            subject=flood_subject(n),
            time=time.time(),
        )
        for n in numbers
    ]
    store = server.controller.store
    slowest = 0.0
    for start in range(0, count, 1000):
        store.submit(lambda connection, start=start: flags.insert(connection, made[start : start + 1000])).result(60)  # type: ignore[misc]
    deadline = time.monotonic() + 100
    while store.read(traces.mark) < count:
        assert time.monotonic() < deadline
        started = time.monotonic()
        admin.get("/healthz").raise_for_status()
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 2.0
    counts = server.controller.traces.counts()
    assert sum(counts.values()) == 5000
    assert len(listed(admin, status="closed", limit=1000)) == 1000


def flood_subject(number: int) -> Any:
    from quell.model.subject import Ancestor, Process, Subject

    above = tuple(Ancestor(f"p{one}", pid=one, start_ticks=one) for one in range(9, 0, -1))
    return Subject(node="n", process=Process(pid=number, start_ticks=number, boot_id="b", name="nc", lineage=above))
