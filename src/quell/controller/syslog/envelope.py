"""A message as RFC 5424 has it, and its frame in a stream (RFC 6587). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import quell
from quell.controller.syslog import cef, jsons, text
from quell.controller.syslog.plain import cut, visible
from quell.controller.syslog.told import Told
from quell.model.syslog import Framing, MessageFormat, Syslog, Transport

#: Of structured data. Quell has no number of its own from IANA; 32473 is the one set aside for such (RFC 5612), so that
#: it is nobody else's.
SD_ID = "quell@32473"

_RENDERERS: Mapping[MessageFormat, Callable[[Told, int], bytes]] = {
    MessageFormat.TEXT: text.render,
    MessageFormat.JSON: jsons.render,
    MessageFormat.CEF: cef.render,
}
_BOM = b"\xef\xbb\xbf"
_NOT_PRINTUSASCII = re.compile("[^!-~]")
_HOSTNAME = 255
_ORIGIN = f'[origin software="Quell" swVersion="{quell.__version__}"]'
#: Bytes of its parameters; the last are left out if they do not fit.
_DATA = 350
#: Characters of its values; an id is cut less, as it is what names the message.
_VALUE, _ID = 64, 200


def message(told: Told, receiver: Syslog, *, host: str, pid: int) -> bytes:
    """The message in the receiver's form, without its frame, at most receiver.longest bytes. host: of the controller."""
    severity = 7 - told.level.rank
    words = (
        f"<{receiver.facility.code * 8 + severity}>1",
        _timestamp(told.time),
        _hostname(receiver.hostname or told.subject.node or host),
        "quell",
        str(pid),
        told.category,
        _data(told),
    )
    head = " ".join(words).encode() + b" "
    room = receiver.longest - len(head) - len(_BOM)
    body = _RENDERERS[receiver.format](told, room)
    # Section 6.4: a text in UTF-8 says so by its first bytes. JSON (RFC 8259, section 8.1) and CEF begin with their own.
    if receiver.format is MessageFormat.TEXT and not body.isascii():
        body = _BOM + body
    return head + body


def framed(body: bytes, receiver: Syslog) -> bytes:
    """The message as it goes over the wire."""
    if receiver.transport is Transport.UDP:
        return body
    if receiver.framing is Framing.OCTET_COUNTING:
        return b"%d %b" % (len(body), body)
    # No message has a line's end within.
    return body + b"\n"


def _timestamp(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (ValueError, OverflowError, OSError):
        return "-"


def _hostname(name: str) -> str:
    return _NOT_PRINTUSASCII.sub("_", name)[:_HOSTNAME] or "-"


def _data(told: Told) -> str:
    """Structured data: who says it, and what most receivers want to find it by."""
    subject = told.subject
    workload = (subject.pod.name if subject.pod else None) or (subject.container.name if subject.container else None)
    values = {
        "id": cut(told.id, _ID),
        "name": told.name,
        "level": told.level.value,
        "kind": told.kind,
        "rules": ",".join(told.rules),
        "event": told.event_id,
        "cluster": subject.cluster,
        "namespace": subject.namespace,
        "workload": workload,
    }
    parts = [f"[{SD_ID}"]
    left = _DATA
    for name, value in values.items():
        part = "" if not value else f' {name}="{_escaped(value if name == "id" else cut(value, _VALUE))}"'
        size = len(part.encode())
        if size <= left:
            parts.append(part)
            left -= size
    return "".join(parts) + "]" + _ORIGIN


def _escaped(value: str) -> str:
    r"""A parameter's value: ", \ and ] escaped (section 6.3.3), and nothing invisible."""
    return visible(value).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
