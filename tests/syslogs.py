"""Strict readers of what syslog receivers get, written from the standards and from nothing of Quell.

RFC 5424 (the grammar of section 6, every bound of it), the octet counting of RFC 6587, CEF version 0, and the key=value
form of docs/syslog.md. ValueError for anything that is not exactly that.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime

BOM = b"\xef\xbb\xbf"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Message:
    facility: int
    severity: int
    time: datetime | None
    hostname: str | None
    app: str | None
    procid: str | None
    msgid: str | None
    data: dict[str, dict[str, str]]
    #: Whether it began with a BOM, which is taken off.
    bom: bool
    text: str


def parse(raw: bytes) -> Message:
    """One SYSLOG-MSG."""
    reader = _Reader(raw)
    reader.expect(b"<")
    pri = reader.until(b">")
    if not re.fullmatch(rb"0|[1-9]\d{0,2}", pri) or int(pri) > 191:
        raise ValueError(f"PRIVAL {pri!r}")
    if reader.until(b" ") != b"1":
        raise ValueError("VERSION")
    stamp = reader.until(b" ").decode("ascii")
    if stamp != "-" and not _TIME.fullmatch(stamp):
        raise ValueError(f"TIMESTAMP {stamp}")
    names = [_name(reader.until(b" "), longest) for longest in (255, 48, 128, 32)]
    data = _data(reader)
    rest = b""
    if reader.left:
        reader.expect(b" ")
        rest = reader.left
    bom = rest.startswith(BOM)
    text = rest.removeprefix(BOM).decode()
    for character in text:
        if ord(character) < 32 or 0x7F <= ord(character) < 0xA0 or character in "\u2028\u2029":
            raise ValueError(f"a control character in MSG: {character!r}")
    time = None if stamp == "-" else datetime.fromisoformat(stamp)
    return Message(int(pri) // 8, int(pri) % 8, time, *names, data, bom, text)


_LENGTH = re.compile(rb"[1-9]\d*(?= )")


def counted(stream: bytes) -> list[bytes]:
    """The messages of a stream with octet counting; ValueError if the last one is not whole."""
    found, end = take(stream)
    if end != len(stream):
        raise ValueError(f"{len(stream) - end} bytes are no whole message")
    return found


def take(stream: bytes | bytearray, start: int = 0) -> tuple[list[bytes], int]:
    """The whole messages from `start` on, and where they end. ValueError: no MSG-LEN where one has to be."""
    found = []
    while (size := _LENGTH.match(stream, start)) is not None:
        end = size.end() + 1 + int(size[0])
        if end > len(stream):
            break
        found.append(bytes(stream[size.end() + 1 : end]))
        start = end
    if size is None and not re.compile(rb"[1-9]?\d*").fullmatch(stream, start):
        raise ValueError(f"no MSG-LEN: {bytes(stream[start : start + 20])!r}")
    return found, start


def cef(text: str) -> tuple[list[str], dict[str, str]]:
    """The seven header fields and the extension."""
    parts = re.match(r"CEF:(\d+)\|" + r"((?:[^|\\\r\n]|\\[|\\])*)\|" * 5 + r"(\d+)\|(.*)\Z", text)
    if parts is None:
        raise ValueError(f"no CEF header: {text[:80]}")
    *header, rest = parts.groups()
    if header[0] != "0" or not 0 <= int(header[6]) <= 10:
        raise ValueError("version or severity")
    names = [re.sub(r"\\([|\\])", r"\1", field) for field in header]
    extension: dict[str, str] = {}
    # A key begins at the start or after a space; an equals sign within a value is escaped.
    starts = list(re.finditer(r"(?:^| )([A-Za-z0-9_.]+)=", _masked(rest)))
    if rest and (not starts or starts[0].start() != 0):
        raise ValueError(f"no key: {rest[:80]}")
    for here, after in zip(starts, [*starts[1:], None], strict=True):
        value = rest[here.end() : after.start() if after else None]
        if here[1] in extension:
            raise ValueError(f"{here[1]} twice")
        extension[here[1]] = _unescaped(value)
    return names, extension


def pairs(text: str) -> dict[str, str]:
    """The text format: key=value, a value bare or a JSON string."""
    found: dict[str, str] = {}
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        key = re.compile(r"[a-z0-9_]+=").match(text, at)
        if key is None:
            raise ValueError(f"no key at {at}: {text[at : at + 40]}")
        at = key.end()
        if text.startswith('"', at):
            value, at = decoder.raw_decode(text, at)
        else:
            bare = re.compile(r'[^\s"=\\]+').match(text, at)
            if bare is None:
                raise ValueError(f"no value at {at}")
            value, at = bare[0], bare.end()
        if key[0][:-1] in found:
            raise ValueError(f"{key[0]} twice")
        found[key[0][:-1]] = value
        if at < len(text):
            if text[at] != " " or at == len(text) - 1:
                raise ValueError(f"no space at {at}")
            at += 1
    return found


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.left = raw

    def expect(self, what: bytes) -> None:
        if not self.left.startswith(what):
            raise ValueError(f"expected {what!r}, got {self.left[:20]!r}")
        self.left = self.left[len(what) :]

    def until(self, what: bytes) -> bytes:
        found, separator, self.left = self.left.partition(what)
        if not separator:
            raise ValueError(f"{what!r} is missing")
        return found


def _name(raw: bytes, longest: int) -> str | None:
    if not re.fullmatch(rb"[!-~]{1,%d}" % longest, raw):
        raise ValueError(f"no PRINTUSASCII of 1 to {longest}: {raw!r}")
    return None if raw == b"-" else raw.decode()


def _data(reader: _Reader) -> dict[str, dict[str, str]]:
    if reader.left.startswith(b"-"):
        reader.expect(b"-")
        return {}
    found: dict[str, dict[str, str]] = {}
    while reader.left.startswith(b"["):
        element = re.match(rb'\[([^ =\]"\x00-\x20\x7f-\xff]{1,32})', reader.left)
        if element is None or element[1].decode() in found:
            raise ValueError(f"SD-ID {reader.left[:40]!r}")
        reader.left = reader.left[element.end() :]
        values: dict[str, str] = {}
        while (
            param := re.match(rb' ([^ =\]"\x00-\x20\x7f-\xff]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"', reader.left)
        ) is not None:
            values[param[1].decode()] = re.sub(r'\\(["\\\]])', r"\1", param[2].decode())
            reader.left = reader.left[param.end() :]
        reader.expect(b"]")
        found[element[1].decode()] = values
    if not found:
        raise ValueError("STRUCTURED-DATA")
    return found


def _masked(text: str) -> str:
    """With escaped characters out of sight."""
    return re.sub(r"\\.", "..", text)


def _unescaped(value: str) -> str:
    out, at = [], 0
    while at < len(value):
        if value[at] == "\\":
            known = {"\\": "\\", "=": "=", "n": "\n", "r": "\r"}
            if value[at + 1 : at + 2] not in known:
                raise ValueError(f"escape {value[at : at + 2]!r}")
            out.append(known[value[at + 1]])
            at += 2
        elif value[at] == "=":
            raise ValueError("an equals sign that is not escaped")
        else:
            out.append(value[at])
            at += 1
    return "".join(out)
