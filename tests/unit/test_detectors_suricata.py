"""Suricata's eve.json as events: on inputs of our own, and on every sample of real lines where these are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quell.catalogue.mappings import catalogue_name
from quell.detectors import POSTED, Divided
from quell.detectors.context import NOTHING, Context, Skipped
from quell.errors import EventError
from quell.model.details import Connection, Endpoint, SecurityDetails
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Subject

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests/inputs/suricata/eve.json"
SHARED = ROOT / "../shared/samples/detectors"
SURICATA = POSTED["suricata"]


def split(document: bytes | object, context: Context = NOTHING) -> list[Any]:
    assert isinstance(SURICATA, Divided)
    return list(SURICATA.split(document if isinstance(document, bytes) else json.dumps(document).encode(), context))


def decode(line: bytes | object) -> Event:
    return SURICATA.decode(line if isinstance(line, bytes) else json.dumps(line).encode(), id=None, received=100.0)


def said(event: Event) -> SecurityDetails:
    details = event.details()
    assert isinstance(details, SecurityDetails)
    return details


def alert(**more: Any) -> dict[str, Any]:
    told = {"signature": "s", "signature_id": 7, "gid": 1, "severity": 2, "action": "allowed"} | more.pop("alert", {})
    line = {"event_type": "alert", "src_ip": "10.0.0.1", "src_port": 1, "dest_ip": "10.0.0.2", "dest_port": 2}
    return line | {"alert": told} | more


@pytest.fixture(scope="module")
def mixed() -> list[Any]:
    """What a whole eve.json is cut into."""
    return [part for line in OWN.read_bytes().splitlines() for part in split(line)]


def test_logs_are_left_and_counted_by_type(mixed: list[Any]) -> None:
    types = [part.reason for part in mixed if isinstance(part, Skipped)]
    assert types == [f"event_type {word}" for word in ("flow", "dns", "stats", "anomaly", "fileinfo", "flow")]


def test_findings_have_their_own_and_a_catalogue_name(mixed: list[Any]) -> None:
    events = [decode(part) for part in mixed if isinstance(part, bytes)]
    assert [(event.name, event.catalogue_name, event.level) for event in events] == [
        ("ET WEB_SERVER Possible SQL Injection Attempt UNION SELECT", "SQL.Injection", Level.ERROR),
        (
            "SURICATA TLS overflow heartbeat encountered, possible exploit attempt (heartbleed)",
            "SSL.Heartbleed",
            Level.NOTICE,
        ),
        ("decoder.ipv4.trunc_pkt", "Invalid.Packet.Format", Level.WARNING),
        ("GPL DNS zone transfer TCP", "DNS.Zone.Transfer", Level.WARNING),
        ("ET EXPLOIT Kubernetes API RCE", None, Level.CRITICAL),
    ]
    assert {(event.category, event.kind, event.source) for event in events} == {
        (Category.SECURITY_EVENT, Kind.THREAT, "suricata")
    }
    assert [said(event).severity for event in events] == ["High", "Low", None, "Medium", "Critical"]
    assert all(event.id_given for event in events)
    assert len({event.id for event in events}) == 5


def test_an_alert_in_full(mixed: list[Any]) -> None:
    found = decode(mixed[2])
    assert found.subject == Subject(node="sensor-1")
    assert found.time == 1795362003.104211
    assert said(found) == SecurityDetails(
        message="ET WEB_SERVER Possible SQL Injection Attempt UNION SELECT, Web Application Attack,"
        " signature 1:2006446:3, allowed by Suricata, GET /item?id=1%20UNION%20SELECT",
        connection=Connection(
            client=Endpoint(ip="10.244.1.17", port=41003),
            server=Endpoint(ip="198.51.100.7", port=443),
            protocol="tcp",
            fqdn="shop.example",
        ),
        severity="High",
    )


def test_nobody_is_said_to_be_attacker_or_victim(mixed: list[Any]) -> None:
    """The subject is the sensor's machine, so that nobody is isolated for an address."""
    target = decode(mixed[8])
    assert (said(target).role, target.subject.is_workload) == (None, False)
    assert said(target).message.endswith("target 10.244.1.17")


