"""Syslog messages: each is one that the standards take, whatever an event says, and says what the event says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.syslogs import cef, counted, pairs, parse

from quell.controller.syslog import cef as cef_format
from quell.controller.syslog.envelope import framed, message
from quell.controller.syslog.told import Told, of_event, of_flag, of_test, takes_event, takes_flag
from quell.model.action import KillProcess, SendWebhook, Severity
from quell.model.decision import ActionRecord, Decision, Flag, FlagClass, Match, Reason, Status
from quell.model.details import (
    ComplianceItem,
    ComplianceReport,
    Connection,
    CveReport,
    Details,
    Endpoint,
    PlainDetails,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Container, Pod, Process, Subject
from quell.model.syslog import Facility, Framing, MessageFormat, Syslog, SyslogFilter

#: What breaks logs: quotes, brackets, pipes, line ends of every kind, control and direction characters, a forged header.
HOSTILE = 'a "b" c=d ]\\ | \n<0>1 - forged - - - -\r\x00\x1b[31m\x7f\x85\u2028\u202e é … 😀 level=Debug\\'
ALL = tuple(MessageFormat)


def receiver(form: MessageFormat = MessageFormat.TEXT, address: str = "tcp://logs.example.org", **more: Any) -> Syslog:
    return Syslog(name="siem", address=address, format=form, **more)


def event(details: Details | None = None, **fields: Any) -> Event:
    subject = fields.pop("subject", None) or Subject(
        cluster="c1",
        node="node1",
        namespace="demo",
        image="nginx:1.2",
        pod=Pod(name="web-1", uid="u1"),
        container=Container(id="w1", name="web"),
        process=Process(pid=7, name="nmap", exe="/usr/bin/nmap", cmdline="nmap -p 1=2", user="root", uid=0),
    )
    return Event(
        **{
            "id": "01990000-0000-7000-8000-000000000001",
            "time": 1773235239.25,
            "received": 1773235240.0,
            "source": "native",
            "category": Category.SECURITY_EVENT,
            "name": "Container.Suspicious.Process",
            "level": Level.CRITICAL,
            "kind": Kind.INCIDENT,
            "subject": subject,
            "raw": b"{}",
            "decode": lambda _: details,
        }
        | fields
    )


DECISION = Decision(
    event_id="i1",
    time=1773235240.0,
    revision=3,
    matches=(Match(ref="rule/20", name="kill scanners"), Match(ref="policy/shop", name="shop")),
    actions=(
        ActionRecord(id="i1/1", action=KillProcess(), asked_by=("rule/20",), status=Status.GRANTED),
        ActionRecord(
            id="i1/2", action=SendWebhook(), asked_by=("rule/20",), status=Status.REFUSED, reason=Reason.NO_ENDPOINT
        ),
    ),
)
FLAG = Flag(
    id="i1/0",
    flag_class=FlagClass.RED,
    severity=Severity.HIGH,
    name="Container.Suspicious.Process",
    description="a scan",
    impact="somebody looks around",
    subject=Subject(node="node1"),
    asked_by=("rule/20", "policy/shop/actions"),
    event_id="i1",
    time=1773235240.5,
)


def made(told: Told, form: MessageFormat, **more: Any) -> bytes:
    return message(told, receiver(form, **more), host="controller", pid=4)


def scan() -> SecurityDetails:
    return SecurityDetails(
        message="a scan",
        file="/etc/passwd",
        connection=Connection(
            client=Endpoint(ip="10.0.0.1", port=4000, name="web-1"),
            server=Endpoint(ip="2001:db8::1", port=443, name="api"),
            protocol="tcp",
        ),
    )


@pytest.mark.parametrize("form", ALL)
def test_the_header_says_who_when_and_how_bad(form: MessageFormat) -> None:
    told = parse(made(of_event(event(scan()), DECISION), form, facility=Facility.AUTHPRIV))
    assert (told.facility, told.severity) == (10, 2)
    assert told.time is not None
    assert told.time.isoformat() == "2026-03-11T13:20:39.250000+00:00"
    assert (told.hostname, told.app, told.procid, told.msgid) == ("node1", "quell", "4", "security-event")
    assert told.data["quell@32473"] == {
        "id": "01990000-0000-7000-8000-000000000001",
        "name": "Container.Suspicious.Process",
        "level": "Critical",
        "kind": "incident",
        "rules": "rule/20,policy/shop",
        "cluster": "c1",
        "namespace": "demo",
        "workload": "web-1",
    }
    assert told.data["origin"]["software"] == "Quell"


def test_the_eight_levels_are_the_eight_severities() -> None:
    found = [parse(made(of_event(event(level=level), DECISION), MessageFormat.TEXT)).severity for level in Level]
    assert found == [0, 1, 2, 3, 4, 5, 6, 7]
    scores = [
        int(cef(parse(made(of_event(event(level=level), DECISION), MessageFormat.CEF)).text)[0][6]) for level in Level
    ]
    assert scores == [10, 10, 9, 7, 5, 3, 1, 0]


def test_facilities_have_the_numbers_of_the_rfc() -> None:
    assert [facility.code for facility in Facility] == list(range(24))
    assert (Facility.LOCAL0.code, Facility.LOCAL7.code, Facility.AUTH.code) == (16, 23, 4)


def test_the_hostname_is_the_node_or_what_is_set_or_the_controller() -> None:
    nowhere = event(subject=Subject())
    assert parse(made(of_event(nowhere, DECISION), MessageFormat.TEXT)).hostname == "controller"
    assert parse(made(of_event(event(), DECISION), MessageFormat.TEXT, hostname="q1")).hostname == "q1"
    odd = event(subject=Subject(node="nöde 1\n" + "x" * 400))
    told = parse(made(of_event(odd, DECISION), MessageFormat.TEXT)).hostname
    assert told is not None
    assert told.startswith("n_de_1_xxx")
    assert len(told) == 255


def test_text_is_key_value_in_one_line() -> None:
    told = pairs(parse(made(of_event(event(scan()), DECISION), MessageFormat.TEXT)).text)
    assert told["notification"] == "incident"
    assert (told["level"], told["message"], told["proc_name"]) == ("Critical", "a scan", "nmap")
    assert (told["rules"], told["actions"]) == (
        "rule/20,policy/shop",
        "agentKillProcess:granted,webhook:refused:no-endpoint",
    )
    assert told["proc_cmd"] == "nmap -p 1=2"
    assert told["id"] == "01990000-0000-7000-8000-000000000001"
    assert "truncated" not in told


def test_text_has_a_mark_of_utf_8_where_it_needs_one() -> None:
    assert not parse(made(of_event(event(), DECISION), MessageFormat.TEXT)).bom
    umlaut = of_event(event(PlainDetails(message="ä"), kind=None, category=Category.EVENT), DECISION)
    assert parse(made(umlaut, MessageFormat.TEXT)).bom
    for form in (MessageFormat.JSON, MessageFormat.CEF):
        assert not parse(made(umlaut, form)).bom


def test_json_has_what_a_webhook_of_type_json_has() -> None:
    told = json.loads(parse(made(of_event(event(scan()), DECISION), MessageFormat.JSON)).text)
    assert told["event_id"] == "01990000-0000-7000-8000-000000000001"
    assert told["rules"] == [{"ref": "rule/20", "name": "kill scanners"}, {"ref": "policy/shop", "name": "shop"}]
    assert told["actions"] == [
        {"action": "agentKillProcess", "status": "granted"},
        {"action": "webhook", "status": "refused", "reason": "no-endpoint"},
    ]
    assert (told["notification"], told["category"], told["kind"]) == ("incident", "security-event", "incident")
    assert (told["proc_path"], told["client_ip"], told["workload_name"]) == ("/usr/bin/nmap", "10.0.0.1", "web-1")


def test_cef_uses_arcsights_keys() -> None:
    header, told = cef(parse(made(of_event(event(scan()), DECISION), MessageFormat.CEF)).text)
    assert header[1:3] == ["Quell", "Quell"]
    assert header[4:] == ["Container.Suspicious.Process", "Container.Suspicious.Process at web-1", "9"]
    wanted = {
        "rt": "1773235240000",
        "start": "1773235239250",
        "cat": "security-event/incident",
        "msg": "a scan",
        "externalId": "01990000-0000-7000-8000-000000000001",
        "act": "agentKillProcess",
        "src": "10.0.0.1",
        "spt": "4000",
        "c6a3": "2001:db8::1",
        "c6a3Label": "Destination IPv6 Address",
        "dpt": "443",
        "proto": "TCP",
        "sproc": "nmap",
        "spid": "7",
        "duser": "root",
        "fname": "passwd",
        "filePath": "/etc/passwd",
        "dvchost": "node1",
        "dhost": "node1",
        "cs1": "rule/20,policy/shop",
        "cs1Label": "rules",
        "cs2": "demo",
        "cs3": "web-1",
        "cs4": "nginx:1.2",
        "cs5": "c1",
        "cs6": "nmap -p 1=2",
    }
    assert {key: told.get(key) for key in wanted} == wanted
    assert "dst" not in told


def test_reports_say_what_they_count() -> None:
    found = tuple(Vulnerability(name=f"CVE-2026-{n}", severity="High") for n in range(3))
    report = event(
        CveReport(vulnerabilities=found), category=Category.CVE_REPORT, kind=None, name="Container.Scan.Report"
    )
    _, told = cef(parse(made(of_event(report, DECISION), MessageFormat.CEF)).text)
    assert (told["cn2"], told["cn2Label"], told["cn1"]) == ("3", "highVulnerabilities", "0")
    text = pairs(parse(made(of_event(report, DECISION), MessageFormat.TEXT)).text)
    assert json.loads(text["high_vuls"]) == ["CVE-2026-0", "CVE-2026-1", "CVE-2026-2"]
    items = (ComplianceItem(number="D.5.4", failed=True, text="privileged"),)
    benchmark = event(ComplianceReport(items=items), category=Category.COMPLIANCE, kind=None)
    body = json.loads(parse(made(of_event(benchmark, DECISION), MessageFormat.JSON)).text)
    assert body["items"] == ["D.5.4 privileged"]


@pytest.mark.parametrize("form", ALL)
def test_a_flag_is_a_message_of_its_own(form: MessageFormat) -> None:
    told = parse(made(of_flag(FLAG), form))
    assert (told.msgid, told.severity) == ("flag", 3)
    assert told.data["quell@32473"]["event"] == "i1"
    assert told.data["quell@32473"]["rules"] == "rule/20,policy/shop"
    if form is MessageFormat.TEXT:
        said = pairs(told.text)
        assert (said["flag_class"], said["flag_impact"]) == ("red", "somebody looks around")
    elif form is MessageFormat.JSON:
        body = json.loads(told.text)
        assert (body["flag"]["severity"], body["event_id"], body["id"]) == ("high", "i1", "i1/0")
    else:
        header, keys = cef(told.text)
        assert (header[4], keys["cat"], keys["flexString2"]) == ("Flag.Red", "flag/red", "somebody looks around")


def test_a_test_message_names_its_receiver_and_who_asked() -> None:
    told = parse(made(of_test("siem", "t1", "user/ann", 1.0), MessageFormat.TEXT))
    assert (told.msgid, told.severity) == ("test", 5)
    assert "siem" in told.text
    assert "user/ann" in told.text


@pytest.mark.parametrize("form", ALL)
def test_nothing_an_attacker_names_breaks_out(form: MessageFormat) -> None:
    process = Process(name=HOSTILE, exe=HOSTILE, cmdline=HOSTILE, user=HOSTILE)
    subject = Subject(node=HOSTILE, namespace=HOSTILE, image=HOSTILE, pod=Pod(name=HOSTILE), process=process)
    details = SecurityDetails(message=HOSTILE, file=HOSTILE)
    told = of_event(event(details, subject=subject, name=HOSTILE, id="i1"), DECISION)
    raw = made(told, form)
    assert b"\n" not in framed(raw, receiver(form, framing=Framing.NEWLINE))[:-1]
    said = parse(raw)
    assert said.data["quell@32473"]["id"] == "i1"
    if form is MessageFormat.TEXT:
        assert pairs(said.text)["message"] == HOSTILE
        assert pairs(said.text)["level"] == "Critical"
    elif form is MessageFormat.JSON:
        assert json.loads(said.text)["message"] == HOSTILE
        assert json.loads(said.text)["proc_cmd"] == HOSTILE
    else:
        header, keys = cef(said.text)
        assert header[6] == "9"
        # CEF has line ends in values, and no other control character.
        shown = HOSTILE.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\x7f", "\\x7f")
        assert keys["msg"] == shown.replace("\x85", "\\x85").replace("\u2028", "\\u2028").replace("\u202e", "\\u202e")
        assert keys["cat"] == "security-event/incident"


texts = st.one_of(st.text(max_size=40), st.just(HOSTILE), st.text('é😀|\\="]\n\x85\u2028', min_size=200, max_size=3000))
known = st.none() | texts


@st.composite
def events(draw: st.DrawFn) -> Event:
    category = draw(st.sampled_from(Category))
    endpoint = st.builds(Endpoint, ip=known, port=st.none() | st.integers(0, 65535), name=known)
    details: dict[Category, st.SearchStrategy[Details]] = {
        Category.EVENT: st.builds(PlainDetails, message=texts, user=known),
        Category.CVE_REPORT: st.builds(
            CveReport,
            vulnerabilities=st.lists(
                st.builds(Vulnerability, name=texts, severity=st.sampled_from(["Critical", "High"])), max_size=4
            ).map(tuple),
        ),
    }
    security = st.builds(
        SecurityDetails,
        message=texts,
        file=known,
        connection=st.none() | st.builds(Connection, client=endpoint, server=endpoint, protocol=known, fqdn=known),
    )
    said = draw(st.none() | details.get(category, security if category is Category.SECURITY_EVENT else st.none()))
    subject = Subject(
        cluster=draw(known),
        node=draw(known),
        namespace=draw(known),
        image=draw(known),
        pod=draw(st.none() | st.builds(Pod, name=known)),
        container=draw(st.none() | st.builds(Container, id=texts, name=known)),
        process=draw(st.none() | st.builds(Process, name=known, exe=known, cmdline=known, user=known)),
        group=draw(known),
    )
    return event(
        said,
        id=draw(st.text("abc-09/", min_size=1, max_size=260)),
        category=category,
        kind=draw(st.sampled_from(Kind)) if category is Category.SECURITY_EVENT else None,
        name=draw(texts) or "x",
        level=draw(st.sampled_from(Level)),
        time=draw(st.none() | st.floats(0, 253402300799)),
        subject=subject,
    )


flags = st.builds(
    Flag,
    id=st.text(min_size=1, max_size=300),
    flag_class=st.sampled_from(FlagClass),
    severity=st.sampled_from(Severity),
    name=texts,
    description=texts,
    impact=texts,
    content=texts,
    asked_by=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    event_id=st.text(max_size=20),
    time=st.floats(0, 253402300799),
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(events(), flags),
    st.sampled_from(ALL),
    st.sampled_from(["udp://h", "tcp://h", "tls://h"]),
    st.none() | st.integers(1024, 65_507),
    st.lists(st.text(min_size=1, max_size=30), max_size=3),
)
def test_any_event_gives_exactly_one_message(
    found: Event | Flag, form: MessageFormat, address: str, longest: int | None, names: list[str]
) -> None:
    matches = tuple(Match(ref=f"policy/{name}", name=name) for name in names)
    told = (
        of_flag(found)
        if isinstance(found, Flag)
        else of_event(found, msgspec.structs.replace(DECISION, matches=matches))
    )
    to = receiver(form, address, max_length=longest)
    raw = message(told, to, host="controller", pid=2**22)
    assert len(raw) <= to.longest
    assert 0 not in raw
    said = parse(raw)
    wire = framed(raw, to) + framed(raw, to)
    if address.startswith("udp"):
        assert wire == raw + raw
    else:
        assert counted(wire) == [raw, raw]
    lines = msgspec.structs.replace(to, address="tcp://h", framing=Framing.NEWLINE)
    assert framed(raw, lines).split(b"\n") == [raw, b""]
    if len(told.id) <= 40 and told.id.isascii() and told.id.isprintable():
        assert said.data["quell@32473"]["id"] == told.id
    if form is MessageFormat.TEXT:
        assert pairs(said.text)["category"] == told.category
    elif form is MessageFormat.JSON:
        assert json.loads(said.text)["category"] == told.category
    else:
        header, keys = cef(said.text)
        assert header[1] == "Quell"
        assert keys["cat"].partition("/")[0] == told.category


@pytest.mark.parametrize("form", ALL)
def test_a_long_message_is_cut_between_characters_and_says_so(form: MessageFormat) -> None:
    told = of_event(event(SecurityDetails(message="😀" * 5000, file="/x/" + "y" * 9000)), DECISION)
    for longest in (1024, 2048, 8192):
        raw = made(told, form, max_length=longest)
        assert longest // 3 < len(raw) <= longest
        said = parse(raw)
        if form is MessageFormat.TEXT:
            keys: dict[str, Any] = pairs(said.text)
            assert keys["truncated"] == "true"
        elif form is MessageFormat.JSON:
            keys = json.loads(said.text)
            assert keys["truncated"] is True
        else:
            keys = cef(said.text)[1] | {"message": cef(said.text)[1]["msg"]}
        assert set(keys["message"][:-1]) == {"😀"}
        assert keys["message"].endswith("…")
    whole = made(told, form, max_length=65_000)
    assert len(whole) < 45_000
    assert "truncated" not in parse(whole).text


def test_lengths_by_transport() -> None:
    assert [receiver(address=f"{word}://h").longest for word in ("udp", "tcp", "tls")] == [2048, 8192, 8192]


def test_a_moment_that_no_calendar_has_is_no_time() -> None:
    told = of_event(event(), DECISION)
    assert parse(made(msgspec.structs.replace(told, time=1e18), MessageFormat.TEXT)).time is None


def test_filters() -> None:
    only = SyslogFilter(categories=(Category.EVENT, Category.DEVIATION), level=Level.ERROR)
    assert not takes_event(only, event())
    assert takes_event(only, event(category=Category.EVENT, level=Level.ERROR))
    assert not takes_event(only, event(category=Category.EVENT, level=Level.WARNING))
    assert takes_event(SyslogFilter(), event(level=Level.DEBUG))
    assert takes_flag(only, FLAG)
    assert not takes_flag(only, msgspec.structs.replace(FLAG, severity=Severity.MEDIUM))
    assert not takes_flag(SyslogFilter(flags=False), FLAG)
    assert not takes_flag(SyslogFilter(), msgspec.structs.replace(FLAG, silent=True))


def test_the_reader_of_these_tests_is_strict() -> None:
    good = b'<134>1 2026-03-11T13:20:39.250Z h quell 4 event [a b="c"] x'
    assert dataclasses.asdict(parse(good))["text"] == "x"
    for wrong in (
        good.replace(b"<134>", b"<192>"),
        good.replace(b">1 ", b">2 "),
        good.replace(b"quell", b"qu\xc3\xa9ll"),
        good.replace(b'"c"', b'"c]"'),
        good.replace(b"x", b"x\n"),
        good.replace(b"] x", b"]x"),
    ):
        with pytest.raises(ValueError, match=r"."):
            parse(wrong)
    for wrong_cef in ("CEF:0|a|b|c|d|e|11|", "CEF:0|a|b|c|d|5|", "CEF:0|a|b|c|d|e|5|x=a=b", "CEF:0|a|b|c|d|e|5|x=\\q"):
        with pytest.raises(ValueError, match=r"."):
            cef(wrong_cef)
    for wrong_pairs in ("a", "a=", 'a="b', "a=b=c", "a=b  c=d", "a=b a=c"):
        with pytest.raises(ValueError, match=r"."):
            pairs(wrong_pairs)


def test_the_page_of_docs_has_every_key_and_severity() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/syslog.md").read_text()
    for level, score in cef_format.SEVERITIES.items():
        assert f"| {level} | {7 - level.rank} | {score} |" in page
    told = set(re.findall(r"`([A-Za-z0-9]+)`", page))
    keys = {*cef_format.KEYS.values(), *cef_format.STRINGS, *(label for _, label in cef_format.NUMBERS.values())}
    assert keys <= told
    assert {facility.value for facility in Facility} - {f"local{n}" for n in range(1, 7)} <= told
    assert set(msgspec.structs.asdict(receiver())) - {"name", "source", "filter"} <= set(
        re.findall(r"`([a-z_]+)`", page)
    )
