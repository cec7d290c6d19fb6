"""Disruption budgets (policy/v1 PodDisruptionBudget): whether one more pod may go. Pure but for what Quell took itself.

The rules are those of the eviction API (pkg/registry/core/pod/storage/eviction.go); docs/adr says why it is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from quell.controller.kubernetes.pods import Pod

#: What ends by itself, or has not begun, is not counted by any budget.
_UNCOUNTED = ("Pending", "Succeeded", "Failed")
#: Budgets whose takings are remembered; Kubernetes has long counted anew what the first of more were taken from.
_REMEMBERED = 1_000


class Expression(Struct, frozen=True, gc=False):
    key: str = ""
    operator: str = ""
    values: tuple[str, ...] | None = None

    def holds(self, labels: Mapping[str, str]) -> bool:
        """meta/v1 LabelSelectorRequirement. An operator that is not known takes everything: doubt protects."""
        there, values = self.key in labels, self.values or ()
        match self.operator:
            case "In":
                return there and labels[self.key] in values
            case "NotIn":
                return not there or labels[self.key] not in values
            case "Exists":
                return there
            case "DoesNotExist":
                return not there
            case _:
                return True


class Selector(Struct, frozen=True, gc=False, rename="camel"):
    match_labels: dict[str, str] | None = None
    match_expressions: tuple[Expression, ...] | None = None

    def takes(self, labels: Mapping[str, str]) -> bool:
        """An empty one takes everything."""
        wanted = self.match_labels or {}
        return wanted.items() <= labels.items() and all(each.holds(labels) for each in self.match_expressions or ())


class Metadata(Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0


class Spec(Struct, frozen=True, gc=False, rename="camel"):
    #: None takes nothing.
    selector: Selector | None = None
    unhealthy_pod_eviction_policy: str = "IfHealthyBudget"


class Status(Struct, frozen=True, gc=False, rename="camel"):
    observed_generation: int = 0
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0


class Budget(Struct, frozen=True, gc=False):
    metadata: Metadata
    spec: Spec = Spec()
    status: Status = Status()

    @property
    def called(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    def counts(self, pod: Pod) -> bool:
        """Whether the pod's end is one that this budget would have to allow."""
        selector, status = self.spec.selector, self.status
        if selector is None or not selector.takes(pod.metadata.labels or {}):
            return False
        if pod.is_terminating or pod.status.phase in _UNCOUNTED:
            return False
        if pod.is_ready:
            return True
        if self.spec.unhealthy_pod_eviction_policy == "AlwaysAllow":
            return False
        # A pod that serves nobody may go while enough others do.
        return not 0 < status.desired_healthy <= status.current_healthy

    @property
    def is_counted(self) -> bool:
        """Its status is of its present specification."""
        return self.status.observed_generation >= self.metadata.generation


class Answer(NamedTuple):
    """against: which budget does not allow it, and how it stands; "": all allow it. later: it is being counted anew."""

    against: str = ""
    later: bool = False


class Budgets:
    """Remembers what was taken from each budget since Kubernetes last counted it: else two pods that are killed within the
    time that takes would both be allowed by the same free place.
    """

    def __init__(self) -> None:
        #: By the budget's uid: its resource version, and the uids of pods taken under it.
        self._taken: dict[str, tuple[str, frozenset[str]]] = {}

    def take(self, pod: Pod, budgets: Sequence[Budget], *, keep: bool = True) -> Answer:
        """Whether every budget allows the pod's end; if so a place in each is taken. Asked again for a pod, the same.

        keep False: it is only asked, and no place is taken.
        """
        counting = [each for each in budgets if each.counts(pod)]
        for each in counting:
            if not each.is_counted:
                return Answer(
                    f"disruption budget {each.called} has just been changed and is not counted yet", later=True
                )
        for each in counting:
            others = self._others(each, pod)
            left = each.status.disruptions_allowed - len(others)
            if left <= 0:
                return Answer(_told(each, len(others)))
        for each in counting if keep else ():
            taken = self._others(each, pod) | {pod.metadata.uid}
            self._taken.pop(each.metadata.uid, None)
            self._taken[each.metadata.uid] = (each.metadata.resource_version, taken)
        while len(self._taken) > _REMEMBERED:
            del self._taken[next(iter(self._taken))]
        return Answer()

    def give_back(self, uid: str) -> None:
        """The pod was not deleted after all."""
        self._taken = {key: (version, taken - {uid}) for key, (version, taken) in self._taken.items()}

    def _others(self, budget: Budget, pod: Pod) -> frozenset[str]:
        version, taken = self._taken.get(budget.metadata.uid, ("", frozenset()))
        return taken - {pod.metadata.uid} if version == budget.metadata.resource_version else frozenset()


def _told(budget: Budget, others: int) -> str:
    status = budget.status
    taken = f", {others} of them taken by Quell a moment ago" if others else ""
    return (
        f"disruption budget {budget.called} allows {status.disruptions_allowed} more{taken}: it wants "
        f"{status.desired_healthy} healthy pods and has {status.current_healthy}"
    )
