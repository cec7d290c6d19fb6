"""The requests of a pod's kill. Kubernetes API concepts, core/v1 Pod, meta/v1 DeleteOptions, policy/v1.

What comes of each request that is here, rbac.py must allow.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from quell.controller.kubernetes.answers import refused
from quell.controller.kubernetes.budgets import Budget
from quell.controller.kubernetes.credentials import Access, Credentials
from quell.controller.kubernetes.pods import Pod

#: Budgets of one request.
_PAGE = 250
#: Requests at a time, so that many kills are no load to speak of for the API.
_AT_ONCE = 8
#: The API lets no request run longer than a minute; for these a second is long.
_TIMEOUT = httpx.Timeout(10.0)


class _ListMetadata(Struct, frozen=True):
    # The word is Python's, so the field has another name.
    rest: str | None = msgspec.field(default=None, name="continue")


class _Budgets(Struct, frozen=True):
    metadata: _ListMetadata
    items: tuple[Budget, ...] | None


_pod = msgspec.json.Decoder(Pod)
_budgets = msgspec.json.Decoder(_Budgets)


class PodApi:
    """Raises Refused for an answer that is an error, and CredentialsError, httpx.HTTPError, msgspec.MsgspecError, OSError
    where there is none of use. Namespaces and names must be such (pods.nameless).
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._access: Access | None = None
        self._client: httpx.AsyncClient | None = None
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def cluster(self) -> str | None:
        """As events name it; None: it has no name."""
        return (await self._credentials.current()).cluster

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """None: there is none of this name."""
        response = await self._ask("GET", _path(namespace, name))
        if response.status_code != 200:
            error = refused("get", "pods", response)
            if error.says_gone(name):
                return None
            raise error
        return _pod.decode(response.content)

    async def budgets(self, namespace: str) -> list[Budget]:
        found: list[Budget] = []
        path = f"/apis/policy/v1/namespaces/{quote(namespace, safe='')}/poddisruptionbudgets"
        parameters = {"limit": str(_PAGE)}
        while True:
            response = await self._ask("GET", path, params=parameters)
            if response.status_code != 200:
                raise refused("list", "poddisruptionbudgets", response)
            page = _budgets.decode(response.content)
            found += page.items or ()
            if not page.metadata.rest:
                return found
            parameters["continue"] = page.metadata.rest

    async def delete(self, namespace: str, name: str, *, uid: str, grace: int, dry_run: bool = False) -> int:
        """Of the pod with this uid and no other. Returns the HTTP status of success; grace: seconds. dry_run: the API checks
        all that it would, and deletes nothing.

        All options stand in the body: where there is one the API ignores those of the query, a dry run's too. The resource
        version is no condition, since nothing that was looked at changes while the uid stays.
        """
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace,
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if dry_run:
            options["dryRun"] = ["All"]
        response = await self._ask("DELETE", _path(namespace, name), content=msgspec.json.encode(options))
        if not response.is_success:
            raise refused("delete", "pods", response)
        return response.status_code

    def not_taken(self) -> None:
        """The API did not take the credentials (401): they are read again."""
        if self._access is not None:
            self._credentials.refused(self._access)

    async def close(self) -> None:
        client, self._client, self._access = self._client, None, None
        if client is not None:
            await client.aclose()

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        access = await self._credentials.current()
        client = await self._connected(access)
        headers = {"Content-Type": "application/json"} if "content" in options else {}
        request = client.build_request(
            method, path, headers=headers, extensions=access.extensions(), timeout=_TIMEOUT, **options
        )
        async with self._turns:
            return await client.send(request)

    async def _connected(self, access: Access) -> httpx.AsyncClient:
        former = self._client
        if former is not None and access is self._access:
            return former
        client = access.client()
        self._access, self._client = access, client
        if former is not None:
            await former.aclose()
        return client


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
