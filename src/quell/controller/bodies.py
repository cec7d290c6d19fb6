"""What a webhook sends: a notice as the bytes of one endpoint type. Pure. SEMANTICS section 7.

The first four types carry the fields of NeuVector's webhook bodies, correctly escaped (theirs are not); JSON also has
`rules`, `event_id` and `decision`, or `flag`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from quell.controller.notices import Notice
from quell.model.rule import WebhookType

#: Characters of a chat message; Slack cuts at 40,000 and Teams refuses 28 KB.
_CHAT_LENGTH = 20_000


def body(kind: WebhookType, told: Notice) -> bytes:
    """The request body for an endpoint of this type. content_type() of it tells its media type."""
    return _BODIES[kind](told)


def content_type(content: bytes) -> str:
    """The media type of a body made here. It shows in the first bytes, so that a body that waited while its
    endpoint's type was changed still goes out as what it is.
    """
    if content.startswith(b'{"specversion"'):
        return "application/cloudevents+json; charset=utf-8"
    return "application/json" if content.startswith(b"{") else "text/plain; charset=utf-8"


def _json(told: Notice) -> bytes:
    comment = {"comment": told.comment} if told.comment else {}
    return msgspec.json.encode({"cluster": told.cluster} | comment | told.log | told.more)


def _text(told: Notice) -> bytes:
    comment = {"comment": told.comment} if told.comment else {}
    fields = {"level": told.level.value.upper(), "cluster": told.cluster} | comment
    return f"{_pairs(fields)},{_pairs(told.log)}".encode()


def _slack(told: Notice) -> bytes:
    head = f"*{_heading(told)}*\n_{told.title}_\n_{_location(told)}_\n"
    told_in_full = f"notification={told.category},{_pairs(told.log)}"
    # Slack's own escapes (its three control characters); quote=False leaves the others as they are.
    text = html.escape(head, quote=False) + ">>> " + html.escape(told_in_full, quote=False)
    return msgspec.json.encode({"text": text[:_CHAT_LENGTH], "username": f"Quell - {told.cluster}"})


def _teams(told: Notice) -> bytes:
    heading = f"{_heading(told)}\n{_location(told)}"
    text = f"{_markdown(told.title)}\n> {_markdown(f'notification={told.category},{_pairs(told.log)}')}"
    return msgspec.json.encode({"text": text[:_CHAT_LENGTH], "title": _markdown(heading)})


def _cloud_event(told: Notice) -> bytes:
    """CloudEvents 1.0 in structured mode, the JSON body as its data."""
    opening = {
        "specversion": "1.0",
        "id": told.id,
        "source": f"/quell/{told.cluster}" if told.cluster else "/quell",
        "type": f"dev.quell.{told.category}",
        "time": told.at,
        "datacontenttype": "application/json",
        "subject": told.title,
    }
    return msgspec.json.encode(opening)[:-1] + b',"data":' + _json(told) + b"}"


_BODIES: dict[WebhookType, Callable[[Notice], bytes]] = {
    WebhookType.JSON: _json,
    WebhookType.TEXT: _text,
    WebhookType.SLACK: _slack,
    WebhookType.TEAMS: _teams,
    WebhookType.CLOUD_EVENTS: _cloud_event,
}


def _heading(told: Notice) -> str:
    comment = f", Comment: {told.comment}" if told.comment else ""
    return f"{told.category.capitalize()}: {told.level.value.upper()} level{comment}"


def _location(told: Notice) -> str:
    subject = told.subject
    known = {
        "cluster": subject.cluster,
        "namespace": subject.namespace,
        "image": subject.image,
        "node": subject.node,
        "time": told.at,
    }
    return ", ".join(f"{key}: {value}" for key, value in known.items() if value)


def _pairs(fields: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={_plain(value)}" for key, value in fields.items())


def _plain(value: Any) -> str:
    """A value that cannot be mistaken for the next field: what holds a separator is written as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and (any(mark in text for mark in ',="\\') or not text.isprintable()):
        return json.dumps(text, ensure_ascii=False)
    return text


def _markdown(text: str) -> str:
    return html.escape(text, quote=False).replace("[", "\\[")
