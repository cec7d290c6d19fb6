from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import Session
from quell.model.explanation import Explanation


class JoinToken(Struct, frozen=True, kw_only=True):
    token: str
    expires: float


class LetGo(Struct, frozen=True, kw_only=True):
    """What letting go comes to for one quarantine."""

    key: str
    name: str
    node: str
    #: Who lets go.
    gone: tuple[str, ...]
    #: Who holds it still; nobody: it is released.
    holders: tuple[str, ...]


class LetGoAll(Struct, frozen=True, kw_only=True):
    """event: id of the event that it is in the journal as; "": nothing was to be done, or it was a dry run."""

    released: list[LetGo]
    kept: list[LetGo]
    event: str = ""


class Agents:
    """Agents, and what they have cut off from the network."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/agents")

    def join_token(self, ttl: float) -> JoinToken:
        """A token with which one agent may enrol within ttl seconds."""
        return self._session.ask(JoinToken, "POST", "/v1/agents/join-tokens", json={"ttl": ttl})

    def revoke(self, agent: str) -> dict[str, Any]:
        """Withdraw the enrolment of the agent with this id. ApiError 404: there is none."""
        return self._session.ask(dict[str, Any], "DELETE", f"/v1/agents/{quote(agent, safe='')}")

    def quarantines(
        self, *, holder: str | None = None, group: str | None = None, node: str | None = None, phase: str | None = None
    ) -> list[dict[str, Any]]:
        """By key. phase: asked, isolated or releasing."""
        return self._session.items(
            dict[str, Any], "/v1/quarantines", holder=holder, group=group, node=node, phase=phase
        )

    def quarantine(self, key: str) -> dict[str, Any]:
        return self._session.ask(dict[str, Any], "GET", f"/v1/quarantines/{quote(key, safe='')}")

    def isolate(
        self,
        *,
        workload: str | None = None,
        pod: str | None = None,
        node: str | None = None,
        pid: int | None = None,
        start_ticks: int | None = None,
        ttl: float | None = None,
        strict: bool = False,
        investigator: Collection[str] = (),
        comment: str = "",
        dry_run: bool = False,
    ) -> Explanation:
        """Ask for a quarantine of one of workload (an id), pod (namespace/name or uid) and pid; the decision.

        ttl: seconds. investigator: addresses that may reach it meanwhile. What comes of it: Events.explain of the decision's event_id.
        """
        given = {
            "workload": workload,
            "pod": pod,
            "node": node,
            "pid": pid,
            "start_ticks": start_ticks,
            "ttl": ttl,
            "strict": strict,
            "investigator": list(investigator) or None,
            "comment": comment,
        }
        return self._session.ask(
            Explanation,
            "POST",
            "/v1/quarantines",
            json={name: value for name, value in given.items() if value is not None},
            params={"dry_run": dry_run or None},
        )

    def release(self, key: str, *, holder: str | None = None, dry_run: bool = False) -> LetGoAll:
        """End a quarantine, whoever holds it; or let one of its holders go."""
        return self._session.ask(
            LetGoAll,
            "DELETE",
            f"/v1/quarantines/{quote(key, safe='')}",
            params={"holder": holder, "dry_run": dry_run or None},
        )

    def release_many(
        self,
        *,
        rule: int | None = None,
        holder: str | None = None,
        group: str | None = None,
        everything: bool = False,
        dry_run: bool = False,
    ) -> LetGoAll:
        """What a rule or another holder has, what members of a group are in (both: both must hold), or everything."""
        given = {"rule": rule, "holder": holder, "group": group, "all": everything or None}
        return self._session.ask(
            LetGoAll,
            "POST",
            "/v1/quarantines/release",
            json={name: value for name, value in given.items() if value is not None},
            params={"dry_run": dry_run or None},
        )
