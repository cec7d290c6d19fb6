"""What there is to tell about an event or a flag, before it takes the form of a webhook's type. Pure.

SEMANTICS section 7. The log object has the fields that receivers of NeuVector's webhooks know, in its order
(its controller/api/log_apis.go), as far as an event of Quell says them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from quell.model.decision import Decision, Flag, FlagClass
from quell.model.details import (
    AdmissionReview,
    ComplianceReport,
    Connection,
    CveReport,
    Details,
    Deviation,
    Endpoint,
    PlainDetails,
    SecurityDetails,
)
from quell.model.event import Event, Kind, Level
from quell.model.rule import Rule
from quell.model.subject import Subject
from quell.response.endpoints import LEVELS

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}


class Notice(Struct, frozen=True, kw_only=True):
    """One thing to tell; quell.controller.bodies gives it the form of an endpoint's type."""

    #: event, incident, threat, violation, audit or flag.
    category: str
    title: str
    level: Level
    cluster: str
    comment: str
    #: When it happened, RFC 3339 in UTC.
    at: str
    #: The log object: NeuVector's fields in NeuVector's order.
    log: dict[str, Any]
    subject: Subject
    #: Subject's id for the CloudEvents type.
    id: str
    #: Only in JSON: rules, event_id, decision, flag.
    more: dict[str, Any]


def notice(event: Event, decision: Decision, rules: Sequence[Rule] = ()) -> Notice:
    """What to tell about an event. rules: those that asked for this webhook; the first with a comment gives it."""
    details = event.details()
    category, fields, title = _told(event, details)
    subject = event.subject
    time = event.received if event.time is None else event.time
    comment = next((rule.comment for rule in rules if rule.comment), "")
    log = _opening(event.catalogue_name or event.name, event.level, time, subject)
    numbers = [rule.id for rule in rules if rule.id]
    log |= {"response_rule_id": numbers[0]} if numbers else {}
    log |= {"response_rule_ids": numbers} if len(numbers) > 1 else {}
    log |= _origin(subject) | fields
    record = msgspec.structs.replace(decision, near_misses=(), changes=())
    return Notice(
        category=category,
        title=title,
        level=event.level,
        cluster=subject.cluster or "",
        comment=comment,
        at=_at(time),
        log=log,
        subject=subject,
        id=event.id,
        more={
            "rules": _rules(decision, rules),
            "event_id": event.id,
            "decision": record,
            **_of_quarantine(details),
        },
    )


def flag_notice(flag: Flag) -> Notice:
    """What to tell about a flag, to the endpoints it names and those that subscribe to flags. SEMANTICS section 6."""
    level, subject = LEVELS[flag.severity], flag.subject
    message = flag.description or flag.content or flag.name
    log = _opening(flag.name, level, flag.time, subject) | _origin(subject)
    log |= {"id": flag.id} | _workload(subject) | {"count": flag.count, "message": message}
    kind = "Red flag" if flag.flag_class is FlagClass.RED else "Ops flag"
    return Notice(
        category="flag",
        title=f"{kind}: {flag.name}{_place(subject)}",
        level=level,
        cluster=subject.cluster or "",
        comment=flag.impact,
        at=_at(flag.time),
        log=log,
        subject=subject,
        id=flag.id,
        more={
            "rules": [{"ref": ref} for ref in flag.asked_by],
            "event_id": flag.event_id,
            "flag": {
                "class": flag.flag_class.value,
                "class_path": flag.class_path,
                "severity": flag.severity.value,
                "impact": flag.impact,
                "content": flag.content,
            },
        },
    )


def _told(event: Event, details: Details | None) -> tuple[str, dict[str, Any], str]:
    """The category's word, its own fields and the title."""
    name = event.catalogue_name or event.name
    subject = event.subject
    match details:
        case CveReport():
            fields = _scan(subject, details)
            counts = " ".join(f"{word}: {fields[f'{word}_vul_cnt']}" for word in ("critical", "high", "medium"))
            return "audit", fields, f"{name}: {counts}"
        case ComplianceReport():
            failed = [" ".join(filter(None, (item.number, item.text))) for item in details.items if item.failed]
            audit = _workload(subject) | {"message": name, "items": failed}
            return "audit", audit, f"{name}: {len(failed)} failed"
        case AdmissionReview():
            audit = _workload(subject) | {"message": details.message or name}
            audit |= {"user": details.user} if details.user else {}
            audit |= {"image": ", ".join(details.images)} if details.images else {}
            return "audit", audit, name + (f": {details.object}" if details.object else "")
        case SecurityDetails() if event.kind is Kind.THREAT:
            return "threat", _threat(event, details), name + _sides(details.connection, subject)
        case SecurityDetails() if event.kind is Kind.VIOLATION:
            return "violation", _violation(event, details.connection), name + _sides(details.connection, subject)
        case SecurityDetails():
            return "incident", _incident(event, details.message, details.connection, details.file), _at_place(event)
        case Deviation() if details.connection is not None:
            return "violation", _violation(event, details.connection), name + _sides(details.connection, subject)
        case Deviation():
            return "incident", _incident(event, details.message, None, None), _at_place(event)
        case PlainDetails() | None:
            return _plain_event(event, details)


def _of_quarantine(details: Details | None) -> dict[str, Any]:
    """What Container.Quarantined and its like say of the quarantine itself: its key, its rules and all its holders."""
    if not isinstance(details, PlainDetails) or details.quarantine is None:
        return {}
    told = {"key": details.quarantine, "rules": list(details.rules), "holders": list(details.holders)}
    return {"quarantine": told}


