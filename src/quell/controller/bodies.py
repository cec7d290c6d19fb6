"""What a webhook sends: a notice as the bytes of one endpoint type. Pure. SEMANTICS section 7.

The first four types carry the fields of NeuVector's webhook bodies, correctly escaped (theirs are not); JSON also has
`rules`, `event_id` and `decision`, or `flag`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from quell.controller.notices import Notice
from quell.model.rule import WebhookType

#: Bytes of a chat message's text, as JSON has it, and of its heading: Slack cuts texts at 40,000 characters, and Teams
#: refuses messages of more than 28 KB.
_CHAT_BYTES = 20_000
_HEADING_BYTES = 4_000
_CUT = " ... (cut)"
_SEPARATORS = frozenset(',="\\')


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
    head = _cut(f"*{_heading(told)}*\n_{_one_line(told.title)}_\n_{_location(told)}_\n", _HEADING_BYTES, _slack_text)
    told_in_full = _cut(f"notification={told.category},{_pairs(told.log)}", _CHAT_BYTES, _slack_text)
    opening = head if head.endswith("\n") else f"{head}\n"
    return msgspec.json.encode(
        {"text": f"{opening}>>> {told_in_full}", "username": f"Quell - {_one_line(told.cluster)[:60]}"}
    )


def _teams(told: Notice) -> bytes:
    """A MessageCard, of which Teams wants @type and @context, and a text."""
    heading = f"{_heading(told)}\n{_location(told)}"
    text = f"{_cut(_one_line(told.title), _HEADING_BYTES, _markdown)}\n> "
    return msgspec.json.encode(
        {
            "@type": "MessageCard",
            "@context": "https://schema.org/extensions",
            "text": text + _cut(f"notification={told.category},{_pairs(told.log)}", _CHAT_BYTES, _markdown),
            "title": _cut(heading, _HEADING_BYTES, _markdown),
        }
    )


def _cloud_event(told: Notice) -> bytes:
    """CloudEvents 1.0 in structured mode, the JSON body as its data."""
    opening = {
        "specversion": "1.0",
        "id": _one_line(told.id),
        "source": f"/quell/{quote(told.cluster, safe='')}" if told.cluster else "/quell",
        "type": f"dev.quell.{told.category}",
        "time": told.at,
        "datacontenttype": "application/json",
        "subject": _one_line(told.title),
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
    comment = f", Comment: {_one_line(told.comment)}" if told.comment else ""
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
    return ", ".join(f"{key}: {_one_line(value)}" for key, value in known.items() if value)


def _pairs(fields: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={_plain(value)}" for key, value in fields.items())


def _plain(value: Any) -> str:
    """A value that cannot be mistaken for the next field: what holds a separator is written as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not text.isprintable():
        return json.dumps(value)  # JSON lets some line breaks stand as they are; ASCII has none of them
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and _SEPARATORS & set(text) else text


def _one_line(text: str) -> str:
    """The text without line breaks and control characters: what stands in a heading must not make another one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _slack_text(text: str) -> str:
    """With Slack's own escapes for its three control characters; quote=False leaves quotation marks as they are."""
    return html.escape(text, quote=False)


def _markdown(text: str) -> str:
    return html.escape(text, quote=False).replace("[", "\\[")


def _cut(text: str, size: int, escape: Callable[[str], str]) -> str:
    """The escaped text, of at most so many bytes as JSON; what is too long is cut between two characters, and says so."""
    escaped = escape(text)
    if len(msgspec.json.encode(escaped)) <= size:
        return escaped
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(msgspec.json.encode(escape(text[:middle]) + _CUT)) <= size:
            low = middle
        else:
            high = middle - 1
    return escape(text[:low]) + _CUT
