"""Values as people read them: moments, durations, counts, and whom an event is about. Filters of the templates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from quell.model.subject import Subject


def about(subject: Subject) -> str:
    """Whom an event is about, most telling first."""
    parts: list[str] = []
    if (process := subject.process) is not None:
        told = process.name or process.exe or process.cmdline or "process"
        parts.append(told if process.pid is None else f"{told} (pid {process.pid})")
    if (container := subject.container) is not None:
        parts.append(f"container {container.name or container.id[:12]}")
    if subject.image is not None:
        parts.append(subject.image)
    if subject.pod is not None and subject.pod.name is not None:
        parts.append("pod " + "/".join(word for word in (subject.namespace, subject.pod.name) if word))
    elif subject.namespace is not None:
        parts.append(f"namespace {subject.namespace}")
    if subject.group is not None:
        parts.append(f"group {subject.group}")
    if subject.process is None and subject.user is not None:
        parts.append(f"user {subject.user}")
    if subject.node is not None:
        parts.append(f"on {subject.node}")
    return ", ".join(parts)


def moment(seconds: float) -> str:
    """UTC, to the millisecond."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def iso(seconds: float) -> str:
    """As the attribute of a time element takes it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return ""


def clock(seconds: float) -> str:
    """The time of day in UTC, for the axis of a chart."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M")


def ago(seconds: float, now: float | None = None) -> str:
    """How long since, or until: 5 s ago, in 3 min. console.js says the same in the same words."""
    gone = (time.time() if now is None else now) - seconds
    size = abs(gone)
    for least, unit, name in ((86_400, 86_400, "d"), (3600, 3600, "h"), (60, 60, "min"), (1, 1, "s")):
        if size >= least:
            told = f"{int(size // unit)} {name}"
            return f"{told} ago" if gone > 0 else f"in {told}"
    return "now"


def span(seconds: float) -> str:
    """A duration as a person reads it."""
    return f"{seconds * 1000:.1f} ms" if abs(seconds) < 1 else f"{seconds:.1f} s"


def count(number: float) -> str:
    """With commas: 1,204,332."""
    return f"{number:,.0f}"


def plural(number: float, one: str, several: str = "") -> str:
    """1 event, 2 events."""
    return f"{count(number)} {one if number == 1 else several or one + 's'}"


def breaks(text: str) -> Markup:
    """A long word that may go on in the next line behind its dots, colons and slashes."""
    told = escape(text)
    for sign in (".", ":", "/"):
        told = told.replace(sign, Markup(f"{sign}<wbr>"))  # noqa: S704 - one of these signs
    return told


def requirements(part: Any) -> list[str]:
    """One of a selector's parts as it is written, matchFields or matchExpressions: each requirement as a line."""
    if isinstance(part, Mapping):
        return [f"{key} {value}" for key, value in part.items()]
    return [f"{each['key']} {each['operator']} {', '.join(each.get('values', ()))}".rstrip() for each in part]
