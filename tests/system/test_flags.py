"""Flags through a real controller: searched, shown, acknowledged, exported, and told to webhooks."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Ran
from command import quell as run
from live import NO_TLS, Live, live
from running import wait_for
from webhook_parts import SECRET, Receiver

from quell.client import Client
from quell.configuration import Configuration
from quell.model.flag import FlagFilter
from quell.settings import Settings

CONTENT = "# Runbook\n\nStop it, see [the page](https://wiki.example/nc). <script>alert(1)</script> \x1b[2J\u202egnp"


def rule(name: str, *actions: object, criteria: str = "name:Host.Suspicious.Process", **spec: object) -> str:
    told = {"event": "incident", "criteria": [criteria], "actions": list(actions), **spec}
    document = {"apiVersion": "quell.dev/v1", "kind": "ResponseRule", "metadata": {"name": name}, "spec": told}
    return json.dumps(document) + "\n---\n"


def hook(name: str, receiver: Receiver, **spec: object) -> str:
    told = {"url": receiver.url, "allow_http": True, "allow_private": True, "secret": SECRET, **spec}
    document = {"apiVersion": "quell.dev/v1", "kind": "Webhook", "metadata": {"name": name}, "spec": told}
    return json.dumps(document) + "\n---\n"


def event(identifier: str, process: str = "nc", message: str = "a reverse shell") -> dict[str, Any]:
    return {
        "id": identifier,
        "time": time.time(),
        "name": "Host.Suspicious.Process",
        "level": "Critical",
        "subject": {
            "node": "n1",
            "namespace": "shop",
            "process": {"pid": 4711, "start_ticks": 100, "boot_id": "b", "name": process, "cmdline": "nc -l 4444"},
        },
        "details": {"message": message},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = Settings().with_values({"server.rate_limit": 10_000, "server.rate_burst": 10_000})
    with live(tmp_path_factory.mktemp("flags") / "s", configuration=Configuration(settings=settings)) as running:
        with running.client("admin") as admin:
            documents = rule("red", {"makeRedFlag": {"severity": "high", "content": CONTENT, "impact": "look"}})
            documents += rule("ops", {"makeOpsFlag": {"severity": "low"}}, cooldown="1h")
            admin.post("/v1/documents", content=documents).raise_for_status()
            admin.post("/v1/events", json=[event(f"e{n}") for n in range(5)]).raise_for_status()
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture
def quell(server: Live) -> Callable[..., Ran]:
    return lambda *words: run(*words, url=server.url, state=server.folder)


def ids(admin: httpx.Client, **params: Any) -> list[str]:
    return [one["id"] for one in admin.get("/v1/flags", params=params).raise_for_status().json()["items"]]


def test_a_flag_is_shown_with_its_content_as_it_was_written_and_as_safe_html(admin: httpx.Client) -> None:
    answer = admin.get("/v1/flags/e0/0").raise_for_status()
    flag = answer.json()
    assert (flag["content"], flag["impact"], flag["description"]) == (CONTENT, "look", "a reverse shell")
    assert flag["content_html"].startswith("<h1>Runbook</h1>\n<p>Stop it, see <a ")
    assert "<script" not in flag["content_html"]
    assert "\u202e" not in flag["content_html"]
    assert flag["class_path"] == "redflag/proc/host_suspicious_process/high_severity/nc"
    assert (flag["asked_by"], flag["acknowledged"]) == (["rule/8"], None)
    assert answer.headers["etag"]
    assert admin.get("/v1/flags/no/such").status_code == 404


def test_a_flag_that_is_not_raised_again_says_how_often_it_would_have_been(admin: httpx.Client) -> None:
    [flag] = admin.get("/v1/flags", params={"flag_class": "ops"}).json()["items"]
    assert (flag["id"], flag["count"], flag["repeats"]) == ("e0/1", 1, 4)
    assert flag["last"] >= flag["time"]
    record = admin.get("/v1/events/e3").json()["decision"]["actions"][1]
    assert (record["reason"], record["repeats"]) == ("cooldown", "e0/1")


def test_filters_and_pages(admin: httpx.Client) -> None:
    assert ids(admin, severity=">=high", limit=2) == ["e4/0", "e3/0"]
    first = admin.get("/v1/flags", params={"severity": "high", "limit": 3}).json()
    rest = ids(admin, severity="high", limit=3, cursor=first["next"])
    assert [one["id"] for one in first["items"]] + rest == ["e4/0", "e3/0", "e2/0", "e1/0", "e0/0"]
    assert ids(admin, order="oldest", rule="red", limit=1) == ["e0/0"]
    assert ids(admin, event="e2", node="n*", namespace="shop", text='"nc -l"') == ["e2/0"]
    assert ids(admin, since="1h", name="host.*", flag_class="redflag/proc/*/nc", limit=1) == ["e4/0"]
    assert ids(admin, until="2020-01-01T00:00:00Z") == []
    wrong = admin.get("/v1/flags", params={"severity": "hihg", "name": "[z-a]"})
    assert wrong.status_code == 400
    assert {one["pointer"]: one.get("nearest", "") for one in wrong.json()["problems"]} == {
        "/query/severity": "high",
        "/query/name": "",
    }
    assert admin.get("/v1/flags", params={"cursor": "x"}).status_code == 400


def test_a_flag_is_acknowledged_by_whom_when_and_why_and_taken_back(server: Live, admin: httpx.Client) -> None:
    made = admin.post("/v1/tokens", json={"role": "operator", "name": "ada"}).json()["token"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {made}"}, verify=NO_TLS) as ada:
        changed = ada.post("/v1/flags/acknowledge", json={"ids": ["e1/0", "e2/0"], "note": "a known job"})
    assert changed.raise_for_status().json()["changed"] == ["e1/0", "e2/0"]
    again = admin.post("/v1/flags/acknowledge", json={"ids": ["e2/0", "e3/0"]}).json()
    assert again["changed"] == ["e3/0"]
    assert [one["acknowledged"]["by"] for one in again["flags"]] == ["token/ada", "token/first-admin"]
    kept = admin.get("/v1/flags/e1/0").json()["acknowledged"]
    assert (kept["by"], kept["note"]) == ("token/ada", "a known job")
    assert abs(kept["time"] - time.time()) < 60
    assert ids(admin, acknowledged="true") == ["e3/0", "e2/0", "e1/0"]
    assert ids(admin, acknowledged="false", severity="high") == ["e4/0", "e0/0"]
    back = admin.post("/v1/flags/unacknowledge", json={"ids": ["e1/0", "e2/0", "e3/0", "e4/0"], "note": "too soon"})
    assert back.json()["changed"] == ["e1/0", "e2/0", "e3/0"]
    assert ids(admin, acknowledged="true") == []
    entries = admin.get("/v1/audit", params={"kind": "flag", "name": "e1/0"}).json()["items"]
    told = [
        (one["entry"]["verb"], one["entry"]["actor"]["name"], one["entry"].get("note"), one["entry"].get("before"))
        for one in entries
    ]
    assert told == [
        ("unacknowledge", "first-admin", "too soon", {"acknowledged_by": "token/ada"}),
        ("acknowledge", "ada", "a known job", None),
    ]


def test_of_several_that_are_not_all_there_none_is_acknowledged(admin: httpx.Client) -> None:
    answer = admin.post("/v1/flags/acknowledge", json={"ids": ["e0/0", "no/such", "nor/this"]})
    assert answer.status_code == 404
    assert [one["pointer"] for one in answer.json()["problems"]] == ["/ids/1", "/ids/2"]
    assert ids(admin, acknowledged="true") == []
    assert admin.post("/v1/flags/acknowledge", json={"ids": []}).status_code == 400


@pytest.mark.parametrize("role", ["viewer", "author", "ingest"])
def test_who_only_looks_acknowledges_nothing(admin: httpx.Client, server: Live, role: str) -> None:
    made = admin.post("/v1/tokens", json={"role": role, "name": f"only-{role}", "replace": True}).json()["token"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {made}"}, verify=NO_TLS) as other:
        assert other.post("/v1/flags/acknowledge", json={"ids": ["e0/0"]}).status_code == 403


def test_the_same_request_again_is_answered_as_before(admin: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (admin.post("/v1/flags/acknowledge", json={"ids": ["e4/0"]}, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    admin.post("/v1/flags/unacknowledge", json={"ids": ["e4/0"]}).raise_for_status()


def test_what_is_found_is_a_file(admin: httpx.Client, server: Live, tmp_path: Path) -> None:
    answer = admin.get("/v1/flags/export", params={"format": "csv", "severity": ">=medium"}).raise_for_status()
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == ["e4/0", "e3/0", "e2/0", "e1/0", "e0/0"]
    assert (rows[0]["process"], rows[0]["class"], rows[0]["asked_by"]) == ("nc", "red", "rule/8")
    assert rows[0]["content"] == CONTENT
    assert "attachment" in answer.headers["content-disposition"]
    assert int(answer.headers["quell-at-most"]) == 5
    with Client(server.url, server.token("admin")) as client:
        client.flags.save(tmp_path / "flags.ndjson", "ndjson", FlagFilter(rule=("ops",)))
        assert [one.id for one in client.flags.search()][-2:] == ["e0/1", "e0/0"]
    [line] = (tmp_path / "flags.ndjson").read_text().splitlines()
    assert json.loads(line)["repeats"] == 4


def test_on_the_command_line(quell: Callable[..., Ran], tmp_path: Path) -> None:
    listed = quell("flags", "list", "--severity", ">=high", "--event", "e0", "--text", "reverse shell")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[-1] for line in listed.stdout.splitlines()[1:]] == ["e0/0"]
    shown = quell("flags", "show", "e0/0")
    assert "Runbook" in shown.stdout
    assert "https://wiki.example/nc" in shown.stdout
    assert all(char.isprintable() or char == "\n" for char in shown.stdout)
    assert "<script>alert(1)</script>" in shown.stdout
    assert quell("flags", "ack", "e0/0", "e1/0", "--note", "seen").stdout.splitlines() == [
        "acknowledged e0/0",
        "acknowledged e1/0",
    ]
    assert "was acknowledged by token/first-admin" in quell("flags", "ack", "e0/0").stdout
    shown = quell("flags", "show", "e0/0")
    assert "token/first-admin" in shown.stdout
    assert "seen" in shown.stdout
    found = json.loads(quell("flags", "list", "--acknowledged", "-o", "json").stdout)
    assert sorted(one["id"] for one in found) == ["e0/0", "e1/0"]
    assert json.loads(quell("flags", "list", "--open", "--class", "red", "--event", "e0", "-o", "json").stdout) == []
    assert quell("flags", "unack", "e0/0", "e1/0").stdout.splitlines()[0] == "e0/0 is open again"
    file = tmp_path / "flags.csv"
    assert quell("flags", "export", "--format", "csv", "--rule", "ops", "-o", str(file)).returncode == 0
    assert file.read_text().count("\n") == 2
    missing = quell("flags", "show", "no/such")
    assert missing.returncode != 0
    assert "no flag no/such" in missing.stderr


def test_a_formula_is_no_formula_in_the_file(admin: httpx.Client) -> None:
    formula = "=cmd|'/C calc'!A0"
    admin.post("/v1/events", json=event("formula", message=formula)).raise_for_status()
    text = admin.get("/v1/flags/export", params={"format": "csv", "event": "formula"}).text
    [row] = csv.DictReader(io.StringIO(text))
    assert row["description"] == f"'{formula}"


# ---- webhooks


@pytest.fixture
def receivers() -> Iterator[Callable[[], Receiver]]:
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver())
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_flag_goes_to_those_its_action_names_and_to_those_who_subscribe_from_a_level_on(
    tmp_path: Path, receivers: Callable[[], Receiver]
) -> None:
    named, all_of_them, worst, events, off = (receivers() for _ in range(5))
    configuration = Configuration(settings=Settings().with_values({"webhooks.allow_private": True}))
    with live(tmp_path / "s", configuration=configuration) as server, server.client("admin") as admin:
        documents = hook("named", named) + hook("all", all_of_them, filter={"flags": True})
        documents += hook("worst", worst, filter={"flags": True, "level": "Error"}, type="CloudEvents")
        documents += hook("events", events, filter={"level": "Debug"}, default=True)
        documents += hook("off", off, filter={"flags": True}, enable=False)
        documents += rule("named", {"makeRedFlag": {"severity": "high", "webhooks": ["named"]}}, criteria="process:nc")
        documents += rule("low", {"makeOpsFlag": {"severity": "medium"}}, criteria="process:nc")
        silent = {"makeRedFlag": {"severity": "critical", "webhooks": ["named"]}}
        documents += rule("quiet", silent, "suppress-log", criteria="process:quiet")
        answer = admin.post("/v1/documents", content=documents)
        assert answer.is_success, answer.text
        admin.post("/v1/events", json=[event("hushed", "quiet"), event("loud")]).raise_for_status()
        wait_for(lambda: len(all_of_them.requests) >= 2 and named.requests and worst.requests, what="deliveries")
        flags = {one["event_id"]: one for one in admin.get("/v1/flags").json()["items"]}
    body = json.loads(named.requests[0].body)
    assert (body["flag"]["class"], body["flag"]["severity"], len(named.requests)) == ("red", "high", 1)
    assert body["flag"]["class_path"] == "redflag/proc/host_suspicious_process/high_severity/nc"
    assert [json.loads(one.body)["flag"]["severity"] for one in all_of_them.requests] == ["high", "medium"]
    [cloud] = worst.requests
    assert json.loads(cloud.body)["data"]["flag"]["severity"] == "high"
    assert (events.requests, off.requests) == ([], [])
    assert (flags["hushed"]["silent"], flags["loud"]["silent"]) == (True, False)
