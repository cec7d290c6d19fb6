"""Flags as a file. docs/flags.md describes the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from quell.controller.table_file import FileFormat, moment, safe, table
from quell.model.flag import FlagShown

_encode = msgspec.json.Encoder().encode


def head(form: FileFormat) -> bytes:
    """What the file begins with."""
    return table([list(COLUMNS)]) if form is FileFormat.CSV else b""


def lines(told: Iterable[FlagShown], form: FileFormat) -> bytes:
    if form is FileFormat.NDJSON:
        return b"".join([_encode(one) + b"\n" for one in told])
    return table([safe(value(one)) for value in COLUMNS.values()] for one in told)


def _container(one: FlagShown) -> str:
    container = one.subject.container
    return "" if container is None else container.name or ""


def _process(one: FlagShown) -> str:
    process = one.subject.process
    return "" if process is None else process.name or process.exe or ""


def _pid(one: FlagShown) -> str:
    process = one.subject.process
    return "" if process is None or process.pid is None else str(process.pid)


def _by(one: FlagShown) -> str:
    return "" if one.acknowledged is None else one.acknowledged.by


#: The columns of the table, in order: a new one goes to the end.
COLUMNS: Mapping[str, Callable[[FlagShown], str]] = {
    "id": lambda one: one.id,
    "time": lambda one: moment(one.time),
    "class": lambda one: one.flag_class,
    "severity": lambda one: one.severity,
    "name": lambda one: one.name,
    "description": lambda one: one.description,
    "impact": lambda one: one.impact,
    "content": lambda one: one.content,
    "class_path": lambda one: one.class_path,
    "asked_by": lambda one: "; ".join(one.asked_by),
    "event_id": lambda one: one.event_id,
    "trace": lambda one: one.trace or "",
    "count": lambda one: str(one.count),
    "repeats": lambda one: str(one.repeats),
    "last": lambda one: moment(one.last),
    "cluster": lambda one: one.subject.cluster or "",
    "node": lambda one: one.subject.node or "",
    "namespace": lambda one: one.subject.namespace or "",
    "pod": lambda one: (one.subject.pod.name if one.subject.pod else None) or "",
    "container": _container,
    "container_id": lambda one: one.subject.container.id if one.subject.container else "",
    "image": lambda one: one.subject.image or "",
    "service": lambda one: one.subject.service or "",
    "process": _process,
    "pid": _pid,
    "user": lambda one: (one.subject.process.user if one.subject.process else None) or one.subject.user or "",
    "acknowledged_by": _by,
    "acknowledged": lambda one: moment(one.acknowledged.time if one.acknowledged else None),
    "note": lambda one: one.acknowledged.note if one.acknowledged else "",
}
