"""Whose format a document seems to have, for a message when it was sent as another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from quell.detectors.reports import elements, is_array, members, word
from quell.errors import EventError

_Members = Mapping[str, msgspec.Raw]


def _is_trivy(found: _Members) -> bool:
    return (
        word(found.get("apiVersion")).startswith("aquasecurity.github.io/")
        or "operatorObject" in found
        or "SchemaVersion" in found
        or ("ClusterName" in found and not found.keys().isdisjoint(("Resources", "Findings", "Vulnerabilities")))
        or ("Target" in found and "Vulnerabilities" in found)
    )


def _is_kube_bench(found: _Members) -> bool:
    return "Controls" in found or ("node_type" in found and "tests" in found)


def _is_audit(found: _Members) -> bool:
    return "auditID" in found or word(found.get("apiVersion")).startswith("audit.k8s.io/")


def _is_suricata(found: _Members) -> bool:
    return "event_type" in found and "timestamp" in found


def _is_deviation(found: _Members) -> bool:
    return "deviation" in found or word(found.get("kind")) == "GuardianDeviation"


def _is_falco(found: _Members) -> bool:
    return "rule" in found and "priority" in found


def _is_native(found: _Members) -> bool:
    return "name" in found and not found.keys().isdisjoint(("category", "subject", "details"))


_LOOKS: Mapping[str, Callable[[_Members], bool]] = {
    "trivy": _is_trivy,
    "kube-bench": _is_kube_bench,
    "k8s-audit": _is_audit,
    "suricata": _is_suricata,
    "deviation": _is_deviation,
    "falco": _is_falco,
    "native": _is_native,
}


def looks_like(document: bytes) -> str | None:
    """The detector whose format this seems to be, of an array its first element's; None: nobody's that is known."""
    try:
        if is_array(document):
            document = bytes(elements(document)[0])
        found = members(document)
    except (EventError, IndexError):
        return None
    return next((name for name, looks in _LOOKS.items() if looks(found)), None)
