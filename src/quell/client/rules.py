from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.documents import Change
from quell.client.session import Session, if_match
from quell.documents.options import RuleOptions
from quell.model.event import Level
from quell.model.subject import Subject


class ListedRule(Struct, frozen=True, kw_only=True):
    """A rule in force, and where it stands."""

    id: int
    name: str
    #: Among all rules, from 1 on.
    place: int
    enabled: bool
    #: Disabled, Auditing or Enforcing.
    status: str
    #: Why it does less than it says.
    notes: list[str] = []
    #: Among the default rules: shipped, enabled or edited; None: it is none.
    default: str | None = None
    #: The fields of a document's spec, with id and name.
    rule: dict[str, Any]
    #: Keys of the quarantines that it holds.
    quarantines: list[str] = []
    #: Of the newest answered events (a thousand at most), those that it matched.
    matched: int = 0
    revision: int
    source: str | None = None
    created: float | None = None
    changed: float | None = None
    changed_by: str | None = None


class MetEvent(Struct, frozen=True, kw_only=True):
    """received: epoch seconds."""

    id: str
    received: float
    name: str
    level: Level
    subject: Subject


class Trial(Struct, frozen=True, kw_only=True):
    """What a rule comes to."""

    #: What is doubtful about it, with its place in front where it has one.
    warnings: list[str]
    #: The newest events, and those of them that it matches.
    looked_at: int
    matched: int
    #: When the oldest of them was received, epoch seconds; None: there is none.
    since: float | None
    #: Newest first, the first ten.
    latest: list[MetEvent]


class Rules:
    """The response rules, one by one and in their order.

    A rule is named by its id or its name. after: None: last; 0: first; the id of a rule: directly below it; minus an id: directly above it. version: a revision
    that was read; ApiError 412 if it is not the one in force any more. dry_run: what would be done, with diffs.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(
        self,
        *,
        category: str | None = None,
        group: str | None = None,
        name: str | None = None,
        enabled: bool | None = None,
        text: str | None = None,
    ) -> list[ListedRule]:
        """In their order. category: also a kind of security event. text: in what they say, no case."""
        return self._session.items(
            ListedRule, "/v1/rules", category=category, group=group, name=name, enabled=enabled, text=text
        )

    def one(self, number: int | str) -> ListedRule:
        """By its id or its name. ApiError 404: there is none."""
        return self._session.ask(ListedRule, "GET", _path(number))

    def options(self, category: str | None = None, *, timeout: float | None = None) -> RuleOptions:
        """What can be written in a rule. timeout: seconds, in place of the client's."""
        more = {} if timeout is None else {"timeout": timeout}
        return self._session.ask(RuleOptions, "GET", "/v1/rules/options", params={"category": category}, **more)

    def trial(self, fields: dict[str, Any], *, of: int | str | None = None, events: int | None = None) -> Trial:
        """Which of the last events it would match; nothing changes. of: the rule that these fields would change."""
        asked = {"rule": fields, "of": None if of is None else str(of)}
        return self._session.ask(
            Trial, "POST", "/v1/rules/trial", json=asked if events is None else {**asked, "events": events}
        )

    def insert(
        self,
        rules: list[dict[str, Any]],
        after: int | None = None,
        *,
        source: str = "",
        dry_run: bool = False,
        version: int | None = None,
    ) -> list[Change]:
        """rules: the fields of their specs, with or without a name, in their order. version: of all documents."""
        said = {"rule": rules[0]} if len(rules) == 1 else {"rules": rules}
        return self._session.ask(
            list[Change],
            "POST",
            "/v1/rules",
            json={**said, "after": after},
            headers=if_match(version),
            params={"source": source or None, "dry_run": dry_run or None},
        )

    def edit(
        self,
        number: int | str,
        fields: dict[str, Any],
        *,
        source: str = "",
        take_over: bool = False,
        unquarantine: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> Change:
        """fields: those that change; None removes one."""
        return self._session.ask(
            Change,
            "PATCH",
            _path(number),
            json=fields,
            headers=if_match(version),
            params=_params(source, take_over=take_over, unquarantine=unquarantine, dry_run=dry_run),
        )

    def move(
        self, number: int | str, after: int | None, *, dry_run: bool = False, version: int | None = None
    ) -> Change:
        return self._session.ask(
            Change,
            "POST",
            _path(number, "move"),
            json={"after": after},
            headers=if_match(version),
            params={"dry_run": dry_run or None},
        )

    def enable(
        self,
        number: int | str,
        *,
        source: str = "",
        take_over: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> Change:
        return self._session.ask(
            Change,
            "POST",
            _path(number, "enable"),
            headers=if_match(version),
            params=_params(source, take_over=take_over, dry_run=dry_run),
        )

    def disable(
        self,
        number: int | str,
        *,
        source: str = "",
        take_over: bool = False,
        unquarantine: bool = False,
        dry_run: bool = False,
        version: int | None = None,
    ) -> Change:
        """unquarantine: end what it holds as well; Change.quarantines says what becomes of each."""
        return self._session.ask(
            Change,
            "POST",
            _path(number, "disable"),
            headers=if_match(version),
            params=_params(source, take_over=take_over, unquarantine=unquarantine, dry_run=dry_run),
        )

    def delete(
        self, number: int | str, *, unquarantine: bool = False, dry_run: bool = False, version: int | None = None
    ) -> Change:
        """As `disable`."""
        return self._session.ask(
            Change,
            "DELETE",
            _path(number),
            headers=if_match(version),
            params=_params("", unquarantine=unquarantine, dry_run=dry_run),
        )

    def restore_defaults(
        self, *, reset: bool = False, take_over: bool = False, unquarantine: bool = False, dry_run: bool = False
    ) -> list[Change]:
        """Default rules that were deleted; reset: those that were edited or enabled as well."""
        return self._session.ask(
            list[Change],
            "POST",
            "/v1/rules/restore-defaults",
            params={
                **_params("", take_over=take_over, unquarantine=unquarantine, dry_run=dry_run),
                "reset": reset or None,
            },
        )


def _path(rule: int | str, verb: str = "") -> str:
    path = f"/v1/rules/{quote(str(rule), safe='')}"
    return f"{path}/{verb}" if verb else path


def _params(
    source: str, *, take_over: bool = False, unquarantine: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    return {
        "source": source or None,
        "take_over": take_over or None,
        "unquarantine": unquarantine or None,
        "dry_run": dry_run or None,
    }