def _plain_event(event: Event, details: PlainDetails | None) -> tuple[str, dict[str, Any], str]:
    if event.kind is not None:
        return event.kind.value, _incident(event, "", None, None), _at_place(event)
    fields = _workload(event.subject) | {"category": event.category.value}
    fields["user"] = (details.user if details else None) or event.subject.user or ""
    fields["message"] = (details.message if details else "") or event.name
    return "event", fields, _at_place(event)


def _incident(event: Event, message: str, connection: Connection | None, file: str | None) -> dict[str, Any]:
    process = event.subject.process
    fields: dict[str, Any] = {"id": event.id} | _workload(event.subject)
    if process is not None:
        fields |= _known(
            proc_name=process.name,
            proc_path=process.exe,
            proc_cmd=process.cmdline,
            proc_effective_uid=process.uid,
            proc_effective_user=process.user,
        )
    fields |= _known(file_path=file)
    if connection is not None:
        client, server = connection.client or Endpoint(), connection.server or Endpoint()
        fields |= _known(client_ip=client.ip, server_ip=server.ip, client_port=client.port, server_port=server.port)
        fields |= _known(ip_proto=_protocol(connection))
    if process is not None and process.ancestors:
        fields["proc_parent_name"] = process.ancestors[0]
    fields |= {"action": "violate"} | _known(group=event.subject.group)
    return fields | {"rule_id": "", "count": 1, "message": message or event.name}


def _threat(event: Event, details: SecurityDetails) -> dict[str, Any]:
    connection = details.connection or Connection()
    client, server = connection.client or Endpoint(), connection.server or Endpoint()
    fields: dict[str, Any] = {"id": event.id, "threat_id": 0}
    fields |= _side("client_workload", client) | _side("server_workload", server)
    return fields | {
        "severity": details.severity or "",
        "action": "violate",
        "count": 1,
        "client_port": client.port or 0,
        "server_port": server.port or 0,
        "ip_proto": _protocol(connection) or 0,
        "client_ip": client.ip or "",
        "server_ip": server.ip or "",
        "sensor": details.sensor or "",
        "group": event.subject.group or "",
        "target": "server" if details.role == "attacker" else "client",
        "message": details.message or event.name,
    }


def _violation(event: Event, connection: Connection | None) -> dict[str, Any]:
    connection = connection or Connection()
    client, server = connection.client or Endpoint(), connection.server or Endpoint()
    return (
        {"id": event.id}
        | _side("client", client)
        | _side("server", server)
        | {
            "server_port": server.port or 0,
            "ip_proto": _protocol(connection) or 0,
            "applications": [],
            "sessions": 1,
            "policy_action": "violate",
            "policy_id": 0,
            "client_ip": client.ip or "",
            "server_ip": server.ip or "",
            "fqdn": connection.fqdn or "",
        }
    )


def _scan(subject: Subject, report: CveReport) -> dict[str, Any]:
    found: dict[str, list[str]] = {"critical": [], "high": [], "medium": []}
    for vulnerability in report.vulnerabilities:
        if (names := found.get(vulnerability.severity.lower())) is not None:
            names.append(vulnerability.name)
    fields = _workload(subject) | _known(image=subject.image)
    fields |= {f"{word}_vul_cnt": len(names) for word, names in found.items()}
    fields |= {f"{word}_vuls": names for word, names in found.items() if names}
    return fields | {"message": f"{report.report} scan: {len(report.vulnerabilities)} vulnerabilities"}


def _opening(name: str, level: Level, time: float, subject: Subject) -> dict[str, Any]:
    return {
        "name": name,
        "level": level.value,
        "reported_timestamp": int(time),
        "reported_at": _at(time),
        "cluster_name": subject.cluster or "",
    }


def _origin(subject: Subject) -> dict[str, Any]:
    # NeuVector names the enforcer that saw it; here the host says the same, so these two stay empty.
    return {
        "host_id": subject.machine_id or "",
        "host_name": subject.node or "",
        "enforcer_id": "",
        "enforcer_name": "",
    }


def _workload(subject: Subject) -> dict[str, Any]:
    container, pod = subject.container, subject.pod
    return _known(
        workload_id=(container.id if container else None) or (pod.uid if pod else None),
        workload_name=_workload_name(subject),
        workload_domain=subject.namespace,
        workload_image=subject.image,
        workload_service=subject.service,
    )


def _side(prefix: str, side: Endpoint) -> dict[str, Any]:
    fields = {f"{prefix}_id": side.workload or "", f"{prefix}_name": side.name or ""}
    known = {f"{prefix}_domain": side.namespace, f"{prefix}_image": side.image, f"{prefix}_service": side.service}
    return fields | {key: value for key, value in known.items() if value is not None}


def _workload_name(subject: Subject) -> str | None:
    container, pod = subject.container, subject.pod
    return (pod.name if pod else None) or (container.name if container else None)


def _place(subject: Subject) -> str:
    where = _workload_name(subject) or subject.node
    return f" at {where}" if where else ""


def _at_place(event: Event) -> str:
    return (event.catalogue_name or event.name) + _place(event.subject)


def _sides(connection: Connection | None, subject: Subject) -> str:
    if connection is None:
        return _place(subject)
    client, server = connection.client or Endpoint(), connection.server or Endpoint()
    return f": {client.name or client.ip or 'unknown'} -> {server.name or server.ip or connection.fqdn or 'unknown'}"


def _protocol(connection: Connection) -> int | None:
    return None if connection.protocol is None else _PROTOCOLS.get(connection.protocol.lower())


def _rules(decision: Decision, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Every rule that matched, with the comments of those that asked."""
    comments = {f"rule/{rule.id}": rule.comment for rule in rules}
    return [
        {"ref": match.ref, "name": match.name} | _known(comment=comments.get(match.ref) or None)
        for match in decision.matches
    ]


def _known(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _at(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
