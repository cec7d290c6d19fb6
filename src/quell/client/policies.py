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
