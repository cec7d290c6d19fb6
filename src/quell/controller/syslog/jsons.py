"""The JSON format: one object in one line, with the fields of the JSON webhook. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from quell.controller.syslog.plain import fitted, json_visible
from quell.controller.syslog.told import Told

_encode = msgspec.json.Encoder().encode


def render(told: Told, room: int) -> bytes:
    """UTF-8 of at most `room` bytes; it is JSON also where something had to be cut."""
    fields: dict[str, Any] = {"notification": told.notification, "category": told.category}
    fields |= {"kind": told.kind} if told.kind else {}
    # What is last is left out first where there is no room.
    fields |= {"event_id": told.event_id or told.id, "name": told.name, "level": told.level.value}
    fields |= {"message": told.log.get("message") or told.title}
    fields |= {name: value for name, value in told.log.items() if name not in fields}
    fields["rules"] = [{"ref": ref, "name": name} if name else {"ref": ref} for ref, name in told.rules.items()]
    fields["actions"] = list(told.actions)
    if told.flag:
        fields["flag"] = told.flag
    return fitted(fields, _object, room, mark="truncated")


def _object(fields: Mapping[str, Any]) -> bytes:
    encoded = _encode(fields)
    text = encoded.decode()
    return encoded if text.isprintable() else json_visible(text).encode()
