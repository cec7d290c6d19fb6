"""A process's ancestors as Falco's fields say: proc.pname, proc.aname[n], proc.aexepath[n], proc.apid[n] and their like.

Falco counts the parent as the first ancestor. Its stock rules name two or three of them; executables and pids are there
only where somebody asked for them (docs/falco.md).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from quell.detectors.line import read
from quell.model.subject import Ancestor

#: More than Falco's rules can reasonably ask for.
_MOST = 32
_MAX_PID = 2**31 - 1
_ABSENT = frozenset((None, "", "<NA>", "N/A"))
_FIELD = re.compile(r"proc\.(a(?:name|exepath|pid))\[(\d{1,2})\]")
#: What stands for the same of the parent.
_PARENT = {"name": "proc.pname", "exepath": "proc.pexepath", "pid": "proc.ppid"}
#: Without one of these an alert says nothing of ancestors that Process.ancestors does not say.
_TELLING = (b'"proc.aexepath[', b'"proc.apid[', b'"proc.pexepath"')


class _Alert(Struct, kw_only=True):
    output_fields: dict[str, Any] | None = None


_alert = msgspec.json.Decoder(_Alert)


def lineage_of(line: bytes) -> tuple[Ancestor, ...]:
    """From the parent up; () if no more is known than names. EventError: it is no alert."""
    if not any(word in line for word in _TELLING):
        return ()
    return lineage_in(read(_alert, line).output_fields or {})


def lineage_in(fields: dict[str, Any]) -> tuple[Ancestor, ...]:
    """Of output_fields; up to the first ancestor of which nothing is said."""
    known: dict[int, dict[str, Any]] = {1: {what: fields.get(name) for what, name in _PARENT.items()}}
    for name, value in fields.items():
        if (match := _FIELD.fullmatch(name)) is not None and value not in _ABSENT:
            known.setdefault(int(match[2]), {})[match[1].removeprefix("a")] = value
    lineage: list[Ancestor] = []
    while len(lineage) < _MOST and (ancestor := _ancestor(known.get(len(lineage) + 1, {}))) is not None:
        lineage.append(ancestor)
    return tuple(lineage)


def _ancestor(known: dict[str, Any]) -> Ancestor | None:
    name, exe = _text(known.get("name")), _text(known.get("exepath"))
    if name is None and exe is not None:
        name = exe.rpartition("/")[2][:15]  # the kernel keeps so many bytes of a name
    if name is None:
        return None
    return Ancestor(name=name, exe=exe, pid=_pid(known.get("pid")))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value not in _ABSENT else None


def _pid(value: Any) -> int | None:
    """Falco writes numbers as numbers, some forwarders as texts; -1: it does not know."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 11:
        value = int(value)
    return value if type(value) is int and 1 <= value <= _MAX_PID else None
