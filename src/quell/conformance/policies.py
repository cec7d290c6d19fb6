"""Cases of policies: whether one is taken, and what it asks for when a deviation from it is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from quell.conformance import traces
from quell.conformance.case import NODE, NOW, Case, Fields, Unreadable, differs, read
from quell.documents.load import Documents
from quell.errors import DocumentError
from quell.evaluate import evaluate
from quell.guardian.guard import Guard
from quell.matching.index import compile as compile_index
from quell.matching.policies import status
from quell.model.action import word
from quell.model.decision import ActionRecord, Decision
from quell.model.details import Deviation
from quell.model.event import Category, Event, Level
from quell.model.observation import Observation, Seen
from quell.model.policy import Policy, PolicyType, Ruleset
from quell.model.rule import Mode
from quell.model.subject import Ancestor, Container, Pod, Process, ProcessTarget, Subject
from quell.response.state import AgentFacts, State

#: Above the process of every case: it is the first one of its container or service.
_OUTSIDE = Ancestor(name="outside")


def judge(case: Case) -> list[str]:
    unknown = set(case) - {"id", "note", "policy", "rulesets", "event", "expect"}
    if unknown:
        raise Unreadable(f"unknown in the case: {', '.join(sorted(unknown))}")
    if traces.is_trace_case(case):
        return traces.judge(case, _subject)
    expect = Fields(case["expect"], "expect")
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
    deviates = expect.take("deviation")
    expect.done()
    if deviates is not None:
        found += differs("deviation", deviates, _deviates(documents, case["event"]))
    if deviates is False:
        # Of no deviation nothing follows.
        return found + differs("actions", [], actions or []) + differs("default_skipped", [], skipped or [])
    if actions is not None or skipped is not None:
        decision = _decided(documents, case["event"])
        found += [] if actions is None else _asked(actions, decision)
        words = sorted(ref.rpartition("/")[2] for ref in decision.default_skipped)
        found += [] if skipped is None else differs("default_skipped", sorted(skipped), words)
    return found


def _deviates(documents: Documents, values: Mapping[str, Any]) -> bool:
    """Whether the guardian finds that the case's container, or the process in it, is not what is expected."""
    subject = _subject(values)
    watches = Guard(documents.policies or [_policy_of(documents.rulesets)], documents.rulesets).watches(subject)
    found = [watch.compare_container(subject) for watch in watches]
    if subject.process is not None:
        process = msgspec.structs.replace(subject.process, lineage=(_OUTSIDE,))
        subject = msgspec.structs.replace(subject, process=process)
        seen = Observation(seen=Seen.EXECUTED, time=NOW, subject=subject)
        found += [watch.compare(seen) for watch in watches]
    return any(deviation is not None for deviation in found)


def _policy_of(rulesets: Sequence[Ruleset]) -> Policy:
    """A cluster policy of these and for everything: the case is about rulesets alone."""
    names = tuple(ruleset.name for ruleset in rulesets)
    return Policy(name="of-the-case", type=PolicyType.CLUSTER, mode=Mode.AUDIT, rulesets=names)


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
    image = container.take("image")
    has_more = any(value is not None for key, value in (values.get("container") or {}).items() if key != "image")
    subject = Subject(
        cluster=cluster.take("name"),
        cluster_uid=cluster.take("uid"),
        node=machine.take("hostname"),
        source_name=machine.take("sourceName"),
        machine_id=machine.take("uid"),
        namespace_labels=namespace.take("labels"),
        pod=Pod(name=pod.take("name"), uid=pod.take("uid"), labels=pod.take("labels")) if values.get("pod") else None,
        container=_container(container) if has_more else None,
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


def _container(fields: Fields) -> Container:
    return Container(
        id=fields.take("containerID", ""), name=fields.take("containerName"), image_id=fields.take("imageID")
    )


def _process(fields: Fields) -> Process:
    return Process(
        pid=fields.take("pid"),
        pgid=fields.take("pgid"),
        name=fields.take("name"),
        exe=fields.take("exe"),
        user=fields.take("euser"),
    )
