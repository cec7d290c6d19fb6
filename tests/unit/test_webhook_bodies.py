"""The bodies of webhooks: the fields receivers know, escaped so that nothing an attacker names breaks out of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell.controller.bodies import body, content_type
from quell.controller.notices import flag_notice, notice
from quell.model.action import KillProcess, Severity
from quell.model.decision import ActionRecord, Decision, Evidence, Flag, FlagClass, Match, NearMiss, Status
from quell.model.details import (
    AdmissionReview,
    ComplianceItem,
    ComplianceReport,
    Connection,
    CveReport,
    Details,
    Deviation,
    Endpoint,
    PlainDetails,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.rule import Rule, WebhookType
from quell.model.subject import Container, Process, Subject

GOLDEN = Path(__file__).resolve().parents[2] / "../shared/samples/detectors/neuvector_webhook_bodies.json"
HOSTILE = 'a "quoted", b=c\n\\ <!channel> [x](http://evil) ,level=INFO \u2028 \x07'


def event(
    details: Details | None = None,
    *,
    category: Category = Category.SECURITY_EVENT,
    kind: Kind | None = Kind.INCIDENT,
    **subject: Any,
) -> Event:
    subject = {
        "cluster": "c1",
        "machine_id": "h1",
        "node": "node1",
        "namespace": "demo",
        "image": "nginx:1.2",
        "service": "web.demo",
        "container": Container(id="w1", name="web-1"),
        "process": Process(pid=7, name="nmap", exe="/usr/bin/nmap"),
    } | subject
    return Event(
        id="i1",
        time=1773235239.25,
        received=1773235240.0,
        source="native",
        category=category,
        name="Container.Suspicious.Process",
        level=Level.WARNING,
        kind=kind,
        subject=Subject(**subject),
        raw=b"{}",
        decode=lambda _: details,
    )


def decision() -> Decision:
    return Decision(
        event_id="i1",
        time=1773235240.0,
        revision=3,
        matches=(Match(ref="rule/20", name="kill scanners", evidence=(Evidence(criterion="name", value="nmap"),)),),
        near_misses=(NearMiss(ref="rule/21", name="x", criterion="level", expected="Alert"),),
        actions=(ActionRecord(id="i1/1", action=KillProcess(), asked_by=("rule/20",), status=Status.GRANTED),),
    )


def rule(comment: str = 'my "note"') -> Rule:
    return Rule(
        id=20, name="kill scanners", category=Category.SECURITY_EVENT, actions=(KillProcess(),), comment=comment
    )


INCIDENT = SecurityDetails(message="Risky application: nmap")


def test_json_has_the_known_fields_and_says_which_rules_and_what_was_decided() -> None:
    sent = json.loads(body(WebhookType.JSON, notice(event(INCIDENT), decision(), [rule()])))
    assert sent["comment"] == 'my "note"'
    assert sent["reported_at"] == "2026-03-11T13:20:39Z"
    assert sent["response_rule_id"] == 20
    assert sent["workload_domain"] == "demo"
    assert sent["proc_path"] == "/usr/bin/nmap"
    assert sent["event_id"] == "i1"
    assert sent["rules"] == [{"ref": "rule/20", "name": "kill scanners", "comment": 'my "note"'}]
    assert sent["decision"]["actions"][0]["status"] == "granted"
    assert "near_misses" not in sent["decision"]


@pytest.mark.skipif(not GOLDEN.exists(), reason="the shared samples are not beside the repository")
def test_every_field_of_the_recorded_bodies_is_there_in_order() -> None:
    recorded = json.loads(GOLDEN.read_text())
    told = notice(event(INCIDENT), decision(), [rule()])
    # The recorded text has no separators in its values but the one quote, which ours escapes.
    text = body(WebhookType.TEXT, told).decode()
    expected = recorded[""]["body"].replace('my "note"', json.dumps('my "note"'))
    expected = expected.replace("enforcer_id=e1,enforcer_name=enf1", "enforcer_id=,enforcer_name=")
    assert text == expected
    keys = [part.partition("=")[0] for part in recorded[""]["body"].split(",")][3:]
    sent = json.loads(body(WebhookType.JSON, told))
    assert list(sent) == ["cluster", "comment", *keys, "rules", "event_id", "decision"]
    slack = json.loads(body(WebhookType.SLACK, told))
    assert slack["text"].partition(">>>")[0] == json.loads(recorded["Slack"]["body"])["text"].partition(">>>")[0]
    teams = json.loads(body(WebhookType.TEAMS, told))
    assert teams["title"] == json.loads(recorded["Teams"]["body"])["title"]


@pytest.mark.parametrize("kind", WebhookType)
def test_nothing_in_an_event_breaks_out_of_its_place(kind: WebhookType) -> None:
    hostile = event(
        SecurityDetails(message=HOSTILE, file=HOSTILE),
        process=Process(pid=1, name=HOSTILE, exe=HOSTILE),
        namespace=HOSTILE,
    )
    sent = body(kind, notice(hostile, decision(), [rule(HOSTILE)]))
    if kind is WebhookType.TEXT:
        # One line, and outside of JSON strings exactly the fields that Quell wrote.
        line = sent.decode()
        assert "\n" not in line
        keys, rest = [], line
        while rest:
            key, _, rest = rest.partition("=")
            keys.append(key)
            value, end = json.JSONDecoder().raw_decode(rest) if rest.startswith('"') else ("", rest.find(","))
            rest = rest[end:].removeprefix(",") if end != -1 else ""
        assert keys.count("level") == 2
        assert keys[-1] == "message"
        return
    value = json.loads(sent)
    if kind is WebhookType.SLACK:
        assert "<!channel>" not in value["text"]
    if kind is WebhookType.TEAMS:
        assert " [x](" not in value["text"]
    if kind is WebhookType.JSON:
        assert value["message"] == HOSTILE
        assert value["comment"] == HOSTILE


FORMS: dict[str, tuple[Event, dict[str, Any]]] = {
    "threat": (
        event(
            SecurityDetails(
                severity="High",
                sensor="s",
                connection=Connection(
                    client=Endpoint(ip="10.0.0.9"), server=Endpoint(name="db", port=5432), protocol="TCP"
                ),
            ),
            kind=Kind.THREAT,
        ),
        {"server_workload_name": "db", "server_port": 5432, "ip_proto": 6, "client_ip": "10.0.0.9", "severity": "High"},
    ),
    "violation": (
        event(
            SecurityDetails(connection=Connection(client=Endpoint(name="web", image="nginx"), fqdn="evil.test")),
            kind=Kind.VIOLATION,
        ),
        {"client_name": "web", "client_image": "nginx", "fqdn": "evil.test", "policy_action": "violate"},
    ),
    "deviation of a process": (
        event(Deviation(policy="p", message="not allowed"), category=Category.DEVIATION, kind=None),
        {"proc_name": "nmap", "message": "not allowed"},
    ),
    "deviation of a connection": (
        event(
            Deviation(policy="p", connection=Connection(server=Endpoint(ip="1.2.3.4"))),
            category=Category.DEVIATION,
            kind=None,
        ),
        {"server_ip": "1.2.3.4"},
    ),
    "scan": (
        event(
            CveReport(
                vulnerabilities=(
                    Vulnerability(name="CVE-2024-1", severity="Critical"),
                    Vulnerability(name="CVE-2024-2", severity="High"),
                    Vulnerability(name="CVE-2024-3", severity="Low"),
                )
            ),
            category=Category.CVE_REPORT,
            kind=None,
        ),
        {"critical_vul_cnt": 1, "high_vul_cnt": 1, "medium_vul_cnt": 0, "critical_vuls": ["CVE-2024-1"]},
    ),
    "benchmark": (
        event(
            ComplianceReport(
                items=(
                    ComplianceItem(number="D.5.4", failed=True, text="privileged"),
                    ComplianceItem(number="D.5.5", failed=False),
                )
            ),
            category=Category.COMPLIANCE,
            kind=None,
        ),
        {"items": ["D.5.4 privileged"]},
    ),
    "admission": (
        event(
            AdmissionReview(message="denied", user="bob", images=("a", "b")),
            category=Category.ADMISSION_CONTROL,
            kind=None,
        ),
        {"message": "denied", "user": "bob", "image": "a, b"},
    ),
    "event": (
        event(PlainDetails(message="started", user="root"), category=Category.EVENT, kind=None),
        {"category": "event", "user": "root", "message": "started"},
    ),
    "no details": (event(None), {"message": "Container.Suspicious.Process", "workload_id": "w1"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_category_has_its_own_fields_in_every_type(form: str) -> None:
    subject, expected = FORMS[form]
    told = notice(subject, decision(), [rule()])
    sent = json.loads(body(WebhookType.JSON, told))
    assert expected.items() <= sent.items()
    for kind in WebhookType:
        assert body(kind, told)


def test_a_quarantine_says_whose_it_is() -> None:
    told = PlainDetails(message="quarantined by (rule 8)", rules=(8,), holders=("rule/8", "user/ann"), quarantine="c1")
    sent = json.loads(body(WebhookType.JSON, notice(event(told, category=Category.EVENT, kind=None), decision())))
    assert sent["quarantine"] == {"key": "c1", "rules": [8], "holders": ["rule/8", "user/ann"]}


def test_a_flag_says_its_class_severity_and_who_asked() -> None:
    flag = Flag(
        id="i1/2",
        flag_class=FlagClass.RED,
        severity=Severity.HIGH,
        name="reverse shell",
        description="a shell talks to the network",
        impact="an attacker has a shell",
        subject=Subject(node="node1"),
        asked_by=("rule/20",),
        event_id="i1",
        time=1773235239.0,
    )
    sent = json.loads(body(WebhookType.JSON, flag_notice(flag)))
    assert sent["level"] == "Error"
    assert sent["flag"]["class"] == "red"
    assert sent["rules"] == [{"ref": "rule/20"}]
    assert sent["message"] == "a shell talks to the network"


def test_the_media_type_shows_in_the_body_itself() -> None:
    told = notice(event(INCIDENT), decision(), [rule()])
    assert {kind: content_type(body(kind, told)).partition(";")[0] for kind in WebhookType} == {
        WebhookType.JSON: "application/json",
        WebhookType.SLACK: "application/json",
        WebhookType.TEAMS: "application/json",
        WebhookType.TEXT: "text/plain",
        WebhookType.CLOUD_EVENTS: "application/cloudevents+json",
    }
    cloud = json.loads(body(WebhookType.CLOUD_EVENTS, told))
    assert cloud["specversion"] == "1.0"
    assert cloud["data"]["event_id"] == cloud["id"] == "i1"


def test_an_unknown_protocol_is_left_out_rather_than_guessed() -> None:
    odd = event(SecurityDetails(connection=Connection(protocol="quic")))
    assert "ip_proto" not in json.loads(body(WebhookType.JSON, notice(odd, decision())))
    assert msgspec.json.decode(body(WebhookType.JSON, notice(odd, decision())))["rules"][0].keys() == {"ref", "name"}


def hostile(form: str) -> Event:
    """The form's event with hostile text wherever its JSON has text."""
    subject = msgspec.convert(
        {
            "cluster": HOSTILE,
            "node": HOSTILE,
            "namespace": HOSTILE,
            "image": HOSTILE,
            "service": HOSTILE,
            "container": {"id": HOSTILE, "name": HOSTILE},
            "process": {"pid": 1, "name": HOSTILE, "exe": HOSTILE, "cmdline": HOSTILE},
        },
        Subject,
    )
    made, _ = FORMS[form]
    details = made.details()
    if details is not None:
        fields = msgspec.to_builtins(details)
        details = msgspec.convert({"type": fields["type"], **_hostile(fields)}, Details)
    return msgspec.structs.replace(made, name=HOSTILE, subject=subject, decode=lambda _: details)


