from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.documents import Change
from quell.client.session import Session, if_match
from quell.documents.policy_options import PolicyOptions


class Found(Struct, frozen=True, kw_only=True):
    """Open deviations: different ones, and how often they came."""

    unique: int
    total: int


class ListedPolicy(Struct, frozen=True, kw_only=True):
    """A policy in force, and what it finds."""

    name: str
    type: str
    enabled: bool
    #: audit or enforce.
    mode: str
    #: Disabled, Auditing, Enforcing or Pending.
    status: str
    #: Why it does less than it says.
    notes: list[str] = []
    rulesets: list[str] = []
    deviations: Found
    #: The document's spec.
    policy: dict[str, Any]
    uid: str | None = None
    #: Keys of the quarantines that it holds.
    quarantines: list[str] = []
    revision: int
    source: str | None = None
    created: float | None = None
    changed: float | None = None
    changed_by: str | None = None


class ListedRuleset(Struct, frozen=True, kw_only=True):
    name: str
    #: cluster or container.
    type: str
    #: As a document's spec has them.
    rules: list[dict[str, Any]]
    #: Names of the policies that go by it.
    policies: list[str]
    uid: str | None = None
    revision: int
    source: str | None = None
    created: float | None = None
    changed: float | None = None
    changed_by: str | None = None


class ListedDeviation(Struct, frozen=True, kw_only=True):
    """What a policy does not allow, and how often it came. Times are epoch seconds."""

    policy: str
    checksum: str
    #: open, merged or irrelevant.
    status: str
    #: process, ingress, egress or container.
    what: str
    name: str
    message: str
    mode: str | None = None
    policy_type: str | None = None
    first: float
    last: float
    count: int
    #: How many of these became events, and how many more would have, had there not been too many at once.
    events: int
    omitted: int
    event_id: str | None = None
    #: Of the last.
    subject: dict[str, Any]
    connection: dict[str, Any] | None = None
    #: What would allow it, as a part of the policy's or ruleset's spec.
    addition: dict[str, Any] = {}
    matched: dict[str, list[str]] = {}
    unproven: str = ""


class Outcome(Struct, frozen=True, kw_only=True):
    """What is decided about one action. status: granted, refused or held; "": it is not asked for."""

    status: str
    reason: str = ""
    explanation: str = ""


class Difference(Struct, frozen=True, kw_only=True):
    """One action for one deviation, of which something else would be decided."""

    checksum: str
    what: str
    message: str
    #: How often the deviation came; 0: it was seen before there was the policy.
    count: int
    last: float
    action: str
    target: str
    now: Outcome
    then: Outcome


class Simulation(Struct, frozen=True, kw_only=True):
    policy: str
    #: disabled, audit or enforce.
    now: str
    then: str
    #: Deviations that were decided both ways.
    deviations: int
    differences: list[Difference]


class ListedFingerprint(Struct, frozen=True, kw_only=True):
    """What was seen of one image or service, in numbers. Times are epoch seconds."""

    #: image or service.
    kind: str
    name: str
    first: float
    last: float
    #: Observations that were taken in, the same of one workload once a minute; those that lacked a fact, and those for which
    #: there was no room.
    count: int
    incomplete: int
    dropped: int
    #: Processes in its tree.
    processes: int


class ShownFingerprint(ListedFingerprint, frozen=True, kw_only=True):
    #: Its processes as a tree, each with its sockets and peers.
    roots: list[dict[str, Any]]
    #: Examples of workloads that it was seen in.
    workloads: list[dict[str, Any]]


class Made(Struct, frozen=True, kw_only=True):
    """Documents that would expect what was seen, and what they are made of."""

    documents: list[dict[str, Any]]
    fingerprints: list[ListedFingerprint]


