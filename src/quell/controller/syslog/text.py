"""The text format: one line of key=value. Pure.

A value with a space, a quote, an equals sign, a backslash or anything invisible, and an empty one, is a JSON string; all
others stand as they are. So each line is read in one way only, whatever the values say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from quell.controller.syslog.plain import fitted, quoted
from quell.controller.syslog.told import Told

#: The log's time is the message's TIMESTAMP.
_LEFT_OUT = ("reported_timestamp", "reported_at", "category", "name", "level", "id")
_encode = msgspec.json.Encoder().encode
_BARE = re.compile(r'[^\s"=\\]+')


def render(told: Told, room: int) -> bytes:
    """UTF-8 of at most `room` bytes."""
    fields: dict[str, Any] = {"notification": told.notification, "category": told.category, "level": told.level.value}
    fields |= {"name": told.name, "message": told.log.get("message") or told.title}
    fields |= {"rules": ",".join(told.rules), "actions": _actions(told), "id": told.id, "event_id": told.event_id}
    fields |= {f"flag_{name}": value for name, value in told.flag.items()}
    for name, value in told.log.items():
        if name not in _LEFT_OUT and name not in fields:
            fields[name] = value if isinstance(value, str) else _encode(value).decode()
    return fitted({name: value for name, value in fields.items() if value != ""}, _line, room, mark="truncated")


def _actions(told: Told) -> str:
    return ",".join(":".join(action.values()) for action in told.actions)


def _line(fields: Mapping[str, Any]) -> bytes:
    return " ".join([f"{name}={_value(value)}" for name, value in fields.items()]).encode(errors="backslashreplace")


def _value(value: Any) -> str:
    if value is True:
        return "true"
    text = str(value)
    return text if text.isprintable() and _BARE.fullmatch(text) else quoted(text)
