"""Syslog receivers. RFC 5424 to 5426 and RFC 6587; docs/syslog.md."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from quell.catalogue.forms import levels
from quell.documents.document import Document
from quell.documents.reader import Fields, Value
from quell.model.event import Category, Level
from quell.model.syslog import Facility, Framing, MessageFormat, Syslog, SyslogFilter, Transport

_OPTIONAL = (
    "format",
    "enable",
    "filter",
    "facility",
    "framing",
    "hostname",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "verify_tls",
    "max_length",
    "allow_private",
)
_TLS_ONLY = ("ca_file", "client_cert_file", "client_key_file", "verify_tls")
#: Bytes. The least leaves room for the longest header and a useful rest; a datagram takes no more than the most.
_LEAST, _MOST_OF_DATAGRAM, _MOST = 1024, 65_507, 262_144
#: PRINTUSASCII, RFC 5424 section 6.
_HOSTNAME = re.compile("[!-~]{1,255}")
_EXAMPLE = "an address such as udp://logs.example.org:514, tcp://logs.example.org:601 or tls://logs.example.org:6514"


def read(document: Document) -> Syslog:
    fields = document.spec.fields(("address",), _OPTIONAL)
    address = _address(fields["address"]) if "address" in fields else ""
    transport = Transport(urlsplit(address).scheme) if address else None
    if transport is not None:
        _refuse_idle(fields, transport)
    if "client_key_file" in fields and "client_cert_file" not in fields:
        fields["client_key_file"].problem("a key without its certificate: name it as client_cert_file")
    return Syslog(
        name=_name(document),
        address=address,
        format=fields.choice("format", MessageFormat, MessageFormat.TEXT),
        enable=fields.boolean("enable", default=True),
        filter=_filter(fields["filter"]) if "filter" in fields else SyslogFilter(),
        facility=fields.choice("facility", Facility, Facility.LOCAL0),
        framing=_framing(fields, transport),
        hostname=_hostname(fields["hostname"]) if "hostname" in fields else "",
        ca_file=fields["ca_file"].text() if "ca_file" in fields else None,
        client_cert_file=fields["client_cert_file"].text() if "client_cert_file" in fields else None,
        client_key_file=fields["client_key_file"].text() if "client_key_file" in fields else None,
        verify_tls=fields.boolean("verify_tls", default=True),
        max_length=_max_length(fields, transport),
        allow_private=fields.boolean("allow_private"),
        source=document.source,
    )


def _name(document: Document) -> str:
    name = document.name()
    if "/" in name:
        message = "a receiver's name is part of an address of the API, where / divides"
        document.metadata["name"].problem(message, expected="a name without /", got=name)
    return name


def _address(value: Value) -> str:
    """Empty after a problem."""
    text = value.text()
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        bare = not (parts.path or parts.query or parts.fragment)
        good = parts.scheme in tuple(Transport) and bool(parts.hostname) and bare and parts.port != 0
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text or "@" in text:
        value.wrong(_EXAMPLE)
        return ""
    return text


def _refuse_idle(fields: Fields, transport: Transport) -> None:
    """Fields that would say nothing with this transport."""
    if transport is not Transport.TLS:
        for name in _TLS_ONLY:
            if name in fields:
                fields[name].name_of_field.problem(
                    f"{name} is of TLS, and the address says {transport}", expected="an address of tls://", got=name
                )
    if transport is Transport.UDP and "framing" in fields:
        message = "framing is of streams: with udp each datagram is a message"
        fields["framing"].name_of_field.problem(message, expected="no framing", got="framing")


def _framing(fields: Fields, transport: Transport | None) -> Framing:
    framing = fields.choice("framing", Framing, Framing.OCTET_COUNTING)
    if transport is Transport.TLS and framing is Framing.NEWLINE:
        message = "RFC 5425 knows octet counting only: make sure that this receiver expects lines"
        fields["framing"].warn(message, expected=Framing.OCTET_COUNTING, got=framing)
    return framing


def _hostname(value: Value) -> str:
    text = value.text()
    if text and not _HOSTNAME.fullmatch(text):
        value.wrong("at most 255 printable ASCII characters without blanks")
    return text


def _max_length(fields: Fields, transport: Transport | None) -> int | None:
    if "max_length" not in fields:
        return None
    return fields["max_length"].integer(_LEAST, _MOST_OF_DATAGRAM if transport is Transport.UDP else _MOST)


def _filter(value: Value) -> SyslogFilter:
    fields = value.fields((), ("categories", "level", "flags"))
    categories = (
        [item.choice(Category, "category") for item in fields["categories"].items()] if "categories" in fields else []
    )
    return SyslogFilter(
        categories=tuple(category for category in categories if category is not None),
        level=_level(fields),
        flags=fields.boolean("flags", default=True),
    )


def _level(fields: Fields) -> Level | None:
    """The least level; case does not count, as in rules."""
    if "level" not in fields:
        return None
    text = fields["level"].text()
    found = None if text.startswith(">") else next(iter(levels(text)), None)
    if text and found is None:
        fields["level"].unknown("level", text, Level)
    return found
