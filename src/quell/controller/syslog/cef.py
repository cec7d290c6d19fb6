"""The CEF format: ArcSight's Common Event Format, version 0 (its implementation standard, revision 25). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import quell
from quell.controller.syslog.plain import CUT, cut, fitted, visible
from quell.controller.syslog.told import FLAG, Told
from quell.model.event import Level

#: 0 to 3 is low, 4 to 6 medium, 7 and 8 high, 9 and 10 very high.
SEVERITIES: Mapping[Level, int] = {
    Level.EMERGENCY: 10,
    Level.ALERT: 10,
    Level.CRITICAL: 9,
    Level.ERROR: 7,
    Level.WARNING: 5,
    Level.NOTICE: 3,
    Level.INFO: 1,
    Level.DEBUG: 0,
}
#: Field of the log object -> extension key.
KEYS: Mapping[str, str] = {
    "client_port": "spt",
    "server_port": "dpt",
    "client_name": "shost",
    "client_workload_name": "shost",
    "fqdn": "dhost",
    "server_name": "dhost",
    "server_workload_name": "dhost",
    "proc_name": "sproc",
    "proc_effective_user": "duser",
    "user": "duser",
    "proc_effective_uid": "duid",
    "file_path": "filePath",
    "host_name": "dvchost",
    "count": "cnt",
}
#: Custom strings: what ArcSight has no key for, each with its label.
STRINGS: Mapping[str, str] = {
    "rules": "cs1",
    "namespace": "cs2",
    "workload": "cs3",
    "image": "cs4",
    "cluster": "cs5",
    "commandLine": "cs6",
}
#: Custom numbers of a scan.
NUMBERS: Mapping[str, tuple[str, str]] = {
    "critical_vul_cnt": ("cn1", "criticalVulnerabilities"),
    "high_vul_cnt": ("cn2", "highVulnerabilities"),
    "medium_vul_cnt": ("cn3", "mediumVulnerabilities"),
}
#: The most characters, by the standard's dictionary.
_LENGTHS = {"msg": 1023, "cat": 1023, "dhost": 1023, "shost": 1023, "dvchost": 100, "sproc": 1023, "duser": 1023}
_LENGTHS |= {"duid": 1023, "fname": 1023, "filePath": 1023, "act": 63, "flexString1": 1023}
_LENGTHS |= dict.fromkeys(STRINGS.values(), 4000)
_EXTERNAL_ID = 40
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
#: Characters of a header field, tried one after the other until it fits.
_HEADER_LENGTHS = (512, 255, 128, 64, 32, 16)


def render(told: Told, room: int) -> bytes:
    """UTF-8 of at most `room` bytes."""
    signature = f"Flag.{told.kind.capitalize()}" if told.category == FLAG else told.name
    version = quell.__version__
    names = [_header(name, room // 4) for name in (signature, told.title)]
    opening = "|".join(("CEF:0", "Quell", "Quell", version, *names, str(SEVERITIES[told.level]), ""))
    head = opening.encode()
    return head + fitted(extension(told), _pairs, max(0, room - len(head)))


def extension(told: Told) -> dict[str, Any]:
    """Keys and values, the most telling first."""
    log, subject = told.log, told.subject
    fields: dict[str, Any] = {
        "rt": int(told.received * 1000),
        "start": int(told.time * 1000),
        "cat": told.category + (f"/{told.kind}" if told.kind else ""),
        "msg": str(log.get("message") or told.title),
    }
    if len(told.id) <= _EXTERNAL_ID:
        fields["externalId"] = told.id
    else:
        fields |= {"flexString1Label": "id", "flexString1": told.id}
    if granted := [action["action"] for action in told.actions if action["status"] == "granted"]:
        fields["act"] = ",".join(granted)
    for name, key in KEYS.items():
        if log.get(name) not in (None, "", 0):
            fields[key] = log[name]
    fields |= _sides(log)
    if "dhost" not in fields and subject.node:
        fields["dhost"] = subject.node
    process = subject.process
    if process is not None and process.pid is not None:
        fields["spid"] = process.pid
    if path := fields.get("filePath"):
        fields["fname"] = str(path).rpartition("/")[2] or path
    if protocol := _PROTOCOLS.get(log.get("ip_proto") or 0):
        fields["proto"] = protocol
    workload = (subject.pod.name if subject.pod else None) or (subject.container.name if subject.container else None)
    strings = {
        "rules": ",".join(told.rules),
        "namespace": subject.namespace,
        "workload": workload or (subject.container.id if subject.container else None),
        "image": subject.image,
        "cluster": subject.cluster,
        "commandLine": process.cmdline if process else None,
    }
    for label, value in strings.items():
        if value:
            fields |= {STRINGS[label]: value, f"{STRINGS[label]}Label": label}
    for name, (key, label) in NUMBERS.items():
        if name in log:
            fields |= {key: log[name], f"{key}Label": label}
    if told.category == FLAG:
        fields |= {"flexString2": told.flag.get("impact", ""), "flexString2Label": "impact"}
    return {
        key: cut(value, _LENGTHS.get(key, 4000)) if isinstance(value, str) else value for key, value in fields.items()
    }


def _sides(log: Mapping[str, Any]) -> dict[str, Any]:
    """Addresses: version 0 has keys for those of IPv4, and labelled ones for IPv6."""
    found: dict[str, Any] = {}
    for name, key, custom, label in (
        ("client_ip", "src", "c6a2", "Source IPv6 Address"),
        ("server_ip", "dst", "c6a3", "Destination IPv6 Address"),
    ):
        try:
            address = ipaddress.ip_address(log.get(name) or "")
        except ValueError:
            continue
        if address.version == 4:
            found[key] = str(address)
        else:
            found |= {custom: str(address), f"{custom}Label": label}
    return found


def _pairs(fields: Mapping[str, Any]) -> bytes:
    pairs = [f"{key}={_value(str(value))}" for key, value in fields.items() if value != ""]
    return " ".join(pairs).encode(errors="backslashreplace")


def _header(text: str, room: int) -> str:
    """A header field: one line, backslash and pipe escaped, at most so many bytes."""
    for longest in _HEADER_LENGTHS:
        told = visible(cut(text, longest)).replace("\\", "\\\\").replace("|", "\\|")
        if len(told.encode()) <= room:
            return told
    return CUT


def _value(text: str) -> str:
    """An extension's value: backslash and equals sign escaped, line feeds and carriage returns as n and r."""
    if not text.isprintable():
        text = "".join([char if char in "\r\n" else visible(char) for char in text])
    return text.replace("\\", "\\\\").replace("=", "\\=").replace("\n", "\\n").replace("\r", "\\r")
