"""Notifications as a file: lines of JSON, or a table for spreadsheets. docs/notifications.md describes the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from quell.controller.table_file import FileFormat, moment, safe, table
from quell.model.notification import Notification

_encode = msgspec.json.Encoder().encode


def head(form: FileFormat) -> bytes:
    """What the file begins with."""
    return table([list(COLUMNS)]) if form is FileFormat.CSV else b""


def lines(told: Iterable[Notification], form: FileFormat) -> bytes:
    if form is FileFormat.NDJSON:
        return b"".join([_encode(one) + b"\n" for one in told])
    return table([safe(value(one)) for value in COLUMNS.values()] for one in told)


def _container(one: Notification) -> str:
    container = one.subject.container
    return "" if container is None else container.name or ""


def _container_id(one: Notification) -> str:
    return "" if one.subject.container is None else one.subject.container.id


def _process(one: Notification) -> str:
    process = one.subject.process
    return "" if process is None else process.name or process.exe or ""


def _pid(one: Notification) -> str:
    process = one.subject.process
    return "" if process is None or process.pid is None else str(process.pid)


def _rules(one: Notification) -> str:
    return "; ".join(f"{rule.ref} {rule.name}" if rule.ref.startswith("rule/") else rule.ref for rule in one.rules)


def _actions(one: Notification) -> str:
    return "; ".join(
        " ".join(filter(None, (each.action, each.status, each.reason, each.outcome))) for each in one.actions
    )


#: The columns of the table, in order: a new one goes to the end.
COLUMNS: Mapping[str, Callable[[Notification], str]] = {
    "id": lambda one: one.id,
    "time": lambda one: moment(one.time),
    "received": lambda one: moment(one.received),
    "list": lambda one: one.list.value,
    "category": lambda one: one.category,
    "kind": lambda one: one.kind or "",
    "level": lambda one: one.level,
    "name": lambda one: one.name,
    "catalogue_name": lambda one: one.catalogue_name or "",
    "source": lambda one: one.source,
    "cluster": lambda one: one.subject.cluster or "",
    "node": lambda one: one.subject.node or "",
    "namespace": lambda one: one.subject.namespace or "",
    "pod": lambda one: (one.subject.pod.name if one.subject.pod else None) or "",
    "container": _container,
    "container_id": _container_id,
    "image": lambda one: one.subject.image or "",
    "service": lambda one: one.subject.service or "",
    "process": _process,
    "pid": _pid,
    "user": lambda one: (one.subject.process.user if one.subject.process else None) or one.subject.user or "",
    "message": lambda one: one.message,
    "rules": _rules,
    "actions": _actions,
    "suppressed": lambda one: "yes" if one.suppressed else "no",
}