class Policies:
    """Policies one by one. version: a revision that was read; ApiError 412 if it is not the one in force any more.

    dry_run: what would be done, with diffs. ApiError 404: there is no such policy.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self, *, type: str | None = None, status: str | None = None, name: str | None = None) -> list[ListedPolicy]:  # noqa: A002 - the word of the documents
        """By name."""
        return self._session.items(ListedPolicy, "/v1/policies", type=type, status=status, name=name)

    def one(self, name: str) -> ListedPolicy:
        return self._session.ask(ListedPolicy, "GET", _path(name))

    def options(self) -> PolicyOptions:
        """What can be written in a policy or ruleset."""
        return self._session.ask(PolicyOptions, "GET", "/v1/policies/options")

    def set_mode(
        self,
        name: str,
        mode: str,
        *,
        source: str = "",
        take_over: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> Change:
        """mode: audit or enforce."""
        return self._session.ask(
            Change,
            "POST",
            _path(name, "mode"),
            json={"mode": mode},
            headers=if_match(version),
            params=_params(source, take_over=take_over, dry_run=dry_run),
        )

    def enable(
        self,
        name: str,
        *,
        source: str = "",
        take_over: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> Change:
        return self._session.ask(
            Change,
            "POST",
            _path(name, "enable"),
            headers=if_match(version),
            params=_params(source, take_over=take_over, dry_run=dry_run),
        )

    def disable(
        self,
        name: str,
        *,
        source: str = "",
        take_over: bool = False,
        unquarantine: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> Change:
        """unquarantine: end what it holds as well."""
        return self._session.ask(
            Change,
            "POST",
            _path(name, "disable"),
            headers=if_match(version),
            params={
                **_params(source, take_over=take_over, dry_run=dry_run),
                "unquarantine": unquarantine or None,
            },
        )

    def merge(
        self,
        name: str,
        checksums: Sequence[str] = (),
        *,
        everything: bool = False,
        source: str = "",
        take_over: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> list[Change]:
        """Deviations are expected from now on, by the policy or its rulesets. everything: all that are open."""
        return self._session.ask(
            list[Change],
            "POST",
            _path(name, "merge"),
            json={"all": True} if everything else {"checksums": list(checksums)},
            headers=if_match(version),
            params=_params(source, take_over=take_over, dry_run=dry_run),
        )

    def simulate(self, name: str, mode: str = "enforce", *, since: float | str | None = None) -> Simulation:
        """What it would do in this mode about what was seen since then, where that is not what it does now."""
        return self._session.ask(Simulation, "GET", _path(name, "simulation"), params={"mode": mode, "since": since})

    def observed(
        self,
        *,
        image: Sequence[str] = (),
        service: Sequence[str] = (),
        cluster: str | None = None,
        name: str | None = None,
    ) -> Made:
        """Documents for what was seen of images, of services or in a cluster; globs. ApiError 404: nothing was."""
        params = {"image": list(image) or None, "service": list(service) or None, "cluster": cluster, "name": name}
        return self._session.ask(Made, "GET", "/v1/fingerprints/policy", params=params)

    def fingerprints(self, *, kind: str | None = None, text: str | None = None) -> list[ListedFingerprint]:
        """What was seen of images and services. kind: image or service. text: in their names."""
        return self._session.items(ListedFingerprint, "/v1/fingerprints", kind=kind, text=text)

    def fingerprint(self, kind: str, name: str) -> ShownFingerprint:
        return self._session.ask(ShownFingerprint, "GET", f"/v1/fingerprints/{kind}/{quote(name, safe='')}")


class Rulesets:
    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[ListedRuleset]:
        """By name."""
        return self._session.items(ListedRuleset, "/v1/rulesets")

    def one(self, name: str) -> ListedRuleset:
        """ApiError 404: there is none."""
        return self._session.ask(ListedRuleset, "GET", f"/v1/rulesets/{quote(name, safe='')}")


class Deviations:
    def __init__(self, session: Session) -> None:
        self._session = session

    def all(
        self,
        limit: int | None = None,
        *,
        policy: Sequence[str] = (),
        what: Sequence[str] = (),
        status: Sequence[str] = (),
        checksum: Sequence[str] = (),
        since: float | str | None = None,
    ) -> list[ListedDeviation]:
        """The one first seen last comes first. Of several values of a filter, any; since: last seen then or later."""
        return self._session.items(
            ListedDeviation,
            "/v1/deviations",
            limit,
            policy=list(policy) or None,
            what=list(what) or None,
            status=list(status) or None,
            checksum=list(checksum) or None,
            since=since,
        )

    def one(self, policy: str, checksum: str) -> ListedDeviation:
        """ApiError 404: there is none."""
        path = f"/v1/deviations/{quote(policy, safe='')}/{quote(checksum, safe='')}"
        return self._session.ask(ListedDeviation, "GET", path)


def _path(name: str, verb: str = "") -> str:
    path = f"/v1/policies/{quote(name, safe='')}"
    return f"{path}/{verb}" if verb else path


def _params(source: str, *, take_over: bool = False, dry_run: bool = False) -> dict[str, Any]:
    return {"source": source or None, "take_over": take_over or None, "dry_run": dry_run or None}
