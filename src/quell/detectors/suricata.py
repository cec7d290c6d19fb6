"""Suricata's eve.json: alerts, and anomalies of which a mapping is known, as threats.

Every other type of eve.json (flow, dns, http, tls, fileinfo, stats, …) is a log and no finding: it is left out, and the
receipt counts it. docs/suricata.md has the table of severities and names.

Suricata does not say which side of a connection is the workload that it watches for, so an event's subject is the
sensor's machine and no workload, and its role is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from quell.catalogue.mappings import Mapping, catalogue_name
from quell.catalogue.names import NAMES
from quell.detectors.context import Context, Part, Skipped, gathered, opened, placed, wrapped
from quell.detectors.line import read
from quell.detectors.stamps import epoch
from quell.errors import EventError
from quell.ids import uuid7
from quell.model.details import Connection, Details, Endpoint, SecurityDetails
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Subject

#: A signature's severity, 1 the highest, as a threat's; 4 and everything below it is Info.
_SEVERITIES = {1: "High", 2: "Medium", 3: "Low"}
_LEVELS = {
    "Critical": Level.CRITICAL,
    "High": Level.ERROR,
    "Medium": Level.WARNING,
    "Low": Level.NOTICE,
    "Info": Level.INFO,
}
_MAX_PORT = 65535
_MAX_NAME = 512


Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Alert(Struct, kw_only=True, gc=False):
    """Of an alert only what every event needs; the details read the rest of the line as it is."""

    action: str | None = None
    gid: Natural | None = None
    signature_id: Natural | None = None
    rev: Natural | None = None
    signature: str | None = None
    category: str | None = None
    severity: Natural | None = None


class Anomaly(Struct, kw_only=True, gc=False):
    type: str | None = None
    event: str | None = None


class Eve(Struct, kw_only=True, gc=False):
    """One line, in Suricata's order."""

    timestamp: str | None = None
    flow_id: Natural | str | None = None
    event_type: str | None = None
    src_ip: str | None = None
    src_port: Natural | None = None
    dest_ip: str | None = None
    dest_port: Natural | None = None
    proto: str | Natural | None = None
    tx_id: Natural | None = None
    pcap_cnt: Natural | None = None
    alert: Alert | None = None
    anomaly: Anomaly | None = None


class Line(Struct, kw_only=True, gc=False):
    """What is read of every type."""

    event_type: str | None = None
    #: What a forwarder that does not read JSON puts a line into.
    message: Raw | UnsetType = UNSET
    log: Raw | UnsetType = UNSET


_line = msgspec.json.Decoder(Line)
_eve = msgspec.json.Decoder(Eve)
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder()


class Suricata:
    name = "suricata"
    about = "Suricata's eve.json: alerts and malformed packets; its other types are logs and left out"
    takes = frozenset(("cluster", "node", "machine_id"))
    is_report = False

    def split(self, document: bytes, context: Context) -> Sequence[Part]:
        document, context = gathered(document, context)
        told = read(_line, document)
        if told.event_type is None:
            line = told.message if told.message is not UNSET else told.log
            if isinstance(line, UnsetType):
                raise EventError("Expected a line of eve.json, got an object without `event_type`")
            document = read(_text, bytes(line)).encode(errors="surrogatepass")
            told = read(_line, document)
        kind = told.event_type
        if kind == "alert" or (kind == "anomaly" and _mapping_of(read(_eve, document)) is not None):
            return (wrapped(document, context),)
        return (Skipped(f"event_type {kind[:64]}" if kind else "no event_type"),)

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """One alert, named by its signature, or one anomaly, named by its event."""
        document, context = opened(line)
        eve, told = read(_eve, document), read(_any, document)
        name, mapping = _name(eve), _mapping_of(eve)
        severity, level = _severity(eve, told), Level.WARNING
        if severity is not None:
            level = _LEVELS[severity]
        elif mapping is not None:
            level = NAMES[mapping.name].level
        own = _id(eve)
        # The sensor's name (sensor-name); forwarders write an object of their own there.
        host = told.get("host")
        node = host if isinstance(host, str) and host and context.node is None else None
        return Event(
            id=id or own or uuid7(),
            id_given=own is not None,
            time=epoch(eve.timestamp),
            received=received,
            source=self.name,
            category=Category.SECURITY_EVENT,
            kind=Kind.THREAT if mapping is None else mapping.kind,
            name=name,
            catalogue_name=None if mapping is None else mapping.name,
            level=level,
            subject=placed(Subject(node=node), context),
            raw=line,
            decode=details,
        )


def details(line: bytes) -> Details | None:
    """The details of an eve line (Event.decode). What is not as Suricata writes it is left out: the rest holds."""
    document = opened(line)[0]
    eve, told = read(_eve, document), read(_any, document)
    return SecurityDetails(
        message=_message(eve, told), connection=_connection(eve, told), severity=_severity(eve, told)
    )