@pytest.mark.parametrize(
    ("more", "client"),
    [
        ({}, "10.0.0.1"),
        ({"direction": "to_server"}, "10.0.0.1"),
        ({"direction": "to_client"}, "10.0.0.2"),
        ({"direction": "to_client", "flow": {"src_ip": "10.0.0.1", "src_port": 1}}, "10.0.0.1"),
        ({"flow": {"src_ip": "10.0.0.2", "src_port": 2}}, "10.0.0.2"),
        ({"direction": "to_client", "flow": {"src_ip": "10.9.9.9", "src_port": 2}}, "10.0.0.2"),
    ],
)
def test_the_client_is_who_opened_the_flow(more: dict[str, Any], client: str) -> None:
    connection = said(decode(alert(**more))).connection
    assert connection is not None
    assert connection.client is not None
    assert connection.client.ip == client


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"http": {"hostname": "a.example"}}, "a.example"),
        ({"http": {"hostname": "192.0.2.1"}}, None),
        ({"tls": {"sni": "b.example"}}, "b.example"),
        ({"quic": {"sni": "c.example"}}, "c.example"),
        ({"dns": {"query": [{"rrname": "d.example"}]}}, "d.example"),
        ({"dns": {"queries": [{"rrname": "e.example"}]}}, "e.example"),
        ({"dns": {"answer": {"rrname": "f.example"}}}, "f.example"),
        ({"dns": {"query": []}, "http": [], "tls": None}, None),
    ],
)
def test_the_name_that_was_asked_for(more: dict[str, Any], name: str | None) -> None:
    connection = said(decode(alert(**more))).connection
    assert connection is not None
    assert connection.fqdn == name


@pytest.mark.parametrize(
    ("severity", "metadata", "level"),
    [
        (1, {}, Level.ERROR),
        (1, {"signature_severity": ["Critical"]}, Level.CRITICAL),
        (1, {"signature_severity": ["Major"]}, Level.ERROR),
        (2, {"signature_severity": ["Critical"]}, Level.WARNING),
        (3, {}, Level.NOTICE),
        (4, {}, Level.INFO),
        (255, {}, Level.INFO),
        (None, {}, Level.WARNING),
        (0, {}, Level.WARNING),
    ],
)
def test_severities(severity: int | None, metadata: dict[str, Any], level: Level) -> None:
    assert decode(alert(alert={"severity": severity, "metadata": metadata})).level is level


def test_the_level_is_the_catalogues_where_a_mapped_line_has_no_severity() -> None:
    assert decode(alert(alert={"severity": None, "signature": "x Heartbleed y"})).level is Level.CRITICAL


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("ET EXPLOIT Apache Struts Possible OGNL Java Exec In URI", "Apache.Struts.Remote.Code.Execution"),
        ("et web_server possible sql injection attempt", "SQL.Injection"),
        ("ET DOS Slowloris HTTP Denial of Service Attempt", "HTTP.Request.Slowloris"),
        ("ET MALWARE Possible DNS Tunneling (iodine)", "DNS.Tunneling"),
        ("ET INFO SSLv3 outbound connection", "SSL.Version.2or3"),
        ("ET SCAN Apache Struts version probe", None),
        ("ET POLICY Observed DNS Query", None),
        ("[SQL Injection]*", "SQL.Injection"),
    ],
)
def test_patterns(signature: str, name: str | None) -> None:
    found = catalogue_name("suricata", signature, container=True)
    assert (found.name if found else None) == name


def test_a_signature_without_text_has_its_number() -> None:
    found = decode(alert(alert={"signature": None, "signature_id": 2101948}))
    assert (found.name, found.catalogue_name) == ("signature 1:2101948", "DNS.Zone.Transfer")


def test_the_sender_knows_the_machine_better_than_the_sensors_name() -> None:
    (part,) = split(alert(host="eve-sensor"), Context(node="worker-1", cluster="prod"))
    assert decode(part).subject == Subject(node="worker-1", cluster="prod")
    # Of forwarders the host is an object.
    assert decode(alert(host={"name": "filebeat"})).subject == Subject()


def test_a_line_in_a_forwarders_record() -> None:
    inner = json.dumps(alert(alert={"signature": "inside"}))
    for word in ("message", "log"):
        (part,) = split({word: inner, "@timestamp": "2026-11-22T15:40:11Z", "host": {"name": "x"}})
        assert decode(part).name == "inside"