def _hostile(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {"type", "severity", "role", "report", "protocol", "operation", "outcome", "level", "number"}

    def changed(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _hostile(value)
        if isinstance(value, list | tuple):
            return [changed(name, each) for each in value]
        return HOSTILE if isinstance(value, str) and name not in kept else value

    return {name: changed(name, value) for name, value in fields.items()}


FLAG = Flag(
    id="i1/2",
    flag_class=FlagClass.OPS,
    severity=Severity.LOW,
    name=HOSTILE,
    description=HOSTILE,
    impact=HOSTILE,
    content=HOSTILE,
    subject=Subject(node=HOSTILE, cluster=HOSTILE),
    asked_by=("rule/20",),
    time=1773235239.0,
)
TOLD = {
    **{form: (lambda form=form: notice(hostile(form), decision(), [rule(HOSTILE)])) for form in FORMS},
    "flag": lambda: flag_notice(FLAG),
}
#: Slack's incoming webhooks cut a text there; Teams refuses larger bodies.
SLACK_CHARACTERS, TEAMS_BYTES = 40_000, 28 * 1024


@pytest.mark.parametrize("form", TOLD)
def test_slack_bodies_follow_slacks_rules(form: str) -> None:
    """https://api.slack.com/reference/surfaces/formatting: & < and > only as entities, and no other control sequence."""
    sent = json.loads(body(WebhookType.SLACK, TOLD[form]()))
    assert set(sent) == {"text", "username"}
    text = sent["text"]
    assert 0 < len(text) <= SLACK_CHARACTERS
    head, marker, rest = text.partition(">>> ")
    assert marker
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", head + rest)
    # Three lines of heading, whatever is in the values, and a line of fields.
    assert head.count("\n") == 3
    assert "\n" not in rest
    assert sent["username"].isprintable()


@pytest.mark.parametrize("form", TOLD)
def test_teams_bodies_follow_the_rules_of_message_cards(form: str) -> None:
    """https://learn.microsoft.com/outlook/actionable-messages/message-card-reference"""
    content = body(WebhookType.TEAMS, TOLD[form]())
    sent = json.loads(content)
    assert (sent["@type"], sent["@context"]) == ("MessageCard", "https://schema.org/extensions")
    assert sent["text"]
    assert len(content) <= TEAMS_BYTES
    assert sent["title"].count("\n") == 1
    assert sent["text"].count("\n") == 1
    for text in (sent["title"], sent["text"]):
        assert not re.search(r"<|(?<!\\)\[", text), "neither HTML nor a link"


@pytest.mark.parametrize("form", TOLD)
def test_cloud_events_follow_the_specification(form: str) -> None:
    """CloudEvents 1.0.2: required attributes, no control characters in strings, a URI reference, an RFC 3339 time."""
    content = body(WebhookType.CLOUD_EVENTS, TOLD[form]())
    sent = json.loads(content)
    assert sent["specversion"] == "1.0"
    for name in ("id", "source", "type", "subject"):
        assert sent[name]
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", sent[name]), name
    assert re.fullmatch(r"(/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)+", sent["source"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", sent["time"])
    assert all(re.fullmatch("[a-z0-9]+", name) for name in sent)
    assert sent["datacontenttype"] == "application/json"
    assert sent["data"] == json.loads(body(WebhookType.JSON, TOLD[form]()))
    assert content_type(content).startswith("application/cloudevents+json")


@pytest.mark.parametrize("form", TOLD)
def test_a_text_is_one_line_of_fields_that_can_be_taken_apart(form: str) -> None:
    line = body(WebhookType.TEXT, TOLD[form]()).decode()
    assert len(line.splitlines()) == 1
    told = TOLD[form]()
    keys, decoder = [], json.JSONDecoder()
    while line:
        key, _, rest = line.partition("=")
        keys.append(key)
        if rest[:1] in ('"', "["):
            _, end = decoder.raw_decode(rest)
        else:
            end = len(rest.partition(",")[0])
        line = rest[end:].removeprefix(",")
    assert keys == ["level", "cluster", "comment", *told.log]


def test_a_chat_message_that_is_too_long_is_cut_between_characters() -> None:
    long = event(SecurityDetails(message='<&">\u4e16' * 20_000), image="\U0001f600" * 9_000)
    told = notice(long, decision(), [rule("&" * 9_000)])
    slack = json.loads(body(WebhookType.SLACK, told))["text"]
    teams = body(WebhookType.TEAMS, told)
    assert slack.endswith(" ... (cut)")
    assert len(slack) <= SLACK_CHARACTERS
    assert not re.search(r"&(?!amp;|lt;|gt;)", slack)
    assert len(teams) <= TEAMS_BYTES
    assert len(json.loads(body(WebhookType.JSON, told))["message"]) == 100_000, "JSON is never cut"


def test_every_rule_that_asked_is_named() -> None:
    other = msgspec.structs.replace(rule(""), id=31)
    told = notice(event(INCIDENT), decision(), [rule(), other])
    assert "response_rule_id=20,response_rule_ids=[20, 31]," in body(WebhookType.TEXT, told).decode()
    assert json.loads(body(WebhookType.JSON, told))["response_rule_ids"] == [20, 31]


@pytest.mark.skipif(not GOLDEN.exists(), reason="the shared samples are not beside the repository")
@pytest.mark.parametrize("kind", [WebhookType.JSON, WebhookType.SLACK, WebhookType.TEAMS, WebhookType.TEXT])
def test_each_type_has_the_members_and_media_type_of_the_recorded_ones(kind: WebhookType) -> None:
    recorded = json.loads(GOLDEN.read_text())["" if kind is WebhookType.TEXT else kind.value]
    sent = body(kind, notice(event(INCIDENT), decision(), [rule()]))
    assert content_type(sent).partition(";")[0] == recorded["content_type"].partition(";")[0]
    if kind in (WebhookType.SLACK, WebhookType.TEAMS):
        members = json.loads(recorded["body"])
        ours = json.loads(sent)
        assert members.keys() <= ours.keys()
        for name, value in members.items():
            known = value.replace("enforcer_id=e1,enforcer_name=enf1", "enforcer_id=,enforcer_name=")
            known = known.replace("NeuVector - ", "Quell - ").replace("\n> ", "\n> ")
            assert ours[name] == known, name
