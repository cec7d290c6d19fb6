"""Events, security events and risk reports through a real controller: what is listed, searched, exported, and hidden."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, live
from running import Receiver, wait_for
from tests.system.command import Ran
from tests.system.command import quell as run

from quell.client import Client
from quell.configuration import Configuration
from quell.controller.controller import Controller
from quell.controller.notifications import Scope, compiled, find, told
from quell.controller.own_events import own_event
from quell.documents.load import load_text
from quell.model.notification import Filter, NotificationList
from quell.model.subject import Subject
from quell.settings import Settings, WebhookSettings

CONTAINER = "4f5e2c1b9a8d" + "0" * 52
LISTS = ("events", "security-events", "risk-reports")


def rule(name: str, event: str, more: str) -> str:
    return f"""
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: {name}}}
spec: {{event: {event}, {more}}}
---
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Live]:
    settings = Settings(webhooks=WebhookSettings(allow_networks=("127.0.0.1/32",)))
    settings = settings.with_values({"server.rate_limit": 10_000, "server.rate_burst": 10_000})
    with live(
        tmp_path_factory.mktemp("notifications") / "s", configuration=Configuration(settings=settings)
    ) as running:
        documents = (
            f"""
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: hook}}
spec: {{url: "{receiver.url}", type: JSON, allow_http: true, allow_private: true, default: true}}
---
apiVersion: quell.dev/v1
kind: Group
metadata: {{name: shop}}
spec: {{criteria: [{{key: namespace, op: "=", value: shop}}]}}
---
"""
            + rule("tell", "event", "actions: [webhook]")
            + rule("hush", "event", 'criteria: ["name:Container.Stop"], actions: [suppress-log]')
            + rule("would-hush", "event", 'mode: audit, criteria: ["name:Container.Start"], actions: [suppress-log]')
            + rule("hush-all-of-quell", "event", 'criteria: ["source:quell"], actions: [suppress-log]')
            + rule("flag", "security-event", 'criteria: ["level:>=Error"], actions: [{makeRedFlag: {severity: high}}]')
            + rule("isolate", "security-event", "group: shop, actions: [quarantine]")
        )
        with running.client() as admin:
            admin.post("/v1/documents", content=documents).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture(scope="module")
def many(admin: httpx.Client) -> list[str]:
    """Ids of as many events as no part of an export has."""
    lines = [json.dumps({"id": f"many-{n}", "name": "Node.Cordon", "category": "event"}) for n in range(6000)]
    for start in range(0, 6000, 1000):
        admin.post(
            "/v1/events",
            content="\n".join(lines[start : start + 1000]),
            headers={"Content-Type": "application/x-ndjson"},
        ).raise_for_status()
    return [f"many-{n}" for n in range(6000)]


def viewer(server: Live) -> str:
    """A token that may look, and no more."""
    with server.client() as admin:
        made = admin.post("/v1/tokens", json={"role": "viewer", "name": "onlooker", "replace": True})
        return str(made.raise_for_status().json()["token"])


def send(admin: httpx.Client, **event: Any) -> str:
    answer = admin.post("/v1/events", json=event).raise_for_status().json()
    assert not answer["rejected"], answer
    return str(answer["ids"][0])


def listed(admin: httpx.Client, which: str, **filters: Any) -> list[str]:
    return [item["id"] for item in items(admin, f"/v1/notifications/{which}", **filters)]


