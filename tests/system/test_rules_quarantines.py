"""What a rule isolated when the rule is disabled or deleted, over HTTP and on the command line. SEMANTICS sections 3, 4."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live import Live, live
from scripted_agent import NODE, ScriptedAgent
from tests.plans import document
from tests.system.command import Ran
from tests.system.command import quell as run

from quell.model.decision import Outcome, OutcomeStatus

WEB, DB = "a" * 64, "b" * 64
SHELLS = document(
    "ResponseRule", "shells", 'event: incident, criteria: ["name:Container.Suspicious.Process"], actions: [quarantine]'
)
NETCAT = document("ResponseRule", "netcat", 'event: incident, criteria: ["process:nc"], actions: [quarantine]')


class Place:
    """rule/8 and rule/9 hold WEB; rule/8 alone holds DB."""

    def __init__(self, server: Live, admin: httpx.Client, agent: ScriptedAgent) -> None:
        self.server, self.admin, self.agent = server, admin, agent
        admin.post("/v1/documents", content=SHELLS + NETCAT).raise_for_status()
        for container, process in ((WEB, "nc"), (DB, "sh")):
            subject = {
                "node": NODE,
                "namespace": "shop",
                "container": {"id": container, "name": "c"},
                "process": {"pid": 4711, "start_ticks": 1, "name": process},
            }
            event = {"time": time.time(), "name": "Container.Suspicious.Process", "subject": subject}
            admin.post("/v1/events", json=event).raise_for_status()
            command = agent.ordered()
            agent.report(Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time()))

    def held(self) -> dict[str, list[str]]:
        answer = self.admin.get("/v1/quarantines").raise_for_status().json()
        return {each["key"]: sorted(each["holders"]) for each in answer["items"] if each["holders"]}

    def quell(self, *words: str, stdin: str = "") -> Ran:
        return run(*words, url=self.server.url, token=self.server.token("admin"), stdin=stdin)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with live(tmp_path_factory.mktemp("rules") / "s") as server, server.client("admin") as admin:
        agent = ScriptedAgent(admin)
        with agent.linked():
            yield Place(server, admin, agent)


BOTH = {WEB: ["rule/8", "rule/9"], DB: ["rule/8"]}
STAY = [
    {"key": WEB, "released": False, "holders": ["rule/8", "rule/9"]},
    {"key": DB, "released": False, "holders": ["rule/8"]},
]
END = [{"key": WEB, "released": False, "holders": ["rule/9"]}, {"key": DB, "released": True, "holders": []}]


def change(place: Place, way: str, **params: bool) -> dict[str, Any]:
    method, path = ("DELETE", "/v1/rules/8") if way == "delete" else ("POST", "/v1/rules/8/disable")
    answer = place.admin.request(method, path, params=params)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize("way", ["disable", "delete"])
def test_the_answer_says_what_stays_and_what_ends(place: Place, way: str) -> None:
    assert place.held() == BOTH
    assert place.admin.get("/v1/rules/8").json()["quarantines"] == [WEB, DB]
    assert change(place, way, dry_run=True)["quarantines"] == STAY
    assert change(place, way, dry_run=True, unquarantine=True)["quarantines"] == END
    assert place.held() == BOTH
    told = change(place, way)
    assert told["quarantines"] == STAY
    assert f"{DB} stays in quarantine, held by rule/8" in told["warnings"]
    assert place.held() == BOTH


@pytest.mark.parametrize("way", ["disable", "delete"])
def test_a_disabled_rule_lets_go_later(place: Place, way: str) -> None:
    change(place, "disable")
    told = change(place, way, unquarantine=True)
    assert (told["verb"], told["quarantines"]) == ("deleted" if way == "delete" else "unchanged", END)
    assert place.agent.ordered().target.key == DB
    assert place.held() == {WEB: ["rule/9"]}
    [entry, *_] = place.admin.get("/v1/audit", params={"name": "shells", "kind": "ResponseRule"}).json()["items"]
    assert entry["entry"]["note"] == "its quarantines are ended"


def test_a_new_rule_does_not_inherit_the_id_that_still_holds(place: Place) -> None:
    change(place, "delete")
    place.admin.delete("/v1/rules/9").raise_for_status()
    fields = {"event": "incident", "criteria": ["level:Info"], "actions": ["suppress-log"]}
    [inserted] = place.admin.post("/v1/rules", json={"rule": fields}).json()
    assert inserted["id"] == 10
    assert place.held() == BOTH


def test_the_command_line_asks_about_them(place: Place) -> None:
    shown = place.quell("rules", "show", "shells").stdout
    assert f"quarantined  {WEB}\nquarantined  {DB}\n" in shown
    stopped = place.quell("rules", "delete", "shells", stdin="n\n")
    assert stopped.returncode == 1
    assert f"which holds {WEB}, {DB} in quarantine?" in stopped.stderr
    done = place.quell("rules", "delete", "shells", stdin="y\ny\n")
    assert "End these quarantines too?" in done.stderr
    assert done.stdout.strip().splitlines() == [
        "ResponseRule shells (id 8) deleted",
        f"  warning: {WEB} stays in quarantine, held by rule/9",
        f"  warning: {DB} is released from quarantine",
    ]
    assert place.agent.ordered().target.key == DB
    left = place.quell("rules", "disable", "netcat")
    assert f"  warning: {WEB} stays in quarantine, held by rule/9" in left.stdout
    ended = place.quell("rules", "disable", "netcat", "--unquarantine")
    assert f"  warning: {WEB} is released from quarantine" in ended.stdout
    assert place.held() == {}
