"""Detectors: bytes to Event, one module a detector, listed in one literal table. SEMANTICS section 1.

The journal keeps a line's bytes, its id and when it was received, and nothing else of an event: decoding these three
again gives an equal Event. A detector therefore uses no clock and no state of its own.

Many tools write documents that hold several events (a list of audit events, a report of a whole cluster), or that do not
say where they were made. Such a detector also cuts a document into the bytes of its events, each of which decodes by
itself (Divided).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from quell.detectors.context import Context, Part
from quell.detectors.deviation import DeviationRecords
from quell.detectors.falco import Falco
from quell.detectors.guardian import Guardian
from quell.detectors.kube_bench import KubeBench
from quell.detectors.kubernetes_audit import KubernetesAudit
from quell.detectors.native import Native
from quell.detectors.own import Own
from quell.detectors.sensor import Sensor
from quell.detectors.suricata import Suricata
from quell.detectors.trivy import Trivy
from quell.model.event import Event


class Detector(Protocol):
    @property
    def name(self) -> str:
        """The key in DETECTORS, and the source of its events."""
        ...

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """One event out of one JSON document. id None: the source's own, else a new one. EventError: it is none."""
        ...


@runtime_checkable
class Divided(Detector, Protocol):
    """A detector whose documents may hold several events, or lack what their sender knows."""

    @property
    def about(self) -> str:
        """What it takes, for people: one line without a full stop."""
        ...

    @property
    def takes(self) -> frozenset[str]:
        """The words of a Context that its documents may lack."""
        ...

    @property
    def is_report(self) -> bool:
        """Whether a document is a report of a whole machine or cluster.

        A report may have ingest.max_report bytes, and one that is an array is still one document.
        """
        ...

    def split(self, document: bytes, context: Context) -> Sequence[Part]:
        """The parts of one document, in order; `decode` reads each of those that are bytes.

        context has words of `takes` only, and is written into the parts (quell.detectors.context). EventError: nothing of
        the document can be read, or it contradicts the context.
        """
        ...


#: Those that may be posted to, at /v1/events/<name>; native events at /v1/events.
POSTED: Mapping[str, Detector] = {
    "deviation": DeviationRecords(),
    "falco": Falco(),
    "k8s-audit": KubernetesAudit(),
    "kube-bench": KubeBench(),
    "native": Native(),
    "suricata": Suricata(),
    "trivy": Trivy(),
}
DETECTORS: Mapping[str, Detector] = {
    **POSTED,
    "guardian": Guardian(),
    "quell": Own(),
    "sensor": Sensor(),
}

__all__ = ["DETECTORS", "POSTED", "Detector", "Divided", "Part"]
