"""The kill of one pod through its cluster's API, from the first look until it is gone. SEMANTICS sections 8 and 9.

Every attempt reads the pod, checks it anew and deletes it under its uid, so that doing it twice equals once: a successor
of the same name is never reached. What may change by waiting is tried again by whoever calls; nothing is ever left to an
agent because the API failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import httpx
import msgspec
from msgspec import Struct

from quell import faults
from quell.controller.kubernetes.answers import Refused
from quell.controller.kubernetes.budgets import Budgets
from quell.controller.kubernetes.credentials import CredentialsError
from quell.controller.kubernetes.pod_api import PodApi
from quell.controller.kubernetes.pods import Pod, nameless, stands_against
from quell.controller.kubernetes.rbac import role_for
from quell.errors import StoreError
from quell.model.action import KillPod
from quell.model.decision import Command, OutcomeStatus, Reason
from quell.model.subject import PodTarget
from quell.response.facts import Safety
from quell.response.targets import Refusal

#: What keeps an answer from coming, or from being understood.
NO_ANSWER = (CredentialsError, httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, OSError)


class Pace(Struct, frozen=True, kw_only=True):
    """Seconds."""

    #: Between the first two attempts; doubled each time up to the longest, spread at random.
    first: float = 0.2
    longest: float = 5.0
    #: Between the first two looks whether it is gone; doubled each time up to the rarest, or a hundredth of a long grace
    #: period.
    look: float = 0.05
    rarest: float = 1.0


class World(Struct, frozen=True, kw_only=True):
    """What is known outside the API. What may change at any time is asked each time."""

    #: The operator's bounds.
    safety: Callable[[], Safety]
    #: Ids of the machine that a node is, as agents and Kubernetes say.
    machines: Callable[[str], Collection[str]]
    #: Namespace and name of the pod with a uid.
    named: Callable[[str], tuple[str, str] | None]
    #: Disruption budgets count.
    respects_budgets: bool
    #: Seconds after its grace period in which a pod has to be gone.
    gone_within: float


class Ended(NamedTuple):
    """What became of it for good."""

    status: OutcomeStatus
    reason: Reason | None = None
    explanation: str = ""


class Again(NamedTuple):
    """Another attempt may bring more. wait: seconds that the API asks for. refusal: what it is if none does."""

    explanation: str
    wait: float = 0.0
    refusal: Refusal | None = None


class Kill:
    """One command. facts: what is known of it by now, for its outcome."""

    def __init__(
        self,
        command: Command,
        target: PodTarget,
        action: KillPod,
        api: PodApi,
        budgets: Budgets,
        world: World,
        clock: Callable[[], float],
        pace: Pace,
        remember: Callable[[PodTarget], Awaitable[None]],
        *,
        doubtful: bool,
    ) -> None:
        """remember: keeps the target with the uid that was found, before anything is deleted under it. doubtful: an
        earlier process may have sent it. clock: epoch seconds.
        """
        self._command = command
        #: With all that was found out about it.
        self.target = target
        self._grace = action.grace_period
        self._api = api
        self._budgets = budgets
        self._world = world
        self._clock = clock
        self._pace = pace
        self._remember = remember
        self._began = time.monotonic()
        self.doubtful = doubtful
        self.facts: dict[str, str | int | float | list[int]] = {}
        if command.evidence is not None:
            self.facts["evidence_missing"] = "everything: the pod is ended through the Kubernetes API, not on its node"

    @property
    def seconds(self) -> float:
        """Since the first attempt."""
        return time.monotonic() - self._began

    async def attempt(self) -> Ended | Again:
        """Look, check, delete, and wait until it is gone."""
        try:
            found = await self._find()
            if isinstance(found, Ended | Again):
                return found
            allowed = await self._allowed(found)
            if allowed is not None:
                return allowed
            if self._clock() >= self._command.expires:
                return Again("its time was over before it could be deleted")
            return await self._delete(found)
        except Refused as error:
            return self._answered(error)
        except NO_ANSWER as error:
            return Again(_unanswered(error))
        except StoreError as error:
            return Again(f"which pod it is cannot be written down: {error}")

    async def rehearse(self) -> Ended | Again:
        """All of an attempt but its deed: the API is asked for a dry run, and no place of a budget is taken."""
        try:
            found = await self._find()
            if isinstance(found, Ended | Again):
                return found
            allowed = await self._allowed(found, keep=False)
            if allowed is not None:
                return allowed
            pod = found.metadata
            status = await self._api.delete(pod.namespace, pod.name, uid=pod.uid, grace=self._grace, dry_run=True)
        except Refused as error:
            return self._answered(error)
        except NO_ANSWER as error:
            return Again(_unanswered(error))
        self.facts |= {"grace": self._grace, "status": status}
        return Ended(OutcomeStatus.DONE)

    async def look(self) -> Ended:
        """After its time, when it may have been sent: only what has become of it. Nothing is deleted any more."""
        expired = Ended(OutcomeStatus.EXPIRED, Reason.EXPIRED)
        if self.target.uid is None:
            return expired  # it would have been kept before anything was sent
        try:
            pod = await self._read()
        except (Refused, *NO_ANSWER) as error:
            return expired._replace(explanation=f"whether an earlier attempt ended it could not be seen: {error}")
        if isinstance(pod, Ended):
            return pod
        if isinstance(pod, Again) or not pod.is_terminating:
            return expired
        ended = await self._until_gone(pod.metadata.uid, time.monotonic())
        return self._gone() if ended.status is OutcomeStatus.DONE else ended

    # ---- before it is deleted

    async def _find(self) -> Pod | Ended | Again:
        """The pod that is meant, or why it is not to be touched."""
        safety, target = self._world.safety(), self.target
        if safety.paused:
            return Ended(OutcomeStatus.REFUSED, Reason.PAUSED, "all destructive actions are paused")
        cluster = await self._api.cluster()
        if target.cluster is not None and cluster not in (None, target.cluster):
            said = f"the pod is of cluster {target.cluster}, the API that is configured is of {cluster}"
            return Ended(OutcomeStatus.REFUSED, Reason.NO_TARGET, said)
        pod = await self._read()
        if isinstance(pod, Ended | Again):
            return pod
        against = stands_against(
            pod,
            self.target,
            machines=self._world.machines(pod.spec.node_name),
            protected=safety.protected_namespaces,
            skew=safety.clock_skew,
        )
        if against is None:
            return pod
        if against.reason is Reason.IDENTITY and self.target.uid is None and self.target.container_id is not None:
            # The kubelet tells the API of a new container some seconds after it has started.
            return Again(against.explanation, refusal=against)
        return Ended(OutcomeStatus.REFUSED, *against)

    async def _read(self) -> Pod | Ended | Again:
        """The pod of the target's name, if it has the target's uid."""
        self._name()
        target = self.target
        if (unnamed := nameless(target)) is not None:
            # The inventory may hear of a pod that has just been made.
            is_heard_of_later = target.uid is not None and not target.name
            return Again("", refusal=unnamed) if is_heard_of_later else Ended(OutcomeStatus.REFUSED, *unnamed)
        pod = await self._api.pod(target.namespace or "", target.name or "")
        if pod is None:
            return self._gone(self._missing())
        if target.uid is not None and pod.metadata.uid != target.uid:
            return self._gone(f"another pod has its name by now, {pod.metadata.uid}, which stays")
        self.facts |= {"uid": pod.metadata.uid, "node": pod.spec.node_name}
        return pod

    def _name(self) -> None:
        if self.target.uid is not None and not (self.target.namespace and self.target.name):
            known = self._world.named(self.target.uid)
            if known is not None and self.target.namespace in (None, known[0]):
                self.target = msgspec.structs.replace(self.target, namespace=known[0], name=known[1])

    def _gone(self, *said: str) -> Ended:
        earlier = "an earlier attempt, of whose answer nothing is known, may have ended it" if self.doubtful else ""
        return Ended(OutcomeStatus.GONE, Reason.GONE, "; ".join(filter(None, (earlier, *said))))

    def _missing(self) -> str:
        """That the API has no such pod; more where it may be another cluster's."""
        node = self.target.node
        if self.target.cluster is None and node is not None and not self._world.machines(node):
            return f"nothing is known of a node {node}: if it is another cluster's, its events have to name that"
        return ""

    async def _allowed(self, pod: Pod, *, keep: bool = True) -> Ended | Again | None:
        """None: no disruption budget is against it. keep: its place is taken."""
        if pod.is_terminating or not self._world.respects_budgets:
            return None
        answer = self._budgets.take(pod, await self._api.budgets(pod.metadata.namespace), keep=keep)
        if not answer.against:
            return None
        refusal = Refusal(Reason.DISRUPTION_BUDGET, answer.against)
        return Again(answer.against, refusal=refusal) if answer.later else Ended(OutcomeStatus.REFUSED, *refusal)

    # ---- from then on

    async def _delete(self, pod: Pod) -> Ended | Again:
        uid = pod.metadata.uid
        if self.target.uid is None:
            # Else a repetition after a crash would find its successor under the name.
            self.target = msgspec.structs.replace(self.target, uid=uid)
            await self._remember(self.target)
        self.facts["grace"] = self._grace
        faults.point("kubernetes.before-send")
        self.doubtful = True
        try:
            status = await self._api.delete(pod.metadata.namespace, pod.metadata.name, uid=uid, grace=self._grace)
        except Refused as error:
            self.doubtful = error.is_temporary and error.status.code >= 500
            if not self.doubtful:
                self._budgets.give_back(uid)
            raise
        faults.point("kubernetes.after-send")
        self.facts["status"] = status
        return await self._until_gone(uid, time.monotonic())

    async def _until_gone(self, uid: str, since: float) -> Ended:
        """Look until there is no pod of this uid any more. since: when its deletion was accepted, monotonic."""
        target, wait = self.target, self._pace.look
        end = since + self._grace + self._world.gone_within
        while True:
            said = "it is still terminating"
            try:
                pod = await self._api.pod(target.namespace or "", target.name or "")
            except (Refused, *NO_ANSWER) as error:
                said = f"the API does not say whether it is gone: {error}"
                if isinstance(error, Refused) and error.status.code == 401:
                    self._api.not_taken()
            else:
                if pod is None or pod.metadata.uid != uid:
                    self.facts["seconds"] = time.monotonic() - since
                    return Ended(OutcomeStatus.DONE)
                if pod.metadata.finalizers:
                    said = f"it waits for its finalizers: {', '.join(pod.metadata.finalizers)}"
            if time.monotonic() >= end:
                waited = time.monotonic() - since
                return Ended(
                    OutcomeStatus.FAILED,
                    Reason.FAILED,
                    f"its deletion was accepted, but {waited:.0f} s later {said}",
                )
            await asyncio.sleep(min(wait, max(0.0, end - time.monotonic())))
            wait = min(2 * wait, max(self._pace.rarest, self._grace / 100))

    def _answered(self, error: Refused) -> Ended | Again:
        """What an answer means that is an error."""
        status = error.status
        if status.code:
            self.facts["status"] = status.code
        if error.verb == "delete" and error.says_gone(self.target.name or ""):
            return self._gone()
        if error.is_temporary:
            if status.code == 401:
                self._api.not_taken()
            return Again(str(error), wait=error.retry_after or 0.0)
        if error.is_of_permission:
            needed = role_for(error.verb, error.resource)
            said = f"the role has to allow {needed}: {status.message} (quell rbac prints the whole role)"
            return Ended(OutcomeStatus.FAILED, Reason.FAILED, said)
        return Ended(OutcomeStatus.FAILED, Reason.FAILED, str(error))


def _unanswered(error: Exception) -> str:
    if isinstance(error, CredentialsError):
        return str(error)
    if isinstance(error, msgspec.MsgspecError):
        return f"an answer that is not of the form of the Kubernetes API: {error}"
    return f"no answer from the API: {type(error).__name__}: {error}".rstrip(": ")
