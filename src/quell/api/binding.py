"""What the events of a bound token may be about. DESIGN, trust: an ingest token is bound to detectors, cluster and nodes."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from quell.api.problem import Refusal
from quell.detectors import Detector
from quell.detectors.context import Context
from quell.errors import EventError
from quell.model.event import Event
from quell.model.subject import Subject
from quell.storage.tokens import Binding


class OutOfBinding(EventError):
    """An event about something that the token may not speak of."""


class Bound:
    """A detector whose events are checked after they were decoded. A token that is not bound pays nothing for it."""

    def __init__(self, detector: Detector, binding: Binding, token: str) -> None:
        """Refusal 403 for a detector that the token may not send as."""
        self.name = detector.name
        self._decode = detector.decode
        self._binding = binding
        self._token = token
        if binding.detectors and detector.name not in binding.detectors:
            raise Refusal(
                403, f"token {token} may send as {', '.join(binding.detectors)}, this was sent as {detector.name}"
            )

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """OutOfBinding, and what the detector's raises.

        A machine and a cluster each have a name and an id, and an agent is found by either; so each that is named must
        be one of those bound. What names no machine cannot be shown to be about one; of clusters there is mostly one.
        """
        event = self._decode(line, id=id, received=received)
        check(event.subject, self._binding, self._token)
        return event


def check(subject: Subject, binding: Binding, token: str, what: str = "event") -> None:
    """OutOfBinding: the token may not speak of this. what: calls it so."""
    if binding.clusters:
        for named in (subject.cluster, subject.cluster_uid):
            _check(token, "cluster", named, binding.clusters, what)
    if binding.nodes:
        if subject.node is None and subject.machine_id is None:
            raise OutOfBinding(f"token {token} may send about nodes {', '.join(binding.nodes)}, the {what} names none")
        for named in (subject.node, subject.machine_id):
            _check(token, "node", named, binding.nodes, what)


def _check(token: str, word: str, named: str | None, allowed: tuple[str, ...], what: str) -> None:
    if named is not None and not any(fnmatchcase(named, pattern) for pattern in allowed):
        raise OutOfBinding(
            f"token {token} may send about {word}s {', '.join(allowed)}, the {what} is about {named[:253]}"
        )


def implied(context: Context, binding: Binding, takes: frozenset[str]) -> Context:
    """The context with the cluster of a token that is bound to exactly one.

    kube-apiserver can send neither parameters nor headers of one's own: its token is all that can say whose events it posts.
    """
    clusters = binding.clusters
    if "cluster" not in takes or context.cluster is not None or len(clusters) != 1 or set("*?[") & set(clusters[0]):
        return context
    return msgspec.structs.replace(context, cluster=clusters[0])
