"""The event that tells of a deviation which the guardian found: native, category deviation, source `guardian`."""

from __future__ import annotations

from typing import Any

import msgspec

from quell.detectors import DETECTORS
from quell.model.details import Deviation
from quell.model.event import Category, Event
from quell.model.subject import Subject
from quell.response.targets import process_key

SOURCE = "guardian"


def event_of(
    identifier: str, deviation: Deviation, name: str, subject: Subject, *, time: float, received: float
) -> Event:
    """identifier: derived (quell.controller.deviations), so that the same thing found twice is one event."""
    details: dict[str, Any] = msgspec.to_builtins(deviation)
    del details["type"]
    told = {
        "id": identifier,
        "time": time,
        "category": Category.DEVIATION.value,
        "name": name,
        "subject": native(subject),
        "details": details,
    }
    return DETECTORS[SOURCE].decode(msgspec.json.encode(told), id=identifier, received=received)


def native(subject: Subject) -> Subject:
    """All that the native form has room for; the inventory fills in the rest again when the event is decided."""
    container = subject.container
    if container is None or (container.labels is None and container.sandbox is None):
        return subject
    return msgspec.structs.replace(subject, container=msgspec.structs.replace(container, labels=None, sandbox=None))


def instance(subject: Subject) -> str:
    """What tells the process, or else the container, from all others that ever were; "": nothing does."""
    process, container = subject.process, subject.container
    where = subject.machine_id or subject.node or ""
    if process is not None:
        if process.pid is None or (process.start_ticks is None and process.start_time is None):
            return ""
        return f"{where}/{process_key(process)}"
    return "" if container is None else container.id