def _name(eve: Eve) -> str:
    if eve.event_type == "anomaly" and eve.anomaly is not None and eve.anomaly.event:
        return eve.anomaly.event[:_MAX_NAME]
    if eve.event_type != "alert":
        raise EventError(f"Expected `alert`, got `{(eve.event_type or 'nothing')[:64]}` - at `$.event_type`")
    alert = eve.alert
    if alert is None:
        raise EventError("Expected what the alert is about, got nothing - at `$.alert`")
    if alert.signature:
        return alert.signature[:_MAX_NAME]
    if alert.signature_id is None:
        raise EventError("Expected a signature or its number, got neither - at `$.alert`")
    return f"signature {alert.gid or 1}:{alert.signature_id}"


def _mapping_of(eve: Eve) -> Mapping | None:
    alert = eve.alert
    if eve.event_type == "anomaly":
        event = eve.anomaly.event if eve.anomaly is not None else None
        return _mapped(event, None, None) if event else None
    return None if alert is None else _mapped(alert.signature or "", alert.signature_id, alert.category)


@lru_cache(maxsize=4096)
def _mapped(name: str, number: int | None, category: str | None) -> Mapping | None:
    return catalogue_name("suricata", name, container=True, beside=(f"sid:{number}", f"category:{category}"))


def _severity(eve: Eve, told: Any) -> str | None:
    """The threat's severity. Suricata's highest class holds much; what its signature calls critical stands out of it."""
    alert = eve.alert
    if alert is None or not alert.severity:
        return None
    if alert.severity == 1 and _at(told, "alert", "metadata", "signature_severity") in ("Critical", ["Critical"]):
        return "Critical"
    return _SEVERITIES.get(alert.severity, "Info")


def _id(eve: Eve) -> str | None:
    """One id for one alert, so that a line that is sent twice is a repeat; None without time and flow."""
    if eve.timestamp is None or eve.flow_id is None:
        return None
    alert, anomaly = eve.alert or Alert(), eve.anomaly or Anomaly()
    told = (
        eve.timestamp,
        eve.flow_id,
        alert.gid,
        alert.signature_id,
        alert.signature,
        anomaly.event,
        eve.tx_id,
        eve.pcap_cnt,
        (eve.src_ip, eve.src_port, eve.dest_ip, eve.dest_port, eve.proto),
    )
    return f"suricata-{blake2b(msgspec.json.encode(told), digest_size=12).hexdigest()}"


def _connection(eve: Eve, told: Any) -> Connection | None:
    """Client and server by who opened the flow, else by the packet's direction, else source and destination."""
    source, target = _endpoint(eve.src_ip, eve.src_port), _endpoint(eve.dest_ip, eve.dest_port)
    if source is None and target is None:
        return None
    opener = (_at(told, "flow", "src_ip"), _at(told, "flow", "src_port"))
    direction = _at(told, "direction")
    if opener[0] is not None and opener in ((eve.src_ip, eve.src_port), (eve.dest_ip, eve.dest_port)):
        is_reply = opener == (eve.dest_ip, eve.dest_port)
    else:
        is_reply = direction in ("to_client", "toclient")
    client, server = (target, source) if is_reply else (source, target)
    proto = eve.proto if isinstance(eve.proto, str) else None
    return Connection(client=client, server=server, protocol=proto.lower() if proto else None, fqdn=_fqdn(told))


def _endpoint(address: str | None, port: int | None) -> Endpoint | None:
    if not address:
        return None
    return Endpoint(ip=address, port=port if port is not None and 0 <= port <= _MAX_PORT else None)


def _fqdn(told: Any) -> str | None:
    """The name that was asked for: HTTP's host, the TLS server's, or what a DNS query is about."""
    for way in (
        ("http", "hostname"),
        ("tls", "sni"),
        ("quic", "sni"),
        ("dns", "rrname"),
        ("dns", "query", 0, "rrname"),
        ("dns", "queries", 0, "rrname"),
        ("dns", "answer", "rrname"),
    ):
        found = _at(told, *way)
        if isinstance(found, str) and found and not _is_address(found):
            return found
    return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _message(eve: Eve, told: Any) -> str:
    alert = eve.alert or Alert()
    about = [_name(eve)]
    if alert.category:
        about.append(alert.category)
    if alert.signature_id is not None:
        about.append(f"signature {alert.gid or 1}:{alert.signature_id}:{alert.rev or 0}")
    if alert.action:
        about.append(f"{alert.action} by Suricata")
    url = _at(told, "http", "url")
    if isinstance(url, str) and url:
        about.append(f"{_at(told, 'http', 'http_method') or 'HTTP'} {url[:_MAX_NAME]}")
    target = _at(told, "alert", "target", "ip")
    if isinstance(target, str):
        about.append(f"target {target}")
    return ", ".join(about)


def _at(value: Any, *way: str | int) -> Any:
    """What lies at the end of the way; None where there is no such way."""
    for step in way:
        if isinstance(step, int):
            if not isinstance(value, list) or len(value) <= step:
                return None
            value = value[step]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value
