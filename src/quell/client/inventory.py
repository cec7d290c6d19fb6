from __future__ import annotations

from typing import Any
from urllib.parse import quote

from quell.client.session import Session


class Inventory:
    """What runs where, and which groups it is in."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def workloads(
        self,
        *,
        text: str | None = None,
        node: str | None = None,
        namespace: str | None = None,
        image: str | None = None,
        group: str | None = None,
        label: list[str] | None = None,
        running: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Containers, by id, with their groups.

        text: a part of a name or id. node, namespace, image: globs. label: "key=value" or "key", all of them.
        """
        return self._session.items(
            dict[str, Any],
            "/v1/workloads",
            text=text,
            node=node,
            namespace=namespace,
            image=image,
            group=group,
            label=label or None,
            running=running,
        )

    def workload(self, identifier: str) -> dict[str, Any]:
        """By its id, or the first 12 digits of it. ApiError 404: none, or not one alone."""
        return self._session.ask(dict[str, Any], "GET", f"/v1/workloads/{quote(identifier, safe='')}")

    def nodes(self) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/nodes")

    def groups(self) -> list[dict[str, Any]]:
        """Reserved, learned and defined ones, by name, with the number of members."""
        return self._session.items(dict[str, Any], "/v1/groups")

    def members(self, group: str) -> list[dict[str, Any]]:
        """Containers, or of the group nodes the hosts. ApiError 404: there is no such group."""
        return self._session.items(dict[str, Any], f"/v1/groups/{quote(group, safe='')}/members")
