"""What a policy would do in its other mode about what was seen. SEMANTICS section 5, audit; docs/deviations.md.

Pure. Each deviation is decided twice by the one `evaluate`, with the policy as it is and as it would be, by an engine
without history at the moment at which it was seen; what differs is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from quell.controller.deviation_events import event_of
from quell.documents.load import Documents
from quell.evaluate import evaluate
from quell.guardian.fingerprint import Fingerprint
from quell.guardian.guard import Guard, event_name
from quell.guardian.replay import replay
from quell.matching.index import Index
from quell.model.action import word
from quell.model.decision import ActionRecord, Decision
from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.policy import Policy, Ruleset
from quell.model.repeats import Repeated
from quell.model.rule import Mode
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Subject, Target
from quell.response.facts import AgentFacts, Safety, Workload
from quell.response.state import State

#: Of a process that was learned, nobody knows the number any more: it stands for those to come.
_TO_COME = Process(pid=2**22, start_ticks=0)


class Outcome(Struct, frozen=True, kw_only=True):
    """What is decided about one action. status: "": it is not asked for."""

    status: str
    reason: str = ""
    explanation: str = ""


class Difference(Struct, frozen=True, kw_only=True):
    """One action for one deviation, of which something else would be decided."""

    checksum: str
    #: process, ingress, egress or container.
    what: str
    message: str
    #: How often the deviation came; 0: it was seen before there was the policy, and would come with it.
    count: int
    last: float
    action: str
    #: "": the action has none.
    target: str
    now: Outcome
    then: Outcome


class Sample(NamedTuple):
    """Something to decide about."""

    deviation: Deviation
    name: str
    subject: Subject
    #: When it is decided about, as if it came then, and when it was seen last.
    time: float
    last: float
    #: How often it came.
    repeats: int


def switched(policy: Policy, mode: Mode) -> Policy:
    """As it would be: enabled, and in this mode."""
    return msgspec.structs.replace(policy, mode=mode, enabled=True)


def with_policy(documents: Documents, policy: Policy) -> Documents:
    """All documents, with this policy in place of the one of its name."""
    policies = tuple(policy if each.name == policy.name else each for each in documents.policies)
    return msgspec.structs.replace(documents, policies=policies)


def kept(repeated: Iterable[Repeated]) -> Iterator[Sample]:
    for each in repeated:
        yield Sample(each.deviation, each.name, each.subject, each.last, each.last, each.count)


def learned(
    policy: Policy,
    rulesets: Sequence[Ruleset],
    fingerprints: Iterable[Fingerprint],
    known: Iterable[str],
    since: float,
    now: float,
) -> Iterator[Sample]:
    """What deviates of what was seen of workloads since then, but for deviations that are known: as if it came now.

    known: their checksums. The policy must be enabled.
    """
    guard = Guard([policy], rulesets)
    seen = set(known)
    for fingerprint in fingerprints:
        if not any(guard.watches(workload) for workload in fingerprint.workloads):
            continue
        for observation in replay(fingerprint):
            if observation.time < since:
                continue
            for deviation in _of(guard, observation):
                if deviation.checksum not in seen:
                    seen.add(deviation.checksum or "")
                    subject = _to_come(observation.subject)
                    yield Sample(deviation, event_name(deviation), subject, now, observation.time, 0)


def differences(sample: Sample, now: Index, then: Index, state: State) -> list[Difference]:
    """state: without history, with the agents and workloads there are."""
    before, after = (_decided(sample, index, state) for index in (now, then))
    found = []
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key, Outcome(status="")), after.get(key, Outcome(status=""))
        if (one.status, one.reason) != (other.status, other.reason):
            action, target = key
            found.append(
                Difference(
                    checksum=sample.deviation.checksum or "",
                    what=sample.deviation.what,
                    message=sample.deviation.message,
                    count=sample.repeats,
                    last=sample.last,
                    action=action,
                    target=target,
                    now=one,
                    then=other,
                )
            )
    return found


def without_history(safety: Safety, agents: Iterable[AgentFacts], workloads: Mapping[str, Workload]) -> State:
    """A state in which nothing has been done yet, and whose machines run since ever: what was seen is not too old for it."""
    fresh = State(safety)
    fresh.set_agents(msgspec.structs.replace(agent, boot_id="", boot_time=0.0) for agent in agents)
    fresh.workloads = workloads
    return fresh


def _of(guard: Guard, observation: Observation) -> Iterator[Deviation]:
    for watch in guard.watches(msgspec.structs.replace(observation.subject, process=None)):
        deviation = watch.compare(observation)
        if deviation is not None:
            yield deviation


def _to_come(subject: Subject) -> Subject:
    process = subject.process
    if process is None:
        return subject
    known = msgspec.structs.replace(process, pid=_TO_COME.pid, start_ticks=_TO_COME.start_ticks)
    return msgspec.structs.replace(subject, process=known)


def _decided(sample: Sample, index: Index, state: State) -> dict[tuple[str, str], Outcome]:
    event = event_of(
        "simulation", sample.deviation, sample.name, sample.subject, time=sample.time, received=sample.time
    )
    return dict(_outcomes(evaluate(event, index, state, sample.time)))


def _outcomes(decision: Decision) -> Iterator[tuple[tuple[str, str], Outcome]]:
    for record in decision.actions:
        outcome = Outcome(
            status=record.status.value,
            reason="" if record.reason is None else record.reason.value,
            explanation=record.explanation,
        )
        yield (_named(record), _aimed(record.target)), outcome


def _named(record: ActionRecord) -> str:
    """The action, with what tells two of a kind apart."""
    fields = {key: value for key, value in msgspec.to_builtins(record.action).items() if key != "type"}
    told = ", ".join(f"{key} {value}" for key, value in fields.items() if not isinstance(value, list | dict))
    return f"{word(record.action)} ({told})" if told else word(record.action)


def _aimed(target: Target | None) -> str:
    match target:
        case ProcessTarget():
            process = target.process
            known = process.pid not in (None, _TO_COME.pid)
            name = process.name or "process"
            return f"{name} ({process.pid}) on {target.node}" if known else f"any such {name}"
        case NetworkTarget():
            return f"{target.key[:12] if target.container_id else target.key} on {target.node}"
        case PodTarget():
            return f"{target.namespace or '?'}/{target.name or target.uid}"
        case None:
            return ""
