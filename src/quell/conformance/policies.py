"""Cases of policies: whether one is taken, and what it asks for when a deviation from it is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from quell.conformance.case import NODE, NOW, Case, Fields, Skipped, Unreadable, differs, read
from quell.documents.load import Documents
from quell.errors import DocumentError
from quell.evaluate import evaluate
from quell.matching.index import compile as compile_index
from quell.matching.policies import status
from quell.model.action import word
from quell.model.decision import ActionRecord, Decision
from quell.model.details import Deviation
from quell.model.event import Category, Event, Level
from quell.model.subject import Container, Pod, Process, ProcessTarget, Subject
from quell.response.state import AgentFacts, State

#: Expectations of traces, suppression and the evaluation of rulesets.
_LATER = {
    "suppressed": "the suppression of traces",
    "score": "the score of traces",
    "score_cap": "the score of traces",
    "triggers_trace": "traces",
    "priority": "the score of traces",
    "deviation": "the evaluation of rulesets",
}


def judge(case: Case) -> list[str]:
    unknown = set(case) - {"id", "note", "policy", "rulesets", "event", "expect"}
    if unknown:
        raise Unreadable(f"unknown in the case: {', '.join(sorted(unknown))}")
    expect = Fields(case["expect"], "expect")
    for key, capability in _LATER.items():
        if key in case["expect"]:
            raise Skipped(capability)
    valid = expect.take("valid", default=True)
    try:
        documents = read([case["policy"], *case.get("rulesets", ())])
    except DocumentError as error:
        return [] if not valid else [f"refused: {error}"]
    if not valid:
        return ["expected to be refused, but was taken"]
    found: list[str] = []
    if expect.take("warning") and not documents.warnings:
        found.append("expected a warning, got none")
    if (wanted := expect.take("status")) is not None:
        rulesets = {ruleset.name for ruleset in documents.rulesets}
        found += differs("status", wanted, status(documents.policies[0], rulesets).value)
    actions, skipped = expect.take("actions"), expect.take("default_skipped")
    expect.done()
    if actions is not None or skipped is not None:
        decision = _decided(documents, case["event"])
        found += [] if actions is None else _asked(actions, decision)
        words = sorted(ref.rpartition("/")[2] for ref in decision.default_skipped)
        found += [] if skipped is None else differs("default_skipped", sorted(skipped), words)
    return found


def _decided(documents: Documents, values: Mapping[str, Any]) -> Decision:
    policy = documents.policies[0]
    state = State()
    state.set_agents([AgentFacts(id="agent-1", node=NODE)])
    subject = _subject(values)
    deviation = Deviation(policy=policy.name, what="process" if subject.process is not None else "container")
    event = Event(
        id="case",
        time=NOW,
        received=NOW,
        source="native",
        category=Category.DEVIATION,
        name="Process.Profile.Violation" if subject.process is not None else "Container.Image.Deviation",
        level=Level.WARNING,
        subject=subject,
        raw=b"{}",
        decode=lambda _: deviation,
    )
    return evaluate(event, compile_index(documents), state, NOW)


def _asked(expected: list[dict[str, Any]], decision: Decision) -> list[str]:
    """A multiset: each expected object is a part of its match, and the counts are equal. Before safety."""
    left = [_told(record) for record in decision.actions]
    found: list[str] = []
    for wanted in sorted(expected, key=len, reverse=True):
        match = next((each for each in left if wanted.items() <= each.items()), None)
        if match is None:
            found.append(f"actions: expected {wanted}, got {left}")
        else:
            left.remove(match)
    words = Counter(each["action"] for each in left)
    return found + ([f"actions: not expected: {', '.join(words.elements())}"] if words else [])


def _told(record: ActionRecord) -> dict[str, Any]:
    told: dict[str, Any] = dict(msgspec.to_builtins(record.action))
    told.pop("type", None)
    told |= {"action": word(record.action), "from": record.asked_by[0].rpartition("/")[2]}
    if isinstance(record.target, ProcessTarget):
        process = record.target.process
        told |= {"pid": process.pid, "pgid": process.pgid, "exe": process.exe, "name": process.name}
    return told


def _subject(values: Mapping[str, Any]) -> Subject:
    """null: the deviation has no such scope."""
    event = Fields(values, "event")
    parts = {
        part: Fields(event.take(part) or {}, part)
        for part in ("cluster", "machine", "namespace", "pod", "container", "service", "process", "user")
    }
    cluster, machine, namespace, pod = (parts[part] for part in ("cluster", "machine", "namespace", "pod"))
    container, service, process = parts["container"], parts["service"], parts["process"]
    identifier, image = container.take("containerID"), container.take("image")
    subject = Subject(
        cluster=cluster.take("name"),
        cluster_uid=cluster.take("uid"),
        node=machine.take("hostname"),
        source_name=machine.take("sourceName"),
        machine_id=machine.take("uid"),
        namespace_labels=namespace.take("labels"),
        pod=Pod(name=pod.take("name"), uid=pod.take("uid"), labels=pod.take("labels")) if values.get("pod") else None,
        container=_container(container, identifier) if identifier else None,
        image=image,
        service=service.take("name"),
        service_cgroup=service.take("cgroup"),
        process=_process(process) if values.get("process") else None,
        user=parts["user"].take("user"),
    )
    event.done()
    for part in parts.values():
        part.done()
    return subject


def _container(fields: Fields, identifier: str) -> Container:
    return Container(id=identifier, name=fields.take("containerName"), image_id=fields.take("imageID"))


def _process(fields: Fields) -> Process:
    return Process(
        pid=fields.take("pid"),
        pgid=fields.take("pgid"),
        name=fields.take("name"),
        exe=fields.take("exe"),
        user=fields.take("euser"),
    )
