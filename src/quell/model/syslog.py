"""Syslog receivers: where events and flags go as RFC 5424 messages, and in which form."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit

from msgspec import Struct

from quell.model.event import Category, Level
from quell.model.rule import Source


class Transport(StrEnum):
    """The scheme of a receiver's address."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


#: Of the three transports, where an address names none: RFC 5426, RFC 6587 (IANA's syslog-conn), RFC 5425.
PORTS = {Transport.UDP: 514, Transport.TCP: 601, Transport.TLS: 6514}
#: Bytes a message may have where the document does not say: what receivers take without being asked to. RFC 5424
#: section 6.1 asks for 2048; the datagram must not be split on its way any more than it has to.
LENGTHS = {Transport.UDP: 2048, Transport.TCP: 8192, Transport.TLS: 8192}


class MessageFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    CEF = "cef"


class Framing(StrEnum):
    """How messages in one stream are told apart. RFC 6587 section 3.4."""

    OCTET_COUNTING = "octet-counting"
    NEWLINE = "newline"


class Facility(StrEnum):
    """RFC 5424 section 6.2.1, by the names of syslog.conf, in the order of their numbers."""

    KERN = "kern"
    USER = "user"
    MAIL = "mail"
    DAEMON = "daemon"
    AUTH = "auth"
    SYSLOG = "syslog"
    LPR = "lpr"
    NEWS = "news"
    UUCP = "uucp"
    CRON = "cron"
    AUTHPRIV = "authpriv"
    FTP = "ftp"
    NTP = "ntp"
    AUDIT = "audit"
    ALERT = "alert"
    CLOCK = "clock"
    LOCAL0 = "local0"
    LOCAL1 = "local1"
    LOCAL2 = "local2"
    LOCAL3 = "local3"
    LOCAL4 = "local4"
    LOCAL5 = "local5"
    LOCAL6 = "local6"
    LOCAL7 = "local7"

    @property
    def code(self) -> int:
        return _CODES[self]


_CODES = {facility: code for code, facility in enumerate(Facility)}


class SyslogFilter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    #: Of events; empty: all.
    categories: tuple[Category, ...] = ()
    #: The least, of events and flags.
    level: Level | None = None
    flags: bool = True


class Syslog(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A receiver. Everything below `enable` may be changed while events flow; none of it is lost or starts anew."""

    name: str
    #: udp://host:514, tcp://host:601 or tls://host:6514.
    address: str
    format: MessageFormat = MessageFormat.TEXT
    enable: bool = True
    filter: SyslogFilter = SyslogFilter()
    facility: Facility = Facility.LOCAL0
    #: Not of UDP, where a datagram is a message.
    framing: Framing = Framing.OCTET_COUNTING
    #: HOSTNAME of every message; "": the event's node.
    hostname: str = ""
    #: PEM files, of TLS only: the authority to trust, and what Quell proves itself with.
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    verify_tls: bool = True
    #: Bytes of a message; None: as LENGTHS.
    max_length: int | None = None
    #: Permit loopback, link-local and metadata addresses.
    allow_private: bool = False
    source: Source = Source()

    @property
    def transport(self) -> Transport:
        return Transport(urlsplit(self.address).scheme)

    @property
    def host(self) -> str:
        return urlsplit(self.address).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or PORTS[self.transport]

    @property
    def longest(self) -> int:
        """Bytes that a message may have, framing apart."""
        return LENGTHS[self.transport] if self.max_length is None else self.max_length
