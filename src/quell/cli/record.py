"""The decision record for people: what happened, what matched and why, what was asked and what became of it.

SEMANTICS section 0.4. `quell explain`, the demonstration and the dry run print it; all from one Explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quell.cli.output import clock, milliseconds, print_trimmed, visible
from quell.durations import format_duration
from quell.model.action import (
    Action,
    KillPod,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
    SendWebhook,
    SuppressLog,
    word,
)
from quell.model.decision import (
    ActionRecord,
    Decision,
    Flag,
    Match,
    NearMiss,
    Outcome,
    OutcomeStatus,
    QuarantineHeld,
    Reason,
    Status,
)
from quell.model.explanation import Explanation
from quell.model.rehearsal import Rehearsal
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target

_STYLE: Mapping[str, str] = {
    Status.ASKED: "dim",
    Status.GRANTED: "green",
    Status.REFUSED: "red",
    Status.HELD: "yellow",
    OutcomeStatus.DONE: "bold green",
    OutcomeStatus.FAILED: "bold red",
    OutcomeStatus.EXPIRED: "red",
    OutcomeStatus.GONE: "yellow",
}
_ARROW = (" → ", "dim")
#: Columns after which a criterion no longer pushes the values of the others to the right.
_CRITERION = 40
#: Processes that a dry run's line names.
_PIDS = 20


def print_record(
    console: Console,
    explanation: Explanation,
    *,
    near_misses: bool = False,
    imagined: bool = False,
    dry_run: bool = False,
) -> None:
    """imagined: decided from files, so that nothing was done and nothing is to come. dry_run: by the controller, so too."""
    explanation = msgspec.convert(_visible(msgspec.to_builtins(explanation)), Explanation)
    decision = explanation.decision
    sections = [_section("event", _event(explanation.event))]
    if decision.added is not None or decision.conflicts:
        sections.append(_section("inventory", _inventory(decision)))
    sections.append(_section("matched", [_match(match) for match in decision.matches] or [Text("no rule", "dim")]))
    if near_misses:
        missed = [_near_miss(miss) for miss in decision.near_misses]
        sections.append(_section("not matched", missed or [Text("no other rule of this category", "dim")]))
    if decision.suppressed:
        sections.append(_section("log", [Text("suppressed: kept out of notifications, syslog and webhooks")]))
    if decision.actions:
        pending = "" if imagined or dry_run else "no outcome yet"
        sections.append(
            _section(
                "actions",
                [
                    _action(record, decision, explanation.outcomes, pending, explanation.rehearsals)
                    for record in decision.actions
                ],
            )
        )
    if explanation.flags:
        sections.append(_section("flags", [_flag(flag) for flag in explanation.flags]))
    if dry_run:
        sections.append(_section("dry run", [Text("this would be decided now; nothing was done", "dim")]))
    else:
        sections.append(_section("decided", [_imagined() if imagined else _decided(explanation.event, decision)]))
    print_trimmed(console, *sections)


def _visible(value: Any) -> Any:
    match value:
        case str():
            return visible(value)
        case list():
            return [_visible(item) for item in value]
        case dict():
            return {_visible(key): _visible(item) for key, item in value.items()}
        case _:
            return value


def _section(title: str, lines: Sequence[RenderableType]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=11, no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for position, line in enumerate(lines):
        table.add_row("" if position else title, line)
    return table


def _event(event: Mapping[str, Any]) -> list[RenderableType]:
    level = str(event.get("level", ""))
    severe = level in {"Emergency", "Alert", "Critical", "Error"}
    name = Text(str(event.get("name", "")), "bold")
    catalogue_name = event.get("catalogue_name")
    if catalogue_name and catalogue_name != event.get("name"):
        name.append(f"  ({catalogue_name})", "dim")
    category = "/".join(str(event[key]) for key in ("category", "kind") if event.get(key))
    about = Text.assemble(
        (level, "bold red" if severe else "yellow"),
        f" {category} from {event.get('source', '?')}, ",
        clock(event.get("time")),
    )
    lines: list[RenderableType] = [name, about]
    subject = describe_subject(event.get("subject") or {})
    if subject:
        lines.append(Text(subject))
    message = (event.get("details") or {}).get("message")
    if message and message != event.get("name"):
        lines.append(Text(str(message), "dim"))
    lines.append(Text(str(event.get("id", "")), "dim"))
    return lines


def _inventory(decision: Decision) -> list[RenderableType]:
    """What was filled in before it was decided, and where event and inventory say different things."""
    lines: list[RenderableType] = [Text(conflict, "yellow") for conflict in decision.conflicts]
    if decision.added is not None:
        facts = ", ".join(_added(msgspec.to_builtins(decision.added)))
        lines.insert(0, Text.assemble(("added ", "dim"), facts))
    return lines


def _added(facts: Mapping[str, Any], of: str = "") -> list[str]:
    told: list[str] = []
    for key, value in facts.items():
        name = " ".join(part for part in (of, key.replace("_", " ")) if part)
        if key.endswith("labels"):
            told.append(f"{name} {', '.join(f'{label}={text}' for label, text in value.items()) or 'none'}")
        elif isinstance(value, Mapping):
            told += _added(value, key)
        else:
            told.append(f"{name} {value}")
    return told


def describe_subject(subject: Mapping[str, Any]) -> str:
    """In one line, from the narrowest part outwards: process, container, pod, node."""
    parts = []
    process = subject.get("process")
    if process:
        parts.append(_describe_process(process))
    container = subject.get("container")
    if container:
        label = container.get("name") or str(container.get("id", ""))[:12]
        parts.append(f"container {label}" + (f" ({subject['image']})" if subject.get("image") else ""))
    elif subject.get("image"):
        parts.append(f"image {subject['image']}")
    pod = subject.get("pod")
    if pod and pod.get("name"):
        parts.append(f"pod {'/'.join(part for part in (subject.get('namespace'), pod['name']) if part)}")
    elif subject.get("namespace"):
        parts.append(f"namespace {subject['namespace']}")
    parts.extend(f"{key} {subject[key]}" for key in ("service", "node") if subject.get(key))
    return ", ".join(parts)


def _describe_process(process: Mapping[str, Any]) -> str:
    known = [
        f"pid {process['pid']}" if process.get("pid") is not None else "",
        str(process.get("cmdline") or process.get("exe") or ""),
    ]
    inside = ", ".join(part for part in known if part)
    return f"process {process.get('name') or '?'}" + (f" ({inside})" if inside else "")


def _match(match: Match) -> RenderableType:
    head = Text.assemble((match.ref, "cyan"), "  ", (match.name, "bold"))
    if not match.evidence:
        head.append("  (no criterion: everything of this category)", "dim")
        return head
    width = min(max(len(held.criterion) for held in match.evidence), _CRITERION)
    evidence = [
        Text.assemble(f"{held.criterion:<{width}}", ("  is ", "dim"), (held.value, "green")) for held in match.evidence
    ]
    return Group(head, Padding(Group(*evidence), (0, 0, 0, 2)))


def _action(
    record: ActionRecord,
    decision: Decision,
    outcomes: Sequence[Outcome],
    pending: str,
    rehearsals: Sequence[Rehearsal] = (),
) -> RenderableType:
    head = Text(describe_action(record.action), "bold")
    if record.target is not None:
        head.append(f"  {describe_target(record.target)}", "default")
    if record.evidence:
        head.append("  after evidence", "default")
    if record.endpoints:
        head.append(f"  to {', '.join(record.endpoints)}", "default")
    course = Text.assemble(("asked by ", "dim"), (", ".join(record.asked_by), "cyan"), _ARROW, _status(record))
    mine = _outcomes_of(record, outcomes)
    lines = [course]
    for outcome in mine:
        drawn = _outcome(outcome)
        if len(mine) == 1:
            course.append_text(Text.assemble(_ARROW, drawn))
        else:
            lines.append(Text.assemble(_ARROW, (outcome.id.rpartition("/")[2], "bold"), " ", drawn))
    lines += [_rehearsal(each) for each in rehearsals if each.id == record.id]
    if record.repeats:
        lines.append(Text.assemble(("counted on flag ", "dim"), record.repeats))
    if held := _held_by(record, decision):
        lines.append(Text.assemble(("held by ", "dim"), held))
    if not mine and record.status is Status.GRANTED and pending and not _is_immediate(record):
        course.append_text(Text.assemble(_ARROW, (pending, "dim")))
    return Group(head, Padding(Group(*lines), (0, 0, 0, 2)))


#: What a dry run says of an outcome.
_WOULD: Mapping[str, str] = {
    OutcomeStatus.DONE: "would be done",
    OutcomeStatus.REFUSED: "would be refused",
    OutcomeStatus.GONE: "would find the target gone",
    OutcomeStatus.FAILED: "would fail",
    OutcomeStatus.EXPIRED: "nobody looked",
}


def _rehearsal(rehearsal: Rehearsal) -> Text:
    text = Text.assemble(_ARROW, (_WOULD[rehearsal.would], _STYLE.get(rehearsal.would, "")))
    if rehearsal.reason not in (None, Reason.EXPIRED, Reason.GONE):
        text.append(f" ({rehearsal.reason})")
    if rehearsal.explanation:
        text.append(f": {rehearsal.explanation}")
    pids = [str(deed.pid) for deed in rehearsal.deeds if deed.pid is not None and not deed.polite]
    namespaces = [str(deed.netns) for deed in rehearsal.deeds if deed.netns is not None]
    reached = [f"pids {', '.join(pids[:_PIDS])}"] if pids else []
    reached += [f"and {len(pids) - _PIDS} more"] if len(pids) > _PIDS else []
    reached += [f"network namespaces {', '.join(namespaces)}"] if namespaces else []
    if reached:
        text.append(f"  [{' '.join(reached)}]", "dim")
    return text.append(f"  says {rehearsal.by}", "dim")


def _is_immediate(record: ActionRecord) -> bool:
    """Done with the decision itself, in its transaction: nothing comes back later."""
    if isinstance(record.action, Quarantine | ReleaseQuarantine):
        return not record.agent
    return isinstance(record.action, MakeRedFlag | MakeOpsFlag | SuppressLog)


def _held_by(record: ActionRecord, decision: Decision) -> str:
    """Whose quarantine it became by this decision, and until when."""
    if record.status is not Status.GRANTED or not isinstance(record.action, Quarantine):
        return ""
    held = {
        change.holder: change.until
        for change in decision.changes
        if isinstance(change, QuarantineHeld) and change.target == record.target
    }
    return ", ".join(holder if until is None else f"{holder} until {clock(until)}" for holder, until in held.items())


def _outcomes_of(record: ActionRecord, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """A command has its record's id; a delivery that of its event, "webhook" and the endpoint's name."""
    event_id = record.id.rpartition("/")[0]
    ids = {record.id, *(f"{event_id}/webhook/{endpoint}" for endpoint in record.endpoints)}
    return [outcome for outcome in outcomes if outcome.id in ids]


def _status(record: ActionRecord) -> Text:
    text = Text(record.status.value, _STYLE.get(record.status, ""))
    if record.reason is not None:
        text.append(f" ({record.reason.value})")
    if record.explanation:
        text.append(f": {record.explanation}")
    return text


def _outcome(outcome: Outcome) -> Text:
    text = Text(outcome.status.value, _STYLE.get(outcome.status, ""))
    if outcome.duration is not None:
        text.append(f" in {milliseconds(outcome.duration)}", "bold")
    if outcome.reason is not None:
        text.append(f" ({outcome.reason.value})")
    if outcome.explanation:
        text.append(f": {outcome.explanation}")
    facts = ", ".join(f"{key} {_fact(value)}" for key, value in outcome.facts.items())
    if facts:
        text.append(f"  [{facts}]", "dim")
    return text


def _fact(value: str | float | list[int]) -> str:
    match value:
        case list():
            return ", ".join(str(item) for item in value)
        case float():
            return f"{value:.3g}"
        case _:
            return str(value)


def describe_action(action: Action) -> str:
    """The word, and the parameters that are set."""
    match action:
        case Quarantine(ttl=ttl, strict=strict, investigator=investigator):
            parameters = [f"for {format_duration(ttl)}"] if ttl is not None else []
            parameters += ["strict"] if strict else []
            parameters += [f"but for {', '.join(investigator)}"] if investigator else []
        case MakeRedFlag(severity=severity) | MakeOpsFlag(severity=severity):
            parameters = [severity.value]
        case ReniceProcess(priority=priority):
            parameters = [f"to {priority}"]
        case KillPod(grace_period=seconds) if seconds:
            parameters = [f"grace {seconds} s"]
        case SendWebhook() | _:
            parameters = []
    return " ".join([word(action), *parameters])


def describe_target(target: Target) -> str:
    match target:
        case ProcessTarget(node=node, process=process, container_id=container_id):
            inside = f" in container {container_id[:12]}" if container_id else ""
            return f"{_brief(process)}{inside} on {node}"
        case NetworkTarget(node=node, container_id=container_id, pod_uid=pod_uid, process=process, key=key):
            if container_id:
                of = f"container {container_id[:12]}"
            elif pod_uid:
                of = f"pod {pod_uid}"
            else:
                of = _brief(process) if process is not None else key
            return f"network of {of} on {node}"
        case PodTarget(namespace=namespace, name=name, uid=uid):
            return f"pod {namespace or '?'}/{name or uid or '?'}"


def _brief(process: Process) -> str:
    return f"{process.name or 'process'} (pid {process.pid})"


def _flag(flag: Flag) -> Text:
    text = Text.assemble(
        (f"{flag.flag_class.value} {flag.severity.value}", "bold red" if flag.flag_class == "red" else "bold yellow")
    )
    text.append(f"  {flag.name}")
    if flag.description not in ("", flag.name):
        text.append(f": {flag.description}", "dim")
    if (times := flag.count + flag.repeats) > 1:
        text.append(f"  ({times} times)", "dim")
    return text


def _near_miss(miss: NearMiss) -> RenderableType:
    got = Text.assemble("got ", (miss.got, "yellow")) if miss.got is not None else Text("the event has none", "yellow")
    why = Text.assemble(miss.criterion, ("  expected ", "dim"), miss.expected, ", ", got)
    return Group(Text.assemble((miss.ref, "cyan"), "  ", miss.name), Padding(why, (0, 0, 0, 2)))


def _imagined() -> Text:
    return Text("as if taken when it happened, by an engine without history and with an able agent", "dim")


def _decided(event: Mapping[str, Any], decision: Decision) -> Text:
    text = Text(f"by revision {decision.revision} of the rules, {clock(decision.time)}", "dim")
    received = event.get("received")
    if received is not None and decision.time >= received:
        text.append(f", {milliseconds(decision.time - received)} after receipt", "dim")
    return text