def test_the_same_line_again_is_a_repeat() -> None:
    line = alert(timestamp="2026-11-22T15:40:11.104211+0000", flow_id=5, tx_id=1)
    first = decode(line)
    assert (first.id, first.id_given) == (decode(json.dumps(line, indent=1).encode()).id, True)
    assert decode(line | {"tx_id": 2}).id != first.id
    assert not decode(alert(flow_id=5)).id_given


@pytest.mark.parametrize("time", ["", "yesterday", "2026-03-02T12:30:03", "1901-01-01T00:00:00Z", None])
def test_a_time_that_cannot_be_read_is_no_time(time: str | None) -> None:
    assert decode(alert(timestamp=time)).time is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"event_type": "alert"}, "Expected what the alert is about, got nothing - at `$.alert`"),
        ({"event_type": "alert", "alert": {}}, "Expected a signature or its number, got neither - at `$.alert`"),
        ({"event_type": "flow"}, "Expected `alert`, got `flow` - at `$.event_type`"),
        (alert(src_port=-1), "Expected `int` >= 0 - at `$.src_port`"),
        (alert(alert={"signature": 5}), "got `int` - at `$.alert.signature`"),
        (b'{"event_type": "alert"', "not JSON"),
    ],
)
def test_what_is_none_is_refused_with_a_reason(line: Any, reason: str) -> None:
    with pytest.raises(EventError) as caught:
        decode(line)
    assert reason in str(caught.value)


def test_a_line_of_something_else_is_refused() -> None:
    with pytest.raises(EventError, match="without `event_type`"):
        split({"rule": "a Falco alert"})


#: Read by hand, in the files: name, level, severity, client, server, name asked for, time.
SAMPLES = {
    "alert_doc_1.json": (
        "ET HUNTING GENERIC SUSPICIOUS POST to Dotted Quad with Fake Browser 1",
        Level.WARNING,
        "Medium",
        Endpoint(ip="192.168.2.14", port=50096),
        Endpoint(ip="209.53.113.5", port=80),
        None,
        1491600277.251547,
    ),
    # The alert is about the answer of the server, so source and destination are the other way round.
    "alert_doc_2.json": (
        "ET ATTACK_RESPONSE Win32/LeftHook Stealer Browser Extension Config Inbound",
        Level.ERROR,
        "High",
        Endpoint(ip="192.168.100.237", port=49175),
        Endpoint(ip="142.11.240.191", port=35361),
        None,
        1695017621.53214,
    ),
    "alert_elastic.json": (
        "ET POLICY Observed IP Lookup Domain (l2 .io in TLS SNI)",
        Level.ERROR,
        "High",
        Endpoint(ip="192.168.86.85", port=55641),
        Endpoint(ip="192.168.156.70", port=443),
        "l2.io",
        1530817640.910626,
    ),
}
#: Cut out of Suricata's documentation, without what the alert is about.
EXCERPTS = ("alert_doc_3.json", "alert_doc_4.json")
LOGS = ("fileinfo.ndjson",)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
def test_no_sample_is_left_out() -> None:
    found = {file.name.removeprefix("suricata_eve_") for file in SHARED.glob("suricata_*")}
    assert found == {*SAMPLES, *EXCERPTS, *LOGS}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
@pytest.mark.parametrize("name", SAMPLES)
def test_a_real_alert(name: str) -> None:
    signature, level, severity, client, server, fqdn, time = SAMPLES[name]
    (part,) = split((SHARED / f"suricata_eve_{name}").read_bytes())
    found = decode(part)
    assert (found.name, found.catalogue_name, found.level, found.time) == (signature, None, level, time)
    assert (found.category, found.kind, found.subject) == (Category.SECURITY_EVENT, Kind.THREAT, Subject())
    details = said(found)
    assert (details.severity, details.role) == (severity, None)
    assert details.connection == Connection(client=client, server=server, protocol="tcp", fqdn=fqdn)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
def test_real_lines_that_are_no_findings() -> None:
    for name in EXCERPTS:
        (part,) = split((SHARED / f"suricata_eve_{name}").read_bytes())
        with pytest.raises(EventError, match="Expected what the alert is about"):
            decode(part)
    (part,) = split((SHARED / f"suricata_eve_{LOGS[0]}").read_bytes())
    assert part == Skipped("event_type fileinfo")
