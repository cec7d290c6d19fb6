"""Quarantines over HTTP and on the command line, with an agent that the test speaks for. SEMANTICS section 4."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live
from scripted_agent import NODE, ScriptedAgent

from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import Command, Outcome, OutcomeStatus

WEB, DB = "a" * 64, "b" * 64
DOCUMENTS = """
apiVersion: quell.dev/v1
kind: Group
metadata: {name: shop}
spec: {criteria: [{key: namespace, op: "=", value: shop}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells}
spec: {id: 8, event: security-event, criteria: ["name:Container.Suspicious.Process"], actions: [quarantine]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: netcat}
spec: {id: 9, event: security-event, criteria: ["process:nc"], actions: [quarantine]}
"""


class Place:
    """A controller whose one agent does what it is told; WEB is in the group shop, DB in none."""

    def __init__(self, server: Live, admin: httpx.Client, agent: ScriptedAgent) -> None:
        self.server = server
        self.admin = admin
        self.agent = agent
        self._count = iter(range(1, 1000))

    def event(self, container: str, namespace: str, process: str = "sh") -> str:
        """An event of a container that nobody but the detector knows."""
        identifier = f"e{next(self._count)}"
        subject = {
            "node": NODE,
            "namespace": namespace,
            "image": "nginx",
            "container": {"id": container, "name": f"of-{namespace}"},
            "process": {"pid": 4711, "start_ticks": 1, "name": process},
        }
        event = {"id": identifier, "time": time.time(), "name": "Container.Suspicious.Process", "subject": subject}
        self.admin.post("/v1/events", json=event).raise_for_status()
        return identifier

    def isolate_both(self) -> None:
        """WEB by rules 8 and 9, DB by rule 8."""
        self.event(WEB, "shop", "nc")
        self.done(Quarantine)
        self.event(DB, "other")
        self.done(Quarantine)

    def done(self, kind: type[Quarantine | ReleaseQuarantine]) -> Command:
        """The next command, which the agent has done."""
        command = self.agent.ordered()
        assert isinstance(command.action, kind)
        self.agent.report(Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time()))
        return command

    @contextlib.contextmanager
    def operator(self) -> Iterator[httpx.Client]:
        """Another person, whose token is called second."""
        made = self.admin.post("/v1/tokens", json={"role": "operator", "name": "second"}).raise_for_status().json()
        with httpx.Client(
            base_url=self.server.url, headers={"Authorization": f"Bearer {made['token']}"}, verify=NO_TLS
        ) as client:
            yield client

    def held(self, **filters: str) -> dict[str, list[str]]:
        answer = self.admin.get("/v1/quarantines", params=filters).raise_for_status().json()
        return {each["key"]: sorted(each["holders"]) for each in answer["items"]}

    def release(self, status: int = 200, dry_run: str = "false", **body: Any) -> Any:
        answer = self.admin.post("/v1/quarantines/release", params={"dry_run": dry_run}, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "quell",
            "--url",
            self.server.url,
            "--token",
            self.server.token("admin"),
            *words,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with live(tmp_path_factory.mktemp("quarantines") / "s") as server, server.client("admin") as admin:
        agent = ScriptedAgent(admin)
        with agent.linked():
            admin.post("/v1/documents", content=DOCUMENTS).raise_for_status()
            yield Place(server, admin, agent)


def keys(told: list[dict[str, Any]]) -> list[str]:
    return sorted(each["key"] for each in told)


def test_what_is_held_is_listed_and_filtered(place: Place) -> None:
    place.isolate_both()
    assert place.held() == {WEB: ["rule/8", "rule/9"], DB: ["rule/8"]}
    assert place.held(holder="rule/9") == {WEB: ["rule/8", "rule/9"]}
    assert place.held(group="shop") == {WEB: ["rule/8", "rule/9"]}
    assert place.held(node=NODE, phase="isolated").keys() == {WEB, DB}
    assert place.held(node="elsewhere") == place.held(phase="asked") == {}
    assert place.admin.get("/v1/quarantines", params={"group": "none"}).status_code == 404
    one = place.admin.get(f"/v1/quarantines/{WEB}").json()
    assert (one["name"], one["phase"], one["confirmed"], one["strict"]) == ("of-shop", "isolated", True, False)
    assert [member["namespace"] for member in one["workloads"]] == ["shop"]
    shown = place.cli("quarantines", "show", WEB[:12])
    assert "holders    rule/8, rule/9" in shown.stdout
    assert place.cli("quarantines", "list", "--rule", "9").stdout.count("of-") == 1


def test_by_rule_by_group_by_both_and_all(place: Place) -> None:
    place.isolate_both()
    dry = place.release(dry_run="true", rule=8)
    assert (keys(dry["released"]), keys(dry["kept"]), dry["event"]) == ([DB], [WEB], "")
    assert place.held() == {WEB: ["rule/8", "rule/9"], DB: ["rule/8"]}

    both = place.release(rule=8, group="shop")
    assert (keys(both["released"]), keys(both["kept"])) == ([], [WEB])
    assert both["kept"][0]["holders"] == ["rule/9"]
    assert place.held() == {WEB: ["rule/9"], DB: ["rule/8"]}
    record = place.admin.get(f"/v1/events/{both['event']}").json()["decision"]["actions"]
    assert [each["explanation"] for each in record] == ["rule/8 let go; it stays isolated, held by rule/9"]

    group = place.release(group="shop")
    assert keys(group["released"]) == [WEB]
    assert place.done(ReleaseQuarantine).asked_by == ("token/first-admin",)
    assert place.held() == {DB: ["rule/8"]}

    assert place.release(rule=9) == {"released": [], "kept": [], "event": ""}
    assert keys(place.release(all=True)["released"]) == [DB]
    place.done(ReleaseQuarantine)
    assert place.held() == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"all": False}, 422),
        ({"all": True, "rule": 8}, 422),
        ({"rule": 8, "holder": "user/ann"}, 422),
        ({"rule": "eight"}, 400),
        ({"rule": 0}, 400),
        ({"colour": "red"}, 400),
        ({"group": "nobody"}, 404),
    ],
)
def test_a_release_that_says_too_little_or_too_much(place: Place, body: dict[str, Any], status: int) -> None:
    assert place.release(status, **body)["status"] == status


def test_one_holder_of_one_quarantine(place: Place) -> None:
    place.isolate_both()
    path = f"/v1/quarantines/{WEB}"
    version = place.admin.get(path).headers["etag"]
    assert place.admin.delete(path, params={"holder": "user/ann"}).status_code == 404
    dry = place.admin.delete(path, params={"holder": "rule/9", "dry_run": "true"}).json()
    assert keys(dry["kept"]) == [WEB]
    kept = place.admin.delete(path, params={"holder": "rule/9"}, headers={"If-Match": version})
    assert kept.json()["kept"][0]["gone"] == ["rule/9"]
    assert place.admin.delete(path, headers={"If-Match": version}).status_code == 412, "somebody changed it meanwhile"
    assert place.held()[WEB] == ["rule/8"]
    assert keys(place.admin.delete(path).json()["released"]) == [WEB]
    place.done(ReleaseQuarantine)
    assert place.admin.delete(path).status_code == 404


def test_a_person_asks(place: Place) -> None:
    asked = {"workload": WEB, "node": NODE, "ttl": 3600, "strict": True, "comment": "odd"}
    dry = place.admin.post("/v1/quarantines", params={"dry_run": "true"}, json=asked).json()
    assert dry["decision"]["actions"][0]["status"] == "granted"
    assert place.held() == {}
    answer = place.admin.post("/v1/quarantines", json=asked, headers={"Idempotency-Key": "once"})
    again = place.admin.post("/v1/quarantines", json=asked, headers={"Idempotency-Key": "once"})
    assert (answer.status_code, again.json()) == (200, answer.json())
    assert place.done(Quarantine).action == Quarantine(ttl=pytest.approx(3600, abs=5), strict=True)
    assert place.held() == {WEB: ["token/first-admin"]}
    told = place.admin.get(f"/v1/events/{answer.json()['decision']['event_id']}").json()
    assert [outcome["status"] for outcome in told["outcomes"]] == ["done"]
    [record] = place.admin.get("/v1/audit", params={"kind": "quarantine"}).json()["items"]
    entry = record["entry"]
    assert (entry["verb"], entry["after"]["comment"], entry["after"]["status"]) == ("quarantine", "odd", "granted")


def test_investigators_come_and_go_with_their_holders(place: Place) -> None:
    place.event(WEB, "shop")
    place.done(Quarantine)
    asked = place.cli("quarantines", "add", WEB, "--node", NODE, "--investigator", "2001:DB8::7", "--wait", "0")
    assert asked.returncode == 0, asked.stderr
    assert "quarantine but for 2001:db8::7" in asked.stdout
    assert place.done(Quarantine).action == Quarantine(investigator=("2001:db8::7",))
    body = {"workload": WEB, "node": NODE, "investigator": ["192.0.2.7", "2001:db8::7"]}
    with place.operator() as operator:
        operator.post("/v1/quarantines", json=body).raise_for_status()
    assert place.done(Quarantine).action == Quarantine(investigator=("192.0.2.7", "2001:db8::7"))
    one = place.admin.get(f"/v1/quarantines/{WEB}").json()
    assert one["investigators"] == {
        "token/first-admin": ["2001:db8::7"],
        "token/second": ["192.0.2.7", "2001:db8::7"],
    }
    shown = place.cli("quarantines", "show", WEB[:12]).stdout
    assert "reached by 2001:db8::7 (token/first-admin); 192.0.2.7, 2001:db8::7 (token/second)" in shown
    told = place.release(holder="token/second")
    assert (keys(told["kept"]), told["kept"][0]["holders"]) == ([WEB], ["rule/8", "token/first-admin"])
    assert place.done(Quarantine).action == Quarantine(investigator=("2001:db8::7",))
    [record] = place.admin.get(f"/v1/events/{told['event']}").json()["decision"]["actions"]
    assert record["explanation"] == (
        "token/second let go; it stays isolated, held by rule/8, token/first-admin; 2001:db8::7 may reach it"
    )
    # Asked for again without: taken away.
    place.admin.post("/v1/quarantines", json={"workload": WEB, "node": NODE}).raise_for_status()
    assert place.done(Quarantine).action == Quarantine()
    assert place.release(holder="token/first-admin")["kept"][0]["holders"] == ["rule/8"]
    assert keys(place.release(all=True)["released"]) == [WEB]
    place.done(ReleaseQuarantine)


def test_a_refusal_is_an_answer_with_its_reason(place: Place) -> None:
    refused = place.admin.post("/v1/quarantines", json={"node": NODE, "pid": 4711}).json()["decision"]["actions"][0]
    assert (refused["status"], refused["reason"]) == ("refused", "identity")
    place.admin.put("/v1/pause", json={"paused": True, "reason": "test"}).raise_for_status()
    done = place.cli("quarantines", "add", WEB, "--node", NODE)
    assert done.returncode == 1
    assert "refused (paused): all destructive actions are paused" in done.stdout
    assert place.held() == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"workload": WEB, "pod": "a/b"}, 422),
        ({"pid": 5}, 422),
        ({"workload": WEB, "start_ticks": 5}, 422),
        ({"workload": "short"}, 400),
        ({"workload": WEB, "ttl": 0}, 400),
        ({"workload": WEB, "ttl": "1h"}, 400),
        ({"workload": WEB, "colour": "red"}, 400),
        ({"workload": WEB, "investigator": ["10.0.0.0/8"]}, 422),
        ({"workload": WEB, "investigator": ["192.0.2.7"], "strict": True}, 422),
        ({"workload": WEB, "investigator": ["192.0.2.7"] * 9}, 400),
        ({"workload": WEB, "investigator": "192.0.2.7"}, 400),
    ],
)
def test_a_wish_that_is_none(place: Place, body: dict[str, Any], status: int) -> None:
    assert place.admin.post("/v1/quarantines", json=body).status_code == status


def test_it_takes_an_operator(place: Place) -> None:
    made = place.admin.post("/v1/tokens", json={"role": "author", "name": "writer"}).json()
    with httpx.Client(
        base_url=place.server.url, headers={"Authorization": f"Bearer {made['token']}"}, verify=NO_TLS
    ) as author:
        assert author.get("/v1/quarantines").status_code == 200
        assert author.post("/v1/quarantines", json={"workload": WEB, "node": NODE}).status_code == 403
        assert author.post("/v1/quarantines/release", json={"all": True}).status_code == 403


@pytest.mark.parametrize(
    "words",
    [
        ("release",),
        ("release", WEB, "--all"),
        ("release", WEB, "--group", "shop"),
        ("release", "--all", "--rule", "8"),
        ("release", "--rule", "8", "--holder", "rule/8"),
        ("add",),
        ("add", WEB, "--pod", "a/b"),
        ("add", "nobody"),
    ],
)
def test_a_command_line_that_is_wrong(place: Place, words: tuple[str, ...]) -> None:
    done = place.cli("quarantines", *words)
    assert done.returncode == 2, done.stdout
