"""Cases of response rules: which rules match, what is isolated and by whom, which webhooks are called, what is logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quell.catalogue.names import resolve
from quell.catalogue.table import ACTIONS
from quell.conformance.case import NODE, NOW, Case, Fields, Unreadable, differs, ours, read
from quell.errors import DocumentError
from quell.evaluate import evaluate
from quell.inventory.enrichment import merged, missing
from quell.matching.index import compile as compile_index
from quell.model.action import SendWebhook
from quell.model.decision import Decision, Status
from quell.model.details import (
    AdmissionReview,
    ComplianceItem,
    ComplianceReport,
    Connection,
    CveReport,
    Details,
    Endpoint,
    PlainDetails,
    Role,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Container, Process, Subject
from quell.response.state import AgentFacts, State, Workload

_DAY = 86400.0
#: Results of a compliance item that fail it (docker-bench and kube-bench); an item without a result is one that failed.
_FAILED = ("WARN", "FAIL", "")
_REPORTS = {"container", "host", "registry", "platform"}


def judge(case: Case) -> list[str]:
    expect = Fields(case["expect"], "expect")
    invalid = expect.take("invalid")
    try:
        documents = read(_documents(case))
    except DocumentError as error:
        return [] if invalid else [f"refused: {error}"]
    if invalid:
        return [f"expected to be refused ({invalid}), but was taken"]
    state = _state(case)
    event = _event(case["event"], state)
    decision = evaluate(event, compile_index(documents), state, NOW)
    state.apply(decision)
    return _differences(expect, decision, state)


def _differences(expect: Fields, decision: Decision, state: State) -> list[str]:
    found: list[str] = []
    if (matched := expect.take("matched")) is not None:
        found += differs("matched", sorted(matched), sorted(_number(match.ref) for match in decision.matches))
    if (webhooks := expect.take("webhooks")) is not None:
        called = {
            name
            for record in decision.actions
            if isinstance(record.action, SendWebhook) and record.status is Status.GRANTED
            for name in record.endpoints
        }
        found += differs("webhooks", sorted(webhooks), sorted(called))
    if (quarantined := expect.take("quarantined")) is not None:
        found += _isolated(quarantined, state)
    if (logged := expect.take("logged")) is not None:
        found += differs("logged", logged, not decision.suppressed)
    expect.done()
    return found


def _isolated(expected: list[dict[str, Any]], state: State) -> list[str]:
    """Keys that an expected entry does not name are not compared."""
    got = {key: sorted(_number(holder) for holder in held.holders) for key, held in state.quarantines.items()}
    found = differs("quarantined", sorted(entry["workload_id"] for entry in expected), sorted(got))
    for entry in expected:
        fields = Fields(entry, "quarantined")
        key, holders = fields.take("workload_id"), fields.take("holders")
        fields.done()
        if key in got and holders is not None:
            found += differs(f"holders of {key}", sorted(holders), got[key])
    return found


def _number(ref: str) -> Any:
    """Of "rule/8" the number; anything else stays as it is."""
    _, _, name = ref.partition("/")
    return int(name) if ref.startswith("rule/") and name.isdigit() else ref


def _documents(case: Case) -> list[dict[str, Any]]:
    documents = []
    for group in case.get("groups", ()):
        spec = {key: value for key, value in group.items() if key not in ("name", "members")}
        documents.append(ours("Group", group["name"], spec))
    for webhook in case.get("webhooks", ()):
        spec = {"name": webhook} if isinstance(webhook, str) else dict(webhook)
        name = spec.pop("name")
        documents.append(ours("Webhook", name, {"url": "https://receiver.example.com/", **spec}))
    for place, rule in enumerate(case.get("rules", ())):
        spec = dict(rule)
        documents.append(ours("ResponseRule", spec.pop("name", f"rule-{rule.get('id', f'at-{place}')}"), spec))
    return documents


def _state(case: Case) -> State:
    unknown = set(case) - {"id", "note", "rules", "groups", "workloads", "webhooks", "event", "expect"}
    if unknown:
        raise Unreadable(f"unknown in the case: {', '.join(sorted(unknown))}")
    state = State()
    workloads = [_workload(Fields(each, "workloads")) for each in case.get("workloads", ())]
    state.set_workloads(workloads)
    nodes = sorted({NODE, *(workload.node or NODE for workload in workloads)})
    state.set_agents(AgentFacts(id=f"agent-of-{node}", node=node, capabilities=frozenset(ACTIONS)) for node in nodes)
    state.set_members({group["name"]: group["members"] for group in case.get("groups", ()) if "members" in group})
    return state


def _workload(fields: Fields) -> Workload:
    workload = Workload(
        id=fields.take("id"),
        name=fields.take("name"),
        image=fields.take("image"),
        node=fields.take("hostname") or NODE,
        service=fields.take("service"),
        namespace=fields.take("domain") or fields.take("namespace"),
        labels=fields.take("labels"),
        sandbox=fields.take("share_net_ns") or None,
        host_network=fields.take("host_network"),
    )
    fields.done()
    return workload


def _event(values: Mapping[str, Any], state: State) -> Event:
    fields = Fields(values, "event")
    category = Category(fields.take("category"))
    kind = fields.take("kind")
    name = fields.take("name", "")
    level = fields.take("level", "Info")
    subject, details = _told(fields, category, Kind(kind) if kind else None, name, state)
    fields.done()
    return Event(
        id="case",
        time=NOW,
        received=NOW,
        source="native",
        category=category,
        kind=Kind(kind) if kind else None,
        name=name,
        catalogue_name=resolve(name),
        level=Level(level),
        subject=subject,
        raw=b"{}",
        decode=lambda _: details,
    )


def _told(fields: Fields, category: Category, kind: Kind | None, name: str, state: State) -> tuple[Subject, Details]:
    match category, kind:
        case Category.SECURITY_EVENT, Kind.VIOLATION:
            return _violation(fields, state)
        case Category.SECURITY_EVENT, Kind.THREAT:
            return _threat(fields, state)
    workload, host, image = fields.take("workload_id"), fields.take("host_id"), fields.take("image_id")
    is_of_host = category is Category.SECURITY_EVENT or host
    subject = _subject(workload, state) if workload else Subject(node=host or NODE if is_of_host else None, image=image)
    if (group := fields.take("group")) is not None:
        subject = Subject(group=group)
    if (process := fields.take("proc_name")) is not None:
        path = fields.take("proc_path")
        subject = _with_process(subject, Process(name=process, exe=path))
    return subject, _details(fields, category, name)


def _details(fields: Fields, category: Category, name: str) -> Details:
    match category:
        case Category.CVE_REPORT:
            report = name.partition(".")[0].lower()
            vulnerabilities = tuple(_vulnerability(Fields(each, "vulns")) for each in fields.take("vulns", ()))
            return CveReport(report=report if report in _REPORTS else "container", vulnerabilities=vulnerabilities)
        case Category.COMPLIANCE:
            return ComplianceReport(items=tuple(_item(line) for line in fields.take("items", ())))
        case Category.ADMISSION_CONTROL:
            return AdmissionReview(message=fields.take("message", ""))
        case Category.SECURITY_EVENT:
            return SecurityDetails(message=fields.take("message", ""))
        case _:
            return PlainDetails(message=fields.take("message", ""))


def _vulnerability(fields: Fields) -> Vulnerability:
    age = fields.take("age_days")
    vulnerability = Vulnerability(
        name=fields.take("name"),
        severity=fields.take("severity"),
        fixed=fields.take("fixed", default=False),
        published=None if age is None else NOW - age * _DAY,
    )
    fields.done()
    return vulnerability


def _item(line: str) -> ComplianceItem:
    """Written as "D.5.4 WARN - text"."""
    number, _, rest = line.partition(" ")
    result, _, text = rest.partition(" ")
    return ComplianceItem(number=number, failed=result in _FAILED, result=result, text=text.removeprefix("- "))


def _violation(fields: Fields, state: State) -> tuple[Subject, Details]:
    """The client if it is managed (it has an image), else the server."""
    client, server = fields.take("client_workload_id"), fields.take("server_workload_id")
    image = fields.take("client_image", "an image")
    subject = _subject(client if image else server, state)
    connection = Connection(
        client=Endpoint(workload=client or None, image=image or None), server=Endpoint(workload=server or None)
    )
    return subject, SecurityDetails(connection=connection, role=Role.ATTACKER if image else Role.VICTIM)


def _threat(fields: Fields, state: State) -> tuple[Subject, Details]:
    """The target is the side attacked; a reporting workload on that side is the victim."""
    sides = {"client": fields.take("client_workload_id"), "server": fields.take("server_workload_id")}
    target, reporting = fields.take("target"), fields.take("reporting_workload_id")
    groups = tuple(name for name in (fields.take("threat_groups") or "").split(",") if name)
    role = None
    if target is not None:
        role = Role.VICTIM if sides.get(target) == reporting else Role.ATTACKER
    connection = Connection(client=Endpoint(workload=sides["client"]), server=Endpoint(workload=sides["server"]))
    return _subject(reporting, state), SecurityDetails(connection=connection, role=role, groups=groups)


def _subject(workload: str | None, state: State) -> Subject:
    """A workload that the case does not list is an ordinary managed container."""
    if not workload:
        return Subject(node=NODE)
    subject = Subject(container=Container(id=workload))
    added = missing(subject, state.workloads.get(workload, Workload(id=workload, node=NODE)))
    return subject if added is None else merged(subject, added)


def _with_process(subject: Subject, process: Process) -> Subject:
    return Subject(
        node=subject.node,
        container=subject.container,
        image=subject.image,
        namespace=subject.namespace,
        process=process,
    )