def items(admin: httpx.Client, path: str, **filters: Any) -> list[dict[str, Any]]:
    """Over all pages."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = admin.get(path, params=filters | ({} if cursor is None else {"cursor": cursor}))
        assert page.is_success, page.text
        told = page.json()
        found += told["items"]
        cursor = told["next"]
        assert told["complete"] is (cursor is None)
        if cursor is None:
            return found


def exported(admin: httpx.Client, which: str, form: str, **filters: Any) -> str:
    answer = admin.get(f"/v1/notifications/{which}/export", params={"format": form, **filters})
    assert answer.is_success, answer.text
    return answer.text


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


# ---- what is in which list


def test_each_category_is_in_its_list(admin: httpx.Client) -> None:
    sent = {
        "events": [send(admin, name="Controller.Start")],
        "security-events": [
            send(admin, name="Host.Suspicious.Process"),
            send(admin, name="Process.Profile.Violation", category="deviation", details={"policy": "p"}),
        ],
        "risk-reports": [
            send(admin, name="Container.Scan.Report"),
            send(admin, name="Compliance.Host.Violation", category="compliance"),
            send(admin, name="Admission.Control.Denied"),
        ],
    }
    for which in LISTS:
        ids = listed(admin, which)
        for other, expected in sent.items():
            assert [one for one in ids if one in expected] == (expected[::-1] if other == which else [])
    assert set(listed(admin, "all")) >= {one for ids in sent.values() for one in ids}


def test_an_entry_names_its_rules_and_what_became_of_their_actions(admin: httpx.Client) -> None:
    sent = send(
        admin,
        name="Container.Suspicious.Process",
        level="Critical",
        time=time.time(),
        subject={"namespace": "shop", "container": {"id": CONTAINER, "name": "cart"}},
        details={"message": "nc was started"},
    )
    (entry,) = items(admin, "/v1/notifications/security-events", workload=CONTAINER[:12])
    assert (entry["id"], entry["message"], entry["suppressed"]) == (sent, "nc was started", False)
    assert {(named["ref"], named["name"]) for named in entry["rules"]} == {
        (f"rule/{named['id']}", named["name"]) for named in entry["rules"]
    }
    assert {named["name"] for named in entry["rules"]} == {"flag", "isolate"}
    assert {(each["action"], each["status"], each.get("reason")) for each in entry["actions"]} == {
        ("makeRedFlag", "granted", None),
        ("quarantine", "refused", "no-agent"),
    }
    numbers = {named["name"]: named["id"] for named in entry["rules"]}
    for asked in (
        {"rule": str(numbers["flag"])},
        {"rule": "isolate"},
        {"rule": f"rule/{numbers['isolate']}"},
        {"group": "shop"},
        {"group": "containers", "namespace": "sh*"},
        {"action": "quarantine", "status": "refused"},
        {"text": 'nc "was started"'},
        {"level": ">=Critical", "kind": "incident"},
        {"workload": "cart"},
    ):
        assert listed(admin, "security-events", **asked) == [sent], asked
    assert listed(admin, "security-events", action="quarantine", status="granted") == []
    assert listed(admin, "events", rule="isolate") == []


def test_the_outcome_of_a_webhook_is_told(admin: httpx.Client, receiver: Receiver) -> None:
    sent = send(admin, name="Container.Start", subject={"container": {"id": CONTAINER}})
    wait_for(lambda: receiver.received[f"{sent}/webhook/hook"] == 1, what="the webhook")

    def outcome() -> str | None:
        entry = next(one for one in items(admin, "/v1/notifications/events", rule="tell") if one["id"] == sent)
        return next((each.get("outcome") for each in entry["actions"] if each["action"] == "webhook"), None)

    wait_for(lambda: outcome() == "done", what="its outcome")


# ---- suppress-log


def test_a_suppressed_event_is_nowhere_but_in_the_journal(admin: httpx.Client, receiver: Receiver) -> None:
    hidden = send(admin, name="Container.Stop", subject={"namespace": "quiet"})
    # A rule in audit mode suppresses nothing, and this one is told of.
    shown = send(admin, name="Container.Start", subject={"namespace": "quiet"})
    wait_for(lambda: receiver.received[f"{shown}/webhook/hook"] == 1, what="the webhook of the other")
    for which in (*LISTS, "all"):
        assert hidden not in listed(admin, which)
        assert hidden not in exported(admin, which, "csv")
        assert hidden not in exported(admin, which, "ndjson")
    assert shown in listed(admin, "events")
    assert not [one for one in receiver.received if one.startswith(hidden)]

    assert listed(admin, "events", include_suppressed=True, namespace="quiet") == [shown, hidden]
    assert hidden in exported(admin, "events", "ndjson", include_suppressed=True)
    told = admin.get(f"/v1/events/{hidden}").json()
    assert told["decision"]["suppressed"] is True
    by_id = {event["id"]: event["decision"] for event in items(admin, "/v1/events", namespace="quiet")}
    assert (by_id[hidden]["suppressed"], by_id[shown].get("suppressed", False)) == (True, False)
    assert [event["id"] for event in items(admin, "/v1/events", namespace="quiet", include_suppressed=False)] == [shown]


def test_quells_own_safety_events_are_never_hidden(tmp_path: Path) -> None:
    """But for those whose names the mission document gives users to match."""

    async def run() -> dict[str, bool]:
        controller = Controller.open(tmp_path / "s", Settings())
        controller.start()
        try:
            await controller.apply(
                load_text(rule("hush", "event", 'criteria: ["source:quell"], actions: [suppress-log]'))
            )
            now = time.time()
            for name in ("Quarantine.Release", "Container.Quarantined"):
                await controller.ingest([own_event(name, name, Subject(node="n1"), "by a test", now, now)])
            scope = Scope(index=controller.pipeline.index, world=controller.state)
            query = compiled(Filter(include_suppressed=True, source=("quell",)), scope, NotificationList.EVENTS)
            found = controller.store.read(lambda connection: told(connection, find(connection, query, limit=9).items))
            mine = [one for one in found if one.message == "by a test"]
            assert [[named.name for named in one.rules] for one in mine] == [["hush"], ["hush"]]
            return {one.id: one.suppressed for one in mine}
        finally:
            await controller.stop()

    assert asyncio.run(run()) == {"Quarantine.Release": False, "Container.Quarantined": True}


# ---- searching


def test_what_is_wrong_with_a_search_is_said(admin: httpx.Client) -> None:
    answer = admin.get(
        "/v1/notifications/events",
        params={"level": "Eror", "group": "shopp", "action": "quarantin", "name": "[z-a]", "kind": "incident"},
    )
    assert answer.status_code == 400
    problems = {problem["path"]: problem for problem in answer.json()["problems"]}
    assert problems.keys() == {"query.level", "query.group", "query.action", "query.name"}
    assert problems["query.group"]["nearest"] == "shop"
    assert problems["query.action"]["nearest"] == "quarantine"
    for wrong in (
        {"since": "yesterday"},
        {"cursor": "first"},
        {"cursor": "1.1", "before": "x"},
        {"text": ""},
        {"cursor": "999999.0", "order": "oldest"},
    ):
        assert admin.get("/v1/notifications/all", params=wrong).status_code == 400, wrong
    assert admin.get("/v1/notifications/some").status_code in (400, 404)


def test_times_as_people_write_them(admin: httpx.Client) -> None:
    sent = send(admin, name="Controller.Stop", level="Alert")
    for since in ("1h", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", str(time.time() - 60)):
        assert listed(admin, "events", level="Alert", since=since) == [sent]
    assert listed(admin, "events", level="Alert", until="1h") == []


def test_pages_hold_while_events_come(admin: httpx.Client) -> None:
    ids = [send(admin, name="User.Login") for _ in range(7)]
    first = admin.get("/v1/notifications/events", params={"name": "User.Login", "limit": 3}).json()
    more = [send(admin, name="User.Login") for _ in range(2)]
    rest = items(admin, "/v1/notifications/events", name="User.Login", cursor=first["next"])
    assert [item["id"] for item in [*first["items"], *rest]] == ids[::-1]
    later = admin.get(
        "/v1/notifications/events", params={"name": "User.Login", "order": "oldest", "cursor": first["resume"]}
    ).json()
    assert [item["id"] for item in later["items"]] == more
    assert listed(admin, "events", name="user.login", order="oldest") == ids + more
    assert listed(admin, "events", name="user.login", before=ids[2]) == [ids[1], ids[0]]
    assert listed(admin, "events", before="never") == []


# ---- as a file


def test_a_table_is_safe_for_spreadsheets_and_complete(admin: httpx.Client) -> None:
    nasty = '=HYPERLINK("http://x","y")\r\n;second, "line"'
    sent = send(
        admin,
        name="Container.Suspicious.Process",
        time="2026-11-22T15:40:11.204Z",
        subject={
            "namespace": "bank",
            "node": "+node",
            "pod": {"name": "@pod"},
            "container": {"id": CONTAINER, "name": "-c"},
            "process": {"name": "nc", "pid": 7, "user": "\tröt"},
        },
        details={"message": nasty},
    )
    text = exported(admin, "security-events", "csv", namespace="bank")
    assert text.startswith('"id","time","received","list"')
    assert text.replace("\r\n", "").count("\n") == 0
    (row,) = table(text.encode())
    assert (row["id"], row["time"], row["pid"], row["suppressed"]) == (sent, "2026-11-22T15:40:11.204Z", "7", "no")
    assert row["message"] == f"'{nasty}"
    assert (row["node"], row["pod"], row["container"], row["user"]) == ("'+node", "'@pod", "'-c", "'\tröt")
    (line,) = exported(admin, "security-events", "ndjson", namespace="bank").splitlines()
    assert json.loads(line)["message"] == nasty
    assert json.loads(line) == items(admin, "/v1/notifications/security-events", namespace="bank")[0]


def test_a_long_export_comes_whole_and_in_parts_while_events_come(
    admin: httpx.Client, server: Live, many: list[str]
) -> None:
    seen: list[str] = []
    parts = 0
    with admin.stream(
        "GET", "/v1/notifications/events/export", params={"name": "Node.Cordon", "order": "oldest"}
    ) as answer:
        assert int(answer.headers["quell-at-most"]) >= 6000
        assert 'filename="quell-events-' in answer.headers["content-disposition"]
        rest = b""
        for part in answer.iter_raw():
            parts += 1
            if parts == 1:
                with server.client() as other:
                    other.post("/v1/events", json={"id": "many-too-late", "name": "Node.Cordon", "category": "event"})
            *whole, rest = (rest + part).split(b"\n")
            seen += [json.loads(line)["id"] for line in whole]
    assert [one for one in seen if one in set(many)] == many
    assert "many-too-late" not in seen
    assert parts > 5


# ---- from Python and the command line


def test_from_python(server: Live, tmp_path: Path, many: list[str]) -> None:
    with Client(server.url, viewer(server)) as quell:
        told = list(
            quell.notifications.search(NotificationList.EVENTS, Filter(name=("Node.Cordon",), text=("many-17",)))
        )
        assert {one.id for one in told} >= {many[17], many[170]}
        file = tmp_path / "found.csv"
        quell.notifications.save(file, NotificationList.EVENTS, "csv", Filter(text=("many-17",)))
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(table(file.read_bytes())) == len(told)
        with pytest.raises(FileExistsError):
            quell.notifications.save(file, NotificationList.EVENTS, "csv")
        assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]


def command(server: Live, *words: str) -> list[str]:
    return [sys.executable, "-m", "quell", "--url", server.url, "--token", viewer(server), *words]


def quell(server: Live, *words: str) -> Ran:
    return run(*words, url=server.url, token=viewer(server))


def test_the_command_line_searches(server: Live, admin: httpx.Client) -> None:
    sent = send(admin, name="Container.Suspicious.Process", level="Emergency", subject={"namespace": "cli"})
    done = quell(server, "notifications", "security-events", "--namespace", "cli", "--level", ">=Alert", "-o", "json")
    assert [item["id"] for item in json.loads(done.stdout)] == [sent]
    table = quell(server, "notifications", "security-events", "--namespace", "cli").stdout
    assert sent in table
    assert "flag" in table
    assert "nothing was found" in quell(server, "notifications", "risk-reports", "--namespace", "cli").stderr
    hidden = send(admin, name="Container.Stop", subject={"namespace": "cli"})
    assert hidden not in quell(server, "notifications", "all", "--namespace", "cli").stdout
    assert hidden in quell(server, "notifications", "all", "--namespace", "cli", "--include-suppressed").stdout
    listed_too = quell(server, "events", "list", "--namespace", "cli").stdout
    assert [line for line in listed_too.splitlines() if hidden in line and "suppressed" in line]
    wrong = quell(server, "notifications", "events", "--level", "Eror")
    assert (wrong.returncode, "Error" in wrong.stderr) == (3, True)
    assert quell(server, "notifications", "events", "--since", "yesterday").returncode == 2
    assert quell(server, "notifications", "events", "--follow", "--until", "1h").returncode == 2


def test_the_command_line_exports(server: Live, tmp_path: Path, many: list[str], admin: httpx.Client) -> None:
    send(admin, name="Container.Scan.Report")
    file = tmp_path / "reports.csv"
    done = quell(server, "notifications", "export", "--list", "risk-reports", "--format", "csv", "-o", str(file))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert {row["list"] for row in table(file.read_bytes())} == {"risk-reports"}
    again = quell(server, "notifications", "export", "-o", str(file))
    assert again.returncode != 0
    assert "already" in again.stderr
    lines = quell(server, "notifications", "export", "--list", "events", "--name", "Node.Cordon").stdout.splitlines()
    assert len(lines) == len({json.loads(line)["id"] for line in lines}) >= len(many)


def test_following_shows_what_comes(server: Live, admin: httpx.Client) -> None:
    before = send(admin, name="Container.Start", subject={"namespace": "followed"})
    words = ("notifications", "events", "--follow", "--namespace", "followed", "-o", "json")
    # Tests that run in a shell's background were started with the interrupt ignored, and so would this be.
    interruptible = ["env", "--default-signal=INT", *command(server, *words)]
    with subprocess.Popen(interruptible, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["id"] == before
            after = [send(admin, name="Container.Start", subject={"namespace": "followed"}) for _ in range(3)]
            send(admin, name="Container.Stop", subject={"namespace": "followed"})
            assert [json.loads(process.stdout.readline())["id"] for _ in after] == after
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
